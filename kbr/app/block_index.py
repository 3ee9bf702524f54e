"""`kbr index`: write a backup's block index anew, and say how it stands. Needs the store only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import kbr
from kbr.app.inspect import catalog_of, opened_store
from kbr.app.run_lock import RunLock
from kbr.app.wiring import storage_options
from kbr.config import Config
from kbr.errors import (
    BlockIndexUnreadable,
    Incomplete,
    NotAnObject,
    ObjectTooLarge,
    PreflightRefused,
    UnsupportedFormat,
)
from kbr.format.documents import Manifest
from kbr.repository.index_writing import IndexBuilt, IndexWriter
from kbr.repository.indexes import open_index
from kbr.repository.layout import LockPlace
from kbr.timing import SYSTEM_CLOCK

__all__ = ["IndexBuildReport", "IndexReport", "build_index", "show_index"]

_HINT = "kbr index build writes it anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuildReport:
    """What came of writing an index anew."""

    backup_id: str
    built: IndexBuilt
    duration_s: float

    @property
    def exit_code(self) -> int:
        """3 where segments are left out because their own indexes can't be read."""
        return Incomplete.exit_code if self.built.problems else 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        head = self.built.head
        return {
            "backup_id": self.backup_id,
            "segments": head.segment_count,
            "segments_left": self.built.left,
            "blocks": head.row_count,
            "pieces": len(head.pieces),
            "index_bytes": head.size_bytes,
            "duration_s": round(self.duration_s, 3),
            "problems": list(self.built.problems),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """How an index stands to its backup: ``state`` is current, behind, stale or unreadable."""

    document: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """4 where it can't be believed."""
        return BlockIndexUnreadable.exit_code if self.document["state"] in {"stale", "unreadable"} else 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.document


def build_index(
    config: Config, backup_id: str, *, on_segment: Callable[[int], None] = lambda _count: None
) -> IndexBuildReport:
    """Write a backup's index anew from the segments' own indexes.

    Args:
        on_segment: told how many segments are done, now and then.

    Raises:
        BackupMissing: there is none of that id.
        PreflightRefused: it is another tool's.
        Locked: a run writes the backup.
        StorageError: the store failed; the index before stays.
    """
    begun = SYSTEM_CLOCK.monotonic()
    with (
        opened_store(config) as store,
        RunLock(
            storage_options(config),
            verb="index",
            life_s=config.backup.lock_life_ms / 1000,
            wait_s=config.backup.lock_wait_ms / 1000,
        ) as run_lock,
    ):
        # before the lock, which would make a folder for a backup that is not there
        _refuse_foreign(catalog_of(store, config).load(backup_id))
        with run_lock.hold(LockPlace(backup_id)) as lock:
            manifest = catalog_of(store, config).load(backup_id)
            writer = IndexWriter(
                store, backup_id, kbr_version=kbr.__version__, clock=SYSTEM_CLOCK, check_lock=lock.check
            )
            built = writer.build(manifest, on_segment=on_segment)
            writer.clean_quietly()
    return IndexBuildReport(backup_id=backup_id, built=built, duration_s=SYSTEM_CLOCK.monotonic() - begun)


def _refuse_foreign(manifest: Manifest) -> None:
    if manifest.made_by:
        raise PreflightRefused(
            f"backup {manifest.backup_id} was made by {manifest.made_by}: nothing is written to it, an index neither",
            hint="its segments have no blocks that an index could tell of: a window of it is found by reading every segment",
        )


def show_index(config: Config, backup_id: str) -> IndexReport:
    """How a backup's index stands to its manifest.

    Raises:
        BackupMissing: there is no backup of that id.
        BlockIndexMissing: it has no index.
        PreflightRefused: it is another tool's.
    """
    with opened_store(config) as store:
        manifest = catalog_of(store, config).load(backup_id)
        _refuse_foreign(manifest)
        listed = sum(len(partition.segments) for topic in manifest.topics for partition in topic.partitions)
        document: dict[str, Any] = {
            "backup_id": backup_id,
            "state": "unreadable",
            "segments": listed,
            "segments_covered": 0,
            "blocks": 0,
            "pieces": 0,
            "runs": 0,
            "index_bytes": 0,
            "updated_at_ms": None,
            "reasons": [],
        }
        try:
            index = open_index(store, backup_id)
            standing = index.standing(manifest)
        except (BlockIndexUnreadable, UnsupportedFormat, NotAnObject, ObjectTooLarge) as error:
            return IndexReport(document={**document, "reasons": [f"{error}; {_HINT}"]})
        head = index.head
        document.update(
            state=standing.name,
            segments_covered=standing.covered,
            blocks=head.row_count,
            pieces=len(head.pieces),
            runs=len({one.run for one in head.pieces}),
            index_bytes=head.size_bytes,
            updated_at_ms=head.updated_at_ms,
            reasons=list(standing.strange),
        )
        return IndexReport(document=document)
