"""The parts of verbs' documents that tell of windows."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["OffsetWindow", "WindowEnds"]


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
