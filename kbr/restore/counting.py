"""Counts what a plan will read, from the manifest and the indexes of segments that only a part of is sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kbr.model import SegmentRef
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.window import Window
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.storage import ObjectStore

__all__ = ["PlanCounts", "count_plan"]

#: Threads that read segment indexes.
INDEX_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """What a plan will read, exact for whole segments; for those that are cut by their blocks.

    ``records`` is an upper bound when ``exact`` is False: blocks on an edge hold others too.
    """

    segments: int
    blocks: int
    records: int
    raw_bytes: int
    stored_bytes: int
    exact: bool


def count_plan(store: ObjectStore, plan: RestorePlan, *, max_block_bytes: int) -> PlanCounts:
    """Blocks and records of what is left of a plan.

    Raises:
        KbrError: an index can't be read.
    """
    windows = [(one, one.window(plan.window)) for one in plan.partitions]
    pairs = [(one, window, ref) for one, window in windows for ref in one.segments]

    def is_whole(one: PartitionPlan, window: Window, ref: SegmentRef) -> bool:
        return window.covers(ref) and ref.start_offset >= one.offset_from

    # another tool's has to be decompressed to know its blocks: an upper bound is enough for a plan
    whole = [pair[2] for pair in pairs if pair[2].is_foreign or is_whole(*pair)]
    cut = [pair for pair in pairs if not (pair[2].is_foreign or is_whole(*pair))]

    def wanted(pair: tuple[PartitionPlan, Window, SegmentRef]) -> list[tuple[int, int, int, bool]]:
        one, window, reference = pair
        reader = SegmentReader(store, plan.backup_id, reference, max_block_bytes=max_block_bytes)
        return [
            (
                entry.record_count,
                entry.raw_bytes,
                entry.stored_bytes,
                window.covers(entry) and entry.first_offset >= one.offset_from,
            )
            for entry in reader.index().blocks
            if window.touches(entry) and entry.last_offset >= one.offset_from
        ]

    with ThreadPoolExecutor(INDEX_READERS) as pool:
        entries = [entry for some in pool.map(wanted, cut) for entry in some]
    return PlanCounts(
        segments=len(pairs),
        blocks=sum(ref.block_count for ref in whole) + len(entries),
        records=sum(ref.record_count for ref in whole) + sum(entry[0] for entry in entries),
        raw_bytes=sum(ref.raw_bytes for ref in whole) + sum(entry[1] for entry in entries),
        stored_bytes=sum(ref.stored_bytes for ref in whole) + sum(entry[2] for entry in entries),
        exact=all(entry[3] for entry in entries) and all(is_whole(*pair) for pair in pairs if pair[2].is_foreign),
    )
