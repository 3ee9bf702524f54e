"""The compiled partitioners say what the plain ones say, of any records."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from kbr_codec import Partitioner, Record, count_routes, encode_block, partition_of, route_ranges
from tests.support.plain_routes import plain_partition, plain_routes

KEYS = st.none() | st.binary(max_size=40) | st.sampled_from([b"a", b"b", b"\xff\xfe\xfd"])
ROUTERS = st.sampled_from([Partitioner.MURMUR2, Partitioner.CONSISTENT, Partitioner.ROUND_ROBIN])
ROWS = st.lists(st.tuples(st.integers(1, 3), st.integers(-1, 50), KEYS), min_size=1, max_size=60)


@given(key=KEYS, partitioner=ROUTERS, count=st.integers(1, 2**31 - 1), position=st.integers(0, 2**62))
def test_one_record(key: bytes | None, partitioner: Partitioner, count: int, position: int) -> None:
    found = partition_of(key, partitioner=partitioner, count=count, position=position)
    assert found == plain_partition(key, partitioner, count, position)


@given(
    rows=ROWS, partitioner=ROUTERS, count=st.integers(1, 9), position=st.integers(0, 100),
    ends=st.tuples(st.integers(-1, 50), st.integers(-1, 50)),
)  # fmt: skip
def test_a_block(
    rows: list[tuple[int, int, bytes | None]], partitioner: Partitioner, count: int, position: int, ends: tuple[int, int]
) -> None:
    records, offset = [], -1
    for step, timestamp, key in rows:
        offset += step
        records.append(Record(offset, timestamp, 1, key, b"", ()))
    expected = plain_routes(records, partitioner, count, position, ends)
    how = {
        "partitioner": partitioner, "count": count, "position": position,
        "timestamp_from": ends[0], "timestamp_to": ends[1],
    }  # fmt: skip
    starts, counts, partitions = route_ranges(encode_block(records), **how)
    found = [
        (start + n, partition)
        for start, length, partition in zip(
            memoryview(starts).cast("q"), memoryview(counts).cast("q"), memoryview(partitions).cast("i"), strict=True
        )
        for n in range(length)
    ]
    assert found == expected
    sums = array("q", [0] * count)
    assert count_routes(encode_block(records), sums, **how) == len(records)
    assert list(sums) == [sum(place == number for _, place in expected) for number in range(count)]
