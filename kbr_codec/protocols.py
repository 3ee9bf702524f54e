"""What the compiled and the pure codec both are: the record, a block's statistics, the functions."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

#: Records and headers of one block that decode_block makes objects of, together: 100 to 200 bytes each. A block of 4 MiB, as
#: large as kbr's own ever are but for one record, can't hold more; a hostile one of the largest size holds 60 million.
MAX_ITEMS = 2**20

__all__ = ["MAX_ITEMS", "BlockCodec", "BlockStats", "Partitioner", "Record", "Router"]


class Record(NamedTuple):
    """One Kafka record, exact.

    ``headers`` keeps order and duplicates; a name is the bytes it was, a value may be None.
    ``timestamp`` is ms since the epoch, -1 for none; ``timestamp_type`` is 0 none,
    1 CreateTime, 2 LogAppendTime (librdkafka's numbers).
    """

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


class BlockStats(NamedTuple):
    """What a scan of a block finds. Offsets and timestamps are those of its records."""

    record_count: int
    first_offset: int
    last_offset: int
    first_timestamp: int
    last_timestamp: int
    min_timestamp: int
    max_timestamp: int
    #: Largest key + value + header names and values of one record, bytes.
    max_record_bytes: int


class BlockCodec(Protocol):
    """One block: records to msgpack columns and back (docs/format.md, "Block")."""

    def encode_block(self, records: Iterable[Record]) -> bytes:
        """Encode records, whose offsets rise strictly.

        Raises:
            ValueError: no records, offsets that don't rise, or a field out of its range.
        """

    def decode_block(self, data: bytes | bytearray | memoryview, *, max_items: int = MAX_ITEMS) -> list[Record]:
        """Decode a whole block.

        Args:
            max_items: records and headers that are accepted, together.

        Raises:
            Truncated: the data ends too early.
            Corrupt: the data is no block of this version, or has more of them.
        """

    def scan_block(self, data: bytes | bytearray | memoryview) -> BlockStats:
        """Check a whole block as strictly as decode_block does, without making records.

        Raises:
            Truncated: the data ends too early.
            Corrupt: the data is no block of this version.
        """

    def offset_ranges(
        self, data: bytes | bytearray | memoryview, *, timestamp_from: int, timestamp_to: int
    ) -> tuple[bytes, bytes]:
        """The offsets of the records whose timestamps lie in a window (ms, both ends included), as ranges.

        The block is checked as strictly as decode_block does.

        Returns:
            The first offset of each range, and how many offsets follow each other from there: as many signed 64-bit
            integers in this machine's byte order.

        Raises:
            Truncated: the data ends too early.
            Corrupt: the data is no block of this version.
        """


class Partitioner(IntEnum):
    """How the partition of a record is chosen.

    The keys' hashes are those of Kafka's clients. A record without a key goes round by its position, as all records do
    with ROUND_ROBIN: position modulo the number of partitions.
    """

    #: It stays what it was; no function here takes it.
    ORIGINAL = 0
    #: The Java client's: murmur2 of the key, without its sign, modulo the number of partitions.
    MURMUR2 = 1
    #: librdkafka's ``consistent``: CRC-32 of the key, modulo the number of partitions.
    CONSISTENT = 2
    ROUND_ROBIN = 3


class Router(Protocol):
    """Where records go by a partitioner other than ORIGINAL.

    Args (all functions):
        partitioner: one of Partitioner's numbers.
        count: partitions of the target topic, at least 1.
        position: of the record, or of the block's first one, at least 0; the records of a block follow each other.

    Raises (all functions):
        ValueError: one of these is out of its range.
        Truncated, Corrupt: as decode_block() does, of a block.
    """

    def partition_of(self, key: bytes | None, *, partitioner: int, count: int, position: int) -> int:
        """The partition of one record."""

    def route_ranges(
        self,
        data: bytes | bytearray | memoryview,
        *,
        partitioner: int,
        count: int,
        position: int,
        timestamp_from: int,
        timestamp_to: int,
    ) -> tuple[bytes, bytes, bytes]:
        """The offsets of the records whose timestamps lie in a window (ms, both ends included), as ranges.

        Returns:
            The first offset of each range, how many offsets follow each other from there, and the partition of all of
            them: signed integers of 64, 64 and 32 bits in this machine's byte order.
        """

    def count_routes(
        self,
        data: bytes | bytearray | memoryview,
        counts: array[int],
        *,
        partitioner: int,
        count: int,
        position: int,
        timestamp_from: int,
        timestamp_to: int,
    ) -> int:
        """Add the records of a window to their partitions' counts (as many signed 64-bit integers).

        Returns:
            How many records the block has, with those outside the window.
        """
