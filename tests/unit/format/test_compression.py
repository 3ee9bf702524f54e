"""Frames: exact both ways, and nothing allocated that was not announced."""

from __future__ import annotations

import random
import struct
import threading
import tracemalloc

import lz4.frame
import pytest
import zstandard

from kbr.errors import ConfigError, CorruptSegment
from kbr.format.compression import (
    MAX_BLOCK_BYTES,
    BlockCompressor,
    decompress_frame,
    stored_bytes_bound,
)
from kbr.model import Compression

BLOCK = b"a block of some bytes " * 1000
EVERY_COMPRESSION = pytest.mark.parametrize("compression", list(Compression))
COMPRESSED = pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.LZ4])


def unpack(frame: bytes | memoryview, compression: Compression, **changes: int) -> bytes:
    values = {"raw_bytes": len(BLOCK), "limit": MAX_BLOCK_BYTES, "position": 4711} | changes
    return decompress_frame(frame, compression, name="some/object", **values)


def refused(frame: bytes, compression: Compression, **changes: int) -> CorruptSegment:
    with pytest.raises(CorruptSegment) as caught:
        unpack(frame, compression, **changes)
    error = caught.value
    assert error.context == {"object": "some/object", "position": 4711}
    assert "some/object" in str(error)
    assert "4711" in str(error)
    assert error.hint
    return error


@EVERY_COMPRESSION
def test_a_block_comes_back_as_it_was(compression: Compression) -> None:
    frame = BlockCompressor(compression).compress(memoryview(BLOCK))
    assert type(frame) is bytes
    assert unpack(frame, compression) == BLOCK
    assert unpack(memoryview(frame), compression) == BLOCK


@EVERY_COMPRESSION
def test_what_cannot_be_compressed_stays_within_the_bound(compression: Compression) -> None:
    for size in (1, 100, 65_536, 1_000_003):
        noise = random.Random(size).randbytes(size)
        frame = BlockCompressor(compression).compress(noise)
        assert len(frame) <= stored_bytes_bound(len(noise))


def test_frames_carry_size_and_checksum() -> None:
    header = zstandard.get_frame_parameters(BlockCompressor(Compression.ZSTD).compress(BLOCK))
    assert header.content_size == len(BLOCK)
    assert header.has_checksum
    info = lz4.frame.get_frame_info(BlockCompressor(Compression.LZ4).compress(BLOCK))
    assert info["content_size"] == len(BLOCK)
    assert info["content_checksum"]


@pytest.mark.parametrize(
    ("compression", "level"),
    [(Compression.ZSTD, 23), (Compression.ZSTD, -51), (Compression.LZ4, 17), (Compression.LZ4, -1)],
)
def test_a_level_that_the_library_lacks_is_a_config_error(compression: Compression, level: int) -> None:
    with pytest.raises(ConfigError) as caught:
        BlockCompressor(compression, level)
    assert str(level) in str(caught.value)
    assert caught.value.hint


def test_levels_change_the_size() -> None:
    data = b"".join(b"%d,%d;" % (i * i, i % 97) for i in range(20_000))
    fast, dense = (len(BlockCompressor(Compression.ZSTD, n).compress(data)) for n in (1, 19))
    assert dense < fast


def test_many_threads_may_share_one_compressor() -> None:
    compressor = BlockCompressor(Compression.ZSTD)
    results: list[bytes] = []

    def work() -> None:
        results.extend(compressor.compress(BLOCK) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(results) == 80
    assert all(unpack(frame, Compression.ZSTD) == BLOCK for frame in results)


# -- what is refused ----------------------------------------------------------------------


@EVERY_COMPRESSION
def test_a_block_larger_than_the_limit_is_refused_before_anything_is_read(
    compression: Compression,
) -> None:
    error = refused(b"", compression, raw_bytes=1001, limit=1000)
    assert "1001" in str(error)
    assert "1000" in str(error)


@EVERY_COMPRESSION
def test_no_frame_holds_nothing(compression: Compression) -> None:
    refused(BlockCompressor(compression).compress(b""), compression, raw_bytes=0)


@EVERY_COMPRESSION
def test_a_frame_of_another_size_than_the_index_says_is_refused(compression: Compression) -> None:
    frame = BlockCompressor(compression).compress(BLOCK)
    refused(frame, compression, raw_bytes=len(BLOCK) + 1)
    refused(frame, compression, raw_bytes=len(BLOCK) - 1)


@COMPRESSED
def test_every_truncation_and_every_flip_of_a_frame_is_refused(compression: Compression) -> None:
    small = b"small block " * 8
    frame = BlockCompressor(compression).compress(small)
    for length in range(len(frame)):
        refused(frame[:length], compression, raw_bytes=len(small))
    for position in range(len(frame)):
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            try:
                block = decompress_frame(
                    bytes(flipped),
                    compression,
                    raw_bytes=len(small),
                    limit=1000,
                    name="o",
                    position=0,
                )
            except CorruptSegment:
                continue
            # some bits of a header say nothing about the content (an LZ4 block size, for instance)
            assert block == small


@COMPRESSED
def test_bytes_after_the_frame_are_refused(compression: Compression) -> None:
    frame = BlockCompressor(compression).compress(BLOCK)
    refused(frame + b"\0", compression)
    refused(frame + frame, compression)


@COMPRESSED
def test_something_else_than_a_frame_is_refused(compression: Compression) -> None:
    refused(b"", compression)
    refused(b"not a frame at all, but long enough for a header", compression)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    refused(skippable + BlockCompressor(compression).compress(BLOCK), compression)


def test_a_frame_without_size_or_checksum_is_refused() -> None:
    no_size = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True)
    no_checksum = zstandard.ZstdCompressor(write_content_size=True, write_checksum=False)
    assert "size" in str(refused(no_size.compress(BLOCK), Compression.ZSTD))
    assert "checksum" in str(refused(no_checksum.compress(BLOCK), Compression.ZSTD))
    no_size_lz4 = lz4.frame.compress(BLOCK, store_size=False, content_checksum=True)
    no_checksum_lz4 = lz4.frame.compress(BLOCK, store_size=True, content_checksum=False)
    assert "size" in str(refused(no_size_lz4, Compression.LZ4))
    assert "checksum" in str(refused(no_checksum_lz4, Compression.LZ4))


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    words: list[bytes | bytearray | memoryview] = [b"sample %d of words for a dictionary" % i for i in range(2000)]
    dictionary = zstandard.train_dictionary(1024, words)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, write_content_size=True, write_checksum=True)
    assert "dictionary" in str(refused(compressor.compress(BLOCK), Compression.ZSTD))


def test_a_window_of_gigabytes_is_refused() -> None:
    # magic, descriptor (8-byte size, checksum), window 2^29 (the library takes up to 2^31), size
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11000100, 0x98]) + struct.pack("<Q", len(BLOCK))
    assert "window" in str(refused(frame + b"\0" * 16, Compression.ZSTD))


def test_an_lz4_bomb_stops_at_the_size_that_it_announced() -> None:
    """The header says 100 bytes, the content is 64 MiB: no more than 101 may be made."""
    bomb = bytearray(lz4.frame.compress(bytes(64 * 1024 * 1024), store_size=True, content_checksum=True))
    bomb[6:14] = struct.pack("<Q", 100)
    for checksum in range(256):
        # the header's checksum is one byte (of XXH32): one of them all is right
        bomb[14] = checksum
        try:
            if lz4.frame.get_frame_info(bytes(bomb))["content_size"] == 100:
                break
        except RuntimeError:
            continue
    tracemalloc.start()
    try:
        refused(bytes(bomb), Compression.LZ4, raw_bytes=100)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(bomb)
    finally:
        tracemalloc.stop()
