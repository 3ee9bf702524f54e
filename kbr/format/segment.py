"""Segments: frames one after another, then an index in a skippable frame (docs/format.md).

The face of what the format knows of segments, and the half that writes them. Bytes to objects and
back, without I/O: knows neither stores nor how blocks are compressed.
"""

from __future__ import annotations

import hashlib
import zlib

from kbr.format.names import INT64_MAX
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
    BlockEntry,
    SegmentIdentity,
    SegmentIndex,
    block_complaint,
    identity_complaint,
    index_bytes_bound,
)
from kbr.format.segment_parser import NeedMoreTail, parse_index
from kbr.wire import dump_msgpack
from kbr_codec import BlockStats

__all__ = [
    "FOOTER_BYTES",
    "INDEX_OVERHEAD_BYTES",
    "MAX_BLOCKS",
    "MAX_INDEX_BYTES",
    "SEGMENT_VERSION",
    "BlockEntry",
    "NeedMoreTail",
    "SegmentAssembler",
    "SegmentIdentity",
    "SegmentIndex",
    "index_bytes_bound",
    "parse_index",
]


class SegmentAssembler:
    """Takes a segment's frames in order and makes its index; holds no frame.

    The caller writes each frame where it belongs, then the index frame. Not thread-safe.

    Raises:
        ValueError: a name or a number in the identity that the format doesn't allow.
    """

    def __init__(self, identity: SegmentIdentity) -> None:
        complaint = identity_complaint(identity)
        if complaint:
            raise ValueError(complaint)
        self._identity = identity
        self._hash = hashlib.sha256()
        self._blocks: list[BlockEntry] = []
        self._position = 0
        self._object_bytes: int | None = None
        self._record_count = 0
        self._raw_bytes = 0
        self._max_record_bytes = 0
        self._first_timestamp = 0
        self._last_timestamp = 0
        self._last_leader_epoch = -1

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames so far; after finish() of the whole object."""
        return self._position if self._object_bytes is None else self._object_bytes

    @property
    def record_count(self) -> int:
        """Records so far."""
        return self._record_count

    @property
    def block_count(self) -> int:
        """Blocks so far."""
        return len(self._blocks)

    @property
    def blocks(self) -> tuple[BlockEntry, ...]:
        """What the index is going to say of the blocks so far."""
        return tuple(self._blocks)

    def add(self, frame: bytes, raw_bytes: int, stats: BlockStats, leader_epoch: int = -1) -> None:
        """Take the next frame into account.

        Args:
            frame: as it is stored.
            raw_bytes: size of the block in it.
            stats: of that block.
            leader_epoch: of its last record; -1 for unknown.

        Raises:
            ValueError: it doesn't follow the block before it, or the segment is full or finished.
        """
        if self._object_bytes is not None:
            raise ValueError("the segment is finished")
        if len(self._blocks) >= MAX_BLOCKS:
            raise ValueError(f"a segment holds at most {MAX_BLOCKS} blocks")
        if not frame or raw_bytes < 1:
            raise ValueError("a frame and the block in it have at least one byte")
        entry = BlockEntry(
            position=self._position,
            stored_bytes=len(frame),
            raw_bytes=raw_bytes,
            record_count=stats.record_count,
            first_offset=stats.first_offset,
            last_offset=stats.last_offset,
            min_timestamp=stats.min_timestamp,
            max_timestamp=stats.max_timestamp,
            crc32=zlib.crc32(frame),
        )
        earliest = self._blocks[-1].last_offset + 1 if self._blocks else self._identity.sequence
        complaint = block_complaint(entry, earliest)
        if complaint:
            raise ValueError(complaint)
        self._hash.update(frame)
        if not self._blocks:
            self._first_timestamp = stats.first_timestamp
        self._last_timestamp = stats.last_timestamp
        self._last_leader_epoch = leader_epoch
        self._blocks.append(entry)
        self._position += len(frame)
        self._record_count += stats.record_count
        self._raw_bytes += raw_bytes
        self._max_record_bytes = max(self._max_record_bytes, stats.max_record_bytes)

    def finish(self, next_offset: int) -> bytes:
        """Make the index frame: the last bytes of the segment.

        Args:
            next_offset: first offset that the segment does not answer for.

        Raises:
            ValueError: there is no block, or one reaches beyond ``next_offset``.
        """
        if self._object_bytes is not None:
            raise ValueError("the segment is finished")
        if not self._blocks:
            raise ValueError("a segment has at least one block")
        if not self._blocks[-1].last_offset < next_offset <= INT64_MAX:
            raise ValueError(f"next offset {next_offset} is not behind the last record's")
        identity = self._identity
        epoch = {} if self._last_leader_epoch < 0 else {"last_leader_epoch": self._last_leader_epoch}
        packed = dump_msgpack(
            {
                "version": SEGMENT_VERSION,
                "compression": identity.compression.value,
                "backup_id": identity.backup_id,
                "topic": identity.topic,
                "topic_id": identity.topic_id,
                "partition": identity.partition,
                "sequence": identity.sequence,
                "next_offset": next_offset,
                "writer": identity.writer,
                "created_at": identity.created_at_ms,
                "record_count": self._record_count,
                "raw_bytes": self._raw_bytes,
                "max_record_bytes": self._max_record_bytes,
                "first_timestamp": self._first_timestamp,
                "last_timestamp": self._last_timestamp,
                **epoch,
                "sha256": self._hash.digest(),
                "blocks": {column: [getattr(block, column) for block in self._blocks] for column in COLUMNS},
            }
        )
        frame = b"".join(
            (
                FRAME_HEADER.pack(FRAME_MAGIC, len(packed) + FOOTER_BYTES),
                packed,
                FOOTER.pack(len(packed), zlib.crc32(packed), self._position, SIGNATURE),
            )
        )
        self._hash.update(frame)
        self._object_bytes = self._position + len(frame)
        return frame

    def sha256_hex(self) -> str:
        """SHA-256 of the whole object; only after finish().

        Raises:
            ValueError: the segment is not finished.
        """
        if self._object_bytes is None:
            raise ValueError("the segment is not finished")
        return self._hash.hexdigest()
