"""The sections `encryption` and `signing` of the configuration: who may read a backup, and who vouches for it."""

from __future__ import annotations

from kbr.config import fields
from kbr.config.fields import Section

__all__ = ["EncryptionConfig", "SigningConfig"]


class EncryptionConfig(Section):
    """Encryption of backups by kbr itself: whatever opens them is here."""

    key: fields.Secret = fields.key(
        None,
        "A symmetric key: 32 random bytes as base64 or hex (`kbr config key` makes one). New backups are encrypted for it, "
        "and what is encrypted for it is opened. Without it, and without an identity, an encrypted backup can't be read.",
        kind="text",
        secret=True,
        example="${BACKUP_KEY}",
    )
    key_command: fields.Argv = fields.key(
        None,
        "A program and its arguments that prints the key; instead of `key`.",
        kind="list of texts",
        example='["pass", "show", "kbr/backup-key"]',
    )
    recipients: fields.FilePaths = fields.key(
        (),
        "Files with X25519 public keys (PEM): new backups are encrypted for each of their owners, too. They can begin a backup; "
        "to go on with one, or to read one, takes `key` or `identity`.",
        kind="list of paths",
        example='["/etc/kbr/operators.pub.pem"]',
    )
    identity: fields.FilePath = fields.key(
        None,
        "File with an X25519 private key (PEM): opens what is encrypted for it; new backups are, too.",
        kind="path",
        example="/etc/kbr/identity.pem",
    )
    identity_password: fields.Secret = fields.key(
        None, "Password of that file.", kind="text", secret=True, example="${IDENTITY_PASSWORD}"
    )
    identity_password_command: fields.Argv = fields.key(
        None,
        "A program and its arguments that prints it; instead of `identity_password`.",
        kind="list of texts",
        example='["pass", "show", "kbr/identity"]',
    )
    accept_plain: fields.Switch = fields.key(
        False,
        "Read backups that are not encrypted, although there are keys here. Off, so that nobody can put a plain backup in an "
        "encrypted one's place. None is ever gone on with the other way than it was begun.",
        kind="true or false",
    )


class SigningConfig(Section):
    """Signatures of manifests: who signs, and whose are wanted."""

    key: fields.FilePath = fields.key(
        None,
        "File with an Ed25519 private key (PEM): a backup signs each manifest that it writes, and goes on only with one that this "
        "key, or one of `public_keys`, has signed.",
        kind="path",
        example="/etc/kbr/signing.pem",
    )
    key_password: fields.Secret = fields.key(
        None, "Password of that file.", kind="text", secret=True, example="${SIGNING_PASSWORD}"
    )
    key_password_command: fields.Argv = fields.key(
        None,
        "A program and its arguments that prints it; instead of `key_password`.",
        kind="list of texts",
        example='["pass", "show", "kbr/signing"]',
    )
    public_keys: fields.FilePaths = fields.key(
        (),
        "Files with Ed25519 public keys (PEM). With any, a backup is verified, read, restored and gone on with only if one of "
        "them has signed its manifest. Who backs up with `key` goes on with what that has signed, too.",
        kind="list of paths",
        example='["/etc/kbr/signing.pub.pem"]',
    )
    accept_unsigned: fields.Switch = fields.key(
        False,
        "Go on with a backup that was begun without signatures, and sign it from then on: for one run. Off, so that nobody can "
        "have a manifest signed that they have put there. A signature that is wrong, or another's, is never accepted.",
        kind="true or false",
    )
