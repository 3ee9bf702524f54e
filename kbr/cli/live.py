"""What surrounds a running use case: the progress display and the signals that end it. Knows no work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kbr.cli.options import Invocation
from kbr.cli.stop import StopSignals

if TYPE_CHECKING:
    from kbr.telemetry.progress import ProgressSink

__all__ = ["STATS_INTERVAL_S", "live"]

#: Seconds between progress lines where there is no terminal, of a verb that has no flag for it.
STATS_INTERVAL_S = 60.0


@contextmanager
def live(
    invocation: Invocation, *, stats_interval_s: float = STATS_INTERVAL_S
) -> Iterator[tuple[ProgressSink | None, StopSignals]]:
    """A place for progress (None with -q) and a source of stop wishes, for as long as work goes on."""
    from kbr.cli.progress import choose_progress

    progress = None if invocation.quiet else choose_progress(stats_interval_s=stats_interval_s)
    with StopSignals() as stop:
        yield progress, stop
