"""Counts what a plan will read, from the manifest and the indexes of segments that only a part of is sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kbr.model import SegmentRef
from kbr.repository.segment_reader import SegmentReader
from kbr.restore.plan import RestorePlan
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
    window = plan.window
    pairs = [(one.begins_at(ref), ref) for one in plan.partitions if one.routing is None for ref in one.segments]
    pairs += _shared(plan)

    def is_whole(begin: int, ref: SegmentRef) -> bool:
        return window.covers(ref) and ref.start_offset >= begin

    whole = [ref for begin, ref in pairs if is_whole(begin, ref)]
    cut = [(begin, ref) for begin, ref in pairs if not is_whole(begin, ref)]

    def wanted(pair: tuple[int, SegmentRef]) -> list[tuple[int, int, int, bool]]:
        begin, reference = pair
        reader = SegmentReader(store, plan.backup_id, reference, max_block_bytes=max_block_bytes)
        return [
            (
                entry.record_count,
                entry.raw_bytes,
                entry.stored_bytes,
                window.covers(entry) and entry.first_offset >= begin,
            )
            for entry in reader.index().blocks
            if window.touches(entry) and entry.last_offset >= begin
        ]

    with ThreadPoolExecutor(INDEX_READERS) as pool:
        entries = [entry for some in pool.map(wanted, cut) for entry in some]
    return PlanCounts(
        segments=len(pairs),
        blocks=sum(ref.block_count for ref in whole) + len(entries),
        records=sum(ref.record_count for ref in whole) + sum(entry[0] for entry in entries),
        raw_bytes=sum(ref.raw_bytes for ref in whole) + sum(entry[1] for entry in entries),
        stored_bytes=sum(ref.stored_bytes for ref in whole) + sum(entry[2] for entry in entries),
        exact=all(entry[3] for entry in entries) and not any(one.offset_from for one in plan.partitions if one.routing),
    )


def _shared(plan: RestorePlan) -> list[tuple[int, SegmentRef]]:
    """Segments that several target partitions get records of, each once, from where the first of them goes on."""
    found: dict[str, tuple[int, SegmentRef]] = {}
    seen: set[tuple[int, int]] = set()
    for one in plan.partitions:
        if one.routing is None or (id(one.segments), one.offset_from) in seen:
            continue
        seen.add((id(one.segments), one.offset_from))
        for ref in one.segments:
            begin = one.begins_at(ref)
            if ref.key not in found or begin < found[ref.key][0]:
                found[ref.key] = (begin, ref)
    return list(found.values())
