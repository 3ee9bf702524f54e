"""What a restore run says of itself: its plan before, its results after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbr.errors import ClusterUnavailable, Incomplete, Interrupted, KbrError
from kbr.model import TopicPartition
from kbr.repository.window import MAX_OFFSET
from kbr.restore.counting import PlanCounts
from kbr.restore.plan import RestorePlan
from kbr.restore.task import PartitionRestored
from kbr.timing import utc_text

__all__ = ["RestoreReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """The end of a restore run, or its plan.

    Attributes:
        restore_id: which restore it is.
        plan: what was to be done: what an earlier run has left.
        counts: what that reads.
        dry_run: nothing was written.
        results: per partition that had something to restore.
        phases_s: wall time of each phase, seconds.
        waited_s: how long tasks waited, all together, by what for: storage, target, rate_limit.
        kept: records that were in the target already, and still are, by source partition.
        gone: records that were restored, and are no longer there, by source partition.
        gained: records that this run sent and no result tells of, by source partition; at least, where it failed.
        retries: rounds after the first one.
        failures: why partitions have failed, by source partition.
        interrupted: the user stopped it.
        offset_map: the key of the offset mapping; None where none was written.
    """

    restore_id: str
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
    kept: Mapping[TopicPartition, int] = field(default_factory=dict)
    gone: Mapping[TopicPartition, int] = field(default_factory=dict)
    gained: Mapping[TopicPartition, int] = field(default_factory=dict)
    retries: int = 0
    failures: Mapping[TopicPartition, KbrError] = field(default_factory=dict)
    interrupted: bool = False
    offset_map: str | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 3 not everything was restored, 5 the same, but only for what may pass, 130 interrupted."""
        if self.interrupted:
            return Interrupted.exit_code
        if self.failures:
            temporary = all(error.retriable for error in self.failures.values())
            return ClusterUnavailable.exit_code if temporary else Incomplete.exit_code
        if not self.dry_run and any(not result.complete for result in self.results):
            return Incomplete.exit_code
        return 0

    @property
    def status(self) -> str:
        """planned, complete, incomplete or interrupted."""
        if self.dry_run:
            return "planned"
        return {0: "complete", Interrupted.exit_code: "interrupted"}.get(self.exit_code, "incomplete")

    def _sent(self, topic: str | None = None) -> int:
        counts = [(one.source, one.record_count) for one in self.results]
        return sum(count for source, count in (*counts, *self.gained.items()) if topic in (None, source.topic))

    def _kept(self, topic: str | None = None) -> int:
        return sum(count for source, count in self.kept.items() if topic in (None, source.topic))

    def _gone(self, topic: str | None = None) -> int:
        return sum(count for source, count in self.gone.items() if topic in (None, source.topic))

    def to_document(self) -> dict[str, Any]:
        """JSON-ready, ints and strings."""
        window = self.plan.window
        return {
            "backup_id": self.plan.backup_id,
            "restore_id": self.restore_id,
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
                "offset_windows": [
                    {
                        "topic": one.source.topic,
                        "partition": one.source.partition,
                        "start_offset": one.window_start,
                        "end_offset": None if one.window_end_exclusive == MAX_OFFSET else one.window_end_exclusive - 1,
                    }
                    for one in self.plan.partitions
                    if one.has_offset_window
                ],
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
                "records": self._sent(),
                # what was under way when a partition failed may have arrived without a word
                "records_exact": not self.failures,
                "already_there": self._kept(),
                "gone": self._gone(),
                "bytes": sum(result.record_bytes for result in self.results),
                "changed_timestamps": sum(result.changed_timestamps for result in self.results),
            },
            "offset_map": self.offset_map,
            "warnings": [*self.warnings, *self._counted_elsewhere(), *self._empty_window()],
            "retries": self.retries,
            "failures": {str(source): _describe(error) for source, error in self.failures.items()},
        }

    def _counted_elsewhere(self) -> list[str]:
        """Of records that come behind another topic's in one partition nobody can tell any more how many were whose."""
        behind = {
            (source.topic, one.source.topic)
            for one in self.plan.partitions
            for source in one.sources
            if source.topic != one.source.topic
        }
        return [
            f"{topic}: records that come behind those of {first} in the same partitions are counted as {first}'s"
            for topic, first in sorted(behind)
        ]

    def _empty_window(self) -> list[str]:
        """A window without a record is more often a mistake than meant."""
        ended = not self.dry_run and self.exit_code == 0
        none_there = not self.counts.records or (ended and not self._sent())
        by_offset = any(one.has_offset_window for one in self.plan.partitions)
        if (self.plan.window.is_open and not by_offset) or self._kept() or not none_there:
            return []
        if self.plan.window.is_open:
            return ["no record lies in the windows of offsets, and nothing is restored: kbr describe tells which there are"]
        first, last = self.plan.archived_times
        what = (
            "the chosen topics have no record with a timestamp in the backup"
            if first is None or last is None
            else f"those of the chosen topics in the backup are from {utc_text(first) or first} to {utc_text(last) or last}"
        )
        return [f"no record lies in the time window ({self.plan.window}), and nothing is restored: {what}"]

    def _topic(self, source: str, target: str) -> dict[str, Any]:
        partitions = [partition for partition in self.plan.partitions if partition.source.topic == source]
        results = [result for result in self.results if result.source.topic == source]
        return {
            "topic": source,
            "target": target,
            "partitions": len(partitions),
            "segments": sum(len(partition.segments) for partition in partitions if partition.routing is None)
            # those are shared
            + max((len(partition.segments) for partition in partitions if partition.routing is not None), default=0),
            "stored_bytes": sum(partition.stored_bytes for partition in partitions),
            "records": self._sent(source),
            "already_there": self._kept(source),
            "gone": self._gone(source),
            "bytes": sum(result.record_bytes for result in results),
            "failed": [str(one) for one in self.failures if one.topic == source],
        }


def _describe(error: KbrError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
