"""read_window: exactly the window's records, out of order or without a timestamp, and no block that can't hold one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from kbr.errors import CorruptSegment, UsageError
from kbr.model import Gap, GapReason, TopicPartition
from kbr.reading.native import NativeArchive
from kbr.reading.records import read_window
from kbr.reading.selecting import gap_notes, select_partitions
from kbr.repository.window import TimeWindow, Window
from kbr_codec import Record, encode_block
from tests.support.backups import (
    RecordingStore,
    identity_of,
    manifest_of,
    partition_of,
    store_backup,
    topic_of,
    write_segment,
)

ORDERS = TopicPartition("orders", 0)
T0 = 1_700_000_000_000
#: So much that a segment is not read whole with its index, and neighbours are not bridged.
LARGE = 300_000


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def archive_of(store: RecordingStore, segments: Sequence[Sequence[Sequence[Record]]]) -> NativeArchive:
    """Segments of blocks of records, one behind the other."""
    references = []
    sequence = 0
    for blocks in segments:
        end = blocks[-1][-1].offset + 1
        references.append(
            write_segment(store, identity_of(sequence=sequence), [encode_block(block) for block in blocks], end)
        )
        sequence = end
    manifest = manifest_of([topic_of("orders", [partition_of(references)])])
    store.calls.clear()
    store.ranges.clear()
    return NativeArchive(store, manifest, max_block_bytes=1 << 28)


def record(offset: int, timestamp: int, size: int = 0) -> Record:
    return Record(offset, timestamp, 0 if timestamp == -1 else 1, b"k", _noise(size) if size else b"v", ())


def offsets(archive: NativeArchive, window: Window, most: int | None = None) -> list[int]:
    return [one.offset for records in read_window(archive, ORDERS, window, most=most) for one in records]


def test_records_that_are_out_of_order_are_found_in_every_block_that_can_hold_them() -> None:
    late, early = T0 + 10_000, T0 - 10_000
    archive = archive_of(
        RecordingStore(),
        [
            [[record(0, T0), record(1, late)], [record(2, T0 + 1), record(3, T0 + 2)]],
            [[record(4, early), record(5, T0 + 3)], [record(6, late + 1), record(7, T0)]],
        ],
    )
    assert offsets(archive, Window(times=TimeWindow(start_ms=T0, end_ms=T0 + 3))) == [0, 2, 3, 5, 7]
    assert offsets(archive, Window(times=TimeWindow(start_ms=late))) == [1, 6]
    assert offsets(archive, Window(times=TimeWindow(end_ms=early))) == [4]


def test_records_without_a_timestamp_are_in_windows_that_are_open_at_their_start_and_in_no_other() -> None:
    archive = archive_of(RecordingStore(), [[[record(0, -1), record(1, T0)], [record(2, -1)]]])
    assert offsets(archive, Window()) == [0, 1, 2]
    assert offsets(archive, Window(times=TimeWindow(end_ms=T0 - 1))) == [0, 2]
    assert offsets(archive, Window(times=TimeWindow(start_ms=0))) == [1]


def test_offset_windows_are_exact_at_both_ends_and_across_holes() -> None:
    archive = archive_of(
        RecordingStore(), [[[record(0, T0), record(3, T0)], [record(4, T0), record(9, T0)]], [[record(12, T0)]]]
    )
    assert offsets(archive, Window(start_offset=3, end_offset_exclusive=9)) == [3, 4]
    assert offsets(archive, Window(start_offset=5)) == [9, 12]
    assert offsets(archive, Window(start_offset=13)) == []
    assert offsets(archive, Window(start_offset=4, end_offset_exclusive=4)) == []


@pytest.mark.parametrize("seed", range(30))
def test_any_window_gives_what_a_look_at_every_record_gives(seed: int) -> None:
    rng = random.Random(seed)
    offset = rng.randrange(3)
    segments: list[list[list[Record]]] = []
    for _ in range(rng.randrange(1, 4)):
        blocks = []
        for _ in range(rng.randrange(1, 4)):
            block = []
            for _ in range(rng.randrange(1, 6)):
                block.append(record(offset, rng.choice([-1, *range(T0, T0 + 12)])))
                offset += rng.choice([1, 1, 1, 4])
            blocks.append(block)
        segments.append(blocks)
    every = [one for blocks in segments for block in blocks for one in block]
    archive = archive_of(RecordingStore(), segments)
    for _ in range(20):
        low, high = sorted(rng.choices(range(T0 - 1, T0 + 13), k=2))
        first, last = sorted(rng.choices(range(offset + 2), k=2))
        window = Window(
            times=TimeWindow.between(rng.choice([None, low]), rng.choice([None, high])),
            start_offset=first,
            end_offset_exclusive=last,
        )
        most = rng.choice([None, 0, 1, 3])
        expected = [
            one.offset
            for one in every
            if window.times.start_ms <= one.timestamp <= window.times.end_ms and first <= one.offset < last
        ]
        assert offsets(archive, window, most) == expected[:most]


def test_only_the_blocks_of_the_window_are_fetched() -> None:
    store = RecordingStore()
    archive = archive_of(
        store,
        [[[record(n, T0 + n, LARGE)] for n in range(10 * s, 10 * s + 10)] for s in range(3)],
    )
    whole = sum(len(store.data(key)) for key in store.stored_keys())
    assert offsets(archive, Window(times=TimeWindow(start_ms=T0 + 14, end_ms=T0 + 14))) == [14]
    assert {key[-6:] for _, key in store.calls} == {"10.zst"}
    assert sum(length for _, length in store.ranges) < whole / 20


def test_no_more_is_fetched_than_the_wanted_number_of_records_needs() -> None:
    store = RecordingStore()
    archive = archive_of(store, [[[record(n, T0 + n, LARGE)] for n in range(10 * s, 10 * s + 10)] for s in range(3)])
    assert offsets(archive, Window(), most=2) == [0, 1]
    # an index, and two neighbours by one request
    assert [length > LARGE for _, length in store.ranges] == [False, True]
    assert sum(length for _, length in store.ranges) < 2 * LARGE + 20_000


def test_a_block_with_another_number_of_records_than_its_index_says_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(RecordingStore(), [[[record(0, T0), record(1, T0)]]])
    monkeypatch.setattr("kbr.reading.native.decode_records", lambda _block, **_where: [record(0, T0)])
    with pytest.raises(CorruptSegment, match="has 1 records, the index says 2"):
        offsets(archive, Window())


def test_partitions_are_chosen_by_name_glob_and_number() -> None:
    store = RecordingStore()
    archive = NativeArchive(store, store_backup(store), max_block_bytes=1 << 28)
    everything = [("empty", 0), ("orders", 0), ("orders", 1)]
    assert select_partitions(archive) == everything
    assert select_partitions(archive, ["ord*"], [1]) == [("orders", 1)]
    assert select_partitions(archive, ["orders", "empty"]) == everything
    with pytest.raises(UsageError, match="no topic payments") as caught:
        select_partitions(archive, ["payments"])
    assert "empty, orders" in caught.value.hint
    with pytest.raises(UsageError, match="has no partition 2: it has 2"):
        select_partitions(archive, ["orders"], [2])
    # of topics that a glob found, those that have the partition; a named one has to
    assert select_partitions(archive, [], [1]) == [("orders", 1)]
    assert select_partitions(archive, ["*"], [0, 1]) == everything
    with pytest.raises(UsageError, match="topic empty of backup .* has no partition 1: it has 1"):
        select_partitions(archive, ["*", "empty"], [1])
    for absent in (2, -1):
        with pytest.raises(UsageError, match=f"has no partition {absent}"):
            select_partitions(archive, ["*"], [absent])


def test_what_a_window_asks_for_and_is_lost_is_said() -> None:
    gap = Gap(start_offset=10, end_offset_exclusive=20, reason=GapReason.RETENTION, detected_at_ms=T0)
    store = RecordingStore()
    reference = write_segment(store, identity_of(sequence=20), [encode_block([record(20, T0)])], 21)
    entry = partition_of([reference], start_offset=10, gaps=(gap,))
    archive = NativeArchive(store, manifest_of([topic_of("orders", [entry])]), max_block_bytes=1 << 28)
    partition = archive.partition(ORDERS)
    assert gap_notes(partition, Window()) == ["orders[0]: offsets 10 to 19 are not in the backup (retention)"]
    assert gap_notes(partition, Window(start_offset=20)) == []
    assert gap_notes(partition, Window(end_offset_exclusive=10)) == []
