"""Which of a task's partitions read the same segments: those are read once for all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbr.model import SegmentRef
from kbr.restore.plan import PartitionPlan
from kbr.restore.routing import source_of

__all__ = ["Feed", "feeds_of"]


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
