"""Which failures of a restore are worth another try, and how many. Pure.

Trying again is safe: before it, what is in the target is compared with the backup.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kbr.errors import (
    AccessDenied,
    AuthenticationFailed,
    AuthorizationFailed,
    ConfigError,
    IntegrityError,
    KbrError,
    PreflightRefused,
    ProduceFailed,
    TargetChanged,
    UnsupportedFormat,
    UsageError,
    WorkerBootFailed,
)
from kbr.model import TopicPartition
from kbr.restore.plan import PartitionPlan

__all__ = ["MAX_TRIES", "Tries", "blame", "may_pass"]

#: Rounds in which a partition gets no further, one after the other, before it has failed.
MAX_TRIES = 5

_LASTING = (
    AccessDenied,
    AuthenticationFailed,
    AuthorizationFailed,
    ConfigError,
    IntegrityError,
    PreflightRefused,
    TargetChanged,
    UnsupportedFormat,
    UsageError,
    WorkerBootFailed,
)
#: Answers about a record that it would get again (rd_kafka_resp_err_t): MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE,
#: INVALID_TIMESTAMP, INVALID_CONFIG, INVALID_RECORD.
_LASTING_CODES = frozenset({10, 18, 32, 40, 87})


def may_pass(error: KbrError) -> bool:
    """Whether the same could succeed a little later.

    A record of timestamp 0 that can't be sent has no answer from a broker, and no code.
    """
    if isinstance(error, ProduceFailed):
        return "code" in error.context and error.context["code"] not in _LASTING_CODES
    if isinstance(error, TargetChanged):
        # found before anything was sent: the comparison tells whether these are late records of an earlier run
        return bool(error.context.get("before_sending"))
    return not isinstance(error, _LASTING)


def blame(error: KbrError, partitions: Iterable[PartitionPlan]) -> list[PartitionPlan]:
    """Of a task's partitions, those that its error is about: one that it names, or else all of them."""
    some = list(partitions)
    topic, number, key = (error.context.get(name) for name in ("topic", "partition", "object"))
    named = [
        one
        for one in some
        if (isinstance(topic, str) and isinstance(number, int) and one.target == TopicPartition(topic, number))
        or (isinstance(key, str) and any(key.endswith(ref.key) for ref in one.segments))
    ]
    return named or some


@dataclass(slots=True)
class Tries:
    """How often partitions have got no further."""

    _kept: dict[TopicPartition, int] = field(default_factory=dict)
    _count: dict[TopicPartition, int] = field(default_factory=dict)

    def failed(self, target: TopicPartition) -> bool:
        """One more round in which it did not get to its end; whether that was the last one."""
        self._count[target] = self._count.get(target, 0) + 1
        return self._count[target] >= MAX_TRIES

    def stands(self, target: TopicPartition, kept: int) -> None:
        """So many records are there now: more than before is progress, and it may fail anew."""
        if kept > self._kept.get(target, 0):
            self._count[target] = 0
        self._kept[target] = kept

    def most(self) -> int:
        """The longest row of rounds without progress: for the back-off."""
        return max(self._count.values(), default=0)
