"""`kbr list`, `describe` and `verify`: what a store holds, read only from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kbr.app.wiring import storage_options
from kbr.config import Config
from kbr.errors import AccessDenied, NotEncrypted, SignatureInvalid, WrongKey
from kbr.format.documents import Manifest
from kbr.format.restore_state import RestoreStatus
from kbr.maintain.describe import BackupDescription, describe, list_document
from kbr.maintain.presence import verify_presence, with_keys
from kbr.maintain.verify import VerifyReport, verify
from kbr.model import RunStatus
from kbr.repository.catalog import BackupSummary, Catalog, summarise
from kbr.repository.layout import LockPlace
from kbr.repository.lock_look import is_lock_held
from kbr.repository.restore_states import RestoreSummary, list_restores
from kbr.repository.sealed_store import SealedStore
from kbr.repository.sealing import is_encrypted
from kbr.storage import ObjectStore, open_store

__all__ = ["BackupList", "catalog_of", "describe_backup", "list_backups", "looked_at_restores", "opened_store", "verify_backup"]


@contextmanager
def opened_store(config: Config, *, lenient: bool = False) -> Iterator[ObjectStore]:
    """The configured store, while it is needed.

    Args:
        lenient: for who only shows what is there: also backups that are not encrypted, or not signed, as they should be.
    """
    store = open_store(storage_options(config, lenient=lenient))
    try:
        store.check()
        yield store
    finally:
        store.close()


def catalog_of(store: ObjectStore, config: Config) -> Catalog:
    """The backups of a store, within what the configuration believes of one."""
    return Catalog(store, max_manifest_bytes=config.limits.max_manifest_bytes)


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
    with opened_store(config, lenient=True) as store:
        return BackupList(summaries=tuple(_with_lock(store, config, one) for one in catalog_of(store, config).summaries()))


def describe_backup(config: Config, backup_id: str) -> BackupDescription:
    """One backup's topics, partitions, gaps and sums, and its restores.

    One that is not encrypted, or not signed, as the configuration wants it, is shown all the same, with a word about that.

    Raises:
        BackupMissing: there is none of that id.
        ManifestUnreadable: its manifest is damaged.
    """
    try:
        return _described(config, backup_id, lenient=False)
    except (NotEncrypted, SignatureInvalid) as error:
        return replace(_described(config, backup_id, lenient=True), distrusted=error.message)


def _described(config: Config, backup_id: str, *, lenient: bool) -> BackupDescription:
    with opened_store(config, lenient=lenient) as store:
        manifest, held = _looked_at(store, config, backup_id)
        try:
            restores = looked_at_restores(store, backup_id)
        except AccessDenied:  # who may read a backup may lack the right to list
            restores = None
        return describe(manifest, lock_held=held, restores=restores, encrypted=is_encrypted(store, backup_id))


def looked_at_restores(store: ObjectStore, backup_id: str) -> list[RestoreSummary]:
    """A backup's restores, with a look at the lock of those that say they are running.

    Raises:
        StorageError: the store failed.
    """
    running = RestoreStatus.RUNNING.value
    restores = list_restores(store, backup_id)
    held = {
        one.restore_id: is_lock_held(store, LockPlace(backup_id, one.restore_id))
        for one in restores
        if one.status == running
    }
    if any(one is False for one in held.values()):
        restores = list_restores(store, backup_id)  # as of a backup: one may have ended between the two looks
    return [replace(one, lock_held=held.get(one.restore_id)) if one.status == running else one for one in restores]


def _with_lock(store: ObjectStore, config: Config, summary: BackupSummary) -> BackupSummary:
    """With a look at the lock of one that says it is running: only of those, as each look is some requests."""
    if summary.status != RunStatus.RUNNING.value:
        return summary
    manifest, held = _looked_at(store, config, summary.backup_id)
    return replace(summarise(manifest), lock_held=held, encrypted=summary.encrypted)


def _looked_at(store: ObjectStore, config: Config, backup_id: str) -> tuple[Manifest, bool | None]:
    """A manifest, and of one that says it is running whether a run holds the lock."""
    manifest = catalog_of(store, config).load(backup_id)
    if manifest.status is not RunStatus.RUNNING:
        return manifest, None
    held = is_lock_held(store, backup_id)
    if held is False:
        # the run may have ended between the two looks: then it has said so before it gave its lock up
        manifest = catalog_of(store, config).load(backup_id)
    return manifest, held if manifest.status is RunStatus.RUNNING else None


def verify_backup(config: Config, backup_id: str, *, deep: bool) -> VerifyReport:
    """Check a backup's objects against its manifest.

    An encrypted one without any key: only whether they are there, and their sizes.

    Args:
        deep: also decode every block.

    Raises:
        BackupMissing: there is none of that id.
        ManifestUnreadable: its manifest is damaged, or not signed by who has to.
        WrongKey: it is encrypted, and the key that was given is not its, or the blocks are to be decoded without any.
    """
    with opened_store(config) as store:
        try:
            manifest = catalog_of(store, config).load(backup_id)
        except WrongKey:
            # who gives a key wants it to open the backup
            if deep or not isinstance(store, SealedStore) or store.trust.secrets.can_open:
                raise
            return _verify_presence(store, backup_id)
        report = verify(store, manifest, deep=deep, max_block_bytes=config.limits.max_block_bytes)
        if isinstance(store, SealedStore) and is_encrypted(store, backup_id):
            report = with_keys(report, store.keys.find(backup_id).flaw)
        return replace(
            report,
            encrypted=is_encrypted(store, backup_id),
            signature_checked=isinstance(store, SealedStore) and bool(store.trust.public_keys),
        )


def _verify_presence(store: SealedStore, backup_id: str) -> VerifyReport:
    keys, flaw = store.keys.find(backup_id)
    report = verify_presence(store.inner, store.keys.open_part(backup_id), "" if keys is None else keys.openers)
    if store.trust.public_keys:
        note = "the manifest's signature was not checked, although signing.public_keys are given: it is encrypted, as all of it"
        report = replace(report, notes=(*report.notes, note))
    return with_keys(report, flaw)
