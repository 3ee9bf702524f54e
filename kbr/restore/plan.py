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
from kbr.restore.names import target_names
from kbr.restore.options import RestoreOptions
from kbr.restore.placement import chosen_partitions, place_partitions, wanted_count
from kbr.restore.routing import LaneName, Routing, partitioner_of, source_of
from kbr.restore.window import TimeWindow
from kbr.runtime.schedule import make_bundles
from kbr.storage.options import StorageOptions

__all__ = ["PartitionPlan", "RestorePlan", "RestoreTask", "TopicPlan", "group_partitions", "grown_since", "plan_restore"]

#: Topic configs that are not copied: brokers name replicas in them, which mean nothing on another cluster.
_CLUSTER_BOUND_CONFIGS = frozenset(
    {"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """One partition's way from the backup to the target.

    Where a target partition gets records of several source partitions, ``source`` is a name for them, and ``sources``
    are they, in the order in which their records come.
    """

    source: TopicPartition
    target: TopicPartition
    #: In order; only those that may hold records of the window.
    segments: tuple[SegmentRef, ...]
    #: Source offset from which on records are sent: those before it are in the target.
    offset_from: int = 0
    #: Target offset that the next record has to get.
    target_offset: int = 0
    sources: tuple[TopicPartition, ...] = ()
    #: Of each of them, one past the last offset that belongs to it.
    source_ends: tuple[int, ...] = ()
    #: Of ``sources``, the one that ``offset_from`` is of; those before it are in the target, those after it are not.
    begins_in: TopicPartition | None = None
    #: Only the records that it gives to the target's partition; None is all.
    routing: Routing | None = None

    def going_on(
        self, *, offset_from: int, target_offset: int, source: TopicPartition | None = None, is_all: bool = False
    ) -> PartitionPlan:
        """What is left of it.

        Args:
            source: of several sources, the one that ``offset_from`` is of.
            is_all: every record is in the target.
        """
        segments = self.segments
        if is_all:
            segments = ()
        elif not self.sources:
            segments = tuple(ref for ref in segments if ref.end_offset >= offset_from)
        elif source is not None:
            place = {one: number for number, one in enumerate(self.sources)}
            here = place[source]
            segments = tuple(
                ref
                for ref in segments
                if (at := place[source_of(ref)]) > here or (at == here and ref.end_offset >= offset_from)
            )
        return replace(
            self, segments=segments, offset_from=offset_from, target_offset=target_offset, begins_in=source
        )

    def begins_at(self, reference: SegmentRef) -> int:
        """The first offset of a segment's partition whose record is to be sent."""
        if not self.sources or source_of(reference) == self.begins_in:
            return self.offset_from
        return 0

    @property
    def stored_bytes(self) -> int:
        """What its records take in the store; where they are a part of their segments, about that part."""
        total = sum(ref.stored_bytes for ref in self.segments)
        return total if self.routing is None else total // self.routing.partition_count


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
    wanted = wanted_count(topics, options.target_partitions)
    warnings: list[str] = []
    if options.partitioner == "original":
        partition_plans = _as_they_were(topics, targets, chosen, options, window, bounds or {})
        needed: dict[str, int] = {}
        for one in partition_plans:
            needed[one.target.topic] = max(needed.get(one.target.topic, 0), one.target.partition + 1)
    else:
        needed = _spread_over(topics, targets, wanted, options, existing)
        partition_plans = _repartitioned(topics, targets, chosen, needed, options, window, bounds or {})
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


def grown_since(manifest: Manifest, bounds: Mapping[str, Mapping[TopicPartition, int]]) -> list[str]:
    """What is said where the backup has more by now than a restore began with that can't go on with more."""
    last = {
        TopicPartition(topic.name, one.partition): one.segments[-1].next_offset
        for topic in manifest.topics
        for one in topic.partitions
        if one.segments
    }
    notes = []
    for name, ends in bounds.items():
        topics = {source.topic for source in ends}
        grown = sorted(one for one, end in last.items() if one.topic in topics and end > ends.get(one, 0))
        if grown:
            notes.append(
                f"{name}: the backup has more of {', '.join(map(str, grown[:3]))}{' and others' * (len(grown) > 3)} than when "
                "this restore began, and that is not restored: it would have to lie between records that are there; "
                "restore it to another topic, or begin anew with the topic deleted"
            )
    return notes


def _as_they_were(
    topics: Sequence[TopicEntry],
    targets: Mapping[str, str],
    chosen: Mapping[str, Collection[int]],
    options: RestoreOptions,
    window: TimeWindow,
    bounds: Mapping[str, Mapping[TopicPartition, int]],
) -> list[PartitionPlan]:
    """Each partition goes to one, by its number or the mapping."""
    placed = place_partitions(
        topics, targets, options.partition_mapping, chosen=chosen, merge=options.merge
    )
    found: dict[TopicPartition, PartitionPlan] = {}
    ends: dict[TopicPartition, int] = {}
    for topic in sorted(topics, key=lambda one: one.name):
        for partition in sorted(topic.partitions, key=lambda one: one.partition):
            source = TopicPartition(topic.name, partition.partition)
            if source not in placed:
                continue
            target = placed[source]
            end = _end_of(partition, bounds.get(target.topic, {}).get(source))
            segments = tuple(ref for ref in partition.segments if window.touches(ref) and ref.next_offset <= end)
            first = found.get(target)
            if first is None:
                found[target] = PartitionPlan(source=source, target=target, segments=segments)
                ends[target] = end
            else:
                found[target] = replace(
                    first,
                    segments=(*first.segments, *segments),
                    sources=(*(first.sources or (first.source,)), source),
                    source_ends=(*(first.source_ends or (ends[target],)), end),
                )
    return list(found.values())


def _end_of(partition: PartitionEntry, bound: int | None) -> int:
    """One past the last offset of a source partition that belongs to a restore."""
    return max((ref.next_offset for ref in partition.segments[-1:]), default=0) if bound is None else bound


def _spread_over(
    topics: Sequence[TopicEntry],
    targets: Mapping[str, str],
    wanted: Mapping[str, int],
    options: RestoreOptions,
    existing: Mapping[str, TopicSpec],
) -> dict[str, int]:
    """Over how many partitions each target topic's records are spread.

    Raises:
        UsageError: that can't be told, or several topics meet.
    """
    moved = sorted(set(options.partition_mapping) & {topic.name for topic in topics})
    if moved:
        raise UsageError(
            f"the partition mapping of {moved[0]} says where its partitions go, and so does the partitioner "
            f"{options.partitioner}",
            hint="give one of them",
        )
    found: dict[str, int] = {}
    said: dict[str, str] = {}
    for topic in topics:
        name = targets[topic.name]
        if name in said and not options.merge:
            raise UsageError(
                f"{said[name]} and {topic.name} would both be restored to {name}",
                hint="map one of them elsewhere, as records of two topics in one have no order; or say with --merge that one "
                "is to come behind the other",
            )
        there = existing[name].partition_count if name in existing else topic.partition_count
        count = wanted.get(topic.name, there)
        if name in said and topic.name in wanted and said[name] in wanted and wanted[topic.name] != wanted[said[name]]:
            raise UsageError(
                f"{said[name]} and {topic.name} go to {name}, and have different numbers of target partitions: "
                f"{wanted[said[name]]} and {wanted[topic.name]}"
            )
        found[name] = max(found.get(name, 0), count)
        said.setdefault(name, topic.name)
    return found


def _repartitioned(
    topics: Sequence[TopicEntry],
    targets: Mapping[str, str],
    chosen: Mapping[str, Collection[int]],
    counts: Mapping[str, int],
    options: RestoreOptions,
    window: TimeWindow,
    bounds: Mapping[str, Mapping[TopicPartition, int]],
) -> list[PartitionPlan]:
    """Each target partition gets what the partitioner gives to it, of all partitions of its sources in their order."""
    by_target: dict[str, list[TopicEntry]] = {}
    for topic in sorted(topics, key=lambda one: one.name):
        by_target.setdefault(targets[topic.name], []).append(topic)
    found: list[PartitionPlan] = []
    for name, some in by_target.items():
        positions: dict[str, int] = {}
        segments: list[SegmentRef] = []
        sources: list[TopicPartition] = []
        ends: list[int] = []
        for topic in some:
            for partition in sorted(topic.partitions, key=lambda one: one.partition):
                if partition.partition not in chosen[topic.name]:
                    continue
                source = TopicPartition(topic.name, partition.partition)
                # of a partition that is new since, nothing belongs to it
                end = _end_of(partition, bounds[name].get(source, 0) if bounds.get(name) else None)
                sources.append(source)
                ends.append(end)
                # not all partitions begin with the same one: many short ones would all go there
                at = partition.partition
                for ref in partition.segments:
                    if window.touches(ref) and ref.next_offset <= end:
                        positions[ref.key] = at
                        segments.append(ref)
                    at += ref.record_count
        routing = Routing(
            partitioner=partitioner_of(options.partitioner), partition_count=counts[name], positions=positions
        )
        shared, order, source_ends = tuple(segments), tuple(sources), tuple(ends)
        found.extend(
            PartitionPlan(
                source=LaneName(some[0].name, number),
                target=TopicPartition(name, number),
                segments=shared,
                sources=order,
                source_ends=source_ends,
                routing=routing,
            )
            for number in range(counts[name])
        )
    return found


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
