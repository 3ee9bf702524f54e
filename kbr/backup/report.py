"""What a backup run says of itself when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kbr.errors import Incomplete, Interrupted
from kbr.format.documents import Manifest, TopicEntry
from kbr.model import PartitionStatus, RunStatus

__all__ = ["BackupReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """The end of a backup run, or its plan.

    Attributes:
        manifest: as it was published, or would be first with ``dry_run``.
        dry_run: nothing was written.
        duration_s: wall time of the run.
        phases_s: wall time of each phase, seconds.
        waited_s: how long tasks waited, all together, by what for: source, storage, rate_limit.
        record_bytes: keys, values and headers, uncompressed.
        peak_worker_rss_bytes: the largest worker's peak resident memory.
        worker_cpu_s: CPU seconds of all workers.
        warnings: sentences.
    """

    manifest: Manifest
    storage_url: str
    dry_run: bool
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    record_bytes: int
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 complete, 3 incomplete, 130 interrupted."""
        if self.dry_run or self.manifest.status is RunStatus.COMPLETE:
            return 0
        if self.manifest.status is RunStatus.INTERRUPTED:
            return Interrupted.exit_code
        return Incomplete.exit_code

    def to_document(self) -> dict[str, Any]:
        """JSON-ready, ints and strings."""
        topics = [_topic(entry) for entry in self.manifest.topics]
        names = ("records", "raw_bytes", "stored_bytes", "segments", "partitions", "offsets")
        totals: dict[str, Any] = {name: sum(topic[name] for topic in topics) for name in names}
        totals["topics"] = len(topics)
        totals["record_bytes"] = self.record_bytes
        return {
            "backup_id": self.manifest.backup_id,
            "storage": self.storage_url,
            "status": "planned" if self.dry_run else self.manifest.status.value,
            "dry_run": self.dry_run,
            "created_at_ms": self.manifest.created_at_ms,
            "finished_at_ms": self.manifest.finished_at_ms,
            "duration_s": round(self.duration_s, 3),
            "phases_s": {name: round(seconds, 3) for name, seconds in self.phases_s.items()},
            "waited_s": {name: round(seconds, 3) for name, seconds in self.waited_s.items()},
            "peak_worker_rss_bytes": self.peak_worker_rss_bytes,
            "worker_cpu_s": round(self.worker_cpu_s, 3),
            "totals": totals,
            "topics": topics,
            "warnings": list(self.warnings),
        }


def _topic(entry: TopicEntry) -> dict[str, Any]:
    segments = [ref for partition in entry.partitions for ref in partition.segments]
    return {
        "topic": entry.name,
        "partitions": len(entry.partitions),
        "offsets": sum(
            max(0, partition.end_offset_exclusive - partition.start_offset) for partition in entry.partitions
        ),
        "records": sum(ref.record_count for ref in segments),
        "raw_bytes": sum(ref.raw_bytes for ref in segments),
        "stored_bytes": sum(ref.stored_bytes for ref in segments),
        "segments": len(segments),
        "gaps": [
            {
                "partition": partition.partition,
                "start_offset": gap.start_offset,
                "end_offset_exclusive": gap.end_offset_exclusive,
                "reason": gap.reason.value,
            }
            for partition in entry.partitions
            for gap in partition.gaps
        ],
        "failed": [
            {"partition": partition.partition, "error": partition.error or ""}
            for partition in entry.partitions
            if partition.status is PartitionStatus.FAILED
        ],
    }
