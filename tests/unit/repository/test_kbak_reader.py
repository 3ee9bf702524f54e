"""Segments of OSO kafka-backup: what went in comes out, and what is damaged is an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from kbr.errors import CorruptSegment, IntegrityError, KbrError, StoreUnavailable, UnsupportedFormat
from kbr.format.kbak import without_added_headers
from kbr.format.oso_manifest import oso_document, parse_oso_manifest
from kbr.format.oso_names import segment_compression
from kbr.model import SegmentRef
from kbr.repository import kbak_reader
from kbr.repository.kbak_reader import KbakReader
from kbr.repository.open_segment import open_segment, reading_bytes, side_by_side, wanted_blocks
from kbr_codec import Record, decode_block
from tests.support.backups import RecordingStore, block_of, identity_of, write_segment
from tests.support.kbak import (
    OsoBackup,
    Row,
    compressed,
    header_bytes,
    record_bytes,
    rows_of,
    sealed,
    segment_bytes,
)

COMPRESSIONS = ["zstd", "lz4", "none"]


def as_record(row: Row) -> Record:
    return Record(row.offset, row.timestamp, 0 if row.timestamp == -1 else 1, row.key, row.value, row.headers)


def backup(rows: Sequence[Row], compression: str = "zstd", **options: object) -> tuple[RecordingStore, SegmentRef]:
    store = RecordingStore()
    one = OsoBackup(store.put, compression=compression, **options)  # type: ignore[arg-type]
    one.topic("orders", 1)
    one.partition("orders", 0, [rows])
    one.finish()
    document = oso_document(store.data("daily/manifest.json"))
    assert document is not None
    (reference,) = parse_oso_manifest(document, name="m").topics[0].partitions[0].segments
    store.calls.clear()
    store.ranges.clear()
    return store, reference


def read(store: RecordingStore, reference: SegmentRef, *, limit: int = 1 << 28) -> list[Record]:
    reader = open_segment(store, "daily", reference, max_block_bytes=limit)
    return [record for _, block in wanted_blocks(reader, lambda _: True) for record in decode_block(block)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("cluster", [None, "east"])
def test_records_come_back_as_they_were_at_the_source(compression: str, cluster: str | None) -> None:
    rows = rows_of(100, 500, step=3)
    store, reference = backup(rows, compression, cluster=cluster)
    assert read(store, reference) == [as_record(row) for row in rows]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read twice"])
def test_blocks_can_be_read_in_any_order(
    compression: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 2000)
    if not kept:
        monkeypatch.setattr(kbak_reader, "KEPT_BYTES", 0)
        monkeypatch.setattr(kbak_reader, "_READ_BYTES", 999)
    rows = rows_of(0, 300)
    store, reference = backup(rows, compression)
    reader = open_segment(store, "daily", reference)
    entries = reader.index().blocks
    assert len(entries) > 10
    assert sum(entry.record_count for entry in entries) == 300
    assert sum(entry.raw_bytes for entry in entries) == reference.raw_bytes
    assert all(a.position + a.raw_bytes == b.position for a, b in zip(entries, entries[1:]))
    expected = [as_record(row) for row in rows]
    for chosen in (entries, entries[::-1], entries[3:5], (entries[7], entries[2], entries[2], entries[9])):
        found = list(reader.read_blocks(chosen))
        assert [entry for entry, _ in found] == list(chosen)
        for entry, block in found:
            records = decode_block(block)
            assert records == [one for one in expected if entry.first_offset <= one.offset <= entry.last_offset]
            stamps = [one.timestamp for one in records]
            assert (entry.min_timestamp, entry.max_timestamp) == (min(stamps), max(stamps))
    wanted = list(wanted_blocks(reader, lambda entry: entry.last_offset >= 200))
    assert [entry for entry, _ in wanted] == [entry for entry in entries if entry.last_offset >= 200]


def test_a_segment_is_read_once_when_it_is_small_and_kept() -> None:
    store, reference = backup(rows_of(0, 50))
    reader = KbakReader(store, "daily", reference)
    for _ in range(3):
        assert len(list(reader.stream(lambda _: True))) == 1
        assert len(reader.index().blocks) == 1
    assert store.ranges == [(0, reference.stored_bytes - 8), (reference.stored_bytes - 8, 8)]


def test_blocks_ahead_of_one_another_are_one_decompression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 1000)
    begun = []
    real = kbak_reader.open_body
    monkeypatch.setattr(kbak_reader, "open_body", lambda *args, **more: begun.append(1) or real(*args, **more))
    store, reference = backup(rows_of(0, 200))
    reader = KbakReader(store, "daily", reference)
    for entry in reader.index().blocks:
        list(reader.read_blocks([entry]))
    assert len(begun) == 2  # the index, and all of the blocks


def test_an_opened_segment_of_kbrs_own_is_its_reader() -> None:
    store = RecordingStore()
    reference = write_segment(store, identity_of(), [block_of(0, 10), block_of(10, 10)], 20)
    reader = open_segment(store, "nightly", reference)
    found = list(wanted_blocks(reader, lambda entry: entry.first_offset >= 10))
    assert [block for _, block in found] == [block_of(10, 10)]
    assert reading_bytes(reference) == 0


def test_memory_of_a_reader_is_told_for_a_whole_lz4_block() -> None:
    _, zstd = backup(rows_of(0, 50), "zstd")
    _, lz4 = backup(rows_of(0, 50), "lz4")
    assert reading_bytes(replace(zstd, raw_bytes=1 << 30)) < 1 << 25
    assert reading_bytes(replace(lz4, raw_bytes=1 << 30)) > 1 << 30
    assert side_by_side([zstd, lz4], 8) == 8
    assert side_by_side([zstd, replace(lz4, raw_bytes=50 << 20)], 8) == 2
    assert side_by_side([replace(lz4, raw_bytes=1 << 30), zstd], 8) == 1
    store = RecordingStore()
    assert side_by_side([write_segment(store, identity_of(), [block_of(0, 10)], 10)], 8) == 8
    assert side_by_side([], 8) == 8


# -- headers ------------------------------------------------------------------------------


def test_only_the_last_added_headers_are_stripped() -> None:
    own = (b"x-original-offset", struct.pack("<q", 7))
    added = (
        (b"x-original-offset", struct.pack("<q", 7)),
        (b"x-original-timestamp", struct.pack("<q", 5)),
        (b"x-source-cluster", b"east"),
    )
    rest = ((b"x-source-cluster", b"mine"), own, (b"h", None))
    assert without_added_headers((*rest, *added), 7, 5) == rest
    # no cluster's name was added: the one that is there is the record's own
    assert without_added_headers((*rest, *added[:2]), 7, 5) == rest
    assert without_added_headers((rest[0], *added[1:]), 7, 5) == rest[:1]
    assert without_added_headers(added, 7, 5) == ()


def test_headers_of_a_backup_that_added_none_are_kept() -> None:
    # another offset: the record brought it along
    headers = ((b"x-original-offset", b"1234"), (b"x-original-timestamp", b"12345678"), (b"x-source-cluster", b"west"))
    assert without_added_headers(headers, 7, 5) == headers
    rows = [Row(7, 5, b"k", b"v", headers)]
    store, reference = backup(rows, added=False)
    assert read(store, reference) == [as_record(rows[0])]


@pytest.mark.parametrize("timestamp", [-1, 0, 2**62, -(2**63)])
def test_any_timestamp_is_read(timestamp: int) -> None:
    rows = [Row(2**62, timestamp, None, None)]
    store, reference = backup(rows, "none")
    assert read(store, reference) == [as_record(rows[0])]


# -- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_flipped_byte_is_an_error(compression: str) -> None:
    store, reference = backup(rows_of(0, 8, size=2), compression)
    key = f"daily/{reference.key}"
    data = store.data(key)
    for position in range(len(data)):
        for mask in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[position] ^= mask
            store.put(key, bytes(damaged))
            with pytest.raises((CorruptSegment, UnsupportedFormat)) as caught:
                read(store, reference)
            assert key in str(caught.value)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_truncation_is_an_error(compression: str) -> None:
    store, reference = backup(rows_of(0, 8, size=2), compression)
    key = f"daily/{reference.key}"
    data = store.data(key)
    for size in range(len(data)):
        store.put(key, data[:size])
        with pytest.raises(CorruptSegment, match=f"{size} bytes instead of"):
            read(store, reference)
        with pytest.raises(CorruptSegment):
            read(store, replace(reference, stored_bytes=size))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_body_that_is_cut_and_summed_anew_is_an_error(compression: str) -> None:
    rows = rows_of(0, 20, size=2)
    body = b"".join(record_bytes(row) for row in rows)
    store, reference = backup(rows, compression)
    key = f"daily/{reference.key}"
    stored = compressed(body, compression)
    for size in range(0, len(stored), 3):
        data = sealed(header_bytes(20, 0, 19, compression), stored[:size])
        if compression == "zstd" and size >= len(stored) - 3:
            continue  # nothing but the frame's end is missing
        store.put(key, data)
        with pytest.raises(CorruptSegment):
            read(store, replace(reference, stored_bytes=len(data)))


def test_a_missing_segment_is_said_to_be_listed() -> None:
    store, reference = backup(rows_of(0, 3))
    store.delete(f"daily/{reference.key}")
    with pytest.raises(IntegrityError, match="not there, but the manifest lists it"):
        read(store, reference)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_store_that_fails_on_the_way_is_no_damage(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kbak_reader, "KEPT_BYTES", 0)
    monkeypatch.setattr(kbak_reader, "_READ_BYTES", 500)
    store, reference = backup(rows_of(0, 100), compression)
    reader = KbakReader(store, "daily", reference)
    reader.check()
    store.ranges.clear()
    assert sum(entry.record_count for entry, _ in reader.stream(lambda _: True)) == 100
    reads = len(store.ranges)
    assert reads > 2
    real = store.read_range
    for number in range(reads):
        left = iter([True] * number)

        def fails(key: str, start: int, length: int, left: Iterator[bool] = left) -> bytes:
            if not next(left, False):
                raise StoreUnavailable("away")
            return real(key, start, length)

        monkeypatch.setattr(store, "read_range", fails)
        with pytest.raises(StoreUnavailable):
            list(reader.stream(lambda _: True))
        monkeypatch.undo()
        monkeypatch.setattr(kbak_reader, "KEPT_BYTES", 0)
        monkeypatch.setattr(kbak_reader, "_READ_BYTES", 500)


def _put(store: RecordingStore, reference: SegmentRef, data: bytes, **more: object) -> SegmentRef:
    store.put(f"daily/{reference.key}", data)
    return replace(reference, stored_bytes=len(data), **more)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"record_count": 4}, "record count 5, the manifest 4"),
        ({"start_offset": 1}, "first offset 0, the manifest 1"),
        ({"end_offset": 5}, "last offset 4, the manifest 5"),
        ({"key": "topics/orders/partition=0/segment-00000000000000000000.bin"}, "compression zstd, the manifest none"),
        ({"raw_bytes": 1000}, "the manifest says 1000"),
        ({"raw_bytes": 200}, "behind the 200 bytes|claims"),
    ],
)
def test_a_segment_is_the_one_that_the_manifest_says(changes: dict[str, object], words: str) -> None:
    store, reference = backup(rows_of(0, 5, size=3))
    other = replace(reference, **changes)
    store.put(f"daily/{other.key}", store.data(f"daily/{reference.key}"))
    with pytest.raises(CorruptSegment, match=words):
        read(store, other)


def test_a_header_that_counts_wrongly_is_an_error() -> None:
    rows = rows_of(0, 5)
    body = b"".join(record_bytes(row) for row in rows)
    store, reference = backup(rows, "none")
    for count, first, last, words in (
        (4, 0, 4, "more than the 4 records"),
        (5, 0, 5, "5 records up to offset 4"),
        (5, 0, 7, "5 records up to offset 4"),
        (1, 3, 4, "first record has offset 0"),
    ):
        other = _put(
            store,
            reference,
            sealed(header_bytes(count, first, last, "none"), body),
            record_count=count,
            start_offset=first,
            end_offset=last,
        )
        with pytest.raises(CorruptSegment, match=words):
            read(store, other)


@pytest.mark.parametrize("header", [{"version": 2}, {"reserved": 1}])
def test_another_version_is_not_read(header: dict[str, int]) -> None:
    store, reference = backup(rows_of(0, 2), "none")
    body = b"".join(record_bytes(row) for row in rows_of(0, 2))
    other = _put(store, reference, sealed(header_bytes(2, 0, 1, "none", **header), body))
    with pytest.raises(UnsupportedFormat, match="reads version 1"):
        read(store, other)


def test_offsets_have_to_rise() -> None:
    rows = [Row(0, 1, None, None), Row(3, 1, None, None), Row(3, 1, None, None)]
    store, reference = backup(rows_of(0, 4), "none")
    data = sealed(header_bytes(3, 0, 3, "none"), b"".join(record_bytes(row) for row in rows))
    other = _put(store, reference, data, record_count=3, raw_bytes=sum(len(record_bytes(row)) for row in rows))
    with pytest.raises(CorruptSegment, match="offset 3 does not rise after 3"):
        read(store, other)


# -- claims -------------------------------------------------------------------------------


def test_a_claim_costs_nothing() -> None:
    import tracemalloc

    huge = 10_000_000_000
    cases = {
        "a record": ("none", struct.pack("<I", 2**32 - 1) + b"x" * 60),
        "a key": ("none", struct.pack("<I", 60) + struct.pack("<qqi", 1, 0, 2**31 - 1) + b"x" * 40),
        "a header": ("none", struct.pack("<I", 40) + struct.pack("<qqiiH", 1, 0, -1, -1, 65535) + b"x" * 14),
        "lz4": ("lz4", struct.pack("<I", 2**32 - 1) + b"x" * 60),
        "zstd": ("zstd", compressed(b"\0" * 50_000_000, "zstd")),
    }
    for what, (compression, body) in cases.items():
        store, reference = backup(rows_of(0, 2), compression)
        data = sealed(header_bytes(2, 0, 1, compression), body)
        for raw in (huge, 2**32 - 1):
            other = _put(store, reference, data, raw_bytes=raw)
            tracemalloc.start()
            with pytest.raises(KbrError):
                read(store, other, limit=1 << 20)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 20_000_000, what


def test_an_lz4_block_within_the_limit_still_has_to_fit_its_bytes() -> None:
    store, reference = backup(rows_of(0, 2), "lz4")
    raw = 200_000_000
    data = sealed(header_bytes(2, 0, 1, "lz4"), struct.pack("<I", raw) + b"\x10" * 80)
    other = _put(store, reference, data, raw_bytes=raw)
    with pytest.raises(CorruptSegment, match=f"80 bytes can't hold {raw}"):
        read(store, other)


def test_a_large_window_is_refused() -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=0)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    rows = rows_of(0, 2)
    body = b"".join(record_bytes(row) for row in rows)
    stored = stream.compress(body) + stream.flush()
    store, reference = backup(rows)
    other = _put(store, reference, sealed(header_bytes(2, 0, 1, "zstd"), stored))
    with pytest.raises(CorruptSegment, match="zstd frame is damaged"):
        read(store, other)


def test_a_record_beyond_the_limit_names_the_setting() -> None:
    rows = [Row(0, 1, b"k", b"x" * 100_000)]
    for compression, words in (("zstd", "a record of"), ("lz4", "an LZ4 block of")):
        store, reference = backup(rows, compression)
        with pytest.raises(CorruptSegment, match=words) as caught:
            read(store, reference, limit=50_000)
        assert "max_block_bytes" in f"{caught.value} {caught.value.hint}"
        assert read(store, reference, limit=200_000) == [as_record(rows[0])]


def test_what_changes_between_two_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kbak_reader, "KEPT_BYTES", 0)
    store, reference = backup(rows_of(0, 20), "none")
    reader = KbakReader(store, "daily", reference)
    reader.check()
    changed = [row._replace(value=b"X" * len(row.value or b"")) if row.value else row for row in rows_of(0, 20)]
    store.put(f"daily/{reference.key}", segment_bytes(changed, "none")[0])
    with pytest.raises(CorruptSegment, match="changed while it was read"):
        list(reader.stream(lambda _: False))


def test_names_tell_the_compression() -> None:
    assert segment_compression("segment-000001.bin.zst") is not None
    assert segment_compression("segment-00000000000000000000.zst") is None
