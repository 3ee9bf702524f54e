"""Drives one backup run: choose, plan, fetch by workers, publish; pass after pass until all is read or it is stopped.

Gets the cluster, the store, the backup's lock and the supervisor from outside; decides by plan, state and retries.
A pass reads every partition from where the backup has come to up to an end that is fixed when it begins. A one-shot
run makes one, and more over what could not be read; a continuous one makes them until it is stopped.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from kbr.backup.adopting import take_leftovers
from kbr.backup.changes import OptionChanges
from kbr.backup.checkpoints import STOP_GRACE_S, Checkpoints
from kbr.backup.fetching import BackupPlaces, PassRunner
from kbr.backup.groups import GroupCapture
from kbr.backup.index_keeping import IndexKeeper
from kbr.backup.notices import Notices
from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupPlan, plan_partitions
from kbr.backup.previous import load_previous
from kbr.backup.report import BackupReport, manifest_warnings
from kbr.backup.retries import PartitionRetries
from kbr.backup.state import BackupState
from kbr.backup.survey import Survey, check_selection, source_info, survey_topics
from kbr.backup.watching import BackupWatch, Doing
from kbr.errors import ClusterError, ClusterUnavailable, KbrError, Locked, StoreFull, StoreUnavailable
from kbr.format.documents import Manifest, SourceInfo
from kbr.kafka.cluster import Cluster
from kbr.model import RunStatus, TopicPartition
from kbr.repository.catalog import Catalog
from kbr.repository.publish import ManifestPublisher
from kbr.repository.sealing import begin_backup, check_new_backup, for_workers, is_to_be_signed, lists_only
from kbr.runtime.stopping import StopWish
from kbr.runtime.supervisor import Supervisor
from kbr.storage import ObjectStore
from kbr.telemetry.accounts import VerifyCounts
from kbr.telemetry.events import ProgressEvent
from kbr.telemetry.logs import get_logger
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock

__all__ = ["BackupCoordinator", "BackupPlaces", "RunLock"]

_log = get_logger("kbr.backup")

#: What a continuous run waits for the end of.
_OUTAGES = (ClusterUnavailable, StoreUnavailable, StoreFull)


class RunLock(AbstractContextManager[object], Protocol):
    """The right to write the backup, held while it is entered."""

    def check(self) -> None:
        """Raise Locked if it is another run's by now."""


class BackupCoordinator:
    """One run of one backup.

    Args:
        places: what workers connect to.
        options: what to do.
        cluster, store: open ones, of the same places.
        run_lock: the backup's.
        kbr_version: for the manifest.
        on_event: gets every worker event.
        on_plan: gets each pass's plan before its first record is fetched.
        on_tick: called now and then while workers run.
        on_begin: called when a stop is to end the run in order, from now on.
        stop: the wish to end the run.
        reread: what the options are to be from now on, or None when nobody asked for a change.
        on_options: gets options that were reread, when they hold.
        watch: is told what the run is doing.
    """

    def __init__(
        self,
        places: BackupPlaces,
        options: BackupOptions,
        *,
        cluster: Cluster,
        store: ObjectStore,
        run_lock: RunLock,
        kbr_version: str,
        on_event: Callable[[object], None],
        on_plan: Callable[[BackupPlan], None],
        on_tick: Callable[[], None],
        on_begin: Callable[[], None] = lambda: None,
        stop: StopWish,
        reread: Callable[[], BackupOptions | None] = lambda: None,
        on_options: Callable[[BackupOptions], None] = lambda _options: None,
        watch: BackupWatch,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._places = places
        self._changes = OptionChanges(options, cluster, reread, on_options)
        self._cluster = cluster
        self._store = store
        self._run_lock = run_lock
        self._kbr_version = kbr_version
        self._on_event = on_event
        self._on_plan = on_plan
        self._on_tick = on_tick
        self._on_begin = on_begin
        self._stop = stop
        self._clock = clock
        self._phases: dict[str, float] = {}
        self._notices = Notices(clock)
        self._previous: Manifest | None = None
        self._watch = watch
        self._has_begun = False
        #: The pass has made room for one with other options.
        self._ended_early = False
        #: A stop came while the cluster was asked.
        self._was_cut_short = False
        #: When anything last came from the cluster, wall clock.
        self._heard_at_ms = 0
        self._capture: GroupCapture | None = None
        #: Of the pass that the last capture was made for.
        self._surveyed: Survey | None = None

    @property
    def _options(self) -> BackupOptions:
        return self._changes.options

    def dry_run(self) -> BackupReport:
        """What run() would do, by reading only.

        Raises:
            BackupExists, ManifestUnreadable: the backup can't be gone on with.
            TopicMissing: a named topic does not exist.
        """
        begun = self._clock.monotonic()
        state, survey = self._look(dry_run=True)
        state.begin_check()
        state.confirm({})
        self._begin_pass(state, survey, ends={})
        manifest = state.manifest(RunStatus.RUNNING, now_ms=self._clock.now_ms())
        return self._report(state, manifest, begun, None)

    def run(self, new_supervisor: Callable[[int, str], Supervisor]) -> BackupReport:
        """Take the backup, or go on with it.

        Args:
            new_supervisor: makes the supervisor for a number of workers and the workers' entry.

        Raises:
            Locked: another run writes it.
            BackupExists, ManifestUnreadable: it can't be gone on with.
            KbrError: nothing could be begun, or the run had to end. Single partitions' failures are in the report.
        """
        begun = self._clock.monotonic()
        check_selection(self._cluster, self._options, has_backup=self._has_backup)
        with self._run_lock:
            begin_backup(self._store, self._options.backup_id, self._run_lock.check)
            storage = for_workers(self._store, self._places.storage, self._options.backup_id)
            takes_over = not lists_only(self._store, self._options.backup_id)
            self._places = replace(self._places, storage=storage, takes_over=takes_over)
            state, survey = self._look(dry_run=False)
            if self._previous is None:
                check_new_backup(self._store, self._options.backup_id)
            self._store.remove_leftovers(self._options.backup_id)
            self._phases["plan"] = self._clock.monotonic() - begun
            index = self._new_index()
            checkpoints = Checkpoints(
                ManifestPublisher(self._store),
                state,
                self._cluster,
                interval_s=self._options.checkpoint_interval_s,
                check_lock=self._run_lock.check,
                is_stopped=lambda: self._stop.requested,
                clock=self._clock,
                on_listed=index.checkpoint if index is not None else lambda _manifest: None,
            )
            runner = PassRunner(
                self._places,
                self._cluster,
                writer=uuid.uuid4().hex,
                new_supervisor=new_supervisor,
                on_event=self._take_event,
                on_tick=self._on_tick,
                stop=self._stop,
            )
            self._watch.follow(state, checkpoints.lock)
            self._on_begin()
            retries = PartitionRetries(
                clock=self._clock, full_deadline_s=self._places.storage.deadline_s, for_ever=self._options.continuous
            )
            try:
                self._passes(state, survey, checkpoints, runner, retries)
            except Locked:
                raise
            except KbrError:
                self._keep(state, checkpoints)
                raise
            manifest = self._finish(state, checkpoints, retries)
            if index is not None:
                index.finish(manifest)
            return self._report(state, manifest, begun, runner)

    # -- before the first pass ------------------------------------------------------------

    def _has_backup(self) -> bool:
        return Catalog(self._store).has_objects(self._options.backup_id)

    def _look(self, *, dry_run: bool) -> tuple[BackupState, Survey]:
        source = source_info(self._cluster, self._options)
        self._previous = load_previous(self._store, self._options, source)
        state = self._new_state(source)
        if self._options.consumer_groups and not dry_run:
            self._capture = self._new_capture(source)
            self._capture.look()
        survey = survey_topics(self._cluster, self._options, known=state.topic_names, begun=state.begun)
        if self._previous is not None:
            in_the_way = take_leftovers(
                state,
                survey,
                store=self._store,
                backup_id=self._options.backup_id,
                check_lock=None if dry_run else self._run_lock.check,
                warn=self._notices.warn,
                clock=self._clock,
                ended_well=self._previous.status is RunStatus.COMPLETE,
            )
            self._places = replace(self._places, replaces=in_the_way)
        return state, survey

    def _new_capture(self, source: SourceInfo) -> GroupCapture:
        return GroupCapture(
            self._cluster.groups,
            self._store,
            backup_id=self._options.backup_id,
            cluster_id=source.cluster_id,
            patterns=self._options.consumer_groups,
            check_lock=self._run_lock.check,
            clock=self._clock,
        )

    def _new_index(self) -> IndexKeeper | None:
        if not self._options.index:
            return None
        return IndexKeeper(
            self._store,
            self._options.backup_id,
            kbr_version=self._kbr_version,
            check_lock=self._run_lock.check,
            is_stopped=lambda: self._stop.requested,
            warn=self._notices.warn,
            clock=self._clock,
        )

    def _keep_groups(self, state: BackupState, checkpoints: Checkpoints) -> None:
        """Not before there is a manifest: a folder without one is no backup."""
        if self._capture is None or self._surveyed is None:
            return
        if checkpoints.listed_layout is None and self._previous is None:
            return
        counts: dict[str, int] = {}
        for key in state.positions():
            counts[key.topic] = max(counts.get(key.topic, 0), key.partition + 1)
        self._capture.keep(counts, self._surveyed.offsets)

    def _new_state(self, source: SourceInfo) -> BackupState:
        return BackupState(
            self._options,
            source,
            kbr_version=self._kbr_version,
            created_at_ms=self._clock.now_ms(),
            previous=self._previous,
        )

    # -- passes ---------------------------------------------------------------------------

    def _passes(
        self,
        state: BackupState,
        survey: Survey,
        checkpoints: Checkpoints,
        runner: PassRunner,
        retries: PartitionRetries,
    ) -> None:
        begun = self._clock.monotonic()
        continuous = self._options.continuous
        ends: dict[TopicPartition, int] = {}
        found: Survey | None = survey
        while found is not None:
            self._heard_at_ms = self._clock.now_ms()
            pass_begun = self._clock.monotonic()
            self._ended_early = False
            # a one-shot run's later passes go on to the ends of the first
            self._surveyed = found if continuous or self._surveyed is None else self._surveyed
            with checkpoints.lock:
                plan = self._begin_pass(state, found, ends=ends)
            if not continuous:
                ends = ends or {one.key: one.end_offset_exclusive for one in plan.partitions if not one.error}
            if plan.offset_count and not self._stop.requested:
                self._fetch(plan, state, checkpoints, runner, retries)
            with checkpoints.lock:
                self._note_failures(state, plan, retries)
            self._keep_groups(state, checkpoints)
            if self._stop.requested:
                break
            if continuous:
                found = self._next_round(state, retries, self._clock.monotonic() - pass_begun, checkpoints)
            else:
                found = self._next_try(state, retries)
        self._phases["fetch"] = self._clock.monotonic() - begun

    def _fetch(
        self,
        plan: BackupPlan,
        state: BackupState,
        checkpoints: Checkpoints,
        runner: PassRunner,
        retries: PartitionRetries,
    ) -> None:
        self._watch.does(Doing.FETCHING)
        try:
            if checkpoints.listed_layout != state.layout:
                # what is fetched now has its place in a manifest, whatever comes
                checkpoints.write(RunStatus.RUNNING)
                self._notices.back("store")
            self._on_plan(plan)
            runner.run(
                plan,
                self._options,
                state,
                checkpoints,
                failed=retries.has_failed,
                ends_early=lambda: self._ends_early(checkpoints),
            )
        except _OUTAGES as error:
            if self._stop.requested and isinstance(error, ClusterUnavailable):
                return  # nothing has begun, and nothing is to
            if not self._options.continuous:
                raise
            self._tell_away(error)

    def _begin_pass(self, state: BackupState, survey: Survey, *, ends: Mapping[TopicPartition, int]) -> BackupPlan:
        for name in survey.missing:
            self._notices.warn(f"{name}: there is no such topic")
        for name in survey.gone:
            self._topic_gone(state, name)
        before = state.partition_counts()
        now_ms = self._clock.now_ms()
        plan = plan_partitions(
            survey.topics,
            survey.offsets,
            survey.errors,
            known=state.known([topic.name for topic in survey.topics]),
            ends=ends,
            now_ms=now_ms,
        )
        state.begin(plan)
        if self._has_begun or before:
            self._notices.joined(before, state.partition_counts())
        self._has_begun = True
        self._notices.unreadable(plan)
        return plan

    def _topic_gone(self, state: BackupState, name: str) -> None:
        if self._options.on_missing_topic == "fail":
            state.topic_gone(name)
        else:
            state.topic_ended(name)
        self._notices.warn(f"{name}: the topic is not in the cluster any more; what the backup has of it stays")

    def _note_failures(self, state: BackupState, plan: BackupPlan, retries: PartitionRetries) -> None:
        continuous = self._options.continuous
        planned = [one.key for one in plan.partitions if continuous or not one.error]
        failures = {key: state.failure(key) for key in state.unfinished(planned)}
        for error in failures.values():
            if isinstance(error, Locked):
                raise error
        # a pass that was ended early has left some where they are, which is no failure
        undone = [key for key in failures if not state.is_failed(key)] if self._ended_early else []
        for key in undone:
            del failures[key]
        retries.note(planned, failures, {key: state.position(key) for key in failures}, undone=undone)

    def _next_try(self, state: BackupState, retries: PartitionRetries) -> Survey | None:
        """Of a one-shot run: wait until what failed may be tried again; None when nothing is to be."""
        self._watch.rests(Doing.BETWEEN_TRIES)
        wait_s = retries.wait_s()
        if wait_s is None or self._stop.wait(wait_s):
            return None
        only = retries.due()
        _log.info("trying %d partitions again that could not be read to their end", len(only))
        try:
            survey = survey_topics(self._cluster, self._options, known=state.topic_names, only=only, begun=state.begun)
        except ClusterUnavailable:
            if self._stop.requested:
                return None
            raise
        return None if self._stop.requested else survey

    def _next_round(
        self, state: BackupState, retries: PartitionRetries, last_s: float, checkpoints: Checkpoints
    ) -> Survey | None:
        """Of a continuous run: wait until the next pass is due, and see what there is then; None when stopped.

        A record that comes right behind a pass's end waits for the next one, and that has to be written by then: so
        they begin an interval less the time of one after the other, and what is read is durable within the interval.
        """
        self._watch.rests(Doing.BETWEEN_PASSES)
        interval_s = self._options.segment_max_interval_ms / 1000
        due_at = self._clock.monotonic() + max(0.0, interval_s - 2 * last_s)
        delays = Backoff(base_s=0.5, cap_s=30.0).delays()
        heard = self._ended_early
        while True:
            checkpoints.tick()
            self._notices.open_transactions(state)
            left_s = due_at - self._clock.monotonic()
            heard = self._hear(checkpoints) or heard
            while left_s > 0 and not heard:
                if self._stop.wait(min(left_s, 1.0)):
                    return None
                self._on_tick()
                checkpoints.tick()
                left_s = due_at - self._clock.monotonic()
                heard = self._hear(checkpoints)
            heard = False
            if self._capture is not None:
                self._capture.look()
            try:
                self._changes.follow()
                checkpoints.follow(self._options.checkpoint_interval_s)
                survey = survey_topics(
                    self._cluster,
                    self._options,
                    known=state.topic_names,
                    left_out=retries.held_back(),
                    begun=state.begun,
                )
            except _OUTAGES as error:
                if self._stop.requested:
                    self._was_cut_short = True
                    return None
                self._tell_away(error)
                due_at = self._clock.monotonic() + max(0.5, next(delays))
                continue
            if self._stop.requested:
                self._was_cut_short = True  # what it says of partitions may be no more than that
                return None
            self._notices.back("cluster")
            self._watch.does(Doing.BEGINNING)
            return survey

    def _tell_away(self, error: KbrError) -> None:
        self._watch.does(Doing.KAFKA if isinstance(error, ClusterUnavailable) else Doing.STORE)
        self._notices.away(error)

    def _take_event(self, event: object) -> None:
        if isinstance(event, ProgressEvent):
            self._heard_at_ms = self._clock.now_ms()
        self._on_event(event)

    def _ends_early(self, checkpoints: Checkpoints) -> bool:
        """Whether the pass that is going on ends for another one, with other options."""
        if self._options.continuous and self._hear(checkpoints):
            self._ended_early = True
        return self._ended_early

    def _hear(self, checkpoints: Checkpoints) -> bool:
        heard = self._changes.hear()
        checkpoints.follow(self._options.checkpoint_interval_s)
        return heard

    # -- the end --------------------------------------------------------------------------

    def _finish(self, state: BackupState, checkpoints: Checkpoints, retries: PartitionRetries) -> Manifest:
        begun = self._clock.monotonic()
        self._watch.does(Doing.ENDING)
        stopped = self._stop.requested
        checkpoints.settle()
        is_away = not checkpoints.confirm(last=True) or self._notices.is_cluster_away
        if stopped and self._options.continuous:
            is_unsure = state.is_unfinished or self._was_cut_short
            is_away = is_away or (is_unsure and not self._cluster.answers(stop_grace_s=STOP_GRACE_S))
            if is_away:
                # nobody could look again at what failed in the last pass only
                state.forgive_outage(key for key in state.failed_keys() if retries.tries(key) <= 1)
                if self._capture is not None:
                    self._capture.forgive_outage()
                self._notices.stopped_while_away(self._heard_at_ms)
        if not is_away:
            self._see_deleted(state)
        status = state.final_status
        if self._options.continuous:
            state.end_here()
            status = state.final_status
        elif stopped and state.is_unfinished:
            status = RunStatus.INTERRUPTED
        # even if nothing else is new: whoever trusts this run's key only is to be able to read it
        is_listed = (
            checkpoints.listed_layout is None
            and not state.changed
            and not is_to_be_signed(self._store, self._options.backup_id)
        )
        if self._previous is not None and is_listed and self._previous.status is status:
            self._keep_groups(state, checkpoints)
            return state.manifest(status, now_ms=self._previous.updated_at_ms)
        manifest = checkpoints.write(status)
        self._keep_groups(state, checkpoints)
        self._phases["publish"] = self._clock.monotonic() - begun
        return manifest

    def _see_deleted(self, state: BackupState) -> None:
        """A topic that was deleted while it was read last is what it would be in a pass that follows."""
        names = state.topics_reported_missing()
        if not names:
            return
        try:
            ids = self._cluster.topic_ids(names, stop_grace_s=STOP_GRACE_S)
        except ClusterError as error:
            _log.warning("could not see which topics were deleted: %s", error)
            return
        for name in names:
            if name in ids and ids[name] is None:
                self._topic_gone(state, name)

    def _keep(self, state: BackupState, checkpoints: Checkpoints) -> None:
        """The run ends by an error: list what is there all the same, if that can be done."""
        try:
            checkpoints.settle(hurry=True)
            checkpoints.confirm(last=True)
            if state.changed or checkpoints.listed_layout is not None:
                checkpoints.write(RunStatus.INCOMPLETE, hurry=True)
        except KbrError as error:
            _log.warning("the manifest was not written: %s; the next run finds the segments without it", error)

    def _report(
        self, state: BackupState, manifest: Manifest, begun: float, runner: PassRunner | None
    ) -> BackupReport:
        return BackupReport(
            manifest=manifest,
            storage_url=self._store.url,
            dry_run=runner is None,
            continuous=self._options.continuous,
            resumed=self._previous is not None,
            added=state.counts,
            duration_s=self._clock.monotonic() - begun,
            phases_s=self._phases,
            waited_s={} if runner is None else runner.accounts.waited_s,
            record_bytes=0 if runner is None else runner.accounts.record_bytes,
            extra_verify=VerifyCounts() if runner is None else runner.accounts.extra_verify,
            peak_worker_rss_bytes=0 if runner is None else runner.peak_rss_bytes,
            worker_cpu_s=0.0 if runner is None else runner.cpu_s,
            failure=state.common_failure,
            groups=None if self._capture is None else self._capture.counts,
            warnings=(*self._notices.warnings, *manifest_warnings(manifest)),
        )
