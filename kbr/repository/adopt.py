"""Segments that are in the store and in no manifest: committed by a run that ended before it could list them.

A segment carries all that a manifest says of it, so it is taken over, after all of it has been read and checked.
What can't be taken over is told, and left where it is. Where manifests are to be signed, nothing proves such a segment of
a plain backup: it is put aside, so that its place can be written to, and its records are read from the cluster. No Kafka.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

from kbr.errors import AccessDenied, IntegrityError, ObjectMissing, UnsupportedFormat
from kbr.format.documents import Manifest, PartitionEntry
from kbr.model import RunStatus, SegmentRef, TopicPartition
from kbr.repository.layout import (
    SegmentName,
    backup_folder,
    key_below_backup,
    parse_segment_key,
    partition_prefix,
    relative_segment_key,
    topics_prefix,
    unlisted_key,
    unlisted_prefix,
)
from kbr.repository.sealing import lists_only
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore

__all__ = [
    "PutAside",
    "Unlisted",
    "check_segment",
    "count_unlisted",
    "put_aside",
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
        damaged: keys below the backup's folder, with what is wrong.
    """

    segments: dict[TopicPartition, list[SegmentRef]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


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
    names = _behind(store, backup_id, positions)
    if not names:
        return found

    def check(name: SegmentName) -> SegmentRef | str | None:
        try:
            return check_segment(store, backup_id, name, topic_id=topic_ids.get(name.topic, ""))
        except (IntegrityError, UnsupportedFormat) as error:
            return str(error)
        except ObjectMissing:
            return None  # listed, and gone when it was read: nothing to take over

    with ThreadPoolExecutor(min(_READERS, len(names)), thread_name_prefix="adopt") as pool:
        for name, result in zip(names, pool.map(check, names), strict=True):
            if isinstance(result, SegmentRef):
                found.segments.setdefault(_place(name), []).append(result)
            elif result is not None:
                found.damaged[relative_segment_key(*name)] = result
    return found


def count_unlisted(store: ObjectStore, backup_id: str, positions: Mapping[TopicPartition, int]) -> int:
    """How many segments lie behind the last listed ones, whatever is in them; by their names."""
    return len(_behind(store, backup_id, positions))


@dataclass(frozen=True, slots=True)
class PutAside:
    """What put_aside() has done.

    Attributes:
        keys: where the copies are, in the store.
        in_the_way: keys below the backup's folder, of those that could not be removed: whoever writes there replaces them.
    """

    keys: tuple[str, ...] = ()
    in_the_way: frozenset[str] = frozenset()

    def __str__(self) -> str:
        segments = "1 segment" if len(self.keys) == 1 else f"{len(self.keys)} segments"
        names = f"{self.keys[0]}{', ...' if len(self.keys) > 1 else ''}"
        stay = "" if not self.in_the_way else f" ({len(self.in_the_way)} could not be removed from their places, for lack of a right)"
        return (
            f"put {segments} aside that no manifest lists, as only what is signed is used: {names}{stay}. The records are read "
            "from the cluster again; what it has deleted meanwhile is a gap"
        )


def put_aside(
    store: ObjectStore, backup_id: str, positions: Mapping[TopicPartition, int], check_lock: Callable[[], None]
) -> PutAside:
    """Move what lies behind the last listed segments to where nobody reads it, so that nothing is in the way, and nothing lost.

    Each is copied before it is removed: when that ends in between, it is there twice, and not copied again.

    Args:
        positions: by partition, the first offset that no listed segment answers for; others are passed over.
        check_lock: raises where the backup is another run's by now; asked before anything is removed.

    Raises:
        StorageError: the store failed.
        Locked: as ``check_lock``.
    """
    names = _behind(store, backup_id, positions)
    if not names:
        return PutAside()
    there = {info.key: info.size_bytes for info in store.list(unlisted_prefix(backup_id))}

    def move(name: SegmentName) -> tuple[str, str] | None:
        below = relative_segment_key(*name)
        source = f"{backup_folder(backup_id)}{below}"
        try:
            target = _copied(store, source, (unlisted_key(backup_id, number, below) for number in count(1)), there)
        except ObjectMissing:
            return None  # listed, and gone when it was read
        check_lock()
        try:
            store.delete(source)
        except AccessDenied:  # a backup needs no right to delete
            return target, below
        return target, ""

    with ThreadPoolExecutor(min(_READERS, len(names)), thread_name_prefix="aside") as pool:
        done = [one for one in pool.map(move, names) if one is not None]
    return PutAside(tuple(key for key, _ in done), frozenset(below for _, below in done if below))


def _copied(store: ObjectStore, source: str, targets: Iterator[str], there: Mapping[str, int]) -> str:
    """Copy an object to the first of some keys that is not there; or find the copy that was made before."""
    size = store.head(source).size_bytes
    spans = [(at, min(_PIECE_BYTES, size - at)) for at in range(0, size, _PIECE_BYTES)]
    target = next(targets)
    while target in there:
        if there[target] == size and all(store.read_range(source, *span) == store.read_range(target, *span) for span in spans):
            return target
        target = next(targets)
    if len(spans) < 2:
        store.put(target, store.read_range(source, 0, size))
        return target
    upload = store.open_upload(target)
    try:
        for span in spans:
            upload.write(store.read_range(source, *span))
    except BaseException:
        upload.abort()
        raise
    upload.commit()
    return target


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
        return manifest, _left_out(_behind(store, manifest.backup_id, positions), positions)
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
    notes = [f"{key} is in no manifest and is left out: {reason}" for key, reason in found.damaged.items()]
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


def _behind(store: ObjectStore, backup_id: str, positions: Mapping[TopicPartition, int]) -> list[SegmentName]:
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
