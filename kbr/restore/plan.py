"""What a restore is going to write, and to which topics. Pure: from the manifest and the target's facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbr.errors import UsageError
from kbr.format.documents import Manifest, PartitionEntry, TopicEntry
from kbr.kafka.settings import ClientSettings
from kbr.model import Compression, PartitionStatus, SegmentRef, TopicPartition, TopicSpec
from kbr.repository.catalog import known_time_range
from kbr.repository.window import TimeWindow
from kbr.restore.names import target_names
from kbr.restore.options import RestoreOptions
from kbr.restore.partition_plan import PartitionPlan
from kbr.restore.placement import chosen_partitions, wanted_count
from kbr.restore.spreading import as_they_were, repartitioned, spread_over
from kbr.runtime.schedule import make_bundles
from kbr.storage.options import StorageOptions

__all__ = ["PartitionPlan", "RestorePlan", "RestoreTask", "TopicPlan", "group_partitions", "plan_restore"]

#: Topic configs that are not copied: brokers name replicas in them, which mean nothing on another cluster.
_CLUSTER_BOUND_CONFIGS = frozenset(
    {"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}
)


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
    #: Of a topic that exists: as it is, as it would be made, and what would be set afterwards then.
    there: TopicSpec | None = None
    wanted: TopicSpec | None = None
    wanted_afterwards: Mapping[str, str | None] = field(default_factory=dict)
    #: The backup has its configs.
    knows_configs: bool = True


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
        """Each once, also where several target partitions get records of it."""
        found: list[SegmentRef] = []
        shared: dict[str, SegmentRef] = {}
        seen: set[int] = set()
        for partition in self.partitions:
            if partition.routing is None:
                found.extend(partition.segments)
            elif id(partition.segments) not in seen:
                # they have one tuple for all, until they go on from different places
                seen.add(id(partition.segments))
                shared.update((ref.key, ref) for ref in partition.segments)
        return [*found, *shared.values()]


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
    bounds: Mapping[str, Mapping[TopicPartition, int]] | None = None,
) -> RestorePlan:
    """Fix what goes where.

    Args:
        manifest: the backup's.
        topics: those of it that are chosen.
        options: what the run was told.
        existing: the target topics that exist, by name.
        bounds: by target topic, where each of its source partitions ended when an earlier run began with it.

    Raises:
        UsageError: mappings or window make no sense.
    """
    window = TimeWindow.between(options.time_window_start_ms, options.time_window_end_ms)
    if window.start_ms > window.end_ms:
        raise UsageError(f"the time window ends ({window.end_ms}) before it begins ({window.start_ms})")
    targets = target_names(
        [topic.name for topic in topics], options.topic_mapping, prefix=options.topic_prefix, suffix=options.topic_suffix
    )
    chosen = chosen_partitions(topics, options.source_partitions)
    _check_offset_windows(topics, chosen, options)
    wanted = wanted_count(topics, options.target_partitions)
    warnings: list[str] = []
    taken = TimeWindow.between(manifest.source.time_window_start_ms, manifest.source.time_window_end_ms)
    if not taken.is_open:
        warnings.append(f"the backup was taken of a time window only ({taken})")
    if options.partitioner == "original":
        partition_plans = as_they_were(topics, targets, chosen, options, window, bounds or {})
        needed: dict[str, int] = {}
        for one in partition_plans:
            needed[one.target.topic] = max(needed.get(one.target.topic, 0), one.target.partition + 1)
    else:
        needed = spread_over(topics, targets, wanted, options, existing)
        partition_plans = repartitioned(topics, targets, chosen, needed, options, window, bounds or {})
    topic_plans = []
    for topic in topics:
        warnings.extend(_completeness_warnings(topic, chosen[topic.name]))
        name = targets[topic.name]
        count = _partition_count(topic, name, needed[name], wanted, options)
        topic_plans.append(_topic_plan(topic, name, count, options, existing, warnings))
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


def _check_offset_windows(
    topics: Sequence[TopicEntry], chosen: Mapping[str, Collection[int]], options: RestoreOptions
) -> None:
    if options.offset_windows and options.partitioner != "original":
        raise UsageError(
            f"windows of offsets can't be restored by the partitioner {options.partitioner}: the records behind them would "
            "lie elsewhere than without the window",
            hint="restore the window to partitions with their own numbers, or restore a time window",
        )
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
        left_out = sorted(number for number in windows if number not in chosen[name])
        if left_out:
            raise UsageError(
                f"a window of offsets names partition {left_out[0]} of {name}, which is not among the partitions to restore"
            )


def _partition_count(
    topic: TopicEntry, name: str, needed: int, wanted: Mapping[str, int], options: RestoreOptions
) -> int:
    """Of a topic that is made.

    Raises:
        UsageError: fewer are wanted than partitions that keep their numbers need.
    """
    if options.partitioner != "original":
        return needed
    count = wanted.get(topic.name)
    if count is None:
        return max(topic.partition_count, needed)
    if count < needed:
        raise UsageError(
            f"{name} is to have {count} partitions, and partitions that keep their numbers need {needed}",
            hint="spread the records anew with --partitioner murmur2 (or consistent, round-robin), map partitions with "
            "--partition-map, or choose some with --source-partitions",
        )
    return count


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
    wanted = {
        name: None
        if some[0].wanted is None
        else replace(
            some[0].wanted,
            partition_count=max(one.wanted.partition_count for one in some if one.wanted is not None),
            replication_factor=max(one.wanted.replication_factor for one in some if one.wanted is not None),
        )
        for name, some in by_target.items()
    }
    return [
        replace(
            topic,
            target=specs[topic.target.name],
            configs_afterwards=afterwards[topic.target.name],
            wanted=wanted[topic.target.name],
        )
        for topic in topics
    ]


def _completeness_warnings(topic: TopicEntry, chosen: Collection[int]) -> list[str]:
    partitions = [partition for partition in topic.partitions if partition.partition in chosen]

    def describe(partition: PartitionEntry) -> str:
        return f"{topic.name}[{partition.partition}]: the backup is {partition.status.value}, up to offset {partition.next_offset}"

    found = [describe(partition) for partition in partitions if partition.status is not PartitionStatus.COMPLETE]
    found.extend(
        f"{topic.name}[{partition.partition}]: offsets {gap.start_offset} to {gap.end_offset_exclusive - 1} are not in "
        f"the backup ({gap.reason.value})"
        for partition in partitions
        for gap in partition.gaps
    )
    return found


def _topic_plan(
    topic: TopicEntry,
    name: str,
    partition_count: int,
    options: RestoreOptions,
    existing: Mapping[str, TopicSpec],
    warnings: list[str],
) -> TopicPlan:
    cleanup = "compact,delete" if topic.configs is None else topic.configs.get("cleanup.policy", "delete")
    there = existing.get(name)
    is_kept = there is not None and options.existing_topics != "apply"
    configs = {key: value for key, value in (topic.configs or {}).items() if key not in _CLUSTER_BOUND_CONFIGS}
    configs.update(options.topic_configs)
    afterwards: dict[str, str | None] = {}
    if configs.get("message.timestamp.type") == "LogAppendTime":
        # with it in force the broker would replace every archived timestamp by the time of the restore
        afterwards["message.timestamp.type"] = configs["message.timestamp.type"]
        configs["message.timestamp.type"] = "CreateTime"
        if not is_kept:
            warnings.append(
                f"{name}: message.timestamp.type LogAppendTime is set after the restore, so that timestamps stay as they were"
            )
    made = TopicSpec(
        name=name,
        partition_count=partition_count,
        replication_factor=options.replication_factor or topic.replication_factor,
        configs=configs,
    )
    if there is not None:
        grown = max(there.partition_count, 0 if is_kept else partition_count)
        return TopicPlan(
            source=topic.name,
            target=replace(there, partition_count=grown),
            exists=True,
            source_cleanup=cleanup,
            configs_afterwards={} if is_kept else afterwards,
            there=there,
            wanted=made,
            wanted_afterwards=afterwards,
            knows_configs=topic.configs is not None,
        )
    if topic.configs is None:
        warnings.append(f"{name}: the backup has no topic configs for it, it is made with the target's defaults")
    return TopicPlan(
        source=topic.name,
        target=made,
        exists=False,
        source_cleanup=cleanup,
        configs_afterwards=afterwards,
    )


def group_partitions(
    partitions: Sequence[PartitionPlan], leaders: Mapping[TopicPartition, int], *, workers: int
) -> list[tuple[PartitionPlan, ...]]:
    """Cut the partitions that have something to send into tasks, in the order in which they are to be begun.

    Args:
        partitions: the plan's; target partitions that share their segments go together, so that a worker reads those once.
        leaders: broker ids of target partitions; those that aren't known are left out.
        workers: worker processes that will share the tasks.
    """
    shared: dict[str, list[PartitionPlan]] = {}
    for partition in partitions:
        if partition.segments and partition.routing is not None:
            shared.setdefault(partition.target.topic, []).append(partition)
    bundles = [tuple(some[first::workers]) for some in shared.values() for first in range(min(workers, len(some)))]
    return bundles + make_bundles(
        [partition for partition in partitions if partition.segments and partition.routing is None],
        size=lambda partition: partition.stored_bytes,
        leader=lambda partition: leaders.get(partition.target, -1),
        workers=workers,
    )
