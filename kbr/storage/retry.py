"""One retry loop for all stores: jittered back-off until a deadline, only for what can get better."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TypeVar

from kbr.errors import KbrError, StoreUnavailable
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["Retry"]

_T = TypeVar("_T")
_log = logging.getLogger("kbr.storage")


class Retry:
    """Tries an operation again.

    Args:
        deadline_s: from the first try, seconds.
        translate: a library's exception to a KbrError; StoreUnavailable means 'can get better'.
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

    def call(
        self, function: Callable[[], _T], operation: str, target: str, *, deadline_s: float | None = None
    ) -> _T:
        """``function()``, again after temporary errors.

        Args:
            operation: its name, for messages, such as ``put``.
            target: the object's key or the place.
            deadline_s: instead of the usual one.

        Raises:
            KbrError: an error that can't get better, or the last one at the deadline.
        """
        deadline = Deadline(self._deadline_s if deadline_s is None else deadline_s, clock=self._clock)
        for tries, delay in enumerate(self._backoff.delays(self._rng), start=1):
            try:
                return function()
            except KbrError as error:
                failure = error
            except Exception as error:
                failure = self._translate(error, operation, target)
                failure.__cause__ = error
            if not isinstance(failure, StoreUnavailable):
                raise failure
            if deadline.remaining_s() <= delay:
                raise StoreUnavailable(
                    f"{failure.message} ({tries} tries in {deadline.seconds - deadline.remaining_s():.0f} s)",
                    hint=failure.hint,
                    **failure.context,
                ) from failure
            if tries == 1:
                _log.warning("%s; trying again for up to %.0f s", failure.message, deadline.seconds)
            self._clock.sleep(delay)
        raise AssertionError("the delays are endless")
