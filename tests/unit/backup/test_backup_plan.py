"""What a backup decides before it fetches."""

from __future__ import annotations

from kbr.backup.plan import group_partitions, plan_partitions
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import GapReason, TopicPartition, TopicSpec
from kbr.runtime.schedule import MAX_BUNDLE

SPEC = TopicSpec(name="t", partition_count=3, replication_factor=1, topic_id="id")


def _offsets(start: int, end: int, mark: int) -> PartitionOffsets:
    return PartitionOffsets(log_start=start, end_offset=end, high_watermark=mark)


def _plan(*ends: int):
    spec = TopicSpec(name="t", partition_count=len(ends), replication_factor=1)
    offsets = {TopicPartition("t", number): _offsets(0, end, end) for number, end in enumerate(ends)}
    return plan_partitions([spec], offsets, {}, now_ms=5)


def test_the_end_is_fixed_at_the_last_stable_offset_and_what_is_behind_it_is_a_gap() -> None:
    offsets = {TopicPartition("t", number): _offsets(10, 20, 20 + number) for number in range(3)}
    plan = plan_partitions([SPEC], offsets, {}, now_ms=5)
    assert [one.offsets.end_offset_exclusive for one in plan.partitions] == [20, 20, 20]
    assert plan.partitions[0].gaps == ()
    (gap,) = plan.partitions[2].gaps
    assert (gap.start_offset, gap.end_offset_exclusive, gap.reason) == (20, 22, GapReason.OPEN_TRANSACTION)


def test_a_partition_whose_offsets_cannot_be_had_is_failed_and_not_left_out() -> None:
    offsets = {TopicPartition("t", 0): _offsets(0, 1, 1), TopicPartition("t", 2): _offsets(0, 1, 1)}
    plan = plan_partitions([SPEC], offsets, {TopicPartition("t", 1): "no leader"}, now_ms=5)
    assert [one.error for one in plan.partitions] == ["", "no leader", ""]
    assert [one.key.partition for group in group_partitions(plan.partitions, {}, workers=4) for one in group] == [0, 2]


def test_empty_partitions_make_no_task() -> None:
    assert group_partitions(_plan(0, 0).partitions, {}, workers=4) == []


def test_a_large_partition_is_a_task_of_its_own_and_comes_first() -> None:
    groups = group_partitions(_plan(10, 1_000_000, 20, 30, 40, 50).partitions, {}, workers=2)
    assert [one.partition for one in groups[0]] == [1]


def test_a_hundred_thousand_partitions_make_tasks_of_bounded_size() -> None:
    groups = group_partitions(_plan(*[7] * 20_000).partitions, {}, workers=2)
    assert sum(map(len, groups)) == 20_000
    assert max(map(len, groups)) <= MAX_BUNDLE
