"""A backup's block index: where it lies, whether it is the manifest's, and what it says of segments. Reads only.

The manifest is the truth. An index covers, of each partition, the first segments that the manifest lists, and says so by
their number and a digest; where that does not fit, it is another state's, and never believed. What it does not cover yet
is found by the segments' own indexes. No Kafka.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

from kbr.errors import (
    BlockIndexMissing,
    BlockIndexUnreadable,
    ObjectMissing,
    SealBroken,
    StorageError,
    StoreUnavailable,
)
from kbr.format.block_index_head import (
    INDEX_HINT,
    MAX_HEAD_BYTES,
    BlockIndexHead,
    Coverage,
    PieceEntry,
    SegmentPlace,
    load_head,
    segment_mark,
)
from kbr.format.documents import Manifest
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.layout import index_head_key, index_piece_key
from kbr.storage.base import ObjectStore

if TYPE_CHECKING:  # pyarrow takes half a second to import: only what reads or writes an index pays for it
    from kbr.format.block_index_parser import BlockIndexGroup, BlockIndexPiece, IndexedBlock, Run

__all__ = ["BlockIndex", "IndexStanding", "IndexedRows", "IndexedSegment", "load_index_head", "open_index"]

#: Row groups that are read at once; each is 0.1 to 0.2 MB.
READERS = 8
#: Neighbouring row groups come by one request up to this size, bytes.
_MAX_RANGE_BYTES = 4 * 1024 * 1024
#: The same where all are read, as many runs may be open at once.
_MERGE_RANGE_BYTES = 1024 * 1024
#: What is wrong is told of so many partitions.
_MAX_TOLD = 5


class IndexedSegment(NamedTuple):
    """What the index says of a segment: its mark (segment_mark), and all of its blocks."""

    place: SegmentPlace
    mark: int
    blocks: list[IndexedBlock]

    def complaint(self, reference: SegmentRef) -> str:
        """In what the manifest says another thing of it; empty where both agree."""
        blocks = self.blocks
        found = (
            self.mark,
            len(blocks),
            sum(one.record_count for one in blocks),
            sum(one.raw_bytes for one in blocks),
            blocks[0].first_offset,
            blocks[-1].last_offset,
            min(one.min_timestamp for one in blocks),
            max(one.max_timestamp for one in blocks),
        )
        said = (
            segment_mark(reference),
            reference.block_count,
            reference.record_count,
            reference.raw_bytes,
            reference.start_offset,
            reference.end_offset,
            reference.min_timestamp,
            reference.max_timestamp,
        )
        if found != said:
            return "its blocks are not those that the manifest tells of"
        end = 0
        for one in blocks:
            if one.position != end:
                return "its blocks don't lie one behind the other"
            end += one.stored_bytes
        return "" if end < reference.stored_bytes else "its blocks are longer than the object"


class IndexedRows(NamedTuple):
    """Rows of whole segments of one partition: numbers by column, as views."""

    key: TopicPartition
    compression: int
    columns: Mapping[str, memoryview[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStanding:
    """How an index stands to a manifest.

    Attributes:
        segments: that the manifest lists.
        covered: of those, what the index has.
        strange: why it is another state's, by partition, the first few; nothing of it is believed then.
    """

    segments: int
    covered: int
    strange: tuple[str, ...]

    @property
    def name(self) -> str:
        """``current``, ``behind`` (newer segments are not in it) or ``stale`` (it is not this manifest's)."""
        if self.strange:
            return "stale"
        return "current" if self.covered == self.segments else "behind"


class BlockIndex:
    """An index that is there; pieces are opened when they are needed. One thread at a time. Get it from open_index().

    Raises (all methods):
        BlockIndexUnreadable: it is damaged, or a piece is gone: it was replaced meanwhile.
        UnsupportedFormat: it is of another version.
        StorageError: it can't be read.
    """

    def __init__(self, store: ObjectStore, head: BlockIndexHead) -> None:
        self._store = store
        self._head = head
        self._pieces: dict[str, BlockIndexPiece] = {}
        #: Read so far, without the head.
        self.bytes_read = 0

    @property
    def head(self) -> BlockIndexHead:
        """Which pieces it is made of."""
        return self._head

    def coverage(self, topics: Collection[str] | None = None) -> dict[TopicPartition, Coverage]:
        """What it has of each partition, of these topics or of all."""
        found: dict[TopicPartition, Coverage] = {}
        for entry in self._head.pieces:
            if topics is not None and not any(entry.first.topic <= one <= entry.last.topic for one in topics):
                continue
            for key, one in self._piece(entry).coverage.items():
                if topics is None or key.topic in topics:
                    found[key] = found.get(key, Coverage(0, 0)).plus(one)
        return found

    def standing(self, manifest: Manifest, topics: Collection[str] | None = None) -> IndexStanding:
        """Whether it is the manifest's, of these topics or of all.

        Args:
            topics: of the manifest.
        """
        coverage = self.coverage(topics)
        segments = covered = 0
        strange: list[str] = []
        for topic in manifest.topics:
            if topics is not None and topic.name not in topics:
                continue
            for partition in topic.partitions:
                key = TopicPartition(topic.name, partition.partition)
                segments += len(partition.segments)
                has = coverage.pop(key, Coverage(0, 0))
                covered += has.segments
                if has.segments > len(partition.segments):
                    strange.append(f"{key}: it has {has.segments} segments, the manifest {len(partition.segments)}")
                elif has != Coverage.of(partition.segments[: has.segments]):
                    strange.append(f"{key}: its first {has.segments} segments are not the manifest's")
        strange.extend(f"{key}: the manifest has no such partition" for key in coverage)
        return IndexStanding(segments=segments, covered=covered, strange=tuple(strange[:_MAX_TOLD]))

    def find(
        self, wanted: Sequence[SegmentPlace], touches: Callable[[IndexedBlock], bool], spans: Callable[[int, int], bool]
    ) -> Iterator[IndexedSegment]:
        """All of segments that may hold what is looked for, a row group in memory at a time.

        Args:
            wanted: covered ones, in order.
            touches: whether a block is looked for.
            spans: the same of a smallest and largest timestamp: row groups without are not read.

        Returns:
            Those of ``wanted`` with a block that is looked for. The others have none.

        Raises:
            BlockIndexUnreadable: one is in no piece, although it is covered.
        """
        left = set(wanted)
        for entry in self._head.pieces:
            part = _between(wanted, entry.first, entry.last)
            if not part:
                continue
            if not spans(entry.min_timestamp, entry.max_timestamp):
                left.difference_update(part)
                continue
            piece = self._piece(entry)
            numbers = []
            for number, group in enumerate(piece.groups):
                if not (some := _between(part, group.first, group.last)):
                    continue
                if spans(group.min_timestamp, group.max_timestamp):
                    numbers.append(number)
                else:
                    left.difference_update(some)
            for number, found in self._groups(piece, numbers):
                some = _between(part, piece.groups[number].first, piece.groups[number].last)
                for segment in _segments_in(found, some):
                    left.discard(segment.place)
                    if any(map(touches, segment.blocks)):
                        yield segment
        if left:
            place = min(left)
            raise BlockIndexUnreadable(
                f"{index_head_key(self._head.backup_id)}: the block index says that it covers segment {place.sequence} of "
                f"{TopicPartition(place.topic, place.partition)}, and has no block of it",
                hint=INDEX_HINT,
                object=index_head_key(self._head.backup_id),
            )

    def rows(self) -> Iterator[IndexedRows]:
        """All rows in order; a row group of each run is in memory at a time."""
        by_run: dict[str, list[PieceEntry]] = {}
        for entry in self._head.pieces:
            by_run.setdefault(entry.run, []).append(entry)
        yield from merge(*map(self._rows_of, by_run.values()), key=lambda one: (one.key, one.columns["segment"][0]))

    def segments(self) -> Iterator[IndexedSegment]:
        """All segments in order."""
        from kbr.format.block_index_parser import BlockIndexGroup, Run

        for rows in self.rows():
            run = Run(rows.key, rows.compression, 0, len(rows.columns["segment"]))
            group = BlockIndexGroup(dict(rows.columns), [run])
            for part in group.segments_of(run):
                yield _segment(group, run, part)

    # -- how ------------------------------------------------------------------------------

    def _piece(self, entry: PieceEntry) -> BlockIndexPiece:
        from kbr.format.block_index_parser import BlockIndexPiece

        if entry.name not in self._pieces:
            key = index_piece_key(self._head.backup_id, entry.name)
            self._pieces[entry.name] = BlockIndexPiece(
                lambda start, length: self._read(key, start, length), entry, backup_id=self._head.backup_id, name=key
            )
        return self._pieces[entry.name]

    def _read(self, key: str, start: int, length: int) -> bytes:
        self.bytes_read += length
        try:
            return self._store.read_range(key, start, length)
        except ObjectMissing as error:
            raise BlockIndexUnreadable(
                f"{key}: a piece of the block index is gone: a run has replaced it, or somebody has removed it",
                hint=f"try again; else {INDEX_HINT}",
                object=key,
            ) from error
        except StorageError as error:
            # one that is cut off is damaged, which the store is not
            if isinstance(error, StoreUnavailable) or self._store.head(key).size_bytes >= start + length:
                raise
            raise BlockIndexUnreadable(
                f"{key}: this piece of the block index is damaged: it is cut off", hint=INDEX_HINT, object=key
            ) from error

    def _groups(self, piece: BlockIndexPiece, numbers: Sequence[int]) -> Iterator[tuple[int, BlockIndexGroup]]:
        """Row groups, a few read ahead; neighbours by one request."""
        key = index_piece_key(self._head.backup_id, piece.entry.name)
        ranges = list(_ranges(piece, numbers, _MAX_RANGE_BYTES))
        with ThreadPoolExecutor(READERS, thread_name_prefix="index") as pool:
            for at in range(0, len(ranges), READERS):
                some = ranges[at : at + READERS]
                spans = [(piece.groups[one[0]].position, _end(piece, one[-1])) for one in some]
                read = [pool.submit(self._read, key, start, end - start) for start, end in spans]
                for one, (start, _until), future in zip(some, spans, read, strict=True):
                    data = future.result()
                    for number in one:
                        begin = piece.groups[number].position - start
                        yield number, piece.group(number, data[begin : begin + piece.groups[number].stored_bytes])

    def _rows_of(self, pieces: Sequence[PieceEntry]) -> Iterator[IndexedRows]:
        for entry in pieces:
            piece = self._piece(entry)
            key = index_piece_key(self._head.backup_id, entry.name)
            for part in _ranges(piece, range(len(piece.groups)), _MERGE_RANGE_BYTES):
                start = piece.groups[part[0]].position
                data = self._read(key, start, _end(piece, part[-1]) - start)
                for number in part:
                    begin = piece.groups[number].position - start
                    group = piece.group(number, data[begin : begin + piece.groups[number].stored_bytes])
                    for run in group.runs:
                        columns = {name: values[run.start : run.end] for name, values in group.numbers.items()}
                        yield IndexedRows(run.key, run.compression, columns)


def _between(places: Sequence[SegmentPlace], first: SegmentPlace, last: SegmentPlace) -> Sequence[SegmentPlace]:
    return places[bisect_left(places, first) : bisect_right(places, last)]


def _segments_in(group: BlockIndexGroup, places: Sequence[SegmentPlace]) -> Iterator[IndexedSegment]:
    for run in group.runs:
        first = SegmentPlace(*run.key, group.numbers["segment"][run.start])
        last = SegmentPlace(*run.key, group.numbers["segment"][run.end - 1])
        for place in _between(places, first, last):
            rows = group.rows_of(run, place.sequence)
            if rows:
                yield _segment(group, run, rows)


def _segment(group: BlockIndexGroup, run: Run, rows: range) -> IndexedSegment:
    sequence = group.numbers["segment"][rows.start]
    return IndexedSegment(SegmentPlace(*run.key, sequence), group.mark(rows.start), group.blocks(rows))


def _end(piece: BlockIndexPiece, number: int) -> int:
    return piece.groups[number].position + piece.groups[number].stored_bytes


def _ranges(piece: BlockIndexPiece, numbers: Sequence[int], most_bytes: int) -> Iterator[list[int]]:
    """Neighbours together, up to so many bytes."""
    part: list[int] = []
    for number in numbers:
        start = piece.groups[number].position
        if part and not (
            _end(piece, part[-1]) == start and _end(piece, number) - piece.groups[part[0]].position <= most_bytes
        ):
            yield part
            part = []
        part.append(number)
    if part:
        yield part


def load_index_head(store: ObjectStore, backup_id: str) -> BlockIndexHead:
    """The head of a backup's index.

    Raises:
        BlockIndexMissing: there is none.
        BlockIndexUnreadable: it is damaged, or another backup's.
        UnsupportedFormat: it is of another version, or another program's.
        StorageError: the store failed.
    """
    key = index_head_key(backup_id)
    try:
        data = store.get(key, max_bytes=MAX_HEAD_BYTES)
    except ObjectMissing as error:
        raise BlockIndexMissing(
            f"backup {backup_id} has no block index",
            hint="kbr index build makes one; backups with backup.index on keep it up",
            object=key,
        ) from error
    except SealBroken as error:
        raise BlockIndexUnreadable(error.message, hint=INDEX_HINT, **error.context) from error
    head = load_head(data, name=key)
    if head.backup_id != backup_id:
        raise BlockIndexUnreadable(
            f"{key}: this is the block index of backup {head.backup_id}: it is in the wrong place",
            hint=INDEX_HINT,
            object=key,
        )
    return head


def open_index(store: ObjectStore, backup_id: str) -> BlockIndex:
    """A backup's index; raises as load_index_head()."""
    return BlockIndex(store, load_index_head(store, backup_id))
