"""Kafka's partitioners in plain Python, written from their descriptions: what kbr_codec's are compared with."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from kbr_codec import Partitioner, Record


def murmur2(data: bytes) -> int:
    """As org.apache.kafka.common.utils.Utils.murmur2, without a sign."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    rest = data[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


def plain_partition(key: bytes | None, partitioner: int, count: int, position: int) -> int:
    """A record's partition."""
    if key is None or partitioner == Partitioner.ROUND_ROBIN:
        return position % count
    if partitioner == Partitioner.MURMUR2:
        return (murmur2(key) & 0x7FFFFFFF) % count
    assert partitioner == Partitioner.CONSISTENT
    return zlib.crc32(key) % count


def plain_routes(
    records: Sequence[Record], partitioner: int, count: int, position: int, window: tuple[int, int]
) -> list[tuple[int, int]]:
    """(offset, partition) of every record whose timestamp lies in the window."""
    return [
        (record.offset, plain_partition(record.key, partitioner, count, position + number))
        for number, record in enumerate(records)
        if window[0] <= record.timestamp <= window[1]
    ]
