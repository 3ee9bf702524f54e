"""Bounded ranges of many partitions read as records, uncommitted ones too: what a restore compares with.

Through the same source as a backup, so that a record is seen as exactly as it was archived. A few thousand partitions
share one client; what is held at a time is bounded by the source's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kbr.errors import ClusterUnavailable
from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import FetchedBlock, PartitionEnded, PartitionSource, SourceOptions
from kbr.model import OffsetRange, Record, TopicPartition
from kbr.telemetry.events import ClientMessage
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline
from kbr_codec import decode_block

__all__ = ["RangeEnded", "RangeRecords", "read_ranges"]

#: Fetched records of all partitions that wait, bytes.
MEMORY_BYTES = 32 << 20
#: A partition's records are handed on in pieces of about this size, bytes.
BLOCK_BYTES = 256 << 10
OPEN_BYTES = 16 << 20
POLL_MS = 100


@dataclass(frozen=True, slots=True)
class RangeRecords:
    """Some records of the range at ``index``, in order."""

    index: int
    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class RangeEnded:
    """The range at ``index`` has no more records."""

    index: int


def read_ranges(
    settings: ClientSettings,
    ranges: Sequence[tuple[TopicPartition, OffsetRange]],
    *,
    deadline_s: float,
    on_client_message: Callable[[ClientMessage], None],
    on_poll: Callable[[], None],
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[RangeRecords | RangeEnded]:
    """Read ranges; those of different partitions come mixed, each partition's in order.

    Args:
        deadline_s: how long nothing may come at all, seconds.
        on_client_message: gets librdkafka's lines.
        on_poll: called ten times a second while nothing comes; what it raises ends the reading.

    Raises:
        ClusterUnavailable: nothing came for ``deadline_s``.
        KbrError: a partition can't be read (OffsetOutOfRange: its log begins later by now).
    """
    options = SourceOptions(
        memory_bytes=MEMORY_BYTES, block_bytes=BLOCK_BYTES, open_bytes=OPEN_BYTES, isolation_level="read_uncommitted"
    )
    open_indexes = {index for index, (_partition, offsets) in enumerate(ranges) if not offsets.is_empty}
    for index in range(len(ranges)):
        if index not in open_indexes:
            yield RangeEnded(index)
    if not open_indexes:
        return
    with PartitionSource(settings, options, on_client_message=on_client_message) as source:
        source.start(ranges)
        deadline = Deadline(deadline_s, clock=clock)
        while open_indexes:
            on_poll()
            events = source.poll(POLL_MS)
            if events:
                deadline = Deadline(deadline_s, clock=clock)
            elif deadline.passed:
                waiting = ranges[min(open_indexes)][0]
                raise ClusterUnavailable(
                    f"reading {waiting}: nothing came for {deadline_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                )
            for event in events:
                if isinstance(event, FetchedBlock):
                    yield RangeRecords(event.index, decode_block(memoryview(event.block)))
                elif isinstance(event, PartitionEnded):
                    open_indexes.discard(event.index)
                    yield RangeEnded(event.index)
                else:
                    raise event.error
