"""Segments, for any records: what goes in comes out, by kbr and by the plain reader."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.format.compression import BlockCompressor, decompress_frame
from kbr.format.segment import SegmentAssembler, SegmentIdentity, parse_index
from kbr.model import Compression
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.segment_writer import SegmentWriter
from kbr_codec import Record, decode_block, encode_block, scan_block
from tests.support import plain_reader
from tests.support.backups import RecordingStore

INT64 = st.integers(-(2**63), 2**63 - 1)
NULLABLE = st.none() | st.binary(max_size=40)
NAMES = st.text("abcXYZ019._-", min_size=1, max_size=30).filter(lambda name: name not in (".", ".."))
BODIES = st.tuples(
    st.integers(1, 2**40),
    INT64 | st.sampled_from([-1, 0, 1_700_000_000_000]),
    st.sampled_from([0, 1, 2]),
    NULLABLE,
    NULLABLE,
    st.lists(st.tuples(st.binary(max_size=10), NULLABLE), max_size=3).map(tuple),
)
BLOCKS = st.lists(st.lists(BODIES, min_size=1, max_size=8), min_size=1, max_size=6)
IDENTITIES = st.builds(
    SegmentIdentity,
    backup_id=NAMES,
    topic=NAMES,
    topic_id=st.text(max_size=30),
    partition=st.integers(0, 2**31 - 1),
    sequence=st.integers(0, 2**50),
    compression=st.sampled_from(list(Compression)),
    writer=st.text(max_size=40),
    created_at_ms=st.integers(0, 2**63 - 1),
)


def records_of(shape: list[list[tuple[int, ...]]], sequence: int) -> list[list[Record]]:
    """Records whose offsets rise by the first number of each body."""
    offset = sequence - 1
    blocks = []
    for bodies in shape:
        block = []
        for step, *rest in bodies:
            offset += step
            block.append(Record(offset, *rest))  # type: ignore[arg-type]
        blocks.append(block)
    return blocks


@settings(max_examples=150, deadline=None)
@given(identity=IDENTITIES, shape=BLOCKS, tail=st.integers(1, 2**40))
def test_any_sequence_of_blocks_comes_back_from_a_segment(
    identity: SegmentIdentity, shape: list[list[tuple[int, ...]]], tail: int
) -> None:
    blocks = records_of(shape, identity.sequence)
    next_offset = blocks[-1][-1].offset + tail
    assembler = SegmentAssembler(identity)
    compressor = BlockCompressor(identity.compression)
    frames = []
    for records in blocks:
        raw = encode_block(records)
        frames.append(compressor.compress(raw))
        assembler.add(frames[-1], len(raw), scan_block(raw))
    data = b"".join((*frames, assembler.finish(next_offset)))
    assert assembler.stored_bytes == len(data)
    assert assembler.sha256_hex() == hashlib.sha256(data).hexdigest()

    index = parse_index(data, object_bytes=len(data), name="o")
    assert index.identity == identity
    assert index.next_offset == next_offset
    assert index.blocks == assembler.blocks
    everything = [record for records in blocks for record in records]
    assert index.record_count == len(everything)
    assert index.first_timestamp == everything[0].timestamp
    assert index.last_timestamp == everything[-1].timestamp
    found = []
    for entry in index.blocks:
        raw = decompress_frame(
            data[entry.position : entry.position + entry.stored_bytes],
            identity.compression,
            raw_bytes=entry.raw_bytes,
            limit=2**20,
            name="o",
            position=entry.position,
        )
        found += decode_block(raw)
    assert found == everything
    assert [tuple(one) for one in plain_reader.read_segment(data)[1]] == everything


@settings(max_examples=60, deadline=None)
@given(identity=IDENTITIES, shape=BLOCKS, data=st.data())
def test_any_choice_of_blocks_comes_back_from_a_store(
    identity: SegmentIdentity, shape: list[list[tuple[int, ...]]], data: st.DataObject
) -> None:
    blocks = [encode_block(records) for records in records_of(shape, identity.sequence)]
    store = RecordingStore()
    writer = SegmentWriter(store, identity)
    compressor = BlockCompressor(identity.compression)
    for block in blocks:
        writer.append(compressor.compress(block), len(block), scan_block(block))
    reference = writer.commit(2**62)
    reader = SegmentReader(store, identity.backup_id, reference)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(blocks) - 1))))
    entries = [reader.index().blocks[number] for number in chosen]
    assert [block for _, block in reader.read_blocks(entries)] == [blocks[n] for n in chosen]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("size", [0, 1, 50_000_000])
def test_values_up_to_50_mb_come_back(compression: Compression, size: int) -> None:
    store = RecordingStore()
    value = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    block = encode_block([Record(0, -1, 0, b"", value, ())])
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
    writer = SegmentWriter(store, identity)
    writer.append(BlockCompressor(compression).compress(block), len(block), scan_block(block))
    reader = SegmentReader(store, "b", writer.commit(1))
    ((_, found),) = reader.read_blocks(reader.index().blocks)
    assert found == block
