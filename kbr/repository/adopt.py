"""Segments that are in the store and in no manifest: committed by a run that ended before it could list them.

A segment carries all that a manifest says of it, so it is taken over, after all of it has been read and checked.
What can't be taken over is told. Where manifests are to be signed, nothing proves such a segment of a plain backup. What is
done with both is kbr.repository.aside's. No Kafka.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from kbr.errors import IntegrityError, KbrError, ObjectMissing, UnsupportedFormat
from kbr.format.documents import Manifest, PartitionEntry
from kbr.model import RunStatus, SegmentRef, TopicPartition
from kbr.repository.layout import (
    SegmentName,
    key_below_backup,
    parse_segment_key,
    partition_prefix,
    relative_segment_key,
    topics_prefix,
)
from kbr.repository.sealing import lists_only
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore

__all__ = [
    "Unlisted",
    "check_segment",
    "names_behind",
    "unlisted_segments",
    "with_unlisted",
]

#: Read at once while an object is summed, bytes.
_PIECE_BYTES = 8 * 1024 * 1024
#: Objects that are read beside each other.
_READERS = 8
#: With more partitions than this one listing of all segments is quicker than one for each.
_FEW_PARTITIONS = 32


@dataclass(frozen=True, slots=True)
class Unlisted:
    """What a listing has beside the manifest.

    Attributes:
        segments: by partition, in order, checked.
        damaged: by key below the backup's folder, what is wrong.
        others: the same of what may be whole, and is of another version of kbr or of another topic of that name.
    """

    segments: dict[TopicPartition, list[SegmentRef]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """All that can't be taken over, with the reason."""
        return {**self.damaged, **self.others}


def unlisted_segments(
    store: ObjectStore, backup_id: str, positions: Mapping[TopicPartition, int], topic_ids: Mapping[str, str]
) -> Unlisted:
    """Find and check what lies behind the last listed segments.

    Args:
        positions: by partition, the first offset that no listed segment answers for; others are passed over.
        topic_ids: by name, what the backup knows; a segment of another one is not the same topic's. Empty matches all.

    Raises:
        StorageError: the store failed.
    """
    found = Unlisted()
    names = names_behind(store, backup_id, positions)
    if not names:
        return found

    def check(name: SegmentName) -> SegmentRef | KbrError | None:
        try:
            return check_segment(store, backup_id, name, topic_id=topic_ids.get(name.topic, ""))
        except ObjectMissing:
            return None  # listed, and gone when it was read: nothing to take over
        except (IntegrityError, UnsupportedFormat) as error:
            return error

    with ThreadPoolExecutor(min(_READERS, len(names)), thread_name_prefix="adopt") as pool:
        for name, result in zip(names, pool.map(check, names), strict=True):
            if isinstance(result, SegmentRef):
                found.segments.setdefault(_place(name), []).append(result)
            elif result is not None:
                is_other = isinstance(result, UnsupportedFormat) or "other_topic_id" in result.context
                (found.others if is_other else found.damaged)[relative_segment_key(*name)] = str(result)
    return found


def with_unlisted(store: ObjectStore, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The manifest of a run that is not known to have ended, with what it has committed since it wrote that.

    So a restore has all that is durable, whatever became of the run; but only what the manifest lists where that has to be
    signed, and nothing else proves a segment. Reads only.

    Returns:
        The manifest, and a sentence for each object that can't be taken over, or one for all.

    Raises:
        StorageError: the store failed.
    """
    if manifest.status is not RunStatus.RUNNING:
        return manifest, []
    positions = {
        TopicPartition(topic.name, partition.partition): partition.position
        for topic in manifest.topics
        for partition in topic.partitions
    }
    if lists_only(store, manifest.backup_id):
        return manifest, _left_out(names_behind(store, manifest.backup_id, positions), positions)
    found = unlisted_segments(
        store, manifest.backup_id, positions, {topic.name: topic.topic_id for topic in manifest.topics}
    )
    topics = tuple(
        replace(
            topic,
            partitions=tuple(
                _extended(partition, found.segments.get(TopicPartition(topic.name, partition.partition), []))
                for partition in topic.partitions
            ),
        )
        for topic in manifest.topics
    )
    notes = [f"{key} is in no manifest and is left out: {reason}" for key, reason in found.left_out.items()]
    return replace(manifest, topics=topics), notes


def _left_out(names: Sequence[SegmentName], positions: Mapping[TopicPartition, int]) -> list[str]:
    follow = {_place(name) for name in names if name.sequence == positions[_place(name)]}
    if not follow:
        return []
    segments = sum(_place(name) in follow for name in names)
    return [
        f"what the run that is called running has stored and not listed yet is left out, as only what is signed is used "
        f"(segments: {segments}, partitions: {len(follow)}): the next backup run reads it from the cluster again, and what that "
        "has deleted meanwhile is a gap then"
    ]


def _extended(partition: PartitionEntry, more: list[SegmentRef]) -> PartitionEntry:
    added: list[SegmentRef] = []
    position = partition.position
    for reference in more:
        if reference.sequence == position:
            added.append(reference)
            position = reference.next_offset
    if not added:
        return partition
    return replace(
        partition,
        next_offset=max(partition.next_offset, position),
        end_offset_exclusive=max(partition.end_offset_exclusive, position),
        record_count=partition.record_count + sum(one.record_count for one in added),
        segments=(*partition.segments, *added),
    )


def check_segment(store: ObjectStore, backup_id: str, name: SegmentName, *, topic_id: str) -> SegmentRef:
    """Read a whole segment and check it against itself and its name; what a manifest has to say of it.

    Raises:
        CorruptSegment: it is damaged, or another than its name says.
        UnsupportedFormat: it is of another version.
        ObjectMissing: it is not there.
        StorageError: it can't be read.
    """
    key = relative_segment_key(*name)
    reader = SegmentReader(store, backup_id, key)
    index = reader.index()
    if topic_id and index.identity.topic_id and index.identity.topic_id != topic_id:
        raise IntegrityError(
            f"{reader.key}: a segment of another topic of that name (id {index.identity.topic_id}, not {topic_id})",
            hint="it is left where it is",
            object=reader.key,
            other_topic_id=index.identity.topic_id,
        )
    digest = hashlib.sha256()
    position = 0
    while position < index.index_position:
        piece = store.read_range(reader.key, position, min(_PIECE_BYTES, index.index_position - position))
        digest.update(piece)
        position += len(piece)
    if digest.digest() != index.content_sha256:
        raise IntegrityError(
            f"{reader.key}: its SHA-256 is not the one that its index says",
            hint="it is not taken over",
            object=reader.key,
        )
    tail = reader.index_frame()
    digest.update(tail)
    return index.segment_ref(key=key, stored_bytes=position + len(tail), sha256=digest.hexdigest())


def names_behind(store: ObjectStore, backup_id: str, positions: Mapping[TopicPartition, int]) -> list[SegmentName]:
    """Segments behind the last listed ones, in order."""
    return sorted(
        (name for name in _listed(store, backup_id, positions) if name.sequence >= positions[_place(name)]),
        key=lambda name: (name.topic, name.partition, name.sequence),
    )


def _listed(store: ObjectStore, backup_id: str, partitions: Iterable[TopicPartition]) -> Iterator[SegmentName]:
    wanted = set(partitions)
    prefixes = [topics_prefix(backup_id)]
    if len(wanted) <= _FEW_PARTITIONS:
        prefixes = [partition_prefix(backup_id, *one) for one in sorted(wanted)]
    for prefix in prefixes:
        for info in store.list(prefix):
            name = parse_segment_key(key_below_backup(backup_id, info.key))
            if name is not None and _place(name) in wanted:
                yield name


def _place(name: SegmentName) -> TopicPartition:
    return TopicPartition(name.topic, name.partition)
