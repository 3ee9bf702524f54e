"""Blocks are decoded again before they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from kbr.backup.extra_verify import ExtraVerify
from kbr.errors import IntegrityError
from kbr.format.compression import BlockCompressor, decompress_frame
from kbr.model import Compression, Record
from kbr_codec import BlockStats, RawBlock, encode_block, scan_block


class _Block(bytes):
    """Stands in for a RawBlock, which only a source can make."""

    stats: BlockStats


def _block(first: int = 7, *, value: bytes = b"value", stats: BlockStats | None = None) -> RawBlock:
    records = [Record(first + n, 1, 1, b"k", value + b" %d" % n, ((b"h", None),)) for n in range(20)]
    block = _Block(encode_block(records))
    block.stats = scan_block(block) if stats is None else stats
    return cast("RawBlock", block)


def _frame(block: RawBlock, compression: Compression) -> bytes:
    return BlockCompressor(compression).compress(memoryview(block))


@pytest.mark.parametrize("compression", Compression)
def test_a_frame_that_gives_its_block_back_passes_and_is_counted(compression: Compression) -> None:
    verify, block = ExtraVerify(compression, share=1), _block()
    verify.look(block, _frame(block, compression))
    assert verify.block_count == 1
    assert verify.cpu_s >= 0


@pytest.mark.parametrize("compression", Compression)
def test_no_flipped_bit_of_a_frame_that_changes_its_block_passes(compression: Compression) -> None:
    block = _block()
    frame = _frame(block, compression)
    harmless = 0
    for place in range(len(frame)):
        for bit in (0, 7):
            flipped = bytearray(frame)
            flipped[place] ^= 1 << bit
            try:
                ExtraVerify(compression).look(block, bytes(flipped))
            except IntegrityError as error:
                assert "offsets 7 to 26 was decoded again before it was stored" in str(error)
            else:  # LZ4 may copy the same bytes from elsewhere
                harmless += 1
                decoded = decompress_frame(
                    bytes(flipped), compression, raw_bytes=len(block), limit=len(block), name="x", position=0
                )
                assert decoded == bytes(memoryview(block))
    assert harmless <= (0 if compression is not Compression.LZ4 else len(frame) // 20)


@pytest.mark.parametrize("compression", Compression)
def test_a_frame_of_another_block_does_not_pass(compression: Compression) -> None:
    """As a compressor makes one that reads its input wrong: whole, with a right checksum of what it has read."""
    block, other = _block(), _block(value=b"VALUE")
    assert len(block) == len(other)
    with pytest.raises(IntegrityError, match="reads otherwise"):
        ExtraVerify(compression).look(block, _frame(other, compression))


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 150_000])
def test_a_difference_anywhere_in_a_large_block_is_seen(place: int) -> None:
    block = _block(value=b"x" * 10_000)
    assert len(block) > 200_000
    data = bytearray(bytes(block))
    data[place] ^= 1
    other = cast("RawBlock", _Block(bytes(data)))
    with pytest.raises(IntegrityError, match="reads otherwise"):
        ExtraVerify(Compression.ZSTD).look(block, _frame(other, Compression.ZSTD))


def test_a_block_that_the_codec_cannot_read_does_not_pass() -> None:
    bad = _Block(b"\x8a" + bytes(_block())[1:-1] + b"\xc1")
    bad.stats = _block().stats
    block = cast("RawBlock", bad)
    with pytest.raises(IntegrityError, match="damaged"):
        ExtraVerify(Compression.NONE).look(block, bytes(bad))


def test_a_block_whose_records_are_not_those_that_were_counted_does_not_pass() -> None:
    block = _block(stats=_block().stats._replace(max_timestamp=2))
    with pytest.raises(IntegrityError, match="counted"):
        ExtraVerify(Compression.ZSTD).look(block, _frame(block, Compression.ZSTD))


def _ticking(step_s: float) -> Callable[[], float]:
    """A thread's CPU clock: each look takes a step."""
    now = 0.0

    def thread_cpu_s() -> float:
        nonlocal now
        now += step_s
        return now

    return thread_cpu_s


@pytest.mark.parametrize(("step_s", "looked_at"), [(0.004, 100), (0.05, 10), (0.5, 1)])
def test_as_many_blocks_are_looked_at_as_their_share_of_the_cpu_time_pays_for(step_s: float, looked_at: int) -> None:
    """A hundred blocks, 0.1 s of CPU time each; a twentieth of it is for looks."""
    process_s = 100.0
    verify = ExtraVerify(
        Compression.ZSTD, share=0.05, process_cpu_s=lambda: process_s, thread_cpu_s=_ticking(step_s)
    )
    block = _block()
    frame = _frame(block, Compression.ZSTD)
    for _ in range(100):
        verify.look(block, frame)
        process_s += 0.1
    assert abs(verify.block_count - looked_at) <= 1
    assert verify.cpu_s <= 0.05 * 10 + step_s
