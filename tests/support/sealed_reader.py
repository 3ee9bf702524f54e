"""Encrypted objects, `keys.json` and signatures read with nothing but `cryptography` and `msgpack`, from docs/format.md alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.archive import Objects


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869, by hand: 32 bytes of HKDF-SHA256 are one round."""
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def data_key_id(data_key: bytes) -> bytes:
    """The id that stands in objects and in keys.json."""
    return hkdf(data_key, b"", b"kbr data key id v1")[:16]


def open_object(stored: bytes, data_key: bytes, backup_id: str, path: str) -> bytes:
    """The plain bytes of an object."""
    magic, key_id, open_bytes, chunk_bytes, salt = struct.unpack("<8s16sII32s", stored[:64])
    assert (magic, key_id, chunk_bytes) == (b"KBROBJv1", data_key_id(data_key), 65_536)
    open_part, body = stored[64 : 64 + open_bytes], stored[64 + open_bytes :]
    info = b"kbr object v1\0" + stored[:64] + hashlib.sha256(open_part).digest()
    key = hkdf(data_key, salt, info + backup_id.encode() + b"\0" + path.encode())
    chunks = [body[at : at + 65_552] for at in range(0, len(body), 65_552)]
    plain = b""
    for number, chunk in enumerate(chunks):
        is_last = number == len(chunks) - 1
        assert len(chunk) > 16 or number == 0
        plain += AESGCM(key).decrypt(number.to_bytes(11, "big") + bytes([is_last]), chunk, None)
    return plain


def open_part(stored: bytes) -> dict[str, Any]:
    """What of an encrypted manifest needs no key."""
    (open_bytes,) = struct.unpack("<I", stored[24:28])
    return msgpack.unpackb(stored[64 : 64 + open_bytes])


def data_key_by_symmetric(keys: bytes, key: bytes) -> bytes:
    """The data key in keys.json for who has a symmetric key."""
    document = _checked(keys)
    key_id = hkdf(key, b"", b"kbr key id v1")[:8].hex()
    (entry,) = [one for one in document["wrapped"] if (one["kind"], one["key_id"]) == ("symmetric", key_id)]
    kek = hkdf(key, bytes.fromhex(entry["salt"]), _info(document, "symmetric"))
    return AESGCM(kek).decrypt(bytes(12), bytes.fromhex(entry["wrapped"]), None)


def data_key_by_identity(keys: bytes, private: bytes) -> bytes:
    """The same for who has an X25519 private key."""
    document = _checked(keys)
    own = X25519PrivateKey.from_private_bytes(private)
    public = own.public_key().public_bytes_raw()
    key_id = hashlib.sha256(b"kbr x25519 id v1" + public).digest()[:8].hex()
    (entry,) = [one for one in document["wrapped"] if (one["kind"], one["key_id"]) == ("x25519", key_id)]
    ephemeral = bytes.fromhex(entry["salt"])
    kek = hkdf(own.exchange(X25519PublicKey.from_public_bytes(ephemeral)), ephemeral + public, _info(document, "x25519"))
    return AESGCM(kek).decrypt(bytes(12), bytes.fromhex(entry["wrapped"]), None)


def check_signed(manifest: bytes, public: bytes) -> None:
    """Raises where the manifest is not signed by the owner of a public key."""
    body, end = manifest[:-77], json.loads(manifest)
    before, _quote, _rest = body.rpartition(b',"signature":"')
    assert end["signer"] == public.hex()
    message = b"kbr manifest signature v1\0" + end["backup_id"].encode() + b"\0" + hashlib.sha256(before).digest()
    Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(end["signature"]), message)


def _checked(keys: bytes) -> dict[str, Any]:
    document = json.loads(keys)
    assert document["sha256"] == hashlib.sha256(keys[:-77]).hexdigest()
    assert (document["format"], document["format_version"]) == ("kbr-keys", 1)
    return document


def _info(document: dict[str, Any], kind: str) -> bytes:
    key_id = bytes.fromhex(document["key_id"])
    return b"kbr wrap v1\0" + kind.encode() + b"\0" + document["backup_id"].encode() + b"\0" + key_id


class OpenedObjects:
    """What lies in a store, as it is in the envelopes; of who has a symmetric key."""

    def __init__(self, inner: Objects, key: bytes) -> None:
        self._inner = inner
        self._key = key

    def sizes(self) -> dict[str, int]:
        found = {}
        for key in self._inner.sizes():
            data = self.get(key)
            if data is not None:
                found[key] = len(data)
        return found

    def get(self, key: str) -> bytes | None:
        data = self._inner.get(key)
        backup_id, _slash, path = key.partition("/")
        if data is None or path == "keys.json" or "locks/" in path or path.startswith("unlisted/"):
            return data
        keys = self._inner.get(f"{backup_id}/keys.json")
        if keys is None:
            manifest = self._inner.get(f"{backup_id}/manifest.json")
            assert manifest is not None, f"{key} is there without keys"
            keys = open_part(manifest)["keys"]
        return open_object(data, data_key_by_symmetric(keys, self._key), backup_id, path)

    def leftovers(self) -> list[str]:
        return self._inner.leftovers()
