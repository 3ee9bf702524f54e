"""Partitions' offsets, asked of their leaders: in requests of bounded size, again after what may pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from confluent_kafka import IsolationLevel, KafkaError
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ re-exports without __all__
    ListOffsetsResultInfo,
    OffsetSpec,
)

from kbr.errors import ClusterUnavailable, KbrError
from kbr.kafka.admin import AdminSession, CallDeadline
from kbr.model import TopicPartition
from kbr.timing import Backoff, Clock

__all__ = ["OffsetReader", "PartitionOffsets"]

#: Partitions in one ListOffsets. librdkafka merges its answers in quadratic time (rdkafka_admin.c,
#: rd_kafka_ListOffsets_response_merge): 6,000 partitions took 0.13 s in requests of 1,000, 0.75 s in two of 5,000.
PARTITIONS_PER_REQUEST = 1000
#: How long the leaders of a request's partitions may take to tell offsets before others are asked for, seconds.
#: Longer than it takes a cluster to notice that a broker hangs (broker.session.timeout.ms, 9 s).
OFFSETS_TIMEOUT_S = 10.0

#: How long it takes to see that no broker answers when no leader has, seconds.
ANYBODY_S = 3.0

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent_kafka has no types there
#: What a leader says of a time behind all of its records; one that says nothing is -1001.
_NO_SUCH_RECORD = -1
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the same

_RETRIED = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        # broker and client have not heard of the same election yet
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,
        # "No leaders found": none of the partitions that were asked for has one
        KafkaError._NOENT,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOffsets:
    """A partition's offsets at one moment.

    Attributes:
        log_start: the first offset that exists.
        high_watermark: one past the last replicated record.
        end_offset: one past what may be read: the last stable offset for read_committed.
        first_wanted: no record before it lies in a window of time that somebody asked for.
    """

    log_start: int
    high_watermark: int
    end_offset: int
    first_wanted: int = 0


class OffsetReader:
    """Asks one cluster.

    Args:
        session: the client; its owner closes it.
        deadline_s: for each call, seconds.
    """

    def __init__(self, session: AdminSession, *, deadline_s: float, clock: Clock) -> None:
        self._session = session
        self._deadline_s = deadline_s
        self._clock = clock

    def offsets(
        self, partitions: Sequence[TopicPartition], isolation_level: str
    ) -> dict[TopicPartition, PartitionOffsets | KbrError]:
        """Offsets of every partition, or why they can't be had (after retries, within the deadline).

        The last stable offset is asked for before the high watermark, so it is never above it by chance.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        committed = isolation_level == "read_committed"
        deadline = self._session.deadline()
        starts = self._list_offsets(partitions, _EARLIEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        # what failed until the deadline is not asked for again
        there = [key for key in partitions if isinstance(starts[key], int)]
        ends = self._list_offsets(there, _LATEST, IsolationLevel.READ_COMMITTED, deadline) if committed else None
        marks = self._list_offsets(there, _LATEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        found: dict[TopicPartition, PartitionOffsets | KbrError] = {}
        for key in partitions:
            start = starts[key]
            if isinstance(start, KbrError):
                found[key] = start
                continue
            mark = marks[key]
            end = mark if ends is None else ends[key]
            if isinstance(mark, KbrError):
                found[key] = mark
            elif isinstance(end, KbrError):
                found[key] = end
            else:
                found[key] = PartitionOffsets(log_start=start, high_watermark=mark, end_offset=end)
        if found and all(isinstance(answer, ClusterUnavailable) for answer in found.values()):
            # no leader has answered: are they gone, or is the whole cluster?
            self._session.metadata(self._session.deadline(at_most_s=ANYBODY_S))
        return found

    def high_watermarks(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | KbrError]:
        """One past the last replicated record of every partition, or why it can't be had; by one request a leader.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        deadline = self._session.deadline()
        return self._list_offsets(partitions, _LATEST, IsolationLevel.READ_UNCOMMITTED, deadline)

    def first_at(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int | KbrError]:
        """Of every partition the first offset whose record has this timestamp or a later one, -1 for none; or why not.

        No record before it has such a timestamp; records behind it may have earlier ones.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        spec = OffsetSpec.for_timestamp(timestamp_ms)
        deadline = self._session.deadline()
        return self._list_offsets(partitions, spec, IsolationLevel.READ_UNCOMMITTED, deadline, at_ms=timestamp_ms)

    def _list_offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        level: IsolationLevel,
        deadline: CallDeadline,
        *,
        at_ms: int | None = None,
    ) -> dict[TopicPartition, int | KbrError]:
        found: dict[TopicPartition, int | KbrError] = {}
        wanted: Sequence[TopicPartition] = partitions
        for delay in Backoff(base_s=0.1, cap_s=2.0).delays():
            again: list[TopicPartition] = []
            for part in _chunks(wanted, PARTITIONS_PER_REQUEST):
                answers = self._ask_offsets(part, spec, level, deadline, at_ms)
                found.update(answers)
                again += [key for key, answer in answers.items() if _may_pass(answer)]
            wanted = again
            if not wanted or deadline.passed:
                return found
            self._clock.sleep(min(delay, deadline.remaining_s()))
            # The client goes on asking the leader that it knows, by the epoch that it knows: of one that hangs, or of
            # an election, it notices nothing by itself (seen: still the old leader 40 s after the election; still the
            # old epoch, 'Leader epoch is older than broker epoch', a minute after the brokers were restarted).
            try:
                self._session.metadata(deadline)
            except ClusterUnavailable:
                if deadline.remaining_s() > 0:
                    raise  # nobody answers any more
                return found  # with the partitions' own errors
        raise AssertionError("the delays are endless")

    def _ask_offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        level: IsolationLevel,
        deadline: CallDeadline,
        at_ms: int | None,
    ) -> dict[TopicPartition, int | KbrError]:
        session = self._session
        timeout_s = min(self._deadline_s, OFFSETS_TIMEOUT_S)
        request = {ClientTopicPartition(key.topic, key.partition): spec for key in partitions}
        futures = session.call(
            partial(session.client.list_offsets, request, isolation_level=level, request_timeout=timeout_s),
            "reading offsets",
        )
        found: dict[TopicPartition, int | KbrError] = {}
        for partition, future in futures.items():
            key = TopicPartition(partition.topic, partition.partition)
            try:
                answer = session.result(
                    future, f"reading offsets of {key}", right=f"Describe on topic {key.topic}", deadline=deadline
                )
            except KbrError as error:
                found[key] = error
                continue
            # A leader that does not answer leaves its partitions as they were asked for, without an error
            # (rd_kafka_ListOffsets_leaders_queried_cb: RD_KAFKA_OFFSET_INVALID). Taken for offsets, such
            # partitions would look empty.
            found[key] = (
                answer.offset
                if _is_answered(answer, at_ms)
                else ClusterUnavailable(
                    f"reading offsets of {key}: the partition's leader did not answer within {timeout_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                    kafka_code=KafkaError._TIMED_OUT,
                )
            )
        return found


def _may_pass(answer: int | KbrError) -> bool:
    return isinstance(answer, KbrError) and answer.context.get("kafka_code") in _RETRIED


def _chunks(items: Sequence[TopicPartition], size: int) -> Iterator[Sequence[TopicPartition]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_answered(answer: ListOffsetsResultInfo, at_ms: int | None) -> bool:
    """Whether that is a leader's word: of a time it is a record's of that time or later, or -1 for none."""
    if at_ms is None or answer.offset < 0:
        return bool(answer.offset >= 0 or (at_ms is not None and answer.offset == _NO_SUCH_RECORD))
    return bool(answer.timestamp >= at_ms)
