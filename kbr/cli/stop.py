"""Signals as a question and a callback: the command line's side of a clean stop, and of SIGHUP. Knows no work."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopSignals"]

#: First: finish what is begun. Second: stop at once, cleanly. Third: leave.
_PATIENCE = 2


class StopSignals:
    """Listens to SIGINT and SIGTERM while it is entered (main thread only).

    A signal only calls what was registered with `on_stop`, which has to return at once. As long as nothing is
    registered, or after the second signal, it raises KeyboardInterrupt where the main thread is.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._previous: dict[int, Any] = {}
        self._count = 0

    @property
    def requested(self) -> bool:
        """Whether somebody wants the command to stop."""
        return self._count > 0

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at every signal from now on; at once if one has come already."""
        self._callbacks.append(callback)
        if self.requested:
            callback()

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at every SIGHUP from now on, which otherwise ends the process."""
        self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda _number, _frame: callback())

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if not self._callbacks or self._count > _PATIENCE:
            raise KeyboardInterrupt
        for callback in self._callbacks:
            callback()
