"""What a restore decides before it connects to anything but facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import PreflightRefused, TopicMissing, UsageError
from kbr.format.documents import FORMAT_VERSION, Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.model import Compression, PartitionStatus, RunStatus, SegmentRef, TopicSpec
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import group_partitions, plan_restore
from kbr.restore.preflight import TargetFacts, check_places, check_restore
from kbr.restore.window import TimeWindow

NOW_MS = 2_000_000_000_000


def _segment(start: int, count: int, stamps: tuple[int, int], largest: int = 100) -> SegmentRef:
    return SegmentRef(
        key=f"topics/t/partition=0/segment-{start:020d}.zst", sequence=start, next_offset=start + count,
        start_offset=start, end_offset=start + count - 1, start_timestamp=stamps[0], end_timestamp=stamps[1],
        min_timestamp=min(stamps), max_timestamp=max(stamps), record_count=count, block_count=1, raw_bytes=count * 100,
        stored_bytes=count * 10, max_record_bytes=largest, sha256="0" * 64,
    )  # fmt: skip


def _topic(name: str = "t", partitions: int = 2, configs: dict[str, str] | None = None, **segment) -> TopicEntry:
    entries = []
    for number in range(partitions):
        segments = (_segment(0, 10, (1000, 2000), **segment), _segment(10, 10, (3000, 2500), **segment))
        entries.append(
            PartitionEntry(
                partition=number, status=PartitionStatus.COMPLETE, log_start_offset=0, high_watermark=20,
                start_offset=0, end_offset_exclusive=20, next_offset=20, record_count=20, error=None, gaps=(),
                segments=segments,
            )  # fmt: skip
        )
    return TopicEntry(
        name=name, topic_id="", partition_count=partitions, replication_factor=3, is_internal=False,
        configs=configs if configs is not None else {}, partitions=tuple(entries),
    )  # fmt: skip


def _manifest(*topics: TopicEntry) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION, kbr_version="0", backup_id="b", status=RunStatus.COMPLETE, created_at_ms=0,
        updated_at_ms=0, finished_at_ms=0, source=SourceInfo(cluster_id="", brokers=(), isolation_level="read_committed"),
        compression=Compression.ZSTD, compression_level=3, retention=None, topics=topics,
    )  # fmt: skip


def _plan(*topics: TopicEntry, existing: dict[str, TopicSpec] | None = None, **options):
    return plan_restore(_manifest(*topics), topics, RestoreOptions(backup_id="b", **options), existing or {})


def _spec(name: str, partitions: int = 2) -> TopicSpec:
    return TopicSpec(name=name, partition_count=partitions, replication_factor=1)


def _check(plan, offsets=None, configs=None, defaults=None, **options):
    facts = TargetFacts(offsets=offsets or {}, configs=configs or {}, defaults=defaults or {}, now_ms=NOW_MS)
    check_places(plan, RestoreOptions(backup_id="b", **options), facts)
    return check_restore(plan, RestoreOptions(backup_id="b", **options), facts)


def test_a_window_takes_every_segment_that_may_hold_its_records_and_no_other() -> None:
    plan = _plan(_topic(), time_window_start_ms=2600, time_window_end_ms=2700)
    assert [[ref.sequence for ref in one.segments] for one in plan.partitions] == [[10], [10]]
    assert _plan(_topic(), time_window_start_ms=2000, time_window_end_ms=2000).partitions[0].segments[0].sequence == 0


def test_a_window_is_written_as_times_with_its_open_side_left_out() -> None:
    assert str(TimeWindow.between(1_714_564_800_007, None)) == "from 2024-05-01T12:00:00.007Z"
    assert str(TimeWindow.between(0, 1000)) == "from 1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.000Z"


def test_a_plan_knows_from_when_to_when_the_chosen_topics_are_also_beyond_the_window() -> None:
    assert _plan(_topic(), time_window_start_ms=5000).archived_times == (1000, 3000)


def test_that_a_backup_has_no_more_than_a_window_is_warned_of() -> None:
    whole = _manifest(_topic())
    cut = replace(whole, source=replace(whole.source, time_window_end_ms=1000))
    assert plan_restore(whole, whole.topics, RestoreOptions(backup_id="b"), {}).warnings == ()
    (warning,) = plan_restore(cut, cut.topics, RestoreOptions(backup_id="b"), {}).warnings
    assert warning == "the backup was taken of a time window only (to 1970-01-01T00:00:01.000Z)"


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError, match="before it begins"):
        _plan(_topic(), time_window_start_ms=2, time_window_end_ms=1)


def test_records_without_timestamps_are_only_in_windows_that_reach_below_zero() -> None:
    none = _segment(0, 1, (-1, -1))
    assert TimeWindow.between(None, 5).touches(none)
    assert not TimeWindow.between(0, None).touches(none)


def test_two_sources_never_meet_on_one_target() -> None:
    with pytest.raises(UsageError, match="would both be restored"):
        _plan(_topic("a"), _topic("b"), topic_mapping={"a": "c", "b": "c"})
    with pytest.raises(UsageError, match="would both be restored"):
        _plan(_topic("a"), partition_mapping={"a": {0: 1}})


@pytest.mark.parametrize("mapping", [{"topic_mapping": {"nope": "x"}}, {"partition_mapping": {"nope": {0: 1}}}])
def test_a_mapping_of_what_is_not_there_is_refused(mapping: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="nope"):
        _plan(_topic("a"), **mapping)
    with pytest.raises(UsageError, match="partition 7"):
        _plan(_topic("a"), partition_mapping={"a": {7: 0}})


def test_a_missing_topic_is_made_as_it_was_and_large_enough_for_its_mapping() -> None:
    plan = _plan(
        _topic(configs={"cleanup.policy": "compact"}), partition_mapping={"t": {0: 5}}, topic_configs={"retention.ms": "-1"}
    )
    spec = plan.topics[0].target
    assert (spec.partition_count, spec.replication_factor) == (6, 3)
    assert spec.configs == {"cleanup.policy": "compact", "retention.ms": "-1"}


@pytest.mark.fault("R3", "LogAppendTime", promise=6)
def test_log_append_time_is_set_only_after_the_restore() -> None:
    plan = _plan(_topic(configs={"message.timestamp.type": "LogAppendTime"}))
    assert plan.topics[0].target.configs == {"message.timestamp.type": "CreateTime"}
    assert plan.topics[0].configs_afterwards == {"message.timestamp.type": "LogAppendTime"}
    assert any("LogAppendTime" in warning for warning in plan.warnings)


def test_a_target_that_is_not_there_is_refused_when_topics_may_not_be_made() -> None:
    with pytest.raises(TopicMissing, match="t does not exist"):
        _check(_plan(_topic()), create_topics=False)


@pytest.mark.fault("R2", "max.message.bytes, LogAppendTime", promise=6)
@pytest.mark.parametrize(
    ("partitions", "configs", "words"),
    [
        (1, {}, "has 1 partitions"),
        (2, {"max.message.bytes": "1000"}, "max.message.bytes"),
        (2, {"message.timestamp.type": "LogAppendTime"}, "LogAppendTime"),
    ],
)
def test_a_target_that_would_change_or_refuse_records_is_refused(
    partitions: int, configs: dict[str, str], words: str
) -> None:
    plan = _plan(_topic(largest=5000), existing={"t": _spec("t", partitions)})
    with pytest.raises(PreflightRefused, match=words):
        _check(plan, configs={"t": configs})


@pytest.mark.fault("R3", "retention.ms", promise=6)
def test_retention_that_would_delete_what_is_restored_is_refused_unless_accepted() -> None:
    plan = _plan(_topic(), existing={"t": _spec("t")})
    short = {"t": {"retention.ms": "1000", "cleanup.policy": "delete"}}
    with pytest.raises(PreflightRefused, match=r"retention\.ms=-1 on t, or accept it"):
        _check(plan, configs=short)
    (warning,) = _check(plan, configs=short, accept_cleanup=True)
    assert "retention.ms" in warning
    assert _check(plan, configs={"t": {"retention.ms": "-1"}}) == ()
    assert _check(plan, configs={"t": {"retention.ms": "1000", "cleanup.policy": "compact"}}, accept_cleanup=True)


def test_a_new_topic_is_looked_at_with_the_brokers_defaults_and_the_override_is_named() -> None:
    week = {"retention.ms": "604800000", "max.message.bytes": "1048588"}
    with pytest.raises(PreflightRefused, match=r"--topic-config retention\.ms=-1") as caught:
        _check(_plan(_topic(largest=2_000_000)), defaults=week)
    assert len(caught.value.context["findings"]) == 2
    assert "--topic-config max.message.bytes=2000512" in str(caught.value)
    fine = {"retention.ms": "-1", "max.message.bytes": "3000000"}
    assert _check(_plan(_topic(largest=2_000_000), topic_configs=fine), defaults=week) == ()


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ({"message.timestamp.before.max.ms": "1000"}, r"the oldest record.*message\.timestamp\.before\.max\.ms=\d+ on t"),
        ({"message.timestamp.difference.max.ms": "1000"}, r"the oldest record.*difference\.max\.ms"),
        ({"retention.bytes": "50", "retention.ms": "-1"}, r"retention\.bytes=-1 on t"),
        ({"cleanup.policy": "compact"}, r"is compacted .*, t was not"),
        ({"min.insync.replicas": "2"}, r"has 1 replicas .* set min\.insync\.replicas=1 on t"),
    ],
)
def test_what_would_refuse_or_remove_records_is_found(configs: dict[str, str], words: str) -> None:
    plan = _plan(_topic(), existing={"t": _spec("t")})
    with pytest.raises(PreflightRefused, match=words):
        _check(plan, configs={"t": configs})


def test_records_from_the_future_are_held_against_the_limit_for_them() -> None:
    topic = _topic()
    late = replace(topic.partitions[0], segments=(_segment(0, 10, (NOW_MS, NOW_MS + 7_200_000)),))
    plan = _plan(replace(topic, partitions=(late, topic.partitions[1])), existing={"t": _spec("t")})
    with pytest.raises(PreflightRefused, match="the newest record is 7200000 ms after it"):
        _check(plan, configs={"t": {"message.timestamp.after.max.ms": "3600000"}})
    assert _check(plan, configs={"t": {"message.timestamp.after.max.ms": "7200000"}}) == ()


def test_a_window_keeps_out_what_would_not_be_taken() -> None:
    plan = _plan(_topic(), existing={"t": _spec("t")}, time_window_start_ms=2000)
    at = {"t": {"message.timestamp.before.max.ms": str(NOW_MS - 2000)}}
    assert _check(plan, configs=at) == ()


def test_a_compacted_topic_may_be_restored_to_a_compacted_one() -> None:
    plan = _plan(_topic(configs={"cleanup.policy": "compact"}), existing={"t": _spec("t")})
    assert _check(plan, configs={"t": {"cleanup.policy": "compact", "retention.ms": "1"}}) == ()


def test_a_topic_that_gets_nothing_is_not_looked_at() -> None:
    plan = _plan(_topic(), existing={"t": _spec("t")})
    done = replace(plan, partitions=tuple(one.going_on(offset_from=20, target_offset=20) for one in plan.partitions))
    assert _check(done, configs={"t": {"retention.ms": "1000", "message.timestamp.type": "LogAppendTime"}}) == ()


def test_small_partitions_share_tasks_and_every_partition_is_in_one() -> None:
    plan = _plan(*[_topic(f"t{number}", partitions=50) for number in range(20)])
    groups = group_partitions(plan.partitions, {}, workers=2)
    assert len(groups) <= 16
    placed = [partition.source for group in groups for partition in group]
    assert sorted(placed) == sorted(partition.source for partition in plan.partitions)


def test_what_a_backup_lacks_is_said_in_the_plan() -> None:
    topic = _topic()
    broken = replace(topic.partitions[1], status=PartitionStatus.FAILED, next_offset=10)
    plan = _plan(replace(topic, partitions=(topic.partitions[0], broken)))
    assert any("t[1]" in warning and "failed" in warning for warning in plan.warnings)
