"""Coverage: every offset is in a segment, in a recorded gap, or behind the last record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.format.names import segment_name
from kbr.maintain.coverage import coverage_errors, incompleteness_notes
from kbr.model import Compression, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef
from tests.support.backups import manifest_of, partition_of, topic_of


def segment(sequence: int, next_offset: int) -> SegmentRef:
    return SegmentRef(
        key=segment_name("orders", 0, sequence, Compression.ZSTD),
        sequence=sequence,
        next_offset=next_offset,
        start_offset=sequence,
        end_offset=next_offset - 1,
        start_timestamp=1,
        end_timestamp=1,
        min_timestamp=1,
        max_timestamp=1,
        record_count=1,
        block_count=1,
        raw_bytes=100,
        stored_bytes=100,
        max_record_bytes=1,
        sha256="0" * 64,
    )


def gap(start: int, end: int, reason: GapReason = GapReason.RETENTION) -> Gap:
    return Gap(start_offset=start, end_offset_exclusive=end, reason=reason, detected_at_ms=1)


def test_a_chain_of_segments_is_complete() -> None:
    assert coverage_errors(partition_of([segment(5, 10), segment(10, 20)])) == []
    assert coverage_errors(partition_of()) == []


def test_a_missing_segment_is_found_at_each_place() -> None:
    chain = [segment(0, 10), segment(10, 20), segment(20, 30)]
    whole = partition_of(chain)
    assert coverage_errors(replace(whole, segments=tuple(chain[1:]))) == [
        "offsets 0 to 9 are in no segment and in no gap"
    ]
    assert coverage_errors(replace(whole, segments=(chain[0], chain[2]))) == [
        "offsets 10 to 19 are in no segment and in no gap"
    ]


@pytest.mark.parametrize(
    ("gaps", "covered"),
    [
        ([gap(10, 20)], True),
        ([gap(15, 20), gap(10, 15)], True),
        ([gap(0, 100)], True),
        ([gap(10, 19)], False),
        ([gap(11, 20)], False),
        ([gap(10, 14), gap(15, 20)], False),
        ([gap(20, 30)], False),
    ],
)
def test_gaps_have_to_fill_the_whole_space(gaps: list[Gap], covered: bool) -> None:
    partition = partition_of([segment(0, 10), segment(20, 30)], gaps=tuple(gaps))
    assert bool(coverage_errors(partition)) is not covered


def test_the_log_may_end_without_a_record() -> None:
    partition = partition_of([segment(0, 10)], next_offset=13, end_offset_exclusive=13)
    assert coverage_errors(partition) == []
    assert coverage_errors(partition_of(next_offset=4, end_offset_exclusive=4)) == []


def test_a_complete_partition_reaches_its_end() -> None:
    partition = partition_of([segment(0, 10)], end_offset_exclusive=13)
    assert coverage_errors(partition) == ["it is said to be complete, but ends before offset 10 of 13"]
    assert coverage_errors(replace(partition, gaps=(gap(10, 13),))) == []
    assert coverage_errors(replace(partition, status=PartitionStatus.PARTIAL)) == []


def test_a_record_at_or_behind_the_end_is_too_much() -> None:
    partition = partition_of([segment(0, 10)], end_offset_exclusive=9, next_offset=9)
    assert any("behind the end" in one for one in coverage_errors(partition))


def test_what_a_manifest_admits_is_told() -> None:
    partitions = [
        partition_of([segment(0, 10)], gaps=(gap(10, 20, GapReason.OPEN_TRANSACTION),)),
        partition_of(
            partition=1,
            status=PartitionStatus.FAILED,
            error="no leader",
            end_offset_exclusive=5,
        ),
        partition_of(
            [replace(segment(0, 3), key="x")],
            partition=2,
            status=PartitionStatus.PARTIAL,
            end_offset_exclusive=5,
        ),
    ]
    manifest = manifest_of([topic_of("orders", partitions)], status=RunStatus.INCOMPLETE)
    assert incompleteness_notes(manifest) == [
        "the manifest says that the backup is incomplete",
        "orders[0] lacks offsets 10 to 19 (open_transaction)",
        "orders[1] is failed, none of its records are there: no leader",
        "orders[2] is partial, its records reach offset 2 of 4",
    ]
    assert incompleteness_notes(manifest_of([])) == []
