"""What can be asked of a run while it works, and changed: its progress and its rate limit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from kbr.app.worker_events import RunDisplay
from kbr.backup.watching import BackupNow
from kbr.errors import UsageError
from kbr.runtime.control import ControlServer
from kbr.runtime.pacing import Pacer, RateLimit
from kbr.telemetry.logs import get_logger
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["RunControl"]

_log = get_logger("kbr.run")

#: Topics that an answer tells of, those that are furthest behind: 1000 of the longest names are 400 kB.
MAX_TOPICS = 1000


class RunControl:
    """One run's rate limit and control socket; a context manager.

    Args:
        verb: backup or restore.
        limit: to begin with.
        display: knows the progress.
    """

    def __init__(
        self, verb: str, backup_id: str, limit: RateLimit, display: RunDisplay, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._verb = verb
        self._backup_id = backup_id
        self._display = display
        self._clock = clock
        self._started_at_ms = clock.now_ms()
        self._begun = clock.monotonic()
        self.pacer = Pacer.create(limit)
        self._server = ControlServer(self._answer)
        self._backup: Callable[[], BackupNow] | None = None

    def __enter__(self) -> RunControl:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.pacer.remove()
        self.pacer.close()

    def tell_of(self, backup: Callable[[], BackupNow]) -> None:
        """There is more to tell from now on."""
        self._backup = backup

    def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        limit = request.get("rate_limit")
        if limit is not None:
            self._change(limit)
        return self._status()

    def _change(self, wanted: object) -> None:
        before = self.pacer.limit
        if not isinstance(wanted, dict) or not wanted or not set(wanted) <= {"bytes_per_s", "records_per_s"}:
            raise UsageError("rate_limit takes bytes_per_s and records_per_s", hint="0 is no limit")
        rates = {"bytes_per_s": before.bytes_per_s, "records_per_s": before.records_per_s, **wanted}
        for name, value in rates.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise UsageError(f"{name} has to be a number of at least 0", hint="0 is no limit")
        limit = RateLimit(float(rates["bytes_per_s"]), float(rates["records_per_s"]))
        self.pacer.change(limit)
        _log.info("rate limit changed from %s to %s", _words(before), _words(limit))

    def _status(self) -> dict[str, Any]:
        snapshot = self._display.snapshot()
        overall = None if snapshot is None else snapshot.overall
        passed_bytes, passed_records = self.pacer.passed
        return {
            "pid": os.getpid(),
            "verb": self._verb,
            "backup_id": self._backup_id,
            "started_at_ms": self._started_at_ms,
            "elapsed_s": round(self._clock.monotonic() - self._begun, 3),
            "records": 0 if overall is None else overall.records,
            "total_records": None if overall is None else overall.total,
            "raw_bytes": 0 if overall is None else overall.raw_bytes,
            "records_per_s": 0.0 if overall is None else round(overall.records_per_s, 1),
            "bytes_per_s": 0.0 if overall is None else round(overall.bytes_per_s, 1),
            "eta_s": None if overall is None or overall.eta_s is None else round(overall.eta_s, 1),
            "rate_limit": _rate_document(self.pacer.limit),
            "limited_bytes": passed_bytes,
            "limited_records": passed_records,
            **_backup_document(None if self._backup is None else self._backup()),
        }


def _backup_document(now: BackupNow | None) -> dict[str, Any]:
    """What a backup is doing and how far behind it is, JSON-ready; nulls for a restore."""
    if now is None:
        return {"doing": None, "lag_records": None, "topic_count": None, "topics": []}
    behind = sorted(now.topics, key=lambda one: (-one.lag, one.topic))
    return {
        "doing": now.doing.value,
        "lag_records": sum(one.lag for one in now.topics),
        "topic_count": len(now.topics),
        "topics": [
            {
                "topic": one.topic,
                "partitions": one.partitions,
                "next_offset": one.next_offset,
                "high_watermark": one.high_watermark,
                "lag_records": one.lag,
            }
            for one in behind[:MAX_TOPICS]
        ],
    }


def _rate_document(limit: RateLimit) -> dict[str, float | None]:
    """A limit, JSON-ready; None is no limit."""
    return {"bytes_per_s": limit.bytes_per_s or None, "records_per_s": limit.records_per_s or None}


def _words(limit: RateLimit) -> str:
    parts = []
    if limit.bytes_per_s:
        parts.append(f"{limit.bytes_per_s:.0f} bytes/s")
    if limit.records_per_s:
        parts.append(f"{limit.records_per_s:.0f} records/s")
    return " and ".join(parts) or "none"
