"""Reads a restore's offset mapping (docs/format.md), a row group at a time.

Knows no store: bytes come in through a function. A file from outside is hostile until it is read: its sizes are bounded
before anything is allocated for them, and each row group is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kbr.errors import KbrError, OffsetMapUnreadable, UnsupportedFormat
from kbr.format.names import INT64_MAX, is_topic_name
from kbr.format.offset_map import (
    COLUMNS,
    FORMAT_NAME,
    FORMAT_VERSION,
    METADATA_KEY,
    SCHEMA,
    TOPIC_COLUMNS,
    GroupEntry,
    OffsetMapHeader,
)
from kbr.format.parquet_bounds import BadFooter, Footer
from kbr.format.parquet_pieces import PieceWindow, int_view, whole_column
from kbr.model import TopicPartition
from kbr.secrecy import redact
from kbr.wire import load_json

__all__ = ["OffsetMapFile", "OffsetMapGroup"]

#: The largest footer that is read, bytes; it has about 1.3 kB a row group: room for 800 million ranges.
MAX_FOOTER_BYTES = 16 * 1024 * 1024
#: The largest row group that is read: some 40 bytes a row at most, as nothing in it is compressed.
MAX_ROWS_PER_GROUP = 1_048_576
MAX_GROUP_BYTES = 64 * 1024 * 1024

_MAGIC = b"PAR1"
_TRAILER_BYTES = 8
#: What the first read of a file takes, bytes: the footer of some 40 row groups.
_FIRST_TAIL_BYTES = 64 * 1024
_HINT = "delete it, and run the same restore again: it is written anew"
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
_SEAL_BYTES = len(b',"sha256":""}') + 64


class OffsetMapGroup:
    """One row group, checked: columns side by side, in the order of source and source_start."""

    def __init__(
        self, columns: dict[str, memoryview[int]], source_topics: list[str], target_topics: list[str]
    ) -> None:
        self._topics = columns["source_topic"]
        self._partitions = columns["source_partition"]
        self._target_topics = columns["target_topic"]
        self._target_partitions = columns["target_partition"]
        self._source_names = source_topics
        self._target_names = target_topics
        #: First source offset, first target offset and length of each range.
        self.starts = columns["source_start"]
        self.target_starts = columns["target_start"]
        self.counts = columns["count"]

    def __len__(self) -> int:
        return len(self.starts)

    def source(self, row: int) -> TopicPartition:
        """A row's source partition."""
        return TopicPartition(self._source_names[self._topics[row]], self._partitions[row])

    def target(self, row: int) -> TopicPartition:
        """A row's target partition."""
        return TopicPartition(self._target_names[self._target_topics[row]], self._target_partitions[row])

    def rows_of(self, source: TopicPartition) -> range:
        """The rows of a source partition."""
        rows = range(len(self))
        begin = bisect_left(rows, source, key=self.source)
        after = TopicPartition(source.topic, source.partition + 1)
        return range(begin, bisect_left(rows, after, begin, key=self.source))

    def only_target(self) -> TopicPartition | None:
        """The target partition of all rows; None where there are several."""
        one = set(self._target_topics), set(self._target_partitions)
        return self.target(0) if list(map(len, one)) == [1, 1] else None

    def sources(self) -> Iterator[TopicPartition]:
        """The source partitions, in order."""
        row = 0
        while row < len(self):
            source = self.source(row)
            yield source
            row = self.rows_of(source).stop


class OffsetMapFile:
    """A mapping that is there, read a row group at a time.

    Args:
        read: gives so many bytes (second) from a position (first).
        size_bytes: of the file.
        name: the object, for messages.

    Raises:
        OffsetMapUnreadable: it is cut off, altered, or not as the format says.
        UnsupportedFormat: it is of another version, or something else.
    """

    def __init__(self, read: Callable[[int, int], bytes], size_bytes: int, *, name: str) -> None:
        self._name = name
        self._read = read
        self._window = PieceWindow(size_bytes)
        self._size = size_bytes
        self._load_footer()
        try:
            self._metadata = self._open().metadata
            about = self._about()
            self._file = self._open(metadata=self._metadata, read_dictionary=list(TOPIC_COLUMNS))
            if not self._file.schema_arrow.equals(SCHEMA):
                self._unreadable("has other columns")
            self._take_about(about)
        except KbrError:
            raise
        except Exception as error:  # whatever a Parquet library says of a damaged file
            self._unreadable(f"can't be read: {_short(error)}", error)

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """What the directory says of each row group."""
        return self._groups

    def group(self, number: int) -> OffsetMapGroup:
        """Read and check one row group.

        Raises:
            OffsetMapUnreadable: it is damaged.
        """
        entry = self._groups[number]
        data = self._read(entry.position, entry.stored_bytes)
        if zlib.crc32(data) != entry.crc32:
            self._unreadable(f"is damaged at byte {entry.position}: its checksum does not fit")
        self._window.fill(entry.position, data)
        try:
            self._footer.check_row_group(
                number, rows=entry.row_count, start=entry.position, end=entry.position + entry.stored_bytes
            )
            return self._checked(number, self._file.read_row_group(number, use_threads=False))
        except KbrError:
            raise
        except Exception as error:  # whatever a Parquet library says of a damaged file
            self._unreadable(f"is damaged in row group {number}: {_short(error)}", error)

    # -- how ------------------------------------------------------------------------------

    def _unreadable(self, what: str, error: Exception | None = None) -> NoReturn:
        raise OffsetMapUnreadable(f"{self._name}: the offset mapping {what}", hint=_HINT, object=self._name) from error

    def _foreign(self, what: str) -> NoReturn:
        raise UnsupportedFormat(
            f"{self._name}: this is {what}",
            hint="read it with the kbr that wrote it, or a newer one; if another program did, move it away",
            object=self._name,
        )

    def _open(self, **options: Any) -> Any:
        return pq.ParquetFile(
            pa.PythonFile(self._window, mode="r"),
            # By default Arrow's own threads read, and one that lets go of the file while Python ends aborts the process
            pre_buffer=False,
            thrift_string_size_limit=MAX_FOOTER_BYTES,
            thrift_container_size_limit=MAX_FOOTER_BYTES,
            page_checksum_verification=True,
            **options,
        )

    def _load_footer(self) -> None:
        """Have the footer at hand, if it is of a size that can be."""
        tail_bytes = min(self._size, _FIRST_TAIL_BYTES)
        tail = self._read(self._size - tail_bytes, tail_bytes)
        if tail_bytes < _TRAILER_BYTES + len(_MAGIC) or tail[-len(_MAGIC) :] != _MAGIC:
            self._unreadable(f"({self._size} bytes) is empty, cut off or no Parquet file")
        footer_bytes = int.from_bytes(tail[-_TRAILER_BYTES:-4], "little") + _TRAILER_BYTES
        if footer_bytes > min(self._size, MAX_FOOTER_BYTES):
            self._unreadable(f"makes no sense: a footer of {footer_bytes} bytes in a file of {self._size}")
        if footer_bytes > tail_bytes:
            tail = self._read(self._size - footer_bytes, footer_bytes)
        try:
            self._footer = Footer(tail)
        except BadFooter as error:
            self._unreadable(f"makes no sense: {error}", error)
        self._window.fill(self._size - len(tail), tail)

    def _about(self) -> dict[str, Any]:
        """The document in the footer, whose checksum fits."""
        data: bytes = (self._metadata.metadata or {}).get(METADATA_KEY.encode(), b"")
        try:
            about = load_json(data)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or about.get("format") != FORMAT_NAME:
            self._foreign("no offset mapping of kbr")
        if about.get("format_version") != FORMAT_VERSION:
            self._foreign(
                f"an offset mapping of version {about.get('format_version')!r:.20}; this kbr reads version {FORMAT_VERSION}"
            )
        seal = _SEAL.fullmatch(data, max(0, len(data) - _SEAL_BYTES))
        if seal is None or hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest().encode() != seal[1]:
            self._unreadable("is damaged: the checksum of its directory does not fit")
        return about

    def _take_about(self, about: dict[str, Any]) -> None:
        for key, kind in {"kbr_version": str, "backup_id": str, "restore_id": str, "cluster_id": str, "groups": list}.items():
            if type(about.get(key)) is not kind:
                self._unreadable(f"makes no sense: {key} is no {kind.__name__}")
        for key in ("created_at", "ranges", "records"):
            if not _is_count(about.get(key)):
                self._unreadable(f"makes no sense: {key} is no number")
        self.header = OffsetMapHeader(
            kbr_version=about["kbr_version"],
            backup_id=about["backup_id"],
            restore_id=about["restore_id"],
            cluster_id=about["cluster_id"],
            created_at_ms=about["created_at"],
        )
        #: Ranges and records of all partitions together.
        self.range_count: int = about["ranges"]
        self.record_count: int = about["records"]
        self._groups = tuple(self._entry(number, one) for number, one in enumerate(about["groups"]))
        rows = sum(entry.row_count for entry in self._groups)
        if (len(self._groups), rows) != (self._metadata.num_row_groups, self._metadata.num_rows):
            self._unreadable("makes no sense: its directory is another file's")
        for before, entry in pairwise(self._groups):
            in_order = (before.last, before.last_start) < (entry.first, entry.first_start)
            if not in_order or before.position + before.stored_bytes > entry.position:
                self._unreadable(f"makes no sense: the row group at byte {entry.position} is out of order")

    def _entry(self, number: int, one: Any) -> GroupEntry:
        """A line of the directory."""
        try:
            position, size, crc32, rows, first, first_partition, start, last, last_partition, last_start, target = one
            entry = GroupEntry(
                position=position,
                stored_bytes=size,
                crc32=crc32,
                row_count=rows,
                first=TopicPartition(first, first_partition),
                first_start=start,
                last=TopicPartition(last, last_partition),
                last_start=last_start,
                target=None if target is None else TopicPartition(*target),
            )
        except (TypeError, ValueError):
            self._unreadable(f"makes no sense: the directory's line of row group {number}")
        counts = (position, size, crc32, rows, start, last_start)
        places = [place for place in (entry.first, entry.last, entry.target) if place is not None]
        if not all(map(_is_count, counts)) or not all(map(_is_place, places)):
            self._unreadable(f"makes no sense: the directory's line of row group {number}")
        if not 0 < rows <= MAX_ROWS_PER_GROUP or not 0 < size <= MAX_GROUP_BYTES or position + size > self._size:
            self._unreadable(f"makes no sense: row group {number} has {rows} rows, at byte {position}, {size} long")
        return entry

    def _checked(self, number: int, table: Any) -> OffsetMapGroup:
        columns = {name: table.column(name) for name in COLUMNS}
        arrays = {
            name: whole_column(column.unify_dictionaries() if name in TOPIC_COLUMNS else column)
            for name, column in columns.items()
        }
        if any(len(arrays[name].dictionary) > len(arrays[name]) for name in TOPIC_COLUMNS):
            self._unreadable(f"makes no sense: row group {number} has more topics than rows")
        names = {name: arrays[name].dictionary.to_pylist() for name in TOPIC_COLUMNS}
        if not all(isinstance(topic, str) and is_topic_name(topic) for some in names.values() for topic in some):
            self._unreadable(f"makes no sense: row group {number} names what can't be a topic")
        views = {name: int_view(arrays[name].indices if name in names else arrays[name]) for name in COLUMNS}
        group = OffsetMapGroup(views, names["source_topic"], names["target_topic"])
        complaint = _complaint(arrays, group)
        if not complaint and not _is_as_told(group, self._groups[number]):
            complaint = "its rows are not those that the directory tells of"
        if complaint:
            self._unreadable(f"is damaged in row group {number}: {complaint}")
        return group


def _complaint(arrays: dict[str, Any], group: OffsetMapGroup) -> str:
    """What of a row group can't be, whatever the store holds; empty when nothing."""
    for name in ("source_partition", "source_start", "target_partition", "target_start"):
        if pc.min(arrays[name]).as_py() < 0:
            return f"a {name} below 0"
    if pc.min(arrays["count"]).as_py() < 1:
        return "a range of no record"
    ends = pc.add_checked(arrays["source_start"], arrays["count"])
    pc.add_checked(arrays["target_start"], arrays["count"])
    topics, partitions = arrays["source_topic"].indices, arrays["source_partition"]
    other = pc.or_(pc.not_equal(topics[1:], topics[:-1]), pc.not_equal(partitions[1:], partitions[:-1]))
    behind = pc.less_equal(ends[:-1], arrays["source_start"][1:])
    if not pc.all(pc.or_(other, behind), min_count=0).as_py():
        return "ranges that overlap or are out of order"
    if any(group.source(row) >= group.source(row + 1) for row in pc.indices_nonzero(other).to_pylist()):
        return "partitions that are out of order"
    return ""


def _is_as_told(group: OffsetMapGroup, entry: GroupEntry) -> bool:
    rows = len(group)
    found = (rows, group.source(0), group.starts[0], group.source(rows - 1), group.starts[rows - 1])
    told = (entry.row_count, entry.first, entry.first_start, entry.last, entry.last_start)
    return found == told and (entry.target is None or group.only_target() == entry.target)


def _is_count(value: Any) -> bool:
    # type() and not isinstance(): true is no integer here
    return type(value) is int and 0 <= value <= INT64_MAX


def _is_place(place: TopicPartition) -> bool:
    return type(place.topic) is str and is_topic_name(place.topic) and _is_count(place.partition)


def _short(error: Exception) -> str:
    lines = redact(str(error)).splitlines()  # before it is cut
    return lines[0][:200] if lines else type(error).__name__
