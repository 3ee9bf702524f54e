"""`kbr list`, `describe` and `verify`: what a store holds, read only from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kbr.app.wiring import storage_options
from kbr.config import Config
from kbr.maintain.describe import BackupDescription, describe, list_document
from kbr.maintain.verify import VerifyReport, verify
from kbr.repository.catalog import BackupSummary, Catalog
from kbr.storage import ObjectStore, open_store

__all__ = ["BackupList", "describe_backup", "list_backups", "verify_backup"]


@contextmanager
def _opened(config: Config) -> Iterator[ObjectStore]:
    store = open_store(storage_options(config.storage))
    try:
        store.check()
        yield store
    finally:
        store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupList:
    """What a store holds."""

    summaries: tuple[BackupSummary, ...]

    @property
    def exit_code(self) -> int:
        """Always 0: an unreadable backup is one of the lines."""
        return 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return list_document(self.summaries)


def list_backups(config: Config) -> BackupList:
    """All backups at the configured place; unreadable ones are among them, marked so."""
    with _opened(config) as store:
        return BackupList(summaries=tuple(Catalog(store).summaries()))


def describe_backup(config: Config, backup_id: str) -> BackupDescription:
    """One backup's topics, partitions, gaps and sums.

    Raises:
        BackupMissing: there is none of that id.
        ManifestUnreadable: its manifest is damaged.
    """
    with _opened(config) as store:
        return describe(Catalog(store).load(backup_id))


def verify_backup(config: Config, backup_id: str, *, deep: bool) -> VerifyReport:
    """Check a backup's objects against its manifest.

    Args:
        deep: also decode every block.

    Raises:
        BackupMissing: there is none of that id.
        ManifestUnreadable: its manifest is damaged.
    """
    with _opened(config) as store:
        manifest = Catalog(store).load(backup_id)
        return verify(store, manifest, deep=deep, max_block_bytes=config.limits.max_block_bytes)
