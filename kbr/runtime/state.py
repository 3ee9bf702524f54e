"""Which worker does what: a state machine without processes, clocks or pipes.

Takes what happened, gives what to do. The supervisor carries it out. Times are seconds on the
supervisor's monotonic clock and come in with the event.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kbr.errors import KbrError
from kbr.runtime.deaths import UNKNOWN_CODE, ended_at_boot, ended_at_work, fell_silent, killed_after_stop, not_ended
from kbr.runtime.messages import TaskSpec
from kbr.runtime.retries import Retry, StandIns, Starts

__all__ = [
    "LEAVE_TIMEOUT_S",
    "UNDEAD_S",
    "Abandon",
    "AskStop",
    "Assign",
    "Instruction",
    "Judge",
    "Kill",
    "Phase",
    "Release",
    "Spawn",
    "SupervisorState",
]

#: A worker that is let go has nothing to do but exit (2 ms); one that still loads its entry may take a moment.
LEAVE_TIMEOUT_S = 5.0
#: A killed process that has not ended by then is held by the kernel (a network mount that is gone), maybe for ever.
UNDEAD_S = 30.0


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; the answer is spawned() or spawn_failed()."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a task to a worker."""

    worker: int
    task: TaskSpec


@dataclass(frozen=True, slots=True)
class Judge:
    """A task has failed: see what stands in for it; the answer is judged()."""

    task: TaskSpec
    error: KbrError


@dataclass(frozen=True, slots=True)
class AskStop:
    """Ask a worker to end its task with what is there."""

    worker: int


@dataclass(frozen=True, slots=True)
class Release:
    """Let a worker without a task go: nothing is left to do. Its exit is reported like any other."""

    worker: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker now. Its exit is reported like any other."""

    worker: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Wait no longer for a worker that was killed and does not end; report its exit with no code."""

    worker: int


Instruction = Spawn | Assign | Judge | AskStop | Release | Kill | Abandon


class Phase(Enum):
    """Where a worker is in its life. There is no idle: who has done a task gets the next one or leaves."""

    BOOTING = "booting"
    BUSY = "busy"
    #: Its task failed; it goes on as soon as that is judged.
    FREE = "free"
    LEAVING = "leaving"
    KILLED = "killed"


@dataclass(slots=True)
class _Worker:
    phase: Phase = Phase.BOOTING
    task: TaskSpec | None = None
    #: It has not said yet whether it could load its entry.
    booting: bool = True
    #: What it says can be understood.
    trusted: bool = True
    #: Why it was killed, if not for a stop.
    error: KbrError | None = None
    #: When a leaving worker has had time enough, or a killed one.
    late_at_s: float | None = None


class SupervisorState:
    """One run.

    A task is with one worker at a time: one that failed is judged, and stood in for, only when its worker has said
    that it is done with it, or is known to have ended.

    Args:
        tasks: in the order in which they are begun; task_ids are unique.
        worker_limit: processes at once.
        stop_timeout_s: how long workers get after the first stop.

    Raises:
        ValueError: two tasks have one id, or there is no room for a worker.
    """

    def __init__(self, tasks: Sequence[TaskSpec], *, worker_limit: int, stop_timeout_s: float) -> None:
        if worker_limit < 1:
            raise ValueError("a supervisor needs at least one worker")
        if len({task.task_id for task in tasks}) != len(tasks):
            raise ValueError("two tasks have the same task_id")
        self._worker_limit = worker_limit
        self._stop_timeout_s = stop_timeout_s
        #: Tasks that nobody has begun and that may begin.
        self._waiting = deque(tasks)
        self._stand_ins = StandIns(task.task_id for task in tasks)
        #: Failures that were not judged yet.
        self._unjudged: dict[str, KbrError] = {}
        self._workers: dict[int, _Worker] = {}
        #: Spawns that were asked for and not answered.
        self._spawning = 0
        self._starts = Starts()
        self._stops = 0
        self._kill_at_s: float | None = None
        self._killed_because = ""
        self.results: dict[str, object] = {}
        self.failures: dict[str, KbrError] = {}

    @property
    def stopping(self) -> bool:
        """Whether somebody wants the run to end."""
        return self._kill_at_s is not None

    @property
    def unstarted(self) -> tuple[str, ...]:
        """task_ids that nobody has begun."""
        return (*(task.task_id for task in self._waiting), *self._stand_ins.waiting_ids)

    @property
    def retried(self) -> tuple[tuple[str, KbrError], ...]:
        """The latest failures that others stand in for: task_id and error, MAX_REPLACED_KEPT at most."""
        return tuple(self._stand_ins.replaced)

    @property
    def retried_count(self) -> int:
        """All of them."""
        return self._stand_ins.replaced_count

    @property
    def finished(self) -> bool:
        """Whether no worker is left and nothing is left to begin, now or later."""
        return not (self._workers or self._spawning or self._unjudged) and (
            self.stopping or not (self._waiting or self._stand_ins)
        )

    # -- a worker's life ------------------------------------------------------------------

    def begin(self, now_s: float) -> list[Instruction]:
        """The first workers."""
        return self._spawns(now_s)

    def spawned(self, worker: int) -> list[Instruction]:
        """A process was started; it is not ready yet."""
        self._spawning -= 1
        self._workers[worker] = _Worker()
        return []

    def spawn_failed(self, error: KbrError, now_s: float) -> list[Instruction]:
        """No process could be started."""
        self._spawning -= 1
        self._starts.failed(error, now_s, from_outside=False)
        return self._go_on(now_s)

    def ready(self, worker: int, error: KbrError | None, now_s: float) -> list[Instruction]:
        """A worker has loaded its entry, or could not."""
        entry = self._workers[worker]
        if entry.phase is not Phase.BOOTING:
            return []  # a stop came in between, or it was given up
        entry.booting = False
        if error is None:
            self._starts.worked()
            return [*self._next(worker, now_s), *self._spawns(now_s)]
        released = self._release(worker, now_s)
        self._starts.failed(error, now_s, from_outside=False)
        return [*released, *self._go_on(now_s)]

    def done(self, worker: int, task_id: str, result: object, now_s: float) -> list[Instruction]:
        """A task gave its result."""
        if self._end_task(worker) is None:
            return []  # said by a broken worker
        self.results[task_id] = result
        return self._next(worker, now_s)

    def failed(self, worker: int, error: KbrError, now_s: float) -> list[Instruction]:
        """A worker's task gave an error; the worker goes on."""
        task = self._end_task(worker)
        if task is None:
            return []  # said by a broken worker
        entry = self._workers[worker]
        if entry.phase is Phase.BUSY:
            entry.phase = Phase.FREE
        return self._fail(task, error, now_s)

    def judged(self, task_id: str, retries: Sequence[Retry], now_s: float) -> list[Instruction]:
        """What stands in for a task that failed; nothing: the failure stands.

        Raises:
            ValueError: a retry has a task_id that there is or was in this run.
        """
        error = self._unjudged.pop(task_id)
        if retries:
            self._stand_ins.replace(task_id, error, retries, now_s)
        else:
            self.failures[task_id] = error
        return self._go_on(now_s)

    def broken(self, worker: int, error: KbrError, now_s: float) -> list[Instruction]:
        """A worker said something that can't be understood: whatever else it says can't be trusted."""
        entry = self._workers[worker]
        entry.trusted = False
        entry.error = entry.error or error
        return self._kill(worker, now_s)

    def silent(self, worker: int, pid: int, silent_s: float, now_s: float) -> list[Instruction]:
        """A worker gave no sign of life for that long."""
        entry = self._workers[worker]
        if entry.phase is Phase.KILLED:
            return []
        entry.error = fell_silent(pid, silent_s, entry.task.task_id if entry.task is not None else None)
        return self._kill(worker, now_s)

    def exited(
        self, worker: int, pid: int, code: int | None, now_s: float, *, oom_killed: bool = False
    ) -> list[Instruction]:
        """A process has ended: its task failed, the others go on.

        Args:
            code: exit status, or minus the signal; None when it is not known that it has ended.
            oom_killed: the kernel says that it killed for want of memory.
        """
        entry = self._workers.pop(worker)
        if entry.task is not None:
            task_id = entry.task.task_id
            error = entry.error or (
                killed_after_stop(pid, task_id, self._killed_because)
                if entry.phase is Phase.KILLED
                else ended_at_work(pid, code, task_id, oom_killed=oom_killed)
            )
            if code is not None:
                return self._fail(entry.task, error, now_s)
            # it may still write: nobody else may do its task
            self.failures[task_id] = not_ended(pid, task_id, error)
        elif entry.booting and not self.stopping:
            self._starts.failed(
                entry.error or ended_at_boot(pid, code, oom_killed=oom_killed),
                now_s,
                from_outside=entry.trusted and code in {-signal.SIGKILL, UNKNOWN_CODE},
            )
        return self._go_on(now_s)

    # -- the end --------------------------------------------------------------------------

    def stop(self, now_s: float) -> list[Instruction]:
        """Somebody wants the run to end: once asks, twice kills."""
        self._stops += 1
        if self._stops > 1:
            return self._kill_all("the run was stopped a second time", now_s)
        return self._ask_all(now_s)

    def end_early(self, now_s: float) -> list[Instruction]:
        """The run is to end as by a first stop: it has something else to do, or a worker was sent SIGTERM itself.

        The latter as its task's result is a partial one. Not a wish of its own: a service manager signals all processes at once, and the workers' share of that
        must not make a second stop of the supervisor's first.
        """
        return self._ask_all(now_s)

    def tick(self, now_s: float) -> list[Instruction]:
        """Time has passed."""
        instructions: list[Instruction] = []
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            instructions += self._kill_all(
                f"it had not stopped {self._stop_timeout_s:g} s after it was asked to", now_s
            )
        for number, entry in self._workers.items():
            if entry.late_at_s is None or now_s < entry.late_at_s:
                continue
            if entry.phase is Phase.KILLED:
                entry.late_at_s = None
                instructions.append(Abandon(number))
            else:
                instructions += self._kill(number, now_s)
        return [*instructions, *self._go_on(now_s)]

    def _ask_all(self, now_s: float) -> list[Instruction]:
        if self.stopping:
            return []
        self._kill_at_s = now_s + self._stop_timeout_s
        instructions: list[Instruction] = []
        for number, entry in self._workers.items():
            if entry.phase is Phase.BUSY:
                instructions.append(AskStop(number))
            elif entry.phase is Phase.BOOTING:
                instructions += self._release(number, now_s)
        return instructions

    def _kill_all(self, why: str, now_s: float) -> list[Instruction]:
        self._killed_because = self._killed_because or why
        return [instruction for number in self._workers for instruction in self._kill(number, now_s)]

    def _kill(self, worker: int, now_s: float) -> list[Instruction]:
        entry = self._workers[worker]
        if entry.phase is Phase.KILLED:
            return []
        entry.phase = Phase.KILLED
        entry.late_at_s = now_s + UNDEAD_S
        return [Kill(worker)]

    # -- what to do next ------------------------------------------------------------------

    def _end_task(self, worker: int) -> TaskSpec | None:
        """Take a worker's task from it; None when what it says does not count."""
        entry = self._workers[worker]
        task = entry.task if entry.trusted else None
        if task is not None:
            entry.task = None
        return task

    def _fail(self, task: TaskSpec, error: KbrError, now_s: float) -> list[Instruction]:
        """A task failed, and nobody works at it any more."""
        if self.stopping:
            self.failures[task.task_id] = error
            return self._go_on(now_s)
        self._unjudged[task.task_id] = error
        return [Judge(task, error)]

    def _go_on(self, now_s: float) -> list[Instruction]:
        """Tasks that have become due, workers that have become free, workers that are missing."""
        if not self.stopping:
            # in front: what was begun before what was not, for what is begun late ends late
            self._waiting.extendleft(reversed(self._stand_ins.due(now_s)))
        instructions: list[Instruction] = []
        for number, entry in self._workers.items():
            if entry.phase is Phase.FREE:
                instructions += self._next(number, now_s)
        self._give_up_without_workers()
        return [*instructions, *self._spawns(now_s)]

    def _give_up_without_workers(self) -> None:
        """Workers that did begin go on with what waits; when there are none and will be none, it has failed."""
        if self._starts.error is None or self.stopping or self._spawning or self._count(Phase.BOOTING, Phase.BUSY):
            return
        for task in (*self._waiting, *self._stand_ins.take_all()):
            self.failures[task.task_id] = self._starts.error
        self._waiting.clear()

    def _next(self, worker: int, now_s: float) -> list[Instruction]:
        entry = self._workers[worker]
        if entry.phase is Phase.KILLED:
            return []  # its last word; it is dying
        if self.stopping or not self._waiting:
            return self._release(worker, now_s)
        entry.phase = Phase.BUSY
        entry.task = self._waiting.popleft()
        return [Assign(worker, entry.task)]

    def _release(self, worker: int, now_s: float) -> list[Instruction]:
        entry = self._workers[worker]
        entry.phase = Phase.LEAVING
        entry.late_at_s = now_s + LEAVE_TIMEOUT_S
        return [Release(worker)]

    def _spawns(self, now_s: float) -> list[Instruction]:
        if self.stopping:
            return []
        # a leaving worker is counted out: its memory is as good as free, and waiting for it would idle a core; a
        # killed one has its memory until it is gone
        starting = self._count(Phase.BOOTING) + self._spawning
        at_work = self._count(Phase.BUSY, Phase.FREE, Phase.KILLED)
        wanted = min(self._worker_limit - at_work - starting, len(self._waiting) - starting)
        count = self._starts.allow(wanted, starting, now_s)
        self._spawning += count
        return [Spawn() for _ in range(count)]

    def _count(self, *phases: Phase) -> int:
        return sum(1 for entry in self._workers.values() if entry.phase in phases)
