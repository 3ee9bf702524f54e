"""Keeps what a process knows out of core files and crash reports. Knows nothing of what it knows.

Not by PR_SET_DUMPABLE where it can be helped: /proc/self would be root's then, and the user that runs kbr could no longer
look at it with gdb, perf or py-spy. Who may do that can read its configuration, too.
"""

from __future__ import annotations

import resource
import sys

__all__ = ["forbid_core_dumps"]

#: Bytes of a core file: too few for one, and the number by which Linux knows not to start the program that the system has
#: for crashes either (fs/coredump.c, do_coredump: "cprm.limit of 1"), which at 0 it does, and which may then write the
#: environment into a journal.
_LIMIT_BYTES = 1
#: Which kinds of memory a core file holds (core(5)): none.
_FILTER = "/proc/self/coredump_filter"
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """No core file of this process and of those that it starts, and no memory in what a system makes instead of one."""
    limited = _limit()
    if sys.platform == "linux" and not (_leave_memory_out() or limited):
        import ctypes  # seldom needed, and every start of kbr would wait for it

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))


def _limit() -> bool:
    """Whether the kernel keeps it from all handlers of crashes."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    wanted = 0 if hard == 0 else _LIMIT_BYTES  # only root may raise it
    resource.setrlimit(resource.RLIMIT_CORE, (wanted, wanted))
    return wanted == _LIMIT_BYTES


def _leave_memory_out() -> bool:
    try:
        with open(_FILTER, "w", encoding="ascii") as file:
            file.write("0")
    except OSError:  # a kernel without it, or a /proc that is not there
        return False
    return True
