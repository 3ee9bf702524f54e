"""Blocks, for any records and for any damage: compiled and pure codec say the same, and never anything unexpected."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kbr_codec
from kbr_codec import BlockStats, CodecError, Corrupt, Record, decode_block, encode_block, pure, scan_block

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMESTAMPS = INT64 | st.sampled_from([-1, 0, 1, 2**63 - 1, -(2**63), 1_714_564_800_000])
BYTES = st.binary(max_size=60) | st.sampled_from([b"", b"\x00", b"x" * 300, b"y" * 70_000])
NULLABLE = st.none() | BYTES
NAMES = st.binary(max_size=12) | st.sampled_from([b"", b"same", b"\xff\xfe", b"a\x00b"])
HEADERS = st.lists(st.tuples(NAMES, NULLABLE), max_size=5).map(tuple)
BODIES = st.tuples(st.integers(1, 2**40), TIMESTAMPS, st.sampled_from([0, 1, 2]), NULLABLE, NULLABLE, HEADERS)


@st.composite
def record_lists(draw: st.DrawFn) -> list[Record]:
    """Records with rising offsets, holes anywhere."""
    offset = draw(st.integers(0, 2**40)) - 1
    found = []
    for step, *rest in draw(st.lists(BODIES, min_size=1, max_size=25)):
        offset += step
        found.append(Record(offset, *rest))
    return found


def _outcome(decode, data: bytes):  # noqa: ANN001
    """What a codec says of some bytes: records, or the class of its error."""
    try:
        return decode(data)
    except CodecError as error:
        assert 0 <= error.position <= len(data)
        return type(error)


@given(record_lists())
def test_what_goes_in_comes_out(records: list[Record]) -> None:
    assert decode_block(encode_block(records)) == records


@given(record_lists())
def test_compiled_and_pure_write_the_same_bytes(records: list[Record]) -> None:
    assert encode_block(records) == pure.encode_block(records)


@given(record_lists())
def test_a_scan_finds_what_the_records_say(records: list[Record]) -> None:
    stamps = [record.timestamp for record in records]
    sizes = [
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in record.headers)
        for record in records
    ]
    assert scan_block(encode_block(records)) == BlockStats(
        record_count=len(records),
        first_offset=records[0].offset,
        last_offset=records[-1].offset,
        first_timestamp=stamps[0],
        last_timestamp=stamps[-1],
        min_timestamp=min(stamps),
        max_timestamp=max(stamps),
        max_record_bytes=max(sizes),
    )


@given(record_lists())
def test_any_msgpack_library_reads_a_block(records: list[Record]) -> None:
    block = msgpack.unpackb(encode_block(records), raw=False, strict_map_key=True)
    assert block["count"] == len(records)
    assert block["values"] == [record.value for record in records]
    assert block["keys"] == [record.key for record in records]


@given(record_lists(), st.data())
def test_truncated_blocks_are_errors_in_both_codecs(records: list[Record], data: st.DataObject) -> None:
    block = encode_block(records)
    cut = block[: data.draw(st.integers(0, len(block) - 1))]
    found = _outcome(decode_block, cut)
    assert isinstance(found, type)
    assert found == _outcome(pure.decode_block, cut) == _outcome(scan_block, cut)


@given(record_lists(), st.data())
def test_flipped_bytes_give_the_same_in_both_codecs(records: list[Record], data: st.DataObject) -> None:
    block = bytearray(encode_block(records))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    assert _outcome(decode_block, bytes(block)) == _outcome(pure.decode_block, bytes(block))


@given(st.binary(max_size=200))
def test_noise_is_refused_alike(noise: bytes) -> None:
    assert _outcome(decode_block, noise) == _outcome(pure.decode_block, noise)


@given(record_lists(), record_lists())
def test_two_blocks_in_a_row_are_no_block(one: list[Record], two: list[Record]) -> None:
    both = encode_block(one) + encode_block(two)
    assert _outcome(decode_block, both) is kbr_codec.Corrupt
    assert _outcome(pure.decode_block, both) is kbr_codec.Corrupt


@given(record_lists(), st.data())
def test_structurally_altered_blocks_give_the_same_in_both_codecs(records: list[Record], data: st.DataObject) -> None:
    """Still msgpack, but with another count, type, order or column."""
    block = msgpack.unpackb(encode_block(records), raw=False)
    key = data.draw(st.sampled_from(sorted(block)))
    replacement = st.sampled_from(
        [None, 0, 1, -1, 2**63, 2**64 - 1, [], [0], {}, "text", b"bin", True, 1.5, [None] * len(records), [[]] * len(records)]
    )
    block[key] = data.draw(replacement)
    items = list(block.items())
    if data.draw(st.booleans()):
        items = data.draw(st.permutations(items))
    packed = msgpack.packb(dict(items), use_bin_type=True)
    assert _outcome(decode_block, packed) == _outcome(pure.decode_block, packed)


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, 50 * 1024 * 1024])
def test_values_of_every_length_format_come_back(size: int) -> None:
    record = Record(7, -1, 1, None, b"v" * size, ())
    assert decode_block(encode_block([record])) == [record]


@pytest.mark.parametrize("count", [1, 15, 16, 65_535, 65_536])
def test_columns_of_every_length_format_come_back(count: int) -> None:
    records = [Record(offset, offset, 1, None, None, ((b"h", None),)) for offset in range(count)]
    assert decode_block(encode_block(records)) == records


def test_every_integer_format_is_read() -> None:
    """A block may hold wider formats than kbr writes (docs/format.md, "Block")."""
    narrow = encode_block([Record(5, 9, 1, b"k", b"v", ())])
    wide = narrow.replace(b"\xa6offset\x05", b"\xa6offset\xd3" + (5).to_bytes(8, "big"))
    assert wide != narrow
    assert decode_block(wide) == decode_block(narrow) == pure.decode_block(wide)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [Record(5, 0, 1, None, None, ()), Record(5, 0, 1, None, None, ())],
        [Record(-1, 0, 1, None, None, ())],
        [Record(2**63, 0, 1, None, None, ())],
        [Record(0, 2**63, 1, None, None, ())],
        [Record(0, 0, 3, None, None, ())],
        [Record(0, 0, 1, "text", None, ())],
        [Record(0, 0, 1, None, None, ((None, b""),))],
    ],
)
def test_what_is_no_record_is_refused_by_both_codecs(records: list[Record]) -> None:
    for codec in (kbr_codec, pure):
        with pytest.raises(ValueError, match=r".+"):
            codec.encode_block(records)


def test_the_highest_offset_of_all_is_kept() -> None:
    records = [Record(0, 0, 1, None, b"", ()), Record(2**63 - 1, 0, 1, None, b"", ())]
    assert decode_block(encode_block(records)) == records


@pytest.mark.parametrize("codec", [kbr_codec, pure])
def test_no_more_records_and_headers_are_made_than_are_accepted(codec: Any) -> None:
    """Records and headers count together; a scan, which makes none, takes any number."""
    records = [Record(number, 0, 1, None, None, ((b"h", None),) * number) for number in range(4)]
    block = codec.encode_block(records)
    assert codec.decode_block(block, max_items=10) == records
    with pytest.raises(Corrupt, match="more than 9 records and headers") as caught:
        codec.decode_block(block, max_items=9)
    assert caught.value.position == 0
    with pytest.raises(Corrupt, match="more than 3 records"):
        codec.decode_block(block, max_items=3)
    assert codec.scan_block(block).record_count == 4
