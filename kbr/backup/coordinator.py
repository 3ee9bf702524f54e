"""Drives one backup run: choose, plan, publish, fetch by workers, publish.

Gets the cluster, the store and the supervisor from outside; decides by plan and state.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupPlan, BackupTask, PartitionPlan, PartitionTask, group_partitions, plan_partitions
from kbr.backup.report import BackupReport
from kbr.backup.state import BackupState
from kbr.errors import BackupExists, KbrError
from kbr.format.documents import Manifest, SourceInfo
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.selection import select_topics
from kbr.kafka.settings import ClientSettings
from kbr.model import PartitionStatus, RunStatus, TopicPartition
from kbr.repository.catalog import Catalog
from kbr.repository.publish import publish_manifest
from kbr.runtime.messages import TaskSpec
from kbr.runtime.sizing import BACKUP_WORKER_BYTES, BASE_BYTES, RunSize, size_run, usable_cores
from kbr.runtime.supervisor import Supervisor
from kbr.storage import ObjectStore, StorageOptions
from kbr.telemetry.accounts import Accounts
from kbr.telemetry.events import SegmentCommitted
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["BackupCoordinator", "BackupPlaces"]

WORKER_ENTRY = "kbr.backup.task:run"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlaces:
    """From where to where; picklable settings that workers get too."""

    client: ClientSettings
    storage: StorageOptions


class BackupCoordinator:
    """One run of one backup.

    Args:
        places: what workers connect to.
        options: what to do.
        cluster, store: open ones, of the same places.
        kbr_version: for the manifest.
        on_event: gets every worker event.
        on_plan: gets the plan before the first record is fetched.
        on_tick: called now and then while workers run.
        pace_path: the run's rate limit, for the workers (kbr.runtime.pacing).
    """

    def __init__(
        self,
        places: BackupPlaces,
        options: BackupOptions,
        *,
        cluster: Cluster,
        store: ObjectStore,
        kbr_version: str,
        on_event: Callable[[object], None],
        on_plan: Callable[[BackupPlan], None],
        on_tick: Callable[[], None],
        pace_path: Path,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._places = places
        self._options = options
        self._cluster = cluster
        self._store = store
        self._kbr_version = kbr_version
        self._on_event = on_event
        self._on_plan = on_plan
        self._on_tick = on_tick
        self._pace_path = pace_path
        self._clock = clock
        self._accounts = Accounts()
        self._writer = uuid.uuid4().hex
        self._phases: dict[str, float] = {}

    def plan(self) -> tuple[BackupPlan, SourceInfo]:
        """Choose topics and fix offsets; reads only.

        Raises:
            TopicMissing: a named topic does not exist.
        """
        begun = self._clock.monotonic()
        listed = self._cluster.topics()
        names = select_topics(
            listed, self._options.include, self._options.exclude, include_internal=self._options.include_internal
        )
        described = self._cluster.describe_topics(names)
        specs = [described[name] for name in names]
        wanted = [TopicPartition(spec.name, number) for spec in specs for number in range(spec.partition_count)]
        offsets: dict[TopicPartition, PartitionOffsets] = {}
        errors: dict[TopicPartition, str] = {}
        for key, found in self._cluster.offsets(wanted, self._options.isolation_level).items():
            if isinstance(found, KbrError):
                errors[key] = str(found)
            else:
                offsets[key] = found
        info = self._cluster.info()
        source = SourceInfo(
            cluster_id=info.cluster_id, brokers=tuple(info.brokers), isolation_level=self._options.isolation_level
        )
        plan = plan_partitions(specs, offsets, errors, now_ms=self._clock.now_ms())
        self._phases["plan"] = self._clock.monotonic() - begun
        return plan, source

    def dry_run(self) -> BackupReport:
        """What run() would do, by reading only."""
        begun = self._clock.monotonic()
        self._refuse_existing()
        plan, source = self.plan()
        now_ms = self._clock.now_ms()
        state = BackupState(plan, self._options, source, kbr_version=self._kbr_version, created_at_ms=now_ms)
        return self._report(state.manifest(RunStatus.RUNNING, now_ms=now_ms), begun, 0, 0.0, dry_run=True)

    def run(self, new_supervisor: Callable[[int, str], Supervisor]) -> BackupReport:
        """Take the backup.

        Args:
            new_supervisor: makes the supervisor for a number of workers and the workers' entry.

        Raises:
            BackupExists: the backup_id is taken.
            KbrError: nothing could be begun; single partitions' failures are in the report.
        """
        begun = self._clock.monotonic()
        self._refuse_existing()
        plan, source = self.plan()
        state = BackupState(
            plan, self._options, source, kbr_version=self._kbr_version, created_at_ms=self._clock.now_ms()
        )
        self._on_plan(plan)
        state.take_changed()
        publish_manifest(self._store, state.manifest(RunStatus.RUNNING, now_ms=self._clock.now_ms()))
        fetch_begun = self._clock.monotonic()
        interrupted, peak_rss, cpu_s = self._fetch(plan, state, new_supervisor)
        self._phases["fetch"] = self._clock.monotonic() - fetch_begun
        status = RunStatus.INTERRUPTED if interrupted else state.final_status
        manifest = state.manifest(status, now_ms=self._clock.now_ms())
        publish_begun = self._clock.monotonic()
        publish_manifest(self._store, manifest)
        self._phases["publish"] = self._clock.monotonic() - publish_begun
        return self._report(manifest, begun, peak_rss, cpu_s, dry_run=False)

    def _refuse_existing(self) -> None:
        catalog = Catalog(self._store)
        if catalog.has_objects(self._options.backup_id):
            raise BackupExists(
                f"backup {self._options.backup_id} already exists at {self._store.url}",
                hint="choose another backup_id, or remove that backup's folder if it is not needed",
                backup_id=self._options.backup_id,
            )

    def _fetch(
        self, plan: BackupPlan, state: BackupState, new_supervisor: Callable[[int, str], Supervisor]
    ) -> tuple[bool, int, float]:
        wanted = sum(1 for partition in plan.partitions if not partition.error and not partition.offsets.is_empty)
        if wanted == 0:
            return False, 0, 0.0
        size = size_run(
            cores=usable_cores(),
            partitions=wanted,
            workers=self._options.workers,
            threads=self._options.compress_threads,
            memory_limit=self._options.memory_limit,
            worker_bytes=BACKUP_WORKER_BYTES[self._places.storage.is_remote],
            base_bytes=BASE_BYTES[self._places.storage.is_remote],
        )
        leaders = self._cluster.leaders([topic.name for topic in plan.topics])
        groups = group_partitions(plan.partitions, leaders, workers=size.workers)
        tasks = [TaskSpec(task_id=str(number), payload=self._task(group, size)) for number, group in enumerate(groups)]
        supervisor = new_supervisor(size.workers, WORKER_ENTRY)
        checkpoint_at = self._clock.monotonic() + self._options.checkpoint_interval_s

        def take_event(_task_id: str, event: object) -> None:
            if isinstance(event, SegmentCommitted):
                state.segment_committed(event)
            self._accounts.take(event)
            self._on_event(event)

        def tick() -> None:
            nonlocal checkpoint_at
            self._on_tick()
            if self._clock.monotonic() >= checkpoint_at:
                if state.take_changed():
                    publish_manifest(self._store, state.manifest(RunStatus.RUNNING, now_ms=self._clock.now_ms()))
                checkpoint_at = self._clock.monotonic() + self._options.checkpoint_interval_s

        outcome = supervisor.run(tasks, on_event=take_event, on_tick=tick)
        for results in outcome.results.values():
            if isinstance(results, tuple):
                for result in results:
                    state.partition_ended(result)
        for task_id, error in outcome.failures.items():
            state.partitions_failed((partition.key for partition in groups[int(task_id)]), error)
        return outcome.interrupted, outcome.peak_worker_rss_bytes, outcome.worker_cpu_s

    def _task(self, group: Sequence[PartitionPlan], size: RunSize) -> BackupTask:
        options = self._options
        return BackupTask(
            backup_id=options.backup_id,
            writer=self._writer,
            partitions=tuple(
                PartitionTask(
                    topic=partition.topic,
                    topic_id=partition.topic_id,
                    partition=partition.partition,
                    offsets=partition.offsets,
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
            memory_bytes=size.records_bytes,
            compress_threads=size.threads,
            pace_path=self._pace_path,
        )

    def _report(
        self, manifest: Manifest, begun: float, peak_rss: int, cpu_s: float, *, dry_run: bool
    ) -> BackupReport:
        warnings = []
        for topic in manifest.topics:
            if topic.configs is None:
                warnings.append(f"{topic.name}: the cluster does not tell topic configs; a restore can't put them back")
            failed = sum(1 for partition in topic.partitions if partition.status is PartitionStatus.FAILED)
            if failed:
                warnings.append(f"{topic.name}: {failed} of {topic.partition_count} partitions failed")
            gaps = sum(len(partition.gaps) for partition in topic.partitions)
            if gaps:
                warnings.append(f"{topic.name}: {gaps} gaps (see describe)")
        return BackupReport(
            manifest=manifest,
            storage_url=self._store.url,
            dry_run=dry_run,
            duration_s=self._clock.monotonic() - begun,
            phases_s=self._phases,
            waited_s=self._accounts.waited_s,
            record_bytes=self._accounts.record_bytes,
            peak_worker_rss_bytes=peak_rss,
            worker_cpu_s=cpu_s,
            warnings=tuple(warnings),
        )
