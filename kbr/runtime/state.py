"""Which worker does what: a state machine without processes, clocks or pipes.

Takes what happened, gives what to do. The supervisor carries it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kbr.errors import KbrError
from kbr.runtime.messages import TaskSpec

__all__ = ["AskStop", "Assign", "Instruction", "Kill", "Release", "Spawn", "SupervisorState"]


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker."""


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
    """Let an idle worker go: nothing is left to do."""

    worker: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker now."""

    worker: int


Instruction = Spawn | Assign | AskStop | Release | Kill


@dataclass(slots=True)
class SupervisorState:
    """One run.

    Attributes:
        worker_limit: processes at once.
        waiting: tasks nobody has begun, in order.
        running: worker → its task; a worker without one is idle or not yet ready.
    """

    worker_limit: int
    waiting: deque[TaskSpec]
    running: dict[int, TaskSpec | None] = field(default_factory=dict)
    #: Spawns that were asked for and have not been reported by spawned().
    spawning: int = 0
    #: Workers that have not said Ready.
    unready: set[int] = field(default_factory=set)
    results: dict[str, object] = field(default_factory=dict)
    failures: dict[str, KbrError] = field(default_factory=dict)
    stopping: bool = False
    killing: bool = False
    boot_error: KbrError | None = None

    @classmethod
    def begin(cls, tasks: Sequence[TaskSpec], worker_limit: int) -> tuple[SupervisorState, list[Instruction]]:
        """A run of these tasks, and what to do first."""
        state = cls(worker_limit=worker_limit, waiting=deque(tasks))
        return state, state._spawns()

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to begin."""
        return not self.running and not self.spawning and (self.stopping or not self.waiting)

    def spawned(self, worker: int) -> list[Instruction]:
        """A process was started; it is not ready yet."""
        self.spawning -= 1
        self.unready.add(worker)
        self.running[worker] = None
        return []

    def ready(self, worker: int, error: KbrError | None) -> list[Instruction]:
        """A worker has loaded its entry, or could not: then nothing is respawned, it would fail again."""
        self.unready.discard(worker)
        if error is not None:
            self._boot_failed(error)
            return [Release(one) for one, task in self.running.items() if task is None]
        return self._next(worker)

    def done(self, worker: int, task_id: str, result: object) -> list[Instruction]:
        """A task gave its result."""
        self.results[task_id] = result
        self.running[worker] = None
        return self._next(worker)

    def failed(self, worker: int, task_id: str, error: KbrError) -> list[Instruction]:
        """A task gave an error; its worker goes on."""
        self.failures[task_id] = error
        self.running[worker] = None
        return self._next(worker)

    def exited(self, worker: int, error: KbrError) -> list[Instruction]:
        """A process has ended: the task it had has failed, the others go on in other workers."""
        task = self.running.pop(worker, None)
        if worker in self.unready:
            self.unready.discard(worker)
            if not self.stopping:
                self._boot_failed(error)
        if task is not None:
            self.failures[task.task_id] = error
        return self._spawns()

    def released(self, worker: int) -> list[Instruction]:
        """An idle worker was let go."""
        self.unready.discard(worker)
        self.running.pop(worker, None)
        return []

    def stop(self) -> list[Instruction]:
        """Somebody wants the run to end: once asks, twice kills."""
        if not self.stopping:
            self.stopping = True
            return [
                AskStop(worker) if task is not None else Release(worker) for worker, task in self.running.items()
            ]
        return self.kill()

    def kill(self) -> list[Instruction]:
        """End every worker now."""
        self.stopping = True
        self.killing = True
        return [Kill(worker) for worker in self.running]

    def _next(self, worker: int) -> list[Instruction]:
        if self.stopping or not self.waiting:
            return [Release(worker)]
        task = self.waiting.popleft()
        self.running[worker] = task
        return [Assign(worker, task)]

    def _boot_failed(self, error: KbrError) -> None:
        """What could not begin once would not begin again: nothing is respawned."""
        self.boot_error = self.boot_error or error
        while self.waiting:
            self.failures[self.waiting.popleft().task_id] = self.boot_error

    def _spawns(self) -> list[Instruction]:
        if self.stopping or self.boot_error is not None:
            return []
        free = self.worker_limit - len(self.running) - self.spawning
        wanted = len(self.waiting) - len(self.unready) - self.spawning
        count = max(0, min(free, wanted))
        self.spawning += count
        return [Spawn() for _ in range(count)]
