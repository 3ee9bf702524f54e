"""How many records of a repartitioned topic go to each target partition, up to where: found by one pass over the topic.

Where the n-th record of a target partition lies in the backup can't be told without hashing every key before it. So the
first question reads the topic once, for all of its target partitions, and keeps a row of counts now and then.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kbr.errors import CorruptSegment, IntegrityError, Interrupted
from kbr.format.segment import BlockEntry
from kbr.model import SegmentRef
from kbr.repository.open_segment import BlockSource, open_segment, side_by_side
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.restore.routing import Routing
from kbr.restore.window import TimeWindow
from kbr.storage import ObjectStore
from kbr_codec import CodecError, count_routes

__all__ = ["AllLaneCounts", "LaneCounts", "Placed", "count_block", "placed_blocks"]

#: Threads that read; each holds a block, and of another tool's segments more: then they are fewer.
READERS = 4
#: Counts that are kept of one topic, in all rows together: 8 MiB.
MAX_KEPT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Placed:
    """A block of a segment that may hold records of the window, and the position of its first record."""

    entry: BlockEntry
    position: int


def placed_blocks(reader: BlockSource, reference: SegmentRef, routing: Routing, window: TimeWindow) -> list[Placed]:
    """The blocks of a segment that count, in order."""
    found = []
    position = routing.positions[reference.key]
    for entry in reader.index().blocks:
        if window.touches(entry):
            found.append(Placed(entry, position))
        position += entry.record_count
    return found


def count_block(
    reader: BlockSource, placed: Placed, data: bytes, counts: array[int], routing: Routing, window: TimeWindow
) -> None:
    """Add a block's records to the counts of their target partitions.

    Raises:
        CorruptSegment: it is none, or has not as many records as the index says: all behind it would go elsewhere.
    """
    try:
        found = count_routes(
            data,
            counts,
            partitioner=routing.partitioner,
            count=routing.partition_count,
            position=placed.position,
            timestamp_from=window.start_ms,
            timestamp_to=window.end_ms,
        )
    except CodecError as error:
        raise _corrupt(reader, placed.entry, f"can't be decoded: {error}") from error
    if found != placed.entry.record_count:
        raise _corrupt(reader, placed.entry, f"has {found} records, the index says {placed.entry.record_count}")


def _corrupt(reader: BlockSource, entry: BlockEntry, what: str) -> CorruptSegment:
    return CorruptSegment(
        f"{reader.key}: the block at byte {entry.position} {what}",
        hint="run kbr verify --deep on this backup",
        object=reader.key,
        position=entry.position,
    )


class LaneCounts:
    """Of one repartitioned topic. For several threads; the first one that asks reads.

    Args:
        segments: of all its sources, in order.
        stopped: whether the run is to end.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        segments: tuple[SegmentRef, ...],
        routing: Routing,
        window: TimeWindow,
        *,
        max_block_bytes: int,
        stopped: Callable[[], bool],
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._segments = segments
        self._routing = routing
        self._window = window
        self._max_block_bytes = max_block_bytes
        self._stopped = stopped
        self._lock = threading.Lock()
        #: Why the rows end early: a segment that can't be read, before which the restore may end.
        self._error: IntegrityError | None = None
        #: Records before each ``_stride``-th segment, and in all, by target partition; empty until somebody asks.
        self._rows: list[array[int]] = []
        self._stride = 1 + len(segments) * routing.partition_count // MAX_KEPT

    def count(self, number: int, wanted: int) -> tuple[int, bool]:
        """The records of a target partition, as far as they could be counted, and whether these are all.

        Args:
            wanted: how many are asked for.

        Raises:
            IntegrityError: the backup is damaged, or a segment is missing, before so many were found.
            StorageError: it can't be read.
            Interrupted: the run is to end.
        """
        found = self._counted()[-1][number]
        if self._error is not None and found < wanted:
            raise self._error
        return found, self._error is None

    def before(self, number: int, position: int) -> tuple[int, int]:
        """A segment to begin at to find the record at a position, and how many records lie before that segment.

        Args:
            number: the target partition.
            position: of one of its records, from 0 on.
        """
        rows = self._counted()
        row = bisect_left(rows, position + 1, key=lambda one: one[number]) - 1
        return max(0, row) * self._stride, rows[max(0, row)][number]

    def _counted(self) -> list[array[int]]:
        with self._lock:
            if not self._rows:
                self._rows = self._count()
            return self._rows

    def _count(self) -> list[array[int]]:
        running = array("q", bytes(8 * self._routing.partition_count))
        rows = [array("q", running)]
        stride = self._stride
        strides = [self._segments[at : at + stride] for at in range(0, len(self._segments), stride)]
        readers = side_by_side(self._segments, READERS)
        with ThreadPoolExecutor(readers, thread_name_prefix="counts") as pool:
            for at in range(0, len(strides), readers):
                for counts in pool.map(self._count_some, strides[at : at + readers]):
                    if isinstance(counts, IntegrityError):
                        self._error = counts
                        return rows
                    for number, count in enumerate(counts):
                        running[number] += count
                    rows.append(array("q", running))
        return rows

    def _count_some(self, segments: tuple[SegmentRef, ...]) -> array[int] | IntegrityError:
        try:
            return self._count_all(segments)
        except IntegrityError as error:
            return error

    def _count_all(self, segments: tuple[SegmentRef, ...]) -> array[int]:
        counts = array("q", bytes(8 * self._routing.partition_count))
        for reference in segments:
            if self._stopped():
                raise Interrupted("interrupted while the backup's records were counted")
            reader = open_segment(
                self._store, self._backup_id, reference, max_block_bytes=self._max_block_bytes
            )
            placed = placed_blocks(reader, reference, self._routing, self._window)
            for one, (_, data) in zip(placed, reader.read_blocks([one.entry for one in placed]), strict=True):
                count_block(reader, one, data, counts, self._routing, self._window)
        return counts


class AllLaneCounts:
    """Those of a run's topics, each counted once."""

    def __init__(self, store: ObjectStore, *, max_block_bytes: int, stopped: Callable[[], bool]) -> None:
        self._store = store
        self._max_block_bytes = max_block_bytes
        self._stopped = stopped
        self._lock = threading.Lock()
        self._found: dict[str, LaneCounts] = {}

    def of(self, plan: RestorePlan, partition: PartitionPlan) -> LaneCounts:
        """The counts of a partition's target topic.

        Args:
            plan: the whole one.
            partition: as that has it.
        """
        assert partition.routing is not None  # noqa: S101  (others have no lanes)
        with self._lock:
            name = partition.target.topic
            if name not in self._found:
                self._found[name] = LaneCounts(
                    self._store,
                    plan.backup_id,
                    partition.segments,
                    partition.routing,
                    plan.window,
                    max_block_bytes=self._max_block_bytes,
                    stopped=self._stopped,
                )
            return self._found[name]
