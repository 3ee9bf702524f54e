"""What a repartitioned restore sends to one target partition, addressed by position: PlanStream for such partitions."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator

from kbr.errors import CorruptSegment
from kbr.model import Record
from kbr.repository.open_segment import BlockSource, open_segment
from kbr.restore.lane_counts import LaneCounts, count_block, placed_blocks
from kbr.restore.plan import PartitionPlan
from kbr.restore.routing import source_of
from kbr.restore.stream import PlanStream, Tail, size_of
from kbr.restore.window import TimeWindow
from kbr.storage import ObjectStore
from kbr_codec import CodecError, decode_block, partition_of

__all__ = ["RoutedStream"]


class RoutedStream(PlanStream):
    """One target partition. Reads what it needs, and keeps one decoded block at most; one thread at a time.

    Args:
        partition: as the whole plan has it.
        counts: of its topic.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        partition: PartitionPlan,
        window: TimeWindow,
        counts: LaneCounts,
        *,
        max_block_bytes: int,
    ) -> None:
        super().__init__(store, backup_id, partition, window, max_block_bytes=max_block_bytes)
        if partition.routing is None:
            raise ValueError("a partition that is not spread over others")
        self._routing = partition.routing
        self._number = partition.target.partition
        self._lane_counts = counts

    def tail(self, count: int, *, max_records: int, max_bytes: int) -> Tail:
        """As PlanStream's."""
        total, are_all = self._lane_counts.count(self._number, count)
        is_all = are_all and total == count
        total = min(total, count)
        found: deque[Record] = deque()
        size = 0
        # records() would read on behind the last one that is asked for
        for position, record in self.records(max(0, total - max_records)) if total else ():
            found.append(record)
            size += size_of(record)
            while len(found) > 1 and size > max_bytes:
                size -= size_of(found.popleft())
            if position + 1 == total:
                break
        return Tail(
            total=total,
            first_position=total - len(found),
            records=list(found),
            source=self.source,
            is_all=is_all,
        )

    def records(self, position: int = 0) -> Iterator[tuple[int, Record]]:
        """As PlanStream's."""
        routing, window = self._routing, self._window.times
        first, at = self._lane_counts.before(self._number, position) if position else (0, 0)
        for reference in self._segments[first:]:
            reader = open_segment(
                self._store, self._backup_id, reference, max_block_bytes=self._max_block_bytes
            )
            for placed in placed_blocks(reader, reference, routing, window):
                ((_, data),) = reader.read_blocks([placed.entry])
                counts = array("q", bytes(8 * routing.partition_count))
                count_block(reader, placed, data, counts, routing, window)
                here = counts[self._number]
                if not here or at + here <= position:
                    at += here
                    continue
                self.source = source_of(reference)
                for number, record in enumerate(_decode(reader, data)):
                    if not window.start_ms <= record.timestamp <= window.end_ms:
                        continue
                    place = partition_of(
                        record.key,
                        partitioner=routing.partitioner,
                        count=routing.partition_count,
                        position=placed.position + number,
                    )
                    if place != self._number:
                        continue
                    if at >= position:
                        yield at, record
                    at += 1


def _decode(reader: BlockSource, data: bytes) -> list[Record]:
    try:
        return decode_block(data)
    except CodecError as error:
        raise CorruptSegment(
            f"{reader.key}: a block can't be decoded: {error}",
            hint="run kbr verify --deep on this backup",
            object=reader.key,
        ) from error
