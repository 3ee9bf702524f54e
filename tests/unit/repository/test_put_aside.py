"""Segments that no manifest lists, where only what is signed counts: put aside whole, and never restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from kbr.errors import AccessDenied, Locked, ObjectMissing, PreconditionFailed, StoreUnavailable
from kbr.format import crypto
from kbr.format.compression import BlockCompressor
from kbr.format.data_keys import KeySecrets
from kbr.maintain.verify import verify
from kbr.model import PartitionStatus, RunStatus, SegmentRef, TopicPartition
from kbr.repository import aside
from kbr.repository.adopt import names_behind, with_unlisted
from kbr.repository.aside import PutAside
from kbr.repository.backup_keys import Trust
from kbr.repository.layout import is_unlisted_path
from kbr.repository.sealed_store import seal_over
from kbr.repository.sealing import begin_backup
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage import ObjectStore
from kbr_codec import scan_block
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    topic_of,
    write_segment,
)

KEY = TopicPartition("orders", 0)
PLACE = "topics/orders/partition=0/segment-{:020d}.zst"
PUBLIC = (crypto.signer_of(hashlib.sha256(b"signer").digest()),)


def three_segments(store: RecordingStore) -> list[SegmentRef]:
    return [
        write_segment(store, identity_of(sequence=first), [block_of(first, 5), block_of(first + 5, 5)], first + 10)
        for first in (0, 10, 20)
    ]


def put_behind(store: ObjectStore, backup_id: str, positions: dict[TopicPartition, int], check_lock: Callable[[], None]) -> PutAside:
    """All that lies behind these positions."""
    return aside.put_aside(store, backup_id, names_behind(store, backup_id, positions), check_lock)


def nobody_else() -> None:
    """The lock is held."""


def contents(store: RecordingStore) -> dict[str, bytes]:
    return {key: store.data(key) for key in store.stored_keys()}


@pytest.mark.parametrize("piece_bytes", [1, 100, 8 << 20])
def test_what_lies_behind_the_listed_segments_is_moved_byte_by_byte(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(aside, "_PIECE_BYTES", piece_bytes)
    store = RecordingStore()
    three_segments(store)
    store.put("nightly/" + PLACE.format(30), b"")
    before = contents(store)
    assert len(names_behind(store, "nightly", {KEY: 10})) == 3
    done = put_behind(store, "nightly", {KEY: 10}, nobody_else)
    assert done == PutAside(tuple(f"nightly/unlisted/1/{PLACE.format(sequence)}" for sequence in (10, 20, 30)))
    assert contents(store) == {
        key.replace("nightly/topics", "nightly/unlisted/1/topics") if f"{0:020d}" not in key else key: data
        for key, data in before.items()
    }
    assert all(is_unlisted_path(key.removeprefix("nightly/")) for key in done.keys)
    assert put_behind(store, "nightly", {KEY: 10}, nobody_else) == PutAside()


def test_what_was_put_aside_before_is_never_replaced() -> None:
    store = RecordingStore()
    key = "nightly/" + PLACE.format(0)
    for data in (b"one", b"two", b"three"):
        store.put(key, data)
        put_behind(store, "nightly", {KEY: 0}, nobody_else)
    assert contents(store) == {
        f"nightly/unlisted/{number}/{PLACE.format(0)}": data for number, data in ((1, b"one"), (2, b"two"), (3, b"three"))
    }


def test_nothing_is_removed_that_is_not_there_once_more_or_by_who_has_lost_the_lock() -> None:
    def lost() -> None:
        raise Locked("another's", hint="wait")

    store = RecordingStore()
    key = "nightly/" + PLACE.format(0)
    store.put(key, b"data")
    with pytest.raises(Locked):
        put_behind(store, "nightly", {KEY: 0}, lost)
    assert store.data(key) == b"data"
    for operation in ("put", "read_range", "list"):
        store = RecordingStore()
        store.put(key, b"data")
        store.fail = {operation: StoreUnavailable("down")}
        with pytest.raises(StoreUnavailable):
            put_behind(store, "nightly", {KEY: 0}, nobody_else)
        store.fail = {}
        assert contents(store) == {key: b"data"}
    store.fail = {"head": ObjectMissing("gone since it was listed")}
    assert put_behind(store, "nightly", {KEY: 0}, nobody_else) == PutAside()


def test_partitions_that_are_not_named_and_listed_segments_are_left_alone() -> None:
    store = RecordingStore()
    three_segments(store)
    before = contents(store)
    for positions in ({KEY: 30}, {}, {TopicPartition("orders", 1): 0}):
        assert put_behind(store, "nightly", positions, nobody_else) == PutAside()
    assert contents(store) == before


def test_what_is_said_names_how_many_and_where_to() -> None:
    one = PutAside(("b/unlisted/1/x",)).told("as it is blue")
    assert one.startswith("put 1 segment aside that no manifest lists, as it is blue: b/unlisted/1/x. ")
    two = PutAside(("b/unlisted/1/x", "y"), frozenset({"x"})).told("as they are")
    assert two.startswith("put 2 segments aside")
    assert "b/unlisted/1/x, ... (1 could not be removed from their places, for lack of a right). " in two


class _NoDelete(RecordingStore):
    """Its user may write and not delete, as a backup's may be."""

    def delete(self, key: str) -> None:
        raise AccessDenied(f"delete of {key}: denied", hint="")


@pytest.mark.parametrize("piece_bytes", [100, 8 << 20])
def test_without_the_right_to_delete_it_is_copied_once_and_a_segment_may_take_its_place(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(aside, "_PIECE_BYTES", piece_bytes)
    store = _NoDelete()
    three_segments(store)
    before = contents(store)
    places = [PLACE.format(sequence) for sequence in (10, 20)]
    for _ in range(2):
        done = put_behind(store, "nightly", {KEY: 10}, nobody_else)
        assert done == PutAside(tuple(f"nightly/unlisted/1/{place}" for place in places), frozenset(places))
    copies = {f"nightly/unlisted/1/{place}": before[f"nightly/{place}"] for place in places}
    assert contents(store) == before | copies
    for sequence in (0, 10):
        writer = SegmentWriter(store, identity_of(sequence=sequence), replaces=done.in_the_way)
        block = block_of(sequence, 3)
        writer.append(BlockCompressor(identity_of().compression).compress(block), len(block), scan_block(block))
        if sequence:
            writer.commit(sequence + 3)
        else:  # one that counts
            with pytest.raises(PreconditionFailed):
                writer.commit(sequence + 3)
    assert store.data(f"nightly/{PLACE.format(0)}") == before[f"nightly/{PLACE.format(0)}"]
    assert store.data(f"nightly/{places[0]}") != before[f"nightly/{places[0]}"]
    # another one of the same place is kept, too
    assert put_behind(store, "nightly", {KEY: 10}, nobody_else).keys[0] == f"nightly/unlisted/2/{places[0]}"


@pytest.mark.parametrize(
    "below",
    ["unlisted/1/x", "unlisted/0/" + PLACE.format(0), "unlisted/" + PLACE.format(0), PLACE.format(0), "x/1/" + PLACE.format(0)],
)
def test_no_other_name_passes_for_one_that_was_put_aside(below: str) -> None:
    assert not is_unlisted_path(below)


def test_verify_tells_what_was_put_aside_and_what_lies_unlisted_in_its_place() -> None:
    store = RecordingStore()
    references = three_segments(store)
    put_behind(store, "nightly", {KEY: 20}, nobody_else)
    entry = partition_of(references[:1], end_offset_exclusive=10, next_offset=10)
    report = verify(store, manifest_of([topic_of("orders", [entry])]))
    assert report.errors == ()
    (in_place, aside) = report.notes
    assert in_place == f"nightly/{PLACE.format(10)} is there, but the manifest does not list it"
    assert aside.startswith(f"nightly/unlisted/1/{PLACE.format(20)} is there, but no manifest listed it when a run put it aside")


@pytest.mark.parametrize("status", RunStatus)
@pytest.mark.parametrize("listed", range(4))
def test_of_a_signed_plain_backup_a_restore_has_what_is_listed_and_one_note_of_the_rest(status: RunStatus, listed: int) -> None:
    inner = RecordingStore()
    references = three_segments(inner)
    entry = partition_of(
        references[:listed], status=PartitionStatus.PARTIAL, start_offset=0, end_offset_exclusive=35, high_watermark=35,
        next_offset=references[listed - 1].next_offset if listed else 0,
    )  # fmt: skip
    manifest = manifest_of([topic_of("orders", [entry])], status=status)
    store = seal_over(inner, Trust(public_keys=PUBLIC))
    inner.calls.clear()
    found, notes = with_unlisted(store, manifest)
    assert found == manifest
    assert "read_range" not in {operation for operation, _key in inner.calls}
    if status is RunStatus.RUNNING and listed < 3:
        (note,) = notes
        assert f"(segments: {3 - listed}, partitions: 1)" in note
        assert "only what is signed is used" in note
    else:
        assert notes == []


def test_segments_that_would_not_follow_are_not_told_of_by_who_would_not_have_taken_them() -> None:
    inner = RecordingStore()
    references = three_segments(inner)
    inner.delete(f"nightly/{references[1].key}")
    entry = partition_of(references[:1], status=PartitionStatus.PARTIAL, end_offset_exclusive=35, high_watermark=35, next_offset=10)
    manifest = manifest_of([topic_of("orders", [entry])], status=RunStatus.RUNNING)
    assert with_unlisted(seal_over(inner, Trust(public_keys=PUBLIC)), manifest) == (manifest, [])


def test_of_a_signed_encrypted_backup_they_are_added_as_the_data_key_proves_them() -> None:
    store = seal_over(RecordingStore(), Trust(public_keys=PUBLIC, secrets=KeySecrets(key=bytes(32))))
    begin_backup(store, "nightly")
    references = three_segments(store)  # type: ignore[arg-type]
    entry = partition_of(references[:1], status=PartitionStatus.PARTIAL, end_offset_exclusive=35, high_watermark=35, next_offset=10)
    whole, notes = with_unlisted(store, manifest_of([topic_of("orders", [entry])], status=RunStatus.RUNNING))
    assert (whole.topics[0].partitions[0].segments, notes) == (tuple(references), [])
