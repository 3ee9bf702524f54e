"""The worker's side of a restore: one task from stored blocks to acknowledged records.

Runs in a worker process. A few reader threads fetch and decompress blocks ahead, each partition's in
order; the main thread gives them to the producer. The first error ends the task: nothing is written
behind a hole.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from queue import Empty, Queue
from typing import Protocol

from kbr.errors import ClusterUnavailable, CorruptSegment, KbrError, TargetChanged
from kbr.format.segment import BlockEntry
from kbr.kafka.cluster import Cluster
from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import BlockSink, SinkOptions
from kbr.model import TopicPartition
from kbr.repository.open_segment import open_segment, reading_bytes, wanted_blocks
from kbr.restore.feeds import Feed, FeedRead, HeldBlock, ReadyBlock, feeds_of, window_of
from kbr.restore.plan import RestoreTask
from kbr.runtime.lease import Lease, shared_lease
from kbr.runtime.pacing import CHECK_S, Pacer, shared_pacer
from kbr.secrecy import hide, secrets_of
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.telemetry.events import ClientMessage, ProgressEvent, RecordsArrived, TaskAccount
from kbr.timing import SYSTEM_CLOCK, Clock
from kbr_codec import CodecError
from kbr_codec.rdkafka import Delivered

__all__ = ["PartitionRestored", "TaskContext", "run"]

#: Reader threads of a worker: one keeps a producer busy (decompression is several times faster than
#: producing), more hide the store's round trips when a task has many small partitions.
MAX_READERS = 4
#: Progress goes to the supervisor at most this often, seconds.
PROGRESS_INTERVAL_S = 0.2
#: How long no record may be acknowledged while some wait, before the task fails, seconds.
STALL_DEADLINE_S = 300.0
#: The same where a file of the login has changed since the producer was made: brokers may let it in no more, seconds.
LOGIN_STALL_S = 10.0
#: How long a new producer may take to reach a broker before records are given to it all the same, ms.
CONNECT_MS = 2000
#: How long to wait for a block or an acknowledgement before looking at everything else again, seconds.
POLL_S = 0.02


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


@lru_cache(maxsize=4)
def _store(options: StorageOptions) -> ObjectStore:
    """One store per worker process and place: connections outlive a task."""
    return open_store(options)


class _ClusterKeeper:
    """Keeps a worker's admin client from one task to the next: a new one takes 10 ms and more to connect."""

    def __init__(self) -> None:
        self._kept: tuple[ClientSettings, Cluster] | None = None

    def cluster(self, client: ClientSettings, deadline_s: float) -> Cluster:
        """The kept one, if it is of the same place."""
        if self._kept is not None and self._kept[0] == client:
            return self._kept[1]
        if self._kept is not None:
            self._kept[1].__exit__(None, None, None)
        cluster = Cluster(client, deadline_s=deadline_s).__enter__()
        self._kept = (client, cluster)
        return cluster


_clusters = _ClusterKeeper()


def run(task: RestoreTask, context: TaskContext) -> tuple[PartitionRestored, ...]:
    """Read, decode and send a task's partitions; see the module."""
    hide(secrets_of(task))
    pacer, lease = shared_pacer(task.pace_path), shared_lease(task.lease_path)
    return _RestoreWorker(task, context, _store(task.storage), pacer, lease, SYSTEM_CLOCK).run()


class _SinkKeeper:
    """Keeps a worker's producer from one task to the next.

    A new one connects, asks for its id and for metadata: 0.06 s with a broker on the same machine, and 0.5 s where
    records are given to it before it has its id (BlockSink.connect); nine tasks waited 4.5 s of 7.6 for that.
    """

    def __init__(self) -> None:
        self._kept: tuple[ClientSettings, SinkOptions, BlockSink] | None = None

    @contextmanager
    def sink(
        self, client: ClientSettings, options: SinkOptions, on_client_message: Callable[[ClientMessage], None]
    ) -> Iterator[BlockSink]:
        """The kept one, if it is of the same kind; it is kept again only if all went well and nothing is under way."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[:2] == (client, options):
            sink = kept[2]
            sink.on_client_message = on_client_message
        else:
            if kept is not None:
                kept[2].close()
            sink = BlockSink(client, options, on_client_message=on_client_message)
        try:
            if not sink.acknowledged_total:
                sink.connect(CONNECT_MS)
            yield sink
        except BaseException:
            sink.close()
            raise
        if sink.open_count:
            sink.close()
        else:
            self._kept = (client, options, sink)


_keeper = _SinkKeeper()


class _Readers:
    """Threads that read partitions' blocks ahead, within a budget of bytes."""

    def __init__(self, task: RestoreTask, store: ObjectStore, *, ahead_bytes: int, largest_bytes: int) -> None:
        self._task = task
        self._store = store
        self._ahead_bytes = ahead_bytes
        self._ahead = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._next = 0
        self._errors: list[BaseException] = []
        self.ready: Queue[ReadyBlock | FeedRead] = Queue()
        # each holds a block beside that budget, and a block is as large as its largest record
        self._feeds = feeds_of(task.partitions)
        count = max(1, min(MAX_READERS, len(self._feeds), ahead_bytes // max(1, largest_bytes)))
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
                    if self._stopping or self._next >= len(self._feeds):
                        return
                    feed = self._feeds[self._next]
                    self._next += 1
                for block in self._blocks(feed):
                    if not self._give(block):
                        return
                self.ready.put(FeedRead(feed.indexes))
        except BaseException as error:
            self._errors.append(error)

    def _give(self, block: ReadyBlock) -> bool:
        size = len(block.data)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._ahead == 0 or self._ahead + size <= self._ahead_bytes)
            if self._stopping:
                return False
            self._ahead += size
        self.ready.put(block)
        return True

    def _blocks(self, feed: Feed) -> Iterator[ReadyBlock]:
        partitions = self._task.partitions
        # who shares segments with others has no window of offsets
        window = partitions[feed.indexes[0]].window(self._task.window)
        for reference, indexes in feed.segments():
            begins = {index: partitions[index].begins_at(reference) for index in indexes}
            first = min(begins.values())
            if reference.end_offset < first:
                continue
            reader = open_segment(
                self._store, self._task.backup_id, reference, max_block_bytes=self._task.max_block_bytes
            )
            routing = partitions[indexes[0]].routing
            following = 0 if routing is None else routing.positions[reference.key]
            positions: dict[int, int] = {}

            def is_wanted(entry: BlockEntry, first: int = first, positions: dict[int, int] = positions) -> bool:
                nonlocal following
                positions[entry.first_offset] = following
                following += entry.record_count
                return window.touches(entry) and entry.last_offset >= first

            for entry, data in wanted_blocks(reader, is_wanted):
                yield ReadyBlock(
                    indexes if len(indexes) == 1 else [one for one in indexes if entry.last_offset >= begins[one]],
                    data,
                    reference.key,
                    entry.position,
                    reference,
                    positions[entry.first_offset],
                    HeldBlock(len(data)),
                )


class _RestoreWorker:
    """One run of one task."""

    def __init__(
        self, task: RestoreTask, context: TaskContext, store: ObjectStore, pacer: Pacer, lease: Lease, clock: Clock
    ) -> None:
        self._task = task
        self._context = context
        self._store = store
        self._pacer = pacer
        self._lease = lease
        #: The block that is being sent, and its ticket once it has one.
        self._sending: ReadyBlock | None = None
        #: Which of its partitions are done.
        self._served = 0
        self._ticket: int | None = None
        self._sent_records = 0
        self._acknowledged_before = 0
        self._waited_s = {"storage": 0.0, "target": 0.0, "rate_limit": 0.0}
        self._clock = clock
        #: Target offset that the next acknowledged record of each partition has to have.
        self._expected = [partition.target_offset for partition in task.partitions]
        count = len(task.partitions)
        self._records = [0] * count
        self._bytes = [0] * count
        #: By topic: records and bytes that were acknowledged and not told yet.
        self._unreported: dict[str, list[int]] = {}
        self._pending = [0] * count
        self._read = [False] * count
        self._tickets: dict[int, tuple[int, HeldBlock]] = {}
        self._queued_bytes = 0
        self._progress_at = clock.monotonic()
        self._acknowledged = -1
        self._acknowledged_at = clock.monotonic()

    def run(self) -> tuple[PartitionRestored, ...]:
        task = self._task
        largest = max((ref.max_record_bytes for one in task.partitions for ref in one.segments), default=0)
        held = max((reading_bytes(ref) for one in task.partitions for ref in one.segments), default=0)
        options = SinkOptions(
            memory_bytes=task.memory_bytes // 2,
            compression=task.wire_compression,
            zero_timestamp_as=task.zero_timestamp_as,
            original_offset_header=task.original_offset_header,
            batch_bytes=task.batch_bytes,
            largest_record_bytes=self._largest_told(largest),
        )
        readers = _Readers(task, self._store, ahead_bytes=task.memory_bytes // 4, largest_bytes=largest + held)
        try:
            self._check_ends()
            with _keeper.sink(task.client, options, self._context.emit) as sink:
                changed, waited_s = sink.changed_timestamps, sink.waited_s
                self._acknowledged_before = sink.acknowledged_total
                self._send_all(readers, sink)
                self._progress(now=True)
                changed = sink.changed_timestamps - changed
                self._waited_s["target"] += sink.waited_s - waited_s
        except BaseException:
            self._progress(now=True)
            self._context.emit(
                RecordsArrived(
                    records={one.target: count for one, count in zip(task.partitions, self._records, strict=True) if count}
                )
            )
            raise
        finally:
            readers.stop()
        self._context.emit(TaskAccount(record_bytes=sum(self._bytes), waited_s=self._waited_s))
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

    def _largest_told(self, largest: int) -> int:
        """The largest record, only where it matters, so that tasks with other records can share a producer."""
        if any(ref.is_foreign for one in self._task.partitions for ref in one.segments):
            return self._task.max_block_bytes  # nobody knows, but that none is larger
        return largest if largest > self._task.memory_bytes // 2 else 0

    def _check_ends(self) -> None:
        """Every partition has to end where its next record is expected: a task may begin long after it was planned."""
        cluster = _clusters.cluster(self._task.client, self._task.deadline_s)
        found = cluster.high_watermarks([partition.target for partition in self._task.partitions])
        for partition in self._task.partitions:
            mark = found[partition.target]
            if isinstance(mark, KbrError):
                raise mark
            if mark != partition.target_offset:
                raise TargetChanged(
                    f"target {partition.target} ends at offset {mark}, it was at {partition.target_offset} when it was "
                    "looked at: somebody else writes into it",
                    hint="end the other producer, and run the same command again: it compares what is there with the backup",
                    topic=partition.target.topic,
                    partition=partition.target.partition,
                    offset=mark,
                    before_sending=True,
                )

    def _send_all(self, readers: _Readers, sink: BlockSink) -> None:
        open_partitions = len(self._task.partitions)
        stopping = False
        while open_partitions or self._tickets or self._sending:
            error = readers.error()
            if error is not None:
                raise error
            stopping = stopping or self._context.stop_requested()
            if stopping:
                self._abandon(sink)
                if not self._tickets:
                    return
            # Blocks that wait for acknowledgement keep their memory: a bound on them bounds the worker.
            full = self._queued_bytes > self._task.memory_bytes // 2
            if self._sending is None and open_partitions and not stopping and not full:
                item = self._next(readers)
                if isinstance(item, FeedRead):
                    open_partitions -= len(item.indexes)
                    for index in item.indexes:
                        self._read[index] = True
                else:
                    self._sending = item
            if self._sending is not None:
                wait_s, why = self._send(self._sending, readers, sink), "rate_limit"
            else:
                # with partitions left to read, _next() is what waits
                wait_s, why = (POLL_S if full or stopping or not open_partitions else 0.0), "target"
            begun = self._clock.monotonic()
            self._take_reports(sink, wait_ms=math.ceil(wait_s * 1000))
            if wait_s:
                self._waited_s[why] += self._clock.monotonic() - begun
            self._progress()

    def _next(self, readers: _Readers) -> ReadyBlock | FeedRead | None:
        with suppress(Empty):
            return readers.ready.get_nowait()
        begun = self._clock.monotonic()
        try:
            return readers.ready.get(timeout=POLL_S)
        except Empty:
            return None
        finally:
            self._waited_s["storage"] += self._clock.monotonic() - begun

    def _send(self, item: ReadyBlock, readers: _Readers, sink: BlockSink) -> float:
        """Send the block, or as much of it as the rate limit lets pass; how long to wait before more may, seconds.

        Raises:
            Locked: the restore is another run's by now.
        """
        self._lease.check()
        allowance = self._pacer.ask()
        if allowance.wait_s:
            return min(allowance.wait_s, CHECK_S)
        index = item.wanted[self._served]
        partition = self._task.partitions[index]
        bounds = {"max_records": allowance.max_records, "max_bytes": allowance.max_bytes}
        begins = self._ticket is None
        try:
            if self._ticket is None:
                sent = sink.send(partition.target, item.data, window_of(partition, item, self._task.window), **bounds)
            else:
                sent = sink.send_more(self._ticket, **bounds)
        except CodecError as error:
            raise CorruptSegment(
                f"{item.place}: the block at byte {item.position} can't be decoded: {error}",
                hint="run kbr verify --deep on this backup",
                object=item.place,
                position=item.position,
            ) from error
        self._pacer.settle(allowance, sent.record_bytes, sent.record_count)
        if begins and (sent.record_count or not sent.complete):
            self._tickets[sent.ticket] = (index, item.held)
            self._pending[index] += 1
            self._queued_bytes += 0 if item.held.ticket_count else item.held.size_bytes
            item.held.ticket_count += 1
        self._sent_records += sent.record_count
        self._ticket = sent.ticket
        if sent.complete:
            self._ticket = None
            self._served += 1
            if self._served == len(item.wanted):
                self._sending, self._served = None, 0
                readers.taken(len(item.data))
        return 0.0

    def _release(self, held: HeldBlock) -> None:
        held.ticket_count -= 1
        if not held.ticket_count:
            self._queued_bytes -= held.size_bytes

    def _abandon(self, sink: BlockSink) -> None:
        """Send no more of the block that is being sent."""
        if self._ticket is not None and not sink.abandon(self._ticket):
            index, held = self._tickets.pop(self._ticket)
            self._pending[index] -= 1
            self._release(held)
        self._sending = self._ticket = None
        self._served = 0

    def _take_reports(self, sink: BlockSink, *, wait_ms: int) -> None:
        for report in sink.poll(wait_ms):
            index, held = self._tickets.pop(report.ticket)
            self._release(held)
            self._records[index] += report.record_count
            self._bytes[index] += report.record_bytes
            self._pending[index] -= 1
            unreported = self._unreported.setdefault(self._task.partitions[index].source.topic, [0, 0])
            unreported[0] += report.record_count
            unreported[1] += report.record_bytes
            self._check_place(index, report)
        self._check_stall(sink)

    def _check_place(self, index: int, report: Delivered) -> None:
        """Acknowledged records have to lie behind those before them, and one behind the other."""
        due = self._expected[index]
        self._expected[index] = due + report.record_count
        if report.first_offset < 0 or (report.first_offset, report.last_offset) == (due, due + report.record_count - 1):
            return
        partition = self._task.partitions[index]
        came = f"{report.first_offset} to {report.last_offset}"
        raise TargetChanged(
            f"target {partition.target}: the records that had to become offsets {due} to {due + report.record_count - 1} "
            f"became {came}: another producer writes into it, and its records lie between those of the backup",
            hint="find and end the other producer; then delete the topic, or restore to another one with --topic-map",
            topic=partition.target.topic,
            partition=partition.target.partition,
            offset=due,
        )

    def _check_stall(self, sink: BlockSink) -> None:
        now = self._clock.monotonic()
        acknowledged = sink.acknowledged_total - self._acknowledged_before
        if acknowledged != self._acknowledged or acknowledged >= self._sent_records:
            self._acknowledged = acknowledged
            self._acknowledged_at = now
        elif now - self._acknowledged_at > LOGIN_STALL_S and sink.has_old_login:
            raise ClusterUnavailable(
                f"no record was acknowledged for {LOGIN_STALL_S:.0f} s, and files of the login have changed since the client was made",
                hint="the next try is made with them; if it goes on, check the target's brokers",
            )
        elif now - self._acknowledged_at > STALL_DEADLINE_S:
            raise ClusterUnavailable(
                f"no record was acknowledged for {STALL_DEADLINE_S:.0f} s while {self._sent_records - acknowledged} wait",
                hint="check the target's brokers (under-replicated partitions, quotas, network)",
            )

    def _progress(self, *, now: bool = False) -> None:
        if not now and self._clock.monotonic() < self._progress_at:
            return
        self._progress_at = self._clock.monotonic() + PROGRESS_INTERVAL_S
        for topic, (records, size) in self._unreported.items():
            self._context.emit(ProgressEvent(topic=topic, records=records, raw_bytes=size))
        self._unreported.clear()
