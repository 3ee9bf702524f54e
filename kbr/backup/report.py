"""What a backup run says of itself when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kbr.backup.groups import GroupCounts
from kbr.backup.state import RunCounts
from kbr.errors import Incomplete, Interrupted, KbrError
from kbr.format.documents import Manifest, PartitionEntry, TopicEntry
from kbr.model import PartitionStatus, RunStatus
from kbr.repository.window import TimeWindow
from kbr.telemetry.accounts import VerifyCounts

__all__ = ["BackupReport", "manifest_warnings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """The end of a backup run, or its plan.

    Attributes:
        manifest: as it was published, or would be first with ``dry_run``.
        dry_run: nothing was written.
        continuous: it was to go on until stopped.
        resumed: it went on with a backup that was there.
        added: what this run has added; the manifest has it all.
        duration_s: wall time of the run.
        phases_s: wall time of each phase, seconds.
        waited_s: how long tasks waited, all together, by what for: source, storage, rate_limit.
        record_bytes: keys, values and headers, uncompressed.
        extra_verify: blocks of this run, how many of them were decoded again before they were stored, and its CPU seconds.
        peak_worker_rss_bytes: the largest worker's peak resident memory.
        worker_cpu_s: CPU seconds of all workers.
        failure: what kept it from everything that it was to do.
        groups: what it has captured of consumer groups; None where it was not to.
        warnings: sentences.
    """

    manifest: Manifest
    storage_url: str
    dry_run: bool
    continuous: bool
    resumed: bool
    added: RunCounts
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    record_bytes: int
    extra_verify: VerifyCounts
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    failure: KbrError | None
    groups: GroupCounts | None = None
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 complete, 3 incomplete (also where only groups are), 130 interrupted; or the failure's, if nothing could be done."""
        if self.dry_run:
            return 0
        if self.manifest.status is RunStatus.COMPLETE:
            return Incomplete.exit_code if self.groups is not None and self.groups.failed else 0
        if self.manifest.status is RunStatus.INTERRUPTED:
            return Interrupted.exit_code
        if self.failure is not None:
            return self.failure.exit_code
        return Incomplete.exit_code

    def to_document(self) -> dict[str, Any]:
        """JSON-ready, ints and strings."""
        topics = [_topic(entry) for entry in self.manifest.topics]
        names = ("records", "raw_bytes", "stored_bytes", "segments", "partitions", "offsets", "offsets_left")
        totals: dict[str, Any] = {name: sum(topic[name] for topic in topics) for name in names}
        totals["topics"] = len(topics)
        totals["record_bytes"] = self.record_bytes
        return {
            "backup_id": self.manifest.backup_id,
            "storage": self.storage_url,
            "status": "planned" if self.dry_run else self.manifest.status.value,
            "dry_run": self.dry_run,
            "continuous": self.continuous,
            "resumed": self.resumed,
            "added": {
                "records": self.added.records,
                "segments": self.added.segments,
                "raw_bytes": self.added.raw_bytes,
                "stored_bytes": self.added.stored_bytes,
                "gaps": self.added.gaps,
            },
            "time_window_start_ms": self.manifest.source.time_window_start_ms,
            "time_window_end_ms": self.manifest.source.time_window_end_ms,
            "created_at_ms": self.manifest.created_at_ms,
            "finished_at_ms": self.manifest.finished_at_ms,
            "duration_s": round(self.duration_s, 3),
            "phases_s": {name: round(seconds, 3) for name, seconds in self.phases_s.items()},
            "waited_s": {name: round(seconds, 3) for name, seconds in self.waited_s.items()},
            "peak_worker_rss_bytes": self.peak_worker_rss_bytes,
            "worker_cpu_s": round(self.worker_cpu_s, 3),
            "extra_verify": {
                "blocks": self.extra_verify.blocks,
                "decoded": self.extra_verify.decoded,
                "cpu_s": round(self.extra_verify.cpu_s, 3),
            },
            "totals": totals,
            "topics": topics,
            "groups": _groups(self.groups),
            "warnings": [*self.warnings, *(() if self.groups is None else (*self.groups.warnings, *self.groups.failed))],
        }


def _groups(counts: GroupCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {
        "captured_at_ms": counts.captured_at_ms,
        "groups": counts.groups,
        "offsets": counts.offsets,
        "other_offsets": counts.other_offsets,
        "failed": len(counts.failed),
    }


def manifest_warnings(manifest: Manifest) -> list[str]:
    """What a manifest says that somebody should hear."""
    found = []
    window = TimeWindow.between(manifest.source.time_window_start_ms, manifest.source.time_window_end_ms)
    is_empty = not any(partition.segments for topic in manifest.topics for partition in topic.partitions)
    if not window.is_open and is_empty and manifest.status is RunStatus.COMPLETE:
        found.append(f"no record lies in the time window ({window}), and the backup holds none")
    for topic in manifest.topics:
        if topic.configs is None:
            found.append(f"{topic.name}: its configs can't be read (the user may lack DescribeConfigs on the topic); a restore can't put them back")
        failed = sum(1 for partition in topic.partitions if partition.status is PartitionStatus.FAILED)
        if failed:
            found.append(f"{topic.name}: {failed} of {_partitions(topic.partition_count)} failed")
        gaps = sum(len(partition.gaps) for partition in topic.partitions)
        if gaps:
            found.append(f"{topic.name}: {gaps} gap{'' if gaps == 1 else 's'} (see describe)")
        emptied = sum(1 for partition in topic.partitions if _is_emptied(partition))
        if emptied:
            found.append(
                f"{topic.name}: {emptied} of {_partitions(topic.partition_count)} held no record any more when they were first "
                "read: retention, or somebody, had deleted all that was in them, and nothing of it is in the backup (see "
                "retention.ms and retention.bytes of the topic)"
            )
    return found


def _partitions(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"


def _is_emptied(partition: PartitionEntry) -> bool:
    """Whether all its records were gone before the backup had any; what was lost later is a gap."""
    is_empty = partition.log_start_offset == partition.high_watermark > 0
    return is_empty and not partition.segments and not partition.gaps and partition.status is not PartitionStatus.FAILED


def _topic(entry: TopicEntry) -> dict[str, Any]:
    segments = [ref for partition in entry.partitions for ref in partition.segments]
    return {
        "topic": entry.name,
        "partitions": len(entry.partitions),
        "offsets": sum(
            max(0, partition.end_offset_exclusive - partition.start_offset) for partition in entry.partitions
        ),
        "offsets_left": sum(
            max(0, partition.end_offset_exclusive - partition.next_offset) for partition in entry.partitions
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
