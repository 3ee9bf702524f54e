"""Which blocks of segments are needed where only a part of each is: from the block index, else from the segments' own.

The index only saves reading thousands of segments' ends: what it says is checked against the manifest, and where it is
missing, damaged or another state's, the segments' own indexes say the same. Workers read those in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from kbr.errors import AccessDenied, BlockIndexMissing, BlockIndexUnreadable, StorageError, UnsupportedFormat
from kbr.format.block_index_head import INDEX_HINT, SegmentPlace
from kbr.format.documents import Manifest
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.indexes import open_index
from kbr.repository.layout import index_head_key
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.window import TimeWindow, Window
from kbr.restore.plan import RestorePlan
from kbr.storage import ObjectStore
from kbr.telemetry.logs import get_logger

__all__ = ["BlockFacts", "Cut", "chosen_blocks"]

_log = get_logger("kbr.restore")

#: Threads that read segments' own indexes, and how many segments are asked for at once.
INDEX_READERS = 8
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Cut:
    """A segment of which a part may be needed.

    Attributes:
        source: the partition that it is of.
        begin: the first offset that is.
        window: the records that are.
    """

    source: TopicPartition
    reference: SegmentRef
    begin: int
    window: Window

    @property
    def is_whole(self) -> bool:
        """Whether all of it is needed."""
        return self.window.covers(self.reference) and self.reference.start_offset >= self.begin

    def wanted(self, blocks: Sequence[BlockFacts]) -> list[BlockFacts]:
        """Those that may hold records that are needed."""
        return [one for one in blocks if self.window.touches(one) and one.last_offset >= self.begin]


class BlockFacts(Protocol):
    """What both kinds of index say of a block."""

    @property
    def stored_bytes(self) -> int: ...

    @property
    def raw_bytes(self) -> int: ...

    @property
    def record_count(self) -> int: ...

    @property
    def first_offset(self) -> int: ...

    @property
    def last_offset(self) -> int: ...

    @property
    def min_timestamp(self) -> int: ...

    @property
    def max_timestamp(self) -> int: ...


def chosen_blocks(
    store: ObjectStore, plan: RestorePlan, cut: Sequence[Cut], *, manifest: Manifest | None, max_block_bytes: int
) -> Iterator[tuple[Cut, list[BlockFacts]]]:
    """Of each segment the blocks that may hold records that are to be sent; those without any are left out.

    Args:
        plan: whose they are.
        manifest: the plan's, for the block index; None: don't use it.

    Raises:
        KbrError: a segment's own index can't be read.
    """
    left = {SegmentPlace(*one.source, one.reference.sequence): one for one in cut}
    if manifest is not None and left:
        try:
            for place, blocks in _from_index(store, manifest, left, plan.window):
                one = left.pop(place)
                if wanted := one.wanted(blocks):
                    yield one, wanted
        except (BlockIndexMissing, AccessDenied) as error:  # S3 denies what is not there to who may not list
            _log.debug("no block index: %s", error)
        except (BlockIndexUnreadable, UnsupportedFormat, StorageError) as error:
            if error.retriable:
                raise
            _log.warning("the block index is not used, the segments' own are: %s", error)

    def read(one: Cut) -> list[BlockFacts]:
        reader = SegmentReader(store, plan.backup_id, one.reference, max_block_bytes=max_block_bytes)
        return one.wanted(reader.index().blocks)

    others = list(left.values())
    with ThreadPoolExecutor(INDEX_READERS) as pool:
        for at in range(0, len(others), _AT_ONCE):
            some = others[at : at + _AT_ONCE]
            for one, wanted in zip(some, pool.map(read, some), strict=True):
                if wanted:
                    yield one, wanted


def _from_index(
    store: ObjectStore, manifest: Manifest, cut: Mapping[SegmentPlace, Cut], window: TimeWindow
) -> Iterator[tuple[SegmentPlace, Sequence[BlockFacts]]]:
    """What the index covers of them, in its order; then those that it covers and that have no such block."""
    index = open_index(store, manifest.backup_id)
    topics = {place.topic for place in cut}
    standing = index.standing(manifest, topics)
    key = index_head_key(manifest.backup_id)
    if standing.strange:
        raise BlockIndexUnreadable(
            f"{key}: the block index is stale: it is of another state of the backup ({standing.strange[0]})",
            hint=INDEX_HINT,
            object=key,
        )
    coverage = index.coverage(topics)
    #: Of each partition the first sequence that is not covered.
    ends: dict[TopicPartition, int] = {}
    for topic in manifest.topics:
        if topic.name in topics:
            for partition in topic.partitions:
                source = TopicPartition(topic.name, partition.partition)
                if source in coverage:
                    ends[source] = partition.segments[coverage[source].segments - 1].next_offset
    covered = sorted(place for place in cut if place.sequence < ends.get(TopicPartition(*place[:2]), 0))
    left = set(covered)
    for found in index.find(covered, window.touches, lambda low, high: low <= window.end_ms and high >= window.start_ms):
        twice = found.place not in left
        complaint = "it has its blocks twice" if twice else found.complaint(cut[found.place].reference)
        if complaint:
            raise BlockIndexUnreadable(
                f"{key}: the block index lies about segment {found.place.sequence} of {TopicPartition(*found.place[:2])}: {complaint}",
                hint=INDEX_HINT,
                object=key,
            )
        left.discard(found.place)
        yield found.place, found.blocks
    for place in sorted(left):
        yield place, ()
