"""Frozen values that all layers share: names, offsets, segments, topics. No I/O, no behaviour.

Offsets are Kafka's. ``_exclusive`` marks an end that is not included; ``end_offset`` alone is
the last record's own offset, as users of such manifests expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from kbr_codec import Record

__all__ = [
    "Anchor",
    "CommittedOffset",
    "Compression",
    "FailureKind",
    "Gap",
    "GapReason",
    "GroupOffsets",
    "OffsetRange",
    "PartitionStatus",
    "Record",
    "RunStatus",
    "SegmentRef",
    "TimestampType",
    "TopicPartition",
    "TopicSpec",
]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class TimestampType(IntEnum):
    """A record's kind of timestamp, with librdkafka's numbers (rd_kafka_timestamp_type_t)."""

    NONE = 0
    CREATE_TIME = 1
    LOG_APPEND_TIME = 2


class Compression(str, Enum):
    """How blocks are stored."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    NONE = "none"

    @property
    def extension(self) -> str:
        """The segment object's file name extension, with the dot."""
        return {"zstd": ".zst", "lz4": ".lz4", "none": ".mpk"}[self.value]


class RunStatus(str, Enum):
    """How a backup stands, as the manifest says it."""

    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class PartitionStatus(str, Enum):
    """How one partition of a backup stands."""

    PENDING = "pending"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


class FailureKind(str, Enum):
    """What a partition's failure means for later runs."""

    #: They go on with it.
    PASSING = "passing"
    #: They read no more of it: what the log holds now does not follow what is in the backup.
    LASTING = "lasting"
    #: The cluster has never told its offsets, so that it begins where its log does when it is first seen.
    UNSEEN = "unseen"


class GapReason(str, Enum):
    """Why offsets that should be in a backup are not."""

    RETENTION = "retention"
    OPEN_TRANSACTION = "open_transaction"
    TRUNCATED = "truncated"
    FETCH_FAILED = "fetch_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRange:
    """Offsets from ``start_offset`` (included) to ``end_offset_exclusive`` (not included)."""

    start_offset: int
    end_offset_exclusive: int

    @property
    def is_empty(self) -> bool:
        return self.end_offset_exclusive <= self.start_offset

    def __len__(self) -> int:
        return max(0, self.end_offset_exclusive - self.start_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Offsets that were lost, and why."""

    start_offset: int
    end_offset_exclusive: int
    reason: GapReason
    detected_at_ms: int
    detail: str = ""


class Anchor(NamedTuple):
    """By what a record is known again: a log that holds another one at that offset was cut, and has grown since."""

    offset: int
    timestamp: int
    #: -1 where it is not known.
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """What the manifest says of one segment object."""

    #: Object key relative to the backup's own folder: topics/{topic}/partition={p}/segment-...
    key: str
    #: First offset that the segment answers for (the partition's next expected offset at its start).
    sequence: int
    #: First offset after it that it does not answer for; the next segment's sequence.
    next_offset: int
    #: Offset of the first and of the last record in it, both included.
    start_offset: int
    end_offset: int
    #: Timestamp of the first and of the last record (ms), not the smallest and largest.
    start_timestamp: int
    end_timestamp: int
    min_timestamp: int
    max_timestamp: int
    record_count: int
    block_count: int
    #: Bytes of the msgpack blocks before compression, and bytes of the whole object.
    raw_bytes: int
    stored_bytes: int
    #: Largest key + value + headers of one record, bytes.
    max_record_bytes: int
    #: SHA-256 of the whole object, lower-case hex; empty in another tool's backup.
    sha256: str
    #: Leader epoch of the last record (KIP-101); -1 where it is not known. A manifest keeps that of a partition's last
    #: segment only: it tells nothing else of a segment.
    leader_epoch: int = field(default=-1, compare=False)

    @property
    def first_offset(self) -> int:
        """``start_offset``, by the name that a block has for it."""
        return self.start_offset

    @property
    def last_offset(self) -> int:
        """``end_offset``, by the name that a block has for it."""
        return self.end_offset

    @property
    def is_foreign(self) -> bool:
        """Whether it is another tool's: its smallest and largest timestamp, and its largest record, are not known."""
        return not self.sha256

    @property
    def anchor(self) -> Anchor:
        """The last record."""
        return Anchor(self.end_offset, self.end_timestamp, self.leader_epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as the cluster describes it.

    ``configs`` holds the non-default topic configs; None where the broker can't tell.
    ``topic_id`` is empty where the broker has none (before Kafka 2.8, KIP-516).
    """

    name: str
    partition_count: int
    replication_factor: int
    topic_id: str = ""
    configs: Mapping[str, str] | None = field(default_factory=dict)
    is_internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedOffset:
    """What a consumer group has committed for one partition."""

    #: Of the next record that the group wants, at least 0.
    offset: int
    #: Of the record before it, as the group knew it; -1 where it did not say. It means nothing in another cluster.
    leader_epoch: int = -1
    #: What the group's clients keep beside it (Kafka Streams does).
    metadata: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffsets:
    """A consumer group's committed offsets at one moment."""

    group: str
    #: ``classic``, ``consumer`` (KIP-848) or ``unknown``.
    kind: str
    #: In Kafka's words: Empty, Stable, Dead, ...
    state: str
    offsets: Mapping[TopicPartition, CommittedOffset]
