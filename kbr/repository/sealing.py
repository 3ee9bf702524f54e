"""Puts encryption over stores: for a run that has secrets, and for its workers, who get one backup's data key only.

Import it freely: cryptography is loaded when something is sealed or opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kbr.errors import SealBroken
from kbr.format.data_keys import DataKey
from kbr.format.documents import MAX_MANIFEST_BYTES
from kbr.format.manifest_signature import Signature, Signer, signature_suffix
from kbr.repository.backup_keys import Trust
from kbr.repository.layout import manifest_key
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.secrecy import hide, secrets_of
from kbr.storage import ObjectStore, StorageOptions

__all__ = [
    "BackupSealing",
    "Sealing",
    "as_stored",
    "begin_backup",
    "check_new_backup",
    "for_workers",
    "is_encrypted",
    "is_to_be_signed",
    "lists_only",
    "signature_check",
    "signer_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """A layer for all backups of a store (kbr.storage.options.StoreLayer)."""

    trust: Trust

    def over(self, store: ObjectStore) -> ObjectStore:
        """The store, sealed."""
        return seal_over(store, self.trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSealing:
    """A layer for one encrypted backup, whose key is known."""

    backup_id: str
    data_key: DataKey

    def over(self, store: ObjectStore) -> ObjectStore:
        """The store, sealed."""
        return seal_over(store, Trust(), known={self.backup_id: self.data_key})


def begin_backup(store: ObjectStore, backup_id: str, check_lock: Callable[[], None] = lambda: None) -> None:
    """Before a run writes to a backup, and under its lock: see BackupKeys.begin().

    Args:
        check_lock: raises where the lock is another run's by now.

    Raises:
        WrongKey: it is encrypted, and can't be gone on with by what was given.
        BackupExists: it was begun without encryption, and that is asked for.
        SealBroken: its keys or its manifest are damaged.
        SignatureInvalid: the manifest, which keys that are lost would come back from, is not signed by who is trusted.
    """
    if isinstance(store, SealedStore) and store.keys.begin(backup_id, check_lock):
        # first of all it has to be what was written there, and signed: its copy takes the place of what is there
        store.get(manifest_key(backup_id), max_bytes=MAX_MANIFEST_BYTES)
        check_lock()
        store.keys.put_back(backup_id)


def check_new_backup(store: ObjectStore, backup_id: str) -> None:
    """For who has begun a backup and found no manifest: see BackupKeys.check_new().

    Raises:
        SealBroken: what is written would be sealed with keys that somebody else may have made.
    """
    if isinstance(store, SealedStore):
        store.keys.check_new(backup_id)


def for_workers(store: ObjectStore, options: StorageOptions, backup_id: str) -> StorageOptions:
    """The options of a store for processes that have to do with one backup only: they need no secret but its key.

    Args:
        store: opened with these options.
    """
    if not isinstance(store, SealedStore):
        return options
    data_key = store.keys.data_key(backup_id)
    layer = None if data_key is None else BackupSealing(backup_id=backup_id, data_key=data_key)
    hide(secrets_of(layer))
    return replace(options, layer=layer)


def as_stored(store: ObjectStore) -> ObjectStore:
    """The objects as they lie there, sealed or not."""
    return store.inner if isinstance(store, SealedStore) else store


def is_encrypted(store: ObjectStore, backup_id: str) -> bool:
    """Whether a backup is known to be encrypted, by what was read of it so far."""
    try:
        return isinstance(store, SealedStore) and store.keys.is_sealed(backup_id)
    except SealBroken:  # its keys are there, and damaged
        return True


def lists_only(store: ObjectStore, backup_id: str) -> bool:
    """Whether of a backup nothing may be used but what its manifest lists: that is signed, and a plain segment proves nothing.

    A segment of an encrypted backup does: who has not the data key can't have made it.
    """
    return isinstance(store, SealedStore) and bool(store.trust.public_keys) and store.keys.data_key(backup_id) is None


def signer_of(trust: Trust) -> Signer | None:
    """What signs the manifests that are written; None where they are not to be signed."""
    private = trust.signing_key
    if private is None:
        return None
    return lambda backup_id, digest: signature_suffix(private, backup_id, digest)


def signature_check(store: ObjectStore, backup_id: str) -> Callable[[Signature | None, bytes], None] | None:
    """Checks a manifest that is read piece by piece, which the store can't; None where no signature is wanted.

    Returns:
        Takes the signature and the SHA-256 of all bytes before it; raises SignatureInvalid.
    """
    if not isinstance(store, SealedStore) or not store.trust.public_keys:
        return None
    sealed, name = store, manifest_key(backup_id)

    def check(found: Signature | None, digest: bytes) -> None:
        sealed.check_signature(backup_id, found, digest, name=name)

    return check


def is_to_be_signed(store: ObjectStore, backup_id: str) -> bool:
    """Whether this run signs, and the manifest that it has read has no signature, or that of another key."""
    if not isinstance(store, SealedStore) or store.trust.signing_key is None:
        return False
    found = store.signer(backup_id)
    if found is None:
        return False
    from kbr.format import crypto

    return found != crypto.signer_of(store.trust.signing_key)
