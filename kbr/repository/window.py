"""Windows over records, by time and by offset: which segments, blocks and records are in one. Pure.

One place says it, so that a restore, `kbr cat` and the library read the same records of the same window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kbr.model import Record
from kbr.timing import utc_text

__all__ = ["MAX_OFFSET", "Span", "TimeSpan", "TimeWindow", "Window"]

_MIN = -(2**63)
_MAX = 2**63 - 1
#: An end of offsets that is open.
MAX_OFFSET = _MAX


class TimeSpan(Protocol):
    """A segment or a block: something with a smallest and a largest timestamp (ms)."""

    @property
    def min_timestamp(self) -> int: ...

    @property
    def max_timestamp(self) -> int: ...


class Span(TimeSpan, Protocol):
    """The same with the offsets of its first and its last record."""

    @property
    def first_offset(self) -> int: ...

    @property
    def last_offset(self) -> int: ...


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
    def bounds(self) -> tuple[int | None, int | None]:
        """Start and end; None for a side that is open."""
        return None if self.start_ms == _MIN else self.start_ms, None if self.end_ms == _MAX else self.end_ms

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Records of one partition: those whose timestamp and whose offset lie in it."""

    times: TimeWindow = TimeWindow()
    start_offset: int = 0
    end_offset_exclusive: int = MAX_OFFSET

    def touches(self, span: Span) -> bool:
        """Whether ``span`` may hold records of the window."""
        return (
            self.times.touches(span)
            and span.last_offset >= self.start_offset
            and span.first_offset < self.end_offset_exclusive
        )

    def covers(self, span: Span) -> bool:
        """Whether every record of ``span`` is in the window."""
        return (
            self.times.covers(span)
            and span.first_offset >= self.start_offset
            and span.last_offset < self.end_offset_exclusive
        )

    def records(self, records: Iterable[Record]) -> Sequence[Record]:
        """Those of ``records`` that are in the window."""
        start_ms, end_ms, start, end = self.times.start_ms, self.times.end_ms, self.start_offset, self.end_offset_exclusive
        return [one for one in records if start_ms <= one.timestamp <= end_ms and start <= one.offset < end]
