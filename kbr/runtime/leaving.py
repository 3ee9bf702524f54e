"""Ends a process without what comes after Python's own end. Knows nothing of why it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

__all__ = ["leave"]


def leave(status: int) -> NoReturn:
    """End this process now; nothing that is registered with ``atexit`` or with C's own ``atexit`` runs.

    The interpreter would wait for whatever threads a library left behind. After it, OpenSSL takes itself apart in
    exit(3), and a thread of librdkafka that is in a handshake then reads what is gone: the process dies of SIGSEGV
    with its work done. (A client's threads end with the object, but a traceback or a cycle may keep that until the end.)

    Args:
        status: what the process ends with.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone: nobody is left to tell
            stream.flush()
    os._exit(status)
