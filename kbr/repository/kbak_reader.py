"""Reads one segment of OSO kafka-backup, and gives its records as blocks of kbr's.

A segment's CRC-32 stands at its end, so all of it is read and summed before a record is given out; a small one is kept
meanwhile, a larger one is read a second time. Its body is one compressed stream: blocks are cut from it on the way,
and one further ahead is reached by decompressing what is before it. Not thread-safe; one reader per thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from kbr.errors import CorruptSegment, IntegrityError, ObjectMissing, StorageError
from kbr.format.compression import MAX_BLOCK_BYTES
from kbr.format.kbak import (
    FOOTER_BYTES,
    HEADER_BYTES,
    KbakHeader,
    RecordParser,
    as_block,
    parse_footer,
    parse_header,
)
from kbr.format.kbak_body import BadBody, open_body
from kbr.format.oso_names import is_segment_name, segment_compression
from kbr.format.segment import BlockEntry
from kbr.model import Record, SegmentRef
from kbr.repository.layout import backup_folder
from kbr.secrecy import cut
from kbr.storage.base import ObjectStore

__all__ = ["KEPT_BYTES", "KbakBlocks", "KbakReader"]

#: A segment up to this size is kept in memory between its check and its use, bytes.
KEPT_BYTES = 16 * 1024 * 1024
#: Bytes of one range read of a larger one.
_READ_BYTES = 8 * 1024 * 1024
#: Records that make a block, bytes in the body: as objects they take ten times as much, if they are small.
BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KbakBlocks:
    """A segment's blocks, as kbr cuts them. ``position`` and ``raw_bytes`` are in the decompressed body."""

    blocks: tuple[BlockEntry, ...]


class KbakReader:
    """One segment in a store.

    Args:
        store: where it is.
        backup_id: whose it is.
        segment: what the manifest says of it.
        max_block_bytes: the largest record that is accepted, and the largest LZ4 body, bytes.

    Raises:
        CorruptSegment: the key is no segment's.
        UsageError: the backup_id can't be one.
    """

    def __init__(
        self, store: ObjectStore, backup_id: str, segment: SegmentRef, *, max_block_bytes: int = MAX_BLOCK_BYTES
    ) -> None:
        self._store = store
        self._reference = segment
        if not is_segment_name(segment.key):
            raise CorruptSegment(f"{cut(segment.key, 400)!a} is not the key of a segment", object=segment.key, position=0)
        self._key = f"{backup_folder(backup_id)}{segment.key}"
        self._max_block_bytes = max_block_bytes
        self._header: KbakHeader | None = None
        self._kept: bytes | None = None
        self._crc32 = 0
        self._blocks: KbakBlocks | None = None
        #: Where the last block that was read ended, to go on from there.
        self._parser: RecordParser | None = None

    @property
    def key(self) -> str:
        """The segment's key in the store."""
        return self._key

    def check(self) -> KbakHeader:
        """Read all of it once: its CRC-32, and its header against the manifest.

        Raises:
            CorruptSegment: the object is damaged, or another than the manifest says.
            IntegrityError: the manifest lists it, and it is not there.
            UnsupportedFormat: it is of another version.
            StorageError: it can't be read.
        """
        if self._header is None:
            with self._reading():
                self._header = self._read_once()
        return self._header

    def index(self) -> KbakBlocks:
        """The segment's blocks; all of it is decompressed and parsed for that, once."""
        if self._blocks is None:
            self._blocks = KbakBlocks(tuple(entry for entry, _ in self._all_blocks()))
        return self._blocks

    def stream(self, wanted: Callable[[BlockEntry], bool]) -> Iterator[tuple[BlockEntry, bytes]]:
        """The blocks that are wanted, in one go, without knowing them beforehand.

        Raises:
            CorruptSegment: it is damaged; nothing of what is damaged is given out.
            StorageError: it can't be read.
        """
        for entry, records in self._all_blocks():
            if wanted(entry):
                yield entry, as_block(records)

    def read_blocks(self, entries: Sequence[BlockEntry]) -> Iterator[tuple[BlockEntry, bytes]]:
        """Blocks of index(), in the order given: one after another they are one decompression.

        Raises:
            CorruptSegment: it is damaged; nothing of what is damaged is given out.
            StorageError: it can't be read.
        """
        for entry in entries:
            with self._reading():
                if self._parser is None or self._parser.position > entry.position:
                    self._parser = self._new_parser()
                self._parser.skip(entry.position, last_offset=entry.first_offset - 1)
                records = self._parser.block(entry.raw_bytes)
            found = self._entry(entry.position, self._parser.position, records)
            if found != entry:
                self._corrupt(f"its records from byte {entry.position} on are not what they were a moment ago", 0)
            yield entry, as_block(records)

    # -- how ------------------------------------------------------------------------------

    def _all_blocks(self) -> Iterator[tuple[BlockEntry, list[Record]]]:
        header = self.check()
        parser = self._new_parser()
        count = 0
        last = -1
        while True:
            position = parser.position
            with self._reading():
                records = parser.block(BLOCK_BYTES)
            if not records:
                break
            if not count and records[0].offset != header.first_offset:
                self._corrupt(f"its first record has offset {records[0].offset}, its header says {header.first_offset}", 0)
            count += len(records)
            last = records[-1].offset
            if count > header.record_count or last > header.last_offset:
                self._corrupt(f"it holds more than the {header.record_count} records that its header says", 0)
            yield self._entry(position, parser.position, records), records
        if (count, last) != (header.record_count, header.last_offset):
            self._corrupt(
                f"it holds {count} records up to offset {last}, its header says {header.record_count} up to "
                f"{header.last_offset}",
                0,
            )

    def _entry(self, position: int, end: int, records: Sequence[Record]) -> BlockEntry:
        reference = self._reference
        timestamps = [record.timestamp for record in records]
        return BlockEntry(
            position=position,
            # its share: the body is compressed as one
            stored_bytes=max(1, reference.stored_bytes * (end - position) // reference.raw_bytes),
            raw_bytes=end - position,
            record_count=len(records),
            first_offset=records[0].offset,
            last_offset=records[-1].offset,
            min_timestamp=min(timestamps),
            max_timestamp=max(timestamps),
            crc32=0,
        )

    def _new_parser(self) -> RecordParser:
        header = self.check()
        source = _Source(self)
        try:
            with self._reading():
                body = open_body(
                    source, header.compression, raw_bytes=self._reference.raw_bytes, limit=self._max_block_bytes
                )
        except BadBody as error:
            self._corrupt(str(error), HEADER_BYTES)
        return RecordParser(
            body, raw_bytes=self._reference.raw_bytes, max_record_bytes=self._max_block_bytes, name=self._key
        )

    def _read_once(self) -> KbakHeader:
        size = self._reference.stored_bytes
        if size <= HEADER_BYTES + FOOTER_BYTES:
            self._corrupt(f"{size} bytes are too few for a segment", 0)
        summed = size - FOOTER_BYTES
        head, crc32 = b"", 0
        pieces: list[bytes] = []
        for start in range(0, summed, _READ_BYTES):
            piece = self._store.read_range(self._key, start, min(_READ_BYTES, summed - start))
            crc32 = zlib.crc32(piece, crc32)
            head = head or piece[:HEADER_BYTES]
            if size <= KEPT_BYTES:
                pieces.append(piece)
        # what is of another version may have its CRC-32 elsewhere
        header = parse_header(head, name=self._key)
        footer = self._store.read_range(self._key, summed, FOOTER_BYTES)
        said = parse_footer(footer, name=self._key, position=summed)
        if said != crc32:
            self._corrupt(f"it is damaged: its CRC-32 is {crc32:08x}, its footer says {said:08x}", 0)
        self._check_header(header)
        self._crc32 = crc32
        if pieces:
            self._kept = b"".join(pieces)
        return header

    def _check_header(self, header: KbakHeader) -> None:
        reference = self._reference
        checks = (
            ("compression", header.compression, segment_compression(reference.key)),
            ("record count", header.record_count, reference.record_count),
            ("first offset", header.first_offset, reference.start_offset),
            ("last offset", header.last_offset, reference.end_offset),
        )
        for field, found, said in checks:
            if found != said:
                self._corrupt(f"its header says {field} {_plain(found)}, the manifest {_plain(said)}", 0)

    def piece(self, start: int, size: int) -> bytes:
        """Bytes of the object before its footer, from ``start``."""
        size = min(size, self._reference.stored_bytes - FOOTER_BYTES - start)
        if size <= 0:
            return b""
        if self._kept is not None:
            return self._kept[start : start + size]
        return self._store.read_range(self._key, start, size)

    def check_again(self, crc32: int) -> None:
        """What was read a second time has to be what was read before."""
        if crc32 != self._crc32:
            self._corrupt("it was changed while it was read", 0)

    def _corrupt(self, what: str, position: int) -> NoReturn:
        raise CorruptSegment(
            f"{self._key}: {what}",
            hint="get the object from another copy of the backup",
            object=self._key,
            position=position,
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say of a failed read what it means for the backup, where it means damage."""
        try:
            yield
        except ObjectMissing as error:
            raise IntegrityError(
                f"{self._key}: the segment is not there, but the manifest lists it",
                hint="get the object from another copy of the backup",
                object=self._key,
            ) from error
        except StorageError as error:
            if error.retriable:
                raise
            found = self._store.head(self._key).size_bytes
            if found == self._reference.stored_bytes:
                raise
            raise CorruptSegment(
                f"{self._key}: the object has {found} bytes instead of {self._reference.stored_bytes}",
                hint="get the object from another copy of the backup",
                object=self._key,
                position=min(found, self._reference.stored_bytes),
            ) from error


class _Source:
    """A segment's body as stored, from its beginning."""

    def __init__(self, reader: KbakReader) -> None:
        self._reader = reader
        self._position = HEADER_BYTES
        self._buffer = memoryview(b"")
        self._crc32 = zlib.crc32(reader.piece(0, HEADER_BYTES))
        self._is_done = False

    def read(self, size: int = -1, /) -> bytes:
        if not self._buffer and not self._is_done:
            data = self._reader.piece(self._position, _READ_BYTES)
            self._position += len(data)
            self._crc32 = zlib.crc32(data, self._crc32)
            self._buffer = memoryview(data)
            if not data:
                self._is_done = True
                self._reader.check_again(self._crc32)
        piece = bytes(self._buffer if size < 0 else self._buffer[:size])
        self._buffer = self._buffer[len(piece) :]
        return piece


def _plain(value: object) -> object:
    return getattr(value, "value", value)
