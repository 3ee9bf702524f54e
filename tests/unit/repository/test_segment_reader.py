"""SegmentReader: few requests, and nothing that is damaged or misplaced gets through."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from kbr.errors import (
    AccessDenied,
    CorruptSegment,
    IntegrityError,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    UnsupportedFormat,
)
from kbr.format.compression import BlockCompressor
from kbr.format.segment import BlockEntry
from kbr.model import Compression, SegmentRef
from kbr.repository.segment_reader import MAX_BRIDGE_BYTES, MAX_RANGE_BYTES, SMALL_SEGMENT_BYTES, SegmentReader
from kbr.repository.segment_writer import SegmentWriter
from kbr_codec import Record, decode_block, encode_block, scan_block
from tests.support.backups import RecordingStore, block_of, identity_of, write_segment

KEY = "nightly/topics/orders/partition=0/segment-00000000000000000100.zst"


def stored(store: RecordingStore, compression: Compression = Compression.ZSTD) -> tuple[SegmentRef, list[bytes]]:
    blocks = [block_of(100 + i * 20, 20) for i in range(5)]
    reference = write_segment(store, identity_of(sequence=100, compression=compression), blocks, 200)
    store.calls.clear()
    return reference, blocks


@pytest.mark.parametrize("compression", list(Compression))
def test_blocks_come_back_as_they_were(compression: Compression) -> None:
    store = RecordingStore()
    reference, blocks = stored(store, compression)
    reader = SegmentReader(store, "nightly", reference)
    entries = reader.index().blocks
    assert list(reader.read_blocks(entries)) == list(zip(entries, blocks, strict=True))


def test_a_segment_can_be_read_by_its_key_alone() -> None:
    store = RecordingStore()
    reference, blocks = stored(store)
    reader = SegmentReader(store, "nightly", reference.key)
    assert [block for _, block in reader.read_blocks(reader.index().blocks)] == blocks
    assert [operation for operation, _ in store.calls] == ["head", "read_range"]


def test_a_small_segment_is_read_whole_by_one_request() -> None:
    store = RecordingStore()
    reference, blocks = stored(store)
    reader = SegmentReader(store, "nightly", reference)
    entries = reader.index().blocks
    assert [block for _, block in reader.read_blocks(entries)] == blocks
    assert [block for _, block in reader.read_blocks(entries[3:4])] == blocks[3:4]
    assert store.ranges == [(0, reference.stored_bytes)]


def test_the_index_is_read_once_and_without_a_head_when_the_size_is_known() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    reader = SegmentReader(store, "nightly", reference)
    assert reader.key == KEY
    assert reader.index() is reader.index()
    assert [operation for operation, _ in store.calls] == ["read_range"]


def test_the_index_frame_is_what_follows_the_last_frame() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    for segment in (reference, reference.key):
        reader = SegmentReader(store, "nightly", segment)
        data = store.data(KEY)
        assert reader.index_frame() == data[reader.index().index_position :]


def test_an_index_longer_than_the_first_tail_is_read_with_one_more_request() -> None:
    store = RecordingStore()
    blocks = [encode_block([Record(i, i, 1, None, b"v", ())]) for i in range(6000)]
    identity = identity_of(compression=Compression.NONE)
    reference = write_segment(store, identity, blocks, 6000)
    store.calls.clear()
    assert len(SegmentReader(store, "nightly", reference.key).index().blocks) == 6000
    assert [operation for operation, _ in store.calls] == ["head", "read_range", "read_range"]
    store.calls.clear()
    assert len(SegmentReader(store, "nightly", reference).index().blocks) == 6000
    assert [operation for operation, _ in store.calls] == ["read_range"]


# -- ranges -------------------------------------------------------------------------------


def large(store: RecordingStore, count: int, size: int) -> SegmentReader:
    """A segment of blocks that compression can't change."""
    noise = random.Random(7)
    blocks = [encode_block([Record(i, i, 1, None, noise.randbytes(size), ())]) for i in range(count)]
    reference = write_segment(store, identity_of(compression=Compression.NONE), blocks, count)
    reader = SegmentReader(store, "nightly", reference)
    reader.index()
    store.ranges.clear()
    return reader


def test_neighbours_come_by_one_request() -> None:
    store = RecordingStore()
    reader = large(store, 10, 2 * SMALL_SEGMENT_BYTES)
    entries = reader.index().blocks
    assert len(list(reader.read_blocks(entries[2:7]))) == 5
    start, end = entries[2].position, entries[7].position
    assert store.ranges == [(start, end - start)]


def test_small_spaces_are_bridged_and_large_ones_are_not() -> None:
    store = RecordingStore()
    reader = large(store, 9, MAX_BRIDGE_BYTES // 2)
    entries = reader.index().blocks
    chosen = [entries[0], entries[2], entries[5], entries[6]]
    assert [entry for entry, _ in reader.read_blocks(chosen)] == chosen
    assert len(store.ranges) == 2
    assert store.ranges[0][0] == entries[0].position
    assert sum(store.ranges[0]) == entries[3].position
    assert store.ranges[1][0] == entries[5].position
    assert sum(store.ranges[1]) == entries[7].position


def test_a_range_is_bounded_but_for_a_single_frame() -> None:
    store = RecordingStore()
    reader = large(store, 3, MAX_RANGE_BYTES * 3 // 5)
    assert len(list(reader.read_blocks(reader.index().blocks))) == 3
    assert [length for _, length in store.ranges] == [entry.stored_bytes for entry in reader.index().blocks]
    store = RecordingStore()
    reader = large(store, 2, MAX_RANGE_BYTES + 5)
    assert len(list(reader.read_blocks(reader.index().blocks))) == 2
    assert len(store.ranges) == 2


def test_ranges_are_read_when_they_are_needed() -> None:
    store = RecordingStore()
    reader = large(store, 4, MAX_RANGE_BYTES * 3 // 5)
    found = reader.read_blocks(reader.index().blocks)
    next(found)
    assert len(store.ranges) == 1
    next(found)
    assert len(store.ranges) == 2


def test_any_order_is_served() -> None:
    store = RecordingStore()
    reference, blocks = stored(store)
    reader = SegmentReader(store, "nightly", reference)
    entries = list(reader.index().blocks)
    entries.reverse()
    assert [block for _, block in reader.read_blocks(entries)] == blocks[::-1]
    assert not list(reader.read_blocks([]))


# -- damage -------------------------------------------------------------------------------


def test_a_damaged_frame_is_found_before_it_is_decompressed() -> None:
    store = RecordingStore()
    reference, blocks = stored(store)
    entry = SegmentReader(store, "nightly", reference).index().blocks[3]
    store.flip(KEY, entry.position + entry.stored_bytes // 2)
    reader = SegmentReader(store, "nightly", reference)
    found = reader.read_blocks(reader.index().blocks)
    assert [next(found)[1] for _ in range(3)] == blocks[:3]
    with pytest.raises(CorruptSegment, match="CRC-32") as caught:
        next(found)
    assert caught.value.context == {"object": KEY, "position": entry.position}
    assert caught.value.exit_code == 4


def test_a_block_over_the_limit_is_refused_before_it_is_read() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    limit = min(entry.raw_bytes for entry in SegmentReader(store, "nightly", reference).index().blocks)
    reader = SegmentReader(store, "nightly", reference, max_block_bytes=limit - 1)
    reader.index()
    store.ranges.clear()
    with pytest.raises(CorruptSegment, match="allowed") as caught:
        list(reader.read_blocks(reader.index().blocks))
    assert caught.value.context["object"] == KEY
    assert not store.ranges


def test_a_frame_far_larger_than_its_block_is_refused_before_it_is_read() -> None:
    store = RecordingStore()
    reader = large(store, 2, 100_000)
    entry = replace(reader.index().blocks[0], raw_bytes=1000)
    with pytest.raises(CorruptSegment, match="takes"):
        list(reader.read_blocks([entry]))
    assert not store.ranges


@pytest.mark.fault("D3", "a segment, in a restore", promise=9)
def test_a_missing_segment_is_damage_when_the_manifest_lists_it() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    store.delete(KEY)
    with pytest.raises(IntegrityError, match="manifest lists it") as caught:
        SegmentReader(store, "nightly", reference).index()
    assert caught.value.exit_code == 4
    assert caught.value.context["object"] == KEY
    with pytest.raises(ObjectMissing):
        SegmentReader(store, "nightly", reference.key).index()


@pytest.mark.parametrize("cut", [1, 30, 500])
def test_a_truncated_segment_is_said_to_be_so(cut: int) -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    store.put(KEY, store.data(KEY)[:-cut])
    for segment in (reference, reference.key):
        with pytest.raises(CorruptSegment) as caught:
            SegmentReader(store, "nightly", segment).index()
        assert caught.value.context["object"] == KEY
    reader = SegmentReader(store, "nightly", reference)
    with pytest.raises(CorruptSegment, match=f"{reference.stored_bytes - cut} bytes instead of"):
        reader.index()


def test_a_segment_that_shrinks_between_two_reads_is_said_to_be_so() -> None:
    store = RecordingStore()
    reader = large(store, 2, SMALL_SEGMENT_BYTES)
    entries = reader.index().blocks
    store.put(reader.key, b"")
    with pytest.raises(CorruptSegment, match="0 bytes instead of"):
        list(reader.read_blocks(entries))


def test_an_error_of_the_store_stays_one() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    for error in (StoreUnavailable("down"), AccessDenied("no"), StorageError("broken")):
        store.fail["read_range"] = error
        with pytest.raises(type(error)) as caught:
            SegmentReader(store, "nightly", reference).index()
        assert caught.value is error


def test_a_segment_of_a_newer_version_is_not_called_damaged() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    store.put(KEY, store.data(KEY)[:-1] + b"2")
    with pytest.raises(UnsupportedFormat, match="version 2"):
        SegmentReader(store, "nightly", reference).index()


# -- segments in the wrong place ----------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [
        identity_of(sequence=100, backup_id="other"),
        identity_of(sequence=100, topic="others"),
        identity_of(sequence=100, partition=1),
        identity_of(sequence=99),
    ],
)
def test_another_segment_in_its_place_is_refused(identity: object) -> None:
    store = RecordingStore()
    other = RecordingStore()
    write_segment(other, identity, [block_of(100, 20)], 200)  # type: ignore[arg-type]
    store.put(KEY, other.data(other.stored_keys()[0]))
    with pytest.raises(CorruptSegment, match="wrong place") as caught:
        SegmentReader(store, "nightly", KEY.removeprefix("nightly/")).index()
    assert caught.value.context["object"] == KEY


def test_a_segment_that_differs_from_the_manifest_is_refused() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    every: tuple[dict[str, Any], ...] = (
        {"record_count": 99},
        {"next_offset": 201},
        {"block_count": 4},
        {"max_timestamp": 5},
        {"raw_bytes": 1},
        {"max_record_bytes": 1},
    )
    for changes in every:
        with pytest.raises(CorruptSegment, match=next(iter(changes))):
            SegmentReader(store, "nightly", replace(reference, **changes)).index()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "../x",
        "/etc/passwd",
        "manifest.json",
        "topics/../partition=0/segment-0.zst",
        "x\n" * 999,
    ],
)
def test_a_key_from_outside_is_never_used_as_it_is(key: str) -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    for segment in (key, replace(reference, key=key)):
        with pytest.raises(CorruptSegment):
            SegmentReader(store, "nightly", segment)
    assert store.calls == []


def test_a_manifest_that_claims_a_billion_blocks_does_not_make_a_large_read() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    claim = replace(reference, block_count=10**9, stored_bytes=10**12)
    with pytest.raises(CorruptSegment, match="bytes instead of"):
        SegmentReader(store, "nightly", claim).index()
    assert all(length <= 2**20 for _, length in store.ranges)


def test_records_come_out_whole() -> None:
    store = RecordingStore()
    reference, _ = stored(store)
    reader = SegmentReader(store, "nightly", reference)
    offsets: list[int] = []
    entries: list[BlockEntry] = []
    for entry, block in reader.read_blocks(reader.index().blocks):
        offsets += [record.offset for record in decode_block(block)]
        entries.append(entry)
    assert offsets == list(range(100, 200))
    assert all(a.position + a.stored_bytes == b.position for a, b in pairwise(entries))


@pytest.mark.parametrize(("said", "held"), [(1, 3), (3, 1)])
def test_a_block_with_more_or_fewer_records_than_its_index_says_is_never_given_out(said: int, held: int) -> None:
    """A restore would send them."""
    store = RecordingStore()
    block, other = block_of(100, held), block_of(100, said)
    writer = SegmentWriter(store, identity_of(sequence=100))
    writer.append(BlockCompressor(Compression.ZSTD).compress(block), len(block), scan_block(other))
    reader = SegmentReader(store, "nightly", writer.commit(110))
    with pytest.raises(CorruptSegment, match=f"has {held} records from offset 100, the index says {said}"):
        list(reader.read_blocks(reader.index().blocks))
