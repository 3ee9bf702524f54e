"""Rounds of a restore: what is tried again, what is not, how often, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from kbr.errors import ClusterUnavailable, CorruptSegment, KbrError, TargetChanged, TopicNotEmpty, WorkerCrashed
from kbr.kafka.settings import ClientSettings
from kbr.model import Compression, SegmentRef, TopicPartition
from kbr.restore.check import PartitionStart
from kbr.restore.plan import PartitionPlan, RestoreTask
from kbr.restore.retry import MAX_TRIES
from kbr.restore.sending import Sending, SendOutcome
from kbr.restore.task import PartitionRestored
from kbr.restore.waiting import StopFlag
from kbr.restore.window import TimeWindow
from kbr.runtime.supervisor import RunOutcome
from kbr.storage import StorageOptions
from kbr.telemetry.events import ProgressEvent, RecordsArrived
from tests.support.clocks import FakeClock

RECORDS = 100


def _segment(partition: int) -> SegmentRef:
    return SegmentRef(
        key=f"topics/orders/partition={partition}/segment-{0:020d}.zst", sequence=0, next_offset=RECORDS, start_offset=0,
        end_offset=RECORDS - 1, start_timestamp=1, end_timestamp=1, min_timestamp=1, max_timestamp=1, record_count=RECORDS,
        block_count=1, raw_bytes=1000, stored_bytes=100, max_record_bytes=10, sha256="0" * 64,
    )  # fmt: skip


def _plans(count: int) -> list[PartitionPlan]:
    return [
        PartitionPlan(
            source=TopicPartition("orders", number), target=TopicPartition("back", number), segments=(_segment(number),)
        )
        for number in range(count)
    ]


class Bench:
    """A target as a list of counts, and workers that do as they are told: an error, and how many records before it.

    ``script[partition]`` holds one entry for each time the partition is sent.
    """

    def __init__(self, count: int, script: Mapping[int, Sequence[tuple[int, KbrError]]]) -> None:
        self.there = [0] * count
        self.rounds: list[list[tuple[TopicPartition, ...]]] = []
        self.clock = FakeClock()
        self.stop = StopFlag()
        self.interrupted = False
        self.looks: list[KbrError] = []
        self.refusals: dict[int, KbrError] = {}
        self._script = {number: list(entries) for number, entries in script.items()}
        self._plans = _plans(count)

    def run(self) -> SendOutcome:
        return Sending(
            workers=2, task=self._task, new_supervisor=lambda _count, _entry: SimpleNamespace(run=self.supervise),  # type: ignore[arg-type, return-value]
            leaders=dict, look_again=self._look, on_event=lambda _task, _event: None, on_tick=lambda: None, stop=self.stop,
            clock=self.clock,
        ).run(self._plans)  # fmt: skip

    def _task(self, group: tuple[PartitionPlan, ...]) -> RestoreTask:
        return RestoreTask(
            backup_id="b", compression=Compression.ZSTD, window=TimeWindow(), partitions=group,
            client=ClientSettings(bootstrap_servers=("x:1",)), storage=StorageOptions(url="/x"), wire_compression="none",
            original_offset_header=b"", zero_timestamp_as=0, batch_bytes=1, memory_bytes=1, max_block_bytes=1, deadline_s=1,
            pace_path=Path("/x"), lease_path=Path("/x"),
        )  # fmt: skip

    def _look(self, targets: Sequence[TopicPartition]) -> Mapping[TopicPartition, PartitionStart | KbrError]:
        if self.looks:
            raise self.looks.pop(0)
        return {
            target: self.refusals.get(target.partition)
            or PartitionStart(
                kept=self.there[target.partition],
                offset_from=self.there[target.partition],
                target_offset=self.there[target.partition],
            )
            for target in targets
        }

    def supervise(self, tasks, *, on_event, **_callbacks) -> RunOutcome:
        results: dict[str, object] = {}
        failures: dict[str, KbrError] = {}
        self.rounds.append([tuple(one.target for one in task.payload.partitions) for task in tasks])
        for task in tasks:
            done = []
            for one in task.payload.partitions:
                number = one.target.partition
                assert one.target_offset == self.there[number], "it would be sent twice, or not at all"
                entry = self._script.get(number, []).pop(0) if self._script.get(number) else None
                if entry is not None:
                    self.there[number] += entry[0]
                    self._tell(on_event, task, one, *entry)
                    failures[task.task_id] = entry[1]
                    break
                count = RECORDS - self.there[number]
                self.there[number] = RECORDS
                done.append(
                    PartitionRestored(
                        source=one.source, target=one.target, record_count=count, record_bytes=count, complete=True
                    )
                )
            else:
                results[task.task_id] = tuple(done)
        return RunOutcome(
            results=results, failures=failures, retried=(), retried_count=0, interrupted=self.interrupted,
            unstarted=(), peak_worker_rss_bytes=1,
            worker_cpu_s=1.0,
        )  # fmt: skip


    @staticmethod
    def _tell(on_event, task, partition: PartitionPlan, count: int, error: KbrError) -> None:
        """As workers do: now and then how many of a topic, and of each partition unless they are killed."""
        on_event(task.task_id, ProgressEvent(topic=partition.source.topic, records=count, raw_bytes=count))
        if not isinstance(error, WorkerCrashed):
            on_event(task.task_id, RecordsArrived(records={partition.target: count}))


def _crash() -> WorkerCrashed:
    return WorkerCrashed("worker was killed")


def _sent(outcome: SendOutcome) -> int:
    return sum(one.record_count for one in outcome.results.values()) + sum(outcome.gained.values())


def test_what_fails_for_a_while_is_sent_to_its_end_and_counted_once() -> None:
    bench = Bench(3, {1: [(40, _crash()), (20, ClusterUnavailable("no broker"))]})
    outcome = bench.run()
    assert bench.there == [RECORDS] * 3
    assert outcome.failures == {}
    assert outcome.retries == 2
    assert _sent(outcome) == 3 * RECORDS


def test_others_are_not_sent_again() -> None:
    bench = Bench(40, {7: [(1, _crash())]})
    bench.run()
    first = next(group for group in bench.rounds[0] if TopicPartition("back", 7) in group)
    assert {target for group in bench.rounds[1] for target in group} <= set(first)
    assert all(len(group) == 1 for group in bench.rounds[1])


def test_one_line_says_that_a_task_is_tried_again_however_many_partitions_it_has(caplog: pytest.LogCaptureFixture) -> None:
    Bench(400, {7: [(1, _crash())]}).run()
    lines = [record.getMessage() for record in caplog.records if "tried again" in record.getMessage()]
    assert len(lines) == 1
    assert re.fullmatch(r"orders\[\d+\] and \d+ more partitions: will be tried again: worker was killed", lines[0])


def test_it_is_tried_a_bounded_number_of_times_without_progress_with_longer_waits() -> None:
    bench = Bench(2, {0: [(0, _crash())] * 20})
    outcome = bench.run()
    assert len(bench.rounds) == MAX_TRIES
    assert list(outcome.failures) == [TopicPartition("orders", 0)]
    assert bench.there == [0, RECORDS]
    assert bench.clock.monotonic() > 1 + 2 + 4


def test_progress_resets_the_count() -> None:
    bench = Bench(1, {0: [(5, _crash())] * 12})
    outcome = bench.run()
    assert outcome.failures == {}
    assert bench.there == [RECORDS]
    assert len(bench.rounds) == 13


def test_what_stays_wrong_is_not_tried_again_and_its_neighbours_are() -> None:
    damaged = CorruptSegment("damaged", object=f"b/topics/orders/partition=0/segment-{0:020d}.zst")
    bench = Bench(1, {0: [(0, damaged)]})
    assert bench.run().failures == {TopicPartition("orders", 0): damaged}
    assert len(bench.rounds) == 1
    bench = Bench(40, {0: [(0, damaged)]})
    outcome = bench.run()
    assert list(outcome.failures) == [TopicPartition("orders", 0)]
    assert bench.there == [0] + [RECORDS] * 39


def test_a_foreign_record_found_between_two_tries_ends_only_its_partition() -> None:
    bench = Bench(2, {0: [(3, _crash())], 1: [(3, _crash())]})
    bench.refusals[0] = TopicNotEmpty("foreign", topic="back", partition=0)
    outcome = bench.run()
    assert list(outcome.failures) == [TopicPartition("orders", 0)]
    assert bench.there == [3, RECORDS]


def test_another_producer_in_between_is_never_tried_again() -> None:
    bench = Bench(1, {0: [(3, TargetChanged("in between", topic="back", partition=0))]})
    outcome = bench.run()
    assert list(outcome.failures) == [TopicPartition("orders", 0)]
    assert len(bench.rounds) == 1
    assert _sent(outcome) == 3


def test_what_a_partition_had_acknowledged_before_it_failed_for_good_counts_once() -> None:
    damaged = CorruptSegment("damaged", object=f"b/topics/orders/partition=0/segment-{0:020d}.zst")
    bench = Bench(2, {0: [(40, ClusterUnavailable("no broker")), (20, damaged)]})
    outcome = bench.run()
    assert list(outcome.failures) == [TopicPartition("orders", 0)]
    assert _sent(outcome) == 60 + RECORDS
    bench = Bench(1, {0: [(7, _crash())] + [(0, _crash())] * 20})
    assert _sent(bench.run()) == 7


def test_brokers_that_are_away_between_two_tries_are_waited_for_a_bounded_number_of_times() -> None:
    bench = Bench(1, {0: [(3, _crash())]})
    bench.looks = [ClusterUnavailable("away")] * 3
    assert bench.run().failures == {}
    assert bench.there == [RECORDS]
    bench = Bench(1, {0: [(3, _crash())]})
    bench.looks = [ClusterUnavailable("away")] * 50
    outcome = bench.run()
    (error,) = outcome.failures.values()
    assert error.retriable


def test_a_stop_between_two_tries_ends_the_run_as_interrupted() -> None:
    bench = Bench(1, {0: [(3, _crash())]})
    bench.stop.set()
    outcome = bench.run()
    assert outcome.interrupted
    assert len(bench.rounds) == 1
    (result,) = outcome.results.values()
    assert not result.complete


def test_a_stopped_round_is_the_last_one() -> None:
    bench = Bench(1, {0: [(3, _crash())]})
    bench.interrupted = True
    outcome = bench.run()
    assert outcome.interrupted
    assert len(outcome.failures) == 1
    assert len(bench.rounds) == 1
