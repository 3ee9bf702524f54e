"""The block index as Parquet files (docs/format.md): their shape, and the half that writes one.

One row a block, in the order of topic, partition and offset, in row groups of whole segments. Knows no store: bytes go
out through a function. Rows are held until they make a row group, and no longer.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kbr.format.block_index_head import Coverage, PieceEntry, SegmentPlace, segment_mark
from kbr.format.parquet_pieces import PieceSink, int_column
from kbr.format.sealed import seal
from kbr.format.segment_layout import BlockEntry
from kbr.model import Compression, SegmentRef, TopicPartition

__all__ = [
    "COMPRESSIONS",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "NUMBERS",
    "ROWS_PER_GROUP",
    "SCHEMA",
    "BlockIndexWriter",
    "GroupEntry",
    "no_columns",
]

FORMAT_NAME = "kbr-block-index-piece"
FORMAT_VERSION = 1
#: Rows of a row group: what is read of a partition for a window is one or two. With 8 Ki, 30 million rows make 3,700
#: groups of 0.13 MB; larger ones have more rows that nobody wants, smaller ones a larger footer.
ROWS_PER_GROUP = 8_192
#: Of the JSON document in the footer: whose index it is, and the directory of the row groups.
METADATA_KEY = "kbr"
#: A segment's compression is kept as its number here.
COMPRESSIONS = tuple(one.value for one in Compression)
_WORD = pa.dictionary(pa.int32(), pa.string())
#: The columns of 64-bit integers, in this order.
NUMBERS = (
    "segment",
    "segment_mark",
    "position",
    "stored_bytes",
    "raw_bytes",
    "record_count",
    "first_offset",
    "last_offset",
    "min_timestamp",
    "max_timestamp",
)
SCHEMA = pa.schema(
    [
        pa.field("topic", _WORD, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("compression", _WORD, nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in NUMBERS),
    ]
)
#: Of these a run of rows has the same value.
_REPEATED = ("topic", "compression", "segment", "segment_mark")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEntry:
    """What the directory in the footer says of a row group.

    Attributes:
        position, stored_bytes, crc32: where its bytes are, and their CRC-32.
        row_count: blocks in it.
        first, last: the segments of its first and of its last row.
        min_timestamp, max_timestamp: of all its rows.
    """

    position: int
    stored_bytes: int
    crc32: int
    row_count: int
    first: SegmentPlace
    last: SegmentPlace
    min_timestamp: int
    max_timestamp: int

    def to_list(self) -> list[Any]:
        """As it stands in the directory."""
        return [
            self.position,
            self.stored_bytes,
            self.crc32,
            self.row_count,
            *self.first,
            *self.last,
            self.min_timestamp,
            self.max_timestamp,
        ]


def no_columns() -> dict[str, array[int]]:
    """Columns of numbers without a row."""
    return {name: array("q") for name in NUMBERS}


class BlockIndexWriter:
    """Writes one piece; holds a row group at most.

    Args:
        write: gets the file's bytes, piece by piece.
        backup_id, kbr_version: for the footer.
        rows_per_group: for tests.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        backup_id: str,
        kbr_version: str,
        rows_per_group: int = ROWS_PER_GROUP,
    ) -> None:
        self._about = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": kbr_version,
            "backup_id": backup_id,
        }
        self._rows_per_group = rows_per_group
        self._tail = bytearray()
        self._keep_tail = False

        def pass_on(data: bytes) -> object:
            if self._keep_tail:
                self._tail += data
            return write(data)

        self._sink = PieceSink(pass_on)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            SCHEMA,
            version="2.6",
            # a page can't grow when it is read, and differences are small enough as they are
            compression="none",
            use_dictionary=list(_REPEATED),
            column_encoding={name: "DELTA_BINARY_PACKED" for name in SCHEMA.names if name not in _REPEATED},
            write_page_checksum=True,
            store_schema=False,
            sorting_columns=[pq.SortingColumn(SCHEMA.names.index(name)) for name in ("topic", "partition", "first_offset")],
        )
        self._columns = no_columns()
        #: Topic, partition, compression and number of the rows that wait.
        self._runs: list[tuple[TopicPartition, int, int]] = []
        self._entries: list[GroupEntry] = []
        self._last: SegmentPlace | None = None
        self._coverage: dict[TopicPartition, Coverage] = {}
        #: What was written so far.
        self.row_count = 0

    @property
    def is_empty(self) -> bool:
        """Whether no row was added."""
        return self._last is None

    @property
    def covered(self) -> int:
        """Segments that cover() was told of."""
        return sum(one.segments for one in self._coverage.values())

    def add(self, key: TopicPartition, compression: Compression, reference: SegmentRef, blocks: Sequence[BlockEntry]) -> None:
        """The next segment, and cover it.

        Raises:
            ValueError: it does not lie behind the one before.
        """
        mark = _signed(segment_mark(reference))
        columns = {
            "segment": array("q", [reference.sequence]) * len(blocks),
            "segment_mark": array("q", [mark]) * len(blocks),
            **{name: array("q", [getattr(block, name) for block in blocks]) for name in NUMBERS[2:]},
        }
        self.add_rows(key, COMPRESSIONS.index(compression.value), columns)
        self.cover(key, Coverage.of([reference]))

    def cover(self, key: TopicPartition, coverage: Coverage) -> None:
        """These segments of the partition are in the index, whole."""
        self._coverage[key] = self._coverage.get(key, Coverage(0, 0)).plus(coverage)

    def add_rows(self, key: TopicPartition, compression: int, columns: Mapping[str, Sequence[int]]) -> None:
        """The next rows, of whole segments of one partition.

        Args:
            key: the partition.
            compression: number in COMPRESSIONS.
            columns: each of NUMBERS, as arrays or views of int64.

        Raises:
            ValueError: they don't lie behind those before.
        """
        segments = columns["segment"]
        first, last = SegmentPlace(*key, segments[0]), SegmentPlace(*key, segments[-1])
        if self._last is not None and first <= self._last:
            raise ValueError(f"{key}: segment {segments[0]} does not lie behind the one before")
        self._last = last
        at, count = 0, len(segments)
        while at < count:
            room = self._rows_per_group - len(self._columns["segment"])
            end = count
            if count - at > room:
                # whole segments only, but a group has at least one
                end = bisect_left(segments, segments[at + max(room, 0)], at, count)
            if end > at:
                self._take(key, compression, columns, at, end)
                at = end
            elif self._columns["segment"]:
                self._flush()
            else:  # one that has more blocks than a group is to have is a group of its own
                end = bisect_left(segments, segments[at] + 1, at, count)
                self._take(key, compression, columns, at, end)
                self._flush()
                at = end

    def close(self, *, run: str, level: int, name: str) -> PieceEntry:
        """Write the rest and the footer; what the head has to say of the piece.

        Raises:
            ValueError: there is no row.
        """
        if self._columns["segment"]:
            self._flush()
        if not self._entries:
            raise ValueError("a piece has at least one row")
        topics: dict[str, list[list[int]]] = {}
        for key, coverage in sorted(self._coverage.items()):
            topics.setdefault(key.topic, []).append([key.partition, *coverage])
        about = {
            **self._about,
            "blocks": self.row_count,
            "segments": self.covered,
            "groups": [entry.to_list() for entry in self._entries],
            "topics": [[topic, partitions] for topic, partitions in topics.items()],
        }
        self._keep_tail = True
        footer_from = self._sink.tell()
        self._writer.add_key_value_metadata({METADATA_KEY: seal(about)})
        self._writer.close()
        return PieceEntry(
            name=name,
            run=run,
            level=level,
            size_bytes=self._sink.tell(),
            footer_bytes=self._sink.tell() - footer_from,
            footer_sha256=hashlib.sha256(self._tail).hexdigest(),
            row_count=self.row_count,
            segment_count=self.covered,
            first=self._entries[0].first,
            last=self._entries[-1].last,
            min_timestamp=min(one.min_timestamp for one in self._entries),
            max_timestamp=max(one.max_timestamp for one in self._entries),
        )

    def abandon(self) -> None:
        """Write nothing more: pyarrow would end the file when it is collected."""
        self._sink.discard()
        with suppress(Exception):
            self._writer.close()

    # -- how ------------------------------------------------------------------------------

    def _take(self, key: TopicPartition, compression: int, columns: Mapping[str, Sequence[int]], at: int, end: int) -> None:
        for name, held in self._columns.items():
            held.frombytes(memoryview(columns[name])[at:end].cast("B"))  # type: ignore[arg-type]
        if self._runs and self._runs[-1][:2] == (key, compression):
            self._runs[-1] = (key, compression, self._runs[-1][2] + end - at)
        else:
            self._runs.append((key, compression, end - at))

    def _flush(self) -> None:
        columns, runs = self._columns, self._runs
        self._columns, self._runs = no_columns(), []
        rows = len(columns["segment"])
        topics: dict[str, int] = {}
        words = {"topic": array("i"), "partition": array("i"), "compression": array("i")}
        for key, compression, count in runs:
            words["topic"].extend(array("i", [topics.setdefault(key.topic, len(topics))]) * count)
            words["partition"].extend(array("i", [key.partition]) * count)
            words["compression"].extend(array("i", [compression]) * count)
        arrays = [
            pa.DictionaryArray.from_arrays(int_column(words["topic"]), pa.array(list(topics), pa.string())),
            int_column(words["partition"]),
            pa.DictionaryArray.from_arrays(int_column(words["compression"]), pa.array(COMPRESSIONS, pa.string())),
            *(int_column(columns[name]) for name in NUMBERS),
        ]
        position = self._sink.tell()
        self._sink.crc32 = 0
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), row_group_size=rows)
        self._entries.append(
            GroupEntry(
                position=position,
                stored_bytes=self._sink.tell() - position,
                crc32=self._sink.crc32,
                row_count=rows,
                first=SegmentPlace(*runs[0][0], columns["segment"][0]),
                last=SegmentPlace(*runs[-1][0], columns["segment"][-1]),
                min_timestamp=min(columns["min_timestamp"]),
                max_timestamp=max(columns["max_timestamp"]),
            )
        )
        self.row_count += rows


def _signed(mark: int) -> int:
    """The same 64 bits as Parquet's INT64 has them."""
    return mark - 2**64 if mark >= 2**63 else mark
