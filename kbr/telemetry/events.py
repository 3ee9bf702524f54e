"""The events that workers send to the supervisor's process. Frozen, picklable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kbr.errors import KbrError
from kbr.model import SegmentRef, TopicPartition

__all__ = [
    "ClientMessage",
    "LogLine",
    "PartitionFailed",
    "ProgressEvent",
    "RecordsArrived",
    "SegmentCommitted",
    "TaskAccount",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """What a worker fetched of a topic, or had acknowledged, since its last such event."""

    topic: str
    records: int
    raw_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsArrived:
    """What of a restore's task was acknowledged before it failed: records, by target partition. More may arrive."""

    records: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCommitted:
    """A segment is durable."""

    topic: str
    partition: int
    ref: SegmentRef


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFailed:
    """A partition can't go on; others do."""

    topic: str
    partition: int
    error: KbrError


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccount:
    """What one task has done and waited for, at its end.

    Attributes:
        record_bytes: keys, values and headers that were fetched or sent, uncompressed.
        waited_s: by what was waited for: source, storage, target, rate_limit; seconds of one thread.
        blocks: that were encoded.
        verified_blocks: those of them that were decoded again before they were stored.
        verify_cpu_s: CPU seconds of that.
    """

    record_bytes: int
    waited_s: Mapping[str, float]
    blocks: int = 0
    verified_blocks: int = 0
    verify_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMessage:
    """A line from librdkafka.

    Attributes:
        level: syslog's: 3 error, 4 warning, 5 notice, 6 info, 7 debug.
        facility: librdkafka's word for where it comes from, such as FAIL.
        client: consumer, producer or admin.
    """

    level: int
    facility: str
    text: str
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A log line of a worker, on its way to where the supervisor's lines go.

    Attributes:
        level: as `logging` numbers it.
        logger: the logger's name.
        text: the message, with its arguments filled in.
        created_s: when, seconds since the epoch.
        pid: whose.
        fields: facts beside the message.
        traceback: of the exception that was logged with it, or empty.
    """

    level: int
    logger: str
    text: str
    created_s: float
    pid: int
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    traceback: str = ""
