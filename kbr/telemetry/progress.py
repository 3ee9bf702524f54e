"""How far a run is: pure numbers per topic, for whoever shows them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kbr.telemetry.events import ProgressEvent
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["ProgressModel", "ProgressRow", "ProgressSink", "ProgressSnapshot"]

#: Rates are means over this window, seconds: long enough to be calm, short enough to tell.
RATE_WINDOW_S = 10.0
#: Between two points of that window, seconds: a snapshot may be asked for many times a second.
SAMPLE_INTERVAL_S = 0.5
#: No ETA before records have come for this long, seconds: connecting and the first full buffers say nothing of the rest.
ETA_AFTER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRow:
    """One topic, or all of them.

    Attributes:
        total: records at most; a log with holes ends below it.
        bytes_per_s, records_per_s: over the last seconds.
        eta_s: seconds left at that rate; None at the start, and while nothing comes.
    """

    topic: str
    records: int
    total: int
    raw_bytes: int
    bytes_per_s: float
    records_per_s: float
    eta_s: float | None

    @property
    def fraction(self) -> float:
        return min(1.0, self.records / self.total) if self.total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """All rows at one moment."""

    verb: str
    elapsed_s: float
    overall: ProgressRow
    topics: tuple[ProgressRow, ...]


class ProgressSink(Protocol):
    """Shows progress."""

    def start(self, model: ProgressModel) -> None:
        """A run begins."""

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Called often: the sink decides what to show."""

    def close(self) -> None:
        """The run is over."""


@dataclass(slots=True)
class _Topic:
    total: int
    records: int = 0
    raw_bytes: int = 0
    first_record_at: float | None = None
    #: (monotonic s, records, raw_bytes) so far, oldest first, within the window.
    history: deque[tuple[float, int, int]] = field(default_factory=deque)


class ProgressModel:
    """Adds up events.

    Args:
        verb: backup or restore.
        totals: records per topic, at most.
    """

    def __init__(self, *, verb: str, totals: Mapping[str, int], clock: Clock = SYSTEM_CLOCK) -> None:
        self.verb = verb
        self._clock = clock
        #: The run's thread adds, that of the control socket asks.
        self._lock = threading.Lock()
        self._begun = clock.monotonic()
        self._topics = {topic: _Topic(total) for topic, total in totals.items()}
        self._all = _Topic(sum(totals.values()))

    def expect(self, totals: Mapping[str, int]) -> None:
        """So many more records per topic, at most."""
        with self._lock:
            for topic, total in totals.items():
                self._topics.setdefault(topic, _Topic(0)).total += total
                self._all.total += total

    def add(self, event: ProgressEvent) -> None:
        """One event."""
        with self._lock:
            self._add(event)

    def _add(self, event: ProgressEvent) -> None:
        topic = self._topics.get(event.topic)
        if topic is None:
            topic = self._topics[event.topic] = _Topic(0)
        now = self._clock.monotonic()
        for entry in (topic, self._all):
            if entry.first_record_at is None and event.records:
                entry.first_record_at = now
            entry.records += event.records
            entry.raw_bytes += event.raw_bytes

    def snapshot(self) -> ProgressSnapshot:
        """The numbers now."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> ProgressSnapshot:
        now = self._clock.monotonic()
        return ProgressSnapshot(
            verb=self.verb,
            elapsed_s=now - self._begun,
            overall=self._row("", self._all, now),
            topics=tuple(self._row(topic, entry, now) for topic, entry in self._topics.items()),
        )

    def _row(self, topic: str, entry: _Topic, now: float) -> ProgressRow:
        history = entry.history
        if not history:
            history.append((self._begun, 0, 0))
        while len(history) > 1 and now - history[1][0] >= RATE_WINDOW_S:
            history.popleft()
        then, records, raw_bytes = history[0]
        span = now - then
        records_per_s = (entry.records - records) / span if span > 0 else 0.0
        bytes_per_s = (entry.raw_bytes - raw_bytes) / span if span > 0 else 0.0
        if now - history[-1][0] >= SAMPLE_INTERVAL_S:
            history.append((now, entry.records, entry.raw_bytes))
        left = max(0, entry.total - entry.records)
        eta_s: float | None = None
        if not left:
            eta_s = 0.0
        elif records_per_s > 0 and entry.first_record_at is not None and now - entry.first_record_at >= ETA_AFTER_S:
            eta_s = left / records_per_s
        return ProgressRow(
            topic=topic,
            records=entry.records,
            total=entry.total,
            raw_bytes=entry.raw_bytes,
            bytes_per_s=bytes_per_s,
            records_per_s=records_per_s,
            eta_s=eta_s,
        )
