"""Blocks to frames and back: zstd, LZ4 or as they are. Only kbr.format.kbak_body imports zstandard and lz4 as well.

Knows no segment and no index; whoever calls says what a frame has to hold. Every call works on one
whole block with the GIL released inside; both directions may be used by many threads at once.

Measured on a block of 4.25 MB of words, one core of two: zstd level 3 compresses it in 16.8 ms
straight from a memoryview (17.3 ms with a compressobj, 17.6 ms with a chunker, which join parts),
with or without its checksum, and two threads take half of that each; LZ4 takes 8.5 ms. Back: zstd
2.7 ms, LZ4 4.6 ms. So one-shot calls it is, and a bytes object is the only copy there is.
"""

from __future__ import annotations

import threading

import lz4.frame
import zstandard

from kbr.errors import ConfigError, CorruptSegment
from kbr.model import Compression

__all__ = [
    "DEFAULT_ZSTD_LEVEL",
    "MAX_BLOCK_BYTES",
    "MAX_ZSTD_WINDOW_BYTES",
    "BlockCompressor",
    "decompress_frame",
    "stored_bytes_bound",
]

#: zstd's own default, and where size against CPU stands best for records (DESIGN section 5).
DEFAULT_ZSTD_LEVEL = 3
#: The reader's limit for one block unless told otherwise, bytes (docs/format.md, "Block").
MAX_BLOCK_BYTES = 256 * 1024 * 1024
#: Largest zstd window that is accepted, bytes: what `zstd -d` takes without --long, and the
#: largest that any of its levels makes.
MAX_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
#: python-lz4 silently treats larger numbers as 16; levels from 3 on are the slow, denser LZ4 HC.
_LZ4_MAX_LEVEL = 16


class BlockCompressor:
    """Makes one frame of one block; may be shared between threads.

    Args:
        compression: how.
        level: zstd 1 to 22 (negative: faster), LZ4 0 to 16; None is zstd 3, LZ4 0. Without
            compression there is no level, and one given is not looked at.

    Raises:
        ConfigError: the library has no such level.
    """

    def __init__(self, compression: Compression, level: int | None = None) -> None:
        self._compression = compression
        self._level = _checked_level(compression, level)
        # A zstd context may be used by one thread at a time and is costly to warm up (its tables
        # are megabytes), so each thread keeps one.
        self._contexts = threading.local()

    def compress(self, data: bytes | memoryview) -> bytes:
        """One frame that holds this block, with its size and a checksum."""
        if self._compression is Compression.ZSTD:
            context: zstandard.ZstdCompressor | None = getattr(self._contexts, "zstd", None)
            if context is None:
                context = zstandard.ZstdCompressor(level=self._level, write_checksum=True, write_content_size=True)
                self._contexts.zstd = context
            return context.compress(data)
        if self._compression is Compression.LZ4:
            # 64 KiB blocks, linked (the defaults): 4 MiB ones came out 0.04 % smaller, no faster,
            # and make every reader allocate 4 MiB more.
            frame: bytes = lz4.frame.compress(
                data, compression_level=self._level, content_checksum=True, store_size=True
            )
            return frame
        return bytes(data)


def _checked_level(compression: Compression, level: int | None) -> int:
    if compression is Compression.NONE:
        return 0
    if compression is Compression.LZ4:
        lowest, highest, default = 0, _LZ4_MAX_LEVEL, 0
    else:
        # Negative levels go down to -131072 in the library; below -50 nothing changes any more.
        lowest, highest, default = -50, zstandard.MAX_COMPRESSION_LEVEL, DEFAULT_ZSTD_LEVEL
    if level is None:
        return default
    if not lowest <= level <= highest:
        raise ConfigError(
            f"compression level {level} is not one of {compression.value}'s",
            hint=f"give a level from {lowest} to {highest}, or none for {default}",
        )
    return level


def stored_bytes_bound(raw_bytes: int) -> int:
    """The most that the frame of a block of this size can take, in any compression, bytes."""
    # zstd and LZ4 both add less than 1/255 and a few bytes to what they can't compress.
    return raw_bytes + raw_bytes // 128 + 1024


def decompress_frame(
    frame: bytes | memoryview,
    compression: Compression,
    *,
    raw_bytes: int,
    limit: int,
    name: str,
    position: int,
) -> bytes:
    """Give the block that a frame holds; nothing is allocated before its size is known to be right.

    Args:
        frame: the frame as stored, all of it and nothing else.
        compression: what the segment says it is.
        raw_bytes: size of the block, as the index says it.
        limit: the largest block that the caller accepts, bytes.
        name: the object, for messages.
        position: where the frame begins in the object, for messages.

    Raises:
        CorruptSegment: anything is not so; context: object, position.
    """
    if not 1 <= raw_bytes <= limit:
        raise CorruptSegment(
            f"{name}: the block at byte {position} claims {raw_bytes} bytes; {limit} are allowed",
            hint="raise limits.max_block_bytes if a record may be that large; else the object is damaged",
            object=name,
            position=position,
        )
    try:
        if compression is Compression.ZSTD:
            return _decompress_zstd(frame, raw_bytes)
        if compression is Compression.LZ4:
            return _decompress_lz4(frame, raw_bytes)
        return _as_it_is(frame, raw_bytes)
    except _BadFrame as error:
        raise CorruptSegment(
            f"{name}: the {compression.value} frame at byte {position} is damaged: {error}",
            hint="get the object from another copy of the backup",
            object=name,
            position=position,
        ) from error.__cause__


class _BadFrame(Exception):
    """What is wrong with a frame; never leaves this module."""


def _decompress_zstd(frame: bytes | memoryview, raw_bytes: int) -> bytes:
    if bytes(frame[:4]) != _ZSTD_MAGIC:
        raise _BadFrame("it does not begin as a zstd frame does")
    try:
        header = zstandard.get_frame_parameters(frame)
        if header.content_size != raw_bytes:
            raise _BadFrame(_other_size(header.content_size, raw_bytes))
        if not header.has_checksum:
            raise _BadFrame("it has no checksum")
        if header.dict_id:
            raise _BadFrame("it needs a dictionary")
        # A frame in a single segment has its content for a window, whose size is checked above.
        if header.window_size > max(MAX_ZSTD_WINDOW_BYTES, raw_bytes):
            raise _BadFrame(f"it wants a window of {header.window_size} bytes")
        # A context is made in microseconds and holds no more than the window: no need to keep it.
        context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        block = context.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _BadFrame(str(error)) from error
    return _as_it_is(block, raw_bytes)


def _decompress_lz4(frame: bytes | memoryview, raw_bytes: int) -> bytes:
    if bytes(frame[:4]) != _LZ4_MAGIC:
        raise _BadFrame("it does not begin as an LZ4 frame does")
    try:
        header = lz4.frame.get_frame_info(frame)
        if header["content_size"] != raw_bytes:
            raise _BadFrame(_other_size(header["content_size"], raw_bytes))
        if not header["content_checksum"]:
            raise _BadFrame("it has no checksum")
        # lz4.frame.decompress() grows its buffer for as long as the frame goes on, whatever the
        # header said; this stops one byte after the size that was promised (and is as fast).
        context = lz4.frame.create_decompression_context()
        block: bytes
        block, used, ended = lz4.frame.decompress_chunk(context, frame, max_length=raw_bytes + 1)
    except RuntimeError as error:
        raise _BadFrame(str(error)) from error
    if not ended:
        raise _BadFrame("it goes on after its content, or ends too early")
    if used != len(frame):
        raise _BadFrame(f"{len(frame) - used} bytes follow it")
    return _as_it_is(block, raw_bytes)


def _as_it_is(block: bytes | memoryview, raw_bytes: int) -> bytes:
    if len(block) != raw_bytes:
        raise _BadFrame(f"it holds {len(block)} bytes, the index says {raw_bytes}")
    return bytes(block)


def _other_size(declared: int, raw_bytes: int) -> str:
    # zstandard gives 2**64 - 1 for a size that is not there, lz4 gives 0.
    if declared in (0, 2**64 - 1):
        return "it does not say the size of its content"
    return f"it says that it holds {declared} bytes, the index says {raw_bytes}"
