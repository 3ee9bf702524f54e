"""The block codec in plain, obvious Python: the executable form of docs/format.md, "Block".

Owns nothing that the compiled codec owns: it is the oracle of the tests and the way to read a
backup where nothing can be compiled. Standard library only; knows no compression, no segment.

An error is that of the first thing that is wrong, in the order of the bytes. Its position is
where the missing bytes should begin; where an item (an integer, an array, a key, ...) begins
that is of the wrong kind; the end of an item whose kind is right and whose value is not.
The compiled codec gives the same positions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

from kbr_codec.errors import CodecError, Corrupt, Truncated
from kbr_codec.protocols import MAX_ITEMS, BlockStats, Record

__all__ = ["CodecError", "Corrupt", "Truncated", "decode_block", "encode_block", "offset_ranges", "scan_block"]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
UINT32_MAX = 2**32 - 1
#: Kafka's sizes are int32, so nothing larger can be a key, a value or a header.
BIN_MAX = 2**31 - 1

#: Entries of the map that a block is.
ENTRY_COUNT = 10
VERSION = 1
TIMESTAMP_TYPES = (0, 1, 2)

Headers = tuple[tuple[bytes, bytes | None], ...]


# -- encoding -----------------------------------------------------------------------------


def encode_block(records: Iterable[Record]) -> bytes:
    """Encode records, whose offsets rise strictly, as one block.

    Raises:
        ValueError: no records, offsets that don't rise, or a field out of its range or type.
    """
    rows = list(records)
    _check(rows)
    offsets = [row.offset for row in rows]
    timestamps = [row.timestamp for row in rows]
    types = [row.timestamp_type for row in rows]
    out = bytearray()
    _put_map_header(out, ENTRY_COUNT)
    _put_key(out, "v")
    _put_int(out, VERSION)
    _put_key(out, "count")
    _put_int(out, len(rows))
    _put_key(out, "offset")
    _put_int(out, offsets[0])
    _put_key(out, "offsets")
    _put_ints(out, [0, *(b - a for a, b in pairwise(offsets))])
    _put_key(out, "timestamp")
    _put_int(out, timestamps[0])
    _put_key(out, "timestamps")
    _put_ints(out, [0, *(_wrap(b - a) for a, b in pairwise(timestamps))])
    _put_key(out, "timestamp_types")
    if len(set(types)) == 1:
        _put_int(out, types[0])
    else:
        _put_ints(out, types)
    _put_key(out, "keys")
    _put_bins(out, [row.key for row in rows])
    _put_key(out, "values")
    _put_bins(out, [row.value for row in rows])
    _put_key(out, "headers")
    if any(row.headers for row in rows):
        _put_header_column(out, [row.headers for row in rows])
    else:
        _put_nil(out)
    return bytes(out)


def _check(rows: list[Record]) -> None:
    """Refuse what a block can't hold, before anything is written."""
    if not rows:
        raise ValueError("a block has at least one record")
    previous = -1
    for row in rows:
        if not 0 <= row.offset <= INT64_MAX:
            raise ValueError(f"offset {row.offset} is not within 0 and 2**63 - 1")
        if row.offset <= previous:
            raise ValueError(f"offset {row.offset} does not rise after {previous}")
        if not INT64_MIN <= row.timestamp <= INT64_MAX:
            raise ValueError(f"timestamp {row.timestamp} is not an int64")
        if row.timestamp_type not in TIMESTAMP_TYPES:
            raise ValueError(f"timestamp type {row.timestamp_type} is not 0, 1 or 2")
        if not (_is_nullable(row.key) and _is_nullable(row.value)):
            raise ValueError("keys and values are bytes or None")
        if not all(isinstance(name, bytes) and _is_nullable(value) for name, value in row.headers):
            raise ValueError("header names are bytes, header values are bytes or None")
        previous = row.offset


def _is_nullable(data: object) -> bool:
    return data is None or isinstance(data, bytes)


def _wrap(value: int) -> int:
    """The int64 that equals value modulo 2**64."""
    return (value - INT64_MIN) % 2**64 + INT64_MIN


def _put_nil(out: bytearray) -> None:
    out.append(0xC0)


def _put_int(out: bytearray, value: int) -> None:
    """The shortest of msgpack's nine integer formats."""
    if 0 <= value <= 0x7F:
        out.append(value)
    elif -32 <= value < 0:
        out.append(value + 256)
    elif 0 <= value <= 0xFF:
        out += struct.pack(">BB", 0xCC, value)
    elif 0 <= value <= 0xFFFF:
        out += struct.pack(">BH", 0xCD, value)
    elif 0 <= value <= UINT32_MAX:
        out += struct.pack(">BI", 0xCE, value)
    elif value >= 0:
        out += struct.pack(">BQ", 0xCF, value)
    elif value >= -(2**7):
        out += struct.pack(">Bb", 0xD0, value)
    elif value >= -(2**15):
        out += struct.pack(">Bh", 0xD1, value)
    elif value >= -(2**31):
        out += struct.pack(">Bi", 0xD2, value)
    else:
        out += struct.pack(">Bq", 0xD3, value)


def _put_key(out: bytearray, text: str) -> None:
    """A key of the block: all are shorter than 32 bytes, so always a fixstr."""
    data = text.encode("ascii")
    out.append(0xA0 | len(data))
    out += data


def _put_bin(out: bytearray, data: bytes | None) -> None:
    if data is None:
        _put_nil(out)
        return
    size = len(data)
    if size > BIN_MAX:
        raise ValueError(f"{size} bytes are more than a key, value or header can have")
    if size <= 0xFF:
        out += struct.pack(">BB", 0xC4, size)
    elif size <= 0xFFFF:
        out += struct.pack(">BH", 0xC5, size)
    else:
        out += struct.pack(">BI", 0xC6, size)
    out += data


def _put_array_header(out: bytearray, count: int) -> None:
    if count <= 15:
        out.append(0x90 | count)
    elif count <= 0xFFFF:
        out += struct.pack(">BH", 0xDC, count)
    elif count <= UINT32_MAX:
        out += struct.pack(">BI", 0xDD, count)
    else:
        raise ValueError(f"{count} entries are more than msgpack can hold in one array")


def _put_map_header(out: bytearray, count: int) -> None:
    out.append(0x80 | count)


def _put_ints(out: bytearray, values: list[int]) -> None:
    _put_array_header(out, len(values))
    for value in values:
        _put_int(out, value)


def _put_bins(out: bytearray, values: list[bytes | None]) -> None:
    _put_array_header(out, len(values))
    for value in values:
        _put_bin(out, value)


def _put_header_column(out: bytearray, column: list[Headers]) -> None:
    _put_array_header(out, len(column))
    for headers in column:
        if not headers:
            _put_nil(out)
            continue
        _put_array_header(out, 2 * len(headers))
        for name, value in headers:
            _put_bin(out, name)
            _put_bin(out, value)


# -- decoding -----------------------------------------------------------------------------


def decode_block(data: bytes | bytearray | memoryview, *, max_items: int = MAX_ITEMS) -> list[Record]:
    """Decode a whole block.

    Args:
        max_items: records and headers that are accepted, together.

    Raises:
        Truncated: the data ends too early.
        Corrupt: the data is no block of this version, or has more of them.
    """
    cursor = _Cursor(bytes(data))
    cursor.entries("map", ENTRY_COUNT)
    cursor.key("v")
    version = cursor.integer()
    if version != VERSION:
        raise cursor.corrupt(f"version {version} instead of {VERSION}")
    cursor.key("count")
    count = _count(cursor)
    cursor.key("offset")
    first_offset = _offset(cursor)
    cursor.key("offsets")
    offsets = _offsets(cursor, count, first_offset)
    cursor.key("timestamp")
    first_timestamp = cursor.integer()
    cursor.key("timestamps")
    timestamps = _timestamps(cursor, count, first_timestamp)
    cursor.key("timestamp_types")
    types = _timestamp_types(cursor, count)
    cursor.key("keys")
    keys = _bins(cursor, count)
    cursor.key("values")
    values = _bins(cursor, count)
    cursor.key("headers")
    headers = _header_column(cursor, count)
    if cursor.remaining():
        raise cursor.corrupt("bytes left over after the block")
    if count + sum(map(len, headers)) > max_items:
        raise Corrupt(f"more than {max_items} records and headers", 0)
    columns = zip(offsets, timestamps, types, keys, values, headers, strict=True)
    return [Record(*row) for row in columns]


def scan_block(data: bytes | bytearray | memoryview) -> BlockStats:
    """Check a whole block as strictly as decode_block does, and say what is in it.

    Raises:
        Truncated: the data ends too early.
        Corrupt: the data is no block of this version.
    """
    records = decode_block(data, max_items=len(data))
    timestamps = [record.timestamp for record in records]
    return BlockStats(
        record_count=len(records),
        first_offset=records[0].offset,
        last_offset=records[-1].offset,
        first_timestamp=timestamps[0],
        last_timestamp=timestamps[-1],
        min_timestamp=min(timestamps),
        max_timestamp=max(timestamps),
        max_record_bytes=max(_record_bytes(record) for record in records),
    )


def offset_ranges(
    data: bytes | bytearray | memoryview, *, timestamp_from: int, timestamp_to: int
) -> tuple[bytes, bytes]:
    """The offsets of the records whose timestamps lie in a window (ms, both ends included), as ranges.

    Returns:
        The first offset of each range, and how many offsets follow each other from there: as many signed 64-bit
        integers in this machine's byte order.

    Raises:
        Truncated: the data ends too early.
        Corrupt: the data is no block of this version.
    """
    ranges: list[list[int]] = []
    for record in decode_block(data, max_items=len(data)):
        if not timestamp_from <= record.timestamp <= timestamp_to:
            continue
        if ranges and sum(ranges[-1]) == record.offset:
            ranges[-1][1] += 1
        else:
            ranges.append([record.offset, 1])
    return (
        b"".join(struct.pack("=q", start) for start, _ in ranges),
        b"".join(struct.pack("=q", count) for _, count in ranges),
    )


def _record_bytes(record: Record) -> int:
    """Bytes of key, value, header names and header values."""
    parts = [record.key, record.value]
    for name, value in record.headers:
        parts += [name, value]
    return sum(len(part) for part in parts if part is not None)


# The first byte of msgpack's formats of each kind, with the struct format of what follows it:
# the value of an integer, the length of anything else.
INTEGERS = {
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
BINS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
STRS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
ARRAYS = {0xDC: ">H", 0xDD: ">I"}
MAPS = {0xDE: ">H", 0xDF: ">I"}


class _Cursor:
    """Reads msgpack items off a byte string and never past its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def remaining(self) -> int:
        return len(self.data) - self.position

    def corrupt(self, reason: str) -> Corrupt:
        """The error to raise for what was read last."""
        return Corrupt(reason, self.position)

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > self.remaining():
            raise Truncated("the data ends too early", self.position)
        taken = self.data[self.position : self.position + size]
        self.position += size
        return taken

    def peek(self) -> int:
        """The first byte of the next item."""
        if self.remaining() == 0:
            raise Truncated("the data ends too early", self.position)
        return self.data[self.position]

    def number(self, layout: str) -> int:
        value: int
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return value

    def is_nil(self) -> bool:
        """Whether the next item is nil; then it is taken."""
        if self.peek() != 0xC0:
            return False
        self.position += 1
        return True

    def integer(self) -> int:
        """An integer in any format, within int64."""
        start = self.position
        first = self.peek()
        self.position += 1
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 256
        if first not in INTEGERS:
            raise Corrupt(f"no integer but type 0x{first:02x}", start)
        value = self.number(INTEGERS[first])
        if value > INT64_MAX:
            raise Corrupt(f"integer {value} beyond int64", start)
        return value

    def binary(self) -> bytes:
        """A byte string, its length in any format."""
        start = self.position
        first = self.peek()
        if first not in BINS:
            raise Corrupt(f"no byte string but type 0x{first:02x}", start)
        self.position += 1
        return self.take(self.number(BINS[first]))

    def key(self, name: str) -> None:
        """The key of the block's next entry, which has to be this one."""
        start = self.position
        first = self.peek()
        self.position += 1
        if 0xA0 <= first <= 0xBF:
            size = first & 0x1F
        elif first in STRS:
            size = self.number(STRS[first])
        else:
            raise Corrupt(f"no string but type 0x{first:02x}", start)
        if size != len(name) or self.take(size) != name.encode("ascii"):
            raise Corrupt(f"another key than {name!r}", start)

    def header(self, kind: str) -> int:
        """The number of entries of an array or a map."""
        start = self.position
        first = self.peek()
        self.position += 1
        fixed, layouts = {"array": (0x90, ARRAYS), "map": (0x80, MAPS)}[kind]
        if first & 0xF0 == fixed:
            return first & 0x0F
        if first in layouts:
            return self.number(layouts[first])
        raise Corrupt(f"no {kind} but type 0x{first:02x}", start)

    def entries(self, kind: str, count: int) -> None:
        """The start of an array or a map that has to have this many entries."""
        found = self.header(kind)
        if found != count:
            raise self.corrupt(f"{kind} of {found} entries instead of {count}")


def _count(cursor: _Cursor) -> int:
    count = cursor.integer()
    if count < 1:
        raise cursor.corrupt(f"count {count} is less than 1")
    if count > cursor.remaining():
        raise cursor.corrupt(f"count {count} is more than the rest of the block can hold")
    return count


def _offset(cursor: _Cursor) -> int:
    offset = cursor.integer()
    if offset < 0:
        raise cursor.corrupt(f"offset {offset} is negative")
    return offset


def _offsets(cursor: _Cursor, count: int, first: int) -> list[int]:
    cursor.entries("array", count)
    offsets: list[int] = []
    for index in range(count):
        delta = cursor.integer()
        if index == 0:
            if delta != 0:
                raise cursor.corrupt(f"first offset delta {delta} instead of 0")
            offsets.append(first)
            continue
        if delta < 1:
            raise cursor.corrupt(f"offset delta {delta} is less than 1")
        if offsets[-1] + delta > INT64_MAX:
            raise cursor.corrupt("offset beyond int64")
        offsets.append(offsets[-1] + delta)
    return offsets


def _timestamps(cursor: _Cursor, count: int, first: int) -> list[int]:
    cursor.entries("array", count)
    timestamps: list[int] = []
    for index in range(count):
        delta = cursor.integer()
        if index == 0:
            if delta != 0:
                raise cursor.corrupt(f"first timestamp delta {delta} instead of 0")
            timestamps.append(first)
        else:
            timestamps.append(_wrap(timestamps[-1] + delta))
    return timestamps


def _timestamp_types(cursor: _Cursor, count: int) -> list[int]:
    first = cursor.peek()
    if first & 0xF0 != 0x90 and first not in ARRAYS:
        return [_timestamp_type(cursor)] * count
    cursor.entries("array", count)
    return [_timestamp_type(cursor) for _ in range(count)]


def _timestamp_type(cursor: _Cursor) -> int:
    value = cursor.integer()
    if value not in TIMESTAMP_TYPES:
        raise cursor.corrupt(f"timestamp type {value} is not 0, 1 or 2")
    return value


def _bins(cursor: _Cursor, count: int) -> list[bytes | None]:
    cursor.entries("array", count)
    return [None if cursor.is_nil() else cursor.binary() for _ in range(count)]


def _header_column(cursor: _Cursor, count: int) -> list[Headers]:
    if cursor.is_nil():
        return [()] * count
    cursor.entries("array", count)
    return [() if cursor.is_nil() else _headers(cursor) for _ in range(count)]


def _headers(cursor: _Cursor) -> Headers:
    """One record's header names and values in turn: an array, and not an empty one."""
    entries = cursor.header("array")
    if entries == 0 or entries % 2:
        raise cursor.corrupt(f"{entries} entries are no header names and values in turn")
    headers: list[tuple[bytes, bytes | None]] = []
    for _ in range(entries // 2):
        if cursor.is_nil():
            raise cursor.corrupt("a header without a name")
        name = cursor.binary()
        headers.append((name, None if cursor.is_nil() else cursor.binary()))
    return tuple(headers)
