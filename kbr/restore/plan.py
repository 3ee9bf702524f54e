"""What a restore is going to write, and to which topics. Pure: from the manifest and the target's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbr.errors import UsageError
from kbr.format.documents import Manifest, PartitionEntry, TopicEntry
from kbr.kafka.settings import ClientSettings
from kbr.model import Compression, PartitionStatus, SegmentRef, TopicPartition, TopicSpec
from kbr.repository.catalog import known_time_range
from kbr.repository.window import MAX_OFFSET, TimeWindow, Window
from kbr.restore.options import RestoreOptions
from kbr.restore.placement import place_partitions
from kbr.runtime.schedule import make_bundles
from kbr.storage.options import StorageOptions

__all__ = ["PartitionPlan", "RestorePlan", "RestoreTask", "TopicPlan", "group_partitions", "plan_restore"]

#: Topic configs that are not copied: brokers name replicas in them, which mean nothing on another cluster.
_CLUSTER_BOUND_CONFIGS = frozenset(
    {"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """One partition's way from the backup to the target."""

    source: TopicPartition
    target: TopicPartition
    #: In order; only those that may hold records of the window.
    segments: tuple[SegmentRef, ...]
    #: Source offset from which on records are sent: those before it are in the target.
    offset_from: int = 0
    #: Target offset that the next record has to get.
    target_offset: int = 0
    #: Source offsets that are to be restored at all, whatever is in the target.
    window_start: int = 0
    window_end_exclusive: int = MAX_OFFSET

    def window(self, times: TimeWindow) -> Window:
        """The records that are to be restored, of those within ``times``."""
        return Window(times=times, start_offset=self.window_start, end_offset_exclusive=self.window_end_exclusive)

    def going_on(self, *, offset_from: int, target_offset: int) -> PartitionPlan:
        """What is left of it."""
        return replace(
            self,
            segments=tuple(ref for ref in self.segments if ref.end_offset >= offset_from),
            offset_from=offset_from,
            target_offset=target_offset,
        )

    @property
    def has_offset_window(self) -> bool:
        """Whether not all offsets are to be restored."""
        return self.window_start > 0 or self.window_end_exclusive != MAX_OFFSET

    @property
    def stored_bytes(self) -> int:
        return sum(ref.stored_bytes for ref in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """One target topic."""

    source: str
    target: TopicSpec
    exists: bool
    #: The source's cleanup.policy; where nobody knows it, what stands against nothing.
    source_cleanup: str = "compact,delete"
    #: Set to this after the restore: configs that would change records while they are written; None is the default.
    configs_afterwards: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """All that a restore run is going to do."""

    backup_id: str
    window: TimeWindow
    topics: tuple[TopicPlan, ...]
    partitions: tuple[PartitionPlan, ...]
    warnings: tuple[str, ...]
    #: Smallest and largest timestamp of the chosen topics in the backup, also beyond the window; None where there is none.
    archived_times: tuple[int | None, int | None] = (None, None)

    @property
    def segments(self) -> list[SegmentRef]:
        return [ref for partition in self.partitions for ref in partition.segments]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTask:
    """What one worker does in one go; picklable. Holds secrets: never print it."""

    backup_id: str
    compression: Compression
    window: TimeWindow
    partitions: tuple[PartitionPlan, ...]
    client: ClientSettings
    storage: StorageOptions
    wire_compression: str
    original_offset_header: bytes
    zero_timestamp_as: int
    batch_bytes: int
    memory_bytes: int
    max_block_bytes: int
    #: How long the cluster may take to answer, seconds.
    deadline_s: float
    #: The run's rate limit (kbr.runtime.pacing).
    pace_path: Path
    #: Until when it may send (kbr.runtime.lease).
    lease_path: Path


def plan_restore(
    manifest: Manifest,
    topics: Sequence[TopicEntry],
    options: RestoreOptions,
    existing: Mapping[str, TopicSpec],
) -> RestorePlan:
    """Fix what goes where.

    Args:
        manifest: the backup's.
        topics: those of it that are chosen.
        options: what the run was told.
        existing: the target topics that exist, by name.

    Raises:
        UsageError: mappings or window make no sense.
    """
    window = TimeWindow.between(options.time_window_start_ms, options.time_window_end_ms)
    if window.start_ms > window.end_ms:
        raise UsageError(f"the time window ends ({window.end_ms}) before it begins ({window.start_ms})")
    _check_offset_windows(topics, options)
    placed = place_partitions(topics, options.topic_mapping, options.partition_mapping)
    warnings: list[str] = []
    taken = TimeWindow.between(manifest.source.time_window_start_ms, manifest.source.time_window_end_ms)
    if not taken.is_open:
        warnings.append(f"the backup was taken of a time window only ({taken})")
    topic_plans = []
    partition_plans = []
    for topic in topics:
        warnings.extend(_completeness_warnings(topic))
        topic_plans.append(_topic_plan(topic, placed, options, existing, warnings))
        for partition in topic.partitions:
            source = TopicPartition(topic.name, partition.partition)
            first, last = options.offset_windows.get(topic.name, {}).get(partition.partition, (0, None))
            whole = PartitionPlan(
                source=source,
                target=placed[source],
                segments=(),
                window_start=first,
                window_end_exclusive=MAX_OFFSET if last is None else last + 1,
            )
            wanted = whole.window(window)
            partition_plans.append(
                replace(whole, segments=tuple(ref for ref in partition.segments if wanted.touches(ref)))
            )
    return RestorePlan(
        backup_id=manifest.backup_id,
        window=window,
        topics=tuple(_joined(topic_plans, warnings)),
        partitions=tuple(partition_plans),
        warnings=tuple(warnings),
        archived_times=known_time_range(
            ref for topic in topics for partition in topic.partitions for ref in partition.segments
        ),
    )


def _check_offset_windows(topics: Sequence[TopicEntry], options: RestoreOptions) -> None:
    counts = {topic.name: topic.partition_count for topic in topics}
    for name, windows in options.offset_windows.items():
        if name not in counts:
            raise UsageError(
                f"a window of offsets names {name}, which is not among the topics to restore",
                hint=f"topics to restore: {', '.join(sorted(counts)[:20])}",
            )
        absent = sorted(number for number in windows if number >= counts[name])
        if absent:
            raise UsageError(
                f"a window of offsets names partition {absent[0]} of {name}, the backup has 0 to {counts[name] - 1}"
            )


def _joined(topics: Sequence[TopicPlan], warnings: list[str]) -> list[TopicPlan]:
    """The same, where several sources go to one topic: it is made once, large enough for all, with the first one's configs."""
    by_target: dict[str, list[TopicPlan]] = {}
    for topic in topics:
        by_target.setdefault(topic.target.name, []).append(topic)
    specs: dict[str, TopicSpec] = {}
    for name, some in by_target.items():
        first = some[0].target
        specs[name] = replace(
            first,
            partition_count=max(one.target.partition_count for one in some),
            replication_factor=max(one.target.replication_factor for one in some),
        )
        if any((one.target.configs, one.configs_afterwards) != (first.configs, some[0].configs_afterwards) for one in some):
            warnings.append(
                f"{name}: {', '.join(one.source for one in some)} go to it and have different configs: it is made with "
                f"those of {some[0].source}"
            )
    afterwards = {name: some[0].configs_afterwards for name, some in by_target.items()}
    return [
        replace(topic, target=specs[topic.target.name], configs_afterwards=afterwards[topic.target.name])
        for topic in topics
    ]


def _completeness_warnings(topic: TopicEntry) -> list[str]:
    def describe(partition: PartitionEntry) -> str:
        return f"{topic.name}[{partition.partition}]: the backup is {partition.status.value}, up to offset {partition.next_offset}"

    found = [describe(partition) for partition in topic.partitions if partition.status is not PartitionStatus.COMPLETE]
    found.extend(
        f"{topic.name}[{partition.partition}]: offsets {gap.start_offset} to {gap.end_offset_exclusive - 1} are not in "
        f"the backup ({gap.reason.value})"
        for partition in topic.partitions
        for gap in partition.gaps
    )
    return found


def _topic_plan(
    topic: TopicEntry,
    placed: Mapping[TopicPartition, TopicPartition],
    options: RestoreOptions,
    existing: Mapping[str, TopicSpec],
    warnings: list[str],
) -> TopicPlan:
    name = placed[TopicPartition(topic.name, 0)].topic
    cleanup = "compact,delete" if topic.configs is None else topic.configs.get("cleanup.policy", "delete")
    if name in existing:
        return TopicPlan(source=topic.name, target=existing[name], exists=True, source_cleanup=cleanup)
    highest = max(placed[TopicPartition(topic.name, number)].partition for number in range(topic.partition_count))
    configs = {key: value for key, value in (topic.configs or {}).items() if key not in _CLUSTER_BOUND_CONFIGS}
    configs.update(options.topic_configs)
    afterwards: dict[str, str | None] = {}
    if configs.get("message.timestamp.type") == "LogAppendTime":
        # with it in force the broker would replace every archived timestamp by the time of the restore
        afterwards["message.timestamp.type"] = configs["message.timestamp.type"]
        configs["message.timestamp.type"] = "CreateTime"
        warnings.append(
            f"{name}: message.timestamp.type LogAppendTime is set after the restore, so that timestamps stay as they were"
        )
    if topic.configs is None:
        warnings.append(f"{name}: the backup has no topic configs for it, it is made with the target's defaults")
    return TopicPlan(
        source=topic.name,
        target=TopicSpec(
            name=name,
            partition_count=max(topic.partition_count, highest + 1),
            replication_factor=options.replication_factor or topic.replication_factor,
            configs=configs,
        ),
        exists=False,
        source_cleanup=cleanup,
        configs_afterwards=afterwards,
    )


def group_partitions(
    partitions: Sequence[PartitionPlan], leaders: Mapping[TopicPartition, int], *, workers: int
) -> list[tuple[PartitionPlan, ...]]:
    """Cut the partitions that have something to send into tasks, in the order in which they are to be begun.

    Args:
        partitions: the plan's.
        leaders: broker ids of target partitions; those that aren't known are left out.
        workers: worker processes that will share the tasks.
    """
    return make_bundles(
        [partition for partition in partitions if partition.segments],
        size=lambda partition: partition.stored_bytes,
        leader=lambda partition: leaders.get(partition.target, -1),
        workers=workers,
    )
