"""What a restore run says of itself: its plan before, its results after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kbr.errors import Incomplete, Interrupted
from kbr.restore.plan import RestorePlan
from kbr.restore.task import PartitionRestored

__all__ = ["PlanCounts", "RestoreReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """What a plan will read, exact for whole segments; for those on a window's edge by their blocks.

    ``records`` is an upper bound when ``exact`` is False: blocks on the window's edge hold others too.
    """

    segments: int
    blocks: int
    records: int
    raw_bytes: int
    stored_bytes: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """The end of a restore run, or its plan.

    Attributes:
        plan: what was to be done.
        counts: what that reads.
        dry_run: nothing was written.
        results: per partition that had something to restore.
        phases_s: wall time of each phase, seconds.
        waited_s: how long tasks waited, all together, by what for: storage, target, rate_limit.
        failures: error text per partition that failed.
        interrupted: the user stopped it.
    """

    plan: RestorePlan
    counts: PlanCounts
    storage_url: str
    dry_run: bool
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    warnings: tuple[str, ...]
    results: Sequence[PartitionRestored] = ()
    failures: dict[str, str]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 1 partitions failed, 3 not everything was restored, 130 interrupted."""
        if self.interrupted:
            return Interrupted.exit_code
        if self.failures:
            return 1
        if not self.dry_run and any(not result.complete for result in self.results):
            return Incomplete.exit_code
        return 0

    @property
    def status(self) -> str:
        """planned, complete, incomplete, failed or interrupted."""
        if self.dry_run:
            return "planned"
        names = {0: "complete", Incomplete.exit_code: "incomplete", Interrupted.exit_code: "interrupted"}
        return names.get(self.exit_code, "failed")

    def to_document(self) -> dict[str, Any]:
        """JSON-ready, ints and strings."""
        window = self.plan.window
        return {
            "backup_id": self.plan.backup_id,
            "storage": self.storage_url,
            "status": self.status,
            "dry_run": self.dry_run,
            "duration_s": round(self.duration_s, 3),
            "phases_s": {name: round(seconds, 3) for name, seconds in self.phases_s.items()},
            "waited_s": {name: round(seconds, 3) for name, seconds in self.waited_s.items()},
            "peak_worker_rss_bytes": self.peak_worker_rss_bytes,
            "worker_cpu_s": round(self.worker_cpu_s, 3),
            "plan": {
                "segments": self.counts.segments,
                "blocks": self.counts.blocks,
                "records": self.counts.records,
                "records_exact": self.counts.exact,
                "raw_bytes": self.counts.raw_bytes,
                "stored_bytes": self.counts.stored_bytes,
                "time_window_start_ms": None if window.start_ms == -(2**63) else window.start_ms,
                "time_window_end_ms": None if window.end_ms == 2**63 - 1 else window.end_ms,
                "topics_to_create": [
                    {
                        "topic": topic.target.name,
                        "partitions": topic.target.partition_count,
                        "replication_factor": topic.target.replication_factor,
                        "configs": dict(topic.target.configs or {}),
                    }
                    for topic in self.plan.topics
                    if not topic.exists
                ],
            },
            "topics": [self._topic(topic.source, topic.target.name) for topic in self.plan.topics],
            "totals": {
                "topics": len(self.plan.topics),
                "partitions": len(self.plan.partitions),
                "records": sum(result.record_count for result in self.results),
                "bytes": sum(result.record_bytes for result in self.results),
                "changed_timestamps": sum(result.changed_timestamps for result in self.results),
            },
            "warnings": list(self.warnings),
            "failures": dict(self.failures),
        }

    def _topic(self, source: str, target: str) -> dict[str, Any]:
        partitions = [partition for partition in self.plan.partitions if partition.source.topic == source]
        results = [result for result in self.results if result.source.topic == source]
        return {
            "topic": source,
            "target": target,
            "partitions": len(partitions),
            "segments": sum(len(partition.segments) for partition in partitions),
            "stored_bytes": sum(partition.stored_bytes for partition in partitions),
            "records": sum(result.record_count for result in results),
            "bytes": sum(result.record_bytes for result in results),
            "failed": [name for name in self.failures if name.startswith(f"{source}[")],
        }
