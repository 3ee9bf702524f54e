"""Whole runs of a backup, of a cluster and workers that are only told of: what is decided between passes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

import pytest

from kbr.backup import adopting as adopting_module
from kbr.backup import checkpoints as checkpoints_module
from kbr.backup.options import BackupOptions
from kbr.backup.watching import Doing, TopicNow
from kbr.errors import (
    ClusterUnavailable,
    FetchFailed,
    KbrError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from kbr.model import PartitionStatus, RunStatus, TopicPartition
from kbr.repository.adopt import Unlisted
from tests.support.backup_bench import CONTINUOUS, OPTIONS, Bench, FailingStore, Topics, segment


def test_a_continuous_run_that_is_stopped_while_nothing_comes_says_in_the_store_that_it_has_ended() -> None:
    bench = Bench(Topics(t=[10]))
    bench.run(OPTIONS)
    assert bench.stored().status is RunStatus.COMPLETE
    bench.topics.ends["t"] = [20]
    bench.wish.at_wait = lambda count: count >= 30  # many checkpoints later
    report = bench.run(CONTINUOUS)
    assert report.manifest.status is RunStatus.COMPLETE
    assert bench.stored() == report.manifest


def test_a_continuous_run_outlives_a_cluster_that_is_away_when_a_pass_begins() -> None:
    bench = Bench(Topics(t=[10]))
    away = {1, 2}

    def before(name: str, count: int) -> None:
        if name == "leaders" and count in away:
            raise ClusterUnavailable("nobody answers", hint="wait")

    bench.topics.before = before
    bench.wish.at_wait = lambda count: bench.topics.calls.get("leaders", 0) > 2 or count > 500
    report = bench.run(CONTINUOUS)
    assert report.exit_code == 0
    assert bench.stored().topics[0].partitions[0].record_count == 10


def test_a_continuous_run_outlives_a_store_that_is_away_when_a_pass_begins() -> None:
    bench = Bench(Topics(t=[10]))
    bench.store = FailingStore()
    left = [1, 1]

    def before_put() -> None:
        if left:
            left.pop()
            raise StoreUnavailable("the store does not answer", hint="wait")

    bench.store.before_put = before_put
    bench.wish.at_wait = lambda count: bool(bench.workers.tries) or count > 500
    report = bench.run(CONTINUOUS)
    assert report.exit_code == 0
    assert bench.stored().topics[0].partitions[0].record_count == 10


def test_a_stop_is_heeded_while_a_store_that_hangs_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints_module, "STOPPED_PATIENCE_S", 0.2)
    bench = Bench(Topics(t=[10]))
    bench.store = FailingStore()
    hangs = threading.Event()

    def before_put() -> None:
        bench.wish.note()
        assert hangs.wait(20)

    bench.store.before_put = before_put
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(StoreUnavailable):
            bench.run(CONTINUOUS)
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert ended.wait(10), "the stop was not heeded"
    finally:
        hangs.set()
        thread.join(10)


def test_a_partition_that_becomes_due_while_another_is_tried_is_tried_again_too() -> None:
    bench = Bench(Topics(t=[10, 10]))
    first, second = TopicPartition("t", 0), TopicPartition("t", 1)

    def outcome(key: TopicPartition, tried: int) -> KbrError | None:
        if bench.workers.tries.get(second, 0) >= 1 and key == first and tried > 1:
            bench.clock.advance(100.0)  # meanwhile the other one's time comes
        return FetchFailed("a disk of the broker", hint="wait") if tried <= 2 else None

    bench.workers.outcome = outcome
    report = bench.run(OPTIONS)
    assert bench.workers.tries == {first: 3, second: 3}
    assert report.manifest.status is RunStatus.COMPLETE


def test_nothing_is_listed_while_nobody_can_say_whether_the_topic_is_still_the_same() -> None:
    bench = Bench(Topics(t=[10]))
    seen: list[int] = []

    def before(name: str, _count: int) -> None:
        if name == "topic_ids" and not seen:
            raise ClusterUnavailable("nobody answers", hint="wait")

    def at_wait(count: int) -> bool:
        if count == 8:  # checkpoints have been written since
            seen.append(bench.stored().topics[0].partitions[0].record_count)
            bench.topics.ids["t"] = "another"  # it was made anew in between
        return count > 8

    bench.topics.before = before
    bench.wish.at_wait = at_wait
    report = bench.run(CONTINUOUS)
    assert seen == [0]
    partition = report.manifest.topics[0].partitions[0]
    assert (partition.record_count, partition.status, report.exit_code) == (0, PartitionStatus.FAILED, 3)


def test_topics_that_match_nothing_are_an_error_of_a_later_run_too() -> None:
    bench = Bench(Topics(t=[10]))
    bench.run(OPTIONS)
    with pytest.raises(UsageError, match="no topic matches"):
        bench.run(BackupOptions(backup_id="b", include=("typo*",)))
    del bench.topics.ends["t"]  # but where what matched is gone, that is told
    report = bench.run(OPTIONS)
    assert report.exit_code == 3


def test_checkpoints_follow_their_interval_when_it_is_changed() -> None:
    bench = Bench(Topics(t=[10]))
    changed = iter([replace(CONTINUOUS, checkpoint_interval_s=1.0)])
    bench.reread = lambda: next(changed, None)
    written: list[float] = []
    bench.store = FailingStore()
    bench.store.before_put = lambda: written.append(bench.clock.monotonic())

    def at_wait(count: int) -> bool:
        bench.topics.ends["t"] = [10 + count]
        return count > 60

    bench.wish.at_wait = at_wait
    bench.run(replace(CONTINUOUS, checkpoint_interval_s=10_000.0))
    assert len(written) > 5


def test_a_disk_that_is_full_at_a_checkpoint_ends_no_run() -> None:
    bench = Bench(Topics(t=[10]))
    bench.store = FailingStore()
    full = [False]

    def before_put() -> None:
        if full[0]:
            raise StoreFull("no space", hint="make some")

    bench.store.before_put = before_put

    def at_wait(count: int) -> bool:
        full[0] = 10 < count < 40
        bench.topics.ends["t"] = [10 + count]
        return count > 60

    bench.wish.at_wait = at_wait
    assert bench.run(CONTINUOUS).exit_code == 0


def test_a_partition_that_was_offline_when_the_backup_began_begins_where_its_log_does_and_has_no_gap() -> None:
    bench = Bench(Topics(t=[100, 100]))
    bench.topics.start = 40  # retention has taken the rest long ago
    bench.topics.offline = {TopicPartition("t", 1)}
    for _ in range(2):
        assert bench.run(OPTIONS).exit_code == 3
    bench.topics.offline = set()
    report = bench.run(OPTIONS)
    assert report.exit_code == 0
    partition = bench.stored().topics[0].partitions[1]
    assert (partition.start_offset, partition.next_offset, partition.gaps) == (40, 100, ())


def test_a_partition_that_was_seen_once_has_a_gap_when_retention_has_passed_it_while_it_was_offline() -> None:
    bench = Bench(Topics(t=[0]))
    assert bench.run(OPTIONS).exit_code == 0
    bench.topics.offline = {TopicPartition("t", 0)}
    assert bench.run(OPTIONS).exit_code == 3
    bench.topics.offline = set()
    bench.topics.start, bench.topics.ends["t"] = 40, [100]
    report = bench.run(OPTIONS)
    (gap,) = report.manifest.topics[0].partitions[0].gaps
    assert (gap.start_offset, gap.end_offset_exclusive, report.exit_code) == (0, 40, 3)


def test_what_was_read_of_a_topic_made_anew_is_not_taken_over_when_that_one_is_gone_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(Topics(t=[10], other=[10]))
    bench.run(replace(OPTIONS, include=("*",)))
    bench.topics.ids["t"] = "another"
    bench.run(replace(OPTIONS, include=("*",)))
    del bench.topics.ends["t"]
    asked: list[set[TopicPartition]] = []

    def unlisted(_store: object, _backup_id: str, positions: dict[TopicPartition, int], _ids: object) -> Unlisted:
        asked.append(set(positions))
        return Unlisted()

    monkeypatch.setattr(adopting_module, "unlisted_segments", unlisted)
    assert bench.run(replace(OPTIONS, include=("*",))).exit_code == 3
    assert asked == [{TopicPartition("other", 0)}]


@pytest.mark.parametrize(("start", "asked"), [(20, [TopicPartition("t", 1)]), (10, [])], ids=["the log lost it", "the log has it"])
def test_what_a_backup_lists_no_more_and_the_log_has_no_more_is_taken_over_after_a_run_that_ended_well(
    monkeypatch: pytest.MonkeyPatch, start: int, asked: list[TopicPartition]
) -> None:
    """An older manifest was put back: what the log has lost since is in the store, and nobody would write to its place."""
    bench = Bench(Topics(t=[30, 10]))
    bench.run(OPTIONS)
    bench.topics.start, bench.topics.ends["t"] = start, [30, 40]
    looked_for: list[TopicPartition] = []

    def unlisted(_store: object, _backup_id: str, positions: dict[TopicPartition, int], _ids: object) -> Unlisted:
        looked_for.extend(positions)
        return Unlisted(segments={key: [segment(key, 10, 25)] for key in positions})

    monkeypatch.setattr(adopting_module, "unlisted_segments", unlisted)
    report = bench.run(OPTIONS)
    assert looked_for == asked
    entry = report.manifest.topics[0].partitions[1]
    assert [one.sequence for one in entry.segments] == [0, 10, 25][: 2 + len(asked)]
    assert (report.exit_code, entry.gaps, entry.record_count) == (0, (), 40)


def test_a_pass_over_a_backup_that_has_its_place_in_a_manifest_writes_none_first() -> None:
    bench = Bench(Topics(t=[10]))
    bench.store = FailingStore()
    written: list[float] = []
    bench.store.before_put = lambda: written.append(bench.clock.monotonic())

    def at_wait(count: int) -> bool:
        bench.topics.ends["t"] = [10 + count]
        return count > 100

    bench.wish.at_wait = at_wait
    bench.run(replace(CONTINUOUS, checkpoint_interval_s=10_000.0))
    assert bench.workers.tries[TopicPartition("t", 0)] > 5
    assert len(written) == 2  # the first one and the last


def test_a_checkpoint_does_not_look_at_topics_while_the_run_adds_some() -> None:
    bench = Bench(Topics(t=[10]))
    options = replace(CONTINUOUS, include=("*",))
    for number in range(50):
        bench.topics.ends[f"t{number}"] = [1]
        bench.topics.ids[f"t{number}"] = f"{number}"
    seen: list[bool] = []
    original = checkpoints_module.BackupState.is_newer

    def look() -> None:
        seen.append(locks[0].acquire(blocking=False))
        if seen[-1]:
            locks[0].release()

    def is_newer(state: Any) -> bool:
        if threading.current_thread().name == "checkpoint":
            other = threading.Thread(target=look)
            other.start()
            other.join()
        return bool(cast("Any", original).fget(state))

    locks: list[Any] = []
    make = checkpoints_module.Checkpoints.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        locks.append(self.lock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints_module.BackupState, "is_newer", property(is_newer))
        patch.setattr(checkpoints_module.Checkpoints, "__init__", init)
        bench.wish.at_wait = lambda count: count > 20
        bench.run(options)
    assert seen
    assert not any(seen), "it was looked at while another thread could change it"


def test_only_what_failed_is_looked_for_in_the_store_before_it_is_tried_again() -> None:
    bench = Bench(Topics(t=[10] * 50))
    bad = TopicPartition("t", 7)
    bench.workers.outcome = lambda key, _tried: FetchFailed("a damaged batch", hint="repair") if key == bad else None

    def at_wait(count: int) -> bool:
        bench.topics.ends["t"] = [10 + count] * 50
        return count > 60

    bench.wish.at_wait = at_wait
    assert bench.run(CONTINUOUS).exit_code == 3
    assert set(bench.workers.adopted) == {bad}
    assert bench.workers.tries[TopicPartition("t", 0)] > 4


def test_a_topic_that_retention_had_emptied_before_it_was_read_is_warned_of() -> None:
    bench = Bench(Topics(t=[10, 12, 10]))
    bench.topics.start = 10
    report = bench.run(OPTIONS)
    (warning,) = [one for one in report.to_document()["warnings"] if "retention" in one]
    assert warning.startswith("t: 2 of 3 partitions held no record any more")
    assert report.exit_code == 0


def test_topics_that_never_had_a_record_or_lost_what_is_in_the_backup_are_not_called_emptied() -> None:
    bench = Bench(Topics(t=[0, 10]))
    assert not any("held no record" in one for one in bench.run(OPTIONS).warnings)
    bench.topics.ends["t"] = [0, 10]
    bench.topics.start = 10
    bench.topics.ends["t"][0] = 10  # read in no pass: lost, and a gap
    report = bench.run(OPTIONS)
    assert not any("held no record" in one for one in report.warnings)
    assert any("1 gap (see" in one for one in report.warnings)


def test_a_running_backup_says_what_it_is_doing_and_how_far_behind_it_is() -> None:
    bench = Bench(Topics(t=[10, 4]))
    bench.run(OPTIONS)
    bench.topics.ends = {"t": [30, 4], "tt": [0]}
    bench.topics.ids["tt"] = "id-of-tt"
    before: list[object] = []
    bench.workers.outcome = lambda _key, _try: before.append(bench.watch.now())  # type: ignore[func-returns-value]
    waiting: list[object] = []

    def at_wait(_count: int) -> bool:
        waiting.append(bench.watch.now())
        return True

    bench.wish.at_wait = at_wait
    bench.run(CONTINUOUS)
    first = cast("Any", before[0])
    assert first.doing is Doing.FETCHING
    assert first.topics == (
        TopicNow(topic="t", partitions=2, next_offset=14, high_watermark=34, lag=20),
        TopicNow(topic="tt", partitions=1, next_offset=0, high_watermark=0, lag=0),
    )
    last = cast("Any", waiting[-1])
    assert last.doing is Doing.BETWEEN_PASSES
    assert [(one.next_offset, one.lag) for one in last.topics] == [(34, 0), (0, 0)]


@pytest.mark.parametrize(
    ("error", "doing"), [(ClusterUnavailable("away"), Doing.KAFKA), (StoreUnavailable("away"), Doing.STORE)]
)
def test_a_continuous_backup_says_what_it_waits_for(error: KbrError, doing: Doing) -> None:
    bench = Bench(Topics(t=[10]))
    store = FailingStore()
    bench.store = store
    seen: list[Doing] = []
    is_away = isinstance(error, ClusterUnavailable)

    def fail() -> None:
        if Doing.BETWEEN_PASSES in seen or not is_away:
            if doing not in seen:
                raise error

    if is_away:
        bench.topics.before = lambda name, _count: fail() if name == "topics" else None
    else:
        store.before_put = fail

    def at_wait(count: int) -> bool:
        seen.append(bench.watch.now().doing)
        return count > 30

    bench.wish.at_wait = at_wait
    bench.run(CONTINUOUS)
    assert doing in seen
    assert seen[-1] is Doing.BETWEEN_PASSES, "it is back"


def test_a_dry_run_says_what_is_left_to_read_of_a_backup_that_is_there() -> None:
    bench = Bench(Topics(t=[10, 4]))
    totals = bench.run(OPTIONS, dry_run=True).to_document()["totals"]
    assert (totals["offsets"], totals["offsets_left"]) == (14, 14)
    assert bench.run(OPTIONS).to_document()["totals"]["offsets_left"] == 0
    bench.topics.ends["t"] = [15, 4]
    document = bench.run(OPTIONS, dry_run=True).to_document()
    assert document["resumed"]
    assert (document["totals"]["offsets"], document["totals"]["offsets_left"]) == (19, 5)
    assert document["topics"][0]["offsets_left"] == 5
