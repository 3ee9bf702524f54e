"""`kbr restore`: one restore, from configuration to report."""

from __future__ import annotations

from kbr.app.prestart import worker_modules
from kbr.app.run_control import RunControl
from kbr.app.wiring import StopSource, client_settings, restore_options, storage_options, supervisor_factory
from kbr.app.worker_events import RunDisplay
from kbr.config import Config
from kbr.kafka.cluster import Cluster
from kbr.restore.coordinator import RestoreCoordinator
from kbr.restore.plan import RestorePlan
from kbr.restore.report import RestoreReport
from kbr.runtime.pacing import RateLimit
from kbr.storage import open_store
from kbr.telemetry.progress import ProgressSink

__all__ = ["run_restore"]


def run_restore(config: Config, *, dry_run: bool, progress: ProgressSink | None, stop: StopSource) -> RestoreReport:
    """Put a backup back.

    Args:
        config: loaded for mode restore.
        dry_run: plan and check only; nothing is written.
        progress: shows how it goes, or None.
        stop: ends the run early.

    Raises:
        KbrError: nothing could be begun. What went wrong with single partitions is in the report.
    """
    options = restore_options(config)
    client = client_settings(config.target)
    storage = storage_options(config.storage)
    display = RunDisplay(progress)
    store = open_store(storage)
    try:
        store.check()
        limit = RateLimit(options.bytes_per_s, options.records_per_s)
        with (
            RunControl("restore", options.backup_id, limit, display) as control,
            Cluster(client, deadline_s=config.target.deadline_ms / 1000) as cluster,
        ):
            coordinator = RestoreCoordinator(
                client,
                storage,
                options,
                cluster=cluster,
                store=store,
                on_event=display.take,
                on_tick=display.tick,
                pace_path=control.pacer.path,
                on_plan=lambda plan, _counts: display.start("restore", _records_by_topic(plan)),
            )
            return coordinator.run(supervisor_factory(stop, preload=worker_modules("restore", config)), dry_run=dry_run)
    finally:
        display.close()
        store.close()


def _records_by_topic(plan: RestorePlan) -> dict[str, int]:
    """Records per topic in the segments of the plan: an upper bound when a window cuts them."""
    totals: dict[str, int] = {}
    for partition in plan.partitions:
        count = sum(ref.record_count for ref in partition.segments)
        totals[partition.source.topic] = totals.get(partition.source.topic, 0) + count
    return totals
