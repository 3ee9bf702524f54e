"""From sealed blocks to committed segments: compression and upload beside the fetching.

Blocks come in per partition, in order; whoever brings one compresses it too, as its bytes are still in that core's
cache (see submit()). What is next of a partition is appended to its segment as soon as it is there, by one thread at
a time: the one that compressed it, where the store is a disk, or one of a few where writing is waiting for a network.
A full segment is committed beside the next one's writing, one commit of a partition at a time, so that an fsync or a
last request holds nothing up. Memory is bounded: wait_for_room() waits while too many bytes are under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from kbr.backup.committer import Committer
from kbr.backup.extra_verify import ExtraVerify
from kbr.errors import KbrError, StorageError
from kbr.format.compression import BlockCompressor
from kbr.model import SegmentRef
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage import ObjectStore
from kbr.storage.base import CommitsTogether
from kbr_codec import BlockStats, RawBlock

__all__ = ["LaneFailure", "PipelineOptions", "SegmentPipeline"]

#: Threads that append where that waits for a network.
MAX_WRITER_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """Bounds of one worker's pipeline.

    Attributes:
        segment_max_bytes: a segment is committed when it holds this much, stored bytes.
        in_flight_bytes: raw blocks that may be on their way at once.
        lanes: partitions.
        upload_bytes: what the store holds of one open segment, at most; 0 for none of it.
        held_bytes: what it may hold of all of them; beyond it the one that holds most is committed early.
    """

    segment_max_bytes: int
    in_flight_bytes: int
    lanes: int
    upload_bytes: int = 0
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LaneFailure:
    """A partition's segments can't be written further."""

    index: int
    error: KbrError


@dataclass(slots=True)
class _Append:
    stats: BlockStats
    raw_bytes: int
    next_offset: int
    leader_epoch: int
    #: Once it is compressed, or could not be.
    frame: bytes | None = None
    error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        return self.frame is not None or self.error is not None


@dataclass(slots=True)
class _Cut:
    """Commit what is open; ``next_offset`` is what the segment answers up to, or None for as far as it has come."""

    next_offset: int | None
    is_ready: bool = True


@dataclass(slots=True)
class _Lane:
    """One partition's state; that of the segment is touched by one thread at a time, see SegmentPipeline._drain()."""

    #: Makes the writer of the segment that begins at the given offset.
    new_writer: Callable[[int], SegmentWriter]
    #: First offset that no committed segment answers for.
    next_offset: int
    #: First offset that the segment to be begun next answers for.
    sequence: int
    #: What is to be done, in order, and whether some thread does it.
    items: deque[_Append | _Cut] = field(default_factory=deque)
    is_drained: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    writer: SegmentWriter | None = None
    committing: Future[None] | None = None
    failed: bool = False
    #: Where the open segment has come to.
    appended_offset: int = 0
    #: Of the open segment, in the store's buffers; guarded by the pipeline's _held_lock.
    held: int = 0


@dataclass(slots=True)
class _Budget:
    """Bytes that may be under way at once."""

    limit: int
    used: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self) -> None:
        """Until something may be added: the last amount may go over the limit."""
        with self.changed:
            self.changed.wait_for(lambda: self.used < self.limit)

    def add(self, amount: int) -> None:
        with self.changed:
            self.used += amount

    def release(self, amount: int) -> None:
        with self.changed:
            self.used -= amount
            self.changed.notify_all()


class SegmentPipeline:
    """The writing half of a backup worker; a context manager.

    Args:
        options: bounds.
        compressor: makes frames of blocks; used by several threads.
        extra_verify: looks at each frame before it is stored; None for no look.
        store: the segments'; of its kind depends how many threads write and commit.
        on_segment: called by the committing threads with (index, SegmentRef) after each commit.
    """

    def __init__(
        self,
        options: PipelineOptions,
        compressor: BlockCompressor,
        *,
        store: ObjectStore,
        on_segment: Callable[[int, SegmentRef], None],
        extra_verify: ExtraVerify | None = None,
    ) -> None:
        self._options = options
        self._compressor = compressor
        self._extra_verify = extra_verify
        self._on_segment = on_segment
        self._budget = _Budget(options.in_flight_bytes)
        self._commits = Committer(store, lanes=options.lanes)
        #: None where the thread that has something appends it, too.
        self._writers: ThreadPoolExecutor | None = None
        if not isinstance(store, CommitsTogether):
            self._writers = ThreadPoolExecutor(max(1, min(MAX_WRITER_THREADS, options.lanes)), thread_name_prefix="writer")
        self._lanes: list[_Lane] = []
        self._held_lock = threading.Lock()
        self._held = 0
        self._failures: deque[LaneFailure] = deque()

    def __enter__(self) -> SegmentPipeline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def add_lane(self, new_writer: Callable[[int], SegmentWriter], start_offset: int) -> int:
        """A partition whose first segment begins at ``start_offset``; returns its index."""
        self._lanes.append(_Lane(new_writer=new_writer, next_offset=start_offset, sequence=start_offset))
        return len(self._lanes) - 1

    def wait_for_room(self) -> None:
        """Wait while ``in_flight_bytes`` are under way."""
        self._budget.wait()

    def submit(self, index: int, block: RawBlock, next_offset: int, leader_epoch: int = -1) -> Callable[[], None]:
        """Take a partition's next block over; does not wait.

        Args:
            next_offset: first offset behind it that has not been seen.
            leader_epoch: of its last record; -1 for unknown.

        Returns:
            The block's compression, which the caller has to run, in any thread, and soon: what follows of the
            partition waits for it. Calls of submit() for one partition have to be in order, those of what it
            returns need not be.
        """
        lane = self._lanes[index]
        item = _Append(block.stats, len(block), next_offset, leader_epoch)
        self._budget.add(item.raw_bytes)
        with lane.lock:
            lane.items.append(item)

        def compress() -> None:
            try:
                frame = self._compressor.compress(memoryview(block))
                if self._extra_verify is not None:
                    self._extra_verify.look(block, frame)
                item.frame = frame
            except BaseException as error:  # it is the partition's end, which the fetching thread hears of
                item.error = error
            self._go_on(lane, index)

        return compress

    def cut(self, index: int, next_offset: int) -> None:
        """Commit the partition's open segment, if any, as answering up to ``next_offset`` (exclusive)."""
        self._add(index, _Cut(next_offset))

    def open_from(self, index: int) -> int:
        """The offset that the partition's open segment begins at, or its next one will."""
        return self._lanes[index].sequence

    def committed_offset(self, index: int) -> int:
        """First offset that no committed segment of the partition answers for; exact after finish()."""
        return self._lanes[index].next_offset

    def take_failures(self) -> list[LaneFailure]:
        """Partitions that failed since the last call."""
        found = []
        while self._failures:
            found.append(self._failures.popleft())
        return found

    def finish(self) -> None:
        """Wait until all that was submitted is written or has failed."""
        if self._writers is not None:
            self._writers.shutdown(wait=True)
        for index, lane in enumerate(self._lanes):
            if lane.items or lane.is_drained:
                self._guarded(lane, index, self._unfinished)
            self._guarded(lane, index, self._settle)

    def close(self) -> None:
        """Abort open segments and end the threads; again is fine. Committed segments stay."""
        self.finish()
        self._commits.close()
        for lane in self._lanes:
            if lane.writer is not None:
                lane.writer.abort()
                lane.writer = None

    def _add(self, index: int, item: _Cut) -> None:
        lane = self._lanes[index]
        with lane.lock:
            lane.items.append(item)
        self._go_on(lane, index)

    def _go_on(self, lane: _Lane, index: int) -> None:
        """Have done what can be done of a partition now, if no thread does already."""
        with lane.lock:
            if lane.is_drained or not lane.items or not lane.items[0].is_ready:
                return
            lane.is_drained = True
        if self._writers is not None:
            try:
                self._writers.submit(self._drain, lane, index)
                return
            except RuntimeError:  # no thread can be started: this one does it
                pass
        self._drain(lane, index)

    def _drain(self, lane: _Lane, index: int) -> None:
        """Do what is next of a partition until that is not ready: in order, and by one thread at a time."""
        while True:
            with lane.lock:
                if not lane.items or not lane.items[0].is_ready:
                    lane.is_drained = False
                    return
                item = lane.items.popleft()
            if isinstance(item, _Cut):
                self._guarded(lane, index, partial(self._cut, index, item))
            else:
                self._guarded(lane, index, partial(self._append, index, item))
                self._budget.release(item.raw_bytes)

    def _guarded(self, lane: _Lane, index: int, step: Callable[[_Lane], None]) -> None:
        """Do a step; its error ends the lane, not the thread."""
        try:
            step(lane)
        except KbrError as error:
            self._fail(lane, index, error)
        except Exception as error:  # a thread's error must reach the fetching thread
            self._fail(
                lane,
                index,
                StorageError(f"writing a segment failed: {type(error).__name__}: {error}", hint="this is a bug in kbr"),
            )

    def _cut(self, index: int, item: _Cut, lane: _Lane) -> None:
        if not lane.failed and lane.writer is not None:
            self._commit(lane, index, lane.appended_offset if item.next_offset is None else item.next_offset)

    def _append(self, index: int, item: _Append, lane: _Lane) -> None:
        if lane.failed:
            return
        if item.frame is None:
            error = item.error
            if isinstance(error, KbrError):
                raise error
            raise StorageError(
                f"a block could not be compressed: {type(error).__name__}: {error}", hint="this is a bug in kbr"
            ) from error
        if lane.writer is None:
            lane.writer = lane.new_writer(lane.sequence)
        lane.writer.append(item.frame, item.raw_bytes, item.stats, item.leader_epoch)
        lane.appended_offset = item.next_offset
        if lane.writer.is_full or lane.writer.stored_bytes >= self._options.segment_max_bytes:
            self._commit(lane, index, item.next_offset)
        elif self._options.upload_bytes:
            self._hold(lane, min(lane.writer.stored_bytes, self._options.upload_bytes))

    def _hold(self, lane: _Lane, amount: int) -> None:
        """The store holds so much of the lane's open segment now; if that is too much of all, one is committed."""
        with self._held_lock:
            self._held += amount - lane.held
            lane.held = amount
            if self._held <= self._options.held_bytes:
                return
            largest = max(range(len(self._lanes)), key=lambda index: self._lanes[index].held)
            # counted as gone, lest the next append asks for another one before this one is committed
            self._held -= self._lanes[largest].held
            self._lanes[largest].held = 0
        self._add(largest, _Cut(None))

    def _commit(self, lane: _Lane, index: int, next_offset: int) -> None:
        writer = lane.writer
        if writer is None:
            return
        self._settle(lane)
        if self._options.upload_bytes:
            self._hold(lane, 0)
        lane.writer = None
        lane.sequence = next_offset

        def committed(reference: SegmentRef) -> None:
            lane.next_offset = next_offset
            self._on_segment(index, reference)

        lane.committing = self._commits.submit(writer, next_offset, committed)

    @staticmethod
    def _unfinished(lane: _Lane) -> None:
        """A thread died with it, or never came: what it did not write must not be taken for written."""
        lane.items.clear()
        lane.is_drained = False
        raise StorageError("a partition's blocks were not all written", hint="this is a bug in kbr")

    @staticmethod
    def _settle(lane: _Lane) -> None:
        """Wait for the lane's commit under way; its error is raised here."""
        committing, lane.committing = lane.committing, None
        if committing is not None:
            committing.result()

    def _fail(self, lane: _Lane, index: int, error: KbrError) -> None:
        lane.failed = True
        self._failures.append(LaneFailure(index, error))
        if self._options.upload_bytes:
            self._hold(lane, 0)
        if lane.writer is not None:
            lane.writer.abort()
            lane.writer = None
