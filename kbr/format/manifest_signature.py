"""The signature at a manifest's end: where it stands, and what is signed (docs/format.md). Pure.

It stands before the checksum and is covered by that, so that readers who know nothing of signatures pass over two
unknown keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kbr.errors import SignatureInvalid

__all__ = ["SUFFIX_BYTES", "Signature", "Signer", "check_signature", "find_signature", "signature_suffix", "signed_message"]

_SUFFIX = re.compile(rb',"signature":"([0-9a-f]{128})","signer":"([0-9a-f]{64})"')
#: Of what signature_suffix() gives.
SUFFIX_BYTES = len(b',"signature":"","signer":""') + 128 + 64
_CONTEXT = b"kbr manifest signature v1\x00"
_UNSIGNED_HINT = (
    "it was begun without signing, or somebody has put it there; if you know the former, run kbr backup with signing.key and "
    "--set signing.accept_unsigned=true once: it is signed from then on"
)
_UNKNOWN_HINT = (
    "if that is a key of yours (an earlier one, another machine's), add its public key to signing.public_keys; else somebody "
    "has put the manifest there"
)

#: Gives the suffix for a manifest: backup_id, SHA-256 of all bytes before the suffix.
Signer = Callable[[str, bytes], bytes]


class Signature(NamedTuple):
    """What stands there: 64 bytes, and the signer's public key."""

    signature: bytes
    signer: bytes


def signed_message(backup_id: str, digest: bytes) -> bytes:
    """What is signed.

    Args:
        digest: SHA-256 of all bytes of the manifest before the signature.
    """
    return _CONTEXT + backup_id.encode() + b"\x00" + digest


def signature_suffix(private: bytes, backup_id: str, digest: bytes) -> bytes:
    """What to write between a manifest's body and its checksum."""
    from kbr.format.crypto import sign, signer_of

    signature = sign(private, signed_message(backup_id, digest))
    return b',"signature":"%b","signer":"%b"' % (signature.hex().encode(), signer_of(private).hex().encode())


def find_signature(before_seal: bytes | memoryview) -> Signature | None:
    """The signature at the end of a manifest's bytes before the checksum; None where there is none."""
    found = _SUFFIX.fullmatch(bytes(before_seal[-SUFFIX_BYTES:]))
    return None if found is None else Signature(bytes.fromhex(found[1].decode()), bytes.fromhex(found[2].decode()))


def check_signature(
    found: Signature | None, *, backup_id: str, digest: bytes, public_keys: Iterable[bytes], name: str
) -> None:
    """See that a manifest is signed by one of the given keys.

    Args:
        found: at its end.
        digest: SHA-256 of all bytes before the signature.
        name: the manifest, for messages.

    Raises:
        SignatureInvalid: it is not.
    """
    from kbr.format.crypto import verifies

    if found is None:
        raise SignatureInvalid(f"{name}: the manifest is not signed", hint=_UNSIGNED_HINT, object=name)
    if found.signer not in set(public_keys):
        raise SignatureInvalid(
            f"{name}: the manifest is signed by {found.signer.hex()}, which is none of signing.public_keys (and not "
            "signing.key's own)",
            hint=_UNKNOWN_HINT,
            object=name,
        )
    if not verifies(found.signer, found.signature, signed_message(backup_id, digest)):
        raise SignatureInvalid(
            f"{name}: the manifest's signature is wrong: the manifest was altered, or is another backup's",
            hint="get the manifest from another copy of the backup",
            object=name,
        )
