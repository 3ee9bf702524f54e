"""The manifest that a backup goes on from, and whether it may. Reads only."""

from __future__ import annotations

from kbr.backup.options import BackupOptions
from kbr.errors import BackupExists, BackupMissing
from kbr.format.documents import Manifest, SourceInfo
from kbr.repository.catalog import Catalog
from kbr.repository.foreign import foreign_backup
from kbr.repository.window import TimeWindow
from kbr.storage import ObjectStore

__all__ = ["load_previous"]


def load_previous(store: ObjectStore, options: BackupOptions, source: SourceInfo) -> Manifest | None:
    """What an earlier run of this backup_id left; None if there is nothing.

    Raises:
        ManifestUnreadable: something is there that can't be gone on from: never the same as nothing.
        BackupExists: it is of another cluster, or was taken in another way.
        StorageError: the store failed.
    """
    try:
        previous = Catalog(store, max_manifest_bytes=options.max_manifest_bytes).load(options.backup_id)
    except BackupMissing:
        return None
    if previous.made_by:
        raise foreign_backup(previous.made_by, options.backup_id, store.url)
    name = f"backup {options.backup_id} at {store.url}"
    if previous.source.cluster_id and source.cluster_id and previous.source.cluster_id != source.cluster_id:
        raise BackupExists(
            f"{name} is of another cluster (its id is {previous.source.cluster_id:.100}, this one's {source.cluster_id})",
            hint="choose another backup_id for this cluster, or check bootstrap_servers",
            backup_id=options.backup_id,
        )
    if previous.compression is not options.compression:
        raise BackupExists(
            f"{name} was taken with compression {previous.compression.value}, not {options.compression.value}",
            hint=f"set backup.compression: {previous.compression.value} to go on with it, or choose another backup_id",
            backup_id=options.backup_id,
        )
    if previous.source.isolation_level != options.isolation_level:
        raise BackupExists(
            f"{name} was taken with isolation_level {previous.source.isolation_level}, not {options.isolation_level}",
            hint=f"set backup.isolation_level: {previous.source.isolation_level} to go on with it, or choose another "
            "backup_id",
            backup_id=options.backup_id,
        )
    had = TimeWindow.between(previous.source.time_window_start_ms, previous.source.time_window_end_ms)
    if had != options.window:
        raise BackupExists(
            f"{name} was taken of the time window {_described(had)}, not {_described(options.window)}",
            hint=f"{_flags(had)} to go on with it, or choose another backup_id",
            backup_id=options.backup_id,
        )
    return previous


def _described(window: TimeWindow) -> str:
    return f"({window})"


def _flags(window: TimeWindow) -> str:
    """What to say on the command line for this window: instants in milliseconds, which nobody can misread."""
    start, end = window.bounds
    flags = [f"--from-timestamp {start}"] if start is not None else []
    flags += [f"--to-timestamp {end}"] if end is not None else []
    return f"give {' '.join(flags)}" if flags else "leave the time window out"
