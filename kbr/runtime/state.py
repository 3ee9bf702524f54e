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
    starting: int = 0
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
        return not self.running and not self.starting and (self.stopping or not self.waiting)

    def spawned(self, worker: int) -> list[Instruction]:
        """A process was started; it is not ready yet."""
        self.running[worker] = None
        return []

    def ready(self, worker: int, error: KbrError | None) -> list[Instruction]:
        """A worker has loaded its entry, or could not: then nothing is respawned, it would fail again."""
        self.starting -= 1
        if error is not None:
            self.boot_error = error
            while self.waiting:
                self.failures[self.waiting.popleft().task_id] = error
            return self._releases()
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

    def exited(self, worker: int, error: KbrError, *, was_ready: bool) -> list[Instruction]:
        """A process has ended: the task it had has failed, the others go on in other workers."""
        task = self.running.pop(worker, None)
        if not was_ready:
            self.starting -= 1
            if self.boot_error is None and not self.stopping:
                self.boot_error = error
                while self.waiting:
                    self.failures[self.waiting.popleft().task_id] = error
        if task is not None:
            self.failures[task.task_id] = error
        return self._spawns()

    def released(self, worker: int) -> list[Instruction]:
        """An idle worker was let go."""
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

    def _releases(self) -> list[Instruction]:
        return [Release(worker) for worker, task in self.running.items() if task is None]

    def _spawns(self) -> list[Instruction]:
        if self.stopping or self.boot_error is not None:
            return []
        count = min(self.worker_limit - len(self.running) - self.starting, len(self.waiting) - self.starting)
        count = max(0, count)
        self.starting += count
        return [Spawn() for _ in range(count)]
