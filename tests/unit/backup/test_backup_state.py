"""What a backup knows of itself, pass after pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupPlan, PartitionPlan, plan_partitions
from kbr.backup.state import BackupState
from kbr.backup.task import PartitionOutcome
from kbr.errors import FetchFailed, StoreFull, WorkerCrashed
from kbr.format.documents import Manifest, SourceInfo, dump_manifest, load_manifest
from kbr.kafka.cluster import PartitionOffsets
from kbr.maintain.coverage import coverage_errors
from kbr.model import FailureKind, GapReason, PartitionStatus, RunStatus, SegmentRef, TopicPartition, TopicSpec
from kbr.telemetry.events import SegmentCommitted

KEY = TopicPartition("t", 0)
OPTIONS = BackupOptions(backup_id="b", include=("t",))
SOURCE = SourceInfo(cluster_id="c", brokers=("h:1",), isolation_level="read_committed")


def ref(sequence: int, next_offset: int, *, last: int | None = None) -> SegmentRef:
    """A segment of the records from ``sequence`` to ``last``."""
    end = next_offset - 1 if last is None else last
    return SegmentRef(
        key=f"topics/t/partition=0/segment-{sequence:020d}.zst", sequence=sequence, next_offset=next_offset,
        start_offset=sequence, end_offset=end, start_timestamp=1, end_timestamp=1, min_timestamp=1, max_timestamp=1,
        record_count=end - sequence + 1, block_count=1, raw_bytes=10, stored_bytes=10, max_record_bytes=1,
        sha256="0" * 64,
    )  # fmt: skip


def new_state(previous: Manifest | None = None) -> BackupState:
    return BackupState(OPTIONS, SOURCE, kbr_version="0", created_at_ms=1, previous=previous)


def plan(state: BackupState, start: int, end: int, *, mark: int | None = None, topic_id: str = "id", count: int = 1,
         fixed: int | None = None) -> BackupPlan:  # fmt: skip
    spec = TopicSpec(name="t", partition_count=count, replication_factor=1, topic_id=topic_id)
    offsets = {
        TopicPartition("t", number): PartitionOffsets(log_start=start, high_watermark=end if mark is None else mark, end_offset=end)
        for number in range(count)
    }
    ends = {} if fixed is None else {KEY: fixed}
    return plan_partitions([spec], offsets, {}, known=state.known(["t"]), ends=ends, now_ms=7)


def begun(state: BackupState, start: int, end: int, **more: object) -> PartitionPlan:
    made = plan(state, start, end, **more)  # type: ignore[arg-type]
    state.begin(made)
    return made.partitions[0]


def committed(state: BackupState, *references: SegmentRef) -> None:
    for reference in references:
        state.segment_committed(SegmentCommitted(topic="t", partition=0, ref=reference))


def ended(state: BackupState, next_offset: int, status: PartitionStatus = PartitionStatus.COMPLETE, error=None) -> None:
    state.partition_ended(PartitionOutcome(topic="t", partition=0, status=status, next_offset=next_offset, error=error))


def confirmed(state: BackupState, **ids: str | None) -> Manifest:
    """The manifest after a check, which has to hold together and to cover its range."""
    state.begin_check()
    state.confirm(ids or {"t": "id"})
    manifest = state.manifest(state.final_status, now_ms=9)
    assert load_manifest(dump_manifest(manifest), name="m") == manifest
    for topic in manifest.topics:
        for partition in topic.partitions:
            assert coverage_errors(partition) == []
    return manifest


def test_a_finished_backup_with_nothing_new_has_not_changed() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    first = confirmed(state)
    assert first.status is RunStatus.COMPLETE
    again = new_state(first)
    assert begun(again, 0, 10).offsets.is_empty
    assert not again.changed
    assert not again.is_newer
    assert again.final_status is RunStatus.COMPLETE


def test_what_retention_takes_of_a_finished_backup_changes_nothing() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    again = new_state(confirmed(state))
    assert begun(again, 10, 10).offsets.is_empty
    assert not again.changed


def test_segments_are_listed_only_once_it_is_known_that_the_topic_is_still_the_same() -> None:
    state = new_state()
    begun(state, 0, 20)
    committed(state, ref(0, 10))
    state.begin_check()
    committed(state, ref(10, 20))  # while the cluster was asked
    state.confirm({"t": "id"})
    listed = state.manifest(RunStatus.RUNNING, now_ms=9).topics[0].partitions[0]
    assert [one.sequence for one in listed.segments] == [0]
    assert listed.next_offset == 10
    assert listed.status is not PartitionStatus.COMPLETE


def test_what_was_read_since_the_last_check_of_a_topic_that_was_made_anew_is_never_listed() -> None:
    state = new_state()
    begun(state, 0, 30)
    committed(state, ref(0, 10))
    confirmed(state)
    committed(state, ref(10, 20), ref(20, 30))
    ended(state, 30)
    manifest = confirmed(state, t="another")
    partition = manifest.topics[0].partitions[0]
    assert [one.sequence for one in partition.segments] == [0]
    assert partition.status is PartitionStatus.FAILED
    assert "made anew" in (partition.error or "")
    assert manifest.status is RunStatus.INCOMPLETE
    assert manifest.topics[0].topic_id == "id"


def test_a_topic_that_is_gone_keeps_what_was_read_of_it() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    assert confirmed(state, t=None).topics[0].partitions[0].record_count == 10


def test_a_gap_is_counted_once_however_often_the_backup_goes_on() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    state = new_state(confirmed(state))
    begun(state, 15, 20)
    committed(state, ref(15, 20))
    ended(state, 20)
    assert state.counts.gaps == 1
    for _ in range(3):
        manifest = confirmed(state)
        (gap,) = manifest.topics[0].partitions[0].gaps
        assert (gap.start_offset, gap.end_offset_exclusive, gap.reason) == (10, 15, GapReason.RETENTION)
        assert manifest.status is RunStatus.INCOMPLETE
        state = new_state(manifest)
        begun(state, 15, 20)
        assert state.counts.gaps == 0
        assert not state.changed


def test_everything_new_lost_is_a_gap_at_the_end_and_the_next_segment_follows_it() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    state = new_state(confirmed(state))
    assert begun(state, 20, 20).offsets.is_empty
    state = new_state(confirmed(state))
    assert begun(state, 20, 25).sequence == 20
    committed(state, ref(20, 25))
    ended(state, 25)
    assert [one.sequence for one in confirmed(state).topics[0].partitions[0].segments] == [0, 20]


def test_a_partition_that_ended_in_holes_goes_on_without_a_gap() -> None:
    state = new_state()
    begun(state, 0, 12)
    committed(state, ref(0, 10))
    ended(state, 12)  # 10 and 11 are transaction markers
    state = new_state(confirmed(state))
    going_on = begun(state, 0, 20)
    assert (going_on.sequence, going_on.offsets.start_offset) == (10, 12)
    committed(state, replace(ref(10, 20), start_offset=12, record_count=8))
    ended(state, 20)
    assert confirmed(state).status is RunStatus.COMPLETE


def test_an_open_transaction_is_said_while_it_is_open_and_forgotten_when_it_has_ended() -> None:
    state = new_state()
    begun(state, 0, 10, mark=15)
    committed(state, ref(0, 10))
    ended(state, 10)
    first = confirmed(state)
    assert first.status is RunStatus.INCOMPLETE
    assert first.topics[0].partitions[0].gaps[0].reason is GapReason.OPEN_TRANSACTION
    state = new_state(first)
    begun(state, 0, 10, mark=15)
    assert not state.changed
    begun(state, 0, 15)
    committed(state, ref(10, 15))
    ended(state, 15)
    assert confirmed(state).topics[0].partitions[0].gaps == ()


def test_segments_of_a_killed_run_are_taken_over_in_order() -> None:
    state = new_state()
    begun(state, 0, 30)
    killed = confirmed(state)
    state = new_state(killed)
    assert state.found(KEY, [ref(0, 10), ref(10, 20)], log_start=0, now_ms=7) == []
    assert begun(state, 0, 40).offsets.start_offset == 20
    committed(state, ref(20, 40))
    ended(state, 40)
    assert [one.sequence for one in confirmed(state).topics[0].partitions[0].segments] == [0, 10, 20]
    assert state.counts.segments == 3


def test_segments_behind_missing_ones_are_left_alone_as_long_as_the_log_has_those() -> None:
    state = new_state()
    begun(state, 0, 30)
    state = new_state(confirmed(state))
    assert state.found(KEY, [ref(10, 20)], log_start=0, now_ms=7) == [ref(10, 20)]
    assert begun(state, 0, 30).offsets.start_offset == 0


def test_segments_behind_what_retention_took_are_taken_over_with_a_gap() -> None:
    state = new_state()
    begun(state, 0, 30)
    state = new_state(confirmed(state))
    assert state.found(KEY, [ref(10, 20)], log_start=12, now_ms=7) == []
    assert begun(state, 12, 30).offsets.start_offset == 20
    (gap,) = confirmed(state).topics[0].partitions[0].gaps
    assert (gap.start_offset, gap.end_offset_exclusive) == (0, 10)


def test_fewer_partitions_than_before_are_an_error_even_without_topic_ids() -> None:
    state = new_state()
    begun(state, 0, 10, count=2, topic_id="")
    state = new_state(confirmed(state, none="x"))
    begun(state, 0, 10, count=1, topic_id="")
    first, second = state.manifest(RunStatus.RUNNING, now_ms=1).topics[0].partitions
    assert second.status is PartitionStatus.FAILED
    assert "1 partition now" in (second.error or "")
    assert first.status is PartitionStatus.FAILED


def test_new_partitions_join() -> None:
    state = new_state()
    begun(state, 0, 10)
    state = new_state(confirmed(state))
    begun(state, 0, 10, count=3)
    manifest = confirmed(state)
    assert manifest.topics[0].partition_count == 3
    assert len(manifest.topics[0].partitions) == 3


def test_a_stop_of_a_continuous_backup_ends_its_ranges_where_they_have_come_to() -> None:
    state = new_state()
    begun(state, 0, 100)
    committed(state, ref(0, 10))
    ended(state, 10, PartitionStatus.PARTIAL)
    state.begin_check()
    state.confirm({"t": "id"})
    state.end_here()
    manifest = confirmed(state)
    assert manifest.status is RunStatus.COMPLETE
    assert manifest.topics[0].partitions[0].end_offset_exclusive == 10


def test_only_the_store_or_the_cluster_is_a_failure_of_the_whole_run() -> None:
    for error, common in ((StoreFull("full"), True), (FetchFailed("bad batch"), False), (WorkerCrashed("died"), False)):
        state = new_state()
        begun(state, 0, 10)
        ended(state, 0, PartitionStatus.FAILED, error)
        assert (state.common_failure is error) is common


@pytest.mark.parametrize("status", [PartitionStatus.COMPLETE, PartitionStatus.PARTIAL])
def test_a_worker_s_end_before_the_end_of_the_range_is_not_complete(status: PartitionStatus) -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 5))
    ended(state, 5, status)
    assert confirmed(state).topics[0].partitions[0].status is PartitionStatus.PARTIAL


def test_gaps_that_follow_one_another_are_counted_once_each() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    state = new_state(confirmed(state))
    begun(state, 50, 60)
    for _ in range(3):  # before anything of it was read, retention has taken that, too
        begun(state, 70, 90, fixed=60)
    partition = confirmed(state).topics[0].partitions[0]
    assert [(gap.start_offset, gap.end_offset_exclusive) for gap in partition.gaps] == [(10, 50), (50, 60)]
    assert partition.status is PartitionStatus.COMPLETE
    assert state.position(KEY) == partition.position == 60


def test_a_transaction_that_was_open_when_the_end_was_fixed_is_said_though_it_has_ended_at_another_try() -> None:
    for later_end, later_mark in ((15, 15), (12, 20), (10, 15)):
        state = new_state()
        begun(state, 0, 10, mark=15)
        committed(state, ref(0, 5))
        ended(state, 5, PartitionStatus.FAILED, FetchFailed("a disk of the broker"))
        begun(state, 0, later_end, mark=later_mark, fixed=10)
        committed(state, ref(5, 10))
        ended(state, 10)
        (gap,) = confirmed(state).topics[0].partitions[0].gaps
        assert (gap.start_offset, gap.end_offset_exclusive, gap.reason) == (10, 15, GapReason.OPEN_TRANSACTION)


def test_a_log_that_was_cut_is_never_gone_on_with_though_it_grows_past_what_was_read() -> None:
    state = new_state()
    begun(state, 0, 100)
    committed(state, ref(0, 100))
    ended(state, 100)
    state = new_state(confirmed(state))
    begun(state, 0, 90)
    for end in (95, 120):
        state = new_state(confirmed(state))
        going_on = begun(state, 0, end)
        assert going_on.offsets.is_empty
        manifest = confirmed(state)
        assert manifest.status is RunStatus.INCOMPLETE
        assert "the log ended at offset 90, before offset 100" in (manifest.topics[0].partitions[0].error or "")
        assert manifest.topics[0].partitions[0].record_count == 100


def test_a_topic_that_was_made_anew_with_more_partitions_gives_nothing_to_the_backup() -> None:
    state = new_state()
    begun(state, 0, 10)
    committed(state, ref(0, 10))
    ended(state, 10)
    state = new_state(confirmed(state))
    made = plan(state, 0, 10, topic_id="another", count=3)
    assert made.offset_count == 0
    state.begin(made)
    assert state.unfinished(one.key for one in made.partitions) == [KEY]
    (partition,) = confirmed(state, t="another").topics[0].partitions
    assert (partition.status, partition.record_count) == (PartitionStatus.FAILED, 10)


def test_a_topic_that_was_found_to_be_made_anew_stays_so_whatever_its_worker_says_afterwards() -> None:
    state = new_state()
    begun(state, 0, 30)
    committed(state, ref(0, 10))
    confirmed(state, t="another")
    committed(state, ref(10, 20))
    ended(state, 30)
    assert not state.has_unconfirmed
    for _ in range(2):
        manifest = confirmed(state, t=None)
        assert manifest.status is RunStatus.INCOMPLETE
        assert "made anew" in (manifest.topics[0].partitions[0].error or "")
        assert (manifest.topics[0].partitions[0].record_count, manifest.topics[0].partitions[0].next_offset) == (0, 0)
        state = new_state(manifest)
        state.topic_gone("t")


def test_segments_of_a_run_that_had_lost_its_lock_keep_none_from_being_taken_over() -> None:
    state = new_state()
    begun(state, 0, 30)
    state = new_state(confirmed(state))
    assert state.found(KEY, [ref(0, 20), ref(10, 15), ref(20, 30)], log_start=0, now_ms=7) == [ref(10, 15)]
    assert state.position(KEY) == 30
    confirmed(state)


def older(manifest: Manifest) -> Manifest:
    """As it was before manifests said what a failure means."""
    topics = tuple(
        replace(topic, partitions=tuple(replace(one, failure=None) for one in topic.partitions)) for topic in manifest.topics
    )
    return replace(manifest, topics=topics)


@pytest.mark.parametrize("is_older", [False, True])
def test_a_manifest_says_what_a_failure_means_for_later_runs_and_an_older_one_by_its_words(is_older: bool) -> None:
    state = new_state()
    begun(state, 0, 100)
    committed(state, ref(0, 100))
    ended(state, 100)
    state = new_state(confirmed(state))
    begun(state, 0, 90)
    manifest = confirmed(state)
    assert manifest.topics[0].partitions[0].failure is FailureKind.LASTING
    state = new_state(older(manifest) if is_older else manifest)
    assert begun(state, 0, 120).offsets.is_empty
    assert confirmed(state).topics[0].partitions[0].failure is FailureKind.LASTING


@pytest.mark.parametrize("is_older", [False, True])
def test_a_partition_whose_offsets_were_never_told_begins_where_its_log_does_when_they_are(is_older: bool) -> None:
    spec = TopicSpec(name="t", partition_count=1, replication_factor=1, topic_id="id")
    state = new_state()
    for _ in range(2):
        state.begin(plan_partitions([spec], {}, {KEY: "no leader"}, known=state.known(["t"]), ends={}, now_ms=7))
        manifest = state.manifest(state.final_status, now_ms=9)
        assert manifest.topics[0].partitions[0].failure is FailureKind.UNSEEN
        assert manifest.topics[0].partitions[0].error == "no leader; it has not been seen yet"
        state = new_state(older(manifest) if is_older else manifest)
    going_on = begun(state, 40, 100)
    assert (going_on.offsets.start_offset, going_on.gaps) == (40, ())
    committed(state, ref(40, 100))
    ended(state, 100)
    assert confirmed(state).topics[0].partitions[0].failure is None


def test_what_a_worker_says_in_the_words_of_a_lasting_failure_lasts_no_longer_than_another() -> None:
    state = new_state()
    begun(state, 0, 30)
    ended(state, 0, PartitionStatus.FAILED, FetchFailed("what is in the backup stays as it was, take care"))
    manifest = confirmed(state)
    assert manifest.topics[0].partitions[0].failure is FailureKind.PASSING
    assert not begun(new_state(manifest), 0, 30).offsets.is_empty
