"""The plain reader as third judge of blocks: it shares no line with the codecs, only docs/format.md."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr_codec import CodecError, Record, decode_block, encode_block
from tests.support import plain_reader
from tests.support.strategies import odd_record_lists, pack_block, record_columns

SEEDS = st.integers(0, 2**32)
ODD = st.sampled_from(
    [None, True, 0, 3, -1, 2**63 - 1, 2**63, 0.5, "", "v", b"", b"bin", [], [None], [b"a", b"b"], [None, b"v"]]
)


def judge_alike(data: bytes) -> None:
    """Both read the same records, or both refuse."""
    try:
        records = decode_block(data)
    except CodecError:
        with pytest.raises(plain_reader.Unreadable):
            plain_reader.read_block(data)
    else:
        assert plain_reader.read_block(data) == records


@given(odd_record_lists())
def test_the_page_is_enough_to_read_what_the_codec_writes(records: list[Record]) -> None:
    assert plain_reader.read_block(encode_block(records)) == records


@given(odd_record_lists(), SEEDS)
def test_the_page_is_enough_to_read_items_in_any_format(records: list[Record], seed: int) -> None:
    assert plain_reader.read_block(pack_block(record_columns(records), random.Random(seed).randrange)) == records


@given(odd_record_lists(), SEEDS, st.data())
def test_what_the_page_calls_corrupt_the_codec_refuses_and_nothing_else(
    records: list[Record], seed: int, data: st.DataObject
) -> None:
    entries: list[tuple[str, Any]] = record_columns(records)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, 9))
        key, value = entries[at]
        if isinstance(value, list) and value and data.draw(st.booleans()):
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(ODD)
        else:
            entries[at] = (key, data.draw(ODD))
    judge_alike(pack_block(entries, random.Random(seed).randrange))


@given(odd_record_lists(), st.data())
def test_damaged_bytes_are_judged_by_the_page(records: list[Record], data: st.DataObject) -> None:
    block = bytearray(encode_block(records))
    at = data.draw(st.integers(0, len(block) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "remove", "insert", "join"]))
    if change == "flip":
        block[at] ^= data.draw(st.integers(1, 255))
    elif change == "cut":
        del block[at:]
    elif change == "remove":
        del block[at : at + data.draw(st.integers(1, 9))]
    elif change == "insert":
        block[at:at] = data.draw(st.binary(min_size=1, max_size=6))
    else:
        block += block[at:]
    judge_alike(bytes(block))
