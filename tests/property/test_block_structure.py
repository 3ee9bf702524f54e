"""Blocks that kbr would not write: other formats of the same items, other items, and what is nearly a block.

Compiled and pure codec have to say the same of each, down to the class and the position of the error.
"""

from __future__ import annotations

import random
from array import array
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr_codec import (
    BlockStats,
    CodecError,
    Corrupt,
    Record,
    Truncated,
    decode_block,
    encode_block,
    offset_ranges,
    pure,
    scan_block,
)
from tests.support.strategies import INT64_MAX, INT64_MIN, TIMESTAMPS, odd_record_lists, pack_block, record_columns

SEEDS = st.integers(0, 2**32)


def outcome(decode: Any, data: bytes) -> Any:
    """What a codec says: a value, or class and position of its error."""
    try:
        return decode(data)
    except CodecError as error:
        assert 0 <= error.position <= len(data)
        return type(error), error.position


def agreed(data: bytes) -> Any:
    """What all of them say, which has to be the same."""
    found = outcome(decode_block, data)
    assert found == outcome(pure.decode_block, data)
    scanned = outcome(scan_block, data)
    assert scanned == outcome(pure.scan_block, data)
    ranges = outcome(lambda block: offset_ranges(block, timestamp_from=0, timestamp_to=INT64_MAX), data)
    assert ranges == outcome(lambda block: pure.offset_ranges(block, timestamp_from=0, timestamp_to=INT64_MAX), data)
    assert isinstance(found, list) == isinstance(scanned, BlockStats)
    if isinstance(found, tuple):
        assert found == scanned == ranges
    return found


def any_format(seed: int) -> Any:
    """Chooses a format for each item."""
    return random.Random(seed).randrange


def shortest(count: int) -> int:
    """Chooses the format that stands last where it is the fixed one; any will do."""
    return count - 1


@given(odd_record_lists())
def test_offsets_up_to_the_last_one_come_back_from_the_same_bytes(records: list[Record]) -> None:
    block = encode_block(records)
    assert block == pure.encode_block(records)
    assert agreed(block) == records


@given(odd_record_lists())
def test_a_scan_says_what_the_decoded_records_say(records: list[Record]) -> None:
    block = encode_block(records)
    assert scan_block(block) == pure.scan_block(block)
    for data in (bytearray(block), memoryview(block)):
        assert decode_block(data) == records
        assert scan_block(data) == scan_block(block)


@given(odd_record_lists(max_size=40), TIMESTAMPS, TIMESTAMPS)
def test_the_ranges_of_a_block_hold_the_offsets_of_the_window_and_no_others(
    records: list[Record], start: int, end: int
) -> None:
    starts, counts = (
        array("q", found) for found in offset_ranges(encode_block(records), timestamp_from=start, timestamp_to=end)
    )
    found = [offset for first, count in zip(starts, counts, strict=True) for offset in range(first, first + count)]
    assert found == [record.offset for record in records if start <= record.timestamp <= end]
    # none of them could be joined to the one before it
    assert all(a + count < b for a, count, b in zip(starts, counts, starts[1:], strict=False))


@given(odd_record_lists())
def test_a_msgpack_library_finds_every_column(records: list[Record]) -> None:
    found = msgpack.unpackb(encode_block(records), raw=False)
    due = dict(record_columns(records))
    assert list(found) == list(due)
    if isinstance(found["timestamp_types"], int):
        found["timestamp_types"] = [found["timestamp_types"]] * len(records)
    if found["headers"] is None:
        found["headers"] = [None] * len(records)
    assert found == due


@given(odd_record_lists(), SEEDS)
def test_items_in_any_format_are_read(records: list[Record], seed: int) -> None:
    assert agreed(pack_block(record_columns(records), any_format(seed))) == records


@given(odd_record_lists(), SEEDS, st.data())
def test_such_blocks_cut_anywhere_are_truncated(records: list[Record], seed: int, data: st.DataObject) -> None:
    block = pack_block(record_columns(records), any_format(seed))
    found = agreed(block[: data.draw(st.integers(0, len(block) - 1))])
    # a count beyond what is left of the block is corrupt, whether or not more was to come
    assert found[0] in (Truncated, Corrupt)


@given(odd_record_lists(), SEEDS, st.data())
def test_such_blocks_with_other_bytes_are_judged_alike(records: list[Record], seed: int, data: st.DataObject) -> None:
    block = bytearray(pack_block(record_columns(records), any_format(seed)))
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    agreed(bytes(block))


@given(odd_record_lists(), SEEDS, st.data())
def test_two_entries_in_each_others_place_are_corrupt(records: list[Record], seed: int, data: st.DataObject) -> None:
    entries = record_columns(records)
    one, two = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=2, unique=True))
    entries[one], entries[two] = entries[two], entries[one]
    assert agreed(pack_block(entries, any_format(seed)))[0] is Corrupt


@given(odd_record_lists(), SEEDS, st.data())
def test_two_keys_in_each_others_place_are_corrupt(records: list[Record], seed: int, data: st.DataObject) -> None:
    entries = record_columns(records)
    one, two = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=2, unique=True))
    (key_one, value_one), (key_two, value_two) = entries[one], entries[two]
    entries[one], entries[two] = (key_two, value_one), (key_one, value_two)
    assert agreed(pack_block(entries, any_format(seed)))[0] is Corrupt


@given(odd_record_lists(), SEEDS, st.sampled_from([0, 1, 9, 11, 15, 16, 2**16, 2**32 - 1]))
def test_a_map_of_another_size_is_corrupt(records: list[Record], seed: int, count: int) -> None:
    assert agreed(pack_block(record_columns(records), any_format(seed), count=count))[0] is Corrupt


@given(odd_record_lists(), SEEDS, st.data())
def test_an_entry_missing_or_twice_is_corrupt(records: list[Record], seed: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 9))
    entries = record_columns(records)
    for altered in (entries[:at] + entries[at + 1 :], entries[: at + 1] + entries[at:]):
        assert agreed(pack_block(altered, any_format(seed)))[0] is Corrupt
        assert agreed(pack_block(altered, any_format(seed), count=10))[0] in (Corrupt, Truncated)


@given(odd_record_lists(), SEEDS, st.data())
def test_a_column_of_another_length_is_corrupt(records: list[Record], seed: int, data: st.DataObject) -> None:
    entries = record_columns(records)
    at = data.draw(st.sampled_from([3, 5, 6, 7, 8, 9]))
    key, column = entries[at]
    entries[at] = (key, column[:-1] if data.draw(st.booleans()) else [*column, column[-1]])
    assert agreed(pack_block(entries, any_format(seed)))[0] is Corrupt


ODD = st.sampled_from(
    [None, True, False, 0, 1, 2, 3, -1, INT64_MAX, INT64_MIN, 2**63, 2**64 - 1, 0.5, "", "text", b"", b"bin", [], [None], [b"a"], [b"a", b"b", b"c"], [None, b"v"], [b"n", 1]]
)


@given(odd_record_lists(), SEEDS, ODD, st.data())
def test_any_item_replaced_by_another_is_judged_alike(
    records: list[Record], seed: int, odd: object, data: st.DataObject
) -> None:
    entries = record_columns(records)
    at = data.draw(st.integers(0, 9))
    key, value = entries[at]
    if isinstance(value, list) and data.draw(st.booleans()):
        value[data.draw(st.integers(0, len(value) - 1))] = odd
    else:
        entries[at] = (key, odd)
    found = agreed(pack_block(entries, any_format(seed)))
    if isinstance(found, list):  # then it is a block like any other
        assert decode_block(encode_block(found)) == found


@pytest.mark.parametrize("version", [-1, 0, 2, 3, 255, INT64_MAX, 2**64 - 1, None, "1", [1], True])
def test_another_version_is_corrupt(version: object) -> None:
    entries = [("v", version), *record_columns([Record(0, 0, 0, None, None, ())])[1:]]
    assert agreed(pack_block(entries, shortest))[0] is Corrupt


@pytest.mark.parametrize("deltas", [[0, INT64_MAX], [0, INT64_MAX - 1], [1, 1], [0, 0], [0, -1], [0, INT64_MIN]])
def test_offsets_that_do_not_rise_or_rise_too_far_are_corrupt(deltas: list[int]) -> None:
    entries = record_columns([Record(2, 0, 0, None, None, ()), Record(3, 0, 0, None, None, ())])
    entries[3] = ("offsets", deltas)
    assert agreed(pack_block(entries, shortest))[0] is Corrupt


def test_the_step_to_the_last_offset_is_allowed() -> None:
    entries = record_columns([Record(2, 0, 0, None, None, ()), Record(3, 0, 0, None, None, ())])
    entries[3] = ("offsets", [0, INT64_MAX - 2])
    assert agreed(pack_block(entries, shortest))[1].offset == INT64_MAX


@pytest.mark.parametrize(
    "stamps",
    [[INT64_MIN, INT64_MAX], [INT64_MAX, INT64_MIN, INT64_MAX], [-1, INT64_MAX, 0, INT64_MIN], [0, -1, 0, -1], [5, 4, 3]],
)
def test_timestamps_wrap_around_and_come_back(stamps: list[int]) -> None:
    records = [Record(offset, stamp, 1, None, None, ()) for offset, stamp in enumerate(stamps)]
    block = encode_block(records)
    assert block == pure.encode_block(records)
    assert agreed(block) == records
    assert scan_block(block).min_timestamp == min(stamps)
    assert scan_block(block).max_timestamp == max(stamps)


def test_headers_keep_order_doubles_nulls_and_bytes() -> None:
    headers = ((b"b", None), (b"a", b""), (b"b", b"\x00"), (b"", None), (b"\xff\x00\xfe", b"\xc3\x28"), (b"b", None))
    records = [Record(0, 0, 1, b"", None, headers), Record(1, 0, 1, None, b"", ())]
    assert agreed(encode_block(records)) == records


@pytest.mark.parametrize("place", ["key", "value", "header"])
def test_50_mb_are_the_same_in_both_codecs(place: str) -> None:
    large = bytes(range(256)) * (50_000_000 // 256)
    record = Record(0, -1, 0, None, None, ())
    change: dict[str, Any] = {place: large} if place != "header" else {"headers": ((b"h", large),)}
    record = record._replace(**change)
    block = encode_block([record])
    assert block == pure.encode_block([record])
    assert decode_block(block) == [record] == pure.decode_block(block)
    assert scan_block(block).max_record_bytes == len(large) + (place == "header")
    assert outcome(decode_block, block[:-1])[0] is outcome(pure.decode_block, block[:-1])[0] is Truncated


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("column", [7, 8])
def test_a_length_that_is_not_there_is_truncated_and_takes_no_memory(size: int, column: int) -> None:
    entries = record_columns([Record(0, 0, 0, None, None, ())])
    head = pack_block(entries[:column], shortest, count=10)
    name = entries[column][0].encode()
    data = head + bytes([0xA0 | len(name)]) + name + b"\x91\xc6" + size.to_bytes(4, "big") + b"x"
    assert agreed(data)[0] is Truncated
