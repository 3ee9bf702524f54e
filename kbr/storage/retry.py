"""One retry loop for all stores: jittered back-off until a deadline, only for what can get better."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from kbr.errors import KbrError, StoreUnavailable
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["Retry"]

_T = TypeVar("_T")
_log = logging.getLogger("kbr.storage")

#: How soon a wait for the next try notices that nobody wants it any more, seconds.
_SLICE_S = 0.2


class Retry:
    """Tries operations of one store again; logs when the store begins to fail and when it is back, not each try.

    Args:
        deadline_s: for one operation, from its first try, seconds.
        translate: a library's exception (with operation and target) to a KbrError; StoreUnavailable means 'can
            get better'.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        translate: Callable[[Exception, str, str], KbrError],
        backoff: Backoff | None = None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._translate = translate
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def call(
        self,
        function: Callable[[Deadline], _T],
        operation: str,
        target: str,
        *,
        deadline_s: float | None = None,
        is_unwanted: Callable[[], bool] | None = None,
    ) -> _T:
        """``function(deadline)``, again after temporary errors.

        Args:
            function: one try; must end by the deadline.
            operation: its name, for messages, such as ``put``.
            target: the object's key or the place.
            deadline_s: instead of the usual one.
            is_unwanted: asked between the tries; true ends them with the last error.

        Raises:
            KbrError: an error that can't get better, or the last one at the deadline.
        """
        deadline = Deadline(self._deadline_s if deadline_s is None else deadline_s, clock=self._clock)
        failure: KbrError | None = None
        for tries, delay in enumerate(self._backoff.delays(self._rng), start=1):
            try:
                result = function(deadline)
            except Exception as error:
                before = failure
                failure = error if isinstance(error, KbrError) else self._translate(error, operation, target)
                if not isinstance(failure, StoreUnavailable):
                    raise failure from _cause(failure, error)
                if deadline.passed and before is not None:
                    failure = before  # the last try was cut short: the one before it knows why
                if deadline.remaining_s() <= delay or (is_unwanted is not None and is_unwanted()):
                    raise StoreUnavailable(
                        f"{failure.message} ({tries} tries in {deadline.seconds - deadline.remaining_s():.0f} s)",
                        hint=failure.hint,
                        **failure.context,
                    ) from _cause(failure, error)
            else:
                self._succeeded()
                return result
            self._failed(failure, deadline)
            self._wait(delay, is_unwanted)
        raise AssertionError("the delays are endless")

    def _wait(self, delay_s: float, is_unwanted: Callable[[], bool] | None) -> None:
        wait = Deadline(delay_s, clock=self._clock)
        while (left := wait.remaining_s()) > 0 and not (is_unwanted is not None and is_unwanted()):
            self._clock.sleep(left if is_unwanted is None else min(left, _SLICE_S))

    def _failed(self, failure: KbrError, deadline: Deadline) -> None:
        with self._lock:
            if self._failing_since is not None:
                return
            self._failing_since = self._clock.monotonic()
        _log.warning("%s; trying again for up to %.0f s", failure.message, deadline.seconds)

    def _succeeded(self) -> None:
        if self._failing_since is None:
            return
        with self._lock:
            since, self._failing_since = self._failing_since, None
        if since is not None:
            _log.warning("storage answers again after %.1f s", self._clock.monotonic() - since)


def _cause(failure: KbrError, error: Exception) -> BaseException | None:
    """What a failure came from; itself where it came as it is."""
    return failure.__cause__ if failure is error else error
