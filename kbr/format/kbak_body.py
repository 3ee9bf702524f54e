"""The body of another tool's segment, decompressed piece by piece: zstd as a stream, LZ4 as one block, or as it is.

Knows no record. What a body claims costs nothing: a stream gives no more than is asked for, and an LZ4 block's size is
compared with what the manifest says, and with what so many bytes can hold, before anything is allocated for it.
"""

from __future__ import annotations

import struct
from typing import Protocol

import lz4.block
import zstandard

from kbr.format.compression import MAX_ZSTD_WINDOW_BYTES, stored_bytes_bound
from kbr.model import Compression

__all__ = ["BadBody", "Body", "PieceSource", "open_body"]

#: Compressed bytes that are asked for at once.
_READ_BYTES = 256 * 1024
#: In an LZ4 block a byte stands for 255 at most.
_LZ4_MAX_RATIO = 255
_SIZE = struct.Struct("<I")


class BadBody(Exception):
    """What is wrong with a body; a reader makes an error of it that names the object."""


class PieceSource(Protocol):
    """Where the compressed bytes come from, in order."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes (-1: all that is left); none at the end."""


class Body(Protocol):
    """The decompressed bytes, in order."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, at least one but at the end.

        Raises:
            BadBody: it can't be decompressed.
        """


def open_body(source: PieceSource, compression: Compression, *, raw_bytes: int, limit: int) -> Body:
    """Begin to decompress.

    Args:
        source: the body as stored.
        raw_bytes: its size before compression, as the manifest says it.
        limit: the largest LZ4 block that is accepted, bytes: one can only be decompressed whole.

    Raises:
        BadBody: its size is not what the manifest says, or it is beyond the limit.
    """
    if compression is Compression.ZSTD:
        return _ZstdBody(source)
    if compression is Compression.LZ4:
        return _Lz4Body(source, raw_bytes, limit)
    return _PlainBody(source)


class _PlainBody:
    def __init__(self, source: PieceSource) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        return self._source.read(size)


class _ZstdBody:
    def __init__(self, source: PieceSource) -> None:
        context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        self._reader = context.stream_reader(source, read_size=_READ_BYTES, closefd=False)  # type: ignore[arg-type]

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise BadBody(f"the zstd frame is damaged: {error}") from error


class _Lz4Body:
    def __init__(self, source: PieceSource, raw_bytes: int, limit: int) -> None:
        prefix = source.read(_SIZE.size)
        if len(prefix) != _SIZE.size:
            raise BadBody("it is too short for an LZ4 block with its size")
        (claimed,) = _SIZE.unpack(prefix)
        if claimed != raw_bytes:
            raise BadBody(f"the LZ4 block says that it holds {claimed} bytes, the manifest says {raw_bytes}")
        if claimed > limit:
            raise BadBody(
                f"an LZ4 block of {claimed} bytes, which is read whole; {limit} are allowed (limits.max_block_bytes)"
            )
        block = bytearray()
        while piece := source.read(_READ_BYTES):
            block += piece
            if len(block) > stored_bytes_bound(claimed):
                raise BadBody(f"more bytes than an LZ4 block of {claimed} bytes can take")
        if claimed > _LZ4_MAX_RATIO * len(block):
            raise BadBody(f"an LZ4 block of {len(block)} bytes can't hold {claimed}")
        try:
            self._data: bytes = lz4.block.decompress(block, uncompressed_size=claimed)
        except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
            raise BadBody(f"the LZ4 block is damaged: {error}") from error
        if len(self._data) != claimed:
            raise BadBody(f"the LZ4 block holds {len(self._data)} bytes, it says {claimed}")
        self._at = 0

    def read(self, size: int, /) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece
