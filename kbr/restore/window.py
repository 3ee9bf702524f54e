"""Time windows: which segments and blocks can hold records of one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kbr.timing import utc_text

__all__ = ["TimeSpan", "TimeWindow"]

_MIN = -(2**63)
_MAX = 2**63 - 1


class TimeSpan(Protocol):
    """A segment or a block: something with a smallest and a largest timestamp (ms)."""

    @property
    def min_timestamp(self) -> int: ...

    @property
    def max_timestamp(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """Timestamps from ``start_ms`` to ``end_ms``, both included.

    Records without a timestamp have -1 (Kafka's NO_TIMESTAMP), so a window that is open at its start
    or reaches below 0 takes them, and no other does.
    """

    start_ms: int = _MIN
    end_ms: int = _MAX

    @classmethod
    def between(cls, start_ms: int | None, end_ms: int | None) -> TimeWindow:
        """A window; None leaves that side open."""
        return cls(start_ms=_MIN if start_ms is None else start_ms, end_ms=_MAX if end_ms is None else end_ms)

    @property
    def is_open(self) -> bool:
        """Whether every record is in it."""
        return self.start_ms == _MIN and self.end_ms == _MAX

    def __str__(self) -> str:
        ends = (("from", self.start_ms, _MIN), ("to", self.end_ms, _MAX))
        return " ".join(f"{word} {utc_text(end) or end}" for word, end, is_open in ends if end != is_open) or "all times"

    def touches(self, span: TimeSpan) -> bool:
        """Whether ``span`` may hold records of the window: by extremes, so out-of-order records are found."""
        return span.min_timestamp <= self.end_ms and span.max_timestamp >= self.start_ms

    def covers(self, span: TimeSpan) -> bool:
        """Whether every record of ``span`` is in the window."""
        return span.min_timestamp >= self.start_ms and span.max_timestamp <= self.end_ms
