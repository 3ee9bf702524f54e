"""kbr's own backups as an `Archive`: the manifest, and segments by range reads of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from kbr.errors import CorruptSegment
from kbr.format.blocks import decode_records
from kbr.format.documents import Manifest, TopicEntry
from kbr.format.segment import BlockEntry
from kbr.model import Record, SegmentRef, TopicPartition
from kbr.reading.archive import ArchivedPartition, Piece
from kbr.repository.open_segment import open_segment
from kbr.storage import ObjectStore

__all__ = ["NativeArchive"]


class NativeArchive:
    """A backup as its manifest lists it.

    Args:
        store: where it lies; stays open.
        manifest: the backup's.
        max_block_bytes: the largest block that is believed.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest, *, max_block_bytes: int) -> None:
        self._store = store
        self._backup_id = manifest.backup_id
        self._topics: dict[str, TopicEntry] = {topic.name: topic for topic in manifest.topics}
        self._max_block_bytes = max_block_bytes

    @property
    def backup_id(self) -> str:
        """Its name."""
        return self._backup_id

    def topics(self) -> Sequence[str]:
        """Names of all topics, sorted."""
        return sorted(self._topics)

    def partition_count(self, topic: str) -> int:
        """How many partitions one of them has."""
        return self._topics[topic].partition_count

    def partition(self, key: TopicPartition) -> ArchivedPartition:
        """A partition that there is."""
        entry = self._topics[key.topic].partitions[key.partition]
        return ArchivedPartition(
            key=key,
            start_offset=entry.start_offset,
            next_offset=entry.next_offset,
            segments=entry.segments,
            gaps=entry.gaps,
        )

    def open(self, key: TopicPartition, number: int) -> NativeSegment:
        """One of its segments; nothing is read yet."""
        reference = self._topics[key.topic].partitions[key.partition].segments[number]
        return NativeSegment(self._store, self._backup_id, reference, max_block_bytes=self._max_block_bytes)


class NativeSegment:
    """A segment, by its index and range reads of blocks."""

    def __init__(self, store: ObjectStore, backup_id: str, reference: SegmentRef, *, max_block_bytes: int) -> None:
        self._reader = open_segment(store, backup_id, reference, max_block_bytes=max_block_bytes)

    def pieces(self) -> Sequence[Piece]:
        """Its blocks, by its index."""
        return self._reader.index().blocks

    def read(self, pieces: Sequence[Piece]) -> Iterator[Sequence[Record]]:
        """The records of some blocks of it; neighbours come by one request."""
        for entry, block in self._reader.read_blocks(cast("Sequence[BlockEntry]", pieces)):
            records = decode_records(block, name=self._reader.key, position=entry.position)
            if len(records) != entry.record_count:
                raise CorruptSegment(
                    f"{self._reader.key}: the block at byte {entry.position} has {len(records)} records, the index says "
                    f"{entry.record_count}",
                    hint="run kbr verify --deep on this backup",
                    object=self._reader.key,
                    position=entry.position,
                )
            yield records
