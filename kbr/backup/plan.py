"""Which partitions a backup fetches, over which offsets, in which tasks. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.settings import ClientSettings
from kbr.model import Compression, Gap, GapReason, OffsetRange, TopicPartition, TopicSpec
from kbr.runtime.schedule import make_bundles
from kbr.storage.options import StorageOptions

__all__ = ["BackupPlan", "BackupTask", "PartitionPlan", "PartitionTask", "group_partitions", "plan_partitions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """One partition of the backup, with the facts that were fixed at the start."""

    topic: str
    topic_id: str
    partition: int
    log_start_offset: int
    high_watermark: int
    offsets: OffsetRange
    gaps: tuple[Gap, ...] = ()
    #: Why its offsets could not be had; empty if they could.
    error: str = ""

    @property
    def key(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """All that a run is going to do."""

    topics: tuple[TopicSpec, ...]
    partitions: tuple[PartitionPlan, ...]

    @property
    def offset_count(self) -> int:
        """Offsets to read: an upper bound of the records."""
        return sum(len(partition.offsets) for partition in self.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTask:
    """A partition's offset range, as a worker gets it."""

    topic: str
    topic_id: str
    partition: int
    offsets: OffsetRange


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupTask:
    """What one worker does in one go; picklable. Holds secrets: never print it."""

    backup_id: str
    writer: str
    partitions: tuple[PartitionTask, ...]
    client: ClientSettings
    storage: StorageOptions
    isolation_level: str
    compression: Compression
    compression_level: int | None
    segment_max_bytes: int
    segment_max_interval_s: float
    memory_bytes: int
    compress_threads: int
    #: The run's rate limit (kbr.runtime.pacing).
    pace_path: Path


def plan_partitions(
    topics: Sequence[TopicSpec],
    offsets: Mapping[TopicPartition, PartitionOffsets],
    errors: Mapping[TopicPartition, str],
    *,
    now_ms: int,
) -> BackupPlan:
    """Fix the range of every partition: from its log start to its end as it is now.

    Args:
        topics: the chosen topics.
        offsets: what the cluster said of each partition.
        errors: why the offsets of the others could not be had.
        now_ms: stamp for gaps.
    """
    plans: list[PartitionPlan] = []
    for topic in topics:
        for number in range(topic.partition_count):
            key = TopicPartition(topic.name, number)
            found = offsets.get(key)
            if found is None:
                plans.append(
                    PartitionPlan(
                        topic=topic.name,
                        topic_id=topic.topic_id,
                        partition=number,
                        log_start_offset=0,
                        high_watermark=0,
                        offsets=OffsetRange(start_offset=0, end_offset_exclusive=0),
                        error=errors.get(key, "the cluster gave no offsets for it"),
                    )
                )
                continue
            gaps: tuple[Gap, ...] = ()
            if found.end_offset < found.high_watermark:
                gaps = (
                    Gap(
                        start_offset=found.end_offset,
                        end_offset_exclusive=found.high_watermark,
                        reason=GapReason.OPEN_TRANSACTION,
                        detected_at_ms=now_ms,
                        detail="a transaction was open: nothing behind its first record is committed yet",
                    ),
                )
            plans.append(
                PartitionPlan(
                    topic=topic.name,
                    topic_id=topic.topic_id,
                    partition=number,
                    log_start_offset=found.log_start,
                    high_watermark=found.high_watermark,
                    offsets=OffsetRange(
                        start_offset=found.log_start, end_offset_exclusive=max(found.log_start, found.end_offset)
                    ),
                    gaps=gaps,
                )
            )
    return BackupPlan(topics=tuple(topics), partitions=tuple(plans))


def group_partitions(
    partitions: Sequence[PartitionPlan], leaders: Mapping[TopicPartition, int], *, workers: int
) -> list[tuple[PartitionPlan, ...]]:
    """Cut the partitions that have something to fetch into tasks, in the order in which they are to be begun.

    Args:
        partitions: the plan's.
        leaders: broker ids of the partitions; those that aren't known are left out.
        workers: worker processes that will share the tasks.
    """
    return make_bundles(
        [partition for partition in partitions if not partition.error and not partition.offsets.is_empty],
        size=lambda partition: len(partition.offsets),
        leader=lambda partition: leaders.get(partition.key, -1),
        workers=workers,
    )
