"""The worker's side of a backup: one task from fetch to committed segments.

Runs in a worker process. Reports by events; returns what became of each partition. A stop request
ends it early with everything fetched so far committed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from kbr.backup.extra_verify import ExtraVerify
from kbr.backup.pipeline import PipelineOptions, SegmentPipeline
from kbr.backup.plan import BackupTask, PartitionTask, replaced_error
from kbr.errors import ClusterUnavailable, KbrError, LogReplaced
from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentIdentity
from kbr.kafka.source import FetchedBlock, PartitionEnded, PartitionSource, PartitionStopped, SourceOptions
from kbr.model import PartitionStatus, SegmentRef
from kbr.repository.adopt import names_behind, unlisted_segments
from kbr.repository.aside import put_aside
from kbr.repository.segment_writer import SegmentWriter
from kbr.runtime.lease import Lease, shared_lease
from kbr.runtime.pacing import CHECK_S, Allowance, Pacer, shared_pacer
from kbr.secrecy import hide, secrets_of
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.telemetry.events import (
    ClientMessage,
    PartitionFailed,
    ProgressEvent,
    SegmentCommitted,
    TaskAccount,
)
from kbr.telemetry.logs import get_logger
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["PartitionOutcome", "TaskContext", "run"]

_log = get_logger("kbr.backup")

#: Block size, bytes. Against 4 MiB, 1 MiB took 12 % less CPU for 1 M x 1 KiB (a block stays in the core's cache from
#: encoding to compression; zstd 3 alone 7 % less), 0.7 % more space at 1 KiB a record and 1 % at 100 B.
BLOCK_BYTES = 1024 * 1024
#: Progress goes to the supervisor at most this often, seconds.
PROGRESS_INTERVAL_S = 0.2
#: How long a log may end before the end that was fixed, until it counts as cut, seconds. A new leader's high watermark
#: may stay behind the old one's for a moment.
SHORT_OF_END_S = 30.0
#: A limit that has risen this much needs a client that fetches further ahead.
REOPEN_FACTOR = 4


class TaskContext(Protocol):
    """What a worker process offers its task."""

    def emit(self, event: object) -> None:
        """Send an event to the supervisor."""

    def stop_requested(self) -> bool:
        """Whether the run is to end now, with what is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOutcome:
    """What became of one partition of a task."""

    topic: str
    partition: int
    status: PartitionStatus
    #: First offset that no committed segment answers for.
    next_offset: int
    error: KbrError | None = None


@lru_cache(maxsize=4)
def _store(options: StorageOptions) -> ObjectStore:
    """One store per worker process and place: connections outlive a task."""
    return open_store(options)


def run(task: BackupTask, context: TaskContext) -> tuple[PartitionOutcome, ...]:
    """Fetch, encode and store a task's partitions; see the module."""
    hide(secrets_of(task))
    pacer, lease = shared_pacer(task.pace_path), shared_lease(task.lease_path)
    return _BackupWorker(task, context, _store(task.storage), pacer, lease, SYSTEM_CLOCK).run()


class _Progress:
    """Adds up what came per topic and sends it now and then."""

    def __init__(self, context: TaskContext, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._due_at = clock.monotonic()
        self._open: dict[str, list[int]] = {}

    def fetched(self, topic: str, records: int, raw_bytes: int) -> None:
        entry = self._open.setdefault(topic, [0, 0])
        entry[0] += records
        entry[1] += raw_bytes

    def send(self, *, now: bool = False) -> None:
        if not self._open or (not now and self._clock.monotonic() < self._due_at):
            return
        self._due_at = self._clock.monotonic() + PROGRESS_INTERVAL_S
        for topic, (records, raw_bytes) in self._open.items():
            self._context.emit(ProgressEvent(topic=topic, records=records, raw_bytes=raw_bytes))
        self._open.clear()


class _BackupWorker:
    """One run of one task."""

    def __init__(
        self,
        task: BackupTask,
        context: TaskContext,
        store: ObjectStore,
        pacer: Pacer,
        lease: Lease,
        clock: Clock,
    ) -> None:
        self._task = task
        self._context = context
        self._store = store
        self._pacer = pacer
        self._lease = lease
        #: What the client was opened for.
        self._limit = pacer.limit
        self._waited_for_storage_s = 0.0
        self._waited_for_limit_s = 0.0
        self._block_count = 0
        self._clock = clock
        self._outcomes: dict[int, PartitionOutcome] = {}
        self._progress = _Progress(context, clock)
        self._brokers_down_since: float | None = None
        #: Since when nothing has come, though it was waited for.
        self._quiet_since: float | None = None
        self._interval_checked_at = clock.monotonic()
        #: By partition the offset that its open segment begins at, and since when something behind that has been read.
        self._open_since: dict[int, tuple[int, float]] = {}
        #: Compressions that the turn under way leaves to its thread.
        self._jobs: list[Callable[[], None]] = []

    def run(self) -> tuple[PartitionOutcome, ...]:
        if any(partition.adopts for partition in self._task.partitions):
            self._adopt()
        task = self._task
        pipeline_options = PipelineOptions(
            segment_max_bytes=task.segment_max_bytes,
            in_flight_bytes=min(task.memory_bytes // 4, (2 * task.compress_threads + 4) * BLOCK_BYTES),
            lanes=len(task.partitions),
            upload_bytes=task.storage.upload_bytes,
            held_bytes=task.memory_bytes // 2,
        )
        compressor = BlockCompressor(task.compression, task.compression_level)
        extra_verify = ExtraVerify(task.compression) if task.extra_verify else None
        with (
            SegmentPipeline(
                pipeline_options,
                compressor,
                store=self._store,
                on_segment=self._segment_committed,
                extra_verify=extra_verify,
            ) as pipeline,
            PartitionSource(task.client, self._source_options(), on_client_message=self._client_message) as source,
        ):
            for index, partition in enumerate(task.partitions):
                pipeline.add_lane(self._writer_factory(partition), partition.sequence)
                if partition.offsets.is_empty:  # what was found in the store has reached its end
                    self._end(index, PartitionStatus.COMPLETE, partition.offsets.end_offset_exclusive)
            source.start(
                [(partition.key, partition.offsets) for partition in task.partitions],
                {partition.key: partition.anchor for partition in task.partitions if partition.anchor is not None},
            )
            self._fetch_by_turns(source, pipeline)
            pipeline.finish()
            self._take_failures(source, pipeline)
            self._progress.send(now=True)
            self._context.emit(
                TaskAccount(
                    record_bytes=source.totals[1],
                    waited_s={
                        "source": source.waited_s,
                        "storage": self._waited_for_storage_s,
                        "rate_limit": self._waited_for_limit_s,
                    },
                    blocks=self._block_count,
                    verified_blocks=0 if extra_verify is None else extra_verify.block_count,
                    verify_cpu_s=0.0 if extra_verify is None else extra_verify.cpu_s,
                )
            )
            return self._results()

    def _adopt(self) -> None:
        """Go on behind what a worker committed that died before it could say so; or make room where that proves nothing."""
        positions = {partition.key: partition.sequence for partition in self._task.partitions if partition.adopts}
        if not self._task.takes_over:
            names = names_behind(self._store, self._task.backup_id, positions)
            done = put_aside(self._store, self._task.backup_id, names, self._lease.check)
            if done.keys:
                _log.warning("%s", done.told("as only what is signed is used"))
            self._task = replace(self._task, replaces=self._task.replaces | done.in_the_way)
            return
        unlisted = unlisted_segments(
            self._store,
            self._task.backup_id,
            positions,
            {partition.topic: partition.topic_id for partition in self._task.partitions},
        )
        partitions = []
        for partition in self._task.partitions:
            sequence, anchor = partition.sequence, partition.anchor
            for reference in unlisted.segments.get(partition.key, ()):
                if reference.sequence == sequence:
                    self._context.emit(
                        SegmentCommitted(topic=partition.topic, partition=partition.partition, ref=reference)
                    )
                    sequence = reference.next_offset
                    anchor = reference.anchor
            if sequence != partition.sequence:
                start = max(sequence, partition.offsets.start_offset)
                offsets = replace(partition.offsets, start_offset=start)
                partitions.append(replace(partition, offsets=offsets, sequence=sequence, anchor=anchor))
            else:
                partitions.append(partition)
        self._task = replace(self._task, partitions=tuple(partitions))

    def _source_options(self) -> SourceOptions:
        memory = self._task.memory_bytes
        return SourceOptions(
            memory_bytes=memory // 2,
            block_bytes=BLOCK_BYTES,
            open_bytes=max(BLOCK_BYTES, memory // 4),
            isolation_level=self._task.isolation_level,
            bytes_per_s=self._limit.bytes_per_s,
            records_per_s=self._limit.records_per_s,
            timestamp_from=self._task.window.start_ms,
            timestamp_to=self._task.window.end_ms,
        )

    def _writer_factory(self, partition: PartitionTask) -> Callable[[int], SegmentWriter]:
        def new_writer(sequence: int) -> SegmentWriter:
            return SegmentWriter(
                self._store,
                SegmentIdentity(
                    backup_id=self._task.backup_id,
                    topic=partition.topic,
                    topic_id=partition.topic_id,
                    partition=partition.partition,
                    sequence=sequence,
                    compression=self._task.compression,
                    writer=self._task.writer,
                    created_at_ms=self._clock.now_ms(),
                ),
                before_commit=self._lease.check,
                replaces=self._task.replaces,
            )

        return new_writer

    def _fetch_by_turns(self, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        """Several threads take turns: one fetches and encodes, the others compress what they fetched before.

        A block is compressed by the thread that encoded it, while it is in that core's cache.
        """
        turn = threading.Lock()
        errors: list[BaseException] = []

        def work() -> None:
            going_on = True
            while going_on:
                with turn:
                    if errors:
                        return
                    try:
                        going_on = self._fetch(source, pipeline)
                    except BaseException as error:  # raised again below, when no thread works any more
                        errors.append(error)  # before the next one gets its turn
                        return
                    jobs, self._jobs = self._jobs, []
                for compress in jobs:
                    try:
                        compress()
                    except BaseException as error:  # the other blocks are other partitions'
                        errors.append(error)

        helpers = [
            threading.Thread(target=work, name=f"compress-{number}", daemon=True)
            for number in range(1, self._task.compress_threads)
        ]
        for thread in helpers:
            thread.start()
        work()
        for thread in helpers:
            thread.join()
        # of a turn that ended in an error: the writers wait for every block that they were promised
        for compress in self._jobs:
            compress()
        if errors:
            raise errors[0]

    def _fetch(self, source: PartitionSource, pipeline: SegmentPipeline) -> bool:
        """One turn: some blocks, what they lead to, and what is due by the clock. False when nothing is left to do."""
        if not source.open_count:
            return False
        if self._context.stop_requested():
            self._stop(source, pipeline)
            return False
        begun = self._clock.monotonic()
        pipeline.wait_for_room()
        self._waited_for_storage_s += self._clock.monotonic() - begun
        self._follow_limit(source, pipeline)
        allowance = self._pacer.ask()
        if allowance.wait_s:
            self._clock.sleep(min(allowance.wait_s, CHECK_S))
            self._waited_for_limit_s += min(allowance.wait_s, CHECK_S)
            self._quiet_since = None
        else:
            before = source.totals, source.advances
            events = self._poll(source, allowance)
            for event in events:
                self._take(event, source, pipeline)
            if events or (source.totals, source.advances) != before:
                self._quiet_since = None
            elif self._quiet_since is None:
                self._quiet_since = begun
        self._take_failures(source, pipeline)
        self._progress.send()
        now = self._clock.monotonic()
        if now - self._interval_checked_at >= min(1.0, self._task.segment_max_interval_s):
            self._interval_checked_at = now
            for block in source.renew(done=self._outcomes.keys()):
                self._submit(block, pipeline)
            self._cut_old_segments(now, source, pipeline)
            self._end_cut_logs(source, pipeline)
        self._give_up_if_nothing_comes(now, source, pipeline)
        return True

    def _poll(
        self, source: PartitionSource, allowance: Allowance
    ) -> list[FetchedBlock | PartitionEnded | PartitionStopped]:
        records, size = source.totals
        try:
            return source.poll(100, max_records=allowance.max_records, max_bytes=allowance.max_bytes)
        finally:
            after_records, after_size = source.totals
            self._pacer.settle(allowance, after_size - size, after_records - records)

    def _follow_limit(self, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        """A client that was opened for a low rate fetches too little ahead for a much higher one."""
        if not self._limit:
            return
        limit = self._pacer.limit
        if limit != self._limit and (
            _much_higher(self._limit.bytes_per_s, limit.bytes_per_s)
            or _much_higher(self._limit.records_per_s, limit.records_per_s)
        ):
            self._limit = limit
            for block in source.reopen(self._source_options(), done=self._outcomes.keys()):
                self._submit(block, pipeline)

    def _take(
        self,
        event: FetchedBlock | PartitionEnded | PartitionStopped,
        source: PartitionSource,
        pipeline: SegmentPipeline,
    ) -> None:
        if event.index in self._outcomes:
            return
        if isinstance(event, FetchedBlock):
            self._submit(event, pipeline)
        elif isinstance(event, PartitionEnded):
            pipeline.cut(event.index, event.next_offset)
            self._end(event.index, PartitionStatus.COMPLETE, event.next_offset)
        else:
            pipeline.cut(event.index, source.position(event.index))
            self._end(event.index, PartitionStatus.FAILED, source.position(event.index), _lasting(event.error))

    def _submit(self, event: FetchedBlock, pipeline: SegmentPipeline) -> None:
        raw_bytes = len(event.block)
        topic = self._task.partitions[event.index].topic
        self._progress.fetched(topic, event.block.stats.record_count, raw_bytes)
        self._block_count += 1
        self._jobs.append(pipeline.submit(event.index, event.block, event.next_offset, event.leader_epoch))

    def _end(self, index: int, status: PartitionStatus, next_offset: int, error: KbrError | None = None) -> None:
        partition = self._task.partitions[index]
        self._outcomes[index] = PartitionOutcome(
            topic=partition.topic, partition=partition.partition, status=status, next_offset=next_offset, error=error
        )
        if error is not None:
            self._context.emit(PartitionFailed(topic=partition.topic, partition=partition.partition, error=error))

    def _take_failures(self, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        for failure in pipeline.take_failures():
            before = self._outcomes.pop(failure.index, None)
            if before is None:
                source.stop(failure.index)
            self._end(failure.index, PartitionStatus.FAILED, pipeline.committed_offset(failure.index), failure.error)

    def _cut_old_segments(self, now: float, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        """What was read becomes durable in time, also where it does not fill a block: a slow partition's, or a limited one's."""
        for index in range(len(self._task.partitions)):
            if index in self._outcomes:
                continue
            begin = pipeline.open_from(index)
            before, since = self._open_since.get(index, (-1, now))
            if source.position(index) <= begin:
                self._open_since.pop(index, None)
            elif before != begin:
                self._open_since[index] = (begin, now)
            elif now - since >= self._task.segment_max_interval_s:
                self._flush(index, source, pipeline)
                self._open_since[index] = (begin, now)

    def _end_cut_logs(self, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        for stopped in source.short_of_end(SHORT_OF_END_S):
            if stopped.index not in self._outcomes:
                position = source.position(stopped.index)
                self._flush(stopped.index, source, pipeline)
                source.stop(stopped.index)
                self._end(stopped.index, PartitionStatus.FAILED, position, stopped.error)

    def _flush(self, index: int, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        event = source.flush(index)
        if event is not None:
            self._submit(event, pipeline)
        pipeline.cut(index, source.position(index))

    def _stop(self, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        """Commit what is there; the rest stays for a later run."""
        for index in range(len(self._task.partitions)):
            if index not in self._outcomes:
                self._flush(index, source, pipeline)
                self._end(index, PartitionStatus.PARTIAL, source.position(index))

    def _give_up_if_nothing_comes(self, now: float, source: PartitionSource, pipeline: SegmentPipeline) -> None:
        """No broker can be reached, or no leader gives anything of what is left: whoever planned this decides anew.

        Not a word about one partition among others that do come: a quota may starve it for long.
        """
        if not source.brokers_down:
            self._brokers_down_since = None
        elif self._brokers_down_since is None:
            self._brokers_down_since = now
        patience_s = self._task.patience_s
        if self._brokers_down_since is not None and now - self._brokers_down_since >= patience_s:
            why = f"no broker could be reached for {patience_s:.0f} s"
        elif self._quiet_since is not None and now - self._quiet_since >= patience_s:
            why = f"neither records nor the end of the log came for {patience_s:.0f} s"
        else:
            return
        for index, partition in enumerate(self._task.partitions):
            if index not in self._outcomes:
                position = source.position(index)
                self._flush(index, source, pipeline)
                source.stop(index)
                self._end(
                    index,
                    PartitionStatus.FAILED,
                    position,
                    ClusterUnavailable(
                        f"{partition.topic}[{partition.partition}] at offset {position}: {why}",
                        hint="check the brokers, the partition's leader and the network, then run the same command again",
                        topic=partition.topic,
                        partition=partition.partition,
                        offset=position,
                    ),
                )

    def _segment_committed(self, index: int, reference: SegmentRef) -> None:
        partition = self._task.partitions[index]
        self._context.emit(SegmentCommitted(topic=partition.topic, partition=partition.partition, ref=reference))

    def _client_message(self, message: ClientMessage) -> None:
        self._context.emit(message)

    def _results(self) -> tuple[PartitionOutcome, ...]:
        return tuple(self._outcomes[index] for index in range(len(self._task.partitions)))


def _lasting(error: KbrError) -> KbrError:
    """The same, with a word on what it means for the backup where that is more than for this run."""
    if not isinstance(error, LogReplaced):
        return error
    offset = error.context["offset"]
    return LogReplaced(replaced_error(int(str(offset))), hint=error.hint, **error.context)


def _much_higher(before: float, now: float) -> bool:
    """Of two rates, 0 being none at all."""
    return before > 0 and (now == 0 or now > REOPEN_FACTOR * before)
