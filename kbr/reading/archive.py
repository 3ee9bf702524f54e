"""What `kbr cat` and the library read from, whatever a backup's form: topics, partitions, segments in pieces.

The seam behind which another program's backups can stand: who implements `Archive` gets windows, limits, formats and
Arrow tables from the rest of this package. Knows no form itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kbr.model import Gap, Record, TopicPartition
from kbr.repository.window import Span

__all__ = ["Archive", "ArchivedPartition", "OpenSegment", "Piece"]


class Piece(Span, Protocol):
    """What is read at once, and has to be read whole: a block. One without pieces inside is a piece itself."""

    @property
    def record_count(self) -> int: ...


class OpenSegment(Protocol):
    """One segment that is being read."""

    def pieces(self) -> Sequence[Piece]:
        """What it consists of, in the order of the offsets.

        Raises:
            IntegrityError: it is damaged, or not there.
            StorageError: it can't be read.
        """

    def read(self, pieces: Sequence[Piece]) -> Iterator[Sequence[Record]]:
        """The records of some of its pieces, each piece's for itself and all of them, in the order given.

        What is fetched at once, and held, is bounded; nothing of a damaged piece is given out.

        Raises:
            IntegrityError: it is damaged, or not there.
            StorageError: it can't be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedPartition:
    """A partition of a backup.

    Attributes:
        key: which.
        start_offset: the first offset that the backup answers for.
        next_offset: the first one behind it that it does not.
        segments: in the order of the offsets; `Archive.open` takes their numbers.
        gaps: offsets that were lost.
    """

    key: TopicPartition
    start_offset: int
    next_offset: int
    segments: Sequence[Span]
    gaps: Sequence[Gap] = ()


class Archive(Protocol):
    """A backup that is open for reading."""

    @property
    def backup_id(self) -> str: ...

    def topics(self) -> Sequence[str]:
        """Names of all topics, sorted."""

    def partition_count(self, topic: str) -> int:
        """How many partitions one of them has."""

    def partition(self, key: TopicPartition) -> ArchivedPartition:
        """A partition that there is, by the two methods above."""

    def open(self, key: TopicPartition, number: int) -> OpenSegment:
        """The segment at a place of that partition's; nothing is read yet."""
