"""What goes to each target partition: one source partition's records, several ones', or a part of all. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from kbr.errors import UsageError
from kbr.format.documents import Manifest, PartitionEntry, TopicEntry
from kbr.model import SegmentRef, TopicPartition, TopicSpec
from kbr.repository.window import MAX_OFFSET, TimeWindow
from kbr.restore.options import RestoreOptions
from kbr.restore.partition_plan import PartitionPlan
from kbr.restore.placement import place_partitions
from kbr.restore.routing import LaneName, Routing, partitioner_of

__all__ = ["as_they_were", "grown_since", "repartitioned", "spread_over"]


def grown_since(manifest: Manifest, partitions: Sequence[PartitionPlan]) -> list[str]:
    """What is said where the backup has more by now than a restore began with that can't go on with more.

    Args:
        partitions: of the plan that ends where that restore's sources ended.
    """
    last = {
        TopicPartition(topic.name, one.partition): one.segments[-1].next_offset
        for topic in manifest.topics
        for one in topic.partitions
        if one.segments
    }
    grown: dict[str, set[TopicPartition]] = {}
    for sources, ends, name in {id(one.sources): (one.sources, one.source_ends, one.target.topic) for one in partitions}.values():
        more = {source for source, end in zip(sources, ends, strict=True) if last.get(source, 0) > end}
        if more:
            grown.setdefault(name, set()).update(more)
    return [
        f"{name}: the backup has more of {', '.join(map(str, sorted(some)[:3]))}{' and others' * (len(some) > 3)} than when "
        "this restore began, and that is not restored: it would have to lie between records that are there; "
        "restore it to another topic, or begin anew with the topic deleted"
        for name, some in grown.items()
    ]


def as_they_were(
    topics: Sequence[TopicEntry],
    targets: Mapping[str, str],
    chosen: Mapping[str, Collection[int]],
    options: RestoreOptions,
    window: TimeWindow,
    bounds: Mapping[str, Mapping[TopicPartition, int]],
) -> list[PartitionPlan]:
    """Each partition goes to one, by its number or the mapping.

    Raises:
        UsageError: partitions meet in one, and of one of them only some offsets are wanted.
    """
    placed = place_partitions(
        topics, targets, options.partition_mapping, chosen=chosen, merge=options.merge
    )
    found: dict[TopicPartition, PartitionPlan] = {}
    ends: dict[TopicPartition, int] = {}
    #: Where sources met already when the restore began: one that is new since would lie between records that are there.
    bounded = {target for source, target in placed.items() if source in bounds.get(target.topic, {})}
    for topic in sorted(topics, key=lambda one: one.name):
        for partition in sorted(topic.partitions, key=lambda one: one.partition):
            source = TopicPartition(topic.name, partition.partition)
            if source not in placed:
                continue
            target = placed[source]
            end = _end_of(partition, bounds[target.topic].get(source, 0) if target in bounded else None)
            first_offset, last_offset = options.offset_windows.get(topic.name, {}).get(partition.partition, (0, None))
            whole = PartitionPlan(
                source=source,
                target=target,
                segments=(),
                window_start=first_offset,
                window_end_exclusive=MAX_OFFSET if last_offset is None else last_offset + 1,
            )
            wanted = whole.window(window)
            segments = tuple(ref for ref in partition.segments if wanted.touches(ref) and ref.next_offset <= end)
            first = found.get(target)
            if first is None:
                found[target] = replace(whole, segments=segments)
                ends[target] = end
            elif first.has_offset_window or whole.has_offset_window:
                raise UsageError(
                    f"{first.source} and {source} go to {target}, and of one of them only some offsets are to be restored",
                    hint="restore the window of offsets to a partition of its own",
                )
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


def spread_over(
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


def repartitioned(
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
