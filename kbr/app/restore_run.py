"""`kbr restore`: one restore, from configuration to report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbr.app.groups import GroupReport, GroupRun, check_groups, move_groups_of, refuse_foreign_groups
from kbr.app.prestart import worker_modules
from kbr.app.rollback_file import check_new_file
from kbr.app.run_control import RunControl
from kbr.app.run_lock import RunLock
from kbr.app.wiring import (
    StopSource,
    client_settings,
    restore_options,
    storage_options,
    supervisor_factory,
    warn_of_plain_http,
)
from kbr.app.worker_events import RunDisplay
from kbr.config import Config
from kbr.errors import ClusterUnavailable, ConfigError, Incomplete, KbrError
from kbr.kafka.cluster import Cluster
from kbr.repository.foreign import made_by
from kbr.repository.layout import LockPlace
from kbr.restore.coordinator import RestoreCoordinator
from kbr.restore.plan import RestorePlan
from kbr.restore.report import RestoreReport
from kbr.restore.waiting import StopFlag
from kbr.runtime.pacing import RateLimit
from kbr.runtime.supervisor import Supervisor
from kbr.storage import ObjectStore, open_store
from kbr.telemetry.progress import ProgressSink

__all__ = ["RestoreRun", "run_restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRun:
    """A restore, and what came of its groups.

    Attributes:
        groups: None where there were none to put, or it came to nothing.
        groups_error: why it came to nothing.
    """

    records: RestoreReport
    groups: GroupReport | None
    groups_error: KbrError | None

    @property
    def exit_code(self) -> int:
        """The records', or if they are all there the groups': 3 not all of it, 5 the same, but only for what may pass."""
        if self.records.exit_code:
            return self.records.exit_code
        if self.groups_error is not None:
            # refused or not: something was written by then
            return ClusterUnavailable.exit_code if self.groups_error.retriable else Incomplete.exit_code
        # the records are there, whatever the groups lack
        return Incomplete.exit_code if self.groups is not None and self.groups.exit_code else 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        document = self.records.to_document()
        document["groups"] = None if self.groups is None else self.groups.to_document()
        if self.groups_error is not None:
            hint = f" ({self.groups_error.hint})" if self.groups_error.hint else ""
            document["warnings"].append(f"consumer groups are where they were: {self.groups_error}{hint}")
        return document


def run_restore(
    config: Config,
    *,
    dry_run: bool,
    progress: ProgressSink | None,
    stop: StopSource,
    rollback_file: Path | None = None,
    allow_rewind: bool = False,
) -> RestoreRun:
    """Put a backup back, and its consumer groups if they are asked for.

    Args:
        config: loaded for mode restore.
        dry_run: plan and check only; nothing is written.
        progress: shows how it goes, or None.
        stop: ends the run early.
        rollback_file: where to keep what groups have committed before, instead of the store.
        allow_rewind: groups may be put on smaller offsets than they have committed in the target.

    Raises:
        KbrError: nothing could be begun. What went wrong with single partitions, or with groups, is in the report.
    """
    options = restore_options(config)
    client = client_settings(config.target)
    storage = storage_options(config)
    warn_of_plain_http(storage)
    display = RunDisplay(progress)
    flag = StopFlag()
    supervisors = supervisor_factory(stop, preload=worker_modules("restore", config), withheld=config.variables)

    def new_supervisor(worker_count: int, entry: str) -> Supervisor:
        # not before: until a supervisor takes care of it, a signal ends the run where it is
        if not flag.is_heard:
            flag.is_heard = True
            stop.on_stop(flag.set)
        return supervisors(worker_count, entry)

    store = open_store(storage)
    try:
        store.check()
        groups = GroupRun(
            patterns=config.restore.consumer_groups,
            group_mapping=config.restore.group_mapping,
            execute=True,
            rollback_file=rollback_file,
            allow_rewind=allow_rewind,
        )
        if groups.patterns:
            refuse_foreign_groups(made_by(store, options.backup_id))
            check_groups(store, options.backup_id, groups)
            _check_ways(options.offset_map, rollback_file, options.backup_id)
        limit = RateLimit(options.bytes_per_s, options.records_per_s)
        with (
            RunControl("restore", options.backup_id, limit, display) as control,
            RunLock(
                storage,
                verb="restore",
                life_s=config.restore.lock_life_ms / 1000,
                wait_s=config.restore.lock_wait_ms / 1000,
            ) as run_lock,
            Cluster(client, deadline_s=config.target.deadline_ms / 1000) as cluster,
        ):
            coordinator = RestoreCoordinator(
                client,
                storage,
                options,
                cluster=cluster,
                store=store,
                deadline_s=config.target.deadline_ms / 1000,
                stop=flag,
                on_event=display.take,
                on_tick=display.tick,
                pace_path=control.pacer.path,
                lease_path=run_lock.lease_path,
                # a store that may only be read is no reason not to restore from it
                lock=lambda restore_id: run_lock.hold(LockPlace(options.backup_id, restore_id), is_needed=False),
                no_lock=lambda: run_lock.forgo("the backup is another tool's, and is never written to"),
                on_plan=lambda plan, _counts: display.start("restore", _records_by_topic(plan)),
                ends_later=bool(groups.patterns),
            )
            report = coordinator.run(new_supervisor, dry_run=dry_run)
            moved, error = None, None
            if groups.patterns and not dry_run:
                moved, error = _move_groups(store, cluster, report, groups)
                if moved is not None and not moved.exit_code:
                    coordinator.finish()
            return RestoreRun(records=report, groups=moved, groups_error=error)
    finally:
        display.close()
        store.close()


def _check_ways(offset_map: bool, rollback_file: Path | None, backup_id: str) -> None:
    """See that groups can be put when all records are sent, and their former offsets be kept.

    Raises:
        ConfigError: no offset mapping is to be written.
        PreflightRefused: the file for the former offsets can't be made.
    """
    if not offset_map:
        raise ConfigError(
            "restore.offset_map is off: consumer groups are placed by the offset mapping, and could not be put",
            hint="leave it on, or restore without groups",
        )
    if rollback_file is not None:
        check_new_file(rollback_file, backup_id)


def _move_groups(
    store: ObjectStore, cluster: Cluster, report: RestoreReport, run: GroupRun
) -> tuple[GroupReport | None, KbrError | None]:
    """The restore is done, whatever comes of its groups: an error must not hide that."""
    if report.exit_code:
        return None, Incomplete("not all records were restored", hint="run the same command again")
    try:
        return (
            move_groups_of(
                store, cluster, report.plan.backup_id, run, restore_id=report.restore_id, is_complete=True
            ),
            None,
        )
    except KbrError as error:
        return None, error


def _records_by_topic(plan: RestorePlan) -> dict[str, int]:
    """Records per topic in the segments of the plan: an upper bound when a window cuts them."""
    totals: dict[str, int] = {}
    shared: set[int] = set()
    for partition in plan.partitions:
        if partition.routing is not None:
            if id(partition.segments) in shared:
                continue
            shared.add(id(partition.segments))
        count = sum(ref.record_count for ref in partition.segments)
        totals[partition.source.topic] = totals.get(partition.source.topic, 0) + count
    return totals
