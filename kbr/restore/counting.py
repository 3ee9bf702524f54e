"""Counts what a plan will read, from the manifest and the indexes where only a part of a segment is sent."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.format.documents import Manifest
from kbr.model import SegmentRef
from kbr.repository.window import Window
from kbr.restore.chosen import chosen_blocks
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.storage import ObjectStore

__all__ = ["PlanCounts", "count_plan"]


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


def count_plan(
    store: ObjectStore, plan: RestorePlan, *, max_block_bytes: int, manifest: Manifest | None = None
) -> PlanCounts:
    """Blocks and records of what is left of a plan.

    Args:
        manifest: the plan's, so that the backup's block index is used if there is one.

    Raises:
        KbrError: an index can't be read.
    """
    windows = [(one, one.window(plan.window)) for one in plan.partitions]
    pairs = [(one, window, ref) for one, window in windows for ref in one.segments]

    def is_whole(one: PartitionPlan, window: Window, ref: SegmentRef) -> bool:
        return window.covers(ref) and ref.start_offset >= one.offset_from

    # another tool's has to be decompressed to know its blocks: an upper bound is enough for a plan
    whole = [pair[2] for pair in pairs if pair[2].is_foreign or is_whole(*pair)]
    cut = [(one, ref) for one, window, ref in pairs if not (ref.is_foreign or is_whole(one, window, ref))]
    blocks = records = raw_bytes = stored_bytes = 0
    exact = all(is_whole(*pair) for pair in pairs if pair[2].is_foreign)
    chosen = chosen_blocks(store, plan, cut, manifest=manifest, max_block_bytes=max_block_bytes)
    for (one, _ref), wanted in chosen:
        window = one.window(plan.window)
        blocks += len(wanted)
        for entry in wanted:
            records += entry.record_count
            raw_bytes += entry.raw_bytes
            stored_bytes += entry.stored_bytes
            exact = exact and window.covers(entry) and entry.first_offset >= one.offset_from
    return PlanCounts(
        segments=len(pairs),
        blocks=sum(ref.block_count for ref in whole) + blocks,
        records=sum(ref.record_count for ref in whole) + records,
        raw_bytes=sum(ref.raw_bytes for ref in whole) + raw_bytes,
        stored_bytes=sum(ref.stored_bytes for ref in whole) + stored_bytes,
        exact=exact,
    )
