"""Makes a backup's block index from the segments' own indexes, and keeps it up while a backup grows.

New segments become a run of their own; when there are enough runs of a size they are merged into one of the next, so that
what is written stays in proportion to what is new. Only for who holds the backup's lock: a head is replaced whole, its
pieces are never changed. No Kafka.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kbr.errors import (
    BlockIndexMissing,
    BlockIndexUnreadable,
    IntegrityError,
    Interrupted,
    StorageError,
    UnsupportedFormat,
)
from kbr.format.block_index_head import BlockIndexHead, Coverage, PieceEntry, dump_head, piece_name
from kbr.format.documents import Manifest
from kbr.format.segment import BlockEntry
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.indexes import BlockIndex, IndexedRows, open_index
from kbr.repository.layout import index_head_key, index_piece_key, index_prefix, is_index_piece_key, parse_segment_key
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore, Upload
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock

if TYPE_CHECKING:  # pyarrow takes half a second to import: only what reads or writes an index pays for it
    from kbr.format.block_index import BlockIndexWriter

__all__ = ["IndexBuilt", "IndexWriter", "KnownSegment", "RunWriter"]

_log = get_logger("kbr.index")

#: Threads that read segments' own indexes.
READERS = 8
#: So many runs of a level are merged into one of the next: each row is written once a level.
FAN_OUT = 8
#: Rows of a piece, about: 65 MB, and a footer of 1 MB that is read where something in the piece is looked for.
ROWS_PER_PIECE = 4_000_000


@dataclass(frozen=True, slots=True)
class KnownSegment:
    """A segment that is to be indexed, and what its own index says of its blocks: None where that is damaged."""

    key: TopicPartition
    reference: SegmentRef
    blocks: tuple[BlockEntry, ...] | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuilt:
    """What came of it.

    Attributes:
        added: segments that were added.
        left: segments of the manifest that are not in it: their own index, or that of one before, can't be read, or
            they come next time.
        problems: what was wrong with own indexes.
        bytes_written: of all pieces that were written, merged ones too.
    """

    head: BlockIndexHead
    added: int
    left: int
    problems: tuple[str, ...]
    bytes_written: int


class IndexWriter:
    """Writes one backup's index, again and again; one thread at a time.

    Args:
        check_lock: raises Locked when the backup is another run's by now; called before every head.
        is_stopped: whether to leave the rest for later.
        rows_per_group, rows_per_piece: for tests.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        *,
        kbr_version: str,
        clock: Clock,
        check_lock: Callable[[], None] = lambda: None,
        is_stopped: Callable[[], bool] = lambda: False,
        rows_per_group: int = 0,
        rows_per_piece: int = ROWS_PER_PIECE,
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._kbr_version = kbr_version
        self._clock = clock
        self._check_lock = check_lock
        self._is_stopped = is_stopped
        self._rows_per_group = rows_per_group
        self._rows_per_piece = rows_per_piece
        self._head: BlockIndexHead | None = None
        self._coverage: dict[TopicPartition, Coverage] = {}
        self._bytes_written = 0

    def build(self, manifest: Manifest, *, on_segment: Callable[[int], None] = lambda _count: None) -> IndexBuilt:
        """Write the index anew, whatever is there, as one run; an older one stays until the new one is whole.

        Args:
            on_segment: told how many segments are done, now and then.

        Raises:
            Interrupted: it was stopped; the older one stays.
            Locked: the backup is another run's by now.
            StorageError: the store failed.
        """
        self._bytes_written = 0
        self._coverage, self._head = {}, self._empty()
        with self._known():
            return self._add(manifest, _segments(manifest, {}), on_segment)

    def follow(self, manifest: Manifest, *, most: int | None = None) -> IndexBuilt:
        """Add what the manifest lists and the index has not; begin anew where it is another state's, or damaged.

        Args:
            most: add so many segments at most: the rest comes next time.

        Raises:
            Interrupted: it was stopped; what was there stays.
            Locked: the backup is another run's by now.
            StorageError: the store failed.
        """
        self._bytes_written = 0
        with self._known():
            if self._head is None:
                self._load(manifest)
            new = _segments(manifest, self._coverage)
            built = self._add(manifest, new if most is None else new[:most], lambda _count: None)
            while self._merge_once():
                pass
        return replace(built, head=self._known_head, bytes_written=self._bytes_written)

    def clean(self) -> int:
        """Remove pieces that the head does not name; how many. What can't be removed stays, and does no harm."""
        names = {index_piece_key(self._backup_id, one.name) for one in self._known_head.pieces}
        keys = [info.key for info in self._store.list(index_prefix(self._backup_id))]
        gone = [key for key in keys if is_index_piece_key(self._backup_id, key) and key not in names]
        self._remove(gone)
        return len(gone)

    # -- how ------------------------------------------------------------------------------

    @property
    def _known_head(self) -> BlockIndexHead:
        if self._head is None:
            raise AssertionError("the index has not been looked at")
        return self._head

    @contextmanager
    def _known(self) -> Iterator[None]:
        """After an error it is looked at again what is there."""
        try:
            yield
        except BaseException:
            self._head = None
            raise

    def _empty(self) -> BlockIndexHead:
        return BlockIndexHead(
            kbr_version=self._kbr_version, backup_id=self._backup_id, updated_at_ms=self._clock.now_ms(), pieces=()
        )

    def _load(self, manifest: Manifest) -> None:
        """What is there, if it is the manifest's."""
        try:
            index = open_index(self._store, self._backup_id)
            standing = index.standing(manifest)
            if standing.strange:
                raise BlockIndexUnreadable(f"it is another state's of the backup: {standing.strange[0]}")
            self._coverage = index.coverage()
            self._head = index.head
        except BlockIndexMissing:
            self._coverage, self._head = {}, self._empty()
        except (BlockIndexUnreadable, UnsupportedFormat) as error:
            _log.warning("the block index is written anew: %s", error)
            self._coverage, self._head = {}, self._empty()
        self.clean_quietly()

    def clean_quietly(self) -> None:
        """clean(), where it is no matter if it can't be done: who writes a backup may lack the right to list."""
        try:
            self.clean()
        except StorageError as error:
            _log.debug("pieces of the block index were not cleaned up: %s", error)

    def _add(
        self, manifest: Manifest, new: list[tuple[TopicPartition, SegmentRef]], on_segment: Callable[[int], None]
    ) -> IndexBuilt:
        before = self._known_head
        problems: list[str] = []
        added = 0
        entries: list[PieceEntry] = []
        if new:
            with self._new_run(level=0) as run:
                broken: TopicPartition | None = None
                for known in self._read_all(new):
                    if self._is_stopped():
                        raise Interrupted("the block index was not written: stopped before it was whole")
                    if known.blocks is None:
                        problems.append(known.problem)
                        broken = known.key
                    if known.key == broken:
                        continue  # what follows can't be covered without the one before
                    run.add(known)
                    self._coverage[known.key] = self._coverage.get(known.key, Coverage(0, 0)).plus(
                        Coverage.of([known.reference])
                    )
                    added += 1
                    if not added % 1000:
                        on_segment(added)
                entries = run.close()
        on_segment(added)
        if entries or not before.pieces:
            self._publish((*before.pieces, *entries))
        total = sum(len(partition.segments) for topic in manifest.topics for partition in topic.partitions)
        return IndexBuilt(
            head=self._known_head,
            added=added,
            left=total - self._known_head.segment_count,
            problems=tuple(problems),
            bytes_written=self._bytes_written,
        )

    def _publish(self, pieces: tuple[PieceEntry, ...]) -> None:
        head = BlockIndexHead(
            kbr_version=self._kbr_version,
            backup_id=self._backup_id,
            updated_at_ms=self._clock.now_ms(),
            pieces=pieces,
        )
        self._check_lock()
        self._store.put(index_head_key(self._backup_id), dump_head(head))
        self._head = head

    def _merge_once(self) -> bool:
        """Merge the lowest level that has enough runs; whether there was one."""
        head = self._known_head
        runs: dict[int, set[str]] = {}
        for entry in head.pieces:
            runs.setdefault(entry.level, set()).add(entry.run)
        level = next((one for one in sorted(runs) if len(runs[one]) >= FAN_OUT), -1)
        if level < 0 or self._is_stopped():
            return False
        merged = runs[level]
        index = BlockIndex(self._store, replace(head, pieces=tuple(one for one in head.pieces if one.run in merged)))
        with self._new_run(level=level + 1) as run:
            for rows in index.rows():
                if self._is_stopped():
                    raise Interrupted("runs of the block index were not merged: stopped before")
                run.add_rows(rows)
            entries = run.close()
        # the newest of what was merged says where it stands among the others
        at = max(number for number, one in enumerate(head.pieces) if one.run in merged)
        kept = [one for one in head.pieces[:at] if one.run not in merged]
        self._publish((*kept, *entries, *head.pieces[at + 1 :]))
        self._remove([index_piece_key(self._backup_id, one.name) for one in head.pieces if one.run in merged])
        return True

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self._store.delete(key)
            except StorageError as error:  # a backup's credential may lack the right; the head does not name it any more
                _log.debug("%s is of no use any more, and was not removed: %s", key, error)

    def _read_all(self, segments: list[tuple[TopicPartition, SegmentRef]]) -> Iterator[KnownSegment]:
        """Read own indexes by a pool, a few ahead; in order."""

        def read(key: TopicPartition, reference: SegmentRef) -> KnownSegment:
            try:
                return KnownSegment(key, reference, SegmentReader(self._store, self._backup_id, reference).index().blocks)
            except (IntegrityError, UnsupportedFormat) as error:
                return KnownSegment(key, reference, None, str(error))

        with ThreadPoolExecutor(READERS, thread_name_prefix="index") as pool:
            pending: deque[Future[KnownSegment]] = deque()
            try:
                for one in segments:
                    pending.append(pool.submit(read, *one))
                    if len(pending) >= 4 * READERS:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    @contextmanager
    def _new_run(self, *, level: int) -> Iterator[RunWriter]:
        run = RunWriter(
            self._store,
            self._backup_id,
            kbr_version=self._kbr_version,
            level=level,
            rows_per_group=self._rows_per_group,
            rows_per_piece=self._rows_per_piece,
        )
        try:
            yield run
        except BaseException:
            run.abandon()
            raise
        self._bytes_written += run.bytes_written


class RunWriter:
    """Writes the pieces of one run, one after the other; no head names them yet.

    Args:
        rows_per_group: 0 is block_index.ROWS_PER_GROUP.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        *,
        kbr_version: str,
        level: int,
        rows_per_group: int = 0,
        rows_per_piece: int = ROWS_PER_PIECE,
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self._kbr_version = kbr_version
        self._level = level
        self._rows_per_group = rows_per_group
        self._rows_per_piece = rows_per_piece
        self._run = uuid.uuid4().hex
        self._entries: list[PieceEntry] = []
        self._begun: tuple[str, Upload, BlockIndexWriter] | None = None
        #: Of whole pieces.
        self.bytes_written = 0

    def add(self, known: KnownSegment) -> None:
        """The next segment."""
        name = parse_segment_key(known.reference.key)
        if name is None or known.blocks is None:
            raise AssertionError("a segment that can't be indexed")
        self._writer().add(known.key, name.compression, known.reference, known.blocks)

    def add_rows(self, rows: IndexedRows) -> None:
        """The next rows, of whole segments."""
        writer = self._writer()
        writer.add_rows(rows.key, rows.compression, rows.columns)
        marks = dict(zip(rows.columns["segment"], rows.columns["segment_mark"], strict=True))
        writer.cover(rows.key, Coverage(len(marks), sum(marks.values()) % 2**64))

    def close(self) -> list[PieceEntry]:
        """The pieces; none where nothing was added."""
        self._end_piece()
        return self._entries

    def abandon(self) -> None:
        """Leave nothing that is not whole; whole pieces that no head names are removed by a later run."""
        if self._begun is not None:
            _name, upload, writer = self._begun
            self._begun = None
            writer.abandon()
            upload.abort()
        for entry in self._entries:
            try:
                self._store.delete(index_piece_key(self._backup_id, entry.name))
            except StorageError as error:
                _log.debug("a piece of the block index was left behind: %s", error)

    def _writer(self) -> BlockIndexWriter:
        from kbr.format.block_index import ROWS_PER_GROUP, BlockIndexWriter

        if self._begun is not None and self._begun[2].row_count >= self._rows_per_piece:
            self._end_piece()
        if self._begun is None:
            name = piece_name(uuid.uuid4().hex)
            upload = self._store.open_upload(index_piece_key(self._backup_id, name))
            writer = BlockIndexWriter(
                upload.write,
                backup_id=self._backup_id,
                kbr_version=self._kbr_version,
                rows_per_group=self._rows_per_group or ROWS_PER_GROUP,
            )
            self._begun = (name, upload, writer)
        return self._begun[2]

    def _end_piece(self) -> None:
        if self._begun is None or self._begun[2].is_empty:
            if self._begun is not None:
                self._begun[2].abandon()
                self._begun[1].abort()
                self._begun = None
            return
        name, upload, writer = self._begun
        entry = writer.close(run=self._run, level=self._level, name=name)
        upload.commit()
        self._begun = None
        self._entries.append(entry)
        self.bytes_written += entry.size_bytes


def _segments(manifest: Manifest, coverage: dict[TopicPartition, Coverage]) -> list[tuple[TopicPartition, SegmentRef]]:
    """What is not covered, in the order of the index."""
    found: list[tuple[TopicPartition, SegmentRef]] = []
    for topic in manifest.topics:
        for partition in topic.partitions:
            key = TopicPartition(topic.name, partition.partition)
            count = coverage[key].segments if key in coverage else 0
            if count < len(partition.segments):
                found.extend((key, reference) for reference in partition.segments[count:])
    return found
