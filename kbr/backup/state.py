"""What a backup run knows of its partitions, and the manifest that follows from it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupPlan, PartitionPlan
from kbr.backup.task import PartitionOutcome
from kbr.errors import KbrError
from kbr.format.documents import FORMAT_VERSION, Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.model import PartitionStatus, RunStatus, SegmentRef, TopicPartition
from kbr.telemetry.events import SegmentCommitted

__all__ = ["BackupState"]


@dataclass(slots=True)
class _Partition:
    plan: PartitionPlan
    status: PartitionStatus
    next_offset: int
    error: str | None = None
    segments: list[SegmentRef] = field(default_factory=list)


class BackupState:
    """Takes what workers report, gives the manifest as it stands.

    Args:
        plan: what the run does.
        options: what it was told.
        source: the cluster, for the manifest.
        kbr_version: the same.
        created_at_ms: the run's start.
    """

    def __init__(
        self, plan: BackupPlan, options: BackupOptions, source: SourceInfo, *, kbr_version: str, created_at_ms: int
    ) -> None:
        self._plan = plan
        self._options = options
        self._source = source
        self._kbr_version = kbr_version
        self._created_at_ms = created_at_ms
        self._changed = True
        self._partitions: dict[TopicPartition, _Partition] = {}
        for partition in plan.partitions:
            status = PartitionStatus.PENDING
            if partition.error:
                status = PartitionStatus.FAILED
            elif partition.offsets.is_empty:
                status = PartitionStatus.COMPLETE
            self._partitions[partition.key] = _Partition(
                plan=partition,
                status=status,
                next_offset=partition.offsets.start_offset,
                error=partition.error or None,
            )

    def segment_committed(self, event: SegmentCommitted) -> None:
        """A segment is durable."""
        partition = self._partitions[TopicPartition(event.topic, event.partition)]
        partition.segments.append(event.ref)
        partition.next_offset = event.ref.next_offset
        if partition.status is PartitionStatus.PENDING:
            partition.status = PartitionStatus.PARTIAL
        self._changed = True

    def partition_ended(self, outcome: PartitionOutcome) -> None:
        """A worker is done with a partition, in whatever way."""
        partition = self._partitions[TopicPartition(outcome.topic, outcome.partition)]
        partition.status = outcome.status
        partition.error = None if outcome.error is None else _storable(outcome.error)
        # Records that were fetched and not committed don't count: only segments move the position,
        # but for the holes behind the last record of a partition that was read to its end.
        if outcome.status is PartitionStatus.COMPLETE:
            partition.next_offset = outcome.next_offset
        self._changed = True

    def partitions_failed(self, partitions: Iterable[TopicPartition], error: KbrError) -> None:
        """A task ended without telling what became of its partitions: a worker died, for instance."""
        for key in partitions:
            partition = self._partitions[key]
            if partition.status in (PartitionStatus.PENDING, PartitionStatus.PARTIAL):
                partition.status = PartitionStatus.FAILED
                partition.error = _storable(error)
        self._changed = True

    def take_changed(self) -> bool:
        """Whether the manifest differs from the one last asked about."""
        changed, self._changed = self._changed, False
        return changed

    @property
    def final_status(self) -> RunStatus:
        """How the run ended, when nothing runs any more (and nobody interrupted it)."""
        entries = self._partitions.values()
        if any(entry.status is not PartitionStatus.COMPLETE or entry.plan.gaps for entry in entries):
            return RunStatus.INCOMPLETE
        return RunStatus.COMPLETE

    def manifest(self, status: RunStatus, *, now_ms: int) -> Manifest:
        """The manifest as it stands."""
        topics = []
        for topic in sorted(self._plan.topics, key=lambda spec: spec.name):
            partitions = [
                self._entry(self._partitions[TopicPartition(topic.name, number)])
                for number in range(topic.partition_count)
            ]
            topics.append(
                TopicEntry(
                    name=topic.name,
                    topic_id=topic.topic_id,
                    partition_count=topic.partition_count,
                    replication_factor=topic.replication_factor,
                    is_internal=topic.is_internal,
                    configs=None if topic.configs is None else dict(topic.configs),
                    partitions=tuple(partitions),
                )
            )
        running = status is RunStatus.RUNNING
        return Manifest(
            format_version=FORMAT_VERSION,
            kbr_version=self._kbr_version,
            backup_id=self._options.backup_id,
            status=status,
            created_at_ms=self._created_at_ms,
            updated_at_ms=now_ms,
            finished_at_ms=None if running else now_ms,
            source=self._source,
            compression=self._options.compression,
            compression_level=self._options.compression_level,
            retention=None,
            topics=tuple(topics),
        )

    @staticmethod
    def _entry(partition: _Partition) -> PartitionEntry:
        plan = partition.plan
        segments = tuple(sorted(partition.segments, key=lambda ref: ref.sequence))
        return PartitionEntry(
            partition=plan.partition,
            status=partition.status,
            log_start_offset=plan.log_start_offset,
            high_watermark=plan.high_watermark,
            start_offset=plan.offsets.start_offset,
            end_offset_exclusive=plan.offsets.end_offset_exclusive,
            next_offset=partition.next_offset,
            record_count=sum(ref.record_count for ref in segments),
            error=partition.error,
            gaps=plan.gaps,
            segments=segments,
        )


def _storable(error: KbrError) -> str:
    """An error's text as JSON can hold it: broken names come with lone surrogates."""
    return str(error).encode("utf-8", "backslashreplace").decode("utf-8")
