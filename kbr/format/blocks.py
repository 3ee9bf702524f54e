"""Looks into blocks without making records: the codec's scan, with errors that name the object."""

from __future__ import annotations

from kbr.errors import CorruptSegment
from kbr_codec import BlockStats, CodecError
from kbr_codec import scan_block as codec_scan_block

__all__ = ["BlockStats", "scan_block"]


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
        raise CorruptSegment(
            f"{name}: the block in the frame at byte {position} is damaged: {error}",
            hint="get the object from another copy of the backup",
            object=name,
            position=position,
        ) from error
