"""Kafka's partitioners: known values of the Java client and of zlib, and what the functions refuse."""

from __future__ import annotations

import zlib
from array import array

import pytest

from kbr_codec import Partitioner, Record, Truncated, count_routes, encode_block, partition_of, route_ranges
from tests.support.plain_routes import murmur2, plain_partition

#: kafka's UtilsTest.testMurmur2, and librdkafka's unittest_murmur2 for the empty key.
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
    b"": 275646681,
}
MANY = 2**31 - 1


@pytest.mark.parametrize(("key", "expected"), JAVA_HASHES.items())
def test_murmur2_is_the_java_clients(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF
    for count in (1, 2, 3, 7, 12, 1000, MANY):
        assert partition_of(key, partitioner=Partitioner.MURMUR2, count=count, position=5) == (expected & 0x7FFFFFFF) % count


@pytest.mark.parametrize("key", [b"", b"a", b"123456789", bytes(range(256)), b"\xff" * 1001])
def test_consistent_is_a_crc_32(key: bytes) -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926
    for count in (1, 3, 12, MANY):
        assert partition_of(key, partitioner=Partitioner.CONSISTENT, count=count, position=5) == zlib.crc32(key) % count


@pytest.mark.parametrize("partitioner", [Partitioner.MURMUR2, Partitioner.CONSISTENT])
def test_records_without_a_key_go_round_and_an_empty_key_is_a_key(partitioner: Partitioner) -> None:
    assert [partition_of(None, partitioner=partitioner, count=3, position=n) for n in range(5)] == [0, 1, 2, 0, 1]
    assert len({partition_of(b"", partitioner=partitioner, count=3, position=n) for n in range(5)}) == 1


def test_round_robin_goes_round_whatever_the_key_is() -> None:
    places = [partition_of(b"k", partitioner=Partitioner.ROUND_ROBIN, count=3, position=2**40 + n) for n in range(4)]
    assert places == [(2**40 + n) % 3 for n in range(4)]


@pytest.mark.parametrize(
    ("partitioner", "count", "position"),
    [(Partitioner.ORIGINAL, 3, 0), (4, 3, 0), (Partitioner.MURMUR2, 0, 0), (Partitioner.MURMUR2, 2**31, 0), (1, 1, -1)],
)
def test_what_is_no_partitioner_count_or_position_is_refused(partitioner: int, count: int, position: int) -> None:
    with pytest.raises(ValueError):
        partition_of(b"k", partitioner=partitioner, count=count, position=position)


def test_a_block_that_ends_too_early_and_counts_of_another_length_are_refused() -> None:
    block = encode_block([Record(n, n, 1, b"k%d" % n, b"v", ()) for n in range(9)])
    how = {"partitioner": 1, "count": 3, "position": 0, "timestamp_from": 0, "timestamp_to": 99}
    with pytest.raises(Truncated):
        route_ranges(block[:-3], **how)
    counts = array("q", [0, 0, 0])
    with pytest.raises(Truncated):
        count_routes(block[:-3], counts, **how)
    with pytest.raises(ValueError, match="2 counts for 3 partitions"):
        count_routes(block, array("q", [0, 0]), **how)
    assert count_routes(block, counts, **how) == 9
    assert list(counts) == [sum(plain_partition(b"k%d" % n, 1, 3, n) == one for n in range(9)) for one in range(3)]
