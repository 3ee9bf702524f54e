"""Which partitions a backup fetches, over which offsets, in which tasks. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.settings import ClientSettings
from kbr.model import Anchor, Compression, FailureKind, Gap, GapReason, OffsetRange, TopicPartition, TopicSpec
from kbr.repository.window import TimeWindow
from kbr.runtime.schedule import make_bundles
from kbr.storage.options import StorageOptions

__all__ = [
    "BackupPlan",
    "BackupTask",
    "Known",
    "PartitionPlan",
    "PartitionTask",
    "cut_error",
    "group_partitions",
    "plan_partitions",
    "recreated_error",
    "replaced_error",
    "shrunk_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a backup holds of a partition already, as far as it decides how to go on."""

    #: The topic's; empty where the cluster had none.
    topic_id: str
    #: First offset that is in no segment and in no gap: what the next segment answers from.
    position: int
    #: The log was read to here: from ``position`` on it held no record.
    reached: int
    #: Why nothing of it may be read any more, whatever the cluster says now; empty if that is not so.
    failed_for_good: str = ""
    #: The cluster has never told its offsets: where it begins is not known yet.
    is_unseen: bool = False
    #: The last record that it holds.
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """One partition of the backup, with the facts that one pass over it goes by."""

    topic: str
    topic_id: str
    partition: int
    log_start_offset: int
    high_watermark: int
    #: Where the range that the backup is to hold ends.
    end_offset_exclusive: int
    #: What the next segment answers from.
    sequence: int
    #: What is to be fetched now; empty if nothing is.
    offsets: OffsetRange
    #: Offsets that were found lost now.
    gaps: tuple[Gap, ...] = ()
    #: What an open transaction keeps back for now.
    open_transaction: Gap | None = None
    #: Why it can't be read; empty if it can.
    error: str = ""
    #: What that means for later passes; None if it can be read.
    failure: FailureKind | None = None
    #: A record that the log has to hold still, if none took its place.
    anchor: Anchor | None = None

    @property
    def key(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """All that one pass is going to do."""

    topics: tuple[TopicSpec, ...]
    partitions: tuple[PartitionPlan, ...]

    @property
    def offset_count(self) -> int:
        """Offsets to read: an upper bound of the records."""
        return sum(len(partition.offsets) for partition in self.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTask:
    """A partition's offset range, as a worker gets it.

    Attributes:
        sequence: what its first segment answers from; not behind ``offsets.start_offset``.
        adopts: segments that a worker which died may have committed without a word are looked for first: they are taken
            over, or put aside (BackupTask.takes_over).
        anchor: the record before ``sequence`` that is archived, if it is one that the log has to hold still.
    """

    topic: str
    topic_id: str
    partition: int
    offsets: OffsetRange
    sequence: int
    adopts: bool = False
    anchor: Anchor | None = None

    @property
    def key(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


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
    #: How long nothing may come of all its partitions before they are given up, seconds.
    patience_s: float
    memory_bytes: int
    compress_threads: int
    #: The run's rate limit (kbr.runtime.pacing).
    pace_path: Path
    #: Until when the run may write (kbr.runtime.lease).
    lease_path: Path
    #: Whether what lies in the store and in no manifest is taken over; else it is put aside (kbr.repository.adopt).
    takes_over: bool = True
    #: Keys below the backup's folder of what was put aside and could not be removed: a segment takes its place.
    replaces: frozenset[str] = frozenset()
    #: Records outside of it are passed over.
    window: TimeWindow = field(default_factory=TimeWindow)
    #: Whether blocks are decoded again before they are stored.
    extra_verify: bool = True


def plan_partitions(
    topics: Sequence[TopicSpec],
    offsets: Mapping[TopicPartition, PartitionOffsets],
    errors: Mapping[TopicPartition, str],
    *,
    known: Mapping[TopicPartition, Known],
    ends: Mapping[TopicPartition, int],
    now_ms: int,
) -> BackupPlan:
    """Fix the range of every partition: from where the backup has come to, or its log start, to its end.

    Args:
        topics: the chosen topics.
        offsets: what the cluster said of each partition.
        errors: why those of others could not be had; partitions in neither are left out.
        known: what the backup holds of partitions already.
        ends: ends (exclusive) that were fixed by an earlier pass of the same run.
        now_ms: stamp for gaps.
    """
    plans: list[PartitionPlan] = []
    for topic in topics:
        shrank = TopicPartition(topic.name, topic.partition_count) in known
        recreated = _recreated(topic, known.get(TopicPartition(topic.name, 0)))
        for number in range(topic.partition_count):
            key = TopicPartition(topic.name, number)
            found = offsets.get(key)
            had = known.get(key)
            if had is not None and had.failed_for_good:
                plans.append(_failed(topic, number, had, had.failed_for_good, FailureKind.LASTING, found))
            elif recreated and had is None:
                continue  # of another topic than the backup's: it has no place there
            elif recreated:
                plans.append(_failed(topic, number, had, recreated, FailureKind.LASTING, found))
            elif shrank:
                error = shrunk_error(topic.name, topic.partition_count)
                plans.append(_failed(topic, number, had, error, FailureKind.LASTING))
            elif key in errors:
                plans.append(_not_answered(topic, number, had, errors[key]))
            elif found is None:
                continue  # nobody asked for it in this pass
            elif had is None or had.is_unseen:
                plans.append(_new(topic, number, found, ends.get(key), now_ms))
            else:
                plans.append(_continued(topic, number, found, had, ends.get(key), now_ms))
    return BackupPlan(topics=tuple(topics), partitions=tuple(plans))


def _recreated(topic: TopicSpec, known: Known | None) -> str:
    """What to say if the topic is another one than the backup's; else nothing."""
    if known is None or not known.topic_id or not topic.topic_id or known.topic_id == topic.topic_id:
        return ""
    return recreated_error(topic.name, known.topic_id, topic.topic_id)


def _not_answered(topic: TopicSpec, number: int, known: Known | None, error: str) -> PartitionPlan:
    if known is None or known.is_unseen:
        return _failed(topic, number, known, f"{error}; it has not been seen yet", FailureKind.UNSEEN)
    return _failed(topic, number, known, error, FailureKind.PASSING)


def _failed(
    topic: TopicSpec,
    number: int,
    known: Known | None,
    error: str,
    failure: FailureKind,
    found: PartitionOffsets | None = None,
) -> PartitionPlan:
    position = known.position if known is not None else 0
    return PartitionPlan(
        topic=topic.name,
        topic_id=topic.topic_id,
        partition=number,
        log_start_offset=0 if found is None else found.log_start,
        high_watermark=0 if found is None else found.high_watermark,
        end_offset_exclusive=position if known is None else max(position, known.reached),
        sequence=position,
        offsets=OffsetRange(start_offset=position, end_offset_exclusive=position),
        error=error,
        failure=failure,
    )


def _new(topic: TopicSpec, number: int, found: PartitionOffsets, fixed: int | None, now_ms: int) -> PartitionPlan:
    start = max(found.log_start, min(found.first_wanted, found.end_offset))
    end = max(start, found.end_offset if fixed is None else min(fixed, found.end_offset))
    return PartitionPlan(
        topic=topic.name,
        topic_id=topic.topic_id,
        partition=number,
        log_start_offset=found.log_start,
        high_watermark=found.high_watermark,
        end_offset_exclusive=end,
        sequence=start,
        offsets=OffsetRange(start_offset=start, end_offset_exclusive=end),
        open_transaction=_kept_back(found, now_ms),
    )


def _continued(
    topic: TopicSpec, number: int, found: PartitionOffsets, known: Known, fixed: int | None, now_ms: int
) -> PartitionPlan:
    if found.high_watermark < known.reached:
        error = cut_error(found.high_watermark, known.reached)
        return _failed(topic, number, known, error, FailureKind.LASTING, found)
    if fixed is not None and found.high_watermark < fixed:
        return _failed(
            topic,
            number,
            known,
            f"the log ends at offset {found.high_watermark}, before offset {fixed} that it had reached: it was cut (unclean "
            "leader election), or the topic was made anew; nothing that is in the backup was",
            FailureKind.PASSING,
            found,
        )
    end = max(known.position, known.reached, found.end_offset if fixed is None else min(fixed, found.end_offset))
    sequence = known.position
    # what lies between was read before, and held no record
    start = max(known.position, known.reached)
    gaps: tuple[Gap, ...] = ()
    if found.log_start > start and end > start:
        lost_end = min(found.log_start, end)
        gaps = (
            Gap(
                start_offset=known.position,
                end_offset_exclusive=lost_end,
                reason=GapReason.RETENTION,
                detected_at_ms=now_ms,
                detail=f"the log begins at offset {found.log_start}: what was before it was deleted before it was read",
            ),
        )
        sequence = start = lost_end
    anchor = known.anchor if known.anchor is not None and known.anchor.offset >= found.log_start else None
    return PartitionPlan(
        topic=topic.name,
        topic_id=topic.topic_id,
        partition=number,
        log_start_offset=found.log_start,
        high_watermark=found.high_watermark,
        end_offset_exclusive=end,
        sequence=sequence,
        offsets=OffsetRange(start_offset=start, end_offset_exclusive=end),
        gaps=gaps,
        open_transaction=_kept_back(found, now_ms),
        anchor=anchor,
    )


def _kept_back(found: PartitionOffsets, now_ms: int) -> Gap | None:
    if found.end_offset >= found.high_watermark:
        return None
    return Gap(
        start_offset=found.end_offset,
        end_offset_exclusive=found.high_watermark,
        reason=GapReason.OPEN_TRANSACTION,
        detected_at_ms=now_ms,
        detail="a transaction was open: nothing behind its first record is committed yet",
    )


#: Of a partition that failed for good: what the log holds now does not follow what is in the backup, even where that
#: can't be seen any more (the log has grown past it again).
_STAYS = "what is in the backup stays as it was, take "


def cut_error(end: int, reached: int) -> str:
    """What to say of a log that ends before what was read of it."""
    return (
        f"the log ended at offset {end}, before offset {reached} up to which it was read: it was cut (unclean leader "
        f"election), or the topic was made anew; {_STAYS}what is there now under another backup_id"
    )


def replaced_error(offset: int) -> str:
    """What to say of a log that holds another record than the last one that was read, and may have grown behind it."""
    return (
        f"the log holds another record at offset {offset} than the one that was read there: it was cut (unclean leader "
        f"election) and has grown since; {_STAYS}what is there now under another backup_id"
    )


def shrunk_error(topic: str, count: int) -> str:
    """What to say of a topic that has fewer partitions than it had, which Kafka can't do to one."""
    return (
        f"topic {topic} was deleted and made anew (it has {count} partition{'' if count == 1 else 's'} now, and had more): {_STAYS}the new one "
        "under another backup_id"
    )


def recreated_error(topic: str, had: str, now: str) -> str:
    """What to say of a topic that was deleted and made anew."""
    return (
        f"topic {topic} was deleted and made anew (its id was {had}, it is {now}): {_STAYS}the new one under another "
        "backup_id"
    )


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
