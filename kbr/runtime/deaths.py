"""What to say of a worker process that ended on its own: pure, from its exit code and what it was doing."""

from __future__ import annotations

import signal

from kbr.errors import WorkerBootFailed, WorkerCrashed

__all__ = ["ended_at_boot", "ended_at_work", "killed_after_stop"]

_KEPT = "what it had committed is kept; look at what it wrote to standard error"
_MEMORY = "the system may have run out of memory: look at its log (dmesg), and lower memory_limit or workers"
#: What multiprocessing.popen_forkserver reports when nobody is left who could know.
_UNKNOWN_CODE = 255


def ended_at_work(pid: int, code: int | None, task_id: str) -> WorkerCrashed:
    """A worker died with a task in hand."""
    return WorkerCrashed(
        f"worker process {pid} ended while it did task {task_id}: {_how(code)}",
        hint=_MEMORY if code == -signal.SIGKILL else _KEPT,
        pid=pid,
        exit_code=code,
        task_ids=(task_id,),
    )


def ended_at_boot(pid: int, code: int | None) -> WorkerBootFailed:
    """A worker died before it could take a task."""
    return WorkerBootFailed(
        f"worker process {pid} ended before it could take a task: {_how(code)}",
        hint=_MEMORY if code == -signal.SIGKILL else "look at what it wrote to standard error",
        pid=pid,
        exit_code=code,
    )


def killed_after_stop(pid: int, task_id: str, why: str) -> WorkerCrashed:
    """A worker that was asked to stop and did not; the supervisor ended it."""
    return WorkerCrashed(
        f"worker process {pid} was ended in task {task_id}: {why}",
        hint="what it had committed is kept",
        pid=pid,
        task_ids=(task_id,),
    )


def _how(code: int | None) -> str:
    if code is None:
        return "nobody knows how"
    if code == _UNKNOWN_CODE:
        return "exit status 255, or the forkserver that watched it was killed"
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
