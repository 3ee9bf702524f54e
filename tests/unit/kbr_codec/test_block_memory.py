"""What decoding allocates is bounded by the size of the input, whatever the input claims."""

from __future__ import annotations

import tracemalloc

import pytest

from kbr_codec import CodecError, Record, decode_block, encode_block, offset_ranges, scan_block

#: A record of nothing takes 4 bytes of a block (an entry in each of four columns) and some 180 as
#: objects; a header of nothing takes 3 and some 80. List growth and the error come on top.
FACTOR = 64
FIXED_BYTES = 8192


def peak_bytes(function, data: bytes) -> int:
    """The most that the interpreter's allocators held beyond the start."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        try:
            function(data)
        except CodecError:
            pass
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def claiming(block: bytes, column: bytes, head: bytes) -> bytes:
    """The block with another head where this column's one-byte head is."""
    at = block.index(column) + len(column)
    return block[:at] + head + block[at + 1 :]


TINY = encode_block([Record(0, 0, 1, None, None, ((b"", None),))])
DENSE = {
    "records of nothing": encode_block([Record(i, 0, 1, None, None, ()) for i in range(20_000)]),
    "records with large numbers": encode_block(
        [Record(i * 2**40, 2**62 * (i % 2), i % 3, None, None, ()) for i in range(2_000)]
    ),
    "headers of nothing": encode_block([Record(0, 0, 1, None, None, ((b"", None),) * 20_000)]),
    "one header each": encode_block([Record(i, 0, 1, b"", b"", ((b"", b""),)) for i in range(20_000)]),
    "a value": encode_block([Record(0, 0, 1, None, bytes(1_000_000), ())]),
}
ABSURD = {
    "count": claiming(TINY, b"count", b"\xcf" + b"\x7f" + b"\xff" * 7),
    "offsets": claiming(TINY, b"\xa7offsets", b"\xdd\xff\xff\xff\xff"),
    "keys": claiming(TINY, b"\xa4keys", b"\xdd\xff\xff\xff\xff"),
    "headers": claiming(TINY, b"\xa7headers\x91", b"\xdd\xff\xff\xff\xfe"),
    "a key": claiming(TINY, b"\xa4keys\x91", b"\xc6\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", DENSE)
def test_decoding_takes_at_most_a_small_multiple_of_the_block(name: str) -> None:
    block = DENSE[name]
    assert peak_bytes(decode_block, block) <= FACTOR * len(block) + FIXED_BYTES


@pytest.mark.parametrize("name", DENSE)
def test_a_scan_takes_no_memory_for_records(name: str) -> None:
    assert peak_bytes(scan_block, DENSE[name]) <= FIXED_BYTES


def ranges(block: bytes) -> tuple[bytes, bytes]:
    return offset_ranges(block, timestamp_from=0, timestamp_to=2**63 - 1)


@pytest.mark.parametrize("name", DENSE)
def test_ranges_take_sixteen_bytes_for_a_record_at_most(name: str) -> None:
    count = scan_block(DENSE[name]).record_count
    assert peak_bytes(ranges, DENSE[name]) <= 16 * count + FIXED_BYTES


@pytest.mark.parametrize("name", ABSURD)
def test_a_block_that_claims_billions_takes_nothing(name: str) -> None:
    for function in (decode_block, scan_block, ranges):
        with pytest.raises(CodecError):
            function(ABSURD[name])
        assert peak_bytes(function, ABSURD[name]) <= FIXED_BYTES


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_block_that_is_wrong_at_its_end_takes_nothing(name: str) -> None:
    """Everything is checked before the first record is made."""
    for data in (DENSE[name][:-1], DENSE[name] + b"\xc0"):
        assert peak_bytes(decode_block, data) <= FIXED_BYTES
