"""Drives one restore run: read the manifest, prepare, make topics, send by workers, put configs as they were.

Gets the cluster, the store and the supervisor from outside. What of the plan is in the target already is found there,
not remembered: the notes in the store only say where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from kbr.errors import ClusterError, KbrError, StorageError
from kbr.format.documents import Manifest
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.selection import may_choose
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition, TopicSpec
from kbr.repository.adopt import with_unlisted
from kbr.repository.catalog import Catalog
from kbr.repository.foreign import ReadOnlyStore
from kbr.repository.layout import offset_map_key
from kbr.repository.offset_maps import has_offset_map
from kbr.repository.sealing import for_workers
from kbr.restore.check import PartitionStart, TargetCheck
from kbr.restore.compare import RecordRules
from kbr.restore.counting import PlanCounts, count_plan
from kbr.restore.final_look import Expected, look_at_the_end, other_topic, records_gone
from kbr.restore.identity import restore_id_of
from kbr.restore.journal import RestoreJournal
from kbr.restore.lane_counts import AllLaneCounts
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import PartitionPlan, RestorePlan, RestoreTask
from kbr.restore.prepare import Preparation, Prepared
from kbr.restore.report import RestoreReport
from kbr.restore.routed_stream import RoutedStream
from kbr.restore.sending import Sending, SendOutcome
from kbr.restore.settling import Settler
from kbr.restore.standing import Standing
from kbr.restore.stream import PlanStream
from kbr.restore.target_topics import TargetTopics
from kbr.restore.waiting import StopFlag
from kbr.runtime.sizing import BASE_BYTES, RESTORE_WORKER_BYTES, size_run, usable_cores
from kbr.runtime.supervisor import Supervisor
from kbr.storage import ObjectStore, StorageOptions
from kbr.telemetry.accounts import Accounts
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["RestoreCoordinator"]

#: Name of the header that include_original_offset_header adds; its value is the offset in decimal.
ORIGINAL_OFFSET_HEADER = b"x-original-offset"
#: How long one look at a target between two tries may take to be answered, seconds: then it is tried again after a
#: back-off, and a wish to stop is heard in between.
LOOK_DEADLINE_S = 10.0


class RestoreLock(AbstractContextManager["RestoreLock"], Protocol):
    """This restore is this run's while it is entered."""

    def check(self) -> None:
        """Come back if it surely is.

        Raises:
            Locked: it is another's.
        """


class RestoreCoordinator:
    """One run of one restore.

    Args:
        client, storage: what workers connect to; picklable.
        options: what to do.
        cluster, store: open ones, of the same places.
        deadline_s: how long the cluster may take to answer, seconds.
        stop: set when somebody wants the run to end, from the first worker on.
        on_event: gets every worker event.
        on_plan: gets what is left to send, and its counts, before the first record is sent.
        on_tick: called now and then while workers run.
        pace_path: the run's rate limit, for the workers (kbr.runtime.pacing).
        lease_path: until when they may send (kbr.runtime.lease).
        lock: keeps other runs of the same restore, by its id, out while it is entered.
        no_lock: stands for it where nothing may be written.
        ends_later: more is to be done than to send records, and finish() is called then: with ``append`` the same command
            adds everything once more as soon as the notes say that it is complete.
    """

    def __init__(
        self,
        client: ClientSettings,
        storage: StorageOptions,
        options: RestoreOptions,
        *,
        cluster: Cluster,
        store: ObjectStore,
        deadline_s: float,
        stop: StopFlag,
        on_event: Callable[[object], None],
        on_plan: Callable[[RestorePlan, PlanCounts], None],
        on_tick: Callable[[], None],
        pace_path: Path,
        lease_path: Path,
        lock: Callable[[str], RestoreLock],
        no_lock: Callable[[], RestoreLock],
        ends_later: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._storage = storage
        self._options = options
        self._cluster = cluster
        self._store = store
        self._deadline_s = deadline_s
        self._stop = stop
        self._on_event = on_event
        self._on_plan = on_plan
        self._on_tick = on_tick
        self._pace_path = pace_path
        self._lease_path = lease_path
        self._lock = lock
        self._no_lock = no_lock
        self._ends_later = ends_later and options.append
        #: Notes that wait for finish().
        self._unfinished: RestoreJournal | None = None
        self._clock = clock
        self._topics = TargetTopics(cluster, options, deadline_s=deadline_s, clock=clock)
        self._accounts = Accounts()
        self._phases: dict[str, float] = {}
        #: Key of the mapping that was written, or was there.
        self._offset_map: str | None = None
        self._lane_counts = AllLaneCounts(store, max_block_bytes=options.max_block_bytes, stopped=stop.is_set)
        self._header = ORIGINAL_OFFSET_HEADER if options.include_original_offset_header else b""

    def run(self, new_supervisor: Callable[[int, str], Supervisor], *, dry_run: bool) -> RestoreReport:
        """Restore, or go on with it, or with ``dry_run`` only plan and check.

        Raises:
            BackupMissing: there is no such backup.
            RestoreStateUnreadable: an earlier run has noted something that can't be read.
            PreflightRefused: something stands against it; nothing was sent.
            KbrError: nothing could be begun; single partitions' failures are in the report.
        """
        begun = self._clock.monotonic()
        options = self._options
        chosen = Catalog(self._store, max_manifest_bytes=options.max_manifest_bytes).load_chosen(
            options.backup_id, lambda name: may_choose(name, options.include, options.exclude)
        )
        manifest, notes = with_unlisted(self._store, chosen)
        if manifest.made_by:
            # nothing is ever written to it: no lock, no notes, no offset mapping
            self._store = ReadOnlyStore(self._store, manifest.made_by)
            notes = [*manifest.notes, *notes]
        cluster_id = self._cluster.info().cluster_id
        if dry_run:
            return self._run(manifest, notes, cluster_id, begun, new_supervisor, dry_run=True)
        restore_id = restore_id_of(self._options, cluster_id)
        with self._no_lock() if manifest.made_by else self._lock(restore_id) as lock:
            return self._run(manifest, notes, cluster_id, begun, new_supervisor, lock=lock)

    def finish(self) -> None:
        """What was to be done after run() is done.

        Raises:
            StoreUnavailable: that could not be noted.
        """
        # meanwhile this restore is nobody's: another run may have begun
        journal = self._unfinished
        if journal is not None and journal.is_writable and journal.is_as_noted():
            journal.complete(is_mapped=self._offset_map is not None)

    def _run(
        self,
        manifest: Manifest,
        notes: Sequence[str],
        cluster_id: str,
        begun: float,
        new_supervisor: Callable[[int, str], Supervisor],
        *,
        dry_run: bool = False,
        lock: RestoreLock | None = None,
    ) -> RestoreReport:
        options = self._options
        restore_id = restore_id_of(options, cluster_id)
        journal = RestoreJournal(
            self._store,
            options.backup_id,
            restore_id,
            cluster_id,
            append=options.append,
            clock=self._clock,
        )
        preparation = Preparation(
            options,
            cluster=self._cluster,
            store=self._store,
            journal=journal,
            check=self._new_check,
            stop=self._stop,
            clock=self._clock,
        )
        prepared = preparation.prepare(manifest, dry_run=dry_run)
        counts = count_plan(self._store, prepared.left, max_block_bytes=options.max_block_bytes, manifest=manifest)
        self._phase("plan", begun)
        warnings = [*prepared.warnings, *notes]
        outcome = SendOutcome(gone=prepared.gone)
        if not dry_run:
            self._on_plan(prepared.left, counts)
            if lock is not None:
                lock.check()
            if not prepared.nothing_to_do:
                outcome = self._write(manifest, prepared, journal, warnings, new_supervisor)
            elif options.offset_map:
                self._write_offset_map(prepared, journal, outcome, warnings, again=False)
            warnings.extend(journal.warnings)
        elif prepared.absent:
            warnings.extend(str(error) for error in prepared.absent.values())
        self._judge_gone(prepared, outcome, warnings, dry_run=dry_run)
        return RestoreReport(
            restore_id=restore_id,
            plan=prepared.left,
            counts=counts,
            storage_url=self._store.url,
            dry_run=dry_run,
            duration_s=self._clock.monotonic() - begun,
            phases_s=self._phases,
            waited_s=self._accounts.waited_s,
            peak_worker_rss_bytes=outcome.peak_worker_rss_bytes,
            worker_cpu_s=outcome.worker_cpu_s,
            warnings=tuple(warnings),
            results=tuple(outcome.results.values()),
            kept={
                one.source: (start := prepared.starts[one.target]).kept - start.gone for one in prepared.whole.partitions
            },
            gone=outcome.gone,
            gained=outcome.gained,
            retries=outcome.retries,
            failures=outcome.failures,
            interrupted=outcome.interrupted,
            offset_map=self._offset_map,
        )

    def _phase(self, name: str, begun: float) -> None:
        self._phases[name] = self._clock.monotonic() - begun

    def _new_check(self, plan: RestorePlan, has_holes: Callable[[str], bool]) -> TargetCheck:
        counts = self._lane_counts

        def stream(partition: PartitionPlan) -> PlanStream:
            if partition.routing is not None:
                return RoutedStream(
                    self._store,
                    plan.backup_id,
                    partition,
                    plan.window,
                    counts.of(plan, partition),
                    max_block_bytes=self._options.max_block_bytes,
                )
            return PlanStream(
                self._store, plan.backup_id, partition, plan.window, max_block_bytes=self._options.max_block_bytes
            )

        return TargetCheck(
            self._client,
            stream,
            RecordRules(original_offset_header=self._header, zero_timestamp_as=self._options.zero_timestamp_as),
            has_holes=has_holes,
            deadline_s=self._deadline_s,
            stopped=self._stop.is_set,
            on_client_message=self._on_event,
        )

    # -- writing --------------------------------------------------------------------------

    def _write(
        self,
        manifest: Manifest,
        prepared: Prepared,
        journal: RestoreJournal,
        warnings: list[str],
        new_supervisor: Callable[[int, str], Supervisor],
    ) -> SendOutcome:
        begun = self._clock.monotonic()
        specs = self._topics.make(prepared, journal, warnings)
        self._topics.take_timestamps(prepared)
        self._phase("create_topics", begun)
        begun = self._clock.monotonic()
        outcome = self._send(manifest, prepared, specs, new_supervisor)
        outcome.gone = prepared.gone
        for source, error in prepared.absent.items():
            outcome.failures.setdefault(source, error)
        self._phase("send", begun)
        if not outcome.interrupted:
            begun = self._clock.monotonic()
            self._look_at_the_end(prepared, specs, outcome, warnings)
            self._phase("look", begun)
            self._topics.set_configs(prepared, journal, outcome)
            if self._options.offset_map:
                self._write_offset_map(prepared, journal, outcome, warnings, again=True)
            sent = all(result.complete for result in outcome.results.values())
            # also where some are gone since: there is nothing more to send. But appended anew they would be, by the command
            # that is run again to accept it
            told = not outcome.gone or not self._options.append or self._options.accept_cleanup
            if sent and told and not outcome.failures and not outcome.interrupted:
                if self._ends_later:
                    self._unfinished = journal
                else:
                    journal.complete(is_mapped=self._offset_map is not None)
        return outcome

    def _look_at_the_end(
        self, prepared: Prepared, specs: Mapping[str, TopicSpec], outcome: SendOutcome, warnings: list[str]
    ) -> None:
        """What was acknowledged is there, or it is said what is not."""
        done = self._done(prepared, outcome)
        sources = {one.plan.target: one.plan.source for one in done}
        expected = [
            Expected(target=one.plan.target, base=one.base, end=one.base + one.record_count) for one in done
        ]
        try:
            look = look_at_the_end(
                self._cluster, expected, specs, stop=self._stop, clock=self._clock, deadline_s=self._deadline_s
            )
        except ClusterError as error:
            if not error.retriable:
                raise
            warnings.append(f"all records were acknowledged; whether they are still there could not be looked at: {error}")
            return
        outcome.gone = {**outcome.gone, **{sources[target]: count for target, count in look.gone.items()}}
        outcome.failures.update({sources[target]: error for target, error in look.failures.items()})
        warnings.extend(
            f"target {target}: all records were acknowledged; whether they are still there could not be looked at: {error}"
            for target, error in look.unseen.items()
        )

    @staticmethod
    def _done(prepared: Prepared, outcome: SendOutcome) -> list[MappedPartition]:
        """The partitions that have all their records in the target, as far as is known."""
        bases = prepared.bases
        found: list[MappedPartition] = []
        for one in prepared.whole.partitions:
            result = outcome.results.get(one.source)
            if one.source in outcome.failures or (result is not None and not result.complete):
                continue
            sent = outcome.gained.get(one.source, 0) + (0 if result is None else result.record_count)
            count = prepared.starts[one.target].kept + sent
            found.append(MappedPartition(plan=one, base=bases[one.target], record_count=count))
        return found

    def _write_offset_map(
        self, prepared: Prepared, journal: RestoreJournal, outcome: SendOutcome, warnings: list[str], *, again: bool
    ) -> None:
        """Where each record of the partitions that are done lies; records that are gone since are in it, too.

        Args:
            again: in place of one that is there.
        """
        begun = self._clock.monotonic()
        mapping = OffsetMapping(
            self._store,
            prepared.whole.backup_id,
            prepared.whole.window,
            max_block_bytes=self._options.max_block_bytes,
            stopped=self._stop.is_set,
        )
        try:
            if not journal.is_writable:
                warnings.append("the offset mapping is not written, as the store refused the restore's notes")
            elif (not again and has_offset_map(self._store, prepared.whole.backup_id, journal.restore_id)) or mapping.write(
                journal.restore_id,
                journal.cluster_id,
                self._done(prepared, outcome),
                # never older than the notes, whatever the clocks of the machines say that had a part in it
                created_at_ms=max(self._clock.now_ms(), 0 if journal.state is None else journal.state.created_at_ms),
            ):
                self._offset_map = offset_map_key(prepared.whole.backup_id, journal.restore_id)
            else:
                outcome.interrupted = True
        except StorageError as error:
            if error.retriable:
                raise
            warnings.append(f"the offset mapping could not be written: {error}")
        self._phase("offset_map", begun)

    def _judge_gone(
        self, prepared: Prepared, outcome: SendOutcome, warnings: list[str], *, dry_run: bool
    ) -> None:
        """Restored records that are gone: a failure, unless somebody said that they may go."""
        bases = prepared.bases
        for one in prepared.whole.partitions:
            count = outcome.gone.get(one.source, 0)
            if not count:
                continue
            error = records_gone(one.target, bases[one.target], count)
            if dry_run or self._options.accept_cleanup:
                warnings.append(str(error))
            else:
                outcome.failures.setdefault(one.source, error)

    # -- sending --------------------------------------------------------------------------

    def _send(
        self,
        manifest: Manifest,
        prepared: Prepared,
        specs: Mapping[str, TopicSpec],
        new_supervisor: Callable[[int, str], Supervisor],
    ) -> SendOutcome:
        wanted = [partition for partition in prepared.left.partitions if partition.segments]
        if not wanted:
            return SendOutcome()
        options = self._options
        size = size_run(
            cores=usable_cores(),
            partitions=len(wanted),
            workers=options.workers,
            threads=1,
            memory_limit=options.memory_limit,
            worker_bytes=RESTORE_WORKER_BYTES[self._storage.is_remote],
            base_bytes=BASE_BYTES[self._storage.is_remote],
        )

        storage = for_workers(self._store, self._storage, manifest.backup_id)

        def task(group: tuple[PartitionPlan, ...]) -> RestoreTask:
            return RestoreTask(
                backup_id=manifest.backup_id,
                compression=manifest.compression,
                window=prepared.left.window,
                partitions=group,
                client=self._client,
                storage=storage,
                wire_compression=options.compression,
                original_offset_header=self._header,
                zero_timestamp_as=options.zero_timestamp_as,
                batch_bytes=prepared.batch_bytes,
                memory_bytes=size.records_bytes,
                max_block_bytes=options.max_block_bytes,
                deadline_s=self._deadline_s,
                pace_path=self._pace_path,
                lease_path=self._lease_path,
            )

        def take_event(_task_id: str, event: object) -> None:
            self._accounts.take(event)
            self._on_event(event)

        topics = {one.target.topic for one in wanted}
        return Sending(
            workers=size.workers,
            task=task,
            new_supervisor=new_supervisor,
            leaders=lambda: self._cluster.leaders(topics),
            look_again=lambda targets: self._look_again(prepared, specs, targets),
            on_event=take_event,
            on_tick=self._on_tick,
            stop=self._stop,
            clock=self._clock,
        ).run(wanted)

    def _look_again(
        self, prepared: Prepared, specs: Mapping[str, TopicSpec], targets: Sequence[TopicPartition]
    ) -> dict[TopicPartition, PartitionStart | KbrError]:
        """Where partitions that failed go on, once the target is at rest."""
        bases = prepared.bases

        def standing_of(
            offsets: Mapping[TopicPartition, PartitionOffsets | KbrError],
        ) -> dict[TopicPartition, Standing]:
            return {
                target: Standing(
                    base=bases[target],
                    claimed=there.high_watermark - bases[target],
                    log_start=there.log_start,
                    noted=True,
                )
                for target, there in offsets.items()
                if isinstance(there, PartitionOffsets)
            }

        with Cluster(self._client, deadline_s=min(LOOK_DEADLINE_S, self._deadline_s), clock=self._clock) as cluster:
            names = {target.topic for target in targets}
            present = sorted(names & {name for name, _internal, _count in cluster.topics()})
            now = cluster.describe_topics(present) if present else {}
            found: dict[TopicPartition, PartitionStart | KbrError] = {}
            for target in targets:
                error = other_topic(target, specs[target.topic], now.get(target.topic))
                if error is not None:
                    found[target] = error
            same = [one for one in prepared.whole.partitions if one.target in set(targets) - found.keys()]
            holes = {topic.target.name: topic for topic in prepared.whole.topics}
            check = self._new_check(prepared.whole, lambda name: prepared.may_have_holes(holes[name]))
            if same:
                found.update(
                    Settler(cluster, check, self._stop, self._clock).starts(
                        same, standing_of, watch=True, refuse=False
                    )
                )
            return found
