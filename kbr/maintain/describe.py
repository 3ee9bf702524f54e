"""What is in a backup, for people and programs: a pure view of its manifest.

Knows no store, no table and no colour: ``cli`` draws what stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kbr.format.documents import Manifest, PartitionEntry, TopicEntry
from kbr.model import Gap, PartitionStatus, SegmentRef
from kbr.repository.catalog import UNREADABLE, BackupSummary, known_time_range, summarise
from kbr.repository.restore_states import RestoreSummary
from kbr.timing import utc_text

__all__ = [
    "BackupDescription",
    "Failure",
    "Totals",
    "describe",
    "list_document",
    "restore_document",
    "rfc3339",
    "summary_document",
]


def rfc3339(timestamp_ms: int | None) -> str | None:
    """A time as text (kbr.timing.utc_text); None for none, Kafka's -1 and what no calendar has.

    Args:
        timestamp_ms: ms since the epoch.
    """
    return None if timestamp_ms is None else utc_text(timestamp_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over segments. Bytes: blocks before compression (raw), objects (stored)."""

    partition_count: int
    empty_partition_count: int
    segment_count: int
    block_count: int
    record_count: int
    raw_bytes: int
    stored_bytes: int
    max_record_bytes: int
    gap_count: int
    #: Offsets in those gaps: at most so many records are lost.
    gap_offset_count: int
    failed_partition_count: int
    #: Smallest and largest timestamp; None where no record has one.
    min_timestamp: int | None
    max_timestamp: int | None

    @property
    def ratio(self) -> float | None:
        """Raw over stored bytes; None where nothing is stored."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "partitions": self.partition_count,
            "empty_partitions": self.empty_partition_count,
            "failed_partitions": self.failed_partition_count,
            "segments": self.segment_count,
            "blocks": self.block_count,
            "records": self.record_count,
            "raw_bytes": self.raw_bytes,
            "stored_bytes": self.stored_bytes,
            "ratio": _rounded(self.ratio),
            "max_record_bytes": self.max_record_bytes,
            "gaps": self.gap_count,
            "gap_offsets": self.gap_offset_count,
            **_times("min_timestamp", self.min_timestamp),
            **_times("max_timestamp", self.max_timestamp),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A partition that is not in the backup to its end, and why."""

    topic: str
    partition: int
    status: PartitionStatus
    next_offset: int
    end_offset_exclusive: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDescription:
    """A backup as its manifest tells it.

    Attributes:
        manifest: all facts.
        topics: those of its topics that were asked for, each with its sums.
        totals: over those topics.
        failures: partitions of those topics that are not complete.
        with_segments: segments are part of the document.
        lock_held: of one whose status is ``running``: whether a run holds its lock; None where nobody has looked.
        restores: of the backup; None where the store would not list them.
        encrypted: by kbr.
        distrusted: why others than who only shows it would refuse the backup; empty if they would not.
    """

    manifest: Manifest
    topics: tuple[tuple[TopicEntry, Totals], ...]
    totals: Totals
    failures: tuple[Failure, ...]
    with_segments: bool
    lock_held: bool | None = None
    restores: tuple[RestoreSummary, ...] | None
    encrypted: bool = False
    distrusted: str = ""

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        manifest = self.manifest
        return {
            "backup_id": manifest.backup_id,
            "status": manifest.status.value,
            "lock_held": self.lock_held,
            "encrypted": self.encrypted,
            "distrusted": self.distrusted or None,
            "made_by": manifest.made_by or "kbr",
            "notes": list(manifest.notes),
            "format_version": manifest.format_version,
            "kbr_version": manifest.kbr_version,
            **_times("created_at", manifest.created_at_ms),
            **_times("updated_at", manifest.updated_at_ms),
            **_times("finished_at", manifest.finished_at_ms),
            "source": {
                "cluster_id": manifest.source.cluster_id,
                "brokers": list(manifest.source.brokers),
                "isolation_level": manifest.source.isolation_level,
                "time_window_start_ms": manifest.source.time_window_start_ms,
                "time_window_end_ms": manifest.source.time_window_end_ms,
            },
            "compression": manifest.compression.value,
            "compression_level": manifest.compression_level,
            "retention": None if manifest.retention is None else dict(manifest.retention),
            "totals": {"topics": len(self.topics), **self.totals.to_document()},
            "failures": [
                {
                    "topic": failure.topic,
                    "partition": failure.partition,
                    "status": failure.status.value,
                    "next_offset": failure.next_offset,
                    "end_offset_exclusive": failure.end_offset_exclusive,
                    "error": failure.error,
                }
                for failure in self.failures
            ],
            "topics": [self._topic(topic, totals) for topic, totals in self.topics],
            "restores": None if self.restores is None else [restore_document(one) for one in self.restores],
        }

    def _topic(self, topic: TopicEntry, totals: Totals) -> dict[str, Any]:
        return {
            "topic": topic.name,
            "topic_id": topic.topic_id,
            "partition_count": topic.partition_count,
            "replication_factor": topic.replication_factor,
            "is_internal": topic.is_internal,
            "configs": None if topic.configs is None else dict(topic.configs),
            "totals": totals.to_document(),
            "partitions": [self._partition(partition) for partition in topic.partitions],
        }

    def _partition(self, partition: PartitionEntry) -> dict[str, Any]:
        earliest, latest = known_time_range(partition.segments)
        document: dict[str, Any] = {
            "partition": partition.partition,
            "status": partition.status.value,
            "error": partition.error,
            "log_start_offset": partition.log_start_offset,
            "high_watermark": partition.high_watermark,
            "start_offset": partition.start_offset,
            "end_offset_exclusive": partition.end_offset_exclusive,
            "next_offset": partition.next_offset,
            "records": partition.record_count,
            "segment_count": len(partition.segments),
            "raw_bytes": sum(segment.raw_bytes for segment in partition.segments),
            "stored_bytes": sum(segment.stored_bytes for segment in partition.segments),
            **_times("min_timestamp", earliest),
            **_times("max_timestamp", latest),
            "gaps": [_gap(gap) for gap in partition.gaps],
        }
        if self.with_segments:
            document["segments"] = [_segment(segment) for segment in partition.segments]
        return document


def describe(
    manifest: Manifest,
    *,
    topics: Iterable[str] | None = None,
    segments: bool = False,
    lock_held: bool | None = None,
    restores: Iterable[RestoreSummary] | None = None,
    encrypted: bool = False,
) -> BackupDescription:
    """Make the view.

    Args:
        manifest: the backup's.
        topics: names of the topics wanted; None is all.
        segments: list every segment, too.
        lock_held: whether a run holds its lock, of one that says it is running.
        restores: of this backup; None where they are not known.
        encrypted: whether it is.
    """
    wanted = None if topics is None else frozenset(topics)
    chosen = [topic for topic in manifest.topics if wanted is None or topic.name in wanted]
    return BackupDescription(
        manifest=manifest,
        topics=tuple((topic, _totals(topic.partitions)) for topic in chosen),
        totals=_totals([partition for topic in chosen for partition in topic.partitions]),
        failures=tuple(
            Failure(
                topic=topic.name,
                partition=partition.partition,
                status=partition.status,
                next_offset=partition.next_offset,
                end_offset_exclusive=partition.end_offset_exclusive,
                error=partition.error,
            )
            for topic in chosen
            for partition in topic.partitions
            if partition.status is not PartitionStatus.COMPLETE
        ),
        with_segments=segments,
        lock_held=lock_held,
        restores=None if restores is None else tuple(restores),
        encrypted=encrypted,
    )


def _totals(partitions: Sequence[PartitionEntry]) -> Totals:
    segments = [segment for partition in partitions for segment in partition.segments]
    gaps = [gap for partition in partitions for gap in partition.gaps]
    earliest, latest = known_time_range(segments)
    return Totals(
        partition_count=len(partitions),
        empty_partition_count=sum(1 for partition in partitions if not partition.segments),
        segment_count=len(segments),
        block_count=sum(segment.block_count for segment in segments),
        record_count=sum(segment.record_count for segment in segments),
        raw_bytes=sum(segment.raw_bytes for segment in segments),
        stored_bytes=sum(segment.stored_bytes for segment in segments),
        max_record_bytes=max((segment.max_record_bytes for segment in segments), default=0),
        gap_count=len(gaps),
        gap_offset_count=sum(gap.end_offset_exclusive - gap.start_offset for gap in gaps),
        failed_partition_count=sum(1 for partition in partitions if partition.status is PartitionStatus.FAILED),
        min_timestamp=earliest,
        max_timestamp=latest,
    )


# -- lists of backups ---------------------------------------------------------------------


def list_document(summaries: Iterable[BackupSummary]) -> dict[str, Any]:
    """All backups of a store, JSON-ready."""
    return {"backups": [summary_document(summary) for summary in summaries]}


def restore_document(one: RestoreSummary) -> dict[str, Any]:
    """One restore in a list, JSON-ready."""
    return {
        "restore_id": one.restore_id,
        "status": one.status,
        "lock_held": one.lock_held,
        "error": one.error or None,
        "cluster_id": one.cluster_id,
        **_times("created_at", one.created_at_ms),
        **_times("updated_at", one.updated_at_ms),
        "target_topics": list(one.target_topics),
        "has_offset_map": one.has_offset_map,
    }


def summary_document(summary: BackupSummary | Manifest) -> dict[str, Any]:
    """One backup in a list, JSON-ready; numbers are null where its manifest can't be read."""
    one = summary if isinstance(summary, BackupSummary) else summarise(summary)
    ratio = one.raw_bytes / one.stored_bytes if one.raw_bytes and one.stored_bytes else None
    return {
        "backup_id": one.backup_id,
        "status": one.status,
        "lock_held": one.lock_held,
        "encrypted": one.encrypted,
        "made_by": one.made_by or (None if one.status == UNREADABLE else "kbr"),
        "error": one.error or None,
        **_times("created_at", one.created_at_ms),
        **_times("updated_at", one.updated_at_ms),
        **_times("finished_at", one.finished_at_ms),
        "topics": one.topic_count,
        "partitions": one.partition_count,
        "segments": one.segment_count,
        "gaps": one.gap_count,
        "records": one.record_count,
        "raw_bytes": one.raw_bytes,
        "stored_bytes": one.stored_bytes,
        "ratio": _rounded(ratio),
        **_times("min_timestamp", one.min_timestamp),
        **_times("max_timestamp", one.max_timestamp),
    }


# -- parts --------------------------------------------------------------------------------


def _times(name: str, timestamp_ms: int | None) -> dict[str, Any]:
    """A time twice: for people, and exact."""
    return {name: rfc3339(timestamp_ms), f"{name}_ms": timestamp_ms}


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 3)


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "start_offset": gap.start_offset,
        "end_offset_exclusive": gap.end_offset_exclusive,
        "reason": gap.reason.value,
        "detail": gap.detail,
        **_times("detected_at", gap.detected_at_ms),
    }


def _segment(segment: SegmentRef) -> dict[str, Any]:
    return {
        "key": segment.key,
        "sequence": segment.sequence,
        "next_offset": segment.next_offset,
        "start_offset": segment.start_offset,
        "end_offset": segment.end_offset,
        **_times("min_timestamp", None if segment.is_foreign else segment.min_timestamp),
        **_times("max_timestamp", None if segment.is_foreign else segment.max_timestamp),
        "records": segment.record_count,
        "blocks": segment.block_count,
        "raw_bytes": segment.raw_bytes,
        "stored_bytes": segment.stored_bytes,
        "max_record_bytes": segment.max_record_bytes,
        "sha256": segment.sha256,
    }
