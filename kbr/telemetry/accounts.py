"""What all tasks of a run have done and waited for: sums of their accounts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.telemetry.events import TaskAccount

__all__ = ["Accounts", "VerifyCounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCounts:
    """Blocks that were encoded, how many of them were decoded again before they were stored, and its CPU seconds."""

    blocks: int = 0
    decoded: int = 0
    cpu_s: float = 0.0


class Accounts:
    """Sums; ``waited_s`` by what was waited for, seconds."""

    def __init__(self) -> None:
        self.record_bytes = 0
        self.waited_s: dict[str, float] = {}
        self.extra_verify = VerifyCounts()

    def take(self, event: object) -> None:
        """An event of a worker; others than accounts are let by."""
        if isinstance(event, TaskAccount):
            self.record_bytes += event.record_bytes
            before = self.extra_verify
            self.extra_verify = VerifyCounts(
                blocks=before.blocks + event.blocks,
                decoded=before.decoded + event.verified_blocks,
                cpu_s=before.cpu_s + event.verify_cpu_s,
            )
            for name, seconds in event.waited_s.items():
                self.waited_s[name] = self.waited_s.get(name, 0.0) + seconds
