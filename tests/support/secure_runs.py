"""Backups and restores of the secure Kafka in this process, with real worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kbr.app.backup_run import run_backup
from kbr.app.groups import GroupRun, move_groups
from kbr.app.restore_run import run_restore
from kbr.config import load_config
from kbr.errors import KbrError

from .engine import Stop
from .secure_kafka import SecureKafka, Way

__all__ = ["Done", "back_up", "cluster_values", "put_groups", "restore"]


class Done(NamedTuple):
    """How a run ended: its exit code, what it said (an error's message and hint, or the report), and its report."""

    exit_code: int
    text: str
    report: Mapping[str, Any]


def cluster_values(side: str, cluster: Mapping[str, Any]) -> dict[str, object]:
    """A cluster section as values by dotted name."""
    values: dict[str, object] = {f"{side}.bootstrap_servers": cluster["bootstrap_servers"]}
    values.update({f"{side}.security.{name}": value for name, value in cluster["security"].items()})
    return values


def back_up(secure: SecureKafka, way: Way, user: str, folder: Path, topic: str, **more: object) -> Done:
    """A backup of a topic; ``more`` are keys of ``backup``."""
    values = {
        **cluster_values("source", secure.cluster_config(way, user)),
        "backup_id": "b",
        "source.topics.include": [topic],
        "storage.url": str(folder),
        "backup.workers": 1,
        **{f"backup.{name}": value for name, value in more.items()},
    }
    return _run("backup", values)


def restore(secure: SecureKafka, way: Way, user: str, folder: Path, topic: str, target: str, **more: object) -> Done:
    """A restore of it under another name; ``more`` are keys of ``restore``."""
    values = {
        **cluster_values("target", secure.cluster_config(way, user)),
        "backup_id": "b",
        "storage.url": str(folder),
        "restore.topic_mapping": {topic: target},
        "restore.workers": 1,
        **{f"restore.{name}": value for name, value in more.items()},
    }
    return _run("restore", values)


def _run(verb: Any, values: Mapping[str, object]) -> Done:
    config = load_config(None, overrides=values, environ={}, mode=verb)
    run: Any = run_backup if verb == "backup" else run_restore
    try:
        report = run(config, dry_run=False, progress=None, stop=Stop())
    except KbrError as error:
        return Done(error.exit_code, f"{error} ({error.hint})", {})
    document = report.to_document()
    return Done(report.exit_code, str(document), document)


def put_groups(
    secure: SecureKafka, way: Way, user: str, folder: Path, restore_id: str, mapping: Mapping[str, str]
) -> Done:
    """Commit the backup's groups under other names."""
    values = {
        **cluster_values("target", secure.cluster_config(way, user)),
        "backup_id": "b",
        "storage.url": str(folder),
    }
    config = load_config(None, overrides=values, environ={}, mode="restore")
    run = GroupRun(patterns=("*",), group_mapping=dict(mapping), execute=True)
    try:
        report = move_groups(config, run, restore_id=restore_id)
    except KbrError as error:
        return Done(error.exit_code, f"{error} ({error.hint})", {})
    document = report.to_document()
    return Done(report.exit_code, str(document), document)
