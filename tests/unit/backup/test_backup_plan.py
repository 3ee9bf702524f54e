"""What a backup decides before it fetches."""

from __future__ import annotations

import pytest

from kbr.backup.plan import Known, group_partitions, plan_partitions
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import Anchor, GapReason, TopicPartition, TopicSpec
from kbr.runtime.schedule import MAX_BUNDLE

SPEC = TopicSpec(name="t", partition_count=3, replication_factor=1, topic_id="id")


def _offsets(start: int, end: int, mark: int) -> PartitionOffsets:
    return PartitionOffsets(log_start=start, end_offset=end, high_watermark=mark)


def _plan(*ends: int):
    spec = TopicSpec(name="t", partition_count=len(ends), replication_factor=1)
    offsets = {TopicPartition("t", number): _offsets(0, end, end) for number, end in enumerate(ends)}
    return plan_partitions([spec], offsets, {}, known={}, ends={}, now_ms=5)


@pytest.mark.fault("K4", "the end is the last stable offset, the rest a gap", promise=4)
def test_the_end_is_fixed_at_the_last_stable_offset_and_what_is_behind_it_is_a_gap() -> None:
    offsets = {TopicPartition("t", number): _offsets(10, 20, 20 + number) for number in range(3)}
    plan = plan_partitions([SPEC], offsets, {}, known={}, ends={}, now_ms=5)
    assert [one.offsets.end_offset_exclusive for one in plan.partitions] == [20, 20, 20]
    assert plan.partitions[0].open_transaction is None
    gap = plan.partitions[2].open_transaction
    assert gap is not None
    assert (gap.start_offset, gap.end_offset_exclusive, gap.reason) == (20, 22, GapReason.OPEN_TRANSACTION)


@pytest.mark.fault("K8", "offsets that can't be had", promise=4)
def test_a_partition_whose_offsets_cannot_be_had_is_failed_and_not_left_out() -> None:
    offsets = {TopicPartition("t", 0): _offsets(0, 1, 1), TopicPartition("t", 2): _offsets(0, 1, 1)}
    plan = plan_partitions([SPEC], offsets, {TopicPartition("t", 1): "no leader"}, known={}, ends={}, now_ms=5)
    assert [one.error for one in plan.partitions] == ["", "no leader; it has not been seen yet", ""]
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


def _go_on(found: PartitionOffsets, known: Known | None, *, fixed: int | None = None, topic_id: str = "id"):
    spec = TopicSpec(name="t", partition_count=1, replication_factor=1, topic_id=topic_id)
    key = TopicPartition("t", 0)
    ends = {} if fixed is None else {key: fixed}
    (plan,) = plan_partitions(
        [spec], {key: found}, {}, known={} if known is None else {key: known}, ends=ends, now_ms=5
    ).partitions
    return plan


def test_a_backup_goes_on_where_its_last_segment_ended() -> None:
    plan = _go_on(_offsets(0, 50, 50), Known(topic_id="id", position=20, reached=20))
    assert (plan.sequence, plan.offsets.start_offset, plan.offsets.end_offset_exclusive) == (20, 20, 50)
    assert plan.gaps == ()


def test_holes_that_were_read_before_belong_to_the_next_segment_and_are_not_read_again() -> None:
    plan = _go_on(_offsets(0, 50, 50), Known(topic_id="id", position=20, reached=25))
    assert (plan.sequence, plan.offsets.start_offset) == (20, 25)


@pytest.mark.parametrize(("log_start", "kept"), [(0, True), (18, True), (19, False), (20, False), (30, False)])
def test_the_last_record_is_to_be_looked_at_again_as_long_as_the_log_has_to_hold_it(log_start: int, kept: bool) -> None:
    anchor = Anchor(offset=18, timestamp=5, leader_epoch=2)
    plan = _go_on(_offsets(log_start, 50, 50), Known(topic_id="id", position=20, reached=20, anchor=anchor))
    assert plan.anchor == (anchor if kept else None)


def test_nothing_new_is_nothing_to_fetch() -> None:
    plan = _go_on(_offsets(0, 25, 25), Known(topic_id="id", position=20, reached=25))
    assert plan.offsets.is_empty
    assert not plan.error


def test_what_retention_took_is_a_gap_and_the_backup_goes_on_behind_it() -> None:
    plan = _go_on(_offsets(30, 50, 50), Known(topic_id="id", position=20, reached=20))
    (gap,) = plan.gaps
    assert (gap.start_offset, gap.end_offset_exclusive, gap.reason) == (20, 30, GapReason.RETENTION)
    assert (plan.sequence, plan.offsets.start_offset) == (30, 30)


def test_retention_that_took_only_what_is_in_the_backup_is_no_gap() -> None:
    plan = _go_on(_offsets(23, 50, 50), Known(topic_id="id", position=20, reached=25))
    assert plan.gaps == ()
    assert (plan.sequence, plan.offsets.start_offset) == (20, 25)


def test_everything_new_may_be_gone_before_it_was_read() -> None:
    plan = _go_on(_offsets(50, 50, 50), Known(topic_id="id", position=20, reached=20))
    (gap,) = plan.gaps
    assert (gap.start_offset, gap.end_offset_exclusive) == (20, 50)
    assert plan.offsets.is_empty


@pytest.mark.fault("K9", "between two runs, and where there are no topic ids", promise=4)
def test_a_log_that_ends_before_the_backup_is_an_error_and_not_an_end() -> None:
    plan = _go_on(_offsets(0, 15, 15), Known(topic_id="id", position=20, reached=20))
    assert "the log ended at offset 15, before offset 20" in plan.error
    assert plan.offsets.is_empty


@pytest.mark.fault("K9", "while it is read", promise=4)
def test_a_log_that_ends_before_the_end_that_was_fixed_is_an_error() -> None:
    plan = _go_on(_offsets(0, 30, 30), Known(topic_id="id", position=20, reached=20), fixed=40)
    assert "the log ends at offset 30, before offset 40" in plan.error


def test_a_topic_that_was_made_anew_is_never_merged_whatever_its_offsets() -> None:
    for end in (10, 20, 90):
        plan = _go_on(_offsets(0, end, end), Known(topic_id="id", position=20, reached=20), topic_id="other")
        assert "was deleted and made anew" in plan.error
        assert plan.offsets.is_empty


def test_a_last_stable_offset_behind_what_was_read_is_no_cut_log() -> None:
    plan = _go_on(_offsets(0, 18, 40), Known(topic_id="id", position=20, reached=20))
    assert not plan.error
    assert plan.offsets.is_empty


def test_another_try_of_a_run_keeps_the_end_that_was_fixed() -> None:
    plan = _go_on(_offsets(0, 90, 90), Known(topic_id="id", position=20, reached=20), fixed=40)
    assert plan.offsets.end_offset_exclusive == 40


@pytest.mark.parametrize(("first_wanted", "start"), [(0, 10), (12, 12), (20, 20), (25, 20)])
def test_a_new_partition_begins_where_its_window_of_time_does_and_what_is_before_it_is_no_gap(
    first_wanted: int, start: int
) -> None:
    found = PartitionOffsets(log_start=10, end_offset=20, high_watermark=20, first_wanted=first_wanted)
    one = _go_on(found, None)
    assert (one.sequence, one.offsets.start_offset, one.offsets.end_offset_exclusive, one.gaps) == (start, start, 20, ())
    assert one.log_start_offset == 10


def test_a_partition_that_was_begun_goes_on_where_it_was_whatever_its_window_of_time_says() -> None:
    found = PartitionOffsets(log_start=10, end_offset=20, high_watermark=20, first_wanted=18)
    one = _go_on(found, Known(topic_id="id", position=15, reached=16))
    assert (one.sequence, one.offsets.start_offset) == (15, 16)
