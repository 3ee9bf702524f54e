"""Finds records with timestamp 0 before a restore begins: librdkafka can't send them.

rdkafka.h, RD_KAFKA_V_TIMESTAMP: "a value of 0 will use the current wall-clock time". Only blocks whose
timestamps reach from 0 or below to 0 or above are read; in most backups there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from kbr.errors import PreflightRefused
from kbr.format.blocks import decode_records
from kbr.model import SegmentRef
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.window import TimeWindow, Window
from kbr.restore.plan import RestorePlan
from kbr.restore.routing import source_of
from kbr.storage import ObjectStore

__all__ = ["refuse_zero_timestamps"]

_ZERO = TimeWindow(start_ms=0, end_ms=0)


def refuse_zero_timestamps(store: ObjectStore, plan: RestorePlan, *, max_block_bytes: int) -> None:
    """Read what may hold such a record.

    Raises:
        PreflightRefused: one is in the plan's window; names the first.
        CorruptSegment: a block that had to be looked at is damaged.
    """
    if not plan.window.start_ms <= 0 <= plan.window.end_ms:
        return
    for reference, window in _looked_at(plan):
        offset = _first_zero(store, plan.backup_id, reference, window, max_block_bytes)
        if offset is not None:
            source = source_of(reference)
            raise PreflightRefused(
                f"{source}: the record at offset {offset} has timestamp 0, which librdkafka sends as the time of sending",
                hint="set restore.zero_timestamp_as to the milliseconds to send instead, for example 1",
                topic=source.topic,
                partition=source.partition,
                offset=offset,
            )


def _looked_at(plan: RestorePlan) -> Iterator[tuple[SegmentRef, Window]]:
    """Each segment once, and where in it such a record counts."""
    seen: set[str] = set()
    for partition in plan.partitions:
        window = partition.window(_ZERO)
        for reference in partition.segments:
            # another tool's manifest does not tell where they can be: there the producer refuses them
            if reference.is_foreign or reference.key in seen:
                continue
            if partition.routing is not None:
                seen.add(reference.key)
            yield reference, window


def _first_zero(
    store: ObjectStore, backup_id: str, reference: SegmentRef, window: Window, max_block_bytes: int
) -> int | None:
    if not window.touches(reference):
        return None
    reader = SegmentReader(store, backup_id, reference, max_block_bytes=max_block_bytes)
    wanted = [entry for entry in reader.index().blocks if window.touches(entry)]
    for entry, block in reader.read_blocks(wanted):
        for record in window.records(decode_records(block, name=reader.key, position=entry.position)):
            return record.offset
    return None
