"""Writes a restore's offset mapping: where each record that was restored lies in the target.

The record at position n of a partition's plan is at the target offset base + n, so the mapping follows from the
manifest and the segments' indexes; only blocks with holes, and those that the time window cuts, are read for their
offsets. Memory is bounded, however many records and holes there are.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from kbr import __version__
from kbr.errors import CorruptSegment, IntegrityError
from kbr.format.segment import BlockEntry
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.offset_maps import new_offset_map
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.window import TimeWindow, Window
from kbr.restore.lane_counts import Placed, placed_blocks
from kbr.restore.plan import PartitionPlan
from kbr.restore.routing import Routing, source_of
from kbr.storage import ObjectStore
from kbr_codec import CodecError, offset_ranges, route_ranges

if TYPE_CHECKING:  # pyarrow takes half a second to import
    from kbr.format.offset_map import OffsetMapWriter

__all__ = ["MappedPartition", "OffsetMapping"]

#: Threads that read indexes and blocks.
READERS = 8
#: Most bytes of blocks and their ranges under way, but for a single block that needs more: with 12 MiB the mapping of 100
#: million ranges grows the process by 49 MB, with 8 by 45 (python -m benchmarks offsets).
AHEAD_BYTES = 8 * 1024 * 1024
#: Segments up to this size are read whole, by one job, bytes; a larger one's blocks are jobs of their own.
SMALL_BYTES = 512 * 1024
#: A range takes two numbers.
_RANGE_BYTES = 16

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPartition:
    """A partition whose records are all in the target.

    Attributes:
        plan: all of it, as if nothing had been there before.
        base: target offset of its first record.
        record_count: how many there are.
    """

    plan: PartitionPlan
    base: int
    record_count: int


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Source offsets, as kbr_codec.offset_ranges gives them."""

    starts: bytes
    counts: bytes

    def within(self, start: int, end_exclusive: int) -> _Ranges:
        """What of them lies there; only the first and the last of those can be cut."""
        starts, counts = memoryview(self.starts).cast("q"), memoryview(self.counts).cast("q")
        first = bisect_right(starts, start) - 1
        if first < 0 or starts[first] + counts[first] <= start:
            first += 1
        last = bisect_left(starts, end_exclusive)
        if first >= last:
            return _Ranges(b"", b"")
        if first == 0 and last == len(starts) and starts[0] >= start and starts[-1] + counts[-1] <= end_exclusive:
            return self
        left = bytearray(starts[first:last].cast("B")), bytearray(counts[first:last].cast("B"))
        with memoryview(left[0]).cast("q") as cut_starts, memoryview(left[1]).cast("q") as cut_counts:
            cut = max(0, start - cut_starts[0])
            cut_starts[0] += cut
            cut_counts[0] -= cut
            cut_counts[-1] -= max(0, cut_starts[-1] + cut_counts[-1] - end_exclusive)
        return _Ranges(bytes(left[0]), bytes(left[1]))


@dataclass(frozen=True, slots=True)
class _Routes:
    """Source offsets and target partitions, as kbr_codec.route_ranges gives them."""

    starts: bytes
    counts: bytes
    partitions: bytes


@dataclass(frozen=True, slots=True)
class _Job(Generic[_T]):
    """Something that is there already, or has to be fetched and takes so much memory meanwhile."""

    fetch: Callable[[], _T]
    cost_bytes: int

    @classmethod
    def done(cls, value: _T) -> _Job[_T]:
        return cls(lambda: value, 0)


class OffsetMapping:
    """The mapping of one restore.

    Args:
        stopped: whether somebody wants the run to end.
    """

    def __init__(
        self, store: ObjectStore, backup_id: str, window: TimeWindow, *, max_block_bytes: int, stopped: Callable[[], bool]
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._window = window
        self._max_block_bytes = max_block_bytes
        self._stopped = stopped

    def write(
        self, restore_id: str, cluster_id: str, partitions: Iterable[MappedPartition], *, created_at_ms: int
    ) -> bool:
        """Write the mapping of all partitions, in place of an older one.

        Returns:
            False when it was stopped; nothing is written then.

        Raises:
            IntegrityError: the backup is damaged, or its records are not as many as were sent.
            StorageError: the store failed.
        """
        from kbr.format.offset_map import OffsetMapHeader  # pyarrow takes a tenth of a second to import, and 30 MB

        header = OffsetMapHeader(
            kbr_version=__version__,
            backup_id=self._backup_id,
            restore_id=restore_id,
            cluster_id=cluster_id,
            created_at_ms=created_at_ms,
        )
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="offsets") as pool, new_offset_map(
                self._store, header
            ) as writer:
                done = list(partitions)
                ends = {one.plan.target: one.base for one in done}
                # by source, as the writer wants them; where sources meet in a target, that is also their order there
                for source, plan, segments in sorted(_by_source(done), key=lambda one: one[0]):
                    if plan.routing is not None:
                        self._spread(pool, writer, source, plan, segments, ends)
                        continue
                    end = ends[plan.target]
                    for ranges in self._ranges(pool, plan, segments):
                        if self._stopped():
                            raise _StoppedError
                        end = writer.add(source, plan.target, end, ranges.starts, ranges.counts)
                    ends[plan.target] = end
                for one in done:
                    _check_count(one, ends[one.plan.target] - one.base)
        except _StoppedError:
            return False
        return True

    def _spread(
        self,
        pool: ThreadPoolExecutor,
        writer: OffsetMapWriter,
        source: TopicPartition,
        plan: PartitionPlan,
        segments: Iterable[SegmentRef],
        ends: dict[TopicPartition, int],
    ) -> None:
        """A source partition whose records go to several partitions; every block is read for its keys."""
        routing, topic = plan.routing, plan.target.topic
        if routing is None:
            raise ValueError("a partition that is not spread over others")
        places = {
            number: ends[TopicPartition(topic, number)]
            for number in range(routing.partition_count)
            if TopicPartition(topic, number) in ends
        }

        def part(reference: SegmentRef) -> _Job[list[_Job[_Routes]]]:
            return _Job(partial(self._route_jobs, reference, routing), SMALL_BYTES)

        parts = _in_order(pool, map(part, segments))
        for routes in _in_order(pool, (job for jobs in parts for job in jobs)):
            if self._stopped():
                raise _StoppedError
            writer.add_spread(source, topic, places, routes.starts, routes.counts, routes.partitions)
        ends.update((TopicPartition(topic, number), end) for number, end in places.items())

    def _route_jobs(self, reference: SegmentRef, routing: Routing) -> list[_Job[_Routes]]:
        placed = placed_blocks(self._reader(reference), reference, routing, self._window)
        return [
            _Job(partial(self._routes, self._reader(reference), one, routing), _cost_bytes(one.entry)) for one in placed
        ]

    def _routes(self, reader: SegmentReader, placed: Placed, routing: Routing) -> _Routes:
        ((_, block),) = reader.read_blocks([placed.entry])
        try:
            return _Routes(
                *route_ranges(
                    block,
                    partitioner=routing.partitioner,
                    count=routing.partition_count,
                    position=placed.position,
                    timestamp_from=self._window.start_ms,
                    timestamp_to=self._window.end_ms,
                )
            )
        except CodecError as error:
            raise _corrupt(reader, placed.entry, f"can't be decoded: {error}") from error

    def _ranges(
        self, pool: ThreadPoolExecutor, plan: PartitionPlan, segments: Iterable[SegmentRef]
    ) -> Iterator[_Ranges]:
        """A partition's ranges in order; nothing else is read than what has holes or is cut by the window."""
        parts = _in_order(pool, map(partial(self._part, plan.window(self._window)), segments))
        return _in_order(pool, (job for jobs in parts for job in jobs))

    def _part(self, window: Window, reference: SegmentRef) -> _Job[list[_Job[_Ranges]]]:
        """The jobs that a segment takes."""
        span = reference.end_offset - reference.start_offset + 1
        if window.covers(reference) and reference.record_count == span:
            return _Job.done([_Job.done(_one_range(reference.start_offset, span))])
        return _Job(partial(self._blocks, window, reference), SMALL_BYTES)

    def _blocks(self, window: Window, reference: SegmentRef) -> list[_Job[_Ranges]]:
        reader = self._reader(reference)
        entries = [entry for entry in reader.index().blocks if window.touches(entry)]
        if reference.raw_bytes + _RANGE_BYTES * reference.record_count <= SMALL_BYTES:
            return [_Job.done(self._of_block(window, reader, entry)) for entry in entries]
        return [
            _Job.done(_one_range(entry.first_offset, entry.record_count))
            if _is_dense(window, entry)
            else _Job(partial(self._of_block, window, self._reader(reference), entry), _cost_bytes(entry))
            for entry in entries
        ]

    def _reader(self, reference: SegmentRef) -> SegmentReader:
        return SegmentReader(self._store, self._backup_id, reference, max_block_bytes=self._max_block_bytes)

    @staticmethod
    def _of_block(window: Window, reader: SegmentReader, entry: BlockEntry) -> _Ranges:
        if _is_dense(window, entry):
            return _one_range(entry.first_offset, entry.record_count)
        ((_, block),) = reader.read_blocks([entry])
        times = window.times
        try:
            found = _Ranges(*offset_ranges(block, timestamp_from=times.start_ms, timestamp_to=times.end_ms))
        except CodecError as error:
            raise _corrupt(reader, entry, f"can't be decoded: {error}") from error
        count = sum(memoryview(found.counts).cast("q"))
        if window.covers(entry) and count != entry.record_count:
            raise _corrupt(reader, entry, f"has {count} records, the index says {entry.record_count}")
        return found.within(window.start_offset, window.end_offset_exclusive)


def _by_source(
    done: Iterable[MappedPartition],
) -> Iterator[tuple[TopicPartition, PartitionPlan, Sequence[SegmentRef]]]:
    """Every source partition with what it goes to and its segments; once where it goes to several."""
    seen: set[int] = set()
    for one in done:
        plan = one.plan
        if not plan.sources:
            yield plan.source, plan, plan.segments
            continue
        if plan.routing is not None:
            if id(plan.routing) in seen:
                continue
            seen.add(id(plan.routing))
        found: dict[TopicPartition, list[SegmentRef]] = {source: [] for source in plan.sources}
        for reference in plan.segments:
            found[source_of(reference)].append(reference)
        for source, segments in found.items():
            yield source, plan, segments


class _StoppedError(Exception):
    """Somebody wants the run to end."""


def _is_dense(window: Window, entry: BlockEntry) -> bool:
    return window.covers(entry) and entry.record_count == entry.last_offset - entry.first_offset + 1


def _one_range(start: int, count: int) -> _Ranges:
    return _Ranges(struct.pack("=q", start), struct.pack("=q", count))


def _cost_bytes(entry: BlockEntry) -> int:
    return entry.stored_bytes + entry.raw_bytes + _RANGE_BYTES * entry.record_count


def _corrupt(reader: SegmentReader, entry: BlockEntry, what: str) -> CorruptSegment:
    return CorruptSegment(
        f"{reader.key}: the block at byte {entry.position} {what}",
        hint="run kbr verify --deep on this backup",
        object=reader.key,
        position=entry.position,
    )


def _check_count(one: MappedPartition, count: int) -> None:
    if count == one.record_count:
        return
    raise IntegrityError(
        f"{one.plan.source}: the backup has {count} records to restore, and {one.record_count} are in the target "
        f"{one.plan.target}: where each of them lies can't be told",
        hint="run kbr verify --deep on this backup; if it finds nothing, this is a bug in kbr",
        topic=one.plan.source.topic,
        partition=one.plan.source.partition,
    )


def _in_order(pool: ThreadPoolExecutor, jobs: Iterable[_Job[_T]]) -> Iterator[_T]:
    """What the jobs give, in their order: fetched ahead, as far as the budget goes."""
    under_way: deque[tuple[Future[_T] | _T, int]] = deque()
    cost_bytes = 0
    try:
        for job in jobs:
            while under_way and (cost_bytes + job.cost_bytes > AHEAD_BYTES or len(under_way) >= READERS):
                first, cost = under_way.popleft()
                cost_bytes -= cost
                yield first.result() if isinstance(first, Future) else first
            under_way.append((pool.submit(job.fetch) if job.cost_bytes else job.fetch(), job.cost_bytes))
            cost_bytes += job.cost_bytes
        while under_way:
            first, _ = under_way.popleft()
            yield first.result() if isinstance(first, Future) else first
    finally:
        for first, _ in under_way:
            if isinstance(first, Future):
                first.cancel()
