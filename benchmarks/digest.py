"""What a topic holds, in a few hashes: the same for the same records in the same partitions and order.

Knows columns of records and nothing of where they come from, so that a topic, its backup and its restoration can be
compared. Each column has a hash of its own: what differs can be named. Offsets are not part of it: a restore gives new ones.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

__all__ = ["Columns", "Digester", "TopicDigest"]

#: Of one record: none, or (name, value) pairs.
Headers = Sequence[tuple[bytes, "bytes | None"]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Records of one partition, in order, by column.

    ``headers`` is None where no record has any. ``timestamps`` are ms; types are librdkafka's numbers (1 CreateTime).
    """

    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None
    timestamps: Sequence[int]
    timestamp_types: Sequence[int]

    def within(self, window: tuple[int, int]) -> Columns:
        """Only the records with a timestamp in ``window`` (ms, both ends included)."""
        first, last = window
        kept = [index for index, timestamp in enumerate(self.timestamps) if first <= timestamp <= last]
        if len(kept) == len(self.timestamps):
            return self
        return Columns(
            [self.keys[index] for index in kept],
            [self.values[index] for index in kept],
            None if self.headers is None else [self.headers[index] for index in kept],
            [self.timestamps[index] for index in kept],
            [self.timestamp_types[index] for index in kept],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDigest:
    """A topic's content. ``record_bytes`` is keys, values, header names and header values together.

    ``placement`` is how many records each partition has; the other hashes are over the partitions in order.
    """

    records: int
    record_bytes: int
    placement: str
    keys: str
    values: str
    headers: str
    timestamps: str
    timestamp_types: str

    def differences(self, other: TopicDigest) -> list[str]:
        """The columns that differ. Records in other partitions make all others incomparable, so it is named alone."""
        if self.records != other.records:
            return [f"records ({other.records} of {self.records})"]
        if self.placement != other.placement:
            return ["partitions"]
        names = [one.name for one in fields(self) if one.name not in {"records", "record_bytes", "placement"}]
        return [name.replace("_", " ") for name in names if getattr(self, name) != getattr(other, name)]

    def document(self) -> dict[str, str | int]:
        return asdict(self)


class _Bytes:
    """A stream of byte strings and nulls, hashed the same however it is cut into pieces."""

    __slots__ = ("data", "lengths", "size")

    def __init__(self) -> None:
        self.lengths = hashlib.sha256()
        self.data = hashlib.sha256()
        self.size = 0

    def add(self, column: Sequence[bytes | None]) -> None:
        lengths = array("q", [-1 if one is None else len(one) for one in column])
        data = b"".join([one for one in column if one])
        self.lengths.update(lengths)
        self.data.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        return self.lengths.digest() + self.data.digest()


class _Partition:
    __slots__ = ("count", "header_counts", "headers", "keys", "timestamp_types", "timestamps", "values")

    def __init__(self) -> None:
        self.count = 0
        self.keys, self.values, self.headers = _Bytes(), _Bytes(), _Bytes()
        self.header_counts, self.timestamps, self.timestamp_types = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, columns: Columns) -> None:
        count = len(columns.timestamps)
        self.count += count
        self.keys.add(columns.keys)
        self.values.add(columns.values)
        self.timestamps.update(array("q", columns.timestamps))
        self.timestamp_types.update(bytes(columns.timestamp_types))
        if columns.headers is None:
            self.header_counts.update(bytes(4 * count))
        else:
            self.header_counts.update(array("i", map(len, columns.headers)))
            self.headers.add([part for one in columns.headers for pair in one for part in pair])


class Digester:
    """Takes a topic's records by partition; each partition's in order."""

    def __init__(self, partitions: int) -> None:
        self._partitions = [_Partition() for _ in range(partitions)]

    def add(self, partition: int, columns: Columns) -> None:
        self._partitions[partition].add(columns)

    def result(self) -> TopicDigest:
        all_of = self._partitions
        return TopicDigest(
            records=sum(one.count for one in all_of),
            record_bytes=sum(one.keys.size + one.values.size + one.headers.size for one in all_of),
            placement=_joined(one.count.to_bytes(8, "little") for one in all_of),
            keys=_joined(one.keys.digest() for one in all_of),
            values=_joined(one.values.digest() for one in all_of),
            headers=_joined(one.header_counts.digest() + one.headers.digest() for one in all_of),
            timestamps=_joined(one.timestamps.digest() for one in all_of),
            timestamp_types=_joined(one.timestamp_types.digest() for one in all_of),
        )


def _joined(pieces: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(pieces)).hexdigest()
