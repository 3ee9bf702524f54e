"""Waiting for a condition with a deadline: the only way tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def wait_until(condition: Callable[[], _T], *, deadline_s: float, what: str) -> _T:
    """The first true value of ``condition()``.

    Raises:
        AssertionError: it stayed false until the deadline.
    """
    until = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
