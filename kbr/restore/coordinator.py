"""Drives one restore run: read the manifest, plan, check the target, make topics, send by workers.

Gets the cluster, the store and the supervisor from outside; decides by plan and preflight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kbr.errors import KbrError
from kbr.format.documents import Manifest, TopicEntry
from kbr.kafka.cluster import Cluster
from kbr.kafka.selection import select_topics
from kbr.kafka.settings import ClientSettings
from kbr.model import SegmentRef, TopicSpec
from kbr.repository.catalog import Catalog
from kbr.repository.segment_reader import SegmentReader
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import PartitionPlan, RestorePlan, RestoreTask, group_partitions, plan_restore
from kbr.restore.preflight import TargetFacts, check_restore
from kbr.restore.report import PlanCounts, RestoreReport
from kbr.restore.task import PartitionRestored
from kbr.restore.zero_timestamps import refuse_zero_timestamps
from kbr.runtime.messages import TaskSpec
from kbr.runtime.sizing import BASE_BYTES, RESTORE_WORKER_BYTES, size_run, usable_cores
from kbr.runtime.supervisor import Supervisor
from kbr.storage import ObjectStore, StorageOptions
from kbr.telemetry.accounts import Accounts
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["RestoreCoordinator"]

WORKER_ENTRY = "kbr.restore.task:run"
#: Name of the header that include_original_offset_header adds; its value is the offset in decimal.
ORIGINAL_OFFSET_HEADER = b"x-original-offset"
#: Threads that read segment indexes for the plan's counts.
INDEX_READERS = 8
#: Batches stay this far below the smallest max.message.bytes of the target topics.
MAX_BATCH_BYTES = 1_000_000


class RestoreCoordinator:
    """One run of one restore.

    Args:
        client, storage: what workers connect to; picklable.
        options: what to do.
        cluster, store: open ones, of the same places.
        on_event: gets every worker event.
        on_plan: gets the plan and its counts before the first record is sent.
        on_tick: called now and then while workers run.
        pace_path: the run's rate limit, for the workers (kbr.runtime.pacing).
    """

    def __init__(
        self,
        client: ClientSettings,
        storage: StorageOptions,
        options: RestoreOptions,
        *,
        cluster: Cluster,
        store: ObjectStore,
        on_event: Callable[[object], None],
        on_plan: Callable[[RestorePlan, PlanCounts], None],
        on_tick: Callable[[], None],
        pace_path: Path,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._storage = storage
        self._options = options
        self._cluster = cluster
        self._store = store
        self._on_event = on_event
        self._on_plan = on_plan
        self._on_tick = on_tick
        self._pace_path = pace_path
        self._clock = clock
        self._accounts = Accounts()
        self._phases: dict[str, float] = {}
        self._batch_bytes = MAX_BATCH_BYTES

    def run(self, new_supervisor: Callable[[int, str], Supervisor], *, dry_run: bool) -> RestoreReport:
        """Restore, or with ``dry_run`` only plan and check.

        Raises:
            BackupMissing: there is no such backup.
            PreflightRefused: something stands against it; nothing was written.
            KbrError: nothing could be begun; single partitions' failures are in the report.
        """
        begun = self._clock.monotonic()
        manifest = Catalog(self._store).load(self._options.backup_id)
        plan, warnings = self._plan(manifest)
        counts = self._count(manifest, plan)
        self._phases["plan"] = self._clock.monotonic() - begun
        if dry_run:
            return self._report(plan, counts, begun, warnings, dry_run=True)
        self._on_plan(plan, counts)
        created = self._clock.monotonic()
        warnings = (*warnings, *self._make_topics(plan))
        self._phases["create_topics"] = self._clock.monotonic() - created
        sent = self._clock.monotonic()
        report = self._send(manifest, plan, counts, begun, warnings, new_supervisor)
        self._phases["send"] = self._clock.monotonic() - sent
        for topic in plan.topics:
            if topic.configs_afterwards and not report.interrupted and not report.failures:
                self._cluster.set_topic_configs(topic.target.name, topic.configs_afterwards)
        return report

    def _plan(self, manifest: Manifest) -> tuple[RestorePlan, tuple[str, ...]]:
        options = self._options
        names = select_topics(
            [(topic.name, topic.is_internal, topic.partition_count) for topic in manifest.topics],
            options.include,
            options.exclude,
            include_internal=True,
        )
        chosen: list[TopicEntry] = [topic for topic in manifest.topics if topic.name in set(names)]
        targets = {options.topic_mapping.get(topic.name, topic.name) for topic in chosen}
        present = sorted(targets & {name for name, _internal, _count in self._cluster.topics()})
        existing: Mapping[str, TopicSpec] = self._cluster.describe_topics(present) if present else {}
        plan = plan_restore(manifest, chosen, options, existing)
        facts = TargetFacts(
            offsets=self._cluster.offsets(
                [
                    partition.target
                    for partition in plan.partitions
                    if partition.target.topic in existing
                    and partition.target.partition < existing[partition.target.topic].partition_count
                ],
                "read_uncommitted",
            ),
            configs=self._cluster.topic_configs(present, include_defaults=True) if present else {},
            now_ms=self._clock.now_ms(),
        )
        warnings = check_restore(plan, options, facts)
        if options.zero_timestamp_as == 0:
            refuse_zero_timestamps(self._store, plan, max_block_bytes=options.max_block_bytes)
        limits = [int(found["max.message.bytes"]) for found in facts.configs.values() if "max.message.bytes" in found]
        limits.extend(
            int(topic.target.configs["max.message.bytes"])
            for topic in plan.topics
            if not topic.exists and topic.target.configs and "max.message.bytes" in topic.target.configs
        )
        # The limit counts the batch as it is sent; below it uncompressed is below it compressed.
        self._batch_bytes = min([MAX_BATCH_BYTES, *(max(1024, limit - 1024) for limit in limits)])
        return plan, (*plan.warnings, *warnings)

    def _count(self, manifest: Manifest, plan: RestorePlan) -> PlanCounts:
        """Blocks and records of the plan; reads the indexes of segments that the window cuts."""
        whole = [ref for ref in plan.segments if plan.window.covers(ref)]
        cut = [ref for ref in plan.segments if not plan.window.covers(ref)]
        blocks = sum(ref.block_count for ref in whole)
        records = sum(ref.record_count for ref in whole)
        raw = sum(ref.raw_bytes for ref in whole)
        stored = sum(ref.stored_bytes for ref in whole)
        exact = True

        def wanted_entries(reference: SegmentRef) -> list[tuple[int, int, int, bool]]:
            reader = SegmentReader(
                self._store, manifest.backup_id, reference, max_block_bytes=self._options.max_block_bytes
            )
            return [
                (entry.record_count, entry.raw_bytes, entry.stored_bytes, plan.window.covers(entry))
                for entry in reader.index().blocks
                if plan.window.touches(entry)
            ]

        with ThreadPoolExecutor(INDEX_READERS) as pool:
            for entries in pool.map(wanted_entries, cut):
                blocks += len(entries)
                records += sum(entry[0] for entry in entries)
                raw += sum(entry[1] for entry in entries)
                stored += sum(entry[2] for entry in entries)
                exact = exact and all(entry[3] for entry in entries)
        return PlanCounts(
            segments=len(plan.segments), blocks=blocks, records=records, raw_bytes=raw, stored_bytes=stored, exact=exact
        )

    def _make_topics(self, plan: RestorePlan) -> tuple[str, ...]:
        missing = [topic.target for topic in plan.topics if not topic.exists]
        if not missing:
            return ()
        notes = self._cluster.create_topics(missing)
        self._cluster.wait_for_leaders([spec.name for spec in missing])
        return tuple(notes)

    def _send(
        self,
        manifest: Manifest,
        plan: RestorePlan,
        counts: PlanCounts,
        begun: float,
        warnings: tuple[str, ...],
        new_supervisor: Callable[[int, str], Supervisor],
    ) -> RestoreReport:
        wanted = sum(1 for partition in plan.partitions if partition.segments)
        if wanted == 0:
            return self._report(plan, counts, begun, warnings, dry_run=False)
        size = size_run(
            cores=usable_cores(),
            partitions=wanted,
            workers=self._options.workers,
            threads=1,
            memory_limit=self._options.memory_limit,
            worker_bytes=RESTORE_WORKER_BYTES[self._storage.is_remote],
            base_bytes=BASE_BYTES[self._storage.is_remote],
        )
        leaders = self._cluster.leaders({topic.target.name for topic in plan.topics})
        groups = group_partitions(plan.partitions, leaders, workers=size.workers)
        tasks = [
            TaskSpec(task_id=str(number), payload=self._task(manifest, plan, group, size.records_bytes))
            for number, group in enumerate(groups)
        ]

        def take_event(_task_id: str, event: object) -> None:
            self._accounts.take(event)
            self._on_event(event)

        outcome = new_supervisor(size.workers, WORKER_ENTRY).run(tasks, on_event=take_event, on_tick=self._on_tick)
        results: list[PartitionRestored] = []
        for result in outcome.results.values():
            if isinstance(result, tuple):
                results.extend(result)
        failures = {
            str(partition.source): _describe(error)
            for task_id, error in outcome.failures.items()
            for partition in groups[int(task_id)]
        }
        return self._report(
            plan,
            counts,
            begun,
            warnings,
            dry_run=False,
            results=tuple(results),
            failures=failures,
            interrupted=outcome.interrupted,
            peak_rss=outcome.peak_worker_rss_bytes,
            cpu_s=outcome.worker_cpu_s,
        )

    def _task(
        self, manifest: Manifest, plan: RestorePlan, group: tuple[PartitionPlan, ...], memory_bytes: int
    ) -> RestoreTask:
        options = self._options
        return RestoreTask(
            backup_id=manifest.backup_id,
            compression=manifest.compression,
            window=plan.window,
            partitions=group,
            client=self._client,
            storage=self._storage,
            wire_compression=options.compression,
            original_offset_header=ORIGINAL_OFFSET_HEADER if options.include_original_offset_header else b"",
            zero_timestamp_as=options.zero_timestamp_as,
            batch_bytes=self._batch_bytes,
            memory_bytes=memory_bytes,
            max_block_bytes=options.max_block_bytes,
            pace_path=self._pace_path,
        )

    def _report(
        self,
        plan: RestorePlan,
        counts: PlanCounts,
        begun: float,
        warnings: tuple[str, ...],
        *,
        dry_run: bool,
        results: tuple[PartitionRestored, ...] = (),
        failures: dict[str, str] | None = None,
        interrupted: bool = False,
        peak_rss: int = 0,
        cpu_s: float = 0.0,
    ) -> RestoreReport:
        return RestoreReport(
            plan=plan,
            counts=counts,
            storage_url=self._store.url,
            dry_run=dry_run,
            duration_s=self._clock.monotonic() - begun,
            phases_s=self._phases,
            waited_s=self._accounts.waited_s,
            peak_worker_rss_bytes=peak_rss,
            worker_cpu_s=cpu_s,
            warnings=warnings,
            results=results,
            failures=failures or {},
            interrupted=interrupted,
        )


def _describe(error: KbrError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
