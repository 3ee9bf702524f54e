"""One target partition's part of a restore: which records go to it, and what is left of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kbr.model import SegmentRef, TopicPartition
from kbr.repository.window import MAX_OFFSET, TimeWindow, Window
from kbr.restore.routing import Routing, source_of

__all__ = ["PartitionPlan"]


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
    #: Source offsets that are to be restored at all, whatever is in the target; of several sources all.
    window_start: int = 0
    window_end_exclusive: int = MAX_OFFSET

    def window(self, times: TimeWindow) -> Window:
        """The records that are to be restored, of those within ``times``."""
        return Window(times=times, start_offset=self.window_start, end_offset_exclusive=self.window_end_exclusive)

    @property
    def has_offset_window(self) -> bool:
        """Whether not all offsets are to be restored."""
        return self.window_start > 0 or self.window_end_exclusive != MAX_OFFSET

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
