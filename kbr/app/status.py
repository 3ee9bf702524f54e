"""`kbr status`: this user's running backups and restores, and their rate limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbr.errors import RunMissing, UsageError
from kbr.runtime.control import ask, find_runs
from kbr.telemetry.logs import get_logger

__all__ = ["RunList", "change_rate_limit", "running"]

_log = get_logger("kbr.status")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """What runs now."""

    runs: tuple[dict[str, Any], ...]

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"runs": list(self.runs)}


def _found(name: str | None) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in find_runs():
        try:
            found.append((path, ask(path, {})))
        except RunMissing as error:
            if not error.context.get("ended"):
                _log.warning("%s", error)
    if name is None:
        return found
    named = [(path, one) for path, one in found if name in (str(one.get("pid")), one.get("backup_id"))]
    if not named:
        raise RunMissing(f"no running kbr has the process id or backup_id {name}", hint="kbr status shows what runs")
    return named


def running(name: str | None) -> RunList:
    """The runs of this user, or the one of a process id or backup_id.

    Raises:
        RunMissing: there is none of that name.
    """
    return RunList(runs=tuple(one for _, one in _found(name)))


def change_rate_limit(name: str | None, rates: Mapping[str, float]) -> RunList:
    """Change the limit of one run: the one of that name, or the only one.

    Args:
        name: a process id or backup_id; None for the only run.
        rates: bytes_per_s and records_per_s, those that change; 0 is no limit.

    Raises:
        RunMissing: nothing runs, or nothing of that name.
        UsageError: it is not clear which run is meant.
    """
    found = _found(name)
    if not found:
        raise RunMissing("no kbr is running as this user", hint="kbr status shows what runs")
    if len(found) > 1:
        pids = ", ".join(str(one["pid"]) for _, one in found)
        raise UsageError("several runs: which one is to change?", hint=f"give its process id, one of {pids}")
    return RunList(runs=(ask(found[0][0], {"rate_limit": dict(rates)}),))
