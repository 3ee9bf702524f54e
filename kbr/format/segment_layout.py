"""What a segment is made of: its constants and values, and the rules that hold within one.

Shared by what writes segments (``segment``) and what reads their index (``segment_parser``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kbr.format.names import INT64_MAX, PARTITION_MAX, is_backup_id, is_topic_name
from kbr.model import Compression, SegmentRef

__all__ = [
    "COLUMNS",
    "FOOTER",
    "FOOTER_BYTES",
    "FRAME_HEADER",
    "FRAME_MAGIC",
    "INDEX_OVERHEAD_BYTES",
    "MAX_BLOCKS",
    "MAX_INDEX_BYTES",
    "MAX_TEXT",
    "SEGMENT_VERSION",
    "SIGNATURE",
    "SIGNATURE_FAMILY",
    "BlockEntry",
    "SegmentIdentity",
    "SegmentIndex",
    "block_complaint",
    "identity_complaint",
    "index_bytes_bound",
]

SEGMENT_VERSION = 1
#: Most blocks that one segment may hold: 256 GiB of blocks of 4 MiB. Bounds the index.
MAX_BLOCKS = 65_536
#: Largest index that is written or read, bytes; 65,536 blocks take at most 4.7 MB of it.
MAX_INDEX_BYTES = 8 * 1024 * 1024

FRAME_HEADER = struct.Struct("<II")
FOOTER = struct.Struct("<IIQ8s")
FRAME_MAGIC = 0x184D2A5B
SIGNATURE = b"KBRSEGv1"
SIGNATURE_FAMILY = b"KBRSEGv"

#: What closes every segment: all that has to be read to find the index.
FOOTER_BYTES = FOOTER.size
#: Bytes of the index frame besides the index.
INDEX_OVERHEAD_BYTES = FRAME_HEADER.size + FOOTER.size

COLUMNS = (
    "stored_bytes",
    "raw_bytes",
    "record_count",
    "first_offset",
    "last_offset",
    "min_timestamp",
    "max_timestamp",
    "crc32",
)
_UINT32_MAX = 2**32 - 1
#: Longest free text (topic id, writer) that is accepted, characters.
MAX_TEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentIdentity:
    """Whose segment it is, and how it is stored."""

    backup_id: str
    topic: str
    #: Kafka's topic id as the cluster prints it, or empty.
    topic_id: str
    partition: int
    #: First offset that the segment answers for.
    sequence: int
    compression: Compression
    #: Id of the run that writes it.
    writer: str
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntry:
    """What the index says of one block."""

    #: Where its frame begins in the object.
    position: int
    #: Bytes of the frame, and of the block in it.
    stored_bytes: int
    raw_bytes: int
    record_count: int
    first_offset: int
    last_offset: int
    min_timestamp: int
    max_timestamp: int
    #: Of the frame as stored.
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentIndex:
    """All that a segment says of itself; checked to agree with itself."""

    identity: SegmentIdentity
    next_offset: int
    record_count: int
    raw_bytes: int
    max_record_bytes: int
    first_timestamp: int
    last_timestamp: int
    #: Of the last record; -1 where it is not known.
    last_leader_epoch: int
    #: SHA-256 of all bytes before the index frame.
    content_sha256: bytes
    blocks: tuple[BlockEntry, ...]
    #: Where the index frame begins in the object.
    index_position: int

    def segment_ref(self, *, key: str, stored_bytes: int, sha256: str) -> SegmentRef:
        """What a manifest has to say of this segment.

        Args:
            key: the segment's, below the backup's folder.
            stored_bytes: size of the whole object.
            sha256: of the whole object, hex.
        """
        return SegmentRef(
            key=key,
            sequence=self.identity.sequence,
            next_offset=self.next_offset,
            start_offset=self.blocks[0].first_offset,
            end_offset=self.blocks[-1].last_offset,
            start_timestamp=self.first_timestamp,
            end_timestamp=self.last_timestamp,
            min_timestamp=min(block.min_timestamp for block in self.blocks),
            max_timestamp=max(block.max_timestamp for block in self.blocks),
            record_count=self.record_count,
            block_count=len(self.blocks),
            raw_bytes=self.raw_bytes,
            stored_bytes=stored_bytes,
            max_record_bytes=self.max_record_bytes,
            sha256=sha256,
            leader_epoch=self.last_leader_epoch,
        )


def index_bytes_bound(block_count: int) -> int:
    """The most that the index frame of so many blocks takes as kbr writes it, bytes."""
    # At most 9 bytes an integer, 5 for each of the 8 columns' lengths; the keys, the other 17
    # entries and their texts (2 x 1024 characters of at most 4 bytes, names) fit in 12 KiB.
    return INDEX_OVERHEAD_BYTES + 12 * 1024 + len(COLUMNS) * (5 + 9 * block_count)


def identity_complaint(identity: SegmentIdentity) -> str:
    """What in it the format doesn't allow, or an empty string."""
    checks = (
        (is_topic_name(identity.topic), "topic", identity.topic),
        (is_backup_id(identity.backup_id), "backup_id", identity.backup_id),
        (len(identity.topic_id) <= MAX_TEXT, "topic_id", identity.topic_id),
        (len(identity.writer) <= MAX_TEXT, "writer", identity.writer),
        (0 <= identity.partition <= PARTITION_MAX, "partition", identity.partition),
        (0 <= identity.sequence <= INT64_MAX, "sequence", identity.sequence),
        (0 <= identity.created_at_ms <= INT64_MAX, "created_at", identity.created_at_ms),
    )
    for allowed, field, value in checks:
        if not allowed:
            return f"{field} can't be {ascii(value)[:100]}"
    return ""


def block_complaint(entry: BlockEntry, earliest: int) -> str:
    """What is wrong with a block that may begin at offset ``earliest``, or an empty string."""
    if entry.stored_bytes < 1 or entry.raw_bytes < 1:
        return "a frame or a block of less than one byte"
    if entry.first_offset < earliest:
        return f"offset {entry.first_offset} where {earliest} or more is due"
    offsets = entry.last_offset - entry.first_offset + 1
    if not 1 <= entry.record_count <= offsets:
        return f"{entry.record_count} records from offset {entry.first_offset} to {entry.last_offset}"
    if entry.min_timestamp > entry.max_timestamp:
        return f"smallest timestamp {entry.min_timestamp}, largest {entry.max_timestamp}"
    if not 0 <= entry.crc32 <= _UINT32_MAX:
        return f"{entry.crc32} can't be a CRC-32"
    return ""
