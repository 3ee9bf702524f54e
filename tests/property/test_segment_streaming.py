"""A segment read as a stream by the compressors' own libraries, as ``zstd -d`` and ``lz4 -d`` would."""

from __future__ import annotations

import io

import lz4.frame
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentAssembler, SegmentIdentity
from kbr.model import Compression
from kbr_codec import Record, encode_block, scan_block
from tests.support.strategies import odd_record_lists


def segment_of(blocks: list[bytes], compression: Compression) -> bytes:
    """A segment of these blocks, whatever their offsets: they are numbered anew."""
    identity = SegmentIdentity(
        backup_id="b",
        topic="t",
        topic_id="",
        partition=0,
        sequence=0,
        compression=compression,
        writer="w",
        created_at_ms=0,
    )
    assembler = SegmentAssembler(identity)
    compressor = BlockCompressor(compression)
    frames = []
    for block in blocks:
        frames.append(compressor.compress(block))
        assembler.add(frames[-1], len(block), scan_block(block))
    return b"".join((*frames, assembler.finish(scan_block(blocks[-1]).last_offset + 1)))


def blocks_in_order(lists: list[list[Record]]) -> list[bytes]:
    """Blocks whose offsets follow one another."""
    blocks = []
    offset = 0
    for records in lists:
        renumbered = [record._replace(offset=offset + i) for i, record in enumerate(records)]
        offset += len(records)
        blocks.append(encode_block(renumbered))
    return blocks


@given(st.lists(odd_record_lists(max_size=4), min_size=1, max_size=4))
def test_zstd_reads_a_segment_as_it_is_and_skips_the_index(lists: list[list[Record]]) -> None:
    blocks = blocks_in_order(lists)
    data = segment_of(blocks, Compression.ZSTD)
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
        assert stream.read() == b"".join(blocks)


@given(st.lists(odd_record_lists(max_size=4), min_size=1, max_size=4))
def test_lz4_reads_a_segment_as_it_is_and_skips_the_index(lists: list[list[Record]]) -> None:
    blocks = blocks_in_order(lists)
    data = segment_of(blocks, Compression.LZ4)
    with lz4.frame.open(io.BytesIO(data)) as stream:
        assert stream.read() == b"".join(blocks)


@given(st.lists(odd_record_lists(max_size=4), min_size=1, max_size=4))
def test_without_compression_the_blocks_stand_one_after_another(lists: list[list[Record]]) -> None:
    blocks = blocks_in_order(lists)
    assert segment_of(blocks, Compression.NONE).startswith(b"".join(blocks))
