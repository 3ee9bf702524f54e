"""A restore of some offsets of a partition: what is planned, counted, compared, sent and mapped is the same records."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest

from kbr.errors import PreflightRefused, UsageError
from kbr.format.documents import Manifest
from kbr.model import TopicPartition
from kbr.repository.offset_maps import open_offset_map
from kbr.restore.counting import count_plan
from kbr.restore.identity import restore_id_of
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, plan_restore
from kbr.restore.stream import PlanStream
from kbr.restore.zero_timestamps import refuse_zero_timestamps
from kbr_codec import Record, encode_block
from tests.support.backups import RecordingStore, identity_of, manifest_of, partition_of, topic_of, write_segment

ORDERS = TopicPartition("orders", 0)
ID = "ab" * 16


def backup_of(store: RecordingStore, segments: list[list[list[Record]]]) -> Manifest:
    """Topic orders of two partitions; the second has one record."""
    references = []
    sequence = 0
    for blocks in segments:
        end = blocks[-1][-1].offset + 1
        references.append(write_segment(store, identity_of(sequence=sequence), map(encode_block, blocks), end))
        sequence = end
    other = write_segment(store, identity_of(partition=1), [encode_block([Record(0, 5, 1, None, b"other", ())])], 1)
    return manifest_of([topic_of("orders", [partition_of(references), partition_of([other], partition=1)])])


def planned(manifest: Manifest, **options: object) -> RestorePlan:
    return plan_restore(manifest, manifest.topics, RestoreOptions(backup_id="nightly", **options), {})


def records(*stamps: int) -> list[list[list[Record]]]:
    """One segment of blocks of two records, without holes."""
    found = [Record(offset, stamp, 1, None, b"v", ()) for offset, stamp in enumerate(stamps)]
    return [[found[at : at + 2] for at in range(0, len(found), 2)]]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_looks_at_a_window_of_offsets_sees_the_same_records(seed: int) -> None:
    rng = random.Random(seed)
    offset = rng.randrange(3)
    segments = []
    for _ in range(rng.randrange(1, 4)):
        blocks = []
        for _ in range(rng.randrange(1, 4)):
            block = []
            for _ in range(rng.randrange(1, 7)):
                block.append(Record(offset, rng.randrange(-1, 8), 1, None, b"v", ()))
                offset += rng.choice([1, 1, 1, 5])
            blocks.append(block)
        segments.append(blocks)
    every = [one for blocks in segments for block in blocks for one in block]
    store = RecordingStore()
    manifest = backup_of(store, segments)
    for _ in range(15):
        first, last = sorted(rng.choices(range(offset + 2), k=2))
        end = rng.choice([last, None])
        low, high = rng.choice([(None, None), tuple(sorted(rng.choices(range(8), k=2)))])
        plan = planned(
            manifest, offset_windows={"orders": {0: (first, end)}}, time_window_start_ms=low, time_window_end_ms=high
        )
        expected = [
            one
            for one in every
            if first <= one.offset <= (offset if end is None else end)
            and (low is None or low <= one.timestamp)
            and (high is None or one.timestamp <= high)
        ]
        partition = plan.partitions[0]
        stream = PlanStream(store, "nightly", partition, plan.window, max_block_bytes=1 << 28)
        assert [one for _, one in stream.records()] == expected
        for position in range(len(expected) + 1):
            assert [one for _, one in stream.records(position)] == expected[position:]
            tail = stream.tail(position, max_records=2, max_bytes=1 << 20)
            assert list(tail.records) == expected[max(0, position - 2) : position]
        counts = count_plan(store, RestorePlan(
            backup_id="nightly", window=plan.window, topics=(), partitions=(partition,), warnings=()
        ), max_block_bytes=1 << 28)  # fmt: skip
        assert counts.records >= len(expected)
        if counts.exact:
            assert counts.records == len(expected)
        with patch("kbr.restore.offset_mapping.SMALL_BYTES", rng.choice([1, 1 << 20])):
            OffsetMapping(store, "nightly", plan.window, max_block_bytes=1 << 28, stopped=lambda: False).write(
                ID, "c", [MappedPartition(plan=partition, base=3, record_count=len(expected))], created_at_ms=1
            )
        found = open_offset_map(store, "nightly", ID)
        assert [
            (one.source_start + n, one.target_start + n) for one in found.ranges(ORDERS) for n in range(one.count)
        ] == [(one.offset, 3 + position) for position, one in enumerate(expected)]


def test_partitions_that_no_window_names_are_restored_whole() -> None:
    plan = planned(backup_of(RecordingStore(), records(1, 2, 3)), offset_windows={"orders": {0: (1, 1)}})
    assert [(one.window_start, one.has_offset_window) for one in plan.partitions] == [(1, True), (0, False)]
    assert [len(one.segments) for one in plan.partitions] == [1, 1]


def test_segments_beyond_the_window_are_not_in_the_plan() -> None:
    plan = planned(backup_of(RecordingStore(), records(1, 2, 3)), offset_windows={"orders": {0: (3, None)}})
    assert [len(one.segments) for one in plan.partitions] == [0, 1]


@pytest.mark.parametrize(
    ("windows", "what"), [({"payments": {0: (0, 1)}}, "names payments"), ({"orders": {2: (0, 1)}}, "partition 2 of orders")]
)
def test_a_window_of_what_is_not_there_is_refused(windows: dict, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        planned(backup_of(RecordingStore(), records(1)), offset_windows=windows)


def test_a_window_of_a_partition_that_is_not_chosen_is_refused() -> None:
    manifest = backup_of(RecordingStore(), records(1))
    planned(manifest, offset_windows={"orders": {0: (0, 1)}}, source_partitions={"ord*": (0,)})
    with pytest.raises(UsageError, match="partition 0 of orders, which is not among the partitions to restore"):
        planned(manifest, offset_windows={"orders": {0: (0, 1)}}, source_partitions={"orders": (1,)})


def test_another_window_is_another_restore_and_none_is_the_one_that_it_always_was() -> None:
    def identity(**windows: tuple[int, int | None]) -> str:
        by_number = {int(name[1:]): window for name, window in windows.items()}
        options = RestoreOptions(backup_id="b", offset_windows={"orders": by_number} if by_number else {})
        return restore_id_of(options, "cluster")

    # as versions that knew no such windows made it
    assert identity() == "97686f729c3758b0aac151f2c937daee"
    assert len({identity(), identity(p0=(0, 5)), identity(p0=(0, None)), identity(p1=(0, 5)), identity(p0=(1, 5))}) == 5


def test_a_record_with_timestamp_zero_outside_of_the_window_is_none_of_its_business() -> None:
    store = RecordingStore()
    manifest = backup_of(store, records(0, 5, 5, 5))
    refuse_zero_timestamps(
        store, planned(manifest, offset_windows={"orders": {0: (1, None)}}), max_block_bytes=1 << 28
    )
    with pytest.raises(PreflightRefused, match="offset 0 has timestamp 0"):
        refuse_zero_timestamps(
            store, planned(manifest, offset_windows={"orders": {0: (0, 1)}}), max_block_bytes=1 << 28
        )


@pytest.mark.parametrize(
    "options", [{"partitioner": "murmur2"}, {"partition_mapping": {"orders": {1: 0}}, "merge": True}]
)
def test_a_window_of_offsets_of_what_is_spread_or_joined_is_refused(options: dict[str, object]) -> None:
    manifest = backup_of(RecordingStore(), records(1, 2, 3))
    planned(manifest, **options)
    for windows in ({0: (1, 2)}, {1: (0, 0)}):
        with pytest.raises(UsageError, match="offsets"):
            planned(manifest, offset_windows={"orders": windows}, **options)
