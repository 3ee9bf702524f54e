"""One pass over partitions by worker processes: tasks out, events and outcomes in. Decides nothing about passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbr.backup.checkpoints import Checkpoints
from kbr.backup.crashes import CrashedTasks
from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupPlan, BackupTask, PartitionPlan, PartitionTask, group_partitions
from kbr.backup.state import BackupState
from kbr.errors import KbrError
from kbr.kafka.cluster import Cluster
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition
from kbr.runtime.messages import TaskSpec
from kbr.runtime.sizing import BACKUP_WORKER_BYTES, BASE_BYTES, RunSize, size_run, usable_cores
from kbr.runtime.stopping import StopWish
from kbr.runtime.supervisor import Retry, Supervisor
from kbr.storage import StorageOptions
from kbr.telemetry.accounts import Accounts
from kbr.telemetry.events import SegmentCommitted
from kbr.telemetry.logs import get_logger

__all__ = ["BackupPlaces", "PassRunner"]

_log = get_logger("kbr.backup")

#: How long nothing may come, no record and no end of a log, before a worker gives its partitions up, seconds. The
#: longest that brokers are usually away; and, where the next pass sees anew what there is, longer than an
#: election. Reading over what aborted transactions left behind counts as something.
PATIENCE_S = 300.0
CONTINUOUS_PATIENCE_S = 120.0

WORKER_ENTRY = "kbr.backup.task:run"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlaces:
    """From where to where; picklable settings that workers get too.

    Attributes:
        pace_path: the run's rate limit (kbr.runtime.pacing).
        lease_path: until when it may write (kbr.runtime.lease).
        takes_over: what lies in the store and in no manifest; else only what is signed counts.
        replaces: keys below the backup's folder of what was put aside, and could not be removed.
    """

    client: ClientSettings
    storage: StorageOptions
    pace_path: Path
    lease_path: Path
    takes_over: bool = True
    replaces: frozenset[str] = frozenset()


class PassRunner:
    """Runs passes of one backup.

    Args:
        writer: names this run in every segment.
        new_supervisor: makes the supervisor for a number of workers and the workers' entry.
        on_event: gets every worker event.
        on_tick: called now and then while workers run.
        stop: the wish to end the run; passed on to the supervisor.
    """

    def __init__(
        self,
        places: BackupPlaces,
        cluster: Cluster,
        *,
        writer: str,
        new_supervisor: Callable[[int, str], Supervisor],
        on_event: Callable[[object], None],
        on_tick: Callable[[], None],
        stop: StopWish,
    ) -> None:
        self._places = places
        self._cluster = cluster
        self._writer = writer
        self._new_supervisor = new_supervisor
        self._on_event = on_event
        self._on_tick = on_tick
        self._stop = stop
        self.accounts = Accounts()
        self.peak_rss_bytes = 0
        self.cpu_s = 0.0

    def run(
        self,
        plan: BackupPlan,
        options: BackupOptions,
        state: BackupState,
        checkpoints: Checkpoints,
        *,
        failed: Callable[[TopicPartition], bool],
        ends_early: Callable[[], bool],
    ) -> None:
        """Fetch what a plan says.

        Args:
            failed: whether a partition's last try has: then workers look first for what was committed without a word.
            ends_early: asked now and then; from True on no more is begun, and what was fetched is committed.

        Raises:
            KbrError: a checkpoint can't be written, or the backup is another run's by now; workers are ended first.
        """
        wanted = [partition for partition in plan.partitions if not partition.error and not partition.offsets.is_empty]
        size = size_run(
            cores=usable_cores(),
            partitions=len(wanted),
            workers=options.workers,
            threads=options.compress_threads,
            memory_limit=options.memory_limit,
            worker_bytes=BACKUP_WORKER_BYTES[self._places.storage.is_remote],
            base_bytes=BASE_BYTES[self._places.storage.is_remote],
        )
        leaders = self._cluster.leaders([topic.name for topic in plan.topics])
        groups = group_partitions(wanted, leaders, workers=size.workers)
        tasks = {str(number): self._task(group, options, size, failed) for number, group in enumerate(groups)}
        crashes = CrashedTasks(len(tasks))
        supervisor = self._new_supervisor(size.workers, WORKER_ENTRY)

        def take_event(_task_id: str, event: object) -> None:
            if isinstance(event, SegmentCommitted):
                with checkpoints.lock:
                    state.segment_committed(event)
            self.accounts.take(event)
            self._on_event(event)

        def stand_ins(failed: TaskSpec, error: KbrError) -> list[Retry]:
            if not error.retriable:
                return []
            with checkpoints.lock:
                made = crashes.stand_ins(tasks[failed.task_id], state.position, state.anchor)
            tasks.update({retry.task.task_id: task for retry in made if isinstance(task := retry.task.payload, BackupTask)})
            if made:
                _log.warning("%s; its partitions are tried again", error)
            return made

        def tick() -> None:
            self._on_tick()
            checkpoints.tick()
            if ends_early():
                supervisor.end_early()

        self._stop.works(supervisor.stop)
        try:
            outcome = supervisor.run(
                [TaskSpec(task_id=task_id, payload=task) for task_id, task in tasks.items()],
                on_event=take_event,
                on_tick=tick,
                on_failure=stand_ins,
            )
        finally:
            self._stop.works(None)
        self.peak_rss_bytes = max(self.peak_rss_bytes, outcome.peak_worker_rss_bytes)
        self.cpu_s += outcome.worker_cpu_s
        with checkpoints.lock:
            for results in outcome.results.values():
                if isinstance(results, tuple):
                    for result in results:
                        state.partition_ended(result)
            for task_id, error in outcome.failures.items():
                state.partitions_failed((partition.key for partition in tasks[task_id].partitions), error)

    def _task(
        self,
        group: Sequence[PartitionPlan],
        options: BackupOptions,
        size: RunSize,
        failed: Callable[[TopicPartition], bool],
    ) -> BackupTask:
        return BackupTask(
            backup_id=options.backup_id,
            writer=self._writer,
            partitions=tuple(
                PartitionTask(
                    topic=partition.topic,
                    topic_id=partition.topic_id,
                    partition=partition.partition,
                    offsets=partition.offsets,
                    sequence=partition.sequence,
                    adopts=failed(partition.key),
                    anchor=partition.anchor,
                )
                for partition in group
            ),
            client=self._places.client,
            storage=self._places.storage.within(size.records_bytes),
            isolation_level=options.isolation_level,
            compression=options.compression,
            compression_level=options.compression_level,
            segment_max_bytes=options.segment_max_bytes,
            segment_max_interval_s=options.segment_max_interval_ms / 1000,
            patience_s=CONTINUOUS_PATIENCE_S if options.continuous else PATIENCE_S,
            memory_bytes=size.records_bytes,
            compress_threads=size.threads,
            extra_verify=options.extra_verify,
            pace_path=self._places.pace_path,
            lease_path=self._places.lease_path,
            takes_over=self._places.takes_over,
            replaces=self._places.replaces,
            window=options.window,
        )
