"""Puts a backup's manifest into the store: the only thing in a backup that is ever replaced."""

from __future__ import annotations

from kbr.errors import IntegrityError
from kbr.format.documents import MAX_MANIFEST_BYTES, Manifest, ManifestRenderer, load_manifest
from kbr.format.open_part import Inventory
from kbr.model import RunStatus
from kbr.repository.layout import manifest_key
from kbr.repository.sealed_store import SealedStore
from kbr.repository.sealing import signer_of
from kbr.storage.base import ObjectStore

__all__ = ["ManifestPublisher", "publish_manifest"]


def publish_manifest(store: ObjectStore, manifest: Manifest) -> None:
    """Replace the backup's manifest, whole or not at all.

    Raises:
        IntegrityError: the manifest does not hold together; nothing was written.
        StorageError: the store failed; the manifest before it is still there.
    """
    ManifestPublisher(store).publish(manifest)


class ManifestPublisher:
    """Replaces one backup's manifest again and again; not for several threads at once.

    A manifest is read back from its bytes first, and compared: one that could not be read, or says another thing,
    never takes the place of a good one. A checkpoint between them reads back only what is new in it (100,000 segments
    take a second to read).
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._sealed = store if isinstance(store, SealedStore) else None
        self._sign = None if self._sealed is None else signer_of(self._sealed.trust)
        self._renderer = ManifestRenderer()
        self._inventory = Inventory()
        self._published = False

    def publish(self, manifest: Manifest) -> None:
        """Replace it, whole or not at all.

        Raises:
            IntegrityError: the manifest does not hold together; nothing was written.
            StorageError: the store failed; the manifest before it is still there.
        """
        key = manifest_key(manifest.backup_id)
        try:
            data = self._renderer.dump(manifest, self._sign)
        except ValueError as error:
            raise _misread(key) from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise IntegrityError(
                f"{key}: the manifest would have {len(data)} bytes, more than the {MAX_MANIFEST_BYTES} that are read again; the "
                "one before it stays",
                hint="go on under another backup_id, and with larger segments (backup.segment_max_bytes, "
                "backup.segment_max_interval_ms)",
                object=key,
            )
        if not self._published or manifest.status is not RunStatus.RUNNING:
            if load_manifest(data, name=key) != manifest:
                raise _misread(key)
            self._published = True
        if self._sealed is None:
            stored = self._store.put(key, data)
        else:
            stored = self._sealed.put_manifest(key, data, lambda: self._inventory.rows(manifest))
        if stored.size_bytes != len(data):
            raise IntegrityError(
                f"{key}: {len(data)} bytes were written, the store has {stored.size_bytes}",
                hint="check the store: it changes what it is given",
                object=key,
            )


def _misread(key: str) -> IntegrityError:
    return IntegrityError(
        f"{key}: the manifest reads otherwise than it was written",
        hint="this is a bug in kbr, or the machine's memory is failing",
        object=key,
    )
