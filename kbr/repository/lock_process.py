"""Which process is behind a lock, and whether it is surely gone: only ever told for processes of this machine."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["LockProcess", "is_gone", "this_process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockProcess:
    """One process among all there are and were.

    Attributes:
        host: the machine's or container's name, for people.
        boot_id: of the running kernel; empty where it isn't known.
        pid_namespace: of the process: containers count their processes each from 1; empty where it isn't known.
        started: when it was, in the kernel's ticks since the boot, so that a number that is used again is another
            process; empty where it isn't known.
    """

    host: str
    boot_id: str
    pid: int
    pid_namespace: str
    started: str
    user: str


@lru_cache(maxsize=1)
def _machine(_pid: int) -> tuple[str, str, str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return socket.gethostname(), _line("/proc/sys/kernel/random/boot_id"), _namespace(), user


def this_process() -> LockProcess:
    """The one that asks."""
    pid = os.getpid()
    host, boot_id, namespace, user = _machine(pid)
    started = _state_and_start(pid)
    return LockProcess(
        host=host,
        boot_id=boot_id,
        pid=pid,
        pid_namespace=namespace,
        started="" if started is None else started[1],
        user=user,
    )


def is_gone(process: LockProcess, own: LockProcess) -> bool:
    """Whether a process has surely ended: it was one of this kernel and of this container, and is not there any more.

    False where that can't be told: a process of another machine, of another container, or one that is hidden from us.
    """
    for name in ("host", "boot_id", "pid_namespace"):
        if not getattr(own, name) or getattr(process, name) != getattr(own, name):
            return False
    if not process.started:
        return False
    try:
        os.kill(process.pid, 0)  # not a look into /proc: there, other users' processes may be hidden (hidepid)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    found = _state_and_start(process.pid)
    if found is None:
        return False
    state, started = found
    return started != process.started or (state in "ZX" and _thread_count(process.pid) <= 1)


def _state_and_start(pid: int) -> tuple[str, str] | None:
    """State and start of a process (proc_pid_stat(5), fields 3 and 22); None if it can't be read."""
    fields = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()  # a command's name may hold blanks and brackets
    return (fields[0], fields[19]) if len(fields) > 19 else None


def _thread_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:  # not this system, or gone
        return ""
