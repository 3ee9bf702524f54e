"""Opens a segment of either format, by its manifest entry: kbr's own, or OSO kafka-backup's. One interface for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from kbr.format.compression import MAX_BLOCK_BYTES
from kbr.format.oso_names import segment_compression
from kbr.format.segment import BlockEntry
from kbr.model import Compression, SegmentRef
from kbr.repository.kbak_reader import BLOCK_BYTES, KEPT_BYTES, KbakReader
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore

__all__ = ["BlockIndex", "BlockSource", "open_segment", "reading_bytes", "side_by_side", "wanted_blocks"]

#: What segments that are read at a time may hold in memory together, beside one of them, bytes.
_READING_BYTES = 256 * 1024 * 1024


class BlockIndex(Protocol):
    """What is known of a segment's blocks."""

    @property
    def blocks(self) -> tuple[BlockEntry, ...]:
        """In order."""


class BlockSource(Protocol):
    """A segment's blocks of records (kbr_codec.decode_block), each with its offsets, timestamps and counts.

    Everything that is given out has been checked. Not thread-safe; one for each thread.
    """

    @property
    def key(self) -> str:
        """The segment's key in the store."""

    def index(self) -> BlockIndex:
        """Its blocks; another tool's segment is read whole for that.

        Raises:
            CorruptSegment: it is damaged, or another than the manifest says.
            IntegrityError: the manifest lists it, and it is not there.
            UnsupportedFormat: it is of another version.
            StorageError: it can't be read.
        """

    def read_blocks(self, entries: Sequence[BlockEntry]) -> Iterator[tuple[BlockEntry, bytes]]:
        """Blocks of index(), decompressed, in the order given.

        Raises:
            CorruptSegment: one is damaged; nothing of it is given out.
            StorageError: the object can't be read.
        """


def open_segment(
    store: ObjectStore, backup_id: str, segment: SegmentRef, *, max_block_bytes: int = MAX_BLOCK_BYTES
) -> BlockSource:
    """A reader for it; nothing is read yet.

    Args:
        max_block_bytes: the largest block that is accepted, bytes; of another tool's the largest record.

    Raises:
        CorruptSegment: the key is no segment's.
        UsageError: the backup_id can't be one.
    """
    if segment.is_foreign:
        return KbakReader(store, backup_id, segment, max_block_bytes=max_block_bytes)
    return SegmentReader(store, backup_id, segment, max_block_bytes=max_block_bytes)


def wanted_blocks(
    source: BlockSource, wanted: Callable[[BlockEntry], bool]
) -> Iterator[tuple[BlockEntry, bytes]]:
    """Those blocks of a segment that are wanted, in order; another tool's segment is decompressed once for it.

    Raises:
        KbrError: as index() and read_blocks().
    """
    if isinstance(source, KbakReader):
        return source.stream(wanted)
    return source.read_blocks([entry for entry in source.index().blocks if wanted(entry)])


def reading_bytes(segment: SegmentRef) -> int:
    """What reading a segment holds in memory at a time beside its largest record, about, bytes: 0 for kbr's own."""
    if not segment.is_foreign:
        return 0
    kept = segment.stored_bytes if segment.stored_bytes <= KEPT_BYTES else 0
    if segment_compression(segment.key) is Compression.LZ4:
        return kept + segment.stored_bytes + 2 * segment.raw_bytes  # python-lz4 copies what it has decompressed
    return kept + 10 * BLOCK_BYTES


def side_by_side(segments: Iterable[SegmentRef], most: int) -> int:
    """How many of these may be read at a time: ``most``, or as many as memory allows, at least one."""
    largest = max(map(reading_bytes, segments), default=0)
    return max(1, min(most, _READING_BYTES // largest)) if largest else most
