"""Ties a process to the one that made it, so that a run leaves nobody behind who writes. Knows nothing of what they do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["FORKSERVER_PID", "ORPHANED_STATUS", "die_with"]

#: Exit status of a process whose parent is gone.
ORPHANED_STATUS = 70
_PR_SET_PDEATHSIG = 1

#: Of the process that has imported this: the forkserver, which does it first of all; workers, its forks, have it from there.
FORKSERVER_PID = os.getpid()


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends (prctl(2)); at once when that is gone already.

    SIGKILL ends a process that is stopped, too, or whose compiled code keeps the GIL: neither reads of a pipe that it
    has ended. The signal comes when the *thread* ends that made this process, so that one has to live as long
    as its process (kbr.runtime.executors.local). Other systems than Linux know no such thing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent_pid:
        os._exit(ORPHANED_STATUS)
