"""What `kbr backup` sets up around a run, before and while it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from kbr.app import backup_run
from kbr.app.worker_events import RunDisplay
from kbr.config import load_config
from kbr.errors import FetchFailed, Locked
from kbr.telemetry.events import PartitionFailed


class _Signals:
    """What a command line registers."""

    requested = False

    def __init__(self) -> None:
        self.hangup: Callable[[], None] | None = None

    def on_stop(self, callback: Callable[[], None]) -> None:
        pass

    def on_hangup(self, callback: Callable[[], None]) -> None:
        self.hangup = callback


def test_sighup_does_not_end_a_continuous_backup_that_has_not_begun_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kbr.yaml"
    file.write_text(
        "mode: backup\nbackup_id: b\nsource: {bootstrap_servers: ['127.0.0.1:1'], topics: {include: [t]}}\n"
        f"storage: {{backend: filesystem, path: {tmp_path / 'store'}}}\nbackup: {{continuous: true}}\n"
    )
    config = load_config(file, environ={}, mode="backup")
    signals = _Signals()

    class Waits:
        """A run that waits for the lock."""

        def __init__(self, *_arguments: object, **_named: object) -> None:
            pass

        def run(self, _new_supervisor: object) -> None:
            assert signals.hangup is not None
            signals.hangup()
            raise Locked("another run has it", hint="wait")

    monkeypatch.setattr(backup_run, "BackupCoordinator", Waits)
    with pytest.raises(Locked):
        backup_run.run_backup(config, dry_run=False, progress=None, stop=signals, load=lambda: config)


def test_a_partition_that_fails_again_and_again_at_the_same_place_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    display = RunDisplay(None)
    with caplog.at_level(logging.ERROR):
        for offset in (5, 5, 5, 9, 9):
            for partition in (0, 1):
                error = FetchFailed(f"t[{partition}] at offset {offset}: a damaged batch", hint="restore the broker's disk")
                display.take(PartitionFailed(topic="t", partition=partition, error=error))
    assert len(caplog.records) == 4
