"""Reads one segment: its index, and the blocks that are wanted, by as few range reads as pay.

Everything read is checked before it is used: the index against itself, the key and the manifest;
a frame against its CRC-32 before it is decompressed; a block's size before it is allocated.
Knows no Kafka, and of what is in a block only how it begins. Not thread-safe; one reader per thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import NoReturn

from kbr.errors import CorruptSegment, IntegrityError, ObjectMissing, StorageError
from kbr.format.blocks import block_begins
from kbr.format.compression import MAX_BLOCK_BYTES, decompress_frame, stored_bytes_bound
from kbr.format.segment import (
    BlockEntry,
    NeedMoreTail,
    SegmentIndex,
    index_bytes_bound,
    parse_index,
)
from kbr.model import SegmentRef
from kbr.repository.layout import parse_segment_key, segment_key
from kbr.secrecy import cut
from kbr.storage.base import ObjectStore, TakesSizes

__all__ = ["MAX_BRIDGE_BYTES", "MAX_RANGE_BYTES", "SegmentReader"]

#: Unwanted bytes between two wanted frames that are read rather than asked for in two requests:
#: what a store sends in the time of a round trip (some ms at some 100 MB/s).
MAX_BRIDGE_BYTES = 256 * 1024
#: Most bytes of one range read, but for a single frame that is larger.
MAX_RANGE_BYTES = 16 * 1024 * 1024
#: Tail that is read first where the number of blocks is not known: an index of some 1,500 blocks.
_FIRST_TAIL_BYTES = 64 * 1024
#: A segment up to this size is read whole, index and blocks, by one request, bytes.
SMALL_SEGMENT_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class _Range:
    """Neighbouring frames that one request fetches."""

    start: int
    end: int
    entries: tuple[BlockEntry, ...]


class SegmentReader:
    """One segment in a store.

    Args:
        store: where it is.
        backup_id: whose it is.
        segment: what the manifest says of it, or its key below the backup's folder where no
            manifest is at hand.
        max_block_bytes: the largest block that is accepted, bytes.

    Raises:
        CorruptSegment: the key is no segment's.
        UsageError: the backup_id can't be one.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        segment: SegmentRef | str,
        *,
        max_block_bytes: int = MAX_BLOCK_BYTES,
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._reference = segment if isinstance(segment, SegmentRef) else None
        key = segment if isinstance(segment, str) else segment.key
        name = parse_segment_key(key)
        if name is None:
            raise CorruptSegment(f"{cut(key, 400)!a} is not the key of a segment", object=key, position=0)
        self._name = name
        self._key = segment_key(backup_id, *name)
        self._max_block_bytes = max_block_bytes
        self._object_bytes = None if self._reference is None else self._reference.stored_bytes
        self._index: SegmentIndex | None = None
        self._tail = b""
        if self._object_bytes is not None and isinstance(store, TakesSizes):
            store.note_size(self._key, self._object_bytes)

    @property
    def key(self) -> str:
        """The segment's key in the store."""
        return self._key

    def index(self) -> SegmentIndex:
        """The segment's index, read once and checked.

        Raises:
            CorruptSegment: the object is damaged, or another than its key or the manifest says.
            IntegrityError: the manifest lists it, and it is not there.
            UnsupportedFormat: it is of another version.
            StorageError: it can't be read.
        """
        if self._index is None:
            with self._reading():
                index = self._read_index()
            self._check_place(index)
            self._index = index
        return self._index

    def index_frame(self) -> bytes:
        """The index frame as stored: all bytes of the object after the last block's frame."""
        position = self.index().index_position
        return self._tail[len(self._tail) - (self._size() - position) :]

    def read_blocks(self, entries: Sequence[BlockEntry]) -> Iterator[tuple[BlockEntry, bytes]]:
        """Read, check and decompress blocks, in the order given.

        Neighbours come by one request; at most one range and one block are held at a time.

        Args:
            entries: of this segment's index.

        Raises:
            CorruptSegment: a frame is damaged; nothing of it is given out.
            StorageError: the object can't be read.
        """
        for entry, frame in self.read_frames(entries):
            block = self.decode_frame(entry, frame)
            count, first = block_begins(block)
            if (count, first) != (entry.record_count, entry.first_offset):
                # before a restore sends a record of it: an index may say 1, and the block hold millions
                self._corrupt(
                    f"the block in the frame at byte {entry.position} has {count} records from offset {first}, the index "
                    f"says {entry.record_count} from {entry.first_offset}",
                    entry.position,
                )
            yield entry, block

    def read_frames(self, entries: Sequence[BlockEntry]) -> Iterator[tuple[BlockEntry, memoryview]]:
        """Read frames as they are stored, unchecked, in the order given."""
        for entry in entries:
            self._check_sizes(entry)
        for one in _coalesce(entries):
            before_tail = self._size() - len(self._tail)
            if one.start >= before_tail:  # a small segment came whole with its index
                data = memoryview(self._tail)[one.start - before_tail : one.end - before_tail]
            else:
                with self._reading():
                    data = memoryview(self._store.read_range(self._key, one.start, one.end - one.start))
            for entry in one.entries:
                start = entry.position - one.start
                yield entry, data[start : start + entry.stored_bytes]

    def decode_frame(self, entry: BlockEntry, frame: bytes | memoryview) -> bytes:
        """Check a frame against the index, then give the block in it.

        Raises:
            CorruptSegment: it is damaged.
        """
        crc32 = zlib.crc32(frame)
        if crc32 != entry.crc32:
            self._corrupt(
                f"the frame at byte {entry.position} is damaged: CRC-32 {crc32:08x}, the index says {entry.crc32:08x}",
                entry.position,
            )
        return decompress_frame(
            frame,
            self._name.compression,
            raw_bytes=entry.raw_bytes,
            limit=self._max_block_bytes,
            name=self._key,
            position=entry.position,
        )

    # -- how ------------------------------------------------------------------------------

    def _corrupt(self, what: str, position: int) -> NoReturn:
        raise CorruptSegment(
            f"{self._key}: {what}",
            hint="get the object from another copy of the backup",
            object=self._key,
            position=position,
        )

    def _size(self) -> int:
        if self._object_bytes is None:
            self._object_bytes = self._store.head(self._key).size_bytes
        return self._object_bytes

    def _read_index(self) -> SegmentIndex:
        size = self._size()
        wanted = _FIRST_TAIL_BYTES
        if self._reference is not None:
            wanted = index_bytes_bound(min(self._reference.block_count, size))
            # A manifest may claim anything; what a tail has to be is known when its end is read.
            wanted = min(wanted, 16 * _FIRST_TAIL_BYTES)
            if size <= SMALL_SEGMENT_BYTES:
                wanted = size
        while True:
            wanted = min(wanted, size)
            self._tail = self._store.read_range(self._key, size - wanted, wanted)
            try:
                return parse_index(self._tail, object_bytes=size, name=self._key)
            except NeedMoreTail as need:
                wanted = need.tail_bytes

    def _check_place(self, index: SegmentIndex) -> None:
        """The segment has to be the one that its key and the manifest say it is."""
        identity = index.identity
        found = (
            identity.backup_id,
            identity.topic,
            identity.partition,
            identity.sequence,
            identity.compression,
        )
        due = (self._backup_id, *self._name)
        if found != due:
            shown = f"{identity.backup_id}, {identity.topic}[{identity.partition}], sequence "
            self._corrupt(
                f"it says that it is {shown}{identity.sequence} ({identity.compression.value}): "
                "it is in the wrong place",
                index.index_position,
            )
        reference = self._reference
        if reference is None:
            return
        actual = index.segment_ref(key=reference.key, stored_bytes=reference.stored_bytes, sha256=reference.sha256)
        if actual == reference:
            return
        for field in fields(SegmentRef):
            said, is_now = getattr(reference, field.name), getattr(actual, field.name)
            if said != is_now:
                self._corrupt(
                    f"its index says {field.name} {is_now}, the manifest {said}",
                    index.index_position,
                )

    def _check_sizes(self, entry: BlockEntry) -> None:
        """Before a range is read for it: a frame may be no larger than its block can need."""
        if entry.raw_bytes > self._max_block_bytes:
            raise CorruptSegment(
                f"{self._key}: the block at byte {entry.position} claims {entry.raw_bytes} bytes; "
                f"{self._max_block_bytes} are allowed",
                hint="raise limits.max_block_bytes if a record may be that large; else the object is damaged",
                object=self._key,
                position=entry.position,
            )
        if entry.stored_bytes > stored_bytes_bound(entry.raw_bytes):
            self._corrupt(
                f"the frame at byte {entry.position} takes {entry.stored_bytes} bytes for a block of {entry.raw_bytes}",
                entry.position,
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say of a failed read what it means for the backup, where it means damage."""
        try:
            yield
        except ObjectMissing as error:
            if self._reference is None:
                raise
            raise IntegrityError(
                f"{self._key}: the segment is not there, but the manifest lists it",
                hint="get the object from another copy of the backup",
                object=self._key,
            ) from error
        except StorageError as error:
            if error.retriable or self._object_bytes is None:
                raise
            found = self._store.head(self._key).size_bytes
            if found == self._object_bytes:
                raise
            raise CorruptSegment(
                f"{self._key}: the object has {found} bytes instead of {self._object_bytes}",
                hint="get the object from another copy of the backup",
                object=self._key,
                position=min(found, self._object_bytes),
            ) from error


def _coalesce(entries: Sequence[BlockEntry]) -> Iterator[_Range]:
    """Group entries whose frames lie near each other, without changing their order."""
    group: list[BlockEntry] = []
    start = end = 0
    for entry in entries:
        entry_end = entry.position + entry.stored_bytes
        near = end <= entry.position <= end + MAX_BRIDGE_BYTES
        if group and not (near and entry_end - start <= MAX_RANGE_BYTES):
            yield _Range(start, end, tuple(group))
            group = []
        if not group:
            start = entry.position
        group.append(entry)
        end = entry_end
    if group:
        yield _Range(start, end, tuple(group))
