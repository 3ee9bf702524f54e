"""A restore's offset mapping as one Parquet file (docs/format.md): its shape, and the half that writes it.

Knows no store: bytes go out through a function. Ranges are held until they make a row group, and no longer.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kbr.format.parquet_pieces import PieceSink, int_column
from kbr.model import TopicPartition
from kbr.wire import dump_json

__all__ = [
    "COLUMNS",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "ROWS_PER_GROUP",
    "SCHEMA",
    "TOPIC_COLUMNS",
    "GroupEntry",
    "OffsetMapHeader",
    "OffsetMapWriter",
]

FORMAT_NAME = "kbr-offset-map"
FORMAT_VERSION = 1
#: Rows of a row group: 64 Ki take 2.6 MB while they are collected, and 0.2 to 1 MB in the file.
ROWS_PER_GROUP = 65_536
#: Of the JSON document in the footer: whose mapping it is, and the directory of the row groups.
METADATA_KEY = "kbr"
_TOPIC = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("source_topic", _TOPIC, nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_start", pa.int64(), nullable=False),
        pa.field("target_topic", _TOPIC, nullable=False),
        pa.field("target_partition", pa.int32(), nullable=False),
        pa.field("target_start", pa.int64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
COLUMNS = tuple(SCHEMA.names)
TOPIC_COLUMNS = ("source_topic", "target_topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetMapHeader:
    """Whose mapping it is."""

    kbr_version: str
    backup_id: str
    restore_id: str
    #: Of the target.
    cluster_id: str
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEntry:
    """What the directory in the footer says of a row group.

    Attributes:
        position, stored_bytes, crc32: where its bytes are, and their CRC-32.
        row_count: ranges in it.
        first, first_start: source partition and source_start of its first row.
        last, last_start: of its last row.
        target: the target partition of all its rows; None where there are several.
    """

    position: int
    stored_bytes: int
    crc32: int
    row_count: int
    first: TopicPartition
    first_start: int
    last: TopicPartition
    last_start: int
    target: TopicPartition | None

    def to_list(self) -> list[Any]:
        """As it stands in the directory."""
        return [
            self.position,
            self.stored_bytes,
            self.crc32,
            self.row_count,
            *self.first,
            self.first_start,
            *self.last,
            self.last_start,
            None if self.target is None else list(self.target),
        ]


class OffsetMapWriter:
    """Writes ranges in order, joined where they follow each other in source and target; holds a row group at most.

    Args:
        write: gets the file's bytes, piece by piece.
        header: whose it is.
        rows_per_group: for tests.
    """

    def __init__(
        self, write: Callable[[bytes], object], header: OffsetMapHeader, *, rows_per_group: int = ROWS_PER_GROUP
    ) -> None:
        self._header = header
        self._rows_per_group = rows_per_group
        self._sink = PieceSink(write)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            SCHEMA,
            version="2.6",
            # A page can't grow when it is read, and differences are small enough as they are
            compression="none",
            use_dictionary=list(TOPIC_COLUMNS),
            column_encoding={name: "DELTA_BINARY_PACKED" for name in COLUMNS if name not in TOPIC_COLUMNS},
            write_page_checksum=True,
            store_schema=False,
            sorting_columns=[pq.SortingColumn(number) for number in range(3)],
        )
        #: Source and target of the rows that wait: a run of rows each.
        self._runs: list[tuple[TopicPartition, TopicPartition, int]] = []
        self._starts = array("q")
        self._targets = array("q")
        self._counts = array("q")
        self._entries: list[GroupEntry] = []
        self._last_end = (TopicPartition("", 0), 0)
        self._targets_of: dict[str, dict[int, TopicPartition]] = {}
        #: Ranges and records written so far.
        self.range_count = 0
        self.record_count = 0

    def add(
        self, source: TopicPartition, target: TopicPartition, target_start: int, starts: bytes, counts: bytes
    ) -> int:
        """The next ranges of a source partition, which lie one behind the other in the target.

        Args:
            source: not before that of the last call.
            target: where they are.
            target_start: where the first record of the first range is.
            starts, counts: first source offset and length of each, as kbr_codec.offset_ranges gives them.

        Returns:
            The target offset behind them.

        Raises:
            ValueError: they don't lie behind those before.
        """
        all_starts, all_counts = memoryview(starts).cast("q"), memoryview(counts).cast("q")
        for at in range(0, len(all_starts), self._rows_per_group):
            part = slice(at, at + self._rows_per_group)
            target_start = self._add(source, target, target_start, all_starts[part], all_counts[part])
        return target_start

    def _add(
        self,
        source: TopicPartition,
        target: TopicPartition,
        target_start: int,
        starts: memoryview[int],
        counts: memoryview[int],
    ) -> int:
        if (source, starts[0]) < self._last_end:
            raise ValueError(f"{source}: ranges from offset {starts[0]} on don't lie behind those before")
        self._last_end = (source, starts[-1] + counts[-1])
        ends = array("q", accumulate(counts, initial=target_start))
        end = ends[-1]
        self.record_count += end - target_start
        if self._continues(source, target, starts[0], target_start):
            self._counts[-1] += counts[0]
            starts, counts = starts[1:], counts[1:]
            ends = ends[1:]
        if starts:
            if self._runs and self._runs[-1][:2] == (source, target):
                self._runs[-1] = (source, target, self._runs[-1][2] + len(starts))
            else:
                self._runs.append((source, target, len(starts)))
            self._starts.frombytes(starts.cast("B"))
            self._targets.extend(ends[:-1])
            self._counts.frombytes(counts.cast("B"))
            # the last one may go on
            while len(self._starts) > self._rows_per_group:
                self._flush(self._rows_per_group)
        return end

    def add_spread(
        self, source: TopicPartition, topic: str, ends: dict[int, int], starts: bytes, counts: bytes, partitions: bytes
    ) -> None:
        """The next ranges of a source partition whose records are spread over a topic's partitions.

        Args:
            source: not before that of the last call.
            ends: by partition of ``topic``, where its next record is; moved on. Ranges of others are left out.
            starts, counts, partitions: as kbr_codec.route_ranges gives them.

        Raises:
            ValueError: they don't lie behind those before.
        """
        all_starts, all_counts = memoryview(starts).cast("q"), memoryview(counts).cast("q")
        places = memoryview(partitions).cast("i")
        if not all_starts:
            return
        if (source, all_starts[0]) < self._last_end:
            raise ValueError(f"{source}: ranges from offset {all_starts[0]} on don't lie behind those before")
        self._last_end = (source, all_starts[-1] + all_counts[-1])
        targets = self._targets_of.setdefault(topic, {})
        for start, count, place in zip(all_starts, all_counts, places, strict=True):
            at = ends.get(place)
            if at is None:
                continue
            target = targets.get(place)
            if target is None:
                target = targets[place] = TopicPartition(topic, place)
            if self._continues(source, target, start, at):
                self._counts[-1] += count
            else:
                if self._runs and self._runs[-1][0] == source and self._runs[-1][1] is target:
                    self._runs[-1] = (source, target, self._runs[-1][2] + 1)
                else:
                    self._runs.append((source, target, 1))
                self._starts.append(start)
                self._targets.append(at)
                self._counts.append(count)
            ends[place] = at + count
            self.record_count += count
            # the last one may go on
            if len(self._starts) > self._rows_per_group:
                self._flush(self._rows_per_group)

    def _continues(self, source: TopicPartition, target: TopicPartition, start: int, target_start: int) -> bool:
        if not self._runs or self._runs[-1][:2] != (source, target):
            return False
        count = self._counts[-1]
        return (self._starts[-1] + count, self._targets[-1] + count) == (start, target_start)

    def close(self) -> None:
        """Write the rest and the footer."""
        if self._starts:
            self._flush(len(self._starts))
        header = self._header
        about = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": header.kbr_version,
            "backup_id": header.backup_id,
            "restore_id": header.restore_id,
            "cluster_id": header.cluster_id,
            "created_at": header.created_at_ms,
            "ranges": self.range_count,
            "records": self.record_count,
            "groups": [entry.to_list() for entry in self._entries],
        }
        body = dump_json(about)[:-1]
        sealed = b'%b,"sha256":"%b"}' % (body, hashlib.sha256(body).hexdigest().encode("ascii"))
        self._writer.add_key_value_metadata({METADATA_KEY: sealed})
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing more: pyarrow would end the file when it is collected."""
        self._sink.discard()
        with suppress(Exception):
            self._writer.close()

    def _flush(self, rows: int) -> None:
        runs = self._take_runs(rows)
        starts, targets, counts = self._starts[:rows], self._targets[:rows], self._counts[:rows]
        del self._starts[:rows], self._targets[:rows], self._counts[:rows]
        sources = [(source, count) for source, _, count in runs]
        places = [(target, count) for _, target, count in runs]
        numbers = [int_column(one) for one in (starts, targets, counts)]
        columns = [*_place_columns(sources), numbers[0], *_place_columns(places), *numbers[1:]]
        position = self._sink.tell()
        self._sink.crc32 = 0
        self._writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), row_group_size=rows)
        self._entries.append(
            GroupEntry(
                position=position,
                stored_bytes=self._sink.tell() - position,
                crc32=self._sink.crc32,
                row_count=rows,
                first=sources[0][0],
                first_start=starts[0],
                last=sources[-1][0],
                last_start=starts[-1],
                target=places[0][0] if len({place for place, _ in places}) == 1 else None,
            )
        )
        self.range_count += rows

    def _take_runs(self, rows: int) -> list[tuple[TopicPartition, TopicPartition, int]]:
        taken: list[tuple[TopicPartition, TopicPartition, int]] = []
        for number, (source, target, count) in enumerate(self._runs):
            if count > rows:
                taken.append((source, target, rows))
                self._runs[: number + 1] = [(source, target, count - rows)]
                break
            taken.append((source, target, count))
            rows -= count
            if not rows:
                del self._runs[: number + 1]
                break
        return taken


def _place_columns(runs: list[tuple[TopicPartition, int]]) -> list[Any]:
    numbers: dict[str, int] = {}
    topics, partitions = array("i"), array("i")
    for place, count in runs:
        topics.extend(array("i", [numbers.setdefault(place.topic, len(numbers))]) * count)
        partitions.extend(array("i", [place.partition]) * count)
    return [pa.DictionaryArray.from_arrays(int_column(topics), pa.array(list(numbers), pa.string())), int_column(partitions)]
