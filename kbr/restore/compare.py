"""Whether a record in the target is the one that a restore would have sent there. Pure.

Records' contents are never part of a message: they may be anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass

from kbr.model import Record, TimestampType

__all__ = ["RecordRules"]

Headers = tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRules:
    """How a restore changes the records that it sends.

    Attributes:
        original_offset_header: name of the header that holds the source offset, the last one; empty for none.
        zero_timestamp_as: what is sent for timestamp 0.
    """

    original_offset_header: bytes
    zero_timestamp_as: int

    def difference(self, archived: Record, found: Record) -> str:
        """What is different, for people, but for the offsets; empty where nothing is.

        A target never gets LogAppendTime while it is restored to, whatever the source had.
        """
        if archived.key != found.key:
            return _sentence("key", _size_words(archived.key), _size_words(found.key))
        if archived.value != found.value:
            return _sentence("value", _size_words(archived.value), _size_words(found.value))
        headers = self._headers(archived)
        if headers != found.headers:
            return _sentence("headers", _header_words(headers), _header_words(found.headers))
        if self._timestamp(archived) != found.timestamp:
            return _sentence("timestamp", str(self._timestamp(archived)), str(found.timestamp))
        if found.timestamp_type == TimestampType.LOG_APPEND_TIME:
            return "its timestamp is the target's LogAppendTime, in the backup it is the record's own"
        return ""

    def _headers(self, archived: Record) -> Headers:
        if not self.original_offset_header:
            return archived.headers
        return (*archived.headers, (self.original_offset_header, b"%d" % archived.offset))

    def _timestamp(self, archived: Record) -> int:
        return archived.timestamp or self.zero_timestamp_as


def _sentence(name: str, archived: str, found: str) -> str:
    if archived == found:
        return f"another {name} of the same size ({found})" if name != "headers" else f"other headers ({found} in both)"
    return f"its {name} should be {archived}, and is {found}" if name != "headers" else f"it should have {archived}, and has {found}"


def _size_words(data: bytes | None) -> str:
    return "null" if data is None else f"{len(data)} bytes"


def _header_words(headers: Headers) -> str:
    count = len(headers)
    return f"{count} header{'s' * (count != 1)} of {sum(len(name) + len(value or b'') for name, value in headers)} bytes"


