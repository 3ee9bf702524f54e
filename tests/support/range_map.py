"""An offset map in memory, as plain as it can be: for plans, and to compare others with."""

from __future__ import annotations

from collections.abc import Sequence

from kbr.model import TopicPartition
from kbr.repository.offset_maps import OffsetRangeMap


class RangeMap:
    """A list of ranges."""

    def __init__(self, ranges: Sequence[OffsetRangeMap]) -> None:
        self._ranges = sorted(ranges, key=lambda one: (one.source, one.source_start))

    def first_at_or_after(self, source: TopicPartition, offset: int) -> list[tuple[TopicPartition, int]]:
        """As kbr.repository.offset_maps.OffsetMap."""
        found: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        for one in self._ranges:
            if one.source != source:
                continue
            if one.target not in found and offset < one.source_start + one.count:
                found[one.target] = one.target_start + max(0, offset - one.source_start)
            ends[one.target] = one.target_start + one.count
        return sorted({**ends, **found}.items())
