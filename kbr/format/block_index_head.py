"""The block index's head: which pieces it is made of, as one small JSON document with its own checksum. Pure.

A piece is a Parquet file (``block_index``). What the head says of each (size, and SHA-256 of the footer) is checked
before a Parquet library sees a byte of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kbr.errors import BlockIndexUnreadable
from kbr.format.names import INT64_MAX, PARTITION_MAX, is_topic_name
from kbr.format.sealed import BadValue, count_at, fail, seal, unseal, value_at
from kbr.model import SegmentRef

__all__ = [
    "HEAD_NAME",
    "INDEX_HINT",
    "MAX_HEAD_BYTES",
    "BlockIndexHead",
    "Coverage",
    "PieceEntry",
    "SegmentPlace",
    "dump_head",
    "is_piece_name",
    "load_head",
    "piece_name",
    "segment_mark",
]

FORMAT_NAME = "kbr-block-index"
FORMAT_VERSION = 1
HEAD_NAME = "head.json"
#: Largest head that is read, bytes: some 40,000 pieces.
MAX_HEAD_BYTES = 16 * 1024 * 1024
#: Levels of pieces: eight times as many rows each, so twenty are more than there can be.
MAX_LEVEL = 20
INDEX_HINT = "kbr index build writes it anew, from the segments' own indexes"

_PIECE = re.compile(r"blocks-[0-9a-f]{32}\.parquet")
_RUN = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SegmentPlace(NamedTuple):
    """A segment of a backup, in the order of the index."""

    topic: str
    partition: int
    sequence: int


class Coverage(NamedTuple):
    """What of a partition an index has: its first ``segments`` ones in the manifest's order, and all of each.

    ``digest`` is the sum of their marks modulo 2**64: other segments have another one.
    """

    segments: int
    digest: int

    def plus(self, other: Coverage) -> Coverage:
        """Both together."""
        return Coverage(self.segments + other.segments, (self.digest + other.digest) % 2**64)

    @classmethod
    def of(cls, segments: Iterable[SegmentRef]) -> Coverage:
        """That of some segments."""
        marks = [segment_mark(one) for one in segments]
        return cls(len(marks), sum(marks) % 2**64)


def segment_mark(reference: SegmentRef) -> int:
    """By what an index knows a segment: the first 8 bytes of its SHA-256, big-endian.

    A segment's own bytes say whose it is and where it belongs, so the mark is that of no other segment.
    """
    return int(reference.sha256[:16], 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceEntry:
    """What the head says of one piece.

    Attributes:
        name: of the object, below the index's folder.
        run: the pieces of one run follow each other in the order of the rows.
        level: runs of one level are merged into one of the next when there are enough of them.
        size_bytes: of the object; footer_bytes: of its end, from the Parquet metadata on.
        footer_sha256: of that end, hex.
        row_count, segment_count: what is in it.
        first, last: the segments of the first and of the last row.
        min_timestamp, max_timestamp: of all rows, ms.
    """

    name: str
    run: str
    level: int
    size_bytes: int
    footer_bytes: int
    footer_sha256: str
    row_count: int
    segment_count: int
    first: SegmentPlace
    last: SegmentPlace
    min_timestamp: int
    max_timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIndexHead:
    """A whole index."""

    kbr_version: str
    backup_id: str
    updated_at_ms: int
    #: From the oldest to the newest run.
    pieces: tuple[PieceEntry, ...]

    @property
    def row_count(self) -> int:
        """Blocks that it lists."""
        return sum(one.row_count for one in self.pieces)

    @property
    def segment_count(self) -> int:
        """Segments that it covers."""
        return sum(one.segment_count for one in self.pieces)

    @property
    def size_bytes(self) -> int:
        """Of all pieces, without the head."""
        return sum(one.size_bytes for one in self.pieces)


def piece_name(token: str) -> str:
    """The name of a piece's object; ``token`` is 32 digits of lower-case hex."""
    return f"blocks-{token}.parquet"


def is_piece_name(name: str) -> bool:
    """Whether piece_name() can have made it."""
    return _PIECE.fullmatch(name) is not None


def dump_head(head: BlockIndexHead) -> bytes:
    """The bytes of a head, checksum included."""
    return seal(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": head.kbr_version,
            "backup_id": head.backup_id,
            "updated_at": head.updated_at_ms,
            "blocks": head.row_count,
            "segments": head.segment_count,
            "pieces": [
                {
                    "name": one.name,
                    "run": one.run,
                    "level": one.level,
                    "bytes": one.size_bytes,
                    "footer_bytes": one.footer_bytes,
                    "footer_sha256": one.footer_sha256,
                    "blocks": one.row_count,
                    "segments": one.segment_count,
                    "first": list(one.first),
                    "last": list(one.last),
                    "min_timestamp": one.min_timestamp,
                    "max_timestamp": one.max_timestamp,
                }
                for one in head.pieces
            ],
        }
    )


def load_head(data: bytes, *, name: str) -> BlockIndexHead:
    """Read a head.

    Args:
        data: the whole object.
        name: the object, for messages.

    Raises:
        BlockIndexUnreadable: it is damaged, or makes no sense.
        UnsupportedFormat: it is of another version, or something else.
    """

    def unreadable(what: str) -> BlockIndexUnreadable:
        return BlockIndexUnreadable(what, hint=INDEX_HINT, object=name)

    document = unseal(
        data,
        name=name,
        format_name=FORMAT_NAME,
        version=FORMAT_VERSION,
        what="the head of a block index",
        error=unreadable,
    )
    try:
        return _head(document)
    except BadValue as error:
        raise unreadable(f"{name}: the head of the block index makes no sense: {error}") from error


def _head(document: Mapping[str, Any]) -> BlockIndexHead:
    pieces = value_at(document, "", "pieces", list)
    head = BlockIndexHead(
        kbr_version=value_at(document, "", "kbr_version", str),
        backup_id=value_at(document, "", "backup_id", str),
        updated_at_ms=count_at(document, "", "updated_at"),
        pieces=tuple(_piece(one, f"pieces[{number}]") for number, one in enumerate(pieces)),
    )
    names = {one.name for one in head.pieces}
    if len(names) != len(head.pieces):
        fail("pieces", "name one twice")
    for key, found in (("blocks", head.row_count), ("segments", head.segment_count)):
        if count_at(document, "", key) != found:
            fail(key, "is not the sum over the pieces")
    return head


def _piece(node: Any, path: str) -> PieceEntry:
    if type(node) is not dict:
        fail(path, "is no object")
    path += "."
    sha256 = _text(node, path, "footer_sha256", _SHA256)
    piece = PieceEntry(
        name=_text(node, path, "name", _PIECE),
        run=_text(node, path, "run", _RUN),
        level=count_at(node, path, "level"),
        size_bytes=count_at(node, path, "bytes"),
        footer_bytes=count_at(node, path, "footer_bytes"),
        footer_sha256=sha256,
        row_count=count_at(node, path, "blocks"),
        segment_count=count_at(node, path, "segments"),
        first=_place(node, path, "first"),
        last=_place(node, path, "last"),
        min_timestamp=_timestamp(node, path, "min_timestamp"),
        max_timestamp=_timestamp(node, path, "max_timestamp"),
    )
    if piece.level > MAX_LEVEL or piece.footer_bytes > piece.size_bytes:
        fail(path, "has a level or a footer that can't be")
    if not 1 <= piece.segment_count <= piece.row_count or piece.first > piece.last:
        fail(path, "has counts or places that can't be")
    return piece


def _text(node: Mapping[str, Any], path: str, key: str, pattern: re.Pattern[str]) -> str:
    text: str = value_at(node, path, key, str)
    if pattern.fullmatch(text) is None:
        fail(f"{path}{key}", "is not what it has to be")
    return text


def _timestamp(node: Mapping[str, Any], path: str, key: str) -> int:
    value: int = value_at(node, path, key, int)
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        fail(f"{path}{key}", "is out of range")
    return value


def _place(node: Mapping[str, Any], path: str, key: str) -> SegmentPlace:
    found = value_at(node, path, key, list)
    if list(map(type, found)) != [str, int, int]:
        fail(f"{path}{key}", "is no topic, partition and sequence")
    topic, partition, sequence = found
    if not is_topic_name(topic) or not 0 <= partition <= PARTITION_MAX or not 0 <= sequence <= INT64_MAX:
        fail(f"{path}{key}", "can't be a segment")
    return SegmentPlace(topic, partition, sequence)
