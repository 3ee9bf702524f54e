"""The parts of verbs' documents that tell of windows, and how people see them."""

from __future__ import annotations

from typing import TypedDict

from kbr.cli.units import instant_text, local_instant_text

__all__ = ["OffsetWindow", "WindowEnds", "window_lines"]


class WindowEnds(TypedDict):
    """A window of time, both ends included; None where it is open."""

    time_window_start_ms: int | None
    time_window_end_ms: int | None


class OffsetWindow(TypedDict):
    """Which offsets of a partition a restore takes, both included; None is no end."""

    topic: str
    partition: int
    start_offset: int
    end_offset: int | None


def window_lines(ends: WindowEnds) -> list[str]:
    """A window of time: a line for each end that it has."""
    named = (("From", ends["time_window_start_ms"]), ("To  ", ends["time_window_end_ms"]))
    return [
        f"{name} {instant_text(end)} ({local_instant_text(end)} local time)" for name, end in named if end is not None
    ]
