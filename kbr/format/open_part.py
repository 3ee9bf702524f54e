"""What of an encrypted manifest can be read without a key: which segments there are, how large, and the wrapped keys.

Bytes to values, without I/O (docs/format.md). Who has the key knows that it is what was written; who has none can only
compare it with what is there.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kbr.errors import SealBroken
from kbr.format.envelope import sealed_bytes
from kbr.format.manifest_values import Manifest
from kbr.format.names import INT64_MAX, is_topic_name, parse_segment_name, segment_name
from kbr.model import Compression, SegmentRef
from kbr.wire import dump_msgpack, load_msgpack

__all__ = ["Inventory", "OpenPart", "dump_open_part", "load_open_part"]

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPart:
    """An open part that was read.

    Attributes:
        keys: the bytes of keys.json.
        segments: key below the backup's folder and stored size.
    """

    backup_id: str
    keys: bytes
    segments: dict[str, int]


class Inventory:
    """The segments of one backup's manifests, again and again: of a list that has grown only what is new is looked at."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], _Row] = {}

    def rows(self, manifest: Manifest) -> list[list[Any]]:
        """For dump_open_part()."""
        found: list[list[Any]] = []
        for topic in manifest.topics:
            for partition in topic.partitions:
                if not partition.segments:
                    continue
                row = self._rows.setdefault((topic.name, partition.partition), _Row())
                row.follow(partition.segments)
                found.append(
                    [topic.name, partition.partition, row.compression, _little_endian(row.sequences), _little_endian(row.sizes)]
                )
        return found


class _Row:
    """A partition's columns."""

    __slots__ = ("_first", "_last", "compression", "sequences", "sizes")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.compression = ""
        self.sequences = array("q")
        self.sizes = array("q")
        self._first: SegmentRef | None = None
        self._last: SegmentRef | None = None

    def follow(self, segments: Sequence[SegmentRef]) -> None:
        count = len(self.sequences)
        if count and not (
            len(segments) >= count and segments[0] is self._first and segments[count - 1] is self._last
        ):
            self._clear()  # another list than before
            count = 0
        for one in segments[count:]:
            self.sequences.append(one.sequence)
            self.sizes.append(sealed_bytes(one.stored_bytes))
        if not count:
            name = parse_segment_name(segments[0].key)
            if name is None:
                raise ValueError(f"{segments[0].key} is not the key of a segment")
            # one for all: a backup is never gone on with by another compression
            self.compression = name.compression.value
        self._first, self._last = segments[0], segments[-1]


def dump_open_part(backup_id: str, keys: bytes, rows: list[list[Any]]) -> bytes:
    """The bytes."""
    return dump_msgpack({"version": _VERSION, "backup_id": backup_id, "keys": keys, "segments": rows})


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def load_open_part(data: bytes, *, name: str, backup_id: str) -> OpenPart:
    """Read it; nothing in it is proven by that.

    Raises:
        SealBroken: it makes no sense, or is another backup's.
    """
    try:
        document = load_msgpack(data, unique_keys=True)
        if type(document) is not dict or document.get("version") != _VERSION:
            raise ValueError("it is of another version")
        if document.get("backup_id") != backup_id:
            raise ValueError(f"it is of backup {str(document.get('backup_id'))[:128]!a}")
        keys, rows = document.get("keys"), document.get("segments")
        if type(keys) is not bytes or type(rows) is not list:
            raise ValueError("something is missing")
        segments: dict[str, int] = {}
        for row in rows:
            for key, size in _segments(row):
                if segments.setdefault(key, size) != size:
                    raise ValueError(f"{key} is there twice")
    except (ValueError, struct.error) as error:
        raise SealBroken(
            f"{name}: the manifest's open part is damaged: {error}",
            hint="put back an intact copy of it; the segments are not affected",
            object=name,
            position=64,
        ) from error
    return OpenPart(backup_id=backup_id, keys=keys, segments=segments)


def _segments(row: object) -> Iterator[tuple[str, int]]:
    if type(row) is not list or len(row) != 5:
        raise ValueError("a row is not one of five values")
    topic, partition, compression, sequences, sizes = row
    if type(topic) is not str or not is_topic_name(topic):
        raise ValueError("a topic's name is none")
    if type(partition) is not int or not 0 <= partition <= 2**31 - 1:
        raise ValueError("a partition is none")
    if type(sequences) is not bytes or type(sizes) is not bytes or len(sequences) != len(sizes):
        raise ValueError("sequences and sizes are not of one length")
    kind = Compression(compression)
    numbers = (struct.iter_unpack("<q", one) for one in (sequences, sizes))
    for (sequence,), (size,) in zip(*numbers, strict=True):
        if not 0 <= sequence <= INT64_MAX or size < 0:
            raise ValueError("a number is out of range")
        yield segment_name(topic, partition, sequence, kind), size
