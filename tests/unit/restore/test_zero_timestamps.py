"""Records with timestamp 0 are found before a restore begins, and only where they are."""

from __future__ import annotations

import pytest

from kbr.errors import CorruptSegment, PreflightRefused
from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentIdentity
from kbr.model import Compression, SegmentRef, TopicPartition
from kbr.repository.segment_writer import SegmentWriter
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.restore.window import TimeWindow
from kbr.restore.zero_timestamps import refuse_zero_timestamps
from kbr.storage.memory import MemoryStore
from kbr_codec import Record, encode_block, scan_block


def _segment(store: MemoryStore, timestamps: list[int]) -> SegmentRef:
    identity = SegmentIdentity(
        backup_id="b", topic="t", topic_id="", partition=0, sequence=0, compression=Compression.ZSTD, writer="w", created_at_ms=1
    )
    writer = SegmentWriter(store, identity)
    block = encode_block([Record(offset, stamp, 1, None, b"v", ()) for offset, stamp in enumerate(timestamps)])
    writer.append(BlockCompressor(Compression.ZSTD, 3).compress(block), len(block), scan_block(block))
    return writer.commit(len(timestamps))


def _check(timestamps: list[int], window: TimeWindow) -> None:
    store = MemoryStore()
    place = TopicPartition("t", 0)
    partition = PartitionPlan(source=place, target=place, segments=(_segment(store, timestamps),))
    plan = RestorePlan(backup_id="b", window=window, topics=(), partitions=(partition,), warnings=())
    refuse_zero_timestamps(store, plan, max_block_bytes=1 << 20)


def test_the_first_record_with_timestamp_zero_is_named() -> None:
    with pytest.raises(PreflightRefused, match="offset 2") as caught:
        _check([-1, 5, 0, 7, 0], TimeWindow())
    assert "zero_timestamp_as" in caught.value.hint


@pytest.mark.parametrize("timestamps", [[-1, 5], [1, 2], [-1, -1]])
def test_others_are_not_refused(timestamps: list[int]) -> None:
    _check(timestamps, TimeWindow())


def test_a_window_without_them_is_not_refused() -> None:
    _check([0, 5], TimeWindow(start_ms=1, end_ms=9))


def test_a_block_that_can_not_be_decoded_is_damage() -> None:
    store = MemoryStore()
    good = encode_block([Record(0, 0, 1, None, b"v", ())])
    bad = good[:-1] + b"\xc1"  # in place of no headers
    identity = SegmentIdentity(
        backup_id="b", topic="t", topic_id="", partition=0, sequence=0, compression=Compression.ZSTD, writer="w", created_at_ms=1
    )
    writer = SegmentWriter(store, identity)
    writer.append(BlockCompressor(Compression.ZSTD, 3).compress(bad), len(bad), scan_block(good))
    place = TopicPartition("t", 0)
    partition = PartitionPlan(source=place, target=place, segments=(writer.commit(1),))
    plan = RestorePlan(backup_id="b", window=TimeWindow(), topics=(), partitions=(partition,), warnings=())
    with pytest.raises(CorruptSegment, match="segment-0"):
        refuse_zero_timestamps(store, plan, max_block_bytes=1 << 20)
