"""A clock that tests turn by hand."""

from __future__ import annotations


class FakeClock:
    """Stands still, but for sleep() and advance()."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def boot_ns(self) -> int:
        return 1_000_000_000_000 + int(self._now * 1_000_000_000)

    def now_ms(self) -> int:
        return 1_714_564_800_000 + int(self._now * 1000)

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def advance(self, seconds: float) -> None:
        self._now += seconds
