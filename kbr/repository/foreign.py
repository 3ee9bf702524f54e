"""Backups that another tool has made: read, and never written to, nor to anything below their folder.

Who is about to write into a backup's folder asks here first; a restore gets a view of the store that refuses to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NoReturn

from kbr.errors import AccessDenied, BackupExists, ObjectMissing
from kbr.format.documents import MAX_MANIFEST_BYTES, Manifest, load_manifest
from kbr.format.oso_manifest import oso_document, parse_oso_manifest
from kbr.format.oso_names import MADE_BY, is_segment_name
from kbr.repository.layout import key_below_backup, manifest_key, topics_prefix
from kbr.storage.base import NO_METADATA, ObjectInfo, ObjectStore, StoreProperties, Upload

__all__ = ["ReadOnlyStore", "foreign_backup", "load_any_manifest", "made_by", "refuse_foreign"]

#: How kbr's own manifests begin.
_OWN = b'{"format":'
#: Objects of a folder without a manifest that are looked at.
_LOOKS = 10


def load_any_manifest(data: bytes, *, name: str) -> Manifest:
    """A manifest of kbr's, or of another tool that it reads.

    Raises:
        ManifestUnreadable: it is empty, cut off, altered, or not as it has to be.
        UnsupportedFormat: it is of another version, or something else.
    """
    document = oso_document(data)
    return load_manifest(data, name=name) if document is None else parse_oso_manifest(document, name=name)


def made_by(store: ObjectStore, backup_id: str) -> str:
    """The other tool whose backup lies in the folder of this backup_id; empty where there is none, or kbr's own.

    Raises:
        StorageError: the store failed.
    """
    key = manifest_key(backup_id)
    try:
        size = store.head(key).size_bytes
        if store.read_range(key, 0, min(size, len(_OWN))) == _OWN:
            return ""
        if oso_document(store.get(key, max_bytes=MAX_MANIFEST_BYTES)) is not None:
            return MADE_BY
    except ObjectMissing:
        pass  # the tool's first run writes its manifest after its first segments
    # none, or one that nobody can read
    names = (key_below_backup(backup_id, one.key) for one in islice(store.list(topics_prefix(backup_id)), _LOOKS))
    return MADE_BY if any(is_segment_name(name) for name in names) else ""


def refuse_foreign(store: ObjectStore, backup_id: str) -> None:
    """Let nobody write where another tool's backup lies.

    Raises:
        BackupExists: there is one.
        StorageError: the store failed.
    """
    tool = made_by(store, backup_id)
    if tool:
        raise foreign_backup(tool, backup_id, store.url)


def foreign_backup(tool: str, backup_id: str, url: str) -> BackupExists:
    """The error of who would write into it."""
    return BackupExists(
        f"backup {backup_id} at {url} was made by {tool}: kbr reads it, and never writes to it",
        hint="choose another backup_id for kbr's own backup; list, describe, verify and restore read this one",
        backup_id=backup_id,
    )


class ReadOnlyStore:
    """A view of a store that refuses to write: as one does that gives only the right to read.

    Args:
        inner: the store; it stays its owner's.
        tool: whose backup it is, for the message.
    """

    def __init__(self, inner: ObjectStore, tool: str) -> None:
        self._inner = inner
        self._tool = tool

    @property
    def properties(self) -> StoreProperties:
        return self._inner.properties

    @property
    def url(self) -> str:
        return self._inner.url

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        self._refuse(key)

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        self._refuse(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return self._inner.get(key, max_bytes=max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._inner.read_range(key, start, length)

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._refuse(key)

    def remove_leftovers(self, folder: str) -> int:
        self._refuse(folder)

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        """Nothing: the store is its owner's."""

    def _refuse(self, key: str) -> NoReturn:
        raise AccessDenied(
            f"{key}: nothing is written to a backup of {self._tool}",
            hint="this is a bug in kbr",
            object=key,
        )
