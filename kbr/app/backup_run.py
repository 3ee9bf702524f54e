"""`kbr backup`: one backup, from configuration to report."""

from __future__ import annotations

from collections.abc import Callable

import kbr
from kbr.app.prestart import worker_modules
from kbr.app.reread import Reread
from kbr.app.run_control import RunControl
from kbr.app.run_lock import RunLock
from kbr.app.wiring import (
    StopSource,
    backup_options,
    client_settings,
    storage_options,
    supervisor_factory,
    warn_of_plain_http,
)
from kbr.app.worker_events import RunDisplay
from kbr.backup.coordinator import BackupCoordinator, BackupPlaces
from kbr.backup.plan import BackupPlan
from kbr.backup.report import BackupReport
from kbr.backup.watching import BackupWatch
from kbr.config import Config
from kbr.kafka.cluster import Cluster
from kbr.repository.foreign import refuse_foreign
from kbr.repository.layout import LockPlace
from kbr.runtime.pacing import RateLimit
from kbr.runtime.stopping import StopWish
from kbr.storage import open_store
from kbr.telemetry.progress import ProgressSink

__all__ = ["run_backup"]

#: How long one question to the cluster may take between two passes of a continuous backup, seconds: then it is told
#: that the cluster is away, and asked again for as long as it takes.
CONTINUOUS_DEADLINE_S = 15.0


def run_backup(
    config: Config,
    *,
    dry_run: bool,
    progress: ProgressSink | None,
    stop: StopSource,
    load: Callable[[], Config] | None = None,
) -> BackupReport:
    """Take a backup, or go on with one.

    Args:
        config: loaded for mode backup.
        dry_run: plan only; nothing is written.
        progress: shows how it goes, or None.
        stop: ends the run early, with what is committed kept.
        load: reads the configuration again, when a continuous run is asked to (SIGHUP); None: it can't be.

    Raises:
        KbrError: nothing could be begun. What went wrong with single partitions is in the report.
    """
    options = backup_options(config)
    display = RunDisplay(progress)
    storage = storage_options(config, goes_on=True)
    warn_of_plain_http(storage)
    store = open_store(storage)
    deadline_s = config.source.deadline_ms / 1000
    if options.continuous:
        deadline_s = min(deadline_s, CONTINUOUS_DEADLINE_S)
    try:
        store.check()
        # before the lock: not even that may be written there
        refuse_foreign(store, options.backup_id)
        limit = RateLimit(options.bytes_per_s, options.records_per_s)
        wish = StopWish()
        with (
            RunControl("backup", options.backup_id, limit, display) as control,
            RunLock(
                storage,
                verb="backup",
                life_s=config.backup.lock_life_ms / 1000,
                wait_s=config.backup.lock_wait_ms / 1000,
            ) as run_lock,
            Cluster(client_settings(config.source), deadline_s=deadline_s, is_stopped=lambda: wish.requested) as cluster,
        ):
            watch = BackupWatch()
            control.tell_of(watch.now)
            places = BackupPlaces(
                client=client_settings(config.source),
                storage=storage,
                pace_path=control.pacer.path,
                lease_path=run_lock.lease_path,
            )
            reread = Reread(config, load or (lambda: config), wake=wish.wake, change_rate=control.pacer.change)
            if options.continuous and load is not None and not dry_run:
                # already now: while it waits for the lock, or looks at a large cluster, it must not end the run
                stop.on_hangup(reread.ask)
            coordinator = BackupCoordinator(
                places,
                options,
                cluster=cluster,
                store=store,
                run_lock=run_lock.hold(LockPlace(options.backup_id)),
                kbr_version=kbr.__version__,
                on_event=display.take,
                on_tick=display.tick,
                on_plan=lambda plan: display.start("backup", _offsets_by_topic(plan)),
                on_begin=lambda: stop.on_stop(wish.note),
                stop=wish,
                reread=reread.take,
                on_options=reread.hold,
                watch=watch,
            )
            if dry_run:
                return coordinator.dry_run()
            return coordinator.run(supervisor_factory(None, preload=worker_modules("backup", config), withheld=config.variables))
    finally:
        display.close()
        store.close()


def _offsets_by_topic(plan: BackupPlan) -> dict[str, int]:
    """Offsets to read per topic: an upper bound of its records, as logs have holes."""
    totals: dict[str, int] = {}
    for partition in plan.partitions:
        totals[partition.topic] = totals.get(partition.topic, 0) + len(partition.offsets)
    return totals
