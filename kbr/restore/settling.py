"""Finds where partitions go on once nothing moves any more in the target.

What a killed producer had sent may still reach the brokers after somebody has looked: from a socket's buffer, a proxy, a
broker's queue. Going on before it has arrived would put the same records there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kbr.errors import KbrError, OffsetOutOfRange, TargetChanged
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.model import TopicPartition
from kbr.restore.check import PartitionStart, TargetCheck
from kbr.restore.plan import PartitionPlan
from kbr.restore.standing import Standing
from kbr.restore.waiting import StopFlag
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock, Deadline

__all__ = ["QUIET_S", "Settler"]

#: How long no high watermark may move before what is there is believed, seconds. A request that a kernel or a proxy
#: still holds is retransmitted after 0.2, 0.6, 1.4 and 3 s when packets get lost; followers fetch what a leader has
#: appended within replica.fetch.wait.max.ms (0.5 s).
QUIET_S = 5.0
POLL_S = 0.5
#: How long they may move in all: 5 requests of 1 MB a broker that a slow line still brings, and somebody who writes.
DEADLINE_S = 180.0
#: Looks at a target whose beginning retention removes while it is compared.
MAX_LOOKS = 5

Starts = dict[TopicPartition, PartitionStart | KbrError]
StandingOf = Callable[[Mapping[TopicPartition, PartitionOffsets | KbrError]], dict[TopicPartition, Standing]]

_log = get_logger("kbr.run")


class Settler:
    """Looks at one target.

    Args:
        cluster: the target's.
        check: compares.
        stop: ends a wait.
    """

    def __init__(self, cluster: Cluster, check: TargetCheck, stop: StopFlag, clock: Clock) -> None:
        self._cluster = cluster
        self._check = check
        self._stop = stop
        self._clock = clock

    def starts(
        self, partitions: Sequence[PartitionPlan], standing_of: StandingOf, *, watch: bool, refuse: bool
    ) -> Starts:
        """Where each partition goes on, by target, or why it can't.

        Args:
            partitions: as the whole plan has them; their target topics exist.
            standing_of: from offsets to standings.
            watch: somebody may have written until a moment ago: wait until nothing moves.
            refuse: raise the first error.

        Raises:
            TopicNotEmpty: ``refuse``, and records are there that aren't this restore's.
            TargetChanged: the target does not come to rest.
            Interrupted: somebody stopped the run.
            KbrError: the target or the backup can't be read.
        """
        for look in range(MAX_LOOKS):
            try:
                return self._look(partitions, standing_of, watch=watch, refuse=refuse)
            except OffsetOutOfRange:
                # retention removed the beginning after its offset was asked for
                if look == MAX_LOOKS - 1:
                    raise
        raise AssertionError("the last look returns or raises")

    def _look(
        self, partitions: Sequence[PartitionPlan], standing_of: StandingOf, *, watch: bool, refuse: bool
    ) -> Starts:
        moved_at = self._clock.monotonic()
        starts, standings = self._compare(partitions, standing_of, refuse=refuse)
        if not watch:
            return starts
        moved = self._watch({target: one.base + one.claimed for target, one in standings.items()}, moved_at)
        if moved:
            again = [partition for partition in partitions if partition.target in moved]
            starts.update(self._compare(again, standing_of, refuse=refuse)[0])
        return starts

    def _compare(
        self, partitions: Sequence[PartitionPlan], standing_of: StandingOf, *, refuse: bool
    ) -> tuple[Starts, dict[TopicPartition, Standing]]:
        offsets = self._cluster.offsets([partition.target for partition in partitions], "read_uncommitted")
        errors = {target: found for target, found in offsets.items() if isinstance(found, KbrError)}
        if errors and refuse:
            raise next(iter(errors.values()))
        standings = standing_of(offsets)
        there = [partition for partition in partitions if partition.target not in errors]
        starts: Starts = {**errors}
        starts.update(self._check.starts(there, standings, refuse=refuse))
        return starts, standings

    def _watch(self, marks: dict[TopicPartition, int], moved_at: float) -> set[TopicPartition]:
        """Wait until no high watermark moves; those that have."""
        moved: set[TopicPartition] = set()
        deadline = Deadline(DEADLINE_S, clock=self._clock)
        _log.info("waiting until the target has been at rest for %.0f s: records may still be on their way", QUIET_S)
        while True:
            left_s = moved_at + QUIET_S - self._clock.monotonic()
            self._stop.wait(max(0.0, min(POLL_S, left_s)), self._clock)
            self._stop.check("waiting for the target to come to rest")
            changed = {
                target: found
                for target, found in self._cluster.high_watermarks(list(marks)).items()
                if isinstance(found, int) and found != marks[target]
            }
            if changed:
                moved |= changed.keys()
                marks.update(changed)
                moved_at = self._clock.monotonic()
                if deadline.passed:
                    raise _restless(min(changed))
            elif self._clock.monotonic() >= moved_at + QUIET_S:
                return moved


def _restless(target: TopicPartition) -> TargetChanged:
    return TargetChanged(
        f"target {target}: records still arrive after {DEADLINE_S:.0f} s: another run of this restore, or another "
        "producer, writes into it",
        hint="end the other one, then run the same command again; it compares what is there with the backup",
        topic=target.topic,
        partition=target.partition,
        before_sending=True,
    )
