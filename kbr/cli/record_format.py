"""Records as bytes: kcat's format strings, and JSON lines. Pure; knows no backup and no terminal."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence

from kbr.model import Record, TimestampType, TopicPartition
from kbr.timing import utc_text

__all__ = ["Formatter", "json_line", "parse_format", "unescape"]

#: Makes the bytes that are written for a record.
Formatter = Callable[[TopicPartition, Record], bytes]

_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_NAMED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0"}
_TYPES = {
    TimestampType.NONE: None,
    TimestampType.CREATE_TIME: "CreateTime",
    TimestampType.LOG_APPEND_TIME: "LogAppendTime",
}


def unescape(text: str) -> bytes:
    r"""The bytes that a text from a command line means: ``\n``, ``\t``, ``\r``, ``\0``, ``\xXX``; else ``\c`` is c."""

    def replace(match: re.Match[bytes]) -> bytes:
        digits, other = match.groups()
        return bytes([int(digits, 16)]) if digits is not None else _NAMED.get(other, other)

    return _ESCAPE.sub(replace, text.encode("utf-8", "surrogateescape"))


def parse_format(text: str, *, null: bytes = b"") -> Formatter:
    """The format of kcat's ``-f``: literal text with the tokens ``%s %S %R %k %K %t %p %o %T %h %%`` and the escapes of `unescape`.

    Args:
        null: what stands for a null (not for an empty) key, value or header value.

    Raises:
        ValueError: a token that there is not, with a sentence that says which there are.
    """
    tokens: dict[str, Formatter] = {
        "s": lambda _place, record: null if record.value is None else record.value,
        "S": lambda _place, record: b"%d" % _length(record.value),
        "R": lambda _place, record: _length(record.value).to_bytes(4, "big", signed=True),
        "k": lambda _place, record: null if record.key is None else record.key,
        "K": lambda _place, record: b"%d" % _length(record.key),
        "t": lambda place, _record: place.topic.encode(),
        "p": lambda place, _record: b"%d" % place.partition,
        "o": lambda _place, record: b"%d" % record.offset,
        "T": lambda _place, record: b"%d" % record.timestamp,
        "h": lambda _place, record: b",".join(
            name + b"=" + (null or b"NULL" if value is None else value) for name, value in record.headers
        ),
    }
    parts: list[bytes | Formatter] = []
    # every other piece is the one character behind a %
    for number, piece in enumerate(re.split(r"%(.?)", text, flags=re.DOTALL)):
        if number % 2 == 0:
            parts.append(unescape(piece))
        elif piece == "%":
            parts.append(b"%")
        elif piece in tokens:
            parts.append(tokens[piece])
        else:
            known = " ".join(f"%{name}" for name in (*tokens, "%"))
            raise ValueError(f"%{piece} is no token: there are {known}" if piece else "it ends with a lone %; write %%")
    filled = [part for part in parts if part != b""]

    def format_record(place: TopicPartition, record: Record) -> bytes:
        return b"".join(part if isinstance(part, bytes) else part(place, record) for part in filled)

    return format_record


def _length(data: bytes | None) -> int:
    """-1 for null, as kcat has it."""
    return -1 if data is None else len(data)


def json_line(place: TopicPartition, record: Record) -> bytes:
    """A record as one line of JSON, in ASCII: nothing in it can act on a terminal.

    Bytes that are UTF-8 stand as text under ``key``, ``value`` and a header's ``name`` and ``value``; others in base64
    under the same name with ``_b64``, and only there, so that nobody takes a lossy text for what was sent.
    """
    kind = _TYPES[TimestampType(record.timestamp_type)]
    document: dict[str, object] = {
        "topic": place.topic,
        "partition": place.partition,
        "offset": record.offset,
        "timestamp": utc_text(record.timestamp),
        "timestamp_ms": record.timestamp,
        "timestamp_type": kind,
    }
    _put(document, "key", record.key)
    _put(document, "value", record.value)
    document["headers"] = _headers(record.headers)
    # DEL is the only ASCII control that JSON leaves as it is
    return json.dumps(document, ensure_ascii=True).replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def _headers(headers: Sequence[tuple[bytes, bytes | None]]) -> list[dict[str, object]]:
    found = []
    for name, value in headers:
        one: dict[str, object] = {}
        _put(one, "name", name)
        _put(one, "value", value)
        found.append(one)
    return found


def _put(document: dict[str, object], name: str, data: bytes | None) -> None:
    if data is None:
        document[name] = None
        return
    try:
        document[name] = data.decode("utf-8")
    except UnicodeDecodeError:
        document[f"{name}_b64"] = base64.b64encode(data).decode("ascii")
