"""A last look at the target, when all was acknowledged: is it still there?

Acknowledged records can be gone a moment later: retention, somebody who deletes records or the topic, a leader that was
elected without having them. A restore that says that it is complete has looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbr.errors import KbrError, TargetChanged
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.model import TopicPartition, TopicSpec
from kbr.restore.waiting import StopFlag
from kbr.timing import Clock, Deadline

__all__ = ["Expected", "FinalLook", "look_at_the_end", "other_topic", "records_gone"]

#: Between two looks at high watermarks that are too low, seconds.
POLL_S = 0.5
#: How long a leader that was just elected may take to know how far its followers are, seconds.
ELECTION_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What has to be in one target partition: offsets of the target, the end exclusive."""

    target: TopicPartition
    base: int
    end: int


@dataclass(slots=True, kw_only=True)
class FinalLook:
    """What was found, by target.

    Attributes:
        gone: records that were removed from the beginning, where some were.
        failures: topics and records that are not there.
        unseen: partitions that could not be looked at, and why.
    """

    gone: dict[TopicPartition, int] = field(default_factory=dict)
    failures: dict[TopicPartition, KbrError] = field(default_factory=dict)
    unseen: dict[TopicPartition, KbrError] = field(default_factory=dict)


def look_at_the_end(
    cluster: Cluster,
    expected: Sequence[Expected],
    before: Mapping[str, TopicSpec],
    *,
    stop: StopFlag,
    clock: Clock,
    deadline_s: float,
) -> FinalLook:
    """Look at partitions that have everything.

    Args:
        before: their topics, as they were when the first record was sent.
        deadline_s: how long high watermarks may stay too low, seconds; ELECTION_S at most.

    Raises:
        ClusterUnavailable: no broker answers.
    """
    look = FinalLook()
    names = {one.target.topic for one in expected}
    present = sorted(names & {name for name, _internal, _count in cluster.topics()})
    now = cluster.describe_topics(present) if present else {}
    left: list[Expected] = []
    for one in expected:
        error = other_topic(one.target, before[one.target.topic], now.get(one.target.topic))
        if error is None:
            left.append(one)
        else:
            look.failures[one.target] = error
    deadline = Deadline(min(deadline_s, ELECTION_S), clock=clock)
    while left:
        offsets = cluster.offsets([one.target for one in left], "read_uncommitted")
        short = [one for one in left if not _looked_at(one, offsets[one.target], look)]
        if deadline.passed or stop.is_set():
            look.failures.update({one.target: _lost(one, offsets[one.target]) for one in short})
            break
        left = short
        if left:
            stop.wait(POLL_S, clock)
    return look


def _looked_at(one: Expected, found: PartitionOffsets | KbrError, look: FinalLook) -> bool:
    """False where the end is too low, which it may be for a moment."""
    if isinstance(found, KbrError):
        look.unseen[one.target] = found
        return True
    if found.high_watermark < one.end:
        return False
    if found.high_watermark > one.end:
        look.failures[one.target] = _surplus(one, found.high_watermark)
        return True
    if found.log_start > one.base:
        look.gone[one.target] = min(one.end, found.log_start) - one.base
    return True


def _lost(one: Expected, found: PartitionOffsets | KbrError) -> KbrError:
    if isinstance(found, KbrError):
        return found
    return TargetChanged(
        f"target {one.target}: records were acknowledged up to offset {one.end - 1}, and its high watermark is "
        f"{found.high_watermark}: {one.end - found.high_watermark} records are lost (a leader that did not have them, or "
        "a disk that lost them)",
        hint="run the same command again: it compares what is there with the backup, and sends the rest",
        topic=one.target.topic,
        partition=one.target.partition,
        offset=found.high_watermark,
    )


def _surplus(one: Expected, high_watermark: int) -> KbrError:
    return TargetChanged(
        f"target {one.target}: its restored records end at offset {one.end - 1}, and it goes on to offset "
        f"{high_watermark - 1}: another producer writes into it, or records of a run that was killed have come late",
        hint="nothing else may write into it before the restore has ended; delete the topic, or those records, and run the "
        "same command again",
        topic=one.target.topic,
        partition=one.target.partition,
        offset=one.end,
    )


def records_gone(target: TopicPartition, base: int, count: int) -> KbrError:
    """What is said of restored records that are no longer there.

    Args:
        base: target offset of the first one.
        count: how many.
    """
    return TargetChanged(
        f"target {target}: {count} restored records are no longer there (offsets {base} to {base + count - 1}): the "
        "target's retention, or somebody, has removed them",
        hint="restore to a topic that keeps them (retention.ms, retention.bytes), or accept it with "
        "--set restore.accept_cleanup=true",
        topic=target.topic,
        partition=target.partition,
        offset=base,
    )


def other_topic(target: TopicPartition, before: TopicSpec, now: TopicSpec | None) -> TargetChanged | None:
    """What is said when a topic is no longer the one it was; None while it is."""
    if now is None:
        return TargetChanged(
            f"target {target}: the topic was deleted while records were sent to it",
            hint="run the same command again to begin anew",
            topic=target.topic,
            partition=target.partition,
        )
    if now.topic_id == before.topic_id:
        return None
    return TargetChanged(
        f"target {target}: the topic was deleted and made again while records were sent to it",
        hint="run the same command again: it looks at what is there now",
        topic=target.topic,
        partition=target.partition,
    )
