"""Which backups of a store are encrypted, with what key, and what a run may do with those that are not.

Told by a backup's ``keys.json``, or the copy of it in its manifest. Knows nothing of how objects are sealed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbr.errors import (
    BackupExists,
    NotEncrypted,
    ObjectMissing,
    PreconditionFailed,
    SealBroken,
    UnsupportedFormat,
    WrongKey,
)
from kbr.format.data_keys import (
    MAX_KEYS_BYTES,
    DataKey,
    KeysDocument,
    KeySecrets,
    load_keys,
    new_keys,
    open_keys,
    recipient_id,
    wrong_key,
)
from kbr.format.envelope import HEADER_BYTES, broken, is_sealed_object, parse_header
from kbr.format.open_part import OpenPart, load_open_part
from kbr.repository.layout import backup_folder, is_locks_path, keys_key, manifest_key
from kbr.storage.base import ObjectStore

__all__ = ["BackupKeys", "Trust"]

_log = logging.getLogger("kbr.keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a run opens backups with, whom it believes, and what it refuses. Secrets don't show in repr.

    Attributes:
        secrets: what opens encrypted backups; with any of it given, new ones are encrypted.
        accept_plain: read backups that are not encrypted although ``secrets`` are given.
        public_keys: Ed25519, raw; with any, a manifest that none of them has signed is refused.
        signing_key: Ed25519, raw; signs the manifests that are written.
    """

    secrets: KeySecrets = field(default_factory=KeySecrets)
    accept_plain: bool = False
    public_keys: tuple[bytes, ...] = ()
    signing_key: bytes | None = field(default=None, repr=False)


class _Backup:
    """What is known of one backup; without ``keys`` and ``data_key`` it is not encrypted."""

    __slots__ = ("backup_id", "data_key", "keys", "lock")

    def __init__(self, backup_id: str, keys: KeysDocument | None, data_key: DataKey | None = None) -> None:
        self.backup_id = backup_id
        self.keys = keys
        self.data_key = data_key
        self.lock = threading.Lock()


class BackupKeys:
    """The keys of a store's backups, each looked for once. Thread-safe.

    Args:
        store: objects as they are stored; another's, it is not closed here.
        known: data keys by backup_id, for who was told them.
    """

    def __init__(self, store: ObjectStore, trust: Trust, known: Mapping[str, DataKey]) -> None:
        self._store = store
        self._trust = trust
        self._lock = threading.Lock()
        self._documents: dict[str, bytes] = {}
        self._backups = {backup_id: _Backup(backup_id, None, key) for backup_id, key in known.items()}

    def data_key(self, backup_id: str) -> DataKey | None:
        """The key of an encrypted backup; None of another, or one that is not there.

        Without any secret nothing is looked for: what is read tells by itself (check_plain).

        Raises:
            WrongKey: nothing that was given opens it.
            SealBroken: its keys are damaged.
        """
        backup = self._known(backup_id)
        return None if backup is None else self._opened(backup)

    def is_sealed(self, backup_id: str) -> bool:
        """Whether sizes of plain bytes can be told; the same, without a key."""
        backup = self._known(backup_id)
        return backup is not None and (backup.keys is not None or backup.data_key is not None)

    def key_to_write(self, backup_id: str) -> DataKey | None:
        """As data_key(), for who is about to write.

        Raises:
            NotEncrypted: nothing plain may be written there.
        """
        data_key = self.data_key(backup_id)
        if data_key is None and self._refuses_plain:
            raise self._not_encrypted(backup_id)
        return data_key

    def check_plain(self, backup_id: str, key: str, begin: bytes) -> None:
        """See whether what was read as it is stored may be given out.

        Args:
            key: of the object.
            begin: its beginning; empty where another part of it was read.

        Raises:
            WrongKey: it is encrypted.
            NotEncrypted: it is not, and ought to be.
        """
        if is_sealed_object(begin):
            keys = self.find(backup_id)[0]
            if keys is None:
                raise WrongKey(
                    f"{key}: it is encrypted, and the backup's keys are not there",
                    hint=f"put {keys_key(backup_id)} back from another copy of the backup",
                    object=key,
                )
            raise wrong_key(keys, self._trust.secrets, self._where(backup_id))
        if self._refuses_plain:
            raise self._not_encrypted(backup_id)

    def find(self, backup_id: str) -> tuple[KeysDocument | None, bool]:
        """The keys, looked for now: from their own object or the manifest's copy; and whether the object is there, and good.

        Raises:
            SealBroken: they are damaged in both.
        """
        key = keys_key(backup_id)
        try:
            return load_keys(self._store.get(key, max_bytes=MAX_KEYS_BYTES), name=key, backup_id=backup_id), True
        except ObjectMissing:
            copy = self._copy(backup_id)
            if copy is None:
                return None, False
        except (SealBroken, UnsupportedFormat) as error:
            copy = self._copy(backup_id)
            if copy is None:
                raise
            _log.warning("%s; the manifest's copy is used", error)
        return load_keys(copy, name=manifest_key(backup_id), backup_id=backup_id), False

    def open_part(self, backup_id: str) -> OpenPart:
        """What an encrypted backup's manifest says to who has no key; proven only to who has.

        Raises:
            ObjectMissing: there is no manifest.
            SealBroken: it makes no sense.
        """
        key = manifest_key(backup_id)
        header = parse_header(self._begin_of(key), name=key)
        data = self._store.read_range(key, HEADER_BYTES, header.open_bytes)
        return load_open_part(data, name=key, backup_id=backup_id)

    def document(self, backup_id: str) -> bytes:
        """keys.json as it is stored, for the manifest's copy; read once, as it never changes."""
        with self._lock:
            known = self._documents.get(backup_id)
        if known is None:
            known = self._read_document(backup_id)
            with self._lock:
                self._documents[backup_id] = known
        return known

    def _read_document(self, backup_id: str) -> bytes:
        key = keys_key(backup_id)
        try:
            data = self._store.get(key, max_bytes=MAX_KEYS_BYTES)
            load_keys(data, name=key, backup_id=backup_id)
        except (ObjectMissing, SealBroken, UnsupportedFormat):
            copy = self._copy(backup_id)
            if copy is None:
                raise
            data = copy
        with self._lock:
            backup = self._backups.get(backup_id)
        found = load_keys(data, name=key, backup_id=backup_id).key_id
        if backup is not None and backup.data_key is not None and found != backup.data_key.key_id:
            broken(key, 0, "it holds another key than the one that the backup is written with: somebody has replaced it")
        return data

    # -- before a run writes --------------------------------------------------------------

    def begin(self, backup_id: str) -> None:
        """Make sure that what is written to a backup from now on is as what is there: to be called under its lock.

        A new one gets its key, if it is to be encrypted.

        Raises:
            WrongKey: it is encrypted, and can't be gone on with by what was given.
            BackupExists: it was begun without encryption, and that is asked for.
            SealBroken: its keys are damaged.
        """
        with self._lock:
            self._documents.pop(backup_id, None)
        keys, is_good = self.find(backup_id)
        if keys is None:
            if self._trust.secrets.are_given:
                self._begin_new(backup_id)
            return
        self._opened(self._remember(_Backup(backup_id, keys)))
        known = {one.key_id for one in keys.wrapped}
        for one in map(recipient_id, self._trust.secrets.recipients):
            if one not in known:
                _log.warning("recipient %s can't open backup %s: who can is fixed when a backup begins", one, backup_id)
        if not is_good:
            # it has just opened: what is put back is what it was
            self._store.put(keys_key(backup_id), self.open_part(backup_id).keys)
            _log.warning("%s was missing or damaged, and was put back from the manifest", keys_key(backup_id))
        self.document(backup_id)  # what every manifest of this run carries: as it is now

    def _begin_new(self, backup_id: str) -> None:
        folder = backup_folder(backup_id)
        for info in self._store.list(folder):
            if not is_locks_path(info.key[len(folder) :]):
                raise BackupExists(
                    f"{self._where(backup_id)} was begun without encryption, and is never gone on with encrypted",
                    hint="choose another backup_id, or leave the keys of encryption out to go on with it as it is",
                    backup_id=backup_id,
                )
        key = keys_key(backup_id)
        secrets = self._trust.secrets
        data_key, made = new_keys(backup_id, secrets)
        try:
            self._store.put(key, made, if_absent=True)
        except PreconditionFailed:
            _log.debug("%s was made meanwhile", key)
        # what is there counts, whoever wrote it; and a key that can't be had again must not seal anything
        stored = self._store.get(key, max_bytes=MAX_KEYS_BYTES)
        keys = load_keys(stored, name=key, backup_id=backup_id)
        if stored != made:
            self._opened(self._remember(_Backup(backup_id, keys)))
            return
        if secrets.can_open and open_keys(keys, secrets, name=key, where=self._where(backup_id)) != data_key:
            broken(key, 0, "the backup's keys read otherwise than they were written")
        self._remember(_Backup(backup_id, keys, data_key))
        self.document(backup_id)

    # -- how ------------------------------------------------------------------------------

    @property
    def _refuses_plain(self) -> bool:
        return self._trust.secrets.are_given and not self._trust.accept_plain

    def _not_encrypted(self, backup_id: str) -> NotEncrypted:
        return NotEncrypted(
            f"{self._where(backup_id)} is not encrypted, and the configuration has keys for encryption: somebody may have "
            "put it in an encrypted one's place",
            hint="if you know that it is a plain one, set encryption.accept_plain: true to read it; to back up with "
            "encryption, choose another backup_id",
            backup_id=backup_id,
        )

    def _where(self, backup_id: str) -> str:
        return f"backup {backup_id} at {self._store.url}"

    def _known(self, backup_id: str) -> _Backup | None:
        with self._lock:
            known = self._backups.get(backup_id)
        if known is not None or not self._trust.secrets.are_given:
            return known
        return self._remember(_Backup(backup_id, self.find(backup_id)[0]))

    def _remember(self, backup: _Backup) -> _Backup:
        with self._lock:
            self._backups[backup.backup_id] = backup
        return backup

    def _opened(self, backup: _Backup) -> DataKey | None:
        if backup.data_key is None and backup.keys is not None:
            with backup.lock:
                if backup.data_key is None:
                    where = self._where(backup.backup_id)
                    if not self._trust.secrets.can_open:
                        raise wrong_key(backup.keys, self._trust.secrets, where)
                    name = keys_key(backup.backup_id)
                    backup.data_key = open_keys(backup.keys, self._trust.secrets, name=name, where=where)
        return backup.data_key

    def _begin_of(self, key: str) -> bytes:
        return self._store.read_range(key, 0, min(HEADER_BYTES, self._store.head(key).size_bytes))

    def _copy(self, backup_id: str) -> bytes | None:
        try:
            begin = self._begin_of(manifest_key(backup_id))
        except ObjectMissing:
            return None
        return self.open_part(backup_id).keys if is_sealed_object(begin) else None
