"""Time windows, under the name that restores know them by: kbr.repository.window says what one is."""

from __future__ import annotations

from kbr.repository.window import TimeSpan, TimeWindow

__all__ = ["TimeSpan", "TimeWindow"]
