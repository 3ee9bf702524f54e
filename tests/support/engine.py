"""Backups and restores in this process, with real worker processes: what the command line does, without its start.

A command with S3 takes seconds to start on a busy machine, a run here a fraction of one: for tests of many runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kbr.app.backup_run import run_backup
from kbr.app.restore_run import run_restore
from kbr.config import load_config

__all__ = ["Stop", "backup_here", "restore_here"]


class Stop:
    """A wish to stop, from a test; nobody's, unless it calls ``now()``."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def on_stop(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def now(self) -> None:
        for callback in self._callbacks:
            callback()


def backup_here(
    overrides: Mapping[str, object], *, sets: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Any:
    """Run a backup; its report as -o json has it.

    Args:
        overrides: configuration values by dotted name.
        sets: the same as texts, ``a.b=value``.
        env: KBR_ variables.
    """
    config = load_config(None, sets=sets, overrides=overrides, environ=dict(env or {}), mode="backup")
    return run_backup(config, dry_run=False, progress=None, stop=Stop()).to_document()


def restore_here(
    overrides: Mapping[str, object], *, sets: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Any:
    """Run a restore; its report as -o json has it."""
    config = load_config(None, sets=sets, overrides=overrides, environ=dict(env or {}), mode="restore")
    return run_restore(config, dry_run=False, progress=None, stop=Stop()).to_document()
