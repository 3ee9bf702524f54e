"""What to say of a worker process that ended or had to be ended: pure, from its exit code and what it was doing."""

from __future__ import annotations

import signal

from kbr.errors import KbrError, WorkerBootFailed, WorkerCrashed, WorkerError

__all__ = ["UNKNOWN_CODE", "ended_at_boot", "ended_at_work", "fell_silent", "killed_after_stop", "not_ended"]

_KEPT = "what it had committed is kept; look at what it wrote to standard error"
_MEMORY = "the system may have run out of memory: look at its log (dmesg), and lower memory_limit or workers"
_OUT_OF_MEMORY = (
    "the kernel killed for want of memory in this control group (oom_kill in its memory.events): "
    "lower memory_limit or workers, or give the group more"
)
_FROZEN = "it was frozen, or the machine had no time or memory for it; what it had committed is kept"
#: What multiprocessing.popen_forkserver reports when nobody is left who could know.
UNKNOWN_CODE = 255


def ended_at_work(pid: int, code: int | None, task_id: str, *, oom_killed: bool) -> WorkerCrashed:
    """A worker died with a task in hand."""
    return WorkerCrashed(
        f"worker process {pid} ended while it did task {task_id}: {_how(code, oom_killed)}",
        hint=_memory_hint(oom_killed) if code == -signal.SIGKILL else _KEPT,
        pid=pid,
        exit_code=code,
        task_ids=(task_id,),
    )


def ended_at_boot(pid: int, code: int | None, *, oom_killed: bool) -> WorkerBootFailed:
    """A worker died before it could take a task."""
    return WorkerBootFailed(
        f"worker process {pid} ended before it could take a task: {_how(code, oom_killed)}",
        hint=_memory_hint(oom_killed) if code == -signal.SIGKILL else "look at what it wrote to standard error",
        pid=pid,
        exit_code=code,
    )


def fell_silent(pid: int, silent_s: float, task_id: str | None) -> WorkerError:
    """A worker was killed as it gave no sign of life, with a task in hand or before it could take one."""
    what = f"worker process {pid} sent no sign of life for {silent_s:g} s"
    if task_id is None:
        return WorkerBootFailed(f"{what}, before it could take a task, and was killed", hint=_FROZEN, pid=pid)
    return WorkerCrashed(
        f"{what} while it did task {task_id}, and was killed", hint=_FROZEN, pid=pid, task_ids=(task_id,)
    )


def killed_after_stop(pid: int, task_id: str, why: str) -> WorkerCrashed:
    """A worker that was asked to stop and did not; the supervisor ended it."""
    return WorkerCrashed(
        f"worker process {pid} was ended in task {task_id}: {why}",
        hint="what it had committed is kept",
        pid=pid,
        task_ids=(task_id,),
    )


def not_ended(pid: int, task_id: str, error: KbrError) -> WorkerCrashed:
    """A worker of which nobody can say that it has ended, though it was killed."""
    return WorkerCrashed(
        f"{error.message}; the process is not known to have ended, so nobody else may do its task",
        hint=f"see what holds process {pid} (a network mount that is gone?), then run again",
        pid=pid,
        exit_code=None,
        task_ids=(task_id,),
    )


def _memory_hint(oom_killed: bool) -> str:
    return _OUT_OF_MEMORY if oom_killed else _MEMORY


def _how(code: int | None, oom_killed: bool) -> str:
    if code is None:
        return "nobody knows how"
    if code == UNKNOWN_CODE:
        return "exit status 255, or the forkserver that watched it was killed"
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", as memory ran out" if oom_killed else "")
