"""Segments of OSO kafka-backup, KBAK version 1: header, records, footer. Bytes from outside, so nothing is believed.

No I/O and no compression: who calls checks the CRC-32 over header and body before a record is parsed. A length is
compared with the bytes that there can be before it is used, and a block of records is all that is held at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from kbr.errors import CorruptSegment, UnsupportedFormat
from kbr.format.kbak_body import BadBody, Body
from kbr.format.names import INT64_MAX
from kbr.model import Compression, Record, TimestampType
from kbr_codec import encode_block

__all__ = [
    "FOOTER_BYTES",
    "HEADER_BYTES",
    "KbakHeader",
    "RecordParser",
    "as_block",
    "parse_footer",
    "parse_header",
    "without_added_headers",
]

#: Magic, version, compression, reserved, record count, first and last record's offset.
_HEADER = struct.Struct("<4sBBHQqq")
#: CRC-32 of all before it, magic.
_FOOTER = struct.Struct("<I4s")
HEADER_BYTES = _HEADER.size
FOOTER_BYTES = _FOOTER.size
_MAGIC, _MAGIC_END = b"KBAK", b"BKAE"
_VERSION = 1
_COMPRESSIONS = {0: Compression.NONE, 1: Compression.ZSTD, 2: Compression.LZ4}

#: A record's length, timestamp, offset and key length; then come its value's length and the number of its headers.
_START = struct.Struct("<Iqqi")
_LENGTH = struct.Struct("<i")
_SIZE = struct.Struct("<I")
_COUNT = struct.Struct("<H")
_INT64 = struct.Struct("<q")
#: A record without key, value and headers.
MIN_RECORD_BYTES = _START.size - _SIZE.size + _LENGTH.size + _COUNT.size
#: What comes after a key at least.
_REST_BYTES = _LENGTH.size + _COUNT.size
#: Decompressed bytes that are asked for at once.
_READ_BYTES = 256 * 1024

_OFFSET_HEADER = b"x-original-offset"
_TIMESTAMP_HEADER = b"x-original-timestamp"
_CLUSTER_HEADER = b"x-source-cluster"
#: The first two as they are stored, but for their values.
_ADDED_OFFSET = _COUNT.pack(len(_OFFSET_HEADER)) + _OFFSET_HEADER + _LENGTH.pack(_INT64.size)
_ADDED_TIMESTAMP = _COUNT.pack(len(_TIMESTAMP_HEADER)) + _TIMESTAMP_HEADER + _LENGTH.pack(_INT64.size)
_ADDED_BYTES = len(_ADDED_OFFSET) + len(_ADDED_TIMESTAMP) + 2 * _INT64.size
_NO_TIME, _CREATE_TIME = TimestampType.NONE.value, TimestampType.CREATE_TIME.value

Headers = tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KbakHeader:
    """What a segment says of itself."""

    compression: Compression
    record_count: int
    first_offset: int
    #: Included.
    last_offset: int


def parse_header(data: bytes, *, name: str) -> KbakHeader:
    """Read the first HEADER_BYTES of a segment.

    Raises:
        CorruptSegment: it is no segment, or makes no sense.
        UnsupportedFormat: it is of another version.
    """
    if len(data) != HEADER_BYTES or data[:4] != _MAGIC:
        _corrupt(name, "it does not begin as a segment of kafka-backup does", 0)
    _, version, compression, reserved, count, first, last = _HEADER.unpack(data)
    if version != _VERSION or reserved or compression not in _COMPRESSIONS:
        raise UnsupportedFormat(
            f"{name}: a segment of kafka-backup's version {version}, compression {compression}, flags {reserved}; this kbr "
            f"reads version {_VERSION}, compression 0 to 2, without flags",
            hint="a newer kbr may read it; else the object is damaged",
            object=name,
        )
    if not (0 <= first <= last <= INT64_MAX and 1 <= count <= last - first + 1):
        _corrupt(name, f"its header says {count} records from offset {first} to {last}", 0)
    return KbakHeader(
        compression=_COMPRESSIONS[compression], record_count=count, first_offset=first, last_offset=last
    )


def parse_footer(data: bytes, *, name: str, position: int) -> int:
    """The CRC-32 that the last FOOTER_BYTES of a segment say.

    Args:
        position: where they begin in the object.

    Raises:
        CorruptSegment: they are no footer.
    """
    if len(data) != FOOTER_BYTES or data[4:] != _MAGIC_END:
        _corrupt(name, f"it does not end with {_MAGIC_END.decode()}: truncated, or no segment of kafka-backup", position)
    crc32: int = _FOOTER.unpack(data)[0]
    return crc32


class RecordParser:
    """A segment's records, in order, a block at a time.

    Args:
        body: decompressed; its CRC-32 has been checked.
        raw_bytes: its size, as the manifest says it.
        max_record_bytes: the largest record that is accepted.
        name: the object, for messages.
    """

    def __init__(self, body: Body, *, raw_bytes: int, max_record_bytes: int, name: str) -> None:
        self._body = body
        self._raw_bytes = raw_bytes
        self._max_record_bytes = max_record_bytes
        self._name = name
        self._buffer = b""
        #: Where the next record begins in the buffer.
        self._at = 0
        self._taken = 0
        self._last_offset = -1
        #: Where it begins in the body.
        self.position = 0

    def skip(self, position: int, *, last_offset: int) -> None:
        """Go on at a position ahead.

        Args:
            last_offset: of the record before it.
        """
        while self.position < position:
            if self._at == len(self._buffer) and not self._fill(1):
                self._corrupt("it ends before a place where records were a moment ago")
            step = min(position - self.position, len(self._buffer) - self._at)
            self._at += step
            self.position += step
        self._last_offset = last_offset

    def block(self, size: int) -> list[Record]:
        """The next records, of ``size`` bytes together or a little more; none at the end.

        Raises:
            CorruptSegment: the body is damaged, or its records make no sense.
        """
        records: list[Record] = []
        end = self.position + size
        while self.position < end:
            if self._at + _START.size > len(self._buffer) and not self._fill(_START.size):
                self._check_end()
                break
            length = _SIZE.unpack_from(self._buffer, self._at)[0]
            left = self._raw_bytes - self.position - _SIZE.size
            if not MIN_RECORD_BYTES <= length <= left:
                self._corrupt(f"a record claims {length} bytes where {MIN_RECORD_BYTES} to {left} can be")
            if length > self._max_record_bytes:
                raise CorruptSegment(
                    f"{self._name}: a record of {length} bytes; {self._max_record_bytes} are allowed",
                    hint="raise limits.max_block_bytes if a record may be that large; else the object is damaged",
                    object=self._name,
                    position=self.position,
                )
            length += _SIZE.size
            if self._at + length > len(self._buffer) and not self._fill(length):
                self._corrupt("it ends within a record")
            records.append(self._record(self._buffer, self._at, self._at + length))
            self._at += length
            self.position += length
        return records

    # -- how ------------------------------------------------------------------------------

    def _fill(self, size: int) -> bool:
        """Have so many bytes in the buffer; whether there are."""
        pieces = [self._buffer[self._at :]]
        there = len(pieces[0])
        self._at = 0
        try:
            while there < size:
                piece = self._body.read(_READ_BYTES)
                if not piece:
                    break
                pieces.append(piece)
                there += len(piece)
                self._taken += len(piece)
                if self._taken > self._raw_bytes:
                    self._corrupt(f"it goes on behind the {self._raw_bytes} bytes that the manifest says")
        except BadBody as error:
            self._corrupt(str(error))
        self._buffer = b"".join(pieces)
        return there >= size

    def _check_end(self) -> None:
        """Nothing may be left over, and nothing be missing."""
        if self._at != len(self._buffer):
            self._corrupt("it ends within a record's beginning")
        if self.position != self._raw_bytes:
            self._corrupt(f"it has {self.position} bytes, the manifest says {self._raw_bytes}")

    def _record(self, buffer: bytes, start: int, end: int) -> Record:
        """The record in these bytes; in one piece, as it is run for every one."""
        _, timestamp, offset, size = _START.unpack_from(buffer, start)
        if not self._last_offset < offset <= INT64_MAX:
            self._corrupt(f"offset {offset} does not rise after {self._last_offset}")
        at = start + _START.size
        key = None
        if size != -1:
            if not 0 <= size <= end - _REST_BYTES - at:
                self._claims(size, end - _REST_BYTES - at)
            key = buffer[at : at + size]
            at += size
        size = _LENGTH.unpack_from(buffer, at)[0]
        at += _LENGTH.size
        value = None
        if size != -1:
            if not 0 <= size <= end - _COUNT.size - at:
                self._claims(size, end - _COUNT.size - at)
            value = buffer[at : at + size]
            at += size
        count = _COUNT.unpack_from(buffer, at)[0]
        at += _COUNT.size
        headers: Headers = ()
        if count == 2 and end - at == _ADDED_BYTES and self._are_added(buffer, start, at):
            at = end  # what most records have
        elif count:
            headers, at = self._headers(buffer, at, end, count)
            headers = without_added_headers(headers, offset, timestamp)
        if at != end:
            self._corrupt(f"{end - at} bytes are left over in the record")
        self._last_offset = offset
        return Record(offset, timestamp, _NO_TIME if timestamp == -1 else _CREATE_TIME, key, value, headers)

    @staticmethod
    def _are_added(buffer: bytes, start: int, at: int) -> bool:
        """Whether the bytes there are the two headers that the backup adds, with this record's own numbers."""
        timestamp = buffer[start + 4 : start + 12]
        offset = buffer[start + 12 : start + 20]
        return buffer[at : at + _ADDED_BYTES] == _ADDED_OFFSET + offset + _ADDED_TIMESTAMP + timestamp

    def _headers(self, buffer: bytes, at: int, end: int, count: int) -> tuple[Headers, int]:
        headers: list[tuple[bytes, bytes | None]] = []
        for _ in range(count):
            if at + _COUNT.size > end:
                self._corrupt("it ends within its headers")
            size = _COUNT.unpack_from(buffer, at)[0]
            at += _COUNT.size
            if size > end - _LENGTH.size - at:
                self._claims(size, end - _LENGTH.size - at)
            name = buffer[at : at + size]
            at += size
            size = _LENGTH.unpack_from(buffer, at)[0]
            at += _LENGTH.size
            if size == -1:
                headers.append((name, None))
                continue
            if not 0 <= size <= end - at:
                self._claims(size, end - at)
            headers.append((name, buffer[at : at + size]))
            at += size
        return tuple(headers), at

    def _claims(self, size: int, left: int) -> NoReturn:
        self._corrupt(f"a key, value or header claims {size} bytes where {max(0, left)} are left")

    def _corrupt(self, what: str) -> NoReturn:
        _corrupt(self._name, f"the record at byte {self.position} of the decompressed body: {what}", self.position)


def as_block(records: Sequence[Record]) -> bytes:
    """Records of a RecordParser as a block of kbr's."""
    return encode_block(records)


def without_added_headers(headers: Headers, offset: int, timestamp: int) -> Headers:
    """A record's headers as they were at the source: without those that the backup added.

    Those are the last ones of their names: the record's offset, its timestamp, and behind them, where it was told to the
    backup, the cluster's name. The first two are known by what they hold: a backup that was told to add none may hold
    records that brought headers of these names along.
    """
    kept = list(headers)
    at = [_strip(kept, _OFFSET_HEADER, _INT64.pack(offset)), _strip(kept, _TIMESTAMP_HEADER, _INT64.pack(timestamp))]
    added = [one for one in at if one >= 0]
    if not added:
        return headers
    for number in range(len(kept) - 1, min(added) - 1, -1):
        if kept[number][0] == _CLUSTER_HEADER:
            del kept[number]
            break
    return tuple(kept)


def _strip(headers: list[tuple[bytes, bytes | None]], name: bytes, value: bytes) -> int:
    """Remove the last header of a name, if it holds the value; where it was, or -1."""
    for number in range(len(headers) - 1, -1, -1):
        if headers[number][0] == name:
            if headers[number][1] != value:
                return -1
            del headers[number]
            return number
    return -1


def _corrupt(name: str, what: str, position: int) -> NoReturn:
    raise CorruptSegment(
        f"{name}: {what}", hint="get the object from another copy of the backup", object=name, position=position
    )
