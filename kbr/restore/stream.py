"""A partition's records as a restore sends them, addressed by their position: the first is 0, holes don't count.

A non-transactional producer leaves no holes, so the record at position n becomes the target's offset base + n. Counts
come from the manifest and from segments' indexes; only blocks that the time window cuts are decoded to be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbr.errors import CorruptSegment
from kbr.format.segment import BlockEntry
from kbr.model import Record, SegmentRef, TopicPartition
from kbr.repository.open_segment import BlockSource, open_segment
from kbr.restore.plan import PartitionPlan
from kbr.restore.routing import source_of
from kbr.restore.window import TimeWindow
from kbr.storage import ObjectStore
from kbr_codec import CodecError, decode_block

__all__ = ["PlanStream", "Tail", "size_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of a partition's first records.

    Attributes:
        total: how many the plan has, if that is less than was asked for, and else what was asked for.
        first_position: of ``records``.
        records: the last ones, in order.
        source: where the partition has several sources, the one of the last record.
        is_all: the last one is known to be the plan's last.
    """

    total: int
    first_position: int
    records: Sequence[Record]
    source: TopicPartition | None = None
    is_all: bool = False


class PlanStream:
    """One partition of a plan. Reads what it needs, and keeps one decoded block at most; one thread at a time."""

    def __init__(
        self, store: ObjectStore, backup_id: str, partition: PartitionPlan, window: TimeWindow, *, max_block_bytes: int
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._segments = partition.segments
        self._is_mixed = bool(partition.sources)
        #: Of several sources, the one of the record that records() gave last.
        self.source: TopicPartition | None = None
        self._window = partition.window(window)
        self._max_block_bytes = max_block_bytes
        self._counts: dict[int, int] = {}
        self._last: tuple[int, BlockSource, list[BlockEntry]] | None = None

    def tail(self, count: int, *, max_records: int, max_bytes: int) -> Tail:
        """The last of the first ``count`` records: at most ``max_records``, and about ``max_bytes``, but at least one.

        Raises:
            IntegrityError: the backup is damaged there.
            StorageError: it can't be read.
        """
        ends: list[int] = []
        total = 0
        for number in range(len(self._segments)):
            if total >= count:
                break
            total += self._segment_count(number)
            ends.append(total)
        total = min(total, count)
        source = source_of(self._segments[len(ends) - 1]) if self._is_mixed and ends else None
        found: list[Record] = []
        size = 0
        for number in range(len(ends) - 1, -1, -1):
            start = ends[number - 1] if number else 0
            surplus = max(0, ends[number] - total)
            for records in self._blocks_backwards(number):
                for record in reversed(records):
                    if surplus:
                        surplus -= 1
                        continue
                    size += size_of(record)
                    if found and (len(found) == max_records or size > max_bytes):
                        return Tail(
                            total=total, first_position=total - len(found), records=found[::-1], source=source
                        )
                    found.append(record)
            if total - len(found) != start:
                raise AssertionError("a segment's records are not as many as were counted")
        return Tail(total=total, first_position=total - len(found), records=found[::-1], source=source)

    def records(self, position: int = 0) -> Iterator[tuple[int, Record]]:
        """Every record from ``position`` on, with its position; one block in memory at a time.

        Raises:
            IntegrityError: the backup is damaged there.
            StorageError: it can't be read.
        """
        at = 0
        for number in range(len(self._segments)):
            if self._window.covers(self._segments[number]) and at + self._segments[number].record_count <= position:
                at += self._segments[number].record_count
                continue
            reader, entries = self._open(number)
            self.source = source_of(self._segments[number]) if self._is_mixed else None
            for entry in entries:
                if self._window.covers(entry) and at + entry.record_count <= position:
                    at += entry.record_count
                    continue
                for record in self._decode(reader, entry):
                    if at >= position:
                        yield at, record
                    at += 1

    def _segment_count(self, number: int) -> int:
        reference = self._segments[number]
        if self._window.covers(reference):
            return reference.record_count
        if number not in self._counts:
            reader, entries = self._open(number)
            self._counts[number] = sum(
                entry.record_count if self._window.covers(entry) else len(self._decode(reader, entry))
                for entry in entries
            )
        return self._counts[number]

    def _blocks_backwards(self, number: int) -> Iterator[Sequence[Record]]:
        reader, entries = self._open(number)
        for entry in reversed(entries):
            yield self._decode(reader, entry)

    def _open(self, number: int) -> tuple[BlockSource, list[BlockEntry]]:
        if self._last is None or self._last[0] != number:
            reference: SegmentRef = self._segments[number]
            reader = open_segment(self._store, self._backup_id, reference, max_block_bytes=self._max_block_bytes)
            entries = [entry for entry in reader.index().blocks if self._window.touches(entry)]
            self._last = (number, reader, entries)
        return self._last[1], self._last[2]

    def _decode(self, reader: BlockSource, entry: BlockEntry) -> Sequence[Record]:
        """A block's records that lie in the window."""
        ((_, block),) = reader.read_blocks([entry])
        try:
            records = decode_block(block)
        except CodecError as error:
            raise CorruptSegment(
                f"{reader.key}: the block at byte {entry.position} can't be decoded: {error}",
                hint="run kbr verify --deep on this backup",
                object=reader.key,
                position=entry.position,
            ) from error
        window = self._window
        if window.covers(entry):
            if len(records) != entry.record_count:
                raise CorruptSegment(
                    f"{reader.key}: the block at byte {entry.position} has {len(records)} records, the index says "
                    f"{entry.record_count}",
                    hint="run kbr verify --deep on this backup",
                    object=reader.key,
                    position=entry.position,
                )
            return records
        return window.records(records)


def size_of(record: Record) -> int:
    """Bytes of key, value and headers."""
    size = len(record.key or b"") + len(record.value or b"")
    return size + sum(len(name) + len(value or b"") for name, value in record.headers)
