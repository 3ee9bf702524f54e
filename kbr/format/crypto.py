"""The only importer of cryptography: AES-256-GCM, HKDF, X25519, Ed25519, and PEM files. No I/O.

Imported only where encryption or signing is used: it takes time to load, and is an extra. Which bytes these are used on,
and what each key is bound to, is said in kbr.format.envelope, data_keys and manifest_signature.
"""

from __future__ import annotations

import os

from kbr.errors import ConfigError

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as _error:
    raise ConfigError(
        "encryption and signing need the package cryptography, which is not installed",
        hint="pip install 'kbr[encryption]'",
    ) from _error

__all__ = [
    "KEY_BYTES",
    "BadTag",
    "ObjectCipher",
    "derive",
    "ed25519_private",
    "ed25519_public",
    "new_key",
    "new_pair",
    "object_cipher",
    "open_once",
    "seal_once",
    "sign",
    "signer_of",
    "verifies",
    "x25519_private",
    "x25519_public",
    "x25519_public_of",
    "x25519_shared",
]

#: Of every key here: AES-256, X25519, Ed25519.
KEY_BYTES = 32
#: For a key that seals one value in its life.
_ONLY_NONCE = bytes(12)


class BadTag(ValueError):
    """These bytes were not sealed so, by this key."""


class ObjectCipher:
    """Seals and opens the chunks of one object. Thread-safe."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, data: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """One chunk; its number is never used twice."""
        return self._aead.encrypt(_nonce(number, last=last), data, None)

    def open(self, number: int, data: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """One chunk.

        Raises:
            BadTag: it is another one, or was altered.
        """
        try:
            return self._aead.decrypt(_nonce(number, last=last), data, None)
        except InvalidTag as error:
            raise BadTag from error


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def new_key() -> bytes:
    """32 bytes from the system's random numbers."""
    return os.urandom(KEY_BYTES)


def derive(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869): 32 bytes that say nothing about the secret, or about those of another salt or info."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def object_cipher(secret: bytes, *, salt: bytes, info: bytes) -> ObjectCipher:
    """The cipher of one object."""
    return ObjectCipher(derive(secret, salt=salt, info=info))


def seal_once(key: bytes, data: bytes) -> bytes:
    """Seal the only value that this key ever seals."""
    return AESGCM(key).encrypt(_ONLY_NONCE, data, None)


def open_once(key: bytes, data: bytes) -> bytes:
    """Open what seal_once() made.

    Raises:
        BadTag: it is another one, or was altered.
    """
    try:
        return AESGCM(key).decrypt(_ONLY_NONCE, data, None)
    except (InvalidTag, ValueError) as error:
        raise BadTag from error


# -- X25519 -------------------------------------------------------------------------------


def x25519_public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def x25519_shared(private: bytes, public: bytes) -> bytes:
    """The secret that both owners can make (RFC 7748).

    Raises:
        BadTag: the public key is one of those that give everybody the same.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise BadTag from error


# -- Ed25519 ------------------------------------------------------------------------------


def signer_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """64 bytes (RFC 8032)."""
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of the key has signed this."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# -- PEM files ----------------------------------------------------------------------------


def x25519_private(pem: bytes, password: str | None) -> bytes:
    """The raw key of a PEM text.

    Raises:
        ValueError: it is no such key, or the password is missing or wrong; the message holds nothing of either.
    """
    key = _private(pem, password)
    if not isinstance(key, X25519PrivateKey):
        raise ValueError(f"holds a private key of another kind ({_kind(key)}), not X25519")
    return key.private_bytes_raw()


def ed25519_private(pem: bytes, password: str | None) -> bytes:
    """The same of an Ed25519 key."""
    key = _private(pem, password)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"holds a private key of another kind ({_kind(key)}), not Ed25519")
    return key.private_bytes_raw()


def x25519_public(pem: bytes) -> bytes:
    """The raw public key of a PEM text.

    Raises:
        ValueError: it is none; a private key is none either, as it should not lie where a public one is asked for.
    """
    key = _public(pem)
    if not isinstance(key, X25519PublicKey):
        raise ValueError(f"holds a public key of another kind ({_kind(key)}), not X25519")
    return key.public_bytes_raw()


def ed25519_public(pem: bytes) -> bytes:
    """The same of an Ed25519 key."""
    key = _public(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"holds a public key of another kind ({_kind(key)}), not Ed25519")
    return key.public_bytes_raw()


def new_pair(kind: str) -> tuple[bytes, bytes]:
    """A new private key as PEM (PKCS #8, without a password), and its public one (SubjectPublicKeyInfo).

    Args:
        kind: ``x25519`` or ``ed25519``.
    """
    private = X25519PrivateKey.generate() if kind == "x25519" else Ed25519PrivateKey.generate()
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _private(pem: bytes, password: str | None) -> object:
    try:
        return serialization.load_pem_private_key(pem, None if password is None else password.encode())
    except TypeError as error:  # so it says both
        raise ValueError(
            "needs a password" if password is None else "has no password, and one is given for it"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "holds no private key in PEM" if password is None else "does not open: the password is wrong, or it is damaged"
        raise ValueError(what) from error


def _public(pem: bytes) -> object:
    try:
        return serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("holds no public key in PEM") from error


def _kind(key: object) -> str:
    return type(key).__name__.lstrip("_").removesuffix("PrivateKey").removesuffix("PublicKey")
