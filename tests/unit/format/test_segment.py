"""Segments: what is written is read; what does not agree with itself is refused with its place."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from kbr.errors import CorruptSegment, KbrError, UnsupportedFormat
from kbr.format.segment import (
    FOOTER_BYTES,
    INDEX_OVERHEAD_BYTES,
    MAX_BLOCKS,
    MAX_INDEX_BYTES,
    NeedMoreTail,
    SegmentAssembler,
    SegmentIndex,
    index_bytes_bound,
    parse_index,
)
from kbr.model import Compression
from kbr_codec import BlockStats, scan_block
from tests.support import plain_reader
from tests.support.backups import block_of, identity_of, segment_bytes

NAME = "nightly/topics/orders/partition=0/segment-00000000000000000100.zst"
EVERY_COMPRESSION = pytest.mark.parametrize("compression", list(Compression))


def sample(compression: Compression = Compression.ZSTD) -> bytes:
    blocks = [block_of(100 + 25 * i, 20, timestamp=1000 - 300 * i) for i in range(3)]
    return segment_bytes(identity_of(sequence=95, compression=compression), blocks, 180)


def parse(data: bytes) -> SegmentIndex:
    return parse_index(data, object_bytes=len(data), name=NAME)


def refused(data: bytes, object_bytes: int | None = None) -> CorruptSegment:
    with pytest.raises(CorruptSegment) as caught:
        parse_index(data, object_bytes=object_bytes or len(data), name=NAME)
    error = caught.value
    assert error.context["object"] == NAME
    assert 0 <= error.context["position"] <= max(object_bytes or 0, len(data))
    assert str(error).startswith(f"{NAME}: ")
    return error


def index_of(data: bytes) -> dict[str, Any]:
    (size,) = struct.unpack_from("<I", data, len(data) - FOOTER_BYTES)
    index: dict[str, Any] = msgpack.unpackb(data[-FOOTER_BYTES - size : -FOOTER_BYTES])
    return index


def with_index(data: bytes, packed: bytes) -> bytes:
    """The same frames with another index, its frame as it has to be."""
    (position,) = struct.unpack_from("<Q", data, len(data) - 16)
    header = struct.pack("<II", 0x184D2A5B, len(packed) + FOOTER_BYTES)
    footer = struct.pack("<IIQ8s", len(packed), zlib.crc32(packed), position, b"KBRSEGv1")
    return data[:position] + header + packed + footer


def changed(data: bytes, **changes: Any) -> bytes:
    index = index_of(data)
    blocks = index["blocks"]
    for key, value in changes.items():
        if key.startswith("blocks_"):
            blocks[key.removeprefix("blocks_")] = value
        elif value is None:
            del index[key]
        else:
            index[key] = value
    return with_index(data, msgpack.packb(index))


# -- what is written ----------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "kept"), [((-1, -1), -1), ((3, -1), -1), ((-1, 0), 0), ((9, 2**31 - 1), 2**31 - 1)])
def test_the_last_record_s_leader_epoch_is_kept_where_it_is_known(epochs: tuple[int, int], kept: int) -> None:
    assembler = SegmentAssembler(identity_of())
    for first, epoch in zip((0, 5), epochs, strict=True):
        block = block_of(first, 5)
        assembler.add(b"frame", len(block), scan_block(block), epoch)
    data = b"frame" * 2 + assembler.finish(10)
    assert index_of(data).get("last_leader_epoch", -1) == kept
    index = parse(data)
    assert index.last_leader_epoch == kept
    reference = index.segment_ref(key="k", stored_bytes=len(data), sha256="00")
    assert reference.anchor == (9, index.last_timestamp, kept)
    # and by the parser that large indexes are read with
    larger = changed(data, new_thing={"a": 1})
    assert parse(larger).last_leader_epoch == kept


@EVERY_COMPRESSION
def test_the_plain_reader_reads_what_the_assembler_writes(compression: Compression) -> None:
    index, records = plain_reader.read_segment(sample(compression))
    assert [record.offset for record in records] == [
        *range(100, 120),
        *range(125, 145),
        *range(150, 170),
    ]
    assert index["compression"] == compression.value
    assert next(iter(index)) == "version"


@EVERY_COMPRESSION
def test_the_index_says_what_was_put_in(compression: Compression) -> None:
    data = sample(compression)
    index = parse(data)
    assert index.identity == identity_of(sequence=95, compression=compression)
    assert index.next_offset == 180
    assert index.record_count == 60
    assert [(block.first_offset, block.last_offset) for block in index.blocks] == [
        (100, 119),
        (125, 144),
        (150, 169),
    ]
    assert (index.first_timestamp, index.last_timestamp) == (1000, 419)
    assert [(block.min_timestamp, block.max_timestamp) for block in index.blocks] == [
        (1000, 1019),
        (700, 719),
        (400, 419),
    ]
    assert index.content_sha256 == hashlib.sha256(data[: index.index_position]).digest()
    for block in index.blocks:
        frame = data[block.position : block.position + block.stored_bytes]
        assert zlib.crc32(frame) == block.crc32
    reference = index.segment_ref(key="k", stored_bytes=len(data), sha256="00")
    assert (reference.start_offset, reference.end_offset) == (100, 169)
    assert (reference.min_timestamp, reference.max_timestamp) == (400, 1019)
    assert (reference.start_timestamp, reference.end_timestamp) == (1000, 419)


def test_the_assembler_counts_and_hashes_the_whole_object() -> None:
    assembler = SegmentAssembler(identity_of())
    block = block_of(0, 5)
    assembler.add(b"frame", len(block), scan_block(block))
    assert (assembler.stored_bytes, assembler.record_count, assembler.block_count) == (5, 5, 1)
    with pytest.raises(ValueError, match="not finished"):
        assembler.sha256_hex()
    whole = b"frame" + assembler.finish(5)
    assert assembler.stored_bytes == len(whole)
    assert assembler.sha256_hex() == hashlib.sha256(whole).hexdigest()


STATS = BlockStats(5, 10, 20, 1, 1, 1, 1, 9)


@pytest.mark.parametrize(
    "stats",
    [
        STATS._replace(first_offset=9),
        STATS._replace(last_offset=13),
        STATS._replace(record_count=0),
        STATS._replace(record_count=12),
        STATS._replace(min_timestamp=2),
    ],
)
def test_a_block_that_makes_no_sense_is_not_taken(stats: BlockStats) -> None:
    assembler = SegmentAssembler(identity_of(sequence=10))
    with pytest.raises(ValueError, match=r"\d"):
        assembler.add(b"frame", 100, stats)
    assert assembler.block_count == 0
    assembler.add(b"frame", 100, STATS)


def test_what_does_not_follow_is_not_taken() -> None:
    assembler = SegmentAssembler(identity_of(sequence=10))
    with pytest.raises(ValueError, match="at least one block"):
        assembler.finish(30)
    assembler.add(b"frame", 100, STATS)
    with pytest.raises(ValueError, match="offset 10 where 21"):
        assembler.add(b"frame", 100, STATS)
    for frame, raw_bytes in ((b"", 100), (b"frame", 0)):
        with pytest.raises(ValueError, match="at least one byte"):
            assembler.add(frame, raw_bytes, STATS)
    with pytest.raises(ValueError, match="next offset"):
        assembler.finish(20)
    assembler.finish(21)
    with pytest.raises(ValueError, match="finished"):
        assembler.add(b"frame", 100, STATS)
    with pytest.raises(ValueError, match="finished"):
        assembler.finish(21)


@pytest.mark.parametrize(
    "changes",
    [
        {"topic": ".."},
        {"backup_id": "a/b"},
        {"partition": -1},
        {"sequence": -1},
        {"created_at_ms": -1},
        {"writer": "x" * 1025},
        {"topic_id": "x" * 1025},
    ],
)
def test_an_identity_that_the_format_does_not_allow_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).removesuffix("_ms")):
        SegmentAssembler(replace(identity_of(), **changes))


def test_the_largest_segment_can_be_read_again() -> None:
    """65,536 blocks with the longest numbers there are: within every bound, no block more."""
    assembler = SegmentAssembler(identity_of(topic="t" * 249, backup_id="b" * 128))
    offset = 0
    for _ in range(MAX_BLOCKS):
        first, last = offset, offset + 2**46
        offset = last + 1
        far = -(2**63)
        assembler.add(b"f", 2**31, BlockStats(2**33, first, last, far, far, far, far, 2**31))
    with pytest.raises(ValueError, match="at most"):
        assembler.add(b"f", 1, BlockStats(1, offset, offset, 0, 0, 0, 0, 0))
    frame = assembler.finish(2**63 - 1)
    assert len(frame) <= index_bytes_bound(MAX_BLOCKS) <= MAX_INDEX_BYTES
    index = parse_index(frame, object_bytes=assembler.stored_bytes, name=NAME)
    assert index.blocks == assembler.blocks


# -- what is read -------------------------------------------------------------------------


def test_a_tail_that_is_too_short_says_what_it_needs() -> None:
    data = sample()
    with pytest.raises(NeedMoreTail) as caught:
        parse_index(data[-10:], object_bytes=len(data), name=NAME)
    assert caught.value.tail_bytes == FOOTER_BYTES
    with pytest.raises(NeedMoreTail) as caught:
        parse_index(data[-FOOTER_BYTES:], object_bytes=len(data), name=NAME)
    tail = data[-caught.value.tail_bytes :]
    assert parse_index(tail, object_bytes=len(data), name=NAME) == parse(data)
    with pytest.raises(NeedMoreTail):
        parse_index(tail[1:], object_bytes=len(data), name=NAME)


@EVERY_COMPRESSION
def test_every_truncation_is_found(compression: Compression) -> None:
    data = sample(compression)
    for length in range(len(data)):
        refused(data[:length], length)


def test_bytes_too_many_are_found() -> None:
    data = sample()
    refused(b"\0" + data)
    refused(data + b"\0")
    refused(data + data)


def test_a_tail_longer_than_the_object_is_refused() -> None:
    data = sample()
    refused(data, len(data) - 1)


def test_every_flip_of_the_index_frame_is_found() -> None:
    data = sample()
    for position in range(parse(data).index_position, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises((CorruptSegment, UnsupportedFormat, NeedMoreTail)) as caught:
                parse(bytes(flipped))
            assert not isinstance(caught.value, NeedMoreTail)


def test_a_newer_version_is_named_and_so_is_ours() -> None:
    for data in (changed(sample(), version=2), sample()[:-1] + b"2"):
        with pytest.raises(UnsupportedFormat) as caught:
            parse(data)
        assert "version 2" in str(caught.value)
        assert "version 1" in str(caught.value)
        assert NAME in str(caught.value)


def test_a_newer_version_is_named_whatever_else_is_in_it() -> None:
    data = with_index(sample(), msgpack.packb({"version": 7, "blocks": "somewhere else"}))
    with pytest.raises(UnsupportedFormat, match="version 7"):
        parse(data)


def test_unknown_keys_and_columns_are_ignored() -> None:
    data = changed(sample(), new_thing={"a": [1, {"b": None}]}, blocks_new_column=["x", 1.5])
    assert parse(data).blocks == parse(sample()).blocks


DAMAGE: dict[str, dict[str, Any]] = {
    "no version": {"version": None},
    "version is text": {"version": "1"},
    "no blocks": {"blocks": None},
    "blocks is an array": {"blocks": [1, 2]},
    "no sha256": {"sha256": None},
    "short sha256": {"sha256": b"1234"},
    "sha256 is text": {"sha256": "1" * 32},
    "unknown compression": {"compression": "snappy"},
    "compression is a number": {"compression": 1},
    "topic leads elsewhere": {"topic": "../../etc"},
    "backup_id leads elsewhere": {"backup_id": ".."},
    "negative partition": {"partition": -1},
    "partition beyond int32": {"partition": 2**31},
    "negative sequence": {"sequence": -1},
    "sequence behind the first record": {"sequence": 101},
    "sequence beyond int64": {"sequence": 2**63},
    "next_offset at the last record": {"next_offset": 169},
    "negative next_offset": {"next_offset": -1},
    "record_count": {"record_count": 61},
    "raw_bytes": {"raw_bytes": 1},
    "negative max_record_bytes": {"max_record_bytes": -1},
    "huge max_record_bytes": {"max_record_bytes": 2**40},
    "first_timestamp": {"first_timestamp": 999},
    "last_timestamp": {"last_timestamp": 420},
    "last_leader_epoch beyond int32": {"last_leader_epoch": 2**31},
    "negative last_leader_epoch": {"last_leader_epoch": -2},
    "last_leader_epoch is text": {"last_leader_epoch": "1"},
    "created_at is a float": {"created_at": 1.5},
    "record_count is true": {"record_count": True},
    "endless writer": {"writer": "x" * 1025},
    "columns of different lengths": {"blocks_crc32": [1, 2]},
    "a column is a number": {"blocks_crc32": 3},
    "a column of texts": {"blocks_crc32": ["1", "2", "3"]},
    "a crc beyond 32 bits": {"blocks_crc32": [1, 2, 2**32]},
    "a negative size": {"blocks_stored_bytes": [-1, 2, 3]},
    "sizes that miss the index": {"blocks_stored_bytes": [1, 2, 3]},
    "an empty block": {"blocks_raw_bytes": [0, 2, 3]},
    "offsets that fall": {"blocks_first_offset": [100, 119, 150]},
    "a block that ends before it begins": {"blocks_last_offset": [99, 144, 169]},
    "more records than offsets": {"blocks_record_count": [21, 20, 19]},
    "no records": {"blocks_record_count": [0, 20, 40]},
    "timestamps crossed": {"blocks_min_timestamp": [2000, 700, 400]},
}


@pytest.mark.parametrize("changes", DAMAGE.values(), ids=DAMAGE.keys())
def test_an_index_that_does_not_agree_with_itself_is_refused(changes: dict[str, Any]) -> None:
    refused(changed(sample(), **changes))


@pytest.mark.parametrize("column", list(index_of(sample())["blocks"]))
def test_every_column_is_needed_and_none_twice(column: str) -> None:
    data = sample()
    index = index_of(data)
    values = index["blocks"].pop(column)
    assert column in str(refused(with_index(data, msgpack.packb(index))))
    del index["blocks"]
    fields = b"".join(msgpack.packb(one) for pair in index.items() for one in pair)
    twice = [(key, value) for key, value in index_of(data)["blocks"].items()]
    twice.append((column, values))
    columns = b"".join(msgpack.packb(one) for pair in twice for one in pair)
    packed = bytes([0xDE, 0, len(index) + 1]) + fields
    packed += msgpack.packb("blocks") + bytes([0x80 + len(twice)]) + columns
    assert "twice" in str(refused(with_index(data, packed)))


def test_no_blocks_are_no_segment() -> None:
    empty: dict[str, Any] = {f"blocks_{column}": [] for column in index_of(sample())["blocks"]}
    refused(changed(sample(), record_count=0, raw_bytes=0, **empty))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({1: 2}),
        msgpack.packb({}),
        b"\xdf\xff\xff\xff\xff",
        b"\x82" + msgpack.packb("version") + b"\x01" + msgpack.packb("version") + b"\x01",
        b"\x91" * 100_000,
    ],
)
def test_something_else_than_a_map_of_these_keys_is_refused(packed: bytes) -> None:
    refused(with_index(sample(), packed))


def test_an_index_twice_or_with_bytes_after_it_is_refused() -> None:
    data = sample()
    packed = msgpack.packb(index_of(data))
    refused(with_index(data, packed + b"\0"))
    refused(with_index(data, packed + packed))


def test_a_footer_of_absurd_numbers_is_refused_before_anything_is_read() -> None:
    for size, position in ((2**32 - 1, 0), (0, 2**64 - 1), (2**31, 2**63), (100, 100)):
        tail = struct.pack("<IIQ8s", size, 0, position, b"KBRSEGv1")
        refused(tail, 10**6)
        if position + size + INDEX_OVERHEAD_BYTES < 2**62:
            refused(tail, max(size + position + INDEX_OVERHEAD_BYTES, 100) + 1)


def test_an_index_over_the_limit_is_refused_though_all_else_is_right() -> None:
    size = MAX_INDEX_BYTES + 1
    tail = struct.pack("<IIQ8s", size, 0, 10, b"KBRSEGv1")
    assert "allowed" in str(refused(tail, 10 + size + INDEX_OVERHEAD_BYTES))


def test_a_hostile_index_costs_no_more_memory_than_its_size() -> None:
    """Megabytes of empty arrays and maps, where a general parser makes 64 bytes of each."""
    filler = b"\xdd" + struct.pack(">I", 2**19) + b"\x90\x80" * 2**18
    packed = b"\x82" + msgpack.packb("version") + b"\x01" + msgpack.packb("x") + filler
    data = with_index(sample(), packed)
    tracemalloc.start()
    try:
        refused(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(packed)
    finally:
        tracemalloc.stop()


def test_errors_survive_a_process_boundary() -> None:
    import pickle

    error: KbrError = refused(sample()[:-1])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.context, again.hint) == (str(error), error.context, error.hint)
