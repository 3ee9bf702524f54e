"""Keys for encryption and signing: from the configuration to what the repository takes, and new ones made."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from kbr.config import Config
from kbr.errors import ConfigError
from kbr.format.data_keys import KeySecrets, recipient_id, symmetric_id
from kbr.repository.backup_keys import Trust

__all__ = ["KEY_KINDS", "NewKey", "make_key", "trust_of"]

#: A key file is some hundred bytes.
_MAX_FILE_BYTES = 64 * 1024
#: What can be made, and what it is for.
KEY_KINDS = {"identity": "x25519", "signing": "ed25519"}


def trust_of(config: Config, *, lenient: bool = False, goes_on: bool = False, commands_ran: bool = True) -> Trust:
    """What a run opens backups with, and whom it believes.

    Args:
        lenient: for who only shows what is there: plain and unsigned backups, too.
        goes_on: for who goes on with a backup, and signs it: what it goes on with has to be signed, by itself or who is trusted.
        commands_ran: the programs that print secrets; else what they would open is left out.

    Raises:
        ConfigError: a key is none, or its file can't be read; the message never holds any of it.
    """
    encryption, signing = config.encryption, config.signing
    if commands_ran and encryption.key is None and encryption.key_command is not None:
        raise ConfigError("encryption.key_command was not run", hint="this is a bug in kbr")
    secrets = KeySecrets(
        key=None if encryption.key is None else _symmetric(encryption.key.get_secret_value()),
        identity=None
        if not commands_ran and encryption.identity_password_command is not None
        else _private("encryption.identity", encryption.identity, encryption.identity_password, kind="x25519"),
        recipients=_publics("encryption.recipients", encryption.recipients, kind="x25519"),
    )
    if lenient:
        return Trust(secrets=secrets, accept_plain=True)
    public_keys = _publics("signing.public_keys", signing.public_keys, kind="ed25519")
    signing_key = (
        None
        if not commands_ran and signing.key_password_command is not None
        else _private("signing.key", signing.key, signing.key_password, kind="ed25519")
    )
    if goes_on and signing_key is not None:
        from kbr.format.crypto import signer_of

        public_keys = (*public_keys, signer_of(signing_key))
    return Trust(
        secrets=secrets,
        accept_plain=encryption.accept_plain,
        public_keys=public_keys,
        signing_key=signing_key,
        accept_unsigned=goes_on and signing.accept_unsigned,
    )


def _symmetric(text: str) -> bytes:
    from kbr.format.crypto import KEY_BYTES  # said here, and not half-way: the package may be missing

    text = text.strip()
    found = b""
    try:
        if len(text) == 2 * KEY_BYTES:
            found = bytes.fromhex(text)
        else:
            found = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        found = b""
    if len(found) != KEY_BYTES:
        raise ConfigError(
            "encryption.key is no key: it has to be 32 bytes as base64 (44 characters) or hex (64)",
            hint="kbr config key makes one; so does: openssl rand -base64 32",
        )
    return found


def _private(key: str, path: str | None, password: SecretStr | None, *, kind: str) -> bytes | None:
    if path is None:
        return None
    from kbr.format import crypto

    read = crypto.x25519_private if kind == "x25519" else crypto.ed25519_private
    return _parsed(key, path, lambda pem: read(pem, None if password is None else password.get_secret_value()))


def _publics(key: str, paths: tuple[str, ...], *, kind: str) -> tuple[bytes, ...]:
    if not paths:
        return ()
    from kbr.format import crypto

    read = crypto.x25519_public if kind == "x25519" else crypto.ed25519_public
    return tuple(_parsed(key, path, read) for path in paths)


def _parsed(key: str, path: str, parse: Callable[[bytes], bytes]) -> bytes:
    try:
        with open(path, "rb") as file:
            pem = file.read(_MAX_FILE_BYTES + 1)
        if len(pem) > _MAX_FILE_BYTES:
            raise ValueError(f"is larger than {_MAX_FILE_BYTES} bytes")
        return parse(pem)
    except OSError as error:
        raise ConfigError(f"{key}: can't read {path}: {error.strerror or error}") from error
    except ValueError as error:
        # from None: what a library says of a key's bytes stays with it
        raise ConfigError(f"{key}: the file {path} {error}") from None


# -- new ones -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was made.

    Attributes:
        kind: ``symmetric``, ``identity`` or ``signing``.
        key_id: as messages name it; of ``signing`` the public key.
        secret: the symmetric key itself, as base64; empty where files were written. Not shown by repr.
        private_file, public_file: what was written.
    """

    kind: str
    key_id: str
    secret: str = ""
    private_file: str = ""
    public_file: str = ""

    def __repr__(self) -> str:
        return f"NewKey(kind={self.kind!r}, key_id={self.key_id!r})"

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready; with the secret, which is what it is made for."""
        return {
            "kind": self.kind,
            "key_id": self.key_id,
            "key": self.secret or None,
            "private_file": self.private_file or None,
            "public_file": self.public_file or None,
        }


def make_key(kind: str, path: Path | None) -> NewKey:
    """A new key from the system's random numbers.

    Args:
        kind: ``symmetric``, or one of KEY_KINDS, which are written to files of mode 0600.
        path: the private key's file; the public one's has ``.pub`` behind that. Neither may be there.

    Raises:
        ConfigError: a file is there, or can't be written.
    """
    from kbr.format import crypto

    if path is None:
        key = crypto.new_key()
        return NewKey(kind=kind, key_id=symmetric_id(key), secret=base64.b64encode(key).decode())
    private, public = crypto.new_pair(KEY_KINDS[kind])
    public_path = path.with_name(f"{path.name}.pub")
    _write_new(public_path, public)
    try:
        _write_new(path, private)
    except ConfigError:
        public_path.unlink(missing_ok=True)
        raise
    raw = crypto.x25519_public(public) if kind == "identity" else crypto.ed25519_public(public)
    return NewKey(
        kind=kind,
        key_id=recipient_id(raw) if kind == "identity" else raw.hex(),
        private_file=str(path),
        public_file=str(public_path),
    )


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} is already there, and a key is never overwritten", hint="choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigError(f"can't write {path}: {error.strerror or error}") from error
