"""Whole runs of a backup in which something changes: options, topics, whether the cluster is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kbr.backup.notices import joined_text
from kbr.backup.options import BackupOptions
from kbr.errors import (
    ClusterUnavailable,
    KbrError,
    TopicMissing,
)
from kbr.model import PartitionStatus, RunStatus, TopicPartition
from tests.support.backup_bench import CONTINUOUS, OPTIONS, Bench, Topics

# -- options that change while it runs ---------------------------------------------------------


def asked_once(bench: Bench, options: BackupOptions, *, after: Callable[[], bool]) -> list[BackupOptions]:
    """The run is asked once for other options; gives those that held, in order."""
    held: list[BackupOptions] = []
    left = [options]
    bench.reread = lambda: left.pop() if left and after() else None
    bench.on_options = held.append
    return held


def test_other_options_are_followed_at_once_and_not_when_the_next_pass_is_due() -> None:
    bench = Bench(Topics(t=[10], other=[5]))
    hour = replace(CONTINUOUS, segment_max_interval_ms=3_600_000)
    asked_at: list[float] = []

    def after() -> bool:
        if bench.wish.count < 5:
            return False
        asked_at.append(bench.clock.monotonic())
        return True

    held = asked_once(bench, replace(hour, include=("t*", "other")), after=after)
    bench.wish.at_wait = lambda count: count >= 60
    report = bench.run(hour)
    assert [one.include for one in held] == [("t*", "other")]
    assert [topic.name for topic in report.manifest.topics] == ["other", "t"]
    assert bench.clock.monotonic() - asked_at[0] < 100.0


def test_a_pass_that_is_going_on_makes_room_for_other_options_and_nothing_of_it_counts_as_failed() -> None:
    bench = Bench(Topics(t=[10, 10], other=[5]))
    both = replace(CONTINUOUS, include=("t*", "other"))
    bench.workers.undone = {TopicPartition("t", 1)}
    held = asked_once(bench, both, after=lambda: bool(bench.workers.tries))

    def at_wait(count: int) -> bool:
        return bench.workers.tries.get(TopicPartition("other", 0), 0) > 0 or count > 100

    def meanwhile() -> None:
        if bench.workers.tries.get(TopicPartition("t", 1), 0) > 1:
            bench.workers.undone.clear()

    bench.workers.meanwhile = meanwhile
    bench.wish.at_wait = at_wait
    begun = bench.clock.monotonic()
    report = bench.run(CONTINUOUS)
    assert (bench.workers.ended_early, held) == (1, [both])
    assert bench.clock.monotonic() - begun < CONTINUOUS.segment_max_interval_ms / 1000
    assert report.exit_code == 0
    assert bench.workers.adopted == []  # which is for what has failed


def test_limits_are_followed_in_the_middle_of_a_pass_without_ending_it() -> None:
    bench = Bench(Topics(t=[10]))
    slower = replace(CONTINUOUS, bytes_per_s=100, checkpoint_interval_s=2.0)
    held = asked_once(bench, slower, after=lambda: bool(bench.workers.tries))
    bench.wish.at_wait = lambda count: count >= 3
    bench.run(CONTINUOUS)
    assert (bench.workers.ended_early, held) == (0, [slower])


def test_options_that_name_a_topic_that_is_not_there_are_told_once_and_everything_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(Topics(t=[10]))
    held = asked_once(bench, replace(CONTINUOUS, include=("t*", "mistyped")), after=lambda: bench.wish.count >= 5)

    def at_wait(count: int) -> bool:
        bench.topics.ends["t"] = [10 + count]
        return count > 60

    bench.wish.at_wait = at_wait
    report = bench.run(CONTINUOUS)
    assert report.exit_code == 0
    assert held == []
    assert report.manifest.topics[0].partitions[0].record_count > 20
    (line,) = [one.getMessage() for one in caplog.records if "everything stays as it was" in one.getMessage()]
    assert "mistyped" in line


def test_options_are_followed_when_the_cluster_is_back_that_was_away_when_they_were_asked_for() -> None:
    bench = Bench(Topics(t=[10], other=[5]))
    away = range(3, 6)

    def before(name: str, count: int) -> None:
        if name == "topics" and count in away:
            raise ClusterUnavailable("nobody answers", hint="wait")

    bench.topics.before = before
    held = asked_once(bench, replace(CONTINUOUS, include=("*",)), after=lambda: bench.topics.calls["topics"] >= 2)
    bench.wish.at_wait = lambda count: bool(bench.workers.tries.get(TopicPartition("other", 0))) or count > 500
    report = bench.run(CONTINUOUS)
    assert [one.include for one in held] == [("*",)]
    assert len(report.manifest.topics) == 2


# -- topics that come and go -------------------------------------------------------------------


def test_what_joins_a_run_is_told_in_one_line_by_name_and_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="kbr.backup")
    bench = Bench(Topics(t=[1]))

    def at_wait(count: int) -> bool:
        if count == 3:
            bench.topics.ends["t"] = [1] * 10_001
            bench.topics.ends["t-new"], bench.topics.ids["t-new"] = [1, 1], "new"
        return count > 60

    bench.wish.at_wait = at_wait
    report = bench.run(CONTINUOUS)
    assert report.exit_code == 0
    lines = [one.getMessage() for one in caplog.records if "joined" in one.getMessage()]
    assert lines == [
        "joined the backup: 1 topic with 2 partitions (t-new: 2), and 10,000 more partitions of 1 topic (t: 10,000)"
    ]


def test_what_joins_is_told_in_a_line_that_is_not_endless() -> None:
    text = joined_text({}, {f"{number:05d}{'x' * 244}": 3 for number in range(10_000)})
    assert text.startswith("joined the backup: 10,000 topics with 30,000 partitions (00000xxx")
    assert text.endswith("and 9,995 more)")
    assert len(text) < 1500
    assert joined_text({"t": 3}, {"t": 3}) == ""


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("continue", 0)])
@pytest.mark.parametrize("has_failed", [False, True])
@pytest.mark.parametrize("is_looked_for", [False, True])
def test_a_topic_that_is_deleted_ends_the_run_with_3_or_with_a_warning_and_0_as_it_was_asked_for(
    policy: str, code: int, has_failed: bool, is_looked_for: bool
) -> None:
    bench = Bench(Topics(t=[10], t2=[10]))
    gone = TopicPartition("t2", 0)

    def outcome(key: TopicPartition, tried: int) -> KbrError | None:
        if key == gone and tried == 2:
            bench.topics.ends.pop("t2", None)  # in the middle of a pass, as its worker finds
            bench.wish.at_wait = lambda count: True if not is_looked_for else count > last + 30
            last = bench.wish.count
            return TopicMissing("t2[0]: unknown topic or partition")
        return None

    def at_wait(count: int) -> bool:
        if count == 3 and has_failed:
            bench.topics.ends["t2"] = [20]
        elif count == 3:
            bench.topics.ends.pop("t2")
        return count > 60

    bench.workers.outcome = outcome
    bench.wish.at_wait = at_wait
    report = bench.run(replace(CONTINUOUS, on_missing_topic=policy))
    assert report.exit_code == code
    assert any("t2: the topic is not in the cluster any more" in one for one in report.warnings) or (
        policy == "fail" and not is_looked_for
    )
    partition = bench.stored().topics[1].partitions[0]
    assert partition.record_count == 10
    assert partition.status is (PartitionStatus.FAILED if policy == "fail" else PartitionStatus.COMPLETE)
    assert partition.error
    if policy == "continue":
        assert "topic t2 is not in the cluster any more" in partition.error
        assert ("offsets 10 to 19 were not read before" in partition.error) is has_failed
        assert bench.run(replace(OPTIONS, on_missing_topic=policy)).exit_code == 0
        assert bench.stored().topics[1].partitions[0].error == partition.error
        assert bench.run(OPTIONS).exit_code == 3


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("continue", 0)])
def test_a_topic_that_is_deleted_while_a_one_shot_run_reads_it_is_what_it_was_asked_to_be(policy: str, code: int) -> None:
    bench = Bench(Topics(t=[10], t2=[10]))

    def outcome(key: TopicPartition, _tried: int) -> KbrError | None:
        if key.topic != "t2":
            return None
        bench.topics.ends.pop("t2", None)
        return TopicMissing("t2[0]: unknown topic or partition")

    bench.workers.outcome = outcome
    report = bench.run(replace(OPTIONS, on_missing_topic=policy))
    assert report.exit_code == code
    assert any("t2: the topic is not in the cluster any more" in one for one in report.warnings)
    assert "t2 is not in the cluster any more" in (bench.stored().topics[1].partitions[0].error or "")


# -- stops while the cluster is away -----------------------------------------------------------


def test_a_run_that_is_stopped_while_the_cluster_is_away_fails_nothing_and_says_since_when() -> None:
    bench = Bench(Topics(t=[10, 10]))
    away: list[bool] = []

    def before(name: str, _count: int) -> None:
        if away:
            raise ClusterUnavailable(f"{name}: nobody answers", hint="wait")

    def outcome(key: TopicPartition, tried: int) -> KbrError | None:
        if tried == 2:
            away.append(True)
            return ClusterUnavailable("no broker could be reached for 120 s", hint="wait")
        return None

    def at_wait(count: int) -> bool:
        if count == 3:
            bench.topics.ends["t"] = [20, 20]
        return count > 60

    bench.topics.before = before
    bench.workers.outcome = outcome
    bench.wish.at_wait = at_wait
    report = bench.run(CONTINUOUS)
    assert report.exit_code == 0
    assert bench.stored().status is RunStatus.COMPLETE
    assert {(one.next_offset, one.status, one.error) for one in bench.stored().topics[0].partitions} == {
        (10, PartitionStatus.COMPLETE, None)
    }
    assert any("the cluster was out of reach when the run was stopped; it was last heard of at " in one for one in report.warnings)


def test_a_partition_that_failed_again_and_again_before_the_cluster_went_away_stays_failed() -> None:
    bench = Bench(Topics(t=[10, 10]))
    bad = TopicPartition("t", 1)
    away: list[bool] = []

    def before(_name: str, _count: int) -> None:
        if away:
            raise ClusterUnavailable("nobody answers", hint="wait")

    def outcome(key: TopicPartition, tried: int) -> KbrError | None:
        if key == bad and tried == 3:
            away.append(True)
        return ClusterUnavailable("neither records nor the end of the log came", hint="wait") if key == bad else None

    bench.topics.before = before
    bench.workers.outcome = outcome
    bench.wish.at_wait = lambda count: count > 200
    report = bench.run(CONTINUOUS)
    assert bench.workers.tries[bad] == 3
    assert [one.status for one in report.manifest.topics[0].partitions] == [PartitionStatus.COMPLETE, PartitionStatus.FAILED]
    assert report.exit_code == 3


def test_what_a_survey_says_that_a_stop_has_cut_short_fails_no_partition() -> None:
    bench = Bench(Topics(t=[10]))

    def before(name: str, count: int) -> None:
        if name == "topics" and count == 3:
            bench.wish.note()
            bench.topics.offline = {TopicPartition("t", 0)}
        if name == "answers":
            raise ClusterUnavailable("nobody answers", hint="wait")

    bench.topics.before = before
    report = bench.run(CONTINUOUS)
    assert (report.exit_code, report.manifest.topics[0].partitions[0].status) == (0, PartitionStatus.COMPLETE)
    assert any("out of reach when the run was stopped" in one for one in report.warnings)


def test_a_run_that_is_stopped_while_the_cluster_is_there_does_not_say_that_it_was_away() -> None:
    bench = Bench(Topics(t=[10]))
    bench.workers.meanwhile = lambda: bench.wish.note()
    report = bench.run(CONTINUOUS)
    assert (report.exit_code, report.warnings) == (0, ())


def test_a_backup_that_is_stopped_before_its_first_pass_while_the_cluster_is_away_is_interrupted() -> None:
    bench = Bench(Topics(t=[10]))

    def before(name: str, _count: int) -> None:
        if name == "leaders":
            bench.wish.note()
            raise ClusterUnavailable("given up, as the run was stopped", hint="run the same command again")

    bench.topics.before = before
    report = bench.run(OPTIONS)
    assert (report.exit_code, report.manifest.status) == (130, RunStatus.INTERRUPTED)
