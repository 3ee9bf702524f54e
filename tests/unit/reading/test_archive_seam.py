"""Backups of another form come under the same reading by implementing `Archive`: here one without blocks in its segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbr.app.reading import Backup
from kbr.model import Record, TopicPartition
from kbr.reading.archive import Archive, ArchivedPartition, OpenSegment, Piece

PLACE = TopicPartition("t", 0)


@dataclass(frozen=True)
class Whole:
    """A segment that is its own only piece."""

    records: tuple[Record, ...]

    @property
    def first_offset(self) -> int:
        return self.records[0].offset

    @property
    def last_offset(self) -> int:
        return self.records[-1].offset

    @property
    def min_timestamp(self) -> int:
        return min(one.timestamp for one in self.records)

    @property
    def max_timestamp(self) -> int:
        return max(one.timestamp for one in self.records)

    @property
    def record_count(self) -> int:
        return len(self.records)


class Foreign:
    """Segments in memory, and which of them were read."""

    backup_id = "foreign"

    def __init__(self, *segments: Whole) -> None:
        self.segments = segments
        self.read_numbers: list[int] = []

    def topics(self) -> Sequence[str]:
        return ["t"]

    def partition_count(self, topic: str) -> int:
        return 1

    def partition(self, key: TopicPartition) -> ArchivedPartition:
        return ArchivedPartition(key=key, start_offset=0, next_offset=6, segments=self.segments)

    def open(self, key: TopicPartition, number: int) -> OpenSegment:
        archive = self

        class Opened:
            def pieces(self) -> Sequence[Piece]:
                return [archive.segments[number]]

            def read(self, pieces: Sequence[Piece]) -> Iterator[Sequence[Record]]:
                archive.read_numbers.append(number)
                return iter([archive.segments[number].records])

        return Opened()


def _archive() -> Foreign:
    every = [Record(n, 100 + 10 * n, 1, None, b"%d" % n, ()) for n in range(6)]
    return Foreign(Whole(tuple(every[:2])), Whole(tuple(every[2:4])), Whole(tuple(every[4:])))


def test_windows_limits_and_tables_work_on_a_backup_of_another_form() -> None:
    archive = _archive()
    checked: Archive = archive
    backup = Backup(checked)
    assert [one.offset for one in backup.records(from_timestamp=115, to_timestamp=125)] == [2]
    assert archive.read_numbers == [1]
    assert [one.offset for one in backup.records(from_offset=-2)] == [4, 5]
    assert [one.offset for one in backup.records("t", 0, limit=3)] == [0, 1, 2]
    assert archive.read_numbers == [1, 2, 0, 1]
    assert backup.arrow_table().num_rows == 6
    backup.close()
