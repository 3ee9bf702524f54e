"""What is tried again, and when: tasks that stand in for failed ones, and workers that could not start.

Pure: times are seconds on the supervisor's monotonic clock and come from outside.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kbr.errors import KbrError
from kbr.runtime.messages import TaskSpec

__all__ = ["MAX_REPLACED_KEPT", "MAX_RESTARTS", "RESTART_DELAY_S", "Retry", "StandIns", "Starts"]

#: Replaced failures that are remembered one by one; a run of a month may have any number, the rest is counted.
MAX_REPLACED_KEPT = 1000
#: Starts of a worker in a row that may fail; the next failure is the last.
MAX_RESTARTS = 5
#: Before the first of them; doubles with each, so that all five take 31 s.
RESTART_DELAY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A task that stands in for a failed one, or for a part of it.

    Attributes:
        task: its task_id is new in the run.
        delay_s: how long it waits before it may begin; the supervisor looks ten times a second.

    Raises:
        ValueError: a delay that never ends, or that is negative.
    """

    task: TaskSpec
    delay_s: float

    def __post_init__(self) -> None:
        if not (self.delay_s >= 0 and math.isfinite(self.delay_s)):
            raise ValueError(f"a retry can't wait {self.delay_s} s")


class StandIns:
    """Tasks that wait for their time, and the failures that they stand in for.

    Args:
        task_ids: of the run's own tasks.
    """

    def __init__(self, task_ids: Iterable[str]) -> None:
        #: All ids but those of failures that were forgotten: those have no result and can't get one.
        self._task_ids = set(task_ids)
        #: A heap of (when it is due, a number that keeps the order, task).
        self._delayed: list[tuple[float, int, TaskSpec]] = []
        self._added = 0
        #: The latest failures that were replaced: task_id and error.
        self.replaced: deque[tuple[str, KbrError]] = deque()
        #: All of them.
        self.replaced_count = 0

    def __bool__(self) -> bool:
        """Whether any waits."""
        return bool(self._delayed)

    @property
    def waiting_ids(self) -> tuple[str, ...]:
        """task_ids of those that wait, the next one first."""
        return tuple(task.task_id for _, _, task in sorted(self._delayed))

    def replace(self, task_id: str, error: KbrError, retries: Sequence[Retry], now_s: float) -> None:
        """Have others stand in for a task that failed.

        Raises:
            ValueError: one of them has the id of a task that there is or was.
        """
        for retry in retries:
            if retry.task.task_id in self._task_ids:
                raise ValueError(f"a retry of task {task_id} has a task_id that is taken: {retry.task.task_id}")
            self._task_ids.add(retry.task.task_id)
            heapq.heappush(self._delayed, (now_s + retry.delay_s, self._added, retry.task))
            self._added += 1
        self.replaced.append((task_id, error))
        self.replaced_count += 1
        if len(self.replaced) > MAX_REPLACED_KEPT:
            self._task_ids.discard(self.replaced.popleft()[0])

    def due(self, now_s: float) -> list[TaskSpec]:
        """Take out those that may begin, in the order in which they became due."""
        found: list[TaskSpec] = []
        while self._delayed and self._delayed[0][0] <= now_s:
            found.append(heapq.heappop(self._delayed)[2])
        return found

    def take_all(self) -> list[TaskSpec]:
        """Take out all that wait."""
        return self.due(math.inf)


class Starts:
    """Whether workers may be started, after some could not.

    What could not begin once would not begin again: then nothing is. Unless workers did begin before in this run, or
    something from outside ended one: then it may be a lack of memory or of processes that passes, and one worker at
    a time is tried, a few times.
    """

    def __init__(self) -> None:
        self._any_worked = False
        self._failures_in_a_row = 0
        self._again_at_s: float | None = None
        #: Why no worker is started any more.
        self.error: KbrError | None = None

    def worked(self) -> None:
        """A worker is ready."""
        self._any_worked = True
        self._failures_in_a_row = 0
        self._again_at_s = None

    def failed(self, error: KbrError, now_s: float, *, from_outside: bool) -> None:
        """A worker could not start.

        Args:
            from_outside: it was ended, rather than that it ended.
        """
        if self.error is not None or self._again_at_s is not None:
            return  # one of several that were started together
        self._failures_in_a_row += 1
        if not (self._any_worked or from_outside) or self._failures_in_a_row > MAX_RESTARTS:
            self.error = error
        else:
            self._again_at_s = now_s + RESTART_DELAY_S * 2 ** (self._failures_in_a_row - 1)

    def allow(self, wanted: int, starting: int, now_s: float) -> int:
        """How many workers may be started now.

        Args:
            wanted: how many there is something to do for.
            starting: how many are on their way.
        """
        if self.error is not None or wanted <= 0 or (self._again_at_s is not None and now_s < self._again_at_s):
            return 0
        if self._failures_in_a_row == 0:
            return wanted
        if starting:
            return 0
        self._again_at_s = None
        return 1
