"""Whole backups and restores in this process, without worker processes: cheap enough to run thousands.

Stands where the supervisor and its workers stand: tasks run one after another, by the worker's own code with a store
of the test's. What is simulated is death: a view of the store (tests/support/fault_store.py) that was killed answers
nothing any more, and neither does its process's channel to the supervisor.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientPartition

from kbr.app.run_lock import NoLock
from kbr.backup import task as backup_task
from kbr.backup.coordinator import BackupCoordinator, BackupPlaces
from kbr.backup.options import BackupOptions
from kbr.backup.report import BackupReport
from kbr.backup.watching import BackupWatch
from kbr.errors import ClusterUnavailable, KbrError, WorkerCrashed, WorkerError
from kbr.kafka.cluster import Cluster
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import Record, TopicPartition
from kbr.repository.layout import LockPlace
from kbr.repository.lock import BackupLock
from kbr.repository.lock_process import this_process
from kbr.restore import task as restore_task
from kbr.restore.coordinator import RestoreCoordinator
from kbr.restore.options import RestoreOptions
from kbr.restore.report import RestoreReport
from kbr.restore.waiting import StopFlag
from kbr.runtime.lease import Lease
from kbr.runtime.messages import TaskSpec
from kbr.runtime.pacing import Pacer, RateLimit
from kbr.runtime.stopping import StopWish
from kbr.runtime.supervisor import Retry, RunOutcome
from kbr.storage.base import ObjectStore
from kbr.storage.options import StorageOptions, StoreLayer
from kbr.telemetry.events import SegmentCommitted
from kbr.timing import SYSTEM_CLOCK, SystemClock
from kbr_codec import encode_block, scan_block
from kbr_codec.rdkafka import MockCluster

from .archive import Place
from .checker import plain_record
from .clocks import FakeClock
from .fault_store import FaultStore, Killed, Script, open_view
from .kafka import KafkaHarness
from .plain_reader import PlainRecord
from .waiting import wait_until

__all__ = ["Bench", "mock_bench", "real_bench"]

#: Blocks of the inline backups, bytes: small, so that a little data makes several blocks and segments.
BLOCK_BYTES = 4096
#: A checkpoint after so many segments, by the coordinator's clock.
CHECKPOINT_S = 4.0

_numbers = itertools.count(1)


class Bench:
    """A mock cluster, or a real one, and runs against it.

    Args:
        cluster: an open Cluster of it.
        pacer: sets no limit.

    Attributes:
        layer: over the store of every run that follows (kbr.storage.options.StoreLayer).
    """

    layer: StoreLayer | None = None

    def __init__(self, mock: MockCluster | _RealTopics, cluster: Cluster, pacer: Pacer) -> None:
        self._mock = mock
        self.settings = ClientSettings(bootstrap_servers=(mock.bootstrap_servers,))
        self._cluster = cluster
        self._pacer = pacer
        self._consumer = Consumer(
            {
                "bootstrap.servers": mock.bootstrap_servers,
                "group.id": "bench",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 5,
                "log_level": 0,
            }
        )

    def close(self) -> None:
        """Before the cluster is closed."""
        self._consumer.close()

    # -- the cluster ----------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic, which the mock cluster does not do for a client."""
        self._mock.create_topic(name, partitions=partitions)

    def produce(self, records: dict[TopicPartition, list[Record]]) -> None:
        """Append records."""
        options = SinkOptions(
            memory_bytes=32 << 20,
            compression="none",
            zero_timestamp_as=0,
            original_offset_header=b"",
            batch_bytes=1_000_000,
        )
        with BlockSink(self.settings, options, on_client_message=lambda _message: None) as sink:
            for partition, some in records.items():
                sink.send_whole(partition, encode_block(some), RecordWindow())
            while sink.open_count:
                sink.poll(100)

    def read(self, partition_counts: Mapping[str, int]) -> dict[Place, list[PlainRecord]]:
        """Every record of some topics, by a plain consumer that is kept: a new one takes half a second to close."""
        found: dict[Place, list[PlainRecord]] = {
            (topic, number): [] for topic, count in partition_counts.items() for number in range(count)
        }
        waiting = set(found)
        for topic in partition_counts:
            self._consumer.list_topics(topic, timeout=30)  # of a topic without a known leader it thinks again after 0.5 s
        self._consumer.assign([ClientPartition(*place, OFFSET_BEGINNING) for place in found])

        def at_end() -> bool:
            for message in self._consumer.consume(100, timeout=0.01):
                place = (message.topic() or "", message.partition() or 0)
                if message.error() is None:
                    found[place].append(plain_record(message))
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    waiting.discard(place)
            return not waiting

        wait_until(at_end, deadline_s=30, what=f"the ends of {sorted(partition_counts)}")
        self._consumer.unassign()
        return found

    # -- runs -----------------------------------------------------------------------------

    def back_up(self, store: ObjectStore, options: BackupOptions, script: Script) -> BackupReport:
        """One run of a backup.

        Raises:
            Killed: it was.
            KbrError: it ended so.
        """
        clock = _SegmentClock()
        with _process(store, script, is_worker=False) as view, _lease() as lease:
            coordinator = BackupCoordinator(
                BackupPlaces(
                    client=self.settings,
                    storage=StorageOptions(url="memory://inline", layer=self.layer),
                    pace_path=self._pacer.path,
                    lease_path=lease.path,
                ),
                replace(options, workers=1, compress_threads=1, checkpoint_interval_s=CHECKPOINT_S),
                cluster=self._cluster,
                store=view if self.layer is None else self.layer.over(view),
                run_lock=_Lock(view, LockPlace(options.backup_id), lease),
                kbr_version="test",
                on_event=clock.take,
                on_plan=lambda _plan: None,
                on_tick=lambda: None,
                stop=_Wish(clock),
                watch=BackupWatch(),
                clock=clock,
            )
            return coordinator.run(self._new_supervisor(store, view, script, lease))

    def restore(self, store: ObjectStore, options: RestoreOptions, script: Script) -> RestoreReport:
        """One run of a restore; raises as back_up(). What a killed one had sent has arrived by then, or never does."""
        with _process(store, script, is_worker=False) as view, _lease() as lease:
            coordinator = RestoreCoordinator(
                self.settings,
                StorageOptions(url="memory://inline", layer=self.layer),
                replace(options, workers=1),
                cluster=self._cluster,
                store=view if self.layer is None else self.layer.over(view),
                deadline_s=30.0,
                stop=StopFlag(),
                on_event=lambda _event: None,
                on_plan=lambda _plan, _counts: None,
                on_tick=lambda: None,
                pace_path=self._pacer.path,
                lease_path=lease.path,
                lock=lambda restore_id: _Lock(view, LockPlace(options.backup_id, restore_id), lease),
                no_lock=lambda: NoLock(lease, "another tool's backup"),
                clock=FakeClock(),
            )
            return coordinator.run(self._new_supervisor(store, view, script, lease), dry_run=False)

    def wait_for_rest(self, targets: Sequence[TopicPartition]) -> None:
        """Until nothing arrives in a target any more: real requests take real time, and a run's clock is a fake."""
        seen: list[object] = []

        def at_rest() -> bool:
            seen.append(self._cluster.high_watermarks(targets))
            return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

        wait_until(at_rest, deadline_s=30, what="the target's rest")

    def _new_supervisor(
        self, store: ObjectStore, view: FaultStore, script: Script, lease: Lease | None = None
    ) -> Callable[[int, str], InlineSupervisor]:
        def new_supervisor(_workers: int, entry: str) -> InlineSupervisor:
            return InlineSupervisor(entry, store, view, script, self._pacer, lease)

        return new_supervisor


@contextmanager
def mock_bench() -> Iterator[Bench]:
    """A bench with a mock cluster of its own."""
    load_library()
    mock = MockCluster(brokers=1)
    pacer = Pacer.create(RateLimit())
    try:
        settings = ClientSettings(bootstrap_servers=(mock.bootstrap_servers,))
        with Cluster(settings, deadline_s=30) as cluster:
            bench = Bench(mock, cluster, pacer)
            try:
                yield bench
            finally:
                bench.close()
    finally:
        pacer.remove()
        pacer.close()
        mock.close()


@contextmanager
def real_bench(kafka: KafkaHarness) -> Iterator[Bench]:
    """A bench with a real cluster."""
    load_library()
    pacer = Pacer.create(RateLimit())
    try:
        topics = _RealTopics(kafka)
        with Cluster(ClientSettings(bootstrap_servers=tuple(kafka.bootstrap.split(","))), deadline_s=30) as cluster:
            bench = Bench(topics, cluster, pacer)
            try:
                yield bench
            finally:
                bench.close()
    finally:
        pacer.remove()
        pacer.close()


class _RealTopics:
    """Stands where the mock cluster stands."""

    def __init__(self, kafka: KafkaHarness) -> None:
        self._kafka = kafka
        self.bootstrap_servers = kafka.bootstrap

    def create_topic(self, name: str, *, partitions: int) -> None:
        self._kafka.create_topic(name, partitions)


class _SegmentClock(FakeClock):
    """A second passes with each segment: checkpoints come at the same place in every run."""

    def take(self, event: object) -> None:
        if isinstance(event, SegmentCommitted):
            self.advance(1.0)


class _Wish(StopWish):
    """Nobody stops the run, and its pauses pass by the clock of the test."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, seconds: float) -> bool:
        self._clock.advance(seconds)
        return False


class _HastyClock(SystemClock):
    """Nobody waits for another run: those that had the backup before are dead."""

    def sleep(self, seconds: float) -> None:
        """At once."""


class _Lock:
    """A lock, held by a process that has ended as soon as anybody looks: as those of killed runs are."""

    def __init__(self, view: FaultStore, place: LockPlace, lease: Lease) -> None:
        process = replace(this_process(), pid=_ended_pid(), started=f"{next(_numbers)}")
        self._lock = BackupLock(
            view, place, verb="backup", lease=lease, clock=_HastyClock(), process=process
        )

    def __enter__(self) -> _Lock:
        self._lock.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def check(self) -> None:
        """See kbr.backup.coordinator.RunLock."""
        self._lock.check()


@lru_cache(maxsize=1)
def _ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@contextmanager
def _lease() -> Iterator[Lease]:
    lease = Lease.create()
    try:
        yield lease
    finally:
        lease.remove()
        lease.close()


@contextmanager
def _process(store: ObjectStore, script: Script, *, is_worker: bool) -> Iterator[FaultStore]:
    """One process's view, buried at its end."""
    view = open_view(store, script, is_worker=is_worker)
    try:
        yield view
    finally:
        view.bury()


class InlineSupervisor:
    """Stands in for kbr.runtime.supervisor.Supervisor."""

    def __init__(
        self, entry: str, store: ObjectStore, view: FaultStore, script: Script, pacer: Pacer, lease: Lease | None
    ) -> None:
        self._entry = entry
        self._store = store
        self._view = view
        self._script = script
        self._pacer = pacer
        self._lease = lease

    def stop(self) -> None:
        """See Supervisor.stop(); nobody stops an inline run."""

    def run(
        self,
        tasks: Sequence[TaskSpec],
        *,
        on_event: Callable[[str, object], None],
        on_tick: Callable[[], None] | None = None,
        on_failure: Callable[[TaskSpec, KbrError], Sequence[Retry]] | None = None,
    ) -> RunOutcome:
        """See Supervisor.run(); what stands in for a failed task does not wait."""
        results: dict[str, object] = {}
        failures: dict[str, KbrError] = {}
        retried: list[tuple[str, KbrError]] = []
        waiting = deque(tasks)
        while waiting:
            spec = waiting.popleft()
            with _process(self._store, self._script, is_worker=True) as store:
                context = _Context(spec.task_id, store, on_event, on_tick or (lambda: None))
                try:
                    results[spec.task_id] = self._work(spec, context, store)
                except KbrError as error:
                    failures[spec.task_id] = error
                except Killed:
                    failures[spec.task_id] = WorkerCrashed(f"task {spec.task_id}: its worker was killed", hint="a test did it")
                except Exception as error:
                    failures[spec.task_id] = WorkerError(f"task {spec.task_id}: {type(error).__name__}: {error}", hint="a bug")
            if context.supervisor_error is not None:
                raise context.supervisor_error
            self._view.check_alive()
            stand_ins = on_failure(spec, failures[spec.task_id]) if on_failure and spec.task_id in failures else ()
            if stand_ins:
                retried.append((spec.task_id, failures.pop(spec.task_id)))
                waiting.extend(one.task for one in stand_ins)
            if on_tick is not None:
                on_tick()
        return RunOutcome(
            results=results,
            failures=failures,
            retried=tuple(retried),
            retried_count=len(retried),
            interrupted=False,
            unstarted=(),
            peak_worker_rss_bytes=1,
            worker_cpu_s=0.0,
        )

    def _work(self, spec: TaskSpec, context: _Context, store: FaultStore) -> object:
        layer = spec.payload.storage.layer
        seen = store if layer is None else layer.over(store)
        if self._entry == "kbr.backup.task:run":
            assert self._lease is not None
            return _SmallBlocks(spec.payload, context, seen, self._pacer, self._lease, SYSTEM_CLOCK).run()
        assert self._entry == "kbr.restore.task:run", self._entry
        with _faulty_sinks(store):
            assert self._lease is not None
            worker = restore_task._RestoreWorker(spec.payload, context, seen, self._pacer, self._lease, SYSTEM_CLOCK)
            return worker.run()


@contextmanager
def _faulty_sinks(view: FaultStore) -> Iterator[None]:
    """A restore's worker sends through sinks with scripted faults, and keeps none from an earlier task."""
    keeper, sink = restore_task._keeper, restore_task.BlockSink
    restore_task._keeper = restore_task._SinkKeeper()
    restore_task.BlockSink = partial(_FaultSink, view)
    try:
        yield
    finally:
        kept = restore_task._keeper._kept
        if kept is not None:
            kept[2].close()
        restore_task._keeper, restore_task.BlockSink = keeper, sink


class _FaultSink(BlockSink):
    """A sink whose blocks are operations of the script: "send" of a target partition."""

    def __init__(self, view: FaultStore, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._view = view

    def send(self, target: TopicPartition, block: Any, window: RecordWindow, **bounds: Any) -> Any:
        """See BlockSink.send(). What was sent when a fault hits has arrived."""

        def whole() -> Any:
            return send(target, block, window, **bounds)

        def whole_and_arrived() -> Any:
            sent = whole()
            self._arrive()
            return sent

        def half() -> None:
            sent = send(target, block, window, max_records=max(1, scan_block(bytes(block)).record_count // 2))
            if not sent.complete:
                self.abandon(sent.ticket)
            self._arrive()

        send = super().send
        key = f"{target.topic.partition('.')[2]}[{target.partition}]"
        return self._view.step("send", key, whole, half, hit=whole_and_arrived, error=_unreachable)

    def _arrive(self) -> None:
        while self.open_count:
            super().poll(10)


def _unreachable(name: str, key: str) -> ClusterUnavailable:
    return ClusterUnavailable(f"{name} to {key}: no broker answers (a fault of the test)")


class _SmallBlocks(backup_task._BackupWorker):
    """A backup's worker with blocks of BLOCK_BYTES."""

    def _source_options(self):
        return replace(super()._source_options(), block_bytes=BLOCK_BYTES)


def _wait_for_checkpoint() -> None:
    """So that each checkpoint has the same in it in every run."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


class _Context:
    """What a worker has of its process: events reach the supervisor at once, and one at a time."""

    def __init__(
        self, task_id: str, store: FaultStore, on_event: Callable[[str, object], None], on_tick: Callable[[], None]
    ) -> None:
        self._task_id = task_id
        self._store = store
        self._on_event = on_event
        self._on_tick = on_tick
        self._lock = threading.Lock()
        #: What the supervisor died of, or raised; the worker ends with it.
        self.supervisor_error: BaseException | None = None

    def emit(self, event: object) -> None:
        """See kbr.runtime.worker.TaskContext."""
        with self._lock:
            self._store.check_alive()
            try:
                self._on_event(self._task_id, event)
                self._on_tick()
                _wait_for_checkpoint()
            except BaseException as error:
                self.supervisor_error = error
                self._store.kill_alone()
                raise Killed from error

    def stop_requested(self) -> bool:
        """See kbr.runtime.worker.TaskContext."""
        self._store.check_alive()
        return False
