"""The backups that a store holds: which there are, their manifests, their sums.

Reads only. A manifest that can't be read is an error of its own, never 'no such backup', and never
hides another backup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from kbr.errors import (
    BackupMissing,
    ManifestUnreadable,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    SealBroken,
    StorageError,
    WrongKey,
)
from kbr.format.documents import MAX_MANIFEST_BYTES, Manifest
from kbr.format.manifest_chosen import load_chosen_topics
from kbr.model import SegmentRef
from kbr.repository.foreign import load_any_manifest
from kbr.repository.layout import backup_folder, backup_id_of, is_left_before_a_backup, manifest_key
from kbr.repository.sealing import is_encrypted, signature_check
from kbr.storage.base import ObjectStore

__all__ = ["UNREADABLE", "BackupSummary", "Catalog", "known_time_range", "summarise"]

#: A manifest up to this size is read as a whole, bytes: 28,000 segments, 80 MB of memory.
SMALL_MANIFEST_BYTES = 16 * 1024 * 1024
#: Of a large one so much of its end is looked at, bytes: another tool's may end with a line break.
_END_BYTES = 8
#: Status of a backup whose manifest can't be read.
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSummary:
    """One line about one backup; numbers are None where the manifest can't be read."""

    backup_id: str
    #: The manifest's status, or ``unreadable``.
    status: str
    #: Why it is unreadable, else empty.
    error: str = ""
    created_at_ms: int | None = None
    updated_at_ms: int | None = None
    finished_at_ms: int | None = None
    topic_count: int | None = None
    partition_count: int | None = None
    segment_count: int | None = None
    gap_count: int | None = None
    record_count: int | None = None
    #: Blocks before compression, and objects as stored.
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    #: Smallest and largest timestamp of any record; None where no record has one.
    min_timestamp: int | None = None
    max_timestamp: int | None = None
    #: Of one whose status is ``running``: whether a run holds its lock; None for others, and where nobody can tell.
    lock_held: bool | None = None
    #: The other tool whose backup it is; empty for kbr's own, and where the manifest can't be read.
    made_by: str = ""
    encrypted: bool = False


class Catalog:
    """The backups below a store's root.

    Args:
        store: where they lie; stays open.
        max_manifest_bytes: the largest manifest that is read.
    """

    def __init__(self, store: ObjectStore, *, max_manifest_bytes: int = MAX_MANIFEST_BYTES) -> None:
        self._store = store
        self._max_manifest_bytes = max_manifest_bytes

    def backup_ids(self) -> list[str]:
        """Everything that has a manifest or a segment, in order of the names."""
        return sorted({one for info in self._store.list("") if (one := backup_id_of(info.key))})

    def has_objects(self, backup_id: str) -> bool:
        """Whether anything lies in the backup's folder but what a run leaves there that has not begun: locks, its keys."""
        folder = backup_folder(backup_id)
        return any(not is_left_before_a_backup(info.key[len(folder) :]) for info in self._store.list(folder))

    def load(self, backup_id: str) -> Manifest:
        """Read a backup's manifest.

        Raises:
            BackupMissing: nothing is there.
            ManifestUnreadable: something is there, but not a manifest that can be read.
            UnsupportedFormat: it is of another version, or another program's.
            StorageError: the store failed.
        """
        key = manifest_key(backup_id)
        try:
            data = self._read(key)
        except ObjectMissing as error:
            if self.has_objects(backup_id):
                raise ManifestUnreadable(
                    f"{key}: the manifest is not there, but other objects of the backup are",
                    hint="put it back from another copy; the run may have ended before its first",
                    object=key,
                ) from error
            raise BackupMissing(
                f"there is no backup {backup_id} at {self._store.url}",
                hint="kbr list shows the backups at a storage URL",
                backup_id=backup_id,
            ) from error
        except SealBroken as error:
            raise ManifestUnreadable(error.message, hint=error.hint, **error.context) from error
        manifest = load_any_manifest(data, name=key)
        if manifest.backup_id != backup_id:
            raise ManifestUnreadable(
                f"{key}: this is the manifest of backup {manifest.backup_id}",
                hint=f"a backup can be copied but not renamed: name the folder {manifest.backup_id}",
                object=key,
            )
        return manifest

    def _read(self, key: str) -> bytes:
        """A manifest's bytes; of a large one its beginning and its end are looked at before it is read.

        Raises:
            ManifestUnreadable: it is too large, or no manifest.
            ObjectMissing: it is not there.
            StorageError: it can't be read.
        """
        small = min(SMALL_MANIFEST_BYTES, self._max_manifest_bytes)
        try:
            return self._store.get(key, max_bytes=small)
        except ObjectTooLarge:
            size_bytes = self._store.head(key).size_bytes
        if size_bytes > self._max_manifest_bytes:
            raise ManifestUnreadable(
                f"{key}: the manifest has {size_bytes} bytes; {self._max_manifest_bytes} are read",
                hint="raise limits.max_manifest_bytes if the backup may be that large; else the object is damaged",
                object=key,
            )
        looked_at = min(_END_BYTES, size_bytes)
        begin, end = (self._store.read_range(key, at, looked_at) for at in (0, size_bytes - looked_at))
        if begin[:1] != b"{" or end.rstrip()[-1:] != b"}":
            raise ManifestUnreadable(
                f"{key}: this is no manifest, or it is cut off: {size_bytes} bytes that don't begin and end as one",
                hint="put back an intact copy of it; the segments are not affected, each carries its own index",
                object=key,
            )
        return self._store.get(key, max_bytes=self._max_manifest_bytes)

    def load_chosen(self, backup_id: str, wants: Callable[[str], bool]) -> Manifest:
        """Read a backup's manifest for the sake of some topics: of a large one, the others have no partitions.

        A million segments take 2.5 GB as a whole, those of one topic of fifty a fiftieth of it.

        Args:
            wants: whether a topic of that name is chosen.

        Raises:
            As load().
        """
        key = manifest_key(backup_id)
        try:
            size_bytes = self._store.head(key).size_bytes
        except ObjectMissing:
            return self.load(backup_id)
        if SMALL_MANIFEST_BYTES < size_bytes <= self._max_manifest_bytes:
            try:
                found = load_chosen_topics(
                    lambda start, length: self._store.read_range(key, start, length),
                    size_bytes,
                    wants,
                    signature_check(self._store, backup_id),
                )
            except SealBroken:  # damaged, or replaced meanwhile: who reads it as a whole is told
                found = None
            if found is not None and found.backup_id == backup_id:
                return found
        return self.load(backup_id)

    def summaries(self) -> Iterator[BackupSummary]:
        """One summary per backup, in order of the names; an unreadable one is among them.

        Raises:
            StorageError: the store does not answer.
        """
        for backup_id in self.backup_ids():
            try:
                manifest = self.load(backup_id)
            except (RepositoryError, StorageError) as error:
                if error.retriable:
                    raise
                encrypted = isinstance(error, WrongKey) or is_encrypted(self._store, backup_id)
                yield BackupSummary(backup_id=backup_id, status=UNREADABLE, error=str(error), encrypted=encrypted)
            else:
                yield replace(summarise(manifest), encrypted=is_encrypted(self._store, backup_id))


def summarise(manifest: Manifest) -> BackupSummary:
    """A backup's sums."""
    partitions = [partition for topic in manifest.topics for partition in topic.partitions]
    segments = [segment for partition in partitions for segment in partition.segments]
    earliest, latest = known_time_range(segments)
    return BackupSummary(
        backup_id=manifest.backup_id,
        status=manifest.status.value,
        created_at_ms=manifest.created_at_ms,
        updated_at_ms=manifest.updated_at_ms,
        finished_at_ms=manifest.finished_at_ms,
        topic_count=len(manifest.topics),
        partition_count=len(partitions),
        segment_count=len(segments),
        gap_count=sum(len(partition.gaps) for partition in partitions),
        record_count=sum(segment.record_count for segment in segments),
        raw_bytes=sum(segment.raw_bytes for segment in segments),
        stored_bytes=sum(segment.stored_bytes for segment in segments),
        min_timestamp=earliest,
        max_timestamp=latest,
        made_by=manifest.made_by,
    )


def known_time_range(segments: Iterable[SegmentRef]) -> tuple[int | None, int | None]:
    """Smallest and largest timestamp over segments; None, None where there is none.

    Timestamps below 0 are left out: -1 is Kafka's 'none'. A segment that holds such records has its
    first and last record's timestamps stand in for the smallest, which its entry does not know; of another tool's, for
    both.
    """
    lows: list[int] = []
    highs: list[int] = []
    for segment in segments:
        if segment.is_foreign:
            known = [one for one in (segment.start_timestamp, segment.end_timestamp) if one >= 0]
            lows.extend(known)
            highs.extend(known)
            continue
        if segment.max_timestamp < 0:
            continue
        highs.append(segment.max_timestamp)
        if segment.min_timestamp >= 0:
            lows.append(segment.min_timestamp)
            continue
        candidates = (segment.min_timestamp, segment.start_timestamp, segment.end_timestamp)
        lows.append(min((one for one in candidates if one >= 0), default=segment.max_timestamp))
    return min(lows, default=None), max(highs, default=None)
