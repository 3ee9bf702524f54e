"""How a run looks while it goes on: a live table on a terminal, a line now and then elsewhere.

Writes to standard error only, and knows no work. SIGUSR1 asks for a line at once, in both.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from kbr.cli.units import bytes_text, count_text, duration_text
from kbr.telemetry.logs import get_logger, printable
from kbr.telemetry.progress import ProgressModel, ProgressRow, ProgressSnapshot
from kbr.timing import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["LinesProgress", "LiveProgress", "choose_progress"]

_log = get_logger("kbr.progress")

#: Topics in the live table; the slowest of those that are not done.
MAX_TOPIC_ROWS = 10
DEFAULT_FPS = 4.0


def choose_progress(*, stats_interval_s: float) -> LiveProgress | LinesProgress:
    """A live table when standard error is a terminal, else lines.

    Args:
        stats_interval_s: seconds between lines.
    """
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveProgress()
    return LinesProgress(interval_s=stats_interval_s)


def stat_line(snapshot: ProgressSnapshot) -> str:
    """One line that says it all."""
    row = snapshot.overall
    return (
        f"{snapshot.verb}: {count_text(row.records)} of at most {count_text(row.total)} records, "
        f"{bytes_text(row.raw_bytes)}, {bytes_text(row.bytes_per_s)}/s, {_eta(row)}"
    )


def _eta(row: ProgressRow) -> str:
    return "ETA unknown" if row.eta_s is None else f"ETA {duration_text(row.eta_s)}"


class _AskedBySignal:
    """Whether SIGUSR1 came since the last question (main thread only); without it the signal would end the run."""

    def __init__(self) -> None:
        self._asked = False
        self._previous = signal.signal(signal.SIGUSR1, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def take(self) -> bool:
        asked, self._asked = self._asked, False
        return asked

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self._previous)


class LinesProgress:
    """A log line every so often: for files, pipes and journals."""

    def __init__(self, *, interval_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._due_at = 0.0
        self._signal: _AskedBySignal | None = None

    def start(self, model: ProgressModel) -> None:
        """Begin; the first line comes after one interval."""
        del model
        self._due_at = self._clock.monotonic() + self._interval_s
        self._signal = _AskedBySignal()

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Write a line if one is due or was asked for."""
        asked = self._signal is not None and self._signal.take()
        now = self._clock.monotonic()
        if asked or now >= self._due_at:
            self._due_at = now + self._interval_s
            _log.info(stat_line(snapshot))

    def close(self) -> None:
        """End."""
        if self._signal is not None:
            self._signal.close()
            self._signal = None


class LiveProgress:
    """A table that is drawn again in place; log lines scroll above it."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._live: Live | None = None
        self._signal: _AskedBySignal | None = None
        self._interval_s = 1.0 / _frames_per_second()
        self._due_at = 0.0

    def start(self, model: ProgressModel) -> None:
        """Begin to draw."""
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            self._table(model.snapshot()),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()
        self._signal = _AskedBySignal()

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Draw if it is time; a line that was asked for stays above the table."""
        if self._signal is not None and self._signal.take():
            _log.info(stat_line(snapshot))
        now = self._clock.monotonic()
        if self._live is not None and now >= self._due_at:
            self._due_at = now + self._interval_s
            self._live.update(self._table(snapshot), refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._signal is not None:
            self._signal.close()
            self._signal = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    @staticmethod
    def _table(snapshot: ProgressSnapshot) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column(f"{snapshot.verb.upper()} {duration_text(snapshot.elapsed_s)}", overflow="fold")
        for heading in ("DONE", "RECORDS", "BYTES", "RATE", "ETA"):
            table.add_column(heading, justify="right", no_wrap=True)
        busy = sorted((row for row in snapshot.topics if row.records < row.total), key=lambda row: row.fraction)
        for name, row in [
            ("total", snapshot.overall),
            *((printable(row.topic), row) for row in busy[:MAX_TOPIC_ROWS]),
        ]:
            table.add_row(
                Text(name),
                f"{row.fraction:.0%}",
                count_text(row.records),
                bytes_text(row.raw_bytes),
                f"{bytes_text(row.bytes_per_s)}/s",
                "-" if row.eta_s is None else duration_text(row.eta_s),
            )
        if len(busy) > MAX_TOPIC_ROWS:
            table.add_row(Text(f"and {len(busy) - MAX_TOPIC_ROWS} more topics"))
        return table


def _frames_per_second() -> float:
    """KBR_PROGRESS_FPS, between 0.1 and 60; anything else is the default."""
    try:
        wanted = float(os.environ.get("KBR_PROGRESS_FPS", ""))
    except ValueError:
        return DEFAULT_FPS
    return wanted if 0.1 <= wanted <= 60 else DEFAULT_FPS
