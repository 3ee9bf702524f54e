"""`kbr backup`: one backup, from configuration to report."""

from __future__ import annotations

import kbr
from kbr.app.prestart import worker_modules
from kbr.app.run_control import RunControl
from kbr.app.wiring import StopSource, backup_options, client_settings, storage_options, supervisor_factory
from kbr.app.worker_events import RunDisplay
from kbr.backup.coordinator import BackupCoordinator, BackupPlaces
from kbr.backup.plan import BackupPlan
from kbr.backup.report import BackupReport
from kbr.config import Config
from kbr.kafka.cluster import Cluster
from kbr.runtime.pacing import RateLimit
from kbr.storage import open_store
from kbr.telemetry.progress import ProgressSink

__all__ = ["run_backup"]


def run_backup(config: Config, *, dry_run: bool, progress: ProgressSink | None, stop: StopSource) -> BackupReport:
    """Take a backup.

    Args:
        config: loaded for mode backup.
        dry_run: plan only; nothing is written.
        progress: shows how it goes, or None.
        stop: ends the run early, with what is committed kept.

    Raises:
        KbrError: nothing could be begun. What went wrong with single partitions is in the report.
    """
    options = backup_options(config)
    places = BackupPlaces(client=client_settings(config.source), storage=storage_options(config.storage))
    display = RunDisplay(progress)
    store = open_store(places.storage)
    try:
        store.check()
        limit = RateLimit(options.bytes_per_s, options.records_per_s)
        with (
            RunControl("backup", options.backup_id, limit, display) as control,
            Cluster(places.client, deadline_s=config.source.deadline_ms / 1000) as cluster,
        ):
            coordinator = BackupCoordinator(
                places,
                options,
                cluster=cluster,
                store=store,
                kbr_version=kbr.__version__,
                on_event=display.take,
                on_tick=display.tick,
                pace_path=control.pacer.path,
                on_plan=lambda plan: display.start("backup", _offsets_by_topic(plan)),
            )
            if dry_run:
                return coordinator.dry_run()
            return coordinator.run(supervisor_factory(stop, preload=worker_modules("backup", config)))
    finally:
        display.close()
        store.close()


def _offsets_by_topic(plan: BackupPlan) -> dict[str, int]:
    """Offsets to read per topic: an upper bound of its records, as logs have holes."""
    totals: dict[str, int] = {}
    for partition in plan.partitions:
        totals[partition.topic] = totals.get(partition.topic, 0) + len(partition.offsets)
    return totals
