"""Which worker does what: a state machine without processes, clocks or pipes.

Takes what happened, gives what to do. The supervisor carries it out. Times are seconds on the
supervisor's monotonic clock and come in with the event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kbr.errors import KbrError
from kbr.runtime.deaths import ended_at_boot, ended_at_work, killed_after_stop
from kbr.runtime.messages import TaskSpec

__all__ = [
    "LEAVE_TIMEOUT_S",
    "AskStop",
    "Assign",
    "Instruction",
    "Kill",
    "Phase",
    "Release",
    "Spawn",
    "SupervisorState",
]

#: A worker that is let go has nothing to do but exit (2 ms); one that still loads its entry may take a moment.
LEAVE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; the answer is spawned() or spawn_failed()."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a task to a worker."""

    worker: int
    task: TaskSpec


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


Instruction = Spawn | Assign | AskStop | Release | Kill


class Phase(Enum):
    """Where a worker is in its life. There is no idle: who has done a task gets the next one or leaves."""

    BOOTING = "booting"
    BUSY = "busy"
    LEAVING = "leaving"
    KILLED = "killed"


@dataclass(slots=True)
class _Worker:
    phase: Phase = Phase.BOOTING
    task: TaskSpec | None = None
    #: When a leaving worker has had time enough.
    leave_by_s: float | None = None


class SupervisorState:
    """One run.

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
        #: Tasks that nobody has begun.
        self._waiting = deque(tasks)
        self._workers: dict[int, _Worker] = {}
        #: Spawns that were asked for and not answered.
        self._spawning = 0
        self._stops = 0
        self._kill_at_s: float | None = None
        self._killed_because = ""
        self._boot_error: KbrError | None = None
        self.results: dict[str, object] = {}
        self.failures: dict[str, KbrError] = {}

    @property
    def stopping(self) -> bool:
        """Whether somebody wants the run to end."""
        return self._kill_at_s is not None

    @property
    def unstarted(self) -> tuple[str, ...]:
        """task_ids that nobody has begun."""
        return tuple(task.task_id for task in self._waiting)

    @property
    def finished(self) -> bool:
        """Whether no worker is left and nothing is left to begin."""
        return not self._workers and not self._spawning and (self.stopping or not self._waiting)

    # -- a worker's life ------------------------------------------------------------------

    def begin(self) -> list[Instruction]:
        """The first workers."""
        return self._spawns()

    def spawned(self, worker: int) -> list[Instruction]:
        """A process was started; it is not ready yet."""
        self._spawning -= 1
        self._workers[worker] = _Worker()
        return []

    def spawn_failed(self, error: KbrError) -> list[Instruction]:
        """No process could be started."""
        self._spawning -= 1
        return self._boot_failed(error)

    def ready(self, worker: int, error: KbrError | None, now_s: float) -> list[Instruction]:
        """A worker has loaded its entry, or could not."""
        if self._workers[worker].phase is not Phase.BOOTING:
            return []  # a stop came in between
        if error is None:
            return self._next(worker, now_s)
        return [*self._release(worker, now_s), *self._boot_failed(error)]

    def done(self, worker: int, task_id: str, result: object, now_s: float) -> list[Instruction]:
        """A task gave its result."""
        if self._workers[worker].task is None:
            return []  # said by a broken worker
        self.results[task_id] = result
        return self._next(worker, now_s)

    def failed(self, worker: int, task_id: str, error: KbrError, now_s: float) -> list[Instruction]:
        """A task gave an error; its worker goes on."""
        if self._workers[worker].task is None:
            return []  # said by a broken worker
        self.failures[task_id] = error
        return self._next(worker, now_s)

    def broken(self, worker: int, error: KbrError) -> list[Instruction]:
        """A worker said something that can't be understood: whatever else it says can't be trusted."""
        entry = self._workers[worker]
        booting = entry.phase is Phase.BOOTING
        if entry.task is not None:
            self.failures[entry.task.task_id] = error
            entry.task = None
        return [*self._kill(worker), *(self._boot_failed(error) if booting else [])]

    def exited(self, worker: int, pid: int, code: int | None) -> list[Instruction]:
        """A process has ended (code: exit status, or minus the signal): its task failed, the others go on."""
        entry = self._workers.pop(worker)
        if entry.task is not None:
            task_id = entry.task.task_id
            self.failures[task_id] = (
                killed_after_stop(pid, task_id, self._killed_because)
                if entry.phase is Phase.KILLED
                else ended_at_work(pid, code, task_id)
            )
        if entry.phase is Phase.BOOTING:
            return self._boot_failed(ended_at_boot(pid, code))
        return self._boot_failed(self._boot_error) if self._boot_error is not None else self._spawns()

    # -- the end --------------------------------------------------------------------------

    def stop(self, now_s: float) -> list[Instruction]:
        """Somebody wants the run to end: once asks, twice kills."""
        self._stops += 1
        if self._stops > 1:
            return self._kill_all("the run was stopped a second time")
        return self._ask_all(now_s)

    def stop_seen(self, now_s: float) -> list[Instruction]:
        """A worker was sent SIGTERM itself: the run ends, as its task's result is a partial one.

        Not a wish of its own: a service manager signals all processes at once, and the workers' share of that
        must not make a second stop of the supervisor's first.
        """
        return self._ask_all(now_s)

    def tick(self, now_s: float) -> list[Instruction]:
        """Time has passed."""
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            return self._kill_all(f"it had not stopped {self._stop_timeout_s:g} s after it was asked to")
        late = [
            number
            for number, entry in self._workers.items()
            if entry.phase is Phase.LEAVING and entry.leave_by_s is not None and now_s >= entry.leave_by_s
        ]
        return [instruction for number in late for instruction in self._kill(number)]

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

    def _kill_all(self, why: str) -> list[Instruction]:
        self._killed_because = self._killed_because or why
        return [instruction for number in self._workers for instruction in self._kill(number)]

    def _kill(self, worker: int) -> list[Instruction]:
        entry = self._workers[worker]
        if entry.phase is Phase.KILLED:
            return []
        entry.phase = Phase.KILLED
        return [Kill(worker)]

    # -- what to do next ------------------------------------------------------------------

    def _next(self, worker: int, now_s: float) -> list[Instruction]:
        entry = self._workers[worker]
        entry.task = None
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
        entry.leave_by_s = now_s + LEAVE_TIMEOUT_S
        return [Release(worker)]

    def _spawns(self) -> list[Instruction]:
        if self.stopping or self._boot_error is not None:
            return []
        # a leaving worker is counted out: its memory is as good as free, and waiting for it would idle a core
        booting = sum(1 for entry in self._workers.values() if entry.phase is Phase.BOOTING) + self._spawning
        busy = sum(1 for entry in self._workers.values() if entry.phase is Phase.BUSY)
        count = max(0, min(self._worker_limit - busy - booting, len(self._waiting) - booting))
        self._spawning += count
        return [Spawn() for _ in range(count)]

    def _boot_failed(self, error: KbrError) -> list[Instruction]:
        """What could not begin once would not begin again: nothing is respawned.

        Workers that did begin go on with what waits; when there are none, it has failed.
        """
        if self.stopping:
            return []
        self._boot_error = self._boot_error or error
        if not self._spawning and not any(
            entry.phase in {Phase.BOOTING, Phase.BUSY} for entry in self._workers.values()
        ):
            while self._waiting:
                self.failures[self._waiting.popleft().task_id] = self._boot_error
        return []
