"""A restore's offset mapping: where each record of the backup lies in the target, as ranges.

Exact for every restored record; a record that was not restored has no range. Kept in the backup's own folder, beside
what the restore noted; read a row group at a time, however large it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbr.errors import ObjectMissing, OffsetMapMissing, OffsetMapUnreadable, RepositoryError, StorageError
from kbr.model import TopicPartition
from kbr.repository.layout import offset_map_key
from kbr.repository.restore_states import load_state
from kbr.storage.base import ObjectStore

if TYPE_CHECKING:  # pyarrow takes half a second to import: only what reads or writes a mapping pays for it
    from kbr.format.offset_map import OffsetMapHeader, OffsetMapWriter
    from kbr.format.offset_map_parser import OffsetMapFile, OffsetMapGroup

__all__ = ["MappedSums", "OffsetMap", "OffsetRangeMap", "has_offset_map", "is_offset_map_there", "new_offset_map", "open_offset_map"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRangeMap:
    """Records that lie one behind the other in the source, and so in the target.

    The record at source offset ``source_start + n`` is at target offset ``target_start + n``, for n below ``count``.
    """

    source: TopicPartition
    target: TopicPartition
    source_start: int
    target_start: int
    count: int


@dataclass(slots=True, kw_only=True)
class MappedSums:
    """What of a source partition lies in one target partition; ends are not included."""

    source: TopicPartition
    target: TopicPartition
    range_count: int
    record_count: int
    source_start: int
    source_end: int
    target_start: int
    target_end: int


class OffsetMap:
    """One restore's mapping. One thread at a time; keeps one row group in memory. Get it from open_offset_map().

    Raises (all methods):
        OffsetMapUnreadable: it is damaged.
        StorageError: it can't be read.
    """

    def __init__(self, file: OffsetMapFile) -> None:
        self._file = file
        self._kept: tuple[int, OffsetMapGroup] | None = None

    @property
    def header(self) -> OffsetMapHeader:
        """Whose mapping it is."""
        return self._file.header

    @property
    def range_count(self) -> int:
        """Ranges of all partitions together."""
        return self._file.range_count

    @property
    def record_count(self) -> int:
        """Records of all partitions together."""
        return self._file.record_count

    def partitions(self) -> list[TopicPartition]:
        """The source partitions that records were restored of, in order."""
        found: list[TopicPartition] = []
        for number, entry in enumerate(self._file.groups):
            found.extend(
                source
                for source in ([entry.first] if entry.first == entry.last else self._group(number).sources())
                if not found or found[-1] != source
            )
        return found

    def ranges(self, source: TopicPartition) -> Iterator[OffsetRangeMap]:
        """A source partition's ranges, by rising source_start; none where nothing of it was restored."""
        end = 0
        for number in self._groups_of(source):
            group = self._group(number)
            for row in group.rows_of(source):
                start, count = group.starts[row], group.counts[row]
                if start < end:
                    raise OffsetMapUnreadable(
                        f"the offset mapping is damaged: ranges of {source} overlap at offset {start}",
                        hint="delete it, and run the same restore again: it is written anew",
                    )
                end = start + count
                yield OffsetRangeMap(
                    source=source,
                    target=group.target(row),
                    source_start=start,
                    target_start=group.target_starts[row],
                    count=count,
                )

    def sums(self, source: TopicPartition) -> list[MappedSums]:
        """What a source partition's ranges come to, by target partition."""
        found: dict[TopicPartition, MappedSums] = {}
        for number in self._groups_of(source):
            group = self._group(number)
            rows = group.rows_of(source)
            only = self._file.groups[number].target
            runs = [(only, rows)] if only is not None else [(group.target(row), range(row, row + 1)) for row in rows]
            for target, run in runs:
                if not run:
                    continue
                last = run[-1]
                sums = found.setdefault(
                    target,
                    MappedSums(
                        source=source,
                        target=target,
                        range_count=0,
                        record_count=0,
                        source_start=group.starts[run[0]],
                        source_end=0,
                        target_start=group.target_starts[run[0]],
                        target_end=0,
                    ),
                )
                sums.range_count += len(run)
                sums.record_count += sum(group.counts[run.start : run.stop])
                sums.source_end = group.starts[last] + group.counts[last]
                sums.target_end = group.target_starts[last] + group.counts[last]
        return [found[target] for target in sorted(found)]

    def target_offset(self, source: TopicPartition, offset: int) -> tuple[TopicPartition, int] | None:
        """Where exactly this record is in the target; None where it was not restored, or never was a record."""
        for number in reversed(self._groups_of(source)):
            if (source, offset) < (self._file.groups[number].first, self._file.groups[number].first_start):
                continue
            group = self._group(number)
            rows = group.rows_of(source)
            row = _last_from(group, rows, offset)
            if row is None:
                continue
            ahead = offset - group.starts[row]
            return (group.target(row), group.target_starts[row] + ahead) if ahead < group.counts[row] else None
        return None

    def first_at_or_after(self, source: TopicPartition, offset: int) -> list[tuple[TopicPartition, int]]:
        """Where a consumer that would go on at ``offset`` of the source goes on in the target.

        For each target partition that got records of ``source``, in order: the target offset of the first restored
        record at or after ``offset``; or the end, one past the last restored record, when there is none. Empty where
        nothing of ``source`` was restored. Never negative.
        """
        numbers = self._groups_of(source)
        begin = self._begin(numbers, source, offset)
        found: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        #: The last row group of those passed over that has this target.
        passed: dict[TopicPartition, int] = {}
        for place, number in enumerate(numbers):
            only = self._file.groups[number].target
            if only is not None and only in found:
                continue
            if only is not None and place < begin:
                passed[only] = number
                continue
            self._look(number, source, offset, found, ends)
        for target, number in passed.items():
            if target not in found:
                self._look(number, source, offset, found, ends)
        return sorted({**ends, **found}.items())

    # -- how ------------------------------------------------------------------------------

    def _groups_of(self, source: TopicPartition) -> list[int]:
        return [number for number, entry in enumerate(self._file.groups) if entry.first <= source <= entry.last]

    def _begin(self, numbers: list[int], source: TopicPartition, offset: int) -> int:
        """Place of the row group that holds the range of an offset or the last one before it; those before can't."""
        begin = 0
        for place, number in enumerate(numbers):
            if (self._file.groups[number].first, self._file.groups[number].first_start) <= (source, offset):
                begin = place
        return begin

    def _look(
        self,
        number: int,
        source: TopicPartition,
        offset: int,
        found: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> None:
        group = self._group(number)
        only = self._file.groups[number].target
        rows = group.rows_of(source)
        if only is not None and rows:
            # one target: its first row that may count, and its end, are enough
            first = _last_from(group, rows, offset)
            rows_to_see = range(rows.start if first is None else first, rows.stop)[:2]
            last = rows[-1]
            ends[only] = max(ends.get(only, 0), group.target_starts[last] + group.counts[last])
        else:
            rows_to_see = rows
        for row in rows_to_see:
            target = group.target(row)
            start, count = group.starts[row], group.counts[row]
            if target not in found and offset < start + count:
                found[target] = group.target_starts[row] + max(0, offset - start)
            if only is None:
                ends[target] = max(ends.get(target, 0), group.target_starts[row] + count)

    def _group(self, number: int) -> OffsetMapGroup:
        if self._kept is None or self._kept[0] != number:
            self._kept = None
            self._kept = (number, self._file.group(number))
        return self._kept[1]


def _last_from(group: OffsetMapGroup, rows: range, offset: int) -> int | None:
    """The last row that begins at or before an offset; None when there is none."""
    row = bisect_right(group.starts, offset, rows.start, rows.stop) - 1
    return row if row >= rows.start else None


def open_offset_map(store: ObjectStore, backup_id: str, restore_id: str) -> OffsetMap:
    """The mapping that a restore has written, if it is of the restore's last run.

    Raises:
        OffsetMapMissing: it has written none, or was begun anew or went on since: what lies in the target is not what it was.
        RestoreStateUnreadable: whether it was can't be told.
        OffsetMapUnreadable: it is damaged, or another restore's.
        UnsupportedFormat: it is of another version, or another program's.
        StorageError: the store failed.
    """
    from kbr.format.offset_map_parser import OffsetMapFile

    key = offset_map_key(backup_id, restore_id)
    try:
        size_bytes = store.head(key).size_bytes
    except ObjectMissing as error:
        raise OffsetMapMissing(
            f"{key}: the restore has no offset mapping",
            hint="it is written when a restore is complete; run the same restore again, with restore.offset_map on",
            object=key,
        ) from error
    file = OffsetMapFile(lambda start, length: store.read_range(key, start, length), size_bytes, name=key)
    if (file.header.backup_id, file.header.restore_id) != (backup_id, restore_id):
        raise OffsetMapUnreadable(
            f"{key}: the offset mapping is another restore's: it is in the wrong place",
            hint="move it back to where it belongs",
            object=key,
        )
    state = load_state(store, backup_id, restore_id)
    if state is not None and state.created_at_ms > file.header.created_at_ms:
        raise OffsetMapMissing(
            f"{key}: the offset mapping is older than the restore, which was begun anew or went on since, and has written none",
            hint="run the same restore again: it is written when the restore is complete",
            object=key,
        )
    return OffsetMap(file)


def has_offset_map(store: ObjectStore, backup_id: str, restore_id: str) -> bool:
    """Whether open_offset_map() would give one.

    Raises:
        StorageError: the store failed.
    """
    try:
        open_offset_map(store, backup_id, restore_id)
    except RepositoryError:
        return False
    return True


def is_offset_map_there(store: ObjectStore, backup_id: str, restore_id: str) -> bool:
    """Whether a restore has, or may have, a mapping; not whether that is of its last run.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    try:
        store.head(offset_map_key(backup_id, restore_id))
    except ObjectMissing:
        return False
    except StorageError as error:
        if error.retriable:
            raise
    return True


@contextmanager
def new_offset_map(store: ObjectStore, header: OffsetMapHeader) -> Iterator[OffsetMapWriter]:
    """Write a mapping in place of an older one: it is there when all went well, and else nothing is changed.

    Raises:
        StorageError: the store failed.
    """
    from kbr.format.offset_map import OffsetMapWriter

    upload = store.open_upload(offset_map_key(header.backup_id, header.restore_id))
    try:
        writer = OffsetMapWriter(upload.write, header)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        upload.commit()
    except BaseException:
        upload.abort()
        raise
