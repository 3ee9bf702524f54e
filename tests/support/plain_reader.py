"""A reader of whole segments, written from docs/format.md alone: proof that the page is enough.

Knows nothing of kbr or kbr_codec and must not import them. What it returns compares equal to
kbr's records, because both are tuples of the same six fields.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import lz4.frame
import msgpack
import zstandard

__all__ = ["PlainRecord", "Unreadable", "read_block", "read_frames", "read_index", "read_segment"]

MAGIC = 0x184D2A5B
FOOTER = struct.Struct("<IIQ8s")
SIGNATURE = b"KBRSEGv1"
INT64_MAX = 2**63 - 1
MAX_INDEX_BYTES = 8 * 2**20
MAX_BLOCKS = 65_536
MAX_WINDOW_BYTES = 128 * 2**20
MAX_NAME_CHARACTERS = 1024

BLOCK_KEYS = [
    "v",
    "count",
    "offset",
    "offsets",
    "timestamp",
    "timestamps",
    "timestamp_types",
    "keys",
    "values",
    "headers",
]
INDEX_TYPES = {
    "version": int,
    "compression": str,
    "backup_id": str,
    "topic": str,
    "topic_id": str,
    "partition": int,
    "sequence": int,
    "next_offset": int,
    "writer": str,
    "created_at": int,
    "record_count": int,
    "raw_bytes": int,
    "max_record_bytes": int,
    "first_timestamp": int,
    "last_timestamp": int,
    "sha256": bytes,
    "blocks": dict,
}
BLOCK_COLUMNS = [
    "stored_bytes",
    "raw_bytes",
    "record_count",
    "first_offset",
    "last_offset",
    "min_timestamp",
    "max_timestamp",
    "crc32",
]


class Unreadable(ValueError):
    """The bytes are no segment as the page describes it."""


class PlainRecord(NamedTuple):
    """One record of a segment."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


def read_segment(data: bytes) -> tuple[dict[str, Any], list[PlainRecord]]:
    """Read and check a whole segment.

    Returns:
        The index as it stands in the segment, and all records.

    Raises:
        Unreadable: anything is not as the page says.
    """
    index, index_position = read_index(data)
    _check(hashlib.sha256(data[:index_position]).digest() == index["sha256"], "sha256 differs")
    records: list[PlainRecord] = []
    for number, block in enumerate(read_frames(data, index, index_position)):
        found = read_block(block)
        _check_entry({name: index["blocks"][name][number] for name in BLOCK_COLUMNS}, found)
        records += found
    _check_totals(index, records)
    return index, records


def read_index(data: bytes) -> tuple[dict[str, Any], int]:
    """Read the index, and the position where its frame begins."""
    _check(len(data) >= 32, "too short for a segment")
    size, crc, position, signature = FOOTER.unpack(data[-24:])
    _check(signature == SIGNATURE, "no segment, or a truncated one")
    _check(position + 32 + size == len(data), "truncated, or bytes too many")
    magic, content_size = struct.unpack("<II", data[position : position + 8])
    _check(magic == MAGIC, "no index frame where it should be")
    _check(content_size == size + 24, "index frame of another size")
    _check(size <= MAX_INDEX_BYTES, "index too large")
    packed = data[position + 8 : position + 8 + size]
    _check(zlib.crc32(packed) == crc, "index is damaged")
    index = _unpack(packed, object_pairs_hook=_no_key_twice)
    _check(isinstance(index, dict) and all(isinstance(key, str) for key in index), "no map")
    _check(next(iter(index), None) == "version", "version is not first")
    _check(_is_int(index.get("version")) and index["version"] == 1, "another version")
    for name, kind in INDEX_TYPES.items():
        value = index.get(name)
        _check(_is_int(value) if kind is int else type(value) is kind, f"{name} is no {kind}")
    _check(index["compression"] in ("zstd", "lz4", "none"), "unknown compression")
    _check(len(index["sha256"]) == 32, "sha256 is not 32 bytes")
    blocks = index["blocks"]
    for name in BLOCK_COLUMNS:
        column = blocks.get(name)
        _check(type(column) is list and all(_is_int(entry) for entry in column), f"no {name}")
        _check(len(column) == len(blocks["stored_bytes"]), "columns of different lengths")
    _check(1 <= len(blocks["stored_bytes"]) <= MAX_BLOCKS, "no block, or too many")
    _check(sum(blocks["stored_bytes"]) == position, "frames and index don't meet")
    _check_agreement(index, blocks)
    return index, position


def _check_agreement(index: dict[str, Any], blocks: dict[str, list[int]]) -> None:
    """The page's paragraph "An index agrees with itself", in its order."""
    for name in ("record_count", "raw_bytes"):
        _check(index[name] == sum(blocks[name]), f"{name} is not the sum of the blocks'")
    for name, kind in INDEX_TYPES.items():
        _check(kind is not int or name.endswith("_timestamp") or index[name] >= 0, f"{name} is negative")
    for name in ("stored_bytes", "raw_bytes", "record_count"):
        _check(min(blocks[name]) >= 1, f"{name} of a block is less than 1")
    for name in ("first_offset", "crc32"):
        _check(min(blocks[name]) >= 0, f"{name} of a block is negative")
    before = index["sequence"] - 1
    for count, first, last, smallest, largest in zip(
        *(blocks[name] for name in ("record_count", "first_offset", "last_offset", "min_timestamp", "max_timestamp")),
        strict=True,
    ):
        _check(before < first <= last, "offsets of blocks overlap or begin before the sequence")
        _check(count <= last - first + 1, "more records than offsets")
        _check(smallest <= largest, "min_timestamp above max_timestamp")
        before = last
    _check(before < index["next_offset"], "a record after next_offset")
    smallest, largest = blocks["min_timestamp"], blocks["max_timestamp"]
    _check(smallest[0] <= index["first_timestamp"] <= largest[0], "first_timestamp")
    _check(smallest[-1] <= index["last_timestamp"] <= largest[-1], "last_timestamp")
    _check(index["max_record_bytes"] <= max(blocks["raw_bytes"]), "max_record_bytes")
    for name in ("topic_id", "writer"):
        _check(len(index[name]) <= MAX_NAME_CHARACTERS, f"{name} is too long")


def _no_key_twice(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    _check(len(found) == len(pairs), "a key stands twice")
    return found


def read_frames(data: bytes, index: dict[str, Any], index_position: int) -> list[bytes]:
    """Read all blocks, decompressed."""
    blocks = index["blocks"]
    frames = []
    position = 0
    for stored, raw, crc in zip(
        blocks["stored_bytes"], blocks["raw_bytes"], blocks["crc32"], strict=True
    ):
        _check(0 < stored <= index_position - position, "a frame beyond the index")
        frame = data[position : position + stored]
        position += stored
        _check(zlib.crc32(frame) == crc, "a frame is damaged")
        frames.append(_decompress(frame, index["compression"], raw))
    return frames


def _decompress(frame: bytes, compression: str, raw_bytes: int) -> bytes:
    if compression == "none":
        _check(len(frame) == raw_bytes, "a frame of another size")
        return frame
    try:
        if compression == "zstd":
            parameters = zstandard.get_frame_parameters(frame)
            _check(parameters.content_size == raw_bytes, "a frame of another size")
            _check(bool(parameters.has_checksum), "a frame without checksum")
            _check(parameters.dict_id == 0, "a frame with a dictionary")
            _check(parameters.window_size <= max(MAX_WINDOW_BYTES, raw_bytes), "a frame with too large a window")
            block = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        else:
            info = lz4.frame.get_frame_info(frame)
            _check(info["content_size"] == raw_bytes, "a frame of another size")
            _check(bool(info["content_checksum"]), "a frame without checksum")
            block, used = lz4.frame.decompress(frame, return_bytes_read=True)
            _check(used == len(frame), "more than a frame")
    except (zstandard.ZstdError, RuntimeError) as error:
        raise Unreadable(f"a frame is damaged: {error}") from error
    _check(len(block) == raw_bytes, "a frame of another size")
    return bytes(block)


def read_block(block: bytes) -> list[PlainRecord]:
    """Read the records of one block."""
    pairs = _unpack(block, object_pairs_hook=list)
    _check(
        isinstance(pairs, list)
        and all(isinstance(pair, tuple) for pair in pairs)
        and [key for key, _ in pairs] == BLOCK_KEYS,
        "a block is a map of exactly these keys in this order",
    )
    entry = dict(pairs)
    count = entry["count"]
    _check(_is_int(entry["v"]) and entry["v"] == 1, "another version of a block")
    _check(_is_int(count) and count >= 1, "count")
    _check(_is_int(entry["offset"]) and entry["offset"] >= 0, "offset")
    _check(_is_int(entry["timestamp"]), "timestamp")
    offset_deltas = _column(entry["offsets"], count)
    _check(all(_is_int(delta) for delta in offset_deltas), "offsets")
    _check(offset_deltas[0] == 0 and all(delta >= 1 for delta in offset_deltas[1:]), "offsets")
    timestamp_deltas = _column(entry["timestamps"], count)
    _check(all(_is_int(delta) for delta in timestamp_deltas), "timestamps")
    _check(timestamp_deltas[0] == 0, "timestamps")
    types = entry["timestamp_types"]
    types = [types] * count if _is_int(types) else _column(types, count)
    _check(all(_is_int(kind) and kind in (0, 1, 2) for kind in types), "timestamp_types")
    keys = _column(entry["keys"], count)
    values = _column(entry["values"], count)
    _check(all(data is None or type(data) is bytes for data in keys + values), "keys and values")
    headers = [None] * count if entry["headers"] is None else _column(entry["headers"], count)

    records = []
    offset, timestamp = entry["offset"], entry["timestamp"]
    for i in range(count):
        offset += offset_deltas[i]
        _check(offset <= INT64_MAX, "offset beyond int64")
        timestamp = _int64(timestamp + timestamp_deltas[i])
        records.append(
            PlainRecord(offset, timestamp, types[i], keys[i], values[i], _headers(headers[i]))
        )
    return records


def _headers(flat: object) -> tuple[tuple[bytes, bytes | None], ...]:
    if flat is None:
        return ()
    _check(type(flat) is list and len(flat) > 0 and len(flat) % 2 == 0, "headers")
    assert isinstance(flat, list)
    _check(all(type(name) is bytes for name in flat[0::2]), "header names")
    _check(all(value is None or type(value) is bytes for value in flat[1::2]), "header values")
    return tuple(zip(flat[0::2], flat[1::2], strict=True))


def _column(column: object, count: int) -> list[Any]:
    _check(type(column) is list and len(column) == count, "a column is an array of count entries")
    assert isinstance(column, list)
    return column


def _check_entry(entry: dict[str, int], records: list[PlainRecord]) -> None:
    """Compare a block with what the index says of it."""
    _check(entry["record_count"] == len(records), "record_count of a block")
    _check(entry["first_offset"] == records[0].offset, "first_offset of a block")
    _check(entry["last_offset"] == records[-1].offset, "last_offset of a block")
    timestamps = [record.timestamp for record in records]
    _check(entry["min_timestamp"] == min(timestamps), "min_timestamp of a block")
    _check(entry["max_timestamp"] == max(timestamps), "max_timestamp of a block")


def _check_totals(index: dict[str, Any], records: list[PlainRecord]) -> None:
    """Compare the records with what the index says of all of them."""
    _check(index["record_count"] == len(records), "record_count")
    _check(index["first_timestamp"] == records[0].timestamp, "first_timestamp")
    _check(index["last_timestamp"] == records[-1].timestamp, "last_timestamp")
    _check(index["max_record_bytes"] == max(map(_size, records)), "max_record_bytes")


def _size(record: PlainRecord) -> int:
    total = len(record.key or b"") + len(record.value or b"")
    return total + sum(len(name) + len(value or b"") for name, value in record.headers)


def _unpack(data: bytes, **options: Any) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, **options)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Unreadable(f"no msgpack: {error or type(error).__name__}") from error


def _int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _is_int(value: object) -> bool:
    return type(value) is int and -(2**63) <= value <= INT64_MAX


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        raise Unreadable(complaint)
