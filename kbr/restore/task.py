"""The worker's side of a restore: one task from stored blocks to acknowledged records.

Runs in a worker process. A few reader threads fetch and decompress blocks ahead, each partition's in
order; the main thread gives them to the producer. The first error ends the task: nothing is written
behind a hole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from queue import Empty, Queue
from typing import Protocol

from kbr.errors import ClusterUnavailable, CorruptSegment
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import TopicPartition
from kbr.repository.segment_reader import SegmentReader
from kbr.restore.plan import PartitionPlan, RestoreTask
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.telemetry.events import PartitionDone, ProgressEvent
from kbr.timing import SYSTEM_CLOCK, Clock
from kbr_codec import CodecError

__all__ = ["PartitionRestored", "TaskContext", "run"]

#: Reader threads of a worker: one keeps a producer busy (decompression is several times faster than
#: producing), more hide the store's round trips when a task has many small partitions.
MAX_READERS = 4
#: Progress goes to the supervisor at most this often, seconds.
PROGRESS_INTERVAL_S = 0.2
#: How long no record may be acknowledged while some wait, before the task fails, seconds.
STALL_DEADLINE_S = 300.0


class TaskContext(Protocol):
    """What a worker process offers its task."""

    def emit(self, event: object) -> None:
        """Send an event to the supervisor."""

    def stop_requested(self) -> bool:
        """Whether the run is to end now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRestored:
    """What became of one partition of a task."""

    source: TopicPartition
    target: TopicPartition
    record_count: int
    record_bytes: int
    #: Every record of the plan is acknowledged.
    complete: bool
    changed_timestamps: int = 0


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decompressed block."""

    index: int
    data: bytes
    place: str
    position: int


@dataclass(frozen=True, slots=True)
class _PartitionRead:
    """A partition's last block has been read."""

    index: int


@lru_cache(maxsize=4)
def _store(options: StorageOptions) -> ObjectStore:
    """One store per worker process and place: connections outlive a task."""
    return open_store(options)


def run(task: RestoreTask, context: TaskContext) -> tuple[PartitionRestored, ...]:
    """Read, decode and send a task's partitions; see the module."""
    return _RestoreWorker(task, context, _store(task.storage), SYSTEM_CLOCK).run()


class _Readers:
    """Threads that read partitions' blocks ahead, within a budget of bytes."""

    def __init__(self, task: RestoreTask, store: ObjectStore, *, ahead_bytes: int) -> None:
        self._task = task
        self._store = store
        self._ahead_bytes = ahead_bytes
        self._ahead = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._next = 0
        self._errors: list[BaseException] = []
        self.ready: Queue[_Ready | _PartitionRead] = Queue()
        count = max(1, min(MAX_READERS, len(task.partitions)))
        self._threads = [
            threading.Thread(target=self._read_loop, name=f"reader-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def taken(self, amount: int) -> None:
        """The main thread has passed a block of that size on."""
        with self._changed:
            self._ahead -= amount
            self._changed.notify_all()

    def error(self) -> BaseException | None:
        """The first reader's error, if any."""
        return self._errors[0] if self._errors else None

    def stop(self) -> None:
        """End the threads; what they read is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _read_loop(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._stopping or self._next >= len(self._task.partitions):
                        return
                    index = self._next
                    self._next += 1
                for block in self._blocks(index, self._task.partitions[index]):
                    if not self._give(block):
                        return
                self.ready.put(_PartitionRead(index))
        except BaseException as error:
            self._errors.append(error)

    def _give(self, block: _Ready) -> bool:
        size = len(block.data)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._ahead == 0 or self._ahead + size <= self._ahead_bytes)
            if self._stopping:
                return False
            self._ahead += size
        self.ready.put(block)
        return True

    def _blocks(self, index: int, partition: PartitionPlan) -> Iterator[_Ready]:
        window = self._task.window
        for reference in partition.segments:
            reader = SegmentReader(
                self._store, self._task.backup_id, reference, max_block_bytes=self._task.max_block_bytes
            )
            wanted = [entry for entry in reader.index().blocks if window.touches(entry)]
            for entry, data in reader.read_blocks(wanted):
                yield _Ready(index, data, reference.key, entry.position)


class _RestoreWorker:
    """One run of one task."""

    def __init__(self, task: RestoreTask, context: TaskContext, store: ObjectStore, clock: Clock) -> None:
        self._task = task
        self._context = context
        self._store = store
        self._clock = clock
        self._window = RecordWindow(timestamp_from=task.window.start_ms, timestamp_to=task.window.end_ms)
        count = len(task.partitions)
        self._records = [0] * count
        self._bytes = [0] * count
        self._reported = [(0, 0)] * count
        self._pending = [0] * count
        self._read = [False] * count
        self._tickets: dict[int, tuple[int, int]] = {}
        self._queued_bytes = 0
        self._progress_at = clock.monotonic()
        self._acknowledged = -1
        self._acknowledged_at = clock.monotonic()

    def run(self) -> tuple[PartitionRestored, ...]:
        task = self._task
        options = SinkOptions(
            memory_bytes=task.memory_bytes // 2,
            compression=task.wire_compression,
            zero_timestamp_as=task.zero_timestamp_as,
            original_offset_header=task.original_offset_header,
            batch_bytes=task.batch_bytes,
        )
        readers = _Readers(task, self._store, ahead_bytes=task.memory_bytes // 4)
        try:
            with BlockSink(task.client, options, on_client_message=self._context.emit) as sink:
                self._send_all(readers, sink)
                self._progress(now=True)
                changed = sink.changed_timestamps
        finally:
            readers.stop()
        return tuple(
            PartitionRestored(
                source=partition.source,
                target=partition.target,
                record_count=self._records[index],
                record_bytes=self._bytes[index],
                complete=self._read[index] and self._pending[index] == 0,
                changed_timestamps=changed if index == 0 else 0,
            )
            for index, partition in enumerate(task.partitions)
        )

    def _send_all(self, readers: _Readers, sink: BlockSink) -> None:
        open_partitions = len(self._task.partitions)
        stopping = False
        while open_partitions or self._tickets:
            error = readers.error()
            if error is not None:
                raise error
            stopping = stopping or self._context.stop_requested()
            if stopping and not self._tickets:
                return
            # Blocks that wait for acknowledgement keep their memory: a bound on them bounds the worker.
            full = self._queued_bytes > self._task.memory_bytes // 2
            item = None if stopping or full or not open_partitions else self._next(readers)
            if isinstance(item, _PartitionRead):
                open_partitions -= 1
                self._read[item.index] = True
                self._end_if_done(item.index)
            elif item is not None:
                self._send(item, sink)
                readers.taken(len(item.data))
            self._take_reports(sink, wait_ms=0 if item is not None else 20)
            self._progress()

    @staticmethod
    def _next(readers: _Readers) -> _Ready | _PartitionRead | None:
        try:
            return readers.ready.get(timeout=0.02)
        except Empty:
            return None

    def _send(self, item: _Ready, sink: BlockSink) -> None:
        partition = self._task.partitions[item.index]
        try:
            ticket, count = sink.send(partition.target, item.data, self._window)
        except CodecError as error:
            raise CorruptSegment(
                f"{item.place}: the block at byte {item.position} can't be decoded: {error}",
                hint="run kbr verify --deep on this backup",
                object=item.place,
                position=item.position,
            ) from error
        if count:
            self._tickets[ticket] = (item.index, len(item.data))
            self._pending[item.index] += 1
            self._queued_bytes += len(item.data)

    def _take_reports(self, sink: BlockSink, *, wait_ms: int) -> None:
        for report in sink.poll(wait_ms):
            index, size = self._tickets.pop(report.ticket)
            self._queued_bytes -= size
            self._records[index] += report.record_count
            self._bytes[index] += report.record_bytes
            self._pending[index] -= 1
            self._end_if_done(index)
        self._check_stall(sink)

    def _check_stall(self, sink: BlockSink) -> None:
        now = self._clock.monotonic()
        if sink.acknowledged_total != self._acknowledged or not self._tickets:
            self._acknowledged = sink.acknowledged_total
            self._acknowledged_at = now
        elif now - self._acknowledged_at > STALL_DEADLINE_S:
            raise ClusterUnavailable(
                f"no record was acknowledged for {STALL_DEADLINE_S:.0f} s while {len(self._tickets)} blocks wait",
                hint="check the target's brokers (under-replicated partitions, quotas, network)",
            )

    def _end_if_done(self, index: int) -> None:
        if self._read[index] and self._pending[index] == 0:
            partition = self._task.partitions[index]
            self._progress(now=True)
            self._context.emit(PartitionDone(topic=partition.source.topic, partition=partition.source.partition))

    def _progress(self, *, now: bool = False) -> None:
        if not now and self._clock.monotonic() < self._progress_at:
            return
        self._progress_at = self._clock.monotonic() + PROGRESS_INTERVAL_S
        for index, partition in enumerate(self._task.partitions):
            records, size = self._records[index], self._bytes[index]
            before_records, before_size = self._reported[index]
            if records == before_records:
                continue
            self._reported[index] = (records, size)
            self._context.emit(
                ProgressEvent(
                    topic=partition.source.topic,
                    partition=partition.source.partition,
                    records=records - before_records,
                    raw_bytes=size - before_size,
                    stored_bytes=0,
                    position=0,
                )
            )
