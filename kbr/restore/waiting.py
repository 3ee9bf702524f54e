"""Waits that a wish to stop ends."""

from __future__ import annotations

from kbr.errors import Interrupted
from kbr.timing import Clock

__all__ = ["StopFlag"]

#: A wait looks at the flag so often, seconds.
SLICE_S = 0.1


class StopFlag:
    """Whether somebody wants the run to end. set() only writes one attribute: a signal handler may call it."""

    def __init__(self) -> None:
        self._wanted = False
        #: Somebody who may want it knows of this flag.
        self.is_heard = False

    def set(self) -> None:
        """Somebody does."""
        self._wanted = True

    def is_set(self) -> bool:
        """Whether somebody did."""
        return self._wanted

    def wait(self, seconds: float, clock: Clock) -> bool:
        """Wait so long, or until it is set; whether it is."""
        until = clock.monotonic() + seconds
        while not self._wanted and (left := until - clock.monotonic()) > 0:
            clock.sleep(min(SLICE_S, left))
        return self._wanted

    def check(self, doing: str) -> None:
        """Raise where it is set.

        Raises:
            Interrupted: it is.
        """
        if self._wanted:
            raise Interrupted(f"interrupted while {doing}")
