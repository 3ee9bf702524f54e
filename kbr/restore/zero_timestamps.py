"""Finds records with timestamp 0 before a restore begins: librdkafka can't send them.

rdkafka.h, RD_KAFKA_V_TIMESTAMP: "a value of 0 will use the current wall-clock time". Only blocks whose
timestamps reach from 0 or below to 0 or above are read; in most backups there is none.
"""

from __future__ import annotations

from kbr.errors import PreflightRefused
from kbr.model import SegmentRef
from kbr.repository.segment_reader import SegmentReader
from kbr.restore.plan import RestorePlan
from kbr.restore.routing import source_of
from kbr.restore.window import TimeWindow
from kbr.storage import ObjectStore
from kbr_codec import decode_block

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
    for reference in plan.segments:
        offset = _first_zero(store, plan.backup_id, reference, max_block_bytes) if _ZERO.touches(reference) else None
        if offset is not None:
            source = source_of(reference)
            raise PreflightRefused(
                f"{source}: the record at offset {offset} has timestamp 0, which librdkafka sends as the time of sending",
                hint="set restore.zero_timestamp_as to the milliseconds to send instead, for example 1",
                topic=source.topic,
                partition=source.partition,
                offset=offset,
            )


def _first_zero(store: ObjectStore, backup_id: str, reference: SegmentRef, max_block_bytes: int) -> int | None:
    reader = SegmentReader(store, backup_id, reference, max_block_bytes=max_block_bytes)
    wanted = [entry for entry in reader.index().blocks if _ZERO.touches(entry)]
    for _entry, block in reader.read_blocks(wanted):
        for record in decode_block(block):
            if record.timestamp == 0:
                return record.offset
    return None
