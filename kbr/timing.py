"""Clocks, deadlines, back-off, and how a moment is written. Pure and injectable; nothing else in kbr calls ``time``."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Backoff", "Clock", "Deadline", "SystemClock", "utc_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def utc_text(milliseconds: int) -> str | None:
    """A moment as ISO 8601 (RFC 3339) in UTC with milliseconds: the one way that kbr writes times in results and messages.

    Args:
        milliseconds: since the epoch.

    Returns:
        None for what no calendar has (beyond the year 9999), and below 0: Kafka's -1 is no time.
    """
    if milliseconds < 0:
        return None
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back: for deadlines and durations."""

    def boot_ns(self) -> int:
        """Nanoseconds on a clock that never goes back and counts the time that the machine was suspended.

        The same for all processes of one machine: for what others elsewhere rely on, such as a lock's life.
        """

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch: for stamps only, never for durations."""

    def sleep(self, seconds: float) -> None:
        """Wait that long."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def boot_ns(self) -> int:
        # systems without it have a monotonic clock that goes on while they are suspended, or are no place for backups
        return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()


class Deadline:
    """A point on the monotonic clock after which something has taken too long."""

    def __init__(self, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.seconds = seconds
        self._at = clock.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def passed(self) -> bool:
        return self._clock.monotonic() >= self._at


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with full jitter: each delay is uniform in [0, min(cap, base * 2^n)].

    Full jitter keeps many workers from retrying in step.
    """

    base_s: float = 0.2
    cap_s: float = 30.0

    def delays(self, rng: random.Random | None = None) -> Iterator[float]:
        """Endless delays in seconds; the caller's deadline ends them."""
        source = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        ceiling = self.base_s
        while True:
            yield source.uniform(0.0, ceiling)
            ceiling = min(self.cap_s, ceiling * 2)
