"""Compares what a target holds with the backup: are its records the ones that this restore has sent?

Only reads. The tail is enough where an earlier run noted where it began: one producer wrote all of it in order, so that
a foreign record anywhere moves the ones behind it. Else everything is compared. What differs is looked for from the
beginning, so that the first difference is the one that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kbr.errors import Interrupted, TargetChanged, TopicNotEmpty
from kbr.kafka.ranges import RangeEnded, RangeRecords, read_ranges
from kbr.kafka.settings import ClientSettings
from kbr.model import OffsetRange, Record, SegmentRef, TopicPartition
from kbr.repository.open_segment import side_by_side
from kbr.restore.compare import RecordRules
from kbr.restore.plan import PartitionPlan
from kbr.restore.standing import Standing, way_out
from kbr.restore.stream import PlanStream, Tail
from kbr.telemetry.events import ClientMessage

__all__ = ["PartitionStart", "TargetCheck"]

#: A tail: one batch of the producer and more, where records are of the usual sizes.
TAIL_RECORDS = 200
TAIL_BYTES = 256 * 1024
#: Partitions whose tails are compared at a time: 64 MiB of records at most, and one client.
TAIL_BATCH = 256
#: Partitions that are compared whole at a time: each holds one decoded block.
WHOLE_BATCH = 8
#: Threads that read the backup's side: round trips to a store overlap.
READERS = 8

Found = RangeRecords | RangeEnded
ReadRanges = Callable[[Sequence[tuple[TopicPartition, OffsetRange]]], Iterator[Found]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStart:
    """Where a partition goes on.

    Attributes:
        kept: records of the plan that are in the target.
        offset_from: the source offset to go on from.
        target_offset: what the next record's offset in the target has to be.
        gone: of those kept, how many were removed from the target's beginning (retention, or somebody).
        source: where the partition has several sources, the one that ``offset_from`` is of; None before the first record.
        is_all: nothing is left of it, as far as is known.
    """

    kept: int
    offset_from: int
    target_offset: int
    gone: int = 0
    source: TopicPartition | None = None
    is_all: bool = False


class TargetCheck:
    """The comparison of one restore.

    Args:
        client: of the target.
        streams: the plan's records of a partition, all of them.
        rules: how records are changed on their way.
        has_holes: whether a topic's log may have lost records between others (compaction).
        deadline_s: how long nothing may come from the target, seconds.
        stopped: whether the run is to end.
        read: reads the target; the default reads it through ``client``.
    """

    def __init__(
        self,
        client: ClientSettings,
        streams: Callable[[PartitionPlan], PlanStream],
        rules: RecordRules,
        *,
        has_holes: Callable[[str], bool],
        deadline_s: float,
        stopped: Callable[[], bool],
        on_client_message: Callable[[ClientMessage], None],
        read: ReadRanges | None = None,
    ) -> None:
        self._streams = streams
        self._rules = rules
        self._has_holes = has_holes
        self._stopped = stopped

        def read_target(ranges: Sequence[tuple[TopicPartition, OffsetRange]]) -> Iterator[Found]:
            return read_ranges(
                client,
                ranges,
                deadline_s=deadline_s,
                on_client_message=on_client_message,
                on_poll=self._check_stopped,
            )

        self._read = read or read_target

    def starts(
        self,
        partitions: Sequence[PartitionPlan],
        standings: Mapping[TopicPartition, Standing],
        *,
        refuse: bool,
    ) -> dict[TopicPartition, PartitionStart | TargetChanged | TopicNotEmpty]:
        """Where each partition goes on, by target, or its first difference.

        Args:
            partitions: as the whole plan has them.
            standings: of their targets; where there is none, nothing is there.
            refuse: raise the first difference that is found, and read no further.

        Raises:
            TopicNotEmpty: ``refuse``, and there is one.
            TargetChanged: ``refuse``, and a target ends before its base.
            Interrupted: somebody stopped the run.
            KbrError: the target or the backup can't be read.
        """
        found: dict[TopicPartition, PartitionStart | TargetChanged | TopicNotEmpty] = {}
        tails: list[tuple[PartitionPlan, Standing]] = []
        whole: list[tuple[PartitionPlan, Standing]] = []
        for partition in partitions:
            standing = standings.get(partition.target)
            if standing is None or not standing.claimed:
                base = 0 if standing is None else standing.base
                found[partition.target] = PartitionStart(kept=0, offset_from=0, target_offset=base)
            elif standing.claimed < 0:
                found[partition.target] = lost = _lost_before(partition.target, standing)
                if refuse:
                    raise lost
            else:
                (tails if standing.noted else whole).append((partition, standing))
        for some in _batches(tails, TAIL_BATCH):
            found.update(self._compare_tails(some))
        # a tail that differs is looked into; the first difference of the first such partition is what is told
        unlike = [pair for pair in tails if pair[0].target not in found]
        left = [*whole, *unlike]
        for some in _batches(left, side_by_side(_segments(left), WHOLE_BATCH)):
            found.update(self._compare_whole(some, refuse=refuse))
        return found

    # -- tails ----------------------------------------------------------------------------

    def _compare_tails(self, pairs: Sequence[tuple[PartitionPlan, Standing]]) -> dict[TopicPartition, PartitionStart]:
        def tail(pair: tuple[PartitionPlan, Standing]) -> Tail:
            partition, standing = pair
            return self._streams(partition).tail(standing.claimed, max_records=TAIL_RECORDS, max_bytes=TAIL_BYTES)

        with ThreadPoolExecutor(side_by_side(_segments(pairs), READERS)) as pool:
            expected = list(pool.map(tail, pairs))
        ranges = [
            (
                partition.target,
                OffsetRange(
                    start_offset=max(standing.log_start, standing.base + one.first_position),
                    end_offset_exclusive=standing.base + standing.claimed,
                ),
            )
            for (partition, standing), one in zip(pairs, expected, strict=True)
        ]
        # more records than the plan has: the whole comparison tells which one is the first too many
        unlike = {index for index, (pair, one) in enumerate(zip(pairs, expected, strict=True)) if one.total < pair[1].claimed}
        seen = [0] * len(pairs)
        for event in self._read([(place, _EMPTY if index in unlike else one) for index, (place, one) in enumerate(ranges)]):
            self._check_stopped()
            if isinstance(event, RangeEnded) or event.index in unlike:
                continue
            standing, one = pairs[event.index][1], expected[event.index]
            for record in event.records:
                archived = one.records[record.offset - standing.base - one.first_position]
                if self._rules.difference(archived, record):
                    unlike.add(event.index)
                    break
            seen[event.index] += len(event.records)
        found = {}
        for index, (partition, standing) in enumerate(pairs):
            complete = seen[index] == len(ranges[index][1]) or self._has_holes(partition.target.topic)
            if index not in unlike and complete:
                found[partition.target] = _start(
                    standing, expected[index].records[-1], expected[index].source, is_all=expected[index].is_all
                )
        return found

    # -- everything -----------------------------------------------------------------------

    def _compare_whole(
        self, pairs: Sequence[tuple[PartitionPlan, Standing]], *, refuse: bool
    ) -> dict[TopicPartition, PartitionStart | TopicNotEmpty]:
        compared = [
            _Whole(partition, standing, self._streams(partition), self._rules, self._has_holes(partition.target.topic))
            for partition, standing in pairs
        ]
        found: dict[TopicPartition, PartitionStart | TopicNotEmpty] = {}
        for event in self._read([(one.partition.target, one.range) for one in compared]):
            self._check_stopped()
            one = compared[event.index]
            if one.partition.target in found:
                continue  # what is behind a difference says nothing
            result = one.end() if isinstance(event, RangeEnded) else one.take(event.records)
            if result is None:
                continue
            if refuse and isinstance(result, TopicNotEmpty):
                raise result
            found[one.partition.target] = result
            if len(found) == len(compared):
                break
        return found

    def _check_stopped(self) -> None:
        if self._stopped():
            raise Interrupted("interrupted while the target was compared with the backup")


class _Whole:
    """One partition that is compared from its base on."""

    def __init__(
        self, partition: PartitionPlan, standing: Standing, stream: PlanStream, rules: RecordRules, has_holes: bool
    ) -> None:
        self.partition = partition
        self._standing = standing
        self._rules = rules
        self._has_holes = has_holes
        #: Position of the record that is looked at next.
        self._at = max(0, standing.log_start - standing.base)
        self._stream = stream
        self._archived = stream.records(self._at)
        self._last: Record | None = None
        self._last_source: TopicPartition | None = None
        self._compared = 0

    @property
    def range(self) -> OffsetRange:
        standing = self._standing
        return OffsetRange(
            start_offset=standing.base + self._at, end_offset_exclusive=standing.base + standing.claimed
        )

    def take(self, records: Sequence[Record]) -> TopicNotEmpty | None:
        """Some more of the target's records."""
        for record in records:
            refusal = self._pass_holes(record.offset)
            if refusal is not None:
                return refusal
            archived = self._next()
            if archived is None:
                return self._surplus(record.offset)
            difference = self._rules.difference(archived, record)
            if difference:
                return self._refusal(
                    f"its record at offset {record.offset} is not the backup's record at offset {archived.offset}: "
                    f"{difference}",
                    record.offset,
                    archived.offset,
                )
            self._compared += 1
        return None

    def end(self) -> PartitionStart | TopicNotEmpty:
        """There are no more."""
        standing = self._standing
        refusal = self._pass_holes(standing.base + standing.claimed)
        if refusal is not None:
            return refusal
        if self._last is None or not (self._compared or standing.noted):
            return self._refusal(
                f"its offsets {standing.base} to {standing.base + standing.claimed - 1} hold no record that could be "
                "compared with the backup",
                standing.base,
                None,
            )
        return _start(standing, self._last, self._last_source)

    def _pass_holes(self, target_offset: int) -> TopicNotEmpty | None:
        """Pass the positions before that offset, which the target has no records at."""
        while self._standing.base + self._at < target_offset:
            hole = self._standing.base + self._at
            archived = self._next()
            if archived is None:
                return self._surplus(hole)
            if not self._has_holes:
                return self._refusal(
                    f"it has no record at offset {hole}, where the backup's record at offset {archived.offset} should be "
                    "(a transaction's marker, or a record that was removed)",
                    hole,
                    archived.offset,
                )
        return None

    def _next(self) -> Record | None:
        found = next(self._archived, None)
        if found is None:
            return None
        self._at = found[0] + 1
        self._last = found[1]
        self._last_source = self._stream.source
        return self._last

    def _surplus(self, target_offset: int) -> TopicNotEmpty:
        return self._refusal(
            f"the backup's records end before its offset {target_offset}, and it goes on to offset "
            f"{self._standing.base + self._standing.claimed - 1}",
            target_offset,
            None,
        )

    def _refusal(self, what: str, target_offset: int, source_offset: int | None) -> TopicNotEmpty:
        target = self.partition.target
        return TopicNotEmpty(
            f"target {target} holds records that are not from this restore: {what}",
            hint=way_out(noted=self._standing.noted, compared=self._compared),
            topic=target.topic,
            partition=target.partition,
            target_offset=target_offset,
            source_offset=source_offset,
        )


def _lost_before(target: TopicPartition, standing: Standing) -> TargetChanged:
    end = standing.base + standing.claimed
    return TargetChanged(
        f"target {target} ends at offset {end}, and the restore began at offset {standing.base}: {-standing.claimed} records "
        "that were there before it are lost, and all that it has sent (a leader that did not have them, or a disk that lost "
        "them)",
        hint="restore to another topic with --topic-map, or see to what is lost, delete the topic and run the same command again",
        topic=target.topic,
        partition=target.partition,
        offset=end,
    )


_EMPTY = OffsetRange(start_offset=0, end_offset_exclusive=0)


def _start(
    standing: Standing, last: Record, source: TopicPartition | None, *, is_all: bool = False
) -> PartitionStart:
    return PartitionStart(
        kept=standing.claimed,
        offset_from=last.offset + 1,
        target_offset=standing.base + standing.claimed,
        gone=min(standing.claimed, max(0, standing.log_start - standing.base)),
        source=source,
        is_all=is_all,
    )


def _segments(pairs: Sequence[tuple[PartitionPlan, Standing]]) -> Iterator[SegmentRef]:
    return (reference for partition, _ in pairs for reference in partition.segments)


def _batches(
    pairs: Sequence[tuple[PartitionPlan, Standing]], size: int
) -> Iterator[Sequence[tuple[PartitionPlan, Standing]]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
