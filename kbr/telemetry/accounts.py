"""What all tasks of a run have done and waited for: sums of their accounts. Pure."""

from __future__ import annotations

from kbr.telemetry.events import TaskAccount

__all__ = ["Accounts"]


class Accounts:
    """Sums; ``waited_s`` by what was waited for, seconds."""

    def __init__(self) -> None:
        self.record_bytes = 0
        self.waited_s: dict[str, float] = {}

    def take(self, event: object) -> None:
        """An event of a worker; others than accounts are let by."""
        if isinstance(event, TaskAccount):
            self.record_bytes += event.record_bytes
            for name, seconds in event.waited_s.items():
                self.waited_s[name] = self.waited_s.get(name, 0.0) + seconds
