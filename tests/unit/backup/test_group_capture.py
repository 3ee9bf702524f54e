"""What a backup keeps of consumer groups, and when it asks for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from kbr.backup.groups import GroupCapture
from kbr.errors import AccessDenied, AuthorizationFailed, ClusterUnavailable, FetchFailed, KbrError, Locked
from kbr.format import groups as format_groups
from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.groups import GroupListing, GroupStanding
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.repository.groups import load_snapshot
from kbr.storage.memory import MemoryStore
from tests.support.clocks import FakeClock
from tests.unit.backup.test_coordinator import CONTINUOUS, OPTIONS, Bench, Topics

OFFSETS = {TopicPartition("t", 0): PartitionOffsets(log_start=0, high_watermark=10, end_offset=10)}


class Groups:
    """A cluster's groups: offsets by group."""

    def __init__(self, clock: FakeClock, **committed: dict[TopicPartition, int]) -> None:
        self.clock = clock
        self.committed = committed
        self.cost_s = 0.0
        self.asked = 0
        self.error: KbrError | None = None
        self.unread: dict[str, KbrError] = {}
        #: Their coordinator has just started: it answers for them, and does not list them.
        self.unlisted: set[str] = set()
        #: The user may not see them: they are not listed either.
        self.hidden: set[str] = set()
        self.wait_s = 0.0
        self.on_ask: Callable[[], None] = lambda: None

    def listed(self) -> list[GroupListing]:
        self.asked += 1
        self.on_ask()
        self.clock.advance(self.wait_s)
        if self.error is not None:
            raise self.error
        names = sorted(self.committed.keys() - self.unlisted)
        return [GroupListing(group=name, kind="classic", state="Empty") for name in names]

    def describe(self, groups: Iterable[str]) -> dict[str, GroupStanding | KbrError]:
        return {
            name: AuthorizationFailed(f"not allowed; missing right: Describe on group {name}")
            if name in self.hidden
            else GroupStanding(state="Dead", member_count=0)
            for name in groups
        }

    def offsets(self, listings: Iterable[GroupListing]) -> tuple[list[GroupOffsets], dict[str, KbrError]]:
        self.clock.advance(self.cost_s)
        found = [
            GroupOffsets(
                group=one.group, kind=one.kind, state=one.state,
                offsets={key: CommittedOffset(offset=offset) for key, offset in self.committed.get(one.group, {}).items()},
            )
            for one in listings
            if one.group not in self.unread
        ]  # fmt: skip
        return found, self.unread


class Capture:
    """A capture, with what it writes to."""

    def __init__(self, patterns: tuple[str, ...] = ("*",), **committed: dict[TopicPartition, int]) -> None:
        self.clock = FakeClock()
        self.store: Any = MemoryStore("memory://b")
        self.groups = Groups(self.clock, **committed)
        self.checked = 0
        self.locked = False
        self.it = GroupCapture(
            self.groups,  # type: ignore[arg-type]
            self.store,
            backup_id="b",
            cluster_id="c",
            patterns=patterns,
            check_lock=self._check,
            clock=self.clock,
        )

    def _check(self) -> None:
        self.checked += 1
        if self.locked:
            raise Locked("another run has it")

    def both(self) -> None:
        self.it.look()
        self.it.keep({"t": 2}, OFFSETS)


def test_offsets_of_the_backups_topics_are_kept_and_others_counted() -> None:
    capture = Capture(
        a={TopicPartition("t", 0): 4, TopicPartition("t", 7): 1, TopicPartition("x", 0): 9},
        b={TopicPartition("gone", 0): 1},
        none={},
    )
    capture.both()
    snapshot = load_snapshot(capture.store, "b")
    assert [(one.group, {key: value.offset for key, value in one.offsets.items()}) for one in snapshot.groups] == [
        ("a", {TopicPartition("t", 0): 4})
    ]
    assert snapshot.other_offsets == 3
    assert snapshot.log_ends == {"t": (10, -1)}
    assert snapshot.captured_at_ms == capture.clock.now_ms()
    counts = capture.it.counts
    assert (counts.groups, counts.offsets, counts.other_offsets, counts.failed) == (1, 1, 3, ())


def test_only_the_groups_that_were_named_are_taken() -> None:
    place = {TopicPartition("t", 0): 1}
    capture = Capture(("bill*", "[!a]x"), billing=place, search=place, ax=place, bx=place)
    capture.both()
    assert [one.group for one in load_snapshot(capture.store, "b").groups] == ["billing", "bx"]


def test_a_named_group_that_may_not_be_seen_is_a_failure_that_names_the_right() -> None:
    capture = Capture(("a", "dark", "typo"), a={TopicPartition("t", 0): 4})
    capture.groups.hidden = {"dark"}
    capture.both()
    assert capture.it.counts.failed == ("consumer group dark: not allowed; missing right: Describe on group dark",)
    assert capture.it.counts.warnings == ("no consumer group matches typo: nothing is kept of it",)


def test_that_no_group_at_all_is_to_be_seen_is_told() -> None:
    capture = Capture(("*",))
    capture.both()
    assert "lacks Describe on the groups" in capture.it.counts.warnings[0]


def test_a_name_that_no_group_has_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    capture = Capture(("*", "a", "typo", "x*"), a={TopicPartition("t", 0): 4})
    capture.both()
    capture.clock.advance(100)
    capture.both()
    assert [one.getMessage() for one in caplog.records] == [
        "no consumer group matches typo: nothing is kept of it",
        "no consumer group matches x*: nothing is kept of it",
    ]
    assert capture.it.counts.warnings == tuple(one.getMessage() for one in caplog.records)
    assert capture.it.counts.failed == ()
    # of a group that comes later, a continuous run has nothing to say in the end
    capture.groups.committed["typo"] = {TopicPartition("t", 0): 1}
    capture.clock.advance(100)
    capture.both()
    assert capture.it.counts.warnings == ("no consumer group matches x*: nothing is kept of it",)


def test_groups_of_an_earlier_run_that_go_with_this_one_are_named(caplog: pytest.LogCaptureFixture) -> None:
    place = {TopicPartition("t", 0): 4}
    first = Capture(**dict.fromkeys(["a", "b", "c", "d", "e", "f", "g", "h"], place))
    first.both()
    assert first.it.counts.warnings == ()
    later = Capture(("h", "a"), **dict.fromkeys("agh", place))
    later.it._store = first.store
    later.both()
    words = "6 consumer groups of an earlier run, not asked for any more, went from the backup: b, c, d, e, f and 1 more"
    assert later.it.counts.warnings == (words,)
    assert [one.getMessage() for one in caplog.records] == [words]
    assert [one.group for one in load_snapshot(first.store, "b").groups] == ["a", "h"]
    # told by the run that did it, and not by the next one; a group that was deleted was asked for
    last = Capture(("h", "a"), h=place)
    last.it._store = first.store
    last.both()
    assert last.it.counts.warnings == ()


def test_groups_that_are_not_written_over_are_not_called_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Capture(a={TopicPartition("t", 0): 4})
    first.both()
    later = Capture(("b",), b={TopicPartition("t", 0): 4})
    later.it._store = first.store

    def put(*_: object, **__: object) -> None:
        raise AccessDenied("no right to write")

    monkeypatch.setattr(later.it._store, "put", put)
    later.both()
    assert later.it.counts.warnings == ()
    assert later.it.counts.failed


def test_what_has_not_changed_is_not_written_again() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.both()
    before = load_snapshot(capture.store, "b")
    capture.clock.advance(100)
    capture.both()
    assert load_snapshot(capture.store, "b") == before
    capture.groups.committed["a"][TopicPartition("t", 0)] = 5
    capture.clock.advance(100)
    capture.both()
    assert load_snapshot(capture.store, "b").captured_at_ms == before.captured_at_ms + 200_000


def test_captures_take_a_small_share_of_the_time_however_many_groups_there_are() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.groups.cost_s = 3.0
    for _ in range(100):
        capture.both()
        capture.clock.advance(10)
    # of 1,000 s
    assert capture.groups.asked <= 8


def test_a_group_that_its_starting_coordinator_does_not_list_is_asked_for() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4}, b={TopicPartition("t", 0): 5})
    capture.both()
    before = load_snapshot(capture.store, "b")
    capture.groups.unlisted = {"a", "b"}
    capture.groups.committed["b"][TopicPartition("t", 0)] = 6
    capture.clock.advance(100)
    capture.both()
    snapshot = load_snapshot(capture.store, "b")
    assert [(one.group, one.kind, one.state) for one in snapshot.groups] == [
        (one.group, one.kind, one.state) for one in before.groups
    ]
    assert [[value.offset for value in one.offsets.values()] for one in snapshot.groups] == [[4], [6]]
    # a later run knows those of the backup; one that is deleted has no offsets any more, and goes
    later = Capture(b={TopicPartition("t", 0): 6})
    later.it._store = capture.store
    later.groups.unlisted = {"b"}
    later.both()
    assert [one.group for one in load_snapshot(capture.store, "b").groups] == ["b"]


def test_waiting_for_brokers_is_no_cost_of_the_groups() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.groups.wait_s = 50.0
    capture.both()
    capture.groups.committed["a"][TopicPartition("t", 0)] = 5
    capture.clock.advance(1)
    capture.both()
    assert capture.groups.asked == 2


def test_what_the_backup_has_of_groups_whose_coordinator_is_away_stays() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4}, b={TopicPartition("t", 0): 5})
    capture.both()
    before = load_snapshot(capture.store, "b")
    capture.groups.unread = {"b": ClusterUnavailable("no coordinator")}
    capture.groups.cost_s = 60.0
    capture.clock.advance(100)
    capture.both()
    assert load_snapshot(capture.store, "b") == before
    assert capture.it.counts.failed == ("the consumer groups could not be read anew: b: no coordinator",)
    capture.groups.unread = {}
    capture.groups.cost_s = 0.0
    capture.clock.advance(300)
    capture.both()
    assert capture.it.counts.failed == ()


def test_groups_beyond_the_limit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbr.backup.groups.MAX_GROUPS", 2)
    place = {TopicPartition("t", 0): 1}
    capture = Capture(a=place, b=place, c=place)
    capture.both()
    assert len(load_snapshot(capture.store, "b").groups) == 2
    assert "1 consumer group was left out" in capture.it.counts.failed[0]
    assert format_groups.MAX_GROUPS == 10_000


def test_what_can_not_be_read_is_told_and_holds_up_nothing() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.groups.error = ClusterUnavailable("nobody answers")
    capture.both()
    assert "nobody answers" in capture.it.counts.failed[0]
    assert capture.store.list("") is not None
    capture.groups.error = None
    capture.groups.unread = {"q": AuthorizationFailed("not allowed")}
    capture.both()
    assert capture.it.counts.failed == ("consumer group q: not allowed",)
    assert load_snapshot(capture.store, "b").unread == {"q": "not allowed"}


def test_what_can_not_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})

    def put(*_: object, **__: object) -> None:
        raise AccessDenied("no right to write")

    monkeypatch.setattr(capture.store, "put", put)
    capture.both()
    assert "no right to write" in capture.it.counts.failed[0]


def test_nothing_is_written_into_a_backup_that_another_run_has() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.locked = True
    with pytest.raises(Locked):
        capture.both()
    assert list(capture.store.list("")) == []


# -- in a run -----------------------------------------------------------------------------


class GroupBench(Bench):
    """Runs over a cluster with groups."""

    def __init__(self, topics: Topics, **committed: dict[TopicPartition, int]) -> None:
        super().__init__(topics)
        self.groups = Groups(self.clock, **committed)
        topics.groups = self.groups  # type: ignore[attr-defined]


def test_groups_are_asked_before_the_ends_are_fixed() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})

    def more_comes() -> None:
        # between the capture and the look at the ends, records come and are read
        bench.topics.ends["t"] = [25]

    bench.groups.on_ask = more_comes
    report = bench.run(replace(OPTIONS, consumer_groups=("*",)))
    assert report.manifest.topics[0].partitions[0].end_offset_exclusive == 25
    snapshot = load_snapshot(bench.store, "b")
    assert snapshot.group("a") is not None
    assert snapshot.lag(TopicPartition("t", 0), 4) == 21
    assert report.exit_code == 0
    assert report.to_document()["groups"]["offsets"] == 1


def test_a_runs_document_warns_of_a_name_that_no_group_has() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})
    report = bench.run(replace(OPTIONS, consumer_groups=("typo",)))
    assert report.exit_code == 0
    assert report.to_document()["warnings"] == ["no consumer group matches typo: nothing is kept of it"]


def test_a_run_without_groups_asks_for_none() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})
    report = bench.run(OPTIONS)
    assert bench.groups.asked == 0
    assert report.to_document()["groups"] is None


def test_a_run_whose_groups_can_not_be_read_is_incomplete() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})
    bench.groups.error = AuthorizationFailed("not allowed")
    report = bench.run(replace(OPTIONS, consumer_groups=("*",)))
    assert report.exit_code == 3
    assert bench.stored().topics[0].partitions[0].record_count == 10
    assert any("not allowed" in warning for warning in report.to_document()["warnings"])


def test_a_second_try_of_a_one_shot_run_asks_no_group_again() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})
    bench.workers.outcome = lambda _key, count: FetchFailed("no leader", hint="wait") if count == 1 else None
    report = bench.run(replace(OPTIONS, consumer_groups=("*",)))
    assert report.exit_code == 0
    assert bench.groups.asked == 1
    assert load_snapshot(bench.store, "b").lag(TopicPartition("t", 0), 4) == 6


def test_a_continuous_run_asks_anew_before_each_pass() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})

    def go_on() -> None:
        bench.groups.committed["a"][TopicPartition("t", 0)] += 1
        bench.topics.ends["t"][0] += 5

    bench.groups.on_ask = go_on
    bench.wish.at_wait = lambda _count: bench.groups.asked >= 4
    report = bench.run(replace(CONTINUOUS, consumer_groups=("*",)))
    assert report.exit_code == 0
    snapshot = load_snapshot(bench.store, "b")
    assert snapshot.groups[0].offsets[TopicPartition("t", 0)].offset >= 7


def test_a_run_that_goes_on_with_nothing_new_keeps_what_groups_have_read_since() -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})
    options = replace(OPTIONS, consumer_groups=("*",))
    bench.run(options)
    bench.groups.committed["a"][TopicPartition("t", 0)] = 9
    assert bench.run(options).exit_code == 0
    assert load_snapshot(bench.store, "b").groups[0].offsets[TopicPartition("t", 0)].offset == 9


def test_a_backup_of_empty_topics_has_its_groups_beside_a_manifest() -> None:
    bench = GroupBench(Topics(t=[0]), a={TopicPartition("t", 0): 0})
    bench.run(replace(OPTIONS, consumer_groups=("*",)))
    assert bench.stored().topics[0].partitions[0].record_count == 0
    assert load_snapshot(bench.store, "b").group("a") is not None


# -- stopped ------------------------------------------------------------------------------


def _given_up() -> ClusterUnavailable:
    return ClusterUnavailable("listing consumer groups: given up, as the run was stopped", given_up=True)


@pytest.mark.parametrize("which", ["the listing", "a group", "a group that is new"])
def test_a_capture_that_a_stop_has_cut_short_has_not_failed_and_the_one_before_stays(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.both()
    before = load_snapshot(capture.store, "b")
    capture.groups.committed["a"][TopicPartition("t", 0)] = 5
    if which == "the listing":
        capture.groups.error = _given_up()
    else:
        capture.groups.unread = {"a" if which == "a group" else "new": _given_up()}
    capture.clock.advance(100)
    with caplog.at_level("INFO", logger="kbr.backup"):
        capture.both()
    assert load_snapshot(capture.store, "b") == before
    assert capture.it.counts.failed == ()
    assert "as the run was stopped: what was captured before stays" in caplog.text


def test_what_was_captured_and_not_yet_kept_is_kept_after_one_that_was_cut_short() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.it.look()
    capture.groups.error = _given_up()
    capture.clock.advance(100)
    capture.both()
    assert load_snapshot(capture.store, "b").captured_at_ms == capture.clock.now_ms() - 100_000


def test_a_stop_hides_no_failure_of_before() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.both()
    capture.groups.error = AuthorizationFailed("not allowed")
    capture.clock.advance(100)
    capture.both()
    capture.groups.error = _given_up()
    capture.both()
    capture.it.forgive_outage()
    assert capture.it.counts.failed == ("the consumer groups could not be read: not allowed",)


def test_an_outage_is_forgiven_only_where_there_is_an_older_capture() -> None:
    capture = Capture(a={TopicPartition("t", 0): 4})
    capture.groups.error = ClusterUnavailable("nobody answers")
    capture.both()
    capture.it.forgive_outage()
    assert capture.it.counts.failed == ("the consumer groups could not be read: nobody answers",)
    capture.groups.error = None
    capture.both()
    assert capture.it.counts.failed == ()
    capture.groups.error = ClusterUnavailable("nobody answers")
    capture.clock.advance(100)
    capture.both()
    assert capture.it.counts.failed
    capture.it.forgive_outage()
    assert capture.it.counts.failed == ()


@pytest.mark.parametrize("error", [_given_up(), ClusterUnavailable("nobody answers")])
def test_a_continuous_run_that_is_stopped_while_the_cluster_is_away_is_complete_with_its_groups(error: KbrError) -> None:
    bench = GroupBench(Topics(t=[10]), a={TopicPartition("t", 0): 4})

    def before(_name: str, _count: int) -> None:
        if bench.groups.error is not None:
            raise ClusterUnavailable("nobody answers", hint="wait")

    def go_away() -> None:
        if bench.groups.asked == 2:
            bench.groups.error = error

    bench.topics.before = before
    bench.groups.on_ask = go_away
    bench.wish.at_wait = lambda _count: bench.groups.asked >= 3
    report = bench.run(replace(CONTINUOUS, consumer_groups=("*",)))
    assert report.exit_code == 0
    assert load_snapshot(bench.store, "b").group("a") is not None
    (warning,) = report.to_document()["warnings"]
    assert re.fullmatch(r".* was last heard of at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z: .*", warning)
