"""Which backups of a store are encrypted, with what key, and what a run may do with those that are not.

Told by a backup's ``keys.json``, or the copy of it in its manifest. Knows nothing of how objects are sealed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kbr.errors import (
    BackupExists,
    KbrError,
    NotEncrypted,
    ObjectMissing,
    PreconditionFailed,
    SealBroken,
    StorageError,
    UnsupportedFormat,
    WrongKey,
)
from kbr.format.data_keys import (
    MAX_KEYS_BYTES,
    SYMMETRIC,
    DataKey,
    KeysDocument,
    KeySecrets,
    load_keys,
    new_keys,
    open_keys,
    own_ids,
    wrong_key,
)
from kbr.format.envelope import HEADER_BYTES, broken, is_sealed_object, parse_header
from kbr.format.open_part import OpenPart, load_open_part
from kbr.repository.layout import backup_folder, is_left_before_a_backup, keys_key, manifest_key
from kbr.storage.base import ObjectInfo, ObjectStore

__all__ = ["BackupKeys", "FoundKeys", "Trust"]

_log = logging.getLogger("kbr.keys")

_LOST_HINT = (
    "put keys.json or manifest.json, which has a copy of it, back from another copy of the backup: without both, nothing of "
    "it can be read"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a run opens backups with, whom it believes, and what it refuses. Secrets don't show in repr.

    Attributes:
        secrets: what opens encrypted backups; with any of it given, new ones are encrypted.
        accept_plain: read backups that are not encrypted although ``secrets`` are given.
        public_keys: Ed25519, raw; with any, a manifest that none of them has signed is refused.
        signing_key: Ed25519, raw; signs the manifests that are written.
        accept_unsigned: go on with a manifest that nobody has signed although there are ``public_keys``.
    """

    secrets: KeySecrets = field(default_factory=KeySecrets)
    accept_plain: bool = False
    public_keys: tuple[bytes, ...] = ()
    signing_key: bytes | None = field(default=None, repr=False)
    accept_unsigned: bool = False


class FoundKeys(NamedTuple):
    """A backup's keys, and what is wrong with `keys.json` where the manifest's copy stands in for it; else empty."""

    keys: KeysDocument | None
    flaw: str = ""


class _Backup:
    """What is known of one backup; without ``keys`` and ``data_key`` it is not encrypted.

    ``is_own``: nobody but this run, or who has its symmetric key, can have made the keys.
    """

    __slots__ = ("backup_id", "data_key", "is_own", "keys", "lock")

    def __init__(
        self, backup_id: str, keys: KeysDocument | None, data_key: DataKey | None = None, *, is_own: bool = False
    ) -> None:
        self.backup_id = backup_id
        self.keys = keys
        self.data_key = data_key
        self.is_own = is_own
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
            keys = self.find(backup_id).keys
            if keys is None:
                raise _keys_lost(backup_id, key)
            raise wrong_key(keys, self._trust.secrets, self._where(backup_id))
        if self._refuses_plain:
            raise self._not_encrypted(backup_id)

    def find(self, backup_id: str) -> FoundKeys:
        """The keys, looked for now: from their own object, or from the manifest's copy where that is missing or no good.

        Raises:
            SealBroken: they are damaged in both.
        """
        key = keys_key(backup_id)
        try:
            keys = load_keys(self._store.get(key, max_bytes=MAX_KEYS_BYTES), name=key, backup_id=backup_id)
        except ObjectMissing:
            copy = self._copy(backup_id)
            return FoundKeys(None) if copy is None else FoundKeys(self._loaded_copy(backup_id, copy), "missing")
        except (SealBroken, UnsupportedFormat) as error:
            copy = self._copy(backup_id)
            if copy is None and isinstance(error, SealBroken):
                raise SealBroken(error.message, hint=_LOST_HINT, **error.context) from error
            if copy is None:
                raise
            _log.warning("%s; the manifest's copy is used", error)
            return FoundKeys(self._loaded_copy(backup_id, copy), "damaged")
        copied = self._copy_instead(backup_id, keys)
        if copied is None:
            return FoundKeys(keys)
        _log.warning("%s: these are not the keys that the manifest was sealed with; the manifest's copy is used", key)
        return FoundKeys(copied, "not what the manifest was sealed with")

    def _copy_instead(self, backup_id: str, keys: KeysDocument) -> KeysDocument | None:
        """The manifest's copy, if that opens the manifest and the keys that were found don't."""
        name = manifest_key(backup_id)
        try:
            begin = self._begin_of(name)
            if not is_sealed_object(begin):
                return None
            key_id = parse_header(begin, name=name).key_id
            if keys.key_id == key_id and (not self._trust.secrets.can_open or self._opens(keys, self._trust.secrets)):
                return None
            copy = self._loaded_copy(backup_id, self.open_part(backup_id).keys)
        except (StorageError, UnsupportedFormat) as error:  # of a manifest that is no good: who reads it is told
            if error.retriable:
                raise
            return None
        if copy.key_id != key_id or (self._trust.secrets.can_open and not self._opens(copy, self._trust.secrets)):
            return None
        return copy if copy != keys else None

    @staticmethod
    def _loaded_copy(backup_id: str, copy: bytes) -> KeysDocument:
        return load_keys(copy, name=manifest_key(backup_id), backup_id=backup_id)

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

    def begin(self, backup_id: str, check_lock: Callable[[], None]) -> bool:
        """Make sure that what is written to a backup from now on is as what is there: to be called under its lock.

        A new one gets its key, if it is to be encrypted: keys that lie there already have sealed nothing, and whoever
        knows the public keys can have made them.

        Args:
            check_lock: raises where the lock is another run's by now.

        Returns:
            Whether ``keys.json`` is no good: once the manifest was read, and believed, put_back() is to be called.

        Raises:
            WrongKey: it is encrypted, and can't be gone on with by what was given.
            BackupExists: it was begun without encryption, and that is asked for.
            SealBroken: its keys are damaged, or somebody else writes them.
        """
        with self._lock:
            self._documents.pop(backup_id, None)
        if self._trust.secrets.are_given and self._has_nothing(backup_id):
            self._begin_new(backup_id, check_lock)
            return False
        keys, flaw = self.find(backup_id)
        if keys is None:
            if self._trust.secrets.are_given:
                raise self._without_keys(backup_id)
            return False
        self._opened(self._remember(_Backup(backup_id, keys)))
        self._tell_recipients(backup_id, keys)
        if not flaw:
            self.document(backup_id)  # what every manifest of this run carries: as it is now
        return bool(flaw)

    def put_back(self, backup_id: str) -> None:
        """Write ``keys.json`` anew from the manifest's copy.

        Raises:
            SealBroken: that is not what opens the manifest.
        """
        key, copy, data_key = keys_key(backup_id), self.open_part(backup_id).keys, self.data_key(backup_id)
        if data_key is None or self._loaded_copy(backup_id, copy).key_id != data_key.key_id:
            broken(manifest_key(backup_id), HEADER_BYTES, "its copy of the keys has just become another one")
        self._store.put(key, copy)
        _log.warning("%s was missing, damaged or replaced, and was put back from the manifest", key)
        self.document(backup_id)

    def check_new(self, backup_id: str) -> None:
        """For who has found no manifest, after begin(): nothing new is sealed with keys that somebody else can have made.

        Raises:
            SealBroken: it would be; the backup's objects come or go while it is looked at.
        """
        with self._lock:
            backup = self._backups.get(backup_id)
        if backup is not None and backup.keys is not None and not backup.is_own:
            broken(
                keys_key(backup_id), 0, "these keys are of a backup whose manifest was there a moment ago, and is not any more"
            )

    def _has_nothing(self, backup_id: str) -> bool:
        try:
            self._store.head(manifest_key(backup_id))  # spares a listing of all segments
        except ObjectMissing:
            return next(self._begun(backup_id), None) is None
        return False

    def _begun(self, backup_id: str) -> Iterator[ObjectInfo]:
        """What lies in a backup's folder because it has begun."""
        folder = backup_folder(backup_id)
        return (info for info in self._store.list(folder) if not is_left_before_a_backup(info.key[len(folder) :]))

    def _without_keys(self, backup_id: str) -> KbrError:
        """The error of a backup that is there, where keys are given and it has none."""
        for info in self._begun(backup_id):
            if is_sealed_object(self._store.read_range(info.key, 0, min(HEADER_BYTES, info.size_bytes))):
                return _keys_lost(backup_id, info.key)
            break
        return BackupExists(
            f"{self._where(backup_id)} was begun without encryption, and is never gone on with encrypted",
            hint="choose another backup_id, or leave the keys of encryption out to go on with it as it is",
            backup_id=backup_id,
        )

    def _begin_new(self, backup_id: str, check_lock: Callable[[], None]) -> None:
        key, secrets = keys_key(backup_id), self._trust.secrets
        try:
            before = self._store.get(key, max_bytes=MAX_KEYS_BYTES)
        except ObjectMissing:
            is_there = False
        else:
            is_there = True
            if self._goes_on_with(backup_id, before):
                return
            _log.warning(
                "%s is there, and nothing else of the backup: a run that was killed at its very beginning has left it, or "
                "somebody else has put it there; it is replaced by new keys",
                key,
            )
        data_key, made = new_keys(backup_id, secrets)
        check_lock()
        try:
            self._store.put(key, made, if_absent=not is_there)
        except PreconditionFailed:
            _log.debug("%s was made meanwhile", key)
        # a key that can't be had again must not seal anything, and no other one may: who else writes there is not this backup's
        stored = self._store.get(key, max_bytes=MAX_KEYS_BYTES)
        if stored != made:
            if self._goes_on_with(backup_id, stored):
                return
            broken(key, 0, "it is not what this run has just written there: somebody else writes to this backup's folder")
        keys = load_keys(stored, name=key, backup_id=backup_id)
        if secrets.can_open and open_keys(keys, secrets, name=key, where=self._where(backup_id)) != data_key:
            broken(key, 0, "the backup's keys read otherwise than they were written")
        self._take_on(_Backup(backup_id, keys, data_key, is_own=True), stored)

    def _goes_on_with(self, backup_id: str, document: bytes) -> bool:
        """Take over keys that an earlier run has left before anything else, if only who has the symmetric key can have made them."""
        key, secrets = keys_key(backup_id), KeySecrets(key=self._trust.secrets.key)
        if secrets.key is None:
            return False
        try:
            keys = load_keys(document, name=key, backup_id=backup_id)
            data_key = open_keys(keys, secrets, name=key, where=self._where(backup_id))
        except (SealBroken, WrongKey):
            return False
        self._take_on(_Backup(backup_id, keys, data_key, is_own=True), document)
        self._tell_recipients(backup_id, keys)
        return True

    def _take_on(self, backup: _Backup, document: bytes) -> None:
        self._remember(backup)
        with self._lock:
            self._documents[backup.backup_id] = document

    def _tell_recipients(self, backup_id: str, keys: KeysDocument) -> None:
        """Who can open it is not who the configuration says."""
        own = own_ids(self._trust.secrets)
        for kind, key_id in sorted(own - {(one.kind, one.key_id) for one in keys.wrapped}):
            what = "encryption.key" if kind == SYMMETRIC else "recipient"
            _log.warning("%s %s can't open backup %s: who can is fixed when a backup begins", what, key_id, backup_id)
        others = tuple(one for one in keys.wrapped if (one.kind, one.key_id) not in own)
        if others:
            _log.warning(
                "backup %s opens with keys that the configuration does not name, too: whoever has %s can read it",
                backup_id,
                replace(keys, wrapped=others).openers,
            )

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
        return self._remember(_Backup(backup_id, self.find(backup_id).keys))

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

    def _opens(self, keys: KeysDocument, secrets: KeySecrets) -> bool:
        try:
            open_keys(keys, secrets, name=keys_key(keys.backup_id), where=self._where(keys.backup_id))
        except (SealBroken, WrongKey):
            return False
        return True

    def _begin_of(self, key: str) -> bytes:
        return self._store.read_range(key, 0, min(HEADER_BYTES, self._store.head(key).size_bytes))

    def _copy(self, backup_id: str) -> bytes | None:
        try:
            begin = self._begin_of(manifest_key(backup_id))
        except ObjectMissing:
            return None
        return self.open_part(backup_id).keys if is_sealed_object(begin) else None


def _keys_lost(backup_id: str, key: str) -> WrongKey:
    """Of an object that is encrypted, and nothing says for whom."""
    return WrongKey(
        f"{key}: it is encrypted, and neither {keys_key(backup_id)} nor a manifest with a copy of it is there",
        hint=_LOST_HINT,
        object=key,
    )
