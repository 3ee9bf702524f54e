"""What surrounds a running use case: the progress display and the signals that end it. Knows no work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kbr.cli.options import Invocation
from kbr.cli.stop import StopSignals

if TYPE_CHECKING:
    from kbr.telemetry.progress import ProgressSink

__all__ = ["live"]


@contextmanager
def live(invocation: Invocation) -> Iterator[tuple[ProgressSink | None, StopSignals]]:
    """A place for progress (None if it is not wanted) and a source of stop wishes, for as long as work goes on."""
    with StopSignals() as stop:
        yield None, stop
