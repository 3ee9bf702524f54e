"""Small JSON documents that end with their own checksum, and typed access to what they hold. Pure.

The seal is the manifest's (docs/format.md). What is wrong is a BadValue that says where; who reads a document makes
its own error of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from kbr.errors import RepositoryError, UnsupportedFormat
from kbr.format.names import INT64_MAX
from kbr.wire import dump_json, load_json

__all__ = ["BadValue", "count_at", "fail", "is_sealed", "seal", "unseal", "value_at"]

_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
_SEAL_BYTES = len(b',"sha256":""}') + 64


class BadValue(ValueError):
    """Something in a document makes no sense: where, and what."""


def seal(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document, its checksum included."""
    body = dump_json(document)[:-1]
    return b'%b,"sha256":"%b"}' % (body, hashlib.sha256(body).hexdigest().encode("ascii"))


def is_sealed(data: bytes) -> bool:
    """Whether the checksum at the end is that of all bytes before it."""
    found = _SEAL.fullmatch(data, max(0, len(data) - _SEAL_BYTES))
    return found is not None and hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest().encode() == found[1]


def unseal(
    data: bytes, *, name: str, format_name: str, version: int, what: str, error: Callable[[str], RepositoryError]
) -> Mapping[str, Any]:
    """The document, when it is one of the format, and as it was written.

    Args:
        data: the whole object.
        name: the object, for messages.
        format_name, version: what it has to be.
        what: how it is called, for messages.
        error: makes the error of what is damaged.

    Raises:
        UnsupportedFormat: it is of another version, or something else.
        RepositoryError: from ``error``: it is empty, cut off or altered.
    """
    try:
        document = load_json(data)
    except (ValueError, RecursionError) as cause:
        raise error(f"{name}: {what} ({len(data)} bytes) is empty, cut off or damaged") from cause
    if not isinstance(document, dict) or document.get("format") != format_name:
        raise UnsupportedFormat(
            f"{name}: this is not {what} of kbr",
            hint="another program may have written it; move it away",
            object=name,
        )
    if document.get("format_version") != version:
        raise UnsupportedFormat(
            f"{name}: {what} of version {document.get('format_version')!r:.20}; this kbr reads version {version}",
            hint="read it with the version of kbr that wrote it, or a newer one",
            object=name,
        )
    if not is_sealed(data):
        raise error(f"{name}: {what} is damaged or was edited: its checksum does not fit")
    return document


def fail(path: str, what: str) -> NoReturn:
    """Say what is wrong with the value at ``path``."""
    raise BadValue(f"{path} {what}")


def value_at(node: Mapping[str, Any], path: str, key: str, kind: type) -> Any:
    """The value of a key, of exactly that type."""
    value = node.get(key)
    # type() and not isinstance(): true is no integer here
    if type(value) is not kind:
        fail(f"{path}{key}", f"is missing or no {kind.__name__}")
    return value


def count_at(node: Mapping[str, Any], path: str, key: str) -> int:
    """An integer of 0 to the largest int64."""
    value: int = value_at(node, path, key, int)
    if not 0 <= value <= INT64_MAX:
        fail(f"{path}{key}", "is out of range")
    return value
