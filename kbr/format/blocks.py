"""Looks into blocks: the codec's scan and its decoding, with errors that name the object."""

from __future__ import annotations

from kbr.errors import CorruptSegment
from kbr.model import Record
from kbr_codec import BlockStats, CodecError
from kbr_codec import decode_block as codec_decode_block
from kbr_codec import scan_block as codec_scan_block

__all__ = ["BlockStats", "decode_records", "scan_block"]


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
