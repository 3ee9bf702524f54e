"""What supervisor and workers say to each other over a pipe. Frozen, picklable."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.errors import KbrError
from kbr.telemetry.events import LogLine

__all__ = [
    "Beat",
    "Leave",
    "Ready",
    "RunTask",
    "StopSeen",
    "StopWork",
    "SupervisorMessage",
    "TaskDone",
    "TaskEvent",
    "TaskFailed",
    "TaskSpec",
    "Usage",
    "WorkerLog",
    "WorkerMessage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Something for one worker to do in one go.

    Attributes:
        task_id: unique in a run.
        payload: picklable; given to the workers' entry function.
    """

    task_id: str
    payload: object


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker process has used since it began: CPU of all its threads, and its peak resident memory."""

    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class RunTask:
    """To a worker: do this."""

    task: TaskSpec


@dataclass(frozen=True, slots=True)
class StopWork:
    """To a worker: end what you do, with what is there."""


@dataclass(frozen=True, slots=True)
class Leave:
    """To a worker without a task: nothing is left to do, end the process."""


SupervisorMessage = RunTask | StopWork | Leave


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: the entry is loaded, or why it could not be."""

    error: KbrError | None


@dataclass(frozen=True, slots=True)
class Beat:
    """From a worker, every few seconds: its process runs, and its threads get their turns (nobody keeps the GIL).

    It says nothing of the task: whoever waits for somebody else has a deadline of its own.
    """


@dataclass(frozen=True, slots=True)
class StopSeen:
    """From a worker: it was sent SIGTERM itself, and ends its task with what is there.

    The supervisor has to know, or it would take that task's partial result for the whole.
    """


@dataclass(frozen=True, slots=True)
class WorkerLog:
    """From a worker: a log line, to be written where the supervisor's lines go."""

    line: LogLine


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """From a worker: something happened."""

    task_id: str
    event: object


@dataclass(frozen=True, slots=True)
class TaskDone:
    """From a worker: a task's result."""

    task_id: str
    result: object
    usage: Usage


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """From a worker: a task's error."""

    task_id: str
    error: KbrError
    usage: Usage


WorkerMessage = Ready | Beat | StopSeen | WorkerLog | TaskEvent | TaskDone | TaskFailed
