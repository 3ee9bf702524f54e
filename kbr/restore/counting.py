"""Counts what a plan will read, from the manifest and the indexes where only a part of a segment is sent."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.format.documents import Manifest
from kbr.restore.chosen import Cut, chosen_blocks
from kbr.restore.plan import RestorePlan
from kbr.restore.routing import source_of
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
    cuts = [
        Cut(one.source if not one.sources else source_of(ref), ref, one.begins_at(ref), one.window(plan.window))
        for one in plan.partitions
        if one.routing is None
        for ref in one.segments
    ]
    cuts += _shared(plan)
    # another tool's has to be decompressed to know its blocks: an upper bound is enough for a plan
    whole = [one.reference for one in cuts if one.reference.is_foreign or one.is_whole]
    parts = [one for one in cuts if not (one.reference.is_foreign or one.is_whole)]
    blocks = records = raw_bytes = stored_bytes = 0
    exact = all(one.is_whole for one in cuts if one.reference.is_foreign)
    for cut, wanted in chosen_blocks(store, plan, parts, manifest=manifest, max_block_bytes=max_block_bytes):
        blocks += len(wanted)
        for entry in wanted:
            records += entry.record_count
            raw_bytes += entry.raw_bytes
            stored_bytes += entry.stored_bytes
            exact = exact and cut.window.covers(entry) and entry.first_offset >= cut.begin
    return PlanCounts(
        segments=len(cuts),
        blocks=sum(ref.block_count for ref in whole) + blocks,
        records=sum(ref.record_count for ref in whole) + records,
        raw_bytes=sum(ref.raw_bytes for ref in whole) + raw_bytes,
        stored_bytes=sum(ref.stored_bytes for ref in whole) + stored_bytes,
        exact=exact and not any(one.offset_from for one in plan.partitions if one.routing),
    )


def _shared(plan: RestorePlan) -> list[Cut]:
    """Segments that several target partitions get records of, each once, from where the first of them goes on."""
    found: dict[str, Cut] = {}
    seen: set[tuple[int, int]] = set()
    for one in plan.partitions:
        if one.routing is None or (id(one.segments), one.offset_from) in seen:
            continue
        seen.add((id(one.segments), one.offset_from))
        window = one.window(plan.window)
        for ref in one.segments:
            begin = one.begins_at(ref)
            if ref.key not in found or begin < found[ref.key].begin:
                found[ref.key] = Cut(source_of(ref), ref, begin, window)
    return list(found.values())
