"""Sends what is left of a plan by workers, and tries again what failed: look what is there, compare, go on.

A round is one run of a supervisor. Partitions that are done are left alone; those that failed in a way that may pass
are looked at after a back-off, and go on behind what has arrived.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kbr.errors import KbrError, Locked, TopicNotEmpty, WorkerError
from kbr.model import TopicPartition
from kbr.restore.check import PartitionStart
from kbr.restore.plan import PartitionPlan, RestoreTask, group_partitions
from kbr.restore.retry import Tries, blame, may_pass
from kbr.restore.task import PartitionRestored
from kbr.restore.waiting import StopFlag
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import RunOutcome, Supervisor
from kbr.telemetry.events import ProgressEvent, RecordsArrived
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock

__all__ = ["SendOutcome", "Sending"]

WORKER_ENTRY = "kbr.restore.task:run"
#: Back-off before a round of retries, seconds: it begins here, doubles with each round without progress, and ends there.
#: Jittered between half and whole. The target's coming to rest (kbr.restore.settling) takes its time beside it.
BACKOFF_S = 1.0
BACKOFF_CAP_S = 30.0
#: So few partitions that are tried again get a task each: what ends one's worker ends no other's.
MAX_ALONE = 64

_log = get_logger("kbr.run")


@dataclass(slots=True, kw_only=True)
class SendOutcome:
    """What became of the partitions, by source.

    ``gained`` are records that came to be there by rounds that failed: no result tells of them. Of a partition that has
    failed they are at least so many: nobody has looked after its last round. ``gone`` are restored records that were
    removed from the target's beginning, where some were.
    """

    results: dict[TopicPartition, PartitionRestored] = field(default_factory=dict)
    failures: dict[TopicPartition, KbrError] = field(default_factory=dict)
    gained: dict[TopicPartition, int] = field(default_factory=dict)
    gone: dict[TopicPartition, int] = field(default_factory=dict)
    interrupted: bool = False
    retries: int = 0
    peak_worker_rss_bytes: int = 0
    worker_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How one run sends.

    Attributes:
        workers: processes.
        task: a task of some partitions.
        new_supervisor: makes one (worker count, entry).
        leaders: broker ids of target partitions now.
        look_again: where partitions go on, by target, once the target is at rest; or why they can't.
        on_event, on_tick: as a supervisor's.
        stop: ends waits.
    """

    workers: int
    task: Callable[[tuple[PartitionPlan, ...]], RestoreTask]
    new_supervisor: Callable[[int, str], Supervisor]
    leaders: Callable[[], Mapping[TopicPartition, int]]
    look_again: Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, PartitionStart | KbrError]]
    on_event: Callable[[str, object], None]
    on_tick: Callable[[], None]
    stop: StopFlag
    clock: Clock

    def run(self, partitions: Sequence[PartitionPlan]) -> SendOutcome:
        """Send until all is there, nothing gets further, or somebody stops it.

        Args:
            partitions: what is left of each.
        """
        outcome = SendOutcome()
        tries = Tries()
        left = list(partitions)
        begun_at = {one.source: one.target_offset for one in left}
        while left:
            again = self._round(self._groups(left, first=not outcome.retries), outcome, tries)
            if outcome.interrupted or not again:
                break
            outcome.retries += 1
            left = self._find_places(again, outcome, tries)
            for one in left:
                outcome.gained[one.source] = one.target_offset - begun_at[one.source]
        if not outcome.interrupted:
            for one in partitions:
                if one.source not in outcome.results and one.source not in outcome.failures:
                    outcome.failures[one.source] = WorkerError(
                        f"{one.source}: no worker told what became of it", hint="run the same command again"
                    )
        return outcome

    def _groups(self, left: Sequence[PartitionPlan], *, first: bool) -> list[tuple[PartitionPlan, ...]]:
        if not first and len(left) <= MAX_ALONE:
            return [(one,) for one in left if one.segments]
        return group_partitions(left, self.leaders(), workers=self.workers)

    def _round(
        self, groups: Sequence[tuple[PartitionPlan, ...]], outcome: SendOutcome, tries: Tries
    ) -> list[PartitionPlan]:
        """One supervisor's run; those that are to be tried again."""
        if not groups:
            return []
        tasks = [TaskSpec(task_id=str(number), payload=self.task(group)) for number, group in enumerate(groups)]
        arrived: dict[TopicPartition, int] = {}

        def take_event(task_id: str, event: object) -> None:
            group = groups[int(task_id)]
            if isinstance(event, RecordsArrived):
                arrived.update(event.records)
            elif isinstance(event, ProgressEvent) and len(group) == 1:
                # a worker that is killed says no more than this
                arrived[group[0].target] = arrived.get(group[0].target, 0) + event.records
            self.on_event(task_id, event)

        run = self.new_supervisor(min(self.workers, len(tasks)), WORKER_ENTRY).run(
            tasks, on_event=take_event, on_tick=self.on_tick
        )
        self._note(run, outcome)
        again: list[PartitionPlan] = []
        lost = next((error for error in run.failures.values() if isinstance(error, Locked)), None)
        if lost is not None:
            raise lost
        for task_id, error in run.failures.items():
            group = groups[int(task_id)]
            blamed = {one.source for one in blame(error, group)}
            before = len(again)
            for one in group:
                outcome.gained[one.source] = outcome.gained.get(one.source, 0) + arrived.get(one.target, 0)
                lasting = one.source in blamed and not may_pass(error)
                if run.interrupted or lasting or (one.source in blamed and tries.failed(one.target)):
                    outcome.failures[one.source] = error
                else:
                    again.append(one)
            if again[before:]:  # a line for each would be thousands
                more = f" and {len(again) - before - 1:,} more partitions" if len(again) - before > 1 else ""
                _log.warning("%s%s: will be tried again: %s", again[before].source, more, error)
        return again

    @staticmethod
    def _note(run: RunOutcome, outcome: SendOutcome) -> None:
        for result in run.results.values():
            if isinstance(result, tuple):
                outcome.results.update({one.source: one for one in result})
        outcome.interrupted = run.interrupted
        outcome.peak_worker_rss_bytes = max(outcome.peak_worker_rss_bytes, run.peak_worker_rss_bytes)
        outcome.worker_cpu_s += run.worker_cpu_s

    def _find_places(
        self, again: Sequence[PartitionPlan], outcome: SendOutcome, tries: Tries
    ) -> list[PartitionPlan]:
        """Wait, look, and say what is left of each; those that can't go on are failures from here on."""
        waiting = list(again)
        while waiting:
            backoff_s = min(BACKOFF_CAP_S, BACKOFF_S * 2 ** tries.most()) * random.uniform(0.5, 1.0)  # noqa: S311
            if self.stop.wait(backoff_s, self.clock):
                return self._interrupted(waiting, outcome)
            try:
                found = self.look_again([one.target for one in waiting])
            except KbrError as error:
                if self.stop.is_set():
                    return self._interrupted(waiting, outcome)
                _log.warning("looking at the target again: %s", error)
                outcome.failures.update(
                    {one.source: error for one in waiting if not may_pass(error) or tries.failed(one.target)}
                )
                waiting = [one for one in waiting if one.source not in outcome.failures]
                continue
            return self._placed(waiting, found, outcome, tries)
        return []

    @staticmethod
    def _interrupted(waiting: Sequence[PartitionPlan], outcome: SendOutcome) -> list[PartitionPlan]:
        outcome.interrupted = True
        for one in waiting:
            outcome.results[one.source] = _nothing_more(one, complete=False)
        return []

    @staticmethod
    def _placed(
        waiting: Sequence[PartitionPlan],
        found: Mapping[TopicPartition, PartitionStart | KbrError],
        outcome: SendOutcome,
        tries: Tries,
    ) -> list[PartitionPlan]:
        left = []
        for one in waiting:
            start = found[one.target]
            if isinstance(start, TopicNotEmpty) or (isinstance(start, KbrError) and not may_pass(start)):
                outcome.failures[one.source] = start
                continue
            if isinstance(start, KbrError):
                if tries.failed(one.target):
                    outcome.failures[one.source] = start
                else:
                    left.append(one)
                continue
            tries.stands(one.target, start.kept)
            rest = one.going_on(
                offset_from=start.offset_from,
                target_offset=start.target_offset,
                source=start.source,
                is_all=start.is_all,
            )
            if not rest.segments:
                outcome.results[one.source] = _nothing_more(one, complete=True)
            left.append(rest)
        return left


def _nothing_more(partition: PartitionPlan, *, complete: bool) -> PartitionRestored:
    return PartitionRestored(
        source=partition.source, target=partition.target, record_count=0, record_bytes=0, complete=complete
    )

