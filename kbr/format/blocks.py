"""Looks into blocks: the codec's scan and its decoding, with errors that name the object."""

from __future__ import annotations

from kbr.errors import CorruptSegment
from kbr.format.packed import PackedError, PackedReader
from kbr.model import Record
from kbr_codec import BlockStats, CodecError
from kbr_codec import decode_block as codec_decode_block
from kbr_codec import scan_block as codec_scan_block

__all__ = ["BlockStats", "block_begins", "decode_records", "scan_block"]

#: The three entries that a block begins with take less, bytes.
_BEGINNING_BYTES = 64


def scan_block(block: bytes, *, name: str, position: int) -> BlockStats:
    """Check a whole block, every field of every record, and say what is in it.

    Args:
        block: decompressed.
        name: the object, for messages.
        position: where the block's frame begins in the object.

    Raises:
        CorruptSegment: it is no block of this version.
    """
    try:
        return codec_scan_block(block)
    except CodecError as error:
        raise _damaged(name, position, error) from error


def block_begins(block: bytes) -> tuple[int, int]:
    """How many records a block says that it has, and the offset of the first: 6 us, whatever its size.

    Nothing else of it is checked. (-1, -1) for what does not begin as a block.
    """
    reader = PackedReader(block[:_BEGINNING_BYTES])
    try:
        reader.map_size()
        found = {reader.text(): reader.integer() for _ in range(3)}
    except PackedError:
        return -1, -1
    return found.get("count", -1), found.get("offset", -1)


def decode_records(block: bytes, *, name: str, position: int) -> list[Record]:
    """All records of a block; name, position and error as with `scan_block`."""
    try:
        return codec_decode_block(block)
    except CodecError as error:
        raise _damaged(name, position, error) from error


def _damaged(name: str, position: int, error: CodecError) -> CorruptSegment:
    return CorruptSegment(
        f"{name}: the block in the frame at byte {position} is damaged: {error}",
        hint="get the object from another copy of the backup",
        object=name,
        position=position,
    )
