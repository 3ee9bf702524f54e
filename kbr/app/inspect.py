"""`kbr list`, `describe` and `verify`: what a store holds, read only from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kbr.app.wiring import storage_options
from kbr.config import Config
from kbr.maintain.describe import BackupDescription, BackupList, describe, list_backups as list_in_store
from kbr.maintain.verify import VerifyReport, verify
from kbr.repository.catalog import Catalog
from kbr.storage import ObjectStore, open_store

__all__ = ["describe_backup", "list_backups", "verify_backup"]


@contextmanager
def _opened(config: Config) -> Iterator[ObjectStore]:
    store = open_store(storage_options(config.storage))
    try:
        store.check()
        yield store
    finally:
        store.close()


def list_backups(config: Config) -> BackupList:
    """All backups at the configured place; unreadable ones are among them, marked so."""
    with _opened(config) as store:
        return list_in_store(Catalog(store))


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
