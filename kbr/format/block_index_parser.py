"""Reads a piece of the block index (docs/format.md), a row group at a time.

Knows no store: bytes come in through a function. A Parquet library may end the process over bytes that are not what it
expects, so it sees none whose checksum does not fit: the footer's stands in the head, a row group's in the footer.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kbr.errors import BlockIndexUnreadable, KbrError
from kbr.format.block_index import (
    COMPRESSIONS,
    FORMAT_NAME,
    FORMAT_VERSION,
    METADATA_KEY,
    NUMBERS,
    SCHEMA,
    GroupEntry,
)
from kbr.format.block_index_head import INDEX_HINT, Coverage, PieceEntry, SegmentPlace
from kbr.format.names import INT64_MAX, PARTITION_MAX, is_topic_name
from kbr.format.parquet_bounds import Footer
from kbr.format.parquet_pieces import PieceWindow, int_view, whole_column
from kbr.format.sealed import unseal
from kbr.model import TopicPartition
from kbr.secrecy import redact

__all__ = ["BlockIndexGroup", "BlockIndexPiece", "IndexedBlock", "Run"]

#: The largest footer that is read, bytes; it has some 2 kB a row group and 40 bytes a partition.
MAX_FOOTER_BYTES = 256 * 1024 * 1024
#: The largest row group that is read: a segment of 65,536 blocks.
MAX_ROWS_PER_GROUP = 131_072
MAX_GROUP_BYTES = 32 * 1024 * 1024
_WORDS = ("topic", "compression")


class IndexedBlock(NamedTuple):
    """What an index says of one block; as kbr.format.segment.BlockEntry, without the checksum that reading it needs."""

    position: int
    stored_bytes: int
    raw_bytes: int
    record_count: int
    first_offset: int
    last_offset: int
    min_timestamp: int
    max_timestamp: int


class Run(NamedTuple):
    """Rows of one partition and compression (number in COMPRESSIONS), ``end`` not included."""

    key: TopicPartition
    compression: int
    start: int
    end: int


class BlockIndexGroup:
    """One row group, checked: columns side by side, in the order of topic, partition and offset."""

    def __init__(self, numbers: dict[str, memoryview[int]], runs: list[Run]) -> None:
        #: Each of NUMBERS.
        self.numbers = numbers
        #: In order; two of the same partition where the compression changes.
        self.runs = runs

    def __len__(self) -> int:
        return len(self.numbers["segment"])

    def rows_of(self, run: Run, sequence: int) -> range:
        """The rows of a segment of a run; none where it is not in it."""
        segments = self.numbers["segment"]
        begin = bisect_left(segments, sequence, run.start, run.end)
        return range(begin, bisect_left(segments, sequence + 1, begin, run.end))

    def mark(self, row: int) -> int:
        """The mark of a row's segment, as segment_mark() gives it."""
        return self.numbers["segment_mark"][row] % 2**64

    def blocks(self, rows: range) -> list[IndexedBlock]:
        """What some rows say."""
        columns = [self.numbers[name][rows.start : rows.stop] for name in NUMBERS[2:]]
        return [IndexedBlock(*row) for row in zip(*columns, strict=True)]

    def segments_of(self, run: Run) -> Iterator[range]:
        """The rows of each segment of a run, in order."""
        row = run.start
        while row < run.end:
            rows = self.rows_of(Run(run.key, run.compression, row, run.end), self.numbers["segment"][row])
            yield rows
            row = rows.stop


class BlockIndexPiece:
    """One piece that is there, read a row group at a time.

    Args:
        read: gives so many bytes (second) from a position (first).
        entry: what the head says of it.
        backup_id: whose it has to be.
        name: the object, for messages.

    Raises:
        BlockIndexUnreadable: it is damaged, or not what the head and the format say.
        UnsupportedFormat: it is of another version.
    """

    def __init__(self, read: Callable[[int, int], bytes], entry: PieceEntry, *, backup_id: str, name: str) -> None:
        self._read = read
        self._entry = entry
        self._name = name
        self._window = PieceWindow(entry.size_bytes)
        footer = self._verified_footer()
        # by itself, as a library looks at the last 64 KiB of a file, however small the footer
        alone = PieceWindow(len(footer))
        alone.fill(0, footer)
        try:
            self._footer = Footer(footer)
            self._metadata = _open(alone).metadata
            self._file = _open(self._window, metadata=self._metadata, read_dictionary=list(_WORDS))
            if not self._file.schema_arrow.equals(SCHEMA):
                self._unreadable("has other columns")
            self._take_about(backup_id)
        except KbrError:
            raise
        except Exception as error:  # whatever a Parquet library says of a file
            self._unreadable(f"has a footer that makes no sense: {_short(error)}", error)

    @property
    def entry(self) -> PieceEntry:
        """What the head says of it."""
        return self._entry

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """What the directory says of each row group."""
        return self._groups

    @property
    def coverage(self) -> Mapping[TopicPartition, Coverage]:
        """Which segments of each partition are in the piece, whole; in order."""
        return self._coverage

    def group(self, number: int, data: bytes | None = None) -> BlockIndexGroup:
        """Read and check one row group.

        Args:
            data: its bytes, if they have been read already.

        Raises:
            BlockIndexUnreadable: it is damaged.
        """
        entry = self._groups[number]
        if data is None:
            data = self._read(entry.position, entry.stored_bytes)
        if zlib.crc32(data) != entry.crc32 or len(data) != entry.stored_bytes:
            self._unreadable(f"is damaged at byte {entry.position}: its checksum does not fit")
        self._window.fill(entry.position, data)
        try:
            self._footer.check_row_group(
                number, rows=entry.row_count, start=entry.position, end=entry.position + entry.stored_bytes
            )
            return self._checked(number, self._file.read_row_group(number, use_threads=False))
        except KbrError:
            raise
        except Exception as error:  # whatever a Parquet library says of a file
            self._unreadable(f"makes no sense in row group {number}: {_short(error)}", error)

    # -- how ------------------------------------------------------------------------------

    def _unreadable(self, what: str, error: Exception | None = None) -> NoReturn:
        raise BlockIndexUnreadable(
            f"{self._name}: this piece of the block index {what}", hint=INDEX_HINT, object=self._name
        ) from error

    def _verified_footer(self) -> bytes:
        entry = self._entry
        if not 0 < entry.footer_bytes <= min(entry.size_bytes, MAX_FOOTER_BYTES):
            self._unreadable(f"makes no sense: a footer of {entry.footer_bytes} bytes in a file of {entry.size_bytes}")
        footer = self._read(entry.size_bytes - entry.footer_bytes, entry.footer_bytes)
        if hashlib.sha256(footer).hexdigest() != entry.footer_sha256:
            self._unreadable("is damaged: its footer's checksum is not the one that the head says")
        return footer

    def _take_about(self, backup_id: str) -> None:
        about = unseal(
            (self._metadata.metadata or {}).get(METADATA_KEY.encode(), b""),
            name=self._name,
            format_name=FORMAT_NAME,
            version=FORMAT_VERSION,
            what="the directory of a piece of the block index",
            error=lambda what: BlockIndexUnreadable(what, hint=INDEX_HINT, object=self._name),
        )
        if about.get("backup_id") != backup_id:
            self._unreadable(f"is of backup {ascii(about.get('backup_id'))[:140]}")
        try:
            self._groups = tuple(map(_group_entry, about["groups"]))
            self._coverage = {
                TopicPartition(topic, partition): Coverage(count, digest)
                for topic, partitions in about["topics"]
                for partition, count, digest in partitions
            }
        except (KeyError, TypeError, ValueError) as error:
            self._unreadable("has a directory that makes no sense", error)
        self._check_groups()
        if not all(_is_coverage(key, one) for key, one in self._coverage.items()):
            self._unreadable("covers what can't be")
        if sum(one.segments for one in self._coverage.values()) != self._entry.segment_count:
            self._unreadable("covers other segments than the head says")

    def _check_groups(self) -> None:
        entry, groups = self._entry, self._groups
        rows = sum(one.row_count for one in groups)
        if not groups or (len(groups), rows) != (self._metadata.num_row_groups, self._metadata.num_rows):
            self._unreadable("has a directory of another file")
        told = (entry.row_count, entry.first, entry.last, entry.min_timestamp, entry.max_timestamp)
        found = (
            rows,
            groups[0].first,
            groups[-1].last,
            min(one.min_timestamp for one in groups),
            max(one.max_timestamp for one in groups),
        )
        if told != found:
            self._unreadable("is not the one that the head tells of")
        end, last = 0, None
        for number, one in enumerate(groups):
            if not 0 < one.row_count <= MAX_ROWS_PER_GROUP or not 0 < one.stored_bytes <= MAX_GROUP_BYTES:
                self._unreadable(f"makes no sense: row group {number} has {one.row_count} rows, {one.stored_bytes} bytes")
            if one.position < end or (last is not None and one.first <= last) or one.first > one.last:
                self._unreadable(f"makes no sense: row group {number} is out of order")
            end, last = one.position + one.stored_bytes, one.last
        if end > entry.size_bytes - entry.footer_bytes:
            self._unreadable("makes no sense: a row group reaches into the footer")

    def _checked(self, number: int, table: Any) -> BlockIndexGroup:
        arrays = {
            name: whole_column(table.column(name).unify_dictionaries() if name in _WORDS else table.column(name))
            for name in SCHEMA.names
        }
        if any(len(arrays[name].dictionary) > max(len(arrays[name]), len(COMPRESSIONS)) for name in _WORDS):
            self._unreadable(f"makes no sense: row group {number} has more words than rows")
        topics = arrays["topic"].dictionary.to_pylist()
        compressions = arrays["compression"].dictionary.to_pylist()
        if not all(isinstance(one, str) and is_topic_name(one) for one in topics) or not set(compressions) <= {*COMPRESSIONS}:
            self._unreadable(f"makes no sense: row group {number} names what can't be a topic or a compression")
        runs = _runs(arrays, topics, [COMPRESSIONS.index(one) for one in compressions])
        group = BlockIndexGroup({name: int_view(arrays[name]) for name in NUMBERS}, runs)
        complaint = _complaint(arrays, runs) or ("" if _is_as_told(group, self._groups[number]) else "other rows than told")
        if complaint:
            self._unreadable(f"makes no sense in row group {number}: {complaint}")
        return group


def _open(file: PieceWindow, **options: Any) -> Any:
    return pq.ParquetFile(
        pa.PythonFile(file, mode="r"),
        # By default Arrow's own threads read, and one that lets go of the file while Python ends aborts the process
        pre_buffer=False,
        thrift_string_size_limit=MAX_FOOTER_BYTES,
        thrift_container_size_limit=MAX_FOOTER_BYTES,
        **options,
    )


def _group_entry(one: Any) -> GroupEntry:
    position, size, crc32, rows, first, first_partition, start, last, last_partition, last_start, lowest, highest = one
    numbers = (position, size, crc32, rows, first_partition, start, last_partition, last_start, lowest, highest)
    if {*map(type, numbers)} != {int} or (type(first), type(last)) != (str, str):
        raise ValueError("a row group's line")
    return GroupEntry(
        position=position,
        stored_bytes=size,
        crc32=crc32,
        row_count=rows,
        first=SegmentPlace(first, first_partition, start),
        last=SegmentPlace(last, last_partition, last_start),
        min_timestamp=lowest,
        max_timestamp=highest,
    )


def _is_coverage(key: TopicPartition, one: Coverage) -> bool:
    # type() and not isinstance(): true is no integer here
    if type(key.topic) is not str or {type(key.partition), type(one.segments), type(one.digest)} != {int}:
        return False
    fits = 0 <= key.partition <= PARTITION_MAX and 0 < one.segments <= INT64_MAX and 0 <= one.digest < 2**64
    return fits and is_topic_name(key.topic)


def _runs(arrays: Mapping[str, Any], topics: list[str], compressions: list[int]) -> list[Run]:
    """Where one of topic, partition and compression changes, another run begins."""
    columns = (arrays["topic"].indices, arrays["partition"], arrays["compression"].indices)
    if any(one.null_count for one in columns):
        raise ValueError("a value is missing")
    changes = None
    for one in columns:
        change = pc.not_equal(one[1:], one[:-1])
        changes = change if changes is None else pc.or_(changes, change)
    starts = [0, *(row + 1 for row in pc.indices_nonzero(changes).to_pylist())]
    ends = [*starts[1:], len(columns[0])]
    topic_of, partition_of, compression_of = map(int_view, columns)
    return [
        Run(
            TopicPartition(topics[topic_of[start]], partition_of[start]),
            compressions[compression_of[start]],
            start,
            end,
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _complaint(arrays: Mapping[str, Any], runs: list[Run]) -> str:
    """What of a row group can't be, whatever the store holds; empty when nothing."""
    for name in NUMBERS:
        if arrays[name].null_count:
            return f"a {name} is missing"
    for name, least in (("partition", 0), ("segment", 0), ("position", 0), ("stored_bytes", 1), ("record_count", 1)):
        if pc.min(arrays[name]).as_py() < least:
            return f"a {name} below {least}"
    starts = {run.start for run in runs}
    segments, offsets, ends = arrays["segment"], arrays["first_offset"], arrays["last_offset"]
    if not pc.all(pc.less_equal(offsets, ends)).as_py() or not pc.all(pc.less_equal(segments, offsets)).as_py():
        return "a block that ends before it begins, or begins before its segment"
    for order in (pc.less(ends[:-1], offsets[1:]), pc.less_equal(segments[:-1], segments[1:])):
        if any(row + 1 not in starts for row in pc.indices_nonzero(pc.invert(order)).to_pylist()):
            return "blocks that overlap or are out of order"
    places = [SegmentPlace(*run.key, segments[run.start].as_py()) for run in runs]
    if any(one >= two for one, two in pairwise(places)):
        return "partitions that are out of order"
    return ""


def _is_as_told(group: BlockIndexGroup, entry: GroupEntry) -> bool:
    numbers = group.numbers
    found = (
        len(group),
        SegmentPlace(*group.runs[0].key, numbers["segment"][0]),
        SegmentPlace(*group.runs[-1].key, numbers["segment"][-1]),
    )
    return found == (entry.row_count, entry.first, entry.last)


def _short(error: Exception) -> str:
    lines = redact(str(error)).splitlines()  # before it is cut
    return lines[0][:200] if lines else type(error).__name__
