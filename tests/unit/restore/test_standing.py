"""Where a restore begins in its target, what its notes are worth, and how long it waits before it believes its eyes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import (
    AccessDenied,
    ClusterUnavailable,
    CorruptSegment,
    KbrError,
    OffsetOutOfRange,
    ProduceFailed,
    RestoreStateUnreadable,
    StoreUnavailable,
    TargetChanged,
    TopicNotEmpty,
    WorkerCrashed,
)
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import TopicPartition, TopicSpec
from kbr.repository.layout import offset_map_key, restore_state_key
from kbr.restore.check import PartitionStart
from kbr.restore.identity import restore_id_of
from kbr.restore.journal import RestoreJournal
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.restore.settling import DEADLINE_S, QUIET_S, Settler
from kbr.restore.standing import Standing, known_topics, stand
from kbr.restore.waiting import StopFlag
from kbr.restore.window import TimeWindow
from tests.support.backups import RecordingStore
from tests.support.clocks import FakeClock

TARGET = TopicPartition("back", 0)
PLAN = RestorePlan(
    backup_id="b",
    window=TimeWindow(),
    topics=(),
    partitions=(PartitionPlan(source=TopicPartition("orders", 0), target=TARGET, segments=()),),
    warnings=(),
)
SPEC = TopicSpec(name="back", partition_count=1, replication_factor=1, topic_id="id-1")


def _state(*, status: RestoreStatus = RestoreStatus.RUNNING, **topic: object) -> RestoreState:
    values: dict[str, object] = {
        "name": "back", "topic_id": "id-1", "made": True, "configs_afterwards": {}, "bases": (5,), **topic
    }  # fmt: skip
    return RestoreState(
        kbr_version="0", backup_id="b", restore_id="0" * 32, cluster_id="c", status=status, created_at_ms=0, updated_at_ms=0,
        topics=(RestoredTopic(**values),),  # type: ignore[arg-type]
    )  # fmt: skip


def _offsets(start: int, end: int) -> dict[TopicPartition, PartitionOffsets | KbrError]:
    return {TARGET: PartitionOffsets(log_start=start, high_watermark=end, end_offset=end)}


def _stand(state: RestoreState | None, start: int, end: int, *, append: bool = False) -> Standing:
    offsets = _offsets(start, end)
    known = known_topics(state, {"back": SPEC}, offsets)
    return stand(PLAN, known, None if state is None else state.status, offsets, append=append)[TARGET]


def test_notes_say_where_the_restore_began() -> None:
    assert _stand(_state(), 0, 12) == Standing(base=5, claimed=7, log_start=0, noted=True)
    assert _stand(_state(), 9, 12).claimed == 7


def test_without_notes_a_target_is_compared_from_its_beginning() -> None:
    assert _stand(None, 0, 12) == Standing(base=0, claimed=12, log_start=0, noted=False)
    assert _stand(None, 8, 8) == Standing(base=8, claimed=0, log_start=8, noted=False)
    with pytest.raises(TopicNotEmpty, match="can't be compared"):
        _stand(None, 3, 12)


@pytest.mark.parametrize("change", [{"topic_id": "id-0"}, {"bases": (13,)}])
def test_notes_about_another_topic_of_that_name_are_worth_nothing(change: dict[str, object]) -> None:
    assert not _stand(_state(**change), 0, 12).noted


def test_appending_counts_from_its_notes_also_in_a_topic_that_has_lost_records_from_before() -> None:
    """The same topic, by its id: begun anew, its other partitions would get all of the records twice."""
    target = TopicPartition("back", 1)
    plan = replace(PLAN, partitions=(*PLAN.partitions, replace(PLAN.partitions[0], source=TopicPartition("orders", 1), target=target)))
    offsets = {**_offsets(0, 3), target: PartitionOffsets(log_start=0, high_watermark=40, end_offset=40)}
    state = _state(bases=(5, 30))
    known = known_topics(state, {"back": SPEC}, offsets)
    found = stand(plan, known, state.status, offsets, append=True)
    assert found[target] == Standing(base=30, claimed=10, log_start=0, noted=True)
    assert found[TARGET] == Standing(base=5, claimed=-2, log_start=0, noted=True)
    # all is compared where nothing else is wanted than the backup's records
    found = stand(plan, known, state.status, offsets, append=False)
    assert found[TARGET] == Standing(base=0, claimed=3, log_start=0, noted=False)
    # a cluster that has no ids: another topic, by all that can be told
    assert known_topics(_state(topic_id="", bases=(5, 30)), {"back": replace(SPEC, topic_id="")}, offsets) == {}


def test_a_topic_that_was_about_to_be_made_is_the_restores_own() -> None:
    state = _state(topic_id="", bases=(None,), configs_afterwards={"a": "b"})
    assert known_topics(state, {"back": SPEC}, _offsets(0, 0))["back"].configs_afterwards == {"a": "b"}
    assert _stand(state, 0, 0).base == 0


def test_appending_begins_behind_what_is_there_unless_a_run_was_interrupted() -> None:
    assert _stand(None, 0, 12, append=True).base == 12
    assert _stand(None, 3, 12, append=True).base == 12
    assert _stand(_state(status=RestoreStatus.COMPLETE), 0, 12, append=True).base == 12
    assert _stand(_state(), 0, 12, append=True).base == 5
    assert _stand(_state(status=RestoreStatus.COMPLETE), 0, 12).base == 5


def test_the_same_command_is_the_same_restore_and_what_changes_records_makes_another() -> None:
    options = RestoreOptions(backup_id="b", include=("x", "y"), topic_mapping={"x": "z", "y": "y"})
    same = restore_id_of(options, "cluster")
    for change in (
        {"include": ("y", "x")}, {"topic_mapping": {"x": "z"}}, {"workers": 3}, {"append": True}, {"compression": "zstd"},
        {"bytes_per_s": 5}, {"accept_cleanup": True}, {"topic_configs": {"a": "b"}},
    ):  # fmt: skip
        assert restore_id_of(replace(options, **change), "cluster") == same  # type: ignore[arg-type]
    others = {restore_id_of(options, "another")}
    for change in (
        {"backup_id": "c"}, {"include": ("x",)}, {"exclude": ("q",)}, {"time_window_start_ms": 1}, {"time_window_end_ms": 1},
        {"topic_mapping": {"x": "q"}}, {"partition_mapping": {"x": {0: 1}}}, {"include_original_offset_header": True},
        {"zero_timestamp_as": 1},
    ):  # fmt: skip
        others.add(restore_id_of(replace(options, **change), "cluster"))  # type: ignore[arg-type]
    assert len(others) == 10
    assert same not in others


# -- the journal --------------------------------------------------------------------------


def _journal(store: RecordingStore, *, append: bool = False) -> RestoreJournal:
    return RestoreJournal(store, "b", "a" * 32, "cluster", append=append, clock=FakeClock())


def test_notes_are_found_by_the_next_run_and_completed_once() -> None:
    store = RecordingStore()
    journal = _journal(store)
    assert journal.load() is None
    journal.note(_state().topics, RestoreStatus.RUNNING)
    found = _journal(store).load()
    assert found is not None
    assert (found.status, found.topics) == (RestoreStatus.RUNNING, _state().topics)
    journal.complete(is_mapped=True)
    journal.complete(is_mapped=True)
    assert [key for operation, key in store.calls if operation == "put"] == [restore_state_key("b", "a" * 32)] * 2
    again = _journal(store).load()
    assert again is not None
    assert again.status is RestoreStatus.COMPLETE


def test_a_mapping_from_before_the_last_records_does_not_count_when_those_have_none() -> None:
    store, clock = RecordingStore(), FakeClock()
    for is_there, is_mapped, later_ms in ((False, False, 0), (True, True, 0), (True, False, 2000)):
        begun_ms = clock.now_ms()
        journal = RestoreJournal(store, "b", "a" * 32, "cluster", append=False, clock=clock)
        journal.note(_state().topics, RestoreStatus.RUNNING)
        if is_there:
            store.put(offset_map_key("b", "a" * 32), b"mapping")
        clock.sleep(2)
        journal.complete(is_mapped=is_mapped)
        assert journal.state is not None
        assert (journal.state.created_at_ms, journal.state.status) == (begun_ms + later_ms, RestoreStatus.COMPLETE)


def test_a_restore_that_is_begun_anew_is_younger_than_the_last_ones_mapping_also_by_a_clock_that_was_set_back() -> None:
    store, clock = RecordingStore(), FakeClock()
    journal = RestoreJournal(store, "b", "a" * 32, "cluster", append=True, clock=clock)
    journal.note(_state().topics, RestoreStatus.RUNNING)
    clock.sleep(60)
    mapped_ms = clock.now_ms()
    journal.complete(is_mapped=True)
    assert journal.is_as_noted()
    again = RestoreJournal(store, "b", "a" * 32, "cluster", append=True, clock=FakeClock())
    again.load()
    again.note(_state().topics, RestoreStatus.RUNNING)
    assert again.state is not None
    assert again.state.created_at_ms > mapped_ms
    assert not journal.is_as_noted()


def test_a_store_that_can_not_be_written_to_is_warned_of_once() -> None:
    store = RecordingStore()
    store.fail["put"] = AccessDenied("no")
    journal = _journal(store)
    journal.note(_state().topics, RestoreStatus.RUNNING)
    journal.complete(is_mapped=False)
    (warning,) = journal.warnings
    assert "can't be noted" in warning
    store.fail["put"] = StoreUnavailable("later")
    with pytest.raises(StoreUnavailable):
        _journal(store).note(_state().topics, RestoreStatus.RUNNING)


def test_notes_that_may_not_be_read_are_only_done_without_where_nothing_is_added_twice() -> None:
    store = RecordingStore()
    store.fail["get"] = AccessDenied("no")
    journal = _journal(store)
    assert journal.load() is None
    assert len(journal.warnings) == 1
    with pytest.raises(AccessDenied):
        _journal(store, append=True).load()


def test_notes_of_another_restore_in_the_place_are_an_error() -> None:
    store = RecordingStore()
    _journal(store).note((), RestoreStatus.RUNNING)
    store.put(restore_state_key("b", "c" * 32), store.data(restore_state_key("b", "a" * 32)))
    other = RestoreJournal(store, "b", "c" * 32, "cluster", append=False, clock=FakeClock())
    with pytest.raises(RestoreStateUnreadable, match="another restore's"):
        other.load()


# -- coming to rest -----------------------------------------------------------------------


class _Cluster:
    """A partition whose end moves as its script says: from so many seconds on, it is at that offset."""

    def __init__(self, clock: FakeClock, script: dict[float, int]) -> None:
        self._clock = clock
        self._script = script

    @property
    def mark(self) -> int:
        return [mark for since, mark in self._script.items() if since <= self._clock.monotonic()][-1]

    def offsets(self, partitions, level):
        assert level == "read_uncommitted"
        return {one: PartitionOffsets(log_start=0, high_watermark=self.mark, end_offset=self.mark) for one in partitions}

    def high_watermarks(self, partitions):
        return dict.fromkeys(partitions, self.mark)


class _Check:
    """Believes everything."""

    def __init__(self, errors: int = 0) -> None:
        self.asked: list[int] = []
        self._errors = errors

    def starts(self, partitions, standings, *, refuse):
        if self._errors:
            self._errors -= 1
            raise OffsetOutOfRange("gone")
        self.asked += [standings[one.target].claimed for one in partitions]
        return {
            one.target: PartitionStart(kept=standings[one.target].claimed, offset_from=0, target_offset=0)
            for one in partitions
        }


def _settle(script: dict[float, int], *, watch: bool = True, check: _Check | None = None) -> tuple[int, float, _Check]:
    clock, check = FakeClock(), check or _Check()
    settler = Settler(_Cluster(clock, script), check, StopFlag(), clock)  # type: ignore[arg-type]
    starts = settler.starts(
        PLAN.partitions, lambda offsets: stand(PLAN, {}, None, offsets, append=False), watch=watch, refuse=True
    )
    start = starts[TARGET]
    assert isinstance(start, PartitionStart)
    return start.kept, clock.monotonic(), check


def test_a_target_at_rest_is_watched_for_a_while_and_then_believed() -> None:
    kept, took, check = _settle({0: 10})
    assert (kept, check.asked) == (10, [10])
    assert QUIET_S <= took < QUIET_S + 1


def test_records_that_arrive_late_are_waited_for_and_compared_too() -> None:
    kept, took, check = _settle({0: 10, 2: 20, 6.5: 30})
    assert (kept, check.asked) == (30, [10, 30])
    assert 6.5 + QUIET_S <= took < 6.5 + QUIET_S + 1.1


def test_nobody_waits_for_a_target_that_nothing_was_sent_to() -> None:
    assert _settle({0: 0}, watch=False)[1] == 0


def test_a_target_that_never_comes_to_rest_is_refused() -> None:
    with pytest.raises(TargetChanged, match="still arrive") as caught:
        _settle({float(second): second for second in range(int(2 * DEADLINE_S))})
    assert caught.value.exit_code == 13


def test_a_beginning_that_retention_takes_away_meanwhile_is_looked_at_again() -> None:
    assert _settle({0: 10}, check=_Check(errors=2))[0] == 10
    with pytest.raises(OffsetOutOfRange):
        _settle({0: 10}, check=_Check(errors=9))


def test_a_partition_without_offsets_is_never_taken_for_an_empty_one() -> None:
    clock = FakeClock()
    cluster = _Cluster(clock, {0: 10})
    cluster.offsets = lambda partitions, level: {one: ClusterUnavailable("no leader") for one in partitions}  # type: ignore[method-assign]
    settler = Settler(cluster, _Check(), StopFlag(), clock)  # type: ignore[arg-type]

    def starts(*, refuse: bool):
        return settler.starts(
            PLAN.partitions, lambda offsets: stand(PLAN, {}, None, offsets, append=False), watch=False, refuse=refuse
        )

    with pytest.raises(ClusterUnavailable):
        starts(refuse=True)
    assert isinstance(starts(refuse=False)[TARGET], ClusterUnavailable)


def test_what_may_pass_is_told_from_what_stays() -> None:
    from kbr.restore.retry import may_pass

    assert may_pass(WorkerCrashed("killed"))
    assert may_pass(ClusterUnavailable("no broker"))
    assert may_pass(ProduceFailed("fatal", code=45))
    assert may_pass(TargetChanged("late", before_sending=True))
    assert not may_pass(TargetChanged("in between"))
    assert not may_pass(ProduceFailed("too large", code=10))
    assert not may_pass(ProduceFailed("timestamp 0"))
    assert not may_pass(CorruptSegment("damaged"))
