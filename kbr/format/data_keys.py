"""A backup's data key, and `keys.json`: that key, wrapped for each of those who may open the backup (docs/format.md).

Bytes to values, without I/O. cryptography is imported when a key is made, wrapped or opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbr.errors import RepositoryError, SealBroken, UnsupportedFormat, WrongKey
from kbr.format.sealed import BadValue, fail, seal, unseal, value_at

__all__ = [
    "MAX_KEYS_BYTES",
    "SYMMETRIC",
    "DataKey",
    "KeySecrets",
    "KeysDocument",
    "WrappedKey",
    "load_keys",
    "new_keys",
    "open_keys",
    "own_ids",
    "recipient_id",
    "symmetric_id",
    "wrong_key",
]

FORMAT_NAME = "kbr-keys"
FORMAT_VERSION = 1
MAX_KEYS_BYTES = 1024 * 1024
#: Most recipients of one backup.
MAX_RECIPIENTS = 1000
SYMMETRIC, X25519 = "symmetric", "x25519"
_SALT_BYTES = 32
_WRAPPED_BYTES = 32 + 16
_WORDS = {SYMMETRIC: "encryption.key", X25519: "encryption.identity"}
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class DataKey:
    """What all objects' keys of one backup are derived from: 256 random bits. Not shown by repr.

    Attributes:
        key_id: 16 bytes that follow from it, and don't tell it.
    """

    key_id: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> DataKey:
        """With its id."""
        from kbr.format.crypto import derive

        return cls(derive(secret, salt=b"", info=b"kbr data key id v1")[:16], secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySecrets:
    """What a run was given to open backups with, and whom new ones are for. Not shown by repr.

    Attributes:
        key: a symmetric one, 32 bytes.
        identity: an X25519 private key, raw.
        recipients: X25519 public keys, raw.
    """

    key: bytes | None = field(default=None, repr=False)
    identity: bytes | None = field(default=None, repr=False)
    recipients: tuple[bytes, ...] = ()

    @property
    def are_given(self) -> bool:
        """Whether backups are to be encrypted."""
        return self.key is not None or self.identity is not None or bool(self.recipients)

    @property
    def can_open(self) -> bool:
        """Whether there is anything that could open one: public keys can't."""
        return self.key is not None or self.identity is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """The data key for one recipient.

    Attributes:
        kind: ``symmetric`` or ``x25519``.
        key_id: of what opens it, 16 hex digits.
        salt: random; of ``x25519`` the ephemeral public key.
        wrapped: 32 sealed bytes and their tag.
    """

    kind: str
    key_id: str
    salt: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysDocument:
    """`keys.json`."""

    backup_id: str
    #: Of the data key.
    key_id: bytes
    wrapped: tuple[WrappedKey, ...]

    @property
    def openers(self) -> str:
        """Which keys would open it, for messages."""
        return ", ".join(f"{_WORDS[one.kind]} {one.key_id}" for one in self.wrapped)


def symmetric_id(key: bytes) -> str:
    """How a symmetric key is named: 16 hex digits."""
    from kbr.format.crypto import derive

    return derive(key, salt=b"", info=b"kbr key id v1")[:8].hex()


def recipient_id(public: bytes) -> str:
    """How an X25519 key is named: 16 hex digits."""
    return hashlib.sha256(b"kbr x25519 id v1" + public).digest()[:8].hex()


# -- making and opening -------------------------------------------------------------------


def new_keys(backup_id: str, secrets: KeySecrets) -> tuple[DataKey, bytes]:
    """A new data key, and the document that holds it for the given key, identity and recipients."""
    from kbr.format.crypto import new_key

    data_key = DataKey.of(new_key())
    wrapped = [_document_of(one) for one in _wraps(data_key, backup_id, secrets)]
    return data_key, seal(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "backup_id": backup_id,
            "key_id": data_key.key_id.hex(),
            "wrapped": wrapped,
        }
    )


def _wraps(data_key: DataKey, backup_id: str, secrets: KeySecrets) -> Iterator[WrappedKey]:
    from kbr.format.crypto import derive, new_key, seal_once, x25519_public_of, x25519_shared

    if secrets.key is not None:
        salt = new_key()
        kek = derive(secrets.key, salt=salt, info=_info(SYMMETRIC, backup_id, data_key.key_id))
        yield WrappedKey(
            kind=SYMMETRIC, key_id=symmetric_id(secrets.key), salt=salt, wrapped=seal_once(kek, data_key.secret)
        )
    own = [] if secrets.identity is None else [x25519_public_of(secrets.identity)]
    for public in dict.fromkeys((*secrets.recipients, *own)):
        private = new_key()
        ephemeral = x25519_public_of(private)
        kek = derive(
            x25519_shared(private, public),
            salt=ephemeral + public,
            info=_info(X25519, backup_id, data_key.key_id),
        )
        yield WrappedKey(
            kind=X25519, key_id=recipient_id(public), salt=ephemeral, wrapped=seal_once(kek, data_key.secret)
        )


def open_keys(document: KeysDocument, secrets: KeySecrets, *, name: str, where: str) -> DataKey:
    """The data key.

    Args:
        name: the object that the document is from, for messages.
        where: the backup, for messages.

    Raises:
        WrongKey: none of the secrets opens it.
        SealBroken: one has to, and does not: it is damaged, or another backup's.
    """
    from kbr.format.crypto import BadTag, derive, open_once, x25519_public_of, x25519_shared

    ids: dict[tuple[str, str], bytes] = {}
    if secrets.key is not None:
        ids[SYMMETRIC, symmetric_id(secrets.key)] = secrets.key
    if secrets.identity is not None:
        ids[X25519, recipient_id(x25519_public_of(secrets.identity))] = secrets.identity
    for one in document.wrapped:
        secret = ids.get((one.kind, one.key_id))
        if secret is None:
            continue
        info = _info(one.kind, document.backup_id, document.key_id)
        try:
            if one.kind == SYMMETRIC:
                kek = derive(secret, salt=one.salt, info=info)
            else:
                kek = derive(x25519_shared(secret, one.salt), salt=one.salt + x25519_public_of(secret), info=info)
            found = DataKey.of(open_once(kek, one.wrapped))
        except BadTag:
            found = None
        if found is None or found.key_id != document.key_id:
            raise SealBroken(
                f"{name}: the data key for {_WORDS[one.kind]} {one.key_id} is damaged, or another backup's",
                hint="put back an intact copy of it; every copy of the backup's manifest holds one, too",
                object=name,
                position=0,
            )
        return found
    raise wrong_key(document, secrets, where)


def own_ids(secrets: KeySecrets) -> set[tuple[str, str]]:
    """Kind and id of each key that new backups are encrypted for."""
    from kbr.format.crypto import x25519_public_of

    found = {(X25519, recipient_id(public)) for public in secrets.recipients}
    if secrets.key is not None:
        found.add((SYMMETRIC, symmetric_id(secrets.key)))
    if secrets.identity is not None:
        found.add((X25519, recipient_id(x25519_public_of(secrets.identity))))
    return found


def wrong_key(document: KeysDocument, secrets: KeySecrets, where: str) -> WrongKey:
    """The error of who can't open it."""
    if secrets.can_open:
        why = f"and not for {' or '.join(_given(secrets))}, which is given"
    elif secrets.are_given:
        why = "and only recipients are given: they can begin a backup, and not open one"
    else:
        why = "and no key is given"
    return WrongKey(
        f"{where} is encrypted, {why}",
        hint=f"it opens with any of: {document.openers}",
        key_ids=[one.key_id for one in document.wrapped],
    )


def _given(secrets: KeySecrets) -> Iterator[str]:
    from kbr.format.crypto import x25519_public_of

    if secrets.key is not None:
        yield f"encryption.key {symmetric_id(secrets.key)}"
    if secrets.identity is not None:
        yield f"encryption.identity {recipient_id(x25519_public_of(secrets.identity))}"


def _info(kind: str, backup_id: str, key_id: bytes) -> bytes:
    """What a wrapping key is bound to."""
    return b"kbr wrap v1\x00" + kind.encode() + b"\x00" + backup_id.encode() + b"\x00" + key_id


# -- the document -------------------------------------------------------------------------


def _document_of(one: WrappedKey) -> dict[str, str]:
    return {"kind": one.kind, "key_id": one.key_id, "salt": one.salt.hex(), "wrapped": one.wrapped.hex()}


def load_keys(data: bytes, *, name: str, backup_id: str) -> KeysDocument:
    """Read the document.

    Args:
        name: the object, for messages.
        backup_id: whose it has to be.

    Raises:
        SealBroken: it is damaged, or another backup's.
        UnsupportedFormat: it is of another version, or something else.
    """
    try:
        document = unseal(
            data, name=name, format_name=FORMAT_NAME, version=FORMAT_VERSION, what="the keys", error=RepositoryError
        )
        found = _parse(document)
    except UnsupportedFormat:
        raise
    except (RepositoryError, BadValue) as error:
        raise SealBroken(
            f"{name}: the backup's keys are damaged: {error}",
            hint="put back an intact copy of it; every copy of the backup's manifest holds one, too",
            object=name,
            position=0,
        ) from error
    if found.backup_id != backup_id:
        raise SealBroken(
            f"{name}: these are the keys of backup {found.backup_id!a}: the file is in the wrong place",
            hint="move it back to where it belongs",
            object=name,
            position=0,
        )
    return found


def _parse(document: Mapping[str, Any]) -> KeysDocument:
    entries = value_at(document, "", "wrapped", list)
    if not 1 <= len(entries) <= MAX_RECIPIENTS:
        fail("wrapped", f"has {len(entries)} entries")
    return KeysDocument(
        backup_id=value_at(document, "", "backup_id", str),
        key_id=_bytes_at(document, "", "key_id", 16),
        wrapped=tuple(_parse_entry(entry, f"wrapped[{number}].") for number, entry in enumerate(entries)),
    )


def _parse_entry(entry: object, path: str) -> WrappedKey:
    if type(entry) is not dict:
        fail(path.rstrip("."), "is no object")
    kind = value_at(entry, path, "kind", str)
    if kind not in _WORDS:
        fail(f"{path}kind", f"is {kind[:40]!a}")
    return WrappedKey(
        kind=kind,
        key_id=_bytes_at(entry, path, "key_id", 8).hex(),
        salt=_bytes_at(entry, path, "salt", _SALT_BYTES),
        wrapped=_bytes_at(entry, path, "wrapped", _WRAPPED_BYTES),
    )


def _bytes_at(node: Mapping[str, Any], path: str, key: str, length: int) -> bytes:
    text = value_at(node, path, key, str)
    if len(text) != 2 * length or _HEX.fullmatch(text) is None:
        fail(f"{path}{key}", f"is not {length} bytes in hex")
    return bytes.fromhex(text)
