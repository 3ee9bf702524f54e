"""Reads the index that closes a segment: bytes from outside, so nothing is believed.

No length is used before it is checked, and whatever is wrong is CorruptSegment (or
UnsupportedFormat) with the object's name and the position.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import NoReturn

from kbr.errors import CorruptSegment, UnsupportedFormat
from kbr.format.names import INT64_MAX
from kbr.format.packed import PackedError, PackedReader
from kbr.format.segment_layout import (
    COLUMNS,
    FOOTER,
    FOOTER_BYTES,
    FRAME_HEADER,
    FRAME_MAGIC,
    INDEX_OVERHEAD_BYTES,
    MAX_BLOCKS,
    MAX_INDEX_BYTES,
    SEGMENT_VERSION,
    SIGNATURE,
    SIGNATURE_FAMILY,
    BlockEntry,
    SegmentIdentity,
    SegmentIndex,
    block_complaint,
    identity_complaint,
)
from kbr.model import Compression
from kbr.wire import load_msgpack

__all__ = ["NeedMoreTail", "parse_index"]

_TEXT_FIELDS = ("compression", "backup_id", "topic", "topic_id", "writer")
_INTEGER_FIELDS = (
    "version",
    "partition",
    "sequence",
    "next_offset",
    "created_at",
    "record_count",
    "raw_bytes",
    "max_record_bytes",
    "first_timestamp",
    "last_timestamp",
)


#: A general parser makes up to a hundred bytes of a byte: up to here that is 7 MiB, and it is three times as fast.
_SMALL_INDEX_BYTES = 64 * 1024
#: What an index may have, or not.
_OPTIONAL_FIELD = "last_leader_epoch"
#: What kbr's own index has: its fields and "blocks", and the columns; and the optional one.
_PAIRS = len(_INTEGER_FIELDS) + len(_TEXT_FIELDS) + 2 + len(COLUMNS)


_INT32_MAX = 2**31 - 1


class NeedMoreTail(Exception):
    """The index begins before the tail that was given.

    Args:
        tail_bytes: bytes from the object's end that parse_index needs.
    """

    def __init__(self, tail_bytes: int) -> None:
        super().__init__(tail_bytes)
        self.tail_bytes = tail_bytes


def parse_index(tail: bytes, *, object_bytes: int, name: str) -> SegmentIndex:
    """Read and check the index that closes a segment.

    Args:
        tail: the object's last bytes; any number of them.
        object_bytes: size of the whole object.
        name: the object, for messages.

    Raises:
        CorruptSegment: it is no segment, truncated, or doesn't agree with itself.
        UnsupportedFormat: it is a segment of another version.
        NeedMoreTail: the tail is too short; call again with as much as it says.
    """
    return _IndexParser(tail, object_bytes, name).parse()


class _IndexParser:
    """One call of parse_index."""

    def __init__(self, tail: bytes, object_bytes: int, name: str) -> None:
        self._tail = tail
        self._object_bytes = object_bytes
        self._name = name
        self._index_position = 0
        #: Where the index (the map) begins in the object.
        self._map_position = 0

    def parse(self) -> SegmentIndex:
        packed = self._locate()
        if len(packed) <= _SMALL_INDEX_BYTES and (found := _read_at_once(packed)) is not None:
            return self._build(*found)
        reader = PackedReader(packed)
        try:
            fields, columns = self._read_map(reader)
        except PackedError as error:
            self._corrupt(f"the index: {error.reason}", self._map_position + error.position)
        return self._build(fields, columns)

    def _corrupt(self, what: str, position: int) -> NoReturn:
        raise CorruptSegment(
            f"{self._name}: {what} (byte {position})",
            hint="get the object from another copy of the backup",
            object=self._name,
            position=position,
        )

    def _unsupported(self, version: object) -> NoReturn:
        raise UnsupportedFormat(
            f"{self._name}: a segment of version {version}; this kbr reads version {SEGMENT_VERSION}",
            hint="read it with the version of kbr that wrote it, or a newer one",
            object=self._name,
        )

    def _locate(self) -> bytes:
        """Check everything around the index; gives its bytes."""
        tail, object_bytes = self._tail, self._object_bytes
        if object_bytes <= INDEX_OVERHEAD_BYTES:
            self._corrupt(f"{object_bytes} bytes are too few for a segment", 0)
        if len(tail) > object_bytes:
            self._corrupt(f"{len(tail)} bytes read of an object of {object_bytes}", 0)
        if len(tail) < FOOTER_BYTES:
            raise NeedMoreTail(FOOTER_BYTES)
        size, crc, position = self._read_footer(tail[-FOOTER_BYTES:])
        frame_bytes = size + INDEX_OVERHEAD_BYTES
        if frame_bytes > len(tail):
            raise NeedMoreTail(frame_bytes)
        frame = tail[len(tail) - frame_bytes :]
        if FRAME_HEADER.unpack_from(frame) != (FRAME_MAGIC, size + FOOTER_BYTES):
            self._corrupt("no index frame where the footer says", position)
        packed = frame[FRAME_HEADER.size : FRAME_HEADER.size + size]
        self._index_position = position
        self._map_position = position + FRAME_HEADER.size
        if zlib.crc32(packed) != crc:
            self._corrupt("the index is damaged: its CRC-32 differs", self._map_position)
        return packed

    def _read_footer(self, footer: bytes) -> tuple[int, int, int]:
        """The index's size and CRC-32, and where its frame begins: within the object."""
        object_bytes = self._object_bytes
        size, crc, position, signature = FOOTER.unpack(footer)
        if signature != SIGNATURE:
            version = signature[len(SIGNATURE_FAMILY) :]
            if signature.startswith(SIGNATURE_FAMILY) and version.isdigit():
                self._unsupported(version.decode("ascii"))
            self._corrupt(
                f"it does not end with {SIGNATURE.decode()}: truncated, or no segment",
                object_bytes - len(SIGNATURE),
            )
        where = object_bytes - FOOTER_BYTES
        if size > MAX_INDEX_BYTES:
            self._corrupt(f"an index of {size} bytes; {MAX_INDEX_BYTES} are allowed", where)
        if position + size + INDEX_OVERHEAD_BYTES != object_bytes:
            self._corrupt(
                f"an index of {size} bytes at {position} in an object of {object_bytes} bytes: "
                "truncated, or bytes too many",
                where,
            )
        return size, crc, position

    def _read_map(self, reader: PackedReader) -> tuple[dict[str, object], dict[str, list[int]]]:
        """Read the index's entries; the version before anything else is judged."""
        readers: dict[str, Callable[[], object]] = dict.fromkeys(_INTEGER_FIELDS, reader.integer)
        readers |= dict.fromkeys(_TEXT_FIELDS, reader.text)
        readers["sha256"] = reader.binary
        readers[_OPTIONAL_FIELD] = reader.integer
        fields: dict[str, object] = {}
        columns: dict[str, list[int]] | None = None
        for _ in range(reader.map_size()):
            position = reader.position
            key = reader.text()
            if key in fields or (key == "blocks" and columns is not None):
                raise PackedError(f"{ascii(key)[:100]} stands there twice", position)
            if key == "blocks":
                columns = _read_columns(reader)
            elif key in readers:
                fields[key] = readers[key]()
            else:
                reader.skip()
            if key == "version" and fields[key] != SEGMENT_VERSION:
                self._unsupported(fields[key])
        if reader.remaining:
            raise PackedError("bytes left over after the index", reader.position)
        fields.setdefault(_OPTIONAL_FIELD, -1)
        missing = [key for key in readers if key not in fields]
        if columns is None or missing:
            raise PackedError(f"no {', '.join(missing) or 'blocks'}", 0)
        return fields, columns

    def _build(self, fields: dict[str, object], columns: dict[str, list[int]]) -> SegmentIndex:
        text = {key: str(fields[key]) for key in _TEXT_FIELDS}
        number = {key: value for key, value in fields.items() if isinstance(value, int)}
        sha256 = fields["sha256"]
        if not isinstance(sha256, bytes) or len(sha256) != hashlib.sha256().digest_size:
            self._corrupt("the index: sha256 is not 32 bytes", self._map_position)
        try:
            compression = Compression(text["compression"])
        except ValueError:
            self._corrupt(f"the index: unknown compression {text['compression'][:40]!r}", self._map_position)
        identity = SegmentIdentity(
            backup_id=text["backup_id"],
            topic=text["topic"],
            topic_id=text["topic_id"],
            partition=number["partition"],
            sequence=number["sequence"],
            compression=compression,
            writer=text["writer"],
            created_at_ms=number["created_at"],
        )
        complaint = identity_complaint(identity)
        if complaint:
            self._corrupt(f"the index: {complaint}", self._map_position)
        index = SegmentIndex(
            identity=identity,
            next_offset=number["next_offset"],
            record_count=number["record_count"],
            raw_bytes=number["raw_bytes"],
            max_record_bytes=number["max_record_bytes"],
            first_timestamp=number["first_timestamp"],
            last_timestamp=number["last_timestamp"],
            last_leader_epoch=number[_OPTIONAL_FIELD],
            content_sha256=sha256,
            blocks=self._blocks(columns, identity.sequence),
            index_position=self._index_position,
        )
        self._check_totals(index)
        return index

    def _blocks(self, columns: dict[str, list[int]], sequence: int) -> tuple[BlockEntry, ...]:
        sizes = {len(column) for column in columns.values()}
        if len(sizes) != 1:
            self._corrupt("the index: columns of different lengths", self._map_position)
        count = sizes.pop()
        if not 1 <= count <= MAX_BLOCKS:
            self._corrupt(f"the index: {count} blocks", self._map_position)
        blocks: list[BlockEntry] = []
        position, earliest = 0, sequence
        for number, row in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True)):
            stored, raw, records, first, last, low, high, crc = row
            entry = BlockEntry(
                position=position,
                stored_bytes=stored,
                raw_bytes=raw,
                record_count=records,
                first_offset=first,
                last_offset=last,
                min_timestamp=low,
                max_timestamp=high,
                crc32=crc,
            )
            complaint = block_complaint(entry, earliest)
            if complaint:
                self._corrupt(f"the index: block {number}: {complaint}", self._map_position)
            blocks.append(entry)
            position += stored
            earliest = last + 1
        if position != self._index_position:
            self._corrupt(
                f"the index: frames of {position} bytes in {self._index_position}",
                self._map_position,
            )
        return tuple(blocks)

    def _check_totals(self, index: SegmentIndex) -> None:
        blocks = index.blocks
        first, last = blocks[0], blocks[-1]
        checks = (
            (index.next_offset > last.last_offset, "next_offset"),
            (index.record_count == sum(block.record_count for block in blocks), "record_count"),
            (index.raw_bytes == sum(block.raw_bytes for block in blocks), "raw_bytes"),
            (
                first.min_timestamp <= index.first_timestamp <= first.max_timestamp,
                "first_timestamp",
            ),
            (last.min_timestamp <= index.last_timestamp <= last.max_timestamp, "last_timestamp"),
            (-1 <= index.last_leader_epoch <= _INT32_MAX, _OPTIONAL_FIELD),
            (0 <= index.max_record_bytes <= max(b.raw_bytes for b in blocks), "max_record_bytes"),
        )
        for agrees, field in checks:
            if not agrees:
                self._corrupt(f"the index: {field} disagrees with the blocks", self._map_position)


def _read_at_once(packed: bytes) -> tuple[dict[str, object], dict[str, list[int]]] | None:
    """What _read_map() gives, for a small index without a fault; None leaves it to that to say what is wrong.

    Only what has kbr's own number of keys, and whose declared lengths all fit: a parser may make room for what is
    declared, and keeps the keys of maps for the process's life (CPython 3.12).
    """
    try:
        reader = PackedReader(packed)
        pairs = reader.skip()
        if pairs not in (_PAIRS, _PAIRS + 1) or reader.remaining:
            return None
        found = load_msgpack(packed, unique_keys=True)
    except ValueError:
        return None
    if type(found) is not dict or found.get("version") != SEGMENT_VERSION:
        return None
    columns = found.get("blocks")
    if type(columns) is not dict or not all(_is_column(columns.get(name)) for name in COLUMNS):
        return None
    if not all(type(key) is str for key in (*found, *columns)):
        return None
    if not all(_is_integer(found.get(name)) for name in _INTEGER_FIELDS):
        return None
    if not all(type(found.get(name)) is str for name in _TEXT_FIELDS) or type(found.get("sha256")) is not bytes:
        return None
    epoch = found.get(_OPTIONAL_FIELD, -1)
    if not _is_integer(epoch):
        return None
    fields = {name: found[name] for name in (*_INTEGER_FIELDS, *_TEXT_FIELDS, "sha256")}
    fields[_OPTIONAL_FIELD] = epoch
    return fields, {name: columns[name] for name in COLUMNS}


def _is_integer(value: object) -> bool:
    return type(value) is int and -INT64_MAX - 1 <= value <= INT64_MAX


def _is_column(value: object) -> bool:
    return type(value) is list and len(value) <= MAX_BLOCKS and all(map(_is_integer, value))


def _read_columns(reader: PackedReader) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {}
    for _ in range(reader.map_size()):
        position = reader.position
        key = reader.text()
        if key in columns:
            raise PackedError(f"column {ascii(key)[:100]} stands there twice", position)
        if key in COLUMNS:
            columns[key] = reader.integers(MAX_BLOCKS)
        else:
            reader.skip()
    missing = [key for key in COLUMNS if key not in columns]
    if missing:
        raise PackedError(f"no column {', '.join(missing)}", reader.position)
    return columns
