"""Encrypted objects: every way to alter one is found, and what is read of one is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import IntegrityError, KbrError, SealBroken, StorageError
from kbr.format.crypto import object_cipher
from kbr.format.data_keys import DataKey, KeySecrets
from kbr.format.envelope import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SEALED_CHUNK_BYTES,
    key_info,
    new_header,
    plain_bytes,
    sealed_bytes,
)
from kbr.repository.backup_keys import Trust
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.repository.sealing import begin_backup
from kbr.repository.segment_reader import SegmentReader
from tests.support.backups import RecordingStore, store_backup
from tests.support.sealed_reader import open_object

KEY = DataKey.of(bytes(range(32)))
OTHER_KEY = DataKey.of(bytes(32))
#: Around the edges of chunks, in plain bytes.
SIZES = sorted({max(0, CHUNK_BYTES * chunks + more) for chunks in (0, 1, 2, 3) for more in (-17, -16, -1, 0, 1, 16, 17)})


def new_store() -> tuple[RecordingStore, SealedStore]:
    inner = RecordingStore()
    return inner, seal_over(inner, Trust(), known={"b": KEY, "c": KEY, "other": OTHER_KEY})


def content(size: int) -> bytes:
    return bytes(number * 31 % 251 for number in range(min(size, 5000))) * (size // 5000 + 1)


def plain(size: int) -> bytes:
    return content(size)[:size]


def assert_refused(store: SealedStore, key: str, size: int) -> None:
    """Nothing of what is damaged is given out, and the error names the object."""
    for read in (
        lambda: store.get(key, max_bytes=size + 2 * CHUNK_BYTES),
        lambda: store.read_range(key, 0, size),
    ):
        with pytest.raises((IntegrityError, StorageError)) as caught:
            read()
        assert key in str(caught.value)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_whatever_its_size(size: int) -> None:
    inner, store = new_store()
    data = plain(size)
    assert store.put("b/x", data).size_bytes == size
    assert len(inner.data("b/x")) == sealed_bytes(size)
    assert plain_bytes(sealed_bytes(size)) == size
    assert store.get("b/x", max_bytes=size) == data
    assert store.read_range("b/x", 0, size) == data
    assert store.head("b/x").size_bytes == size
    assert [info.size_bytes for info in store.list("b/")] == [size]
    # by a reader that was written from the format page alone
    assert open_object(inner.data("b/x"), KEY.secret, "b", "x") == data


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=6), st.data())
def test_pieces_of_any_size_are_one_object_and_any_range_of_it_is_read(sizes: list[int], draw: st.DataObject) -> None:
    inner, store = new_store()
    data = plain(sum(sizes))
    upload = store.open_upload("b/up")
    at = 0
    for size in sizes:
        upload.write(memoryview(data)[at : at + size])
        at += size
    assert upload.commit().size_bytes == len(data)
    assert open_object(inner.data("b/up"), KEY.secret, "b", "up") == data
    for _ in range(4):
        start = draw.draw(st.integers(0, len(data)))
        length = draw.draw(st.integers(0, len(data) - start))
        assert store.read_range("b/up", start, length) == data[start : start + length]
    with pytest.raises(StorageError):
        store.read_range("b/up", len(data), 1)


@pytest.mark.parametrize("size", [0, 1, 40])
def test_every_flipped_bit_is_found(size: int) -> None:
    inner, store = new_store()
    store.put("b/x", plain(size))
    for position in range(len(inner.data("b/x"))):
        for bit in (1, 0x80):
            inner.flip("b/x", position, bit)
            with pytest.raises(KbrError) as caught:
                store.get("b/x", max_bytes=size)
            assert "b/x" in str(caught.value)
            inner.flip("b/x", position, bit)
    assert store.get("b/x", max_bytes=size) == plain(size)


@pytest.mark.parametrize("size", [0, 1, 40, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 100])
def test_an_object_that_is_cut_off_anywhere_is_refused(size: int) -> None:
    inner, store = new_store()
    store.put("b/x", plain(size))
    whole = inner.data("b/x")
    edges = {HEADER_BYTES + chunks * SEALED_CHUNK_BYTES + more for chunks in range(3) for more in range(-20, 20)}
    lengths = range(len(whole)) if len(whole) < 200 else sorted(one for one in edges | {0, 1} if 0 <= one < len(whole))
    for length in lengths:
        inner.put("b/x", whole[:length])
        with pytest.raises((SealBroken, StorageError)) as caught:
            store.get("b/x", max_bytes=size)
        assert "b/x" in str(caught.value)


def test_bytes_behind_the_end_are_found() -> None:
    inner, store = new_store()
    store.put("b/x", plain(100))
    for more in (b"\x00", bytes(16), bytes(SEALED_CHUNK_BYTES)):
        whole = inner.data("b/x")
        inner.put("b/x", whole + more)
        assert_refused(store, "b/x", 100)
        inner.put("b/x", whole)


@pytest.mark.parametrize("change", ["swapped", "doubled", "left out", "first only", "last only"])
def test_chunks_in_another_order_are_found(change: str) -> None:
    inner, store = new_store()
    data = plain(3 * CHUNK_BYTES)
    store.put("b/x", data)
    whole = inner.data("b/x")
    head, body = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
    one, two, three = (body[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(body), SEALED_CHUNK_BYTES))
    chunks = {
        "swapped": [two, one, three],
        "doubled": [one, one, two, three],
        "left out": [one, three],
        "first only": [one],
        "last only": [three],
    }[change]
    inner.put("b/x", head + b"".join(chunks))
    assert_refused(store, "b/x", CHUNK_BYTES * len(chunks))


@pytest.mark.parametrize(
    ("source", "target"), [("b/x", "b/y"), ("b/x", "c/x"), ("b/x", "other/x"), ("b/topics/t", "b/topics/u")]
)
def test_an_object_that_was_put_in_another_ones_place_is_found(source: str, target: str) -> None:
    """Even of the same data key, as a backup is copied with its keys."""
    inner, store = new_store()
    store.put(source, plain(1000))
    store.put(target, plain(1000))
    inner.put(target, inner.data(source))
    assert_refused(store, target, 1000)


def test_an_empty_chunk_behind_a_full_one_is_refused_although_its_tags_fit() -> None:
    """Else two objects of different sizes would hold the same bytes."""
    inner, store = new_store()
    header = new_header(KEY.key_id)
    cipher = object_cipher(KEY.secret, salt=header.salt, info=key_info(header, b"", backup_id="b", path="x"))
    chunks = (cipher.seal(0, plain(CHUNK_BYTES), last=False), cipher.seal(1, b"", last=True))
    inner.put("b/x", b"".join((header.to_bytes(), *chunks)))
    with pytest.raises(SealBroken):
        store.get("b/x", max_bytes=2 * CHUNK_BYTES)


def test_blocks_of_a_segment_are_read_without_a_look_at_its_size() -> None:
    inner = RecordingStore()
    store = seal_over(inner, Trust(secrets=KeySecrets(key=bytes(32))))
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    reference = manifest.topics[1].partitions[0].segments[0]
    inner.calls.clear()
    reader = SegmentReader(store, "nightly", reference)
    assert len(list(reader.read_blocks(reader.index().blocks))) == 3
    assert "head" not in [operation for operation, _key in inner.calls]


def test_an_older_version_of_an_object_is_what_it_was() -> None:
    """What encryption does not find: docs/how-to/encryption.md says so."""
    inner, store = new_store()
    store.put("b/x", b"first")
    first = inner.data("b/x")
    store.put("b/x", b"second")
    inner.put("b/x", first)
    assert store.get("b/x", max_bytes=10) == b"first"


def test_a_plain_object_in_an_encrypted_backup_is_refused() -> None:
    inner, store = new_store()
    inner.put("b/x", b"planted")
    assert_refused(store, "b/x", 7)


def test_no_two_writings_of_the_same_bytes_are_alike() -> None:
    inner, store = new_store()
    seen = set()
    for _ in range(20):
        store.put("b/x", plain(100))
        whole = inner.data("b/x")
        seen.add(whole[HEADER_BYTES:])
    assert len(seen) == 20


def test_a_range_takes_only_the_chunks_that_hold_it() -> None:
    inner, store = new_store()
    size = 100 * CHUNK_BYTES + 5
    store.put("b/x", plain(size))
    store.note_size("b/x", size)
    inner.calls.clear()
    inner.ranges.clear()
    assert store.read_range("b/x", 50 * CHUNK_BYTES + 10, 20) == plain(size)[50 * CHUNK_BYTES + 10 :][:20]
    assert store.read_range("b/x", 50 * CHUNK_BYTES - 1, 2) == plain(size)[50 * CHUNK_BYTES - 1 :][:2]
    assert store.read_range("b/x", size - 1, 1) == plain(size)[-1:]
    # the header once, and no look at the size that was told
    assert [operation for operation, _key in inner.calls] == ["read_range"] * 4
    assert [length for _start, length in inner.ranges] == [HEADER_BYTES, SEALED_CHUNK_BYTES, 2 * SEALED_CHUNK_BYTES, 21]


def test_an_object_that_was_replaced_between_two_reads_is_read_as_it_is_now() -> None:
    inner, store = new_store()
    writer = seal_over(inner, Trust(), known={"b": KEY})
    writer.put("b/x", plain(100))
    assert store.read_range("b/x", 0, 10) == plain(10)
    writer.put("b/x", b"z" * 5000)
    assert store.read_range("b/x", 0, 10) == b"z" * 10
    assert store.read_range("b/x", 4990, 10) == b"z" * 10


def test_what_came_damaged_once_is_read_again() -> None:
    inner, store = new_store()
    store.put("b/x", plain(100))
    real, flips = inner.get, iter([True, False])

    def get(key: str, *, max_bytes: int) -> bytes:
        data = bytearray(real(key, max_bytes=max_bytes))
        if next(flips):
            data[80] ^= 1
        return bytes(data)

    inner.get = get
    assert store.get("b/x", max_bytes=100) == plain(100)


@given(st.binary(max_size=300))
def test_any_bytes_in_an_objects_place_are_one_clear_error(data: bytes) -> None:
    inner, store = new_store()
    for begin in (b"", b"KBROBJv1", b"KBROBJv2", b"KBROBJv1" + KEY.key_id):
        inner.put("b/x", begin + data)
        for read in (lambda: store.get("b/x", max_bytes=1000), lambda: store.read_range("b/x", 0, 1)):
            with pytest.raises(KbrError) as caught:
                read()
            assert "b/x" in str(caught.value)


def test_a_wrong_hint_of_a_size_does_no_harm() -> None:
    _inner, store = new_store()
    store.put("b/x", plain(200_000))
    for hint in (1, 65_536, 199_999, 200_001, 2**40):
        store.note_size("b/x", hint)
        assert store.read_range("b/x", 199_990, 10) == plain(200_000)[-10:]


def test_locks_and_keys_are_never_sealed() -> None:
    inner, store = new_store()
    for key in ("b/locks/x.json", f"b/restores/{'0' * 32}/locks/x.json", "b/keys.json", "root", "not a backup!/x"):
        store.put(key, b"open")
        assert inner.data(key) == b"open"
        assert store.get(key, max_bytes=4) == b"open"
