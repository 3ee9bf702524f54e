"""Checks a backup's block index against the manifest, and (deep) against the segments' own indexes. Reads only."""

from __future__ import annotations

from kbr.errors import (
    BlockIndexUnreadable,
    IntegrityError,
    NotAnObject,
    ObjectTooLarge,
    SealBroken,
    UnsupportedFormat,
)
from kbr.format.block_index_head import INDEX_HINT, SegmentPlace
from kbr.format.documents import Manifest
from kbr.maintain.objects import Damage, damage_of
from kbr.model import SegmentRef
from kbr.repository.indexes import BlockIndex, IndexedSegment, open_index
from kbr.repository.layout import index_head_key
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore

__all__ = ["check_index"]

#: Segments that an index lies about which are told; the rest is counted.
_MAX_TOLD = 20


def check_index(store: ObjectStore, manifest: Manifest, *, deep: bool) -> tuple[list[Damage], list[str]]:
    """Damage, and notes: that it is stale or behind is none, as it is not believed then.

    Args:
        manifest: of a backup that has an index.
        deep: compare every row with the segments' own indexes.

    Raises:
        StorageError: the store failed.
    """
    key = index_head_key(manifest.backup_id)
    try:
        index = open_index(store, manifest.backup_id)
        standing = index.standing(manifest)
        if standing.strange:
            return [], [f"the block index is stale, and not used: {'; '.join(standing.strange)}; {INDEX_HINT}"]
        notes = []
        if standing.covered < standing.segments:
            notes.append(f"the block index covers {standing.covered} of {standing.segments} segments; {INDEX_HINT}")
        return _lies(store, manifest, index, deep=deep), notes
    except (BlockIndexUnreadable, SealBroken, UnsupportedFormat, NotAnObject, ObjectTooLarge) as error:
        return [damage_of(error, str(error.context.get("object", key)))], []


def _lies(store: ObjectStore, manifest: Manifest, index: BlockIndex, *, deep: bool) -> list[Damage]:
    listed = {
        SegmentPlace(topic.name, partition.partition, reference.sequence): reference
        for topic in manifest.topics
        for partition in topic.partitions
        for reference in partition.segments
    }
    key = index_head_key(manifest.backup_id)
    found: list[Damage] = []
    count = seen = 0
    for segment in index.segments():
        seen += 1
        reference = listed.get(segment.place)
        complaint = "the manifest does not list it" if reference is None else segment.complaint(reference)
        if reference is not None and not complaint and deep:
            complaint = _difference(store, manifest.backup_id, reference, segment)
        if complaint:
            count += 1
            place = segment.place
            if count <= _MAX_TOLD:
                what = f"the block index lies about segment {place.sequence} of {place.topic}[{place.partition}]: {complaint}"
                found.append(Damage(object=key, position=None, what=f"{what}; {INDEX_HINT}"))
    if count > _MAX_TOLD:
        found.append(Damage(object=key, position=None, what=f"the block index lies about {count - _MAX_TOLD} more segments"))
    if seen != index.head.segment_count:
        what = f"the block index covers {index.head.segment_count} segments, and has blocks of {seen}; {INDEX_HINT}"
        found.append(Damage(object=key, position=None, what=what))
    return found


def _difference(store: ObjectStore, backup_id: str, reference: SegmentRef, segment: IndexedSegment) -> str:
    try:
        own = SegmentReader(store, backup_id, reference).index().blocks
    except (IntegrityError, UnsupportedFormat):
        return ""  # which is told where the segment itself is looked at
    for said, block in zip(segment.blocks, own, strict=True):
        for field, value in said._asdict().items():
            if getattr(block, field) != value:
                return f"{field} {value} of the block at byte {block.position}, its own index says {getattr(block, field)}"
    return ""
