"""A wish to stop that outlives single supervisors: noted by a signal handler, seen by who waits. Knows no work."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

__all__ = ["StopWish"]


class StopWish:
    """One run's wish to stop, and whoever works for it just now.

    note() may be called in a signal handler and in any thread: it takes no lock. So a pipe and not threading.Event,
    whose set() would wait for ever for a lock that the interrupted wait() holds.
    """

    def __init__(self) -> None:
        self._fds = os.pipe()
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._requested = False
        self._workers: tuple[Callable[[], None], ...] = ()

    @property
    def requested(self) -> bool:
        """Whether somebody wants the run to end."""
        return self._requested

    def note(self) -> None:
        """Somebody does. Whoever works is told each time."""
        self._requested = True
        self._wake()
        for tell in self._workers:
            tell()

    def wake(self) -> None:
        """End a wait() early, without a wish to stop; from a signal handler or any thread."""
        self._wake()

    def works(self, tell: Callable[[], None] | None) -> None:
        """From now on ``tell`` is called at each wish; None: nobody works."""
        self._workers = () if tell is None else (tell,)
        if tell is not None and self._requested:
            tell()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until note() or wake(); whether the run is to end."""
        if not self._requested:
            select.select([self._fds[0]], [], [], max(0.0, seconds))
        try:
            os.read(self._fds[0], 4096)
        except BlockingIOError:
            return self._requested
        return self._requested

    def _wake(self) -> None:
        try:
            os.write(self._fds[1], b"s")
        except BlockingIOError:
            return  # thousands are noted already

    def __del__(self) -> None:
        for fd in getattr(self, "_fds", ()):  # there are none when there were no descriptors left for them
            os.close(fd)
