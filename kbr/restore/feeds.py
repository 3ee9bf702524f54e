"""Which of a task's partitions read the same segments: those, and their blocks, are read once for all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbr.kafka.sink import RecordRoute, RecordWindow
from kbr.model import SegmentRef
from kbr.restore.plan import PartitionPlan
from kbr.restore.routing import source_of
from kbr.restore.window import TimeWindow

__all__ = ["Feed", "FeedRead", "HeldBlock", "ReadyBlock", "feeds_of", "window_of"]


@dataclass(frozen=True, slots=True)
class ReadyBlock:
    """A decompressed block, for some of the task's partitions."""

    wanted: Sequence[int]
    data: bytes
    place: str
    position: int
    reference: SegmentRef
    #: Of its first record, for a partitioner.
    record_position: int
    held: HeldBlock


@dataclass(slots=True)
class HeldBlock:
    """A block that keeps its memory until all tickets of it are reported."""

    size_bytes: int
    ticket_count: int = 0


@dataclass(frozen=True, slots=True)
class FeedRead:
    """The last block of some partitions has been read."""

    indexes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Feed:
    """Some partitions of a task that share their segments, or one that shares them with none.

    Attributes:
        indexes: their places in the task.
        partitions: what is left of each.
    """

    indexes: tuple[int, ...]
    partitions: tuple[PartitionPlan, ...]

    def segments(self) -> Iterator[tuple[SegmentRef, Sequence[int]]]:
        """Each segment once, in the order of the source, and the places of the partitions that have it.

        Each partition's segments follow each other in the topic's own row, which may begin and end elsewhere for each.
        """
        if len(self.indexes) == 1:
            for reference in self.partitions[0].segments:
                yield reference, self.indexes
            return
        first = self.partitions[0]
        order = {source: number for number, source in enumerate(first.sources)}
        heads = dict.fromkeys(self.indexes, 0)
        rows = dict(zip(self.indexes, (one.segments for one in self.partitions), strict=True))
        places: dict[int, tuple[int, int]] = {}
        for reference in (one for row in rows.values() for one in row):
            if id(reference) not in places:
                places[id(reference)] = (order[source_of(reference)], reference.sequence)
        while True:
            left = [index for index in self.indexes if heads[index] < len(rows[index])]
            if not left:
                return
            following = min((rows[index][heads[index]] for index in left), key=lambda one: places[id(one)])
            wanted = [index for index in left if rows[index][heads[index]].key == following.key]
            for index in wanted:
                heads[index] += 1
            yield following, wanted


def feeds_of(partitions: Sequence[PartitionPlan]) -> list[Feed]:
    """A task's partitions, together where they share their segments."""
    shared: dict[str, list[int]] = {}
    found: list[Feed] = []
    for index, one in enumerate(partitions):
        if one.routing is None:
            found.append(Feed((index,), (one,)))
        else:
            shared.setdefault(one.target.topic, []).append(index)
    found.extend(Feed(tuple(some), tuple(partitions[index] for index in some)) for some in shared.values())
    return found


def window_of(partition: PartitionPlan, block: ReadyBlock, window: TimeWindow) -> RecordWindow:
    """Which of a block's records go to a partition."""
    routing = partition.routing
    return RecordWindow(
        offset_from=max(partition.begins_at(block.reference), partition.window_start),
        offset_to_exclusive=partition.window_end_exclusive,
        timestamp_from=window.start_ms,
        timestamp_to=window.end_ms,
        route=RecordRoute()
        if routing is None
        else RecordRoute(
            partitioner=routing.partitioner,
            partition_count=routing.partition_count,
            position=block.record_position,
        ),
    )
