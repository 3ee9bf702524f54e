"""Proves that a backup is what its manifest says: all objects there, unchanged, (deep) readable.

Reads only; never stops at the first damage but lists all of it, each entry with the object's name.
Several objects are read at once; memory is bounded by a range read and a block per thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kbr.errors import IntegrityError, KbrError, NotAnObject, ObjectMissing, ObjectTooLarge, RepositoryError
from kbr.format.compression import MAX_BLOCK_BYTES
from kbr.format.documents import Manifest
from kbr.format.oso_names import GROUPS_NAME, is_segment_name
from kbr.maintain.coverage import coverage_errors, incompleteness_notes
from kbr.maintain.index_check import check_index
from kbr.maintain.objects import ByteBudget, Damage, Findings, check_blocks, check_foreign, check_sha256, damage_of
from kbr.model import SegmentRef
from kbr.repository.groups import load_snapshot
from kbr.repository.layout import (
    KEYS_NAME,
    backup_folder,
    groups_key,
    index_head_key,
    is_unlisted_path,
    key_below_backup,
    manifest_key,
    parse_segment_key,
    segment_key,
)
from kbr.repository.open_segment import side_by_side
from kbr.storage.base import ObjectStore

__all__ = ["Damage", "VerifyProgress", "VerifyReport", "verify"]

#: Objects read at once. Hashing and scanning run at about 1 GB/s a core, so few threads keep the
#: cores busy; more than cores, because each waits for the store part of the time.
MAX_THREADS = 8
#: Objects that nobody listed are named up to this number, then counted.
_MAX_NOTES = 100
#: Objects beside manifest and segments that a backup may have (DESIGN section 3).
_KNOWN_PREFIXES = ("restores/", "locks/", "index/")
_KNOWN_NAMES = ("index.parquet", "groups.json", KEYS_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far a run is."""

    objects_done: int
    objects_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        deep: every block was decoded, not only every object hashed.
        objects: segments that were read to their end, damaged ones too.
        bytes: that were read and hashed, as stored.
        blocks, records: decoded and undamaged; 0 unless deep.
        errors: damage.
        notes: what is worth knowing and no damage: incompleteness that the manifest admits,
            objects that it does not list.
        presence_only: nothing was read, as the backup is encrypted and no key was given; ``bytes`` are those that lie there.
        encrypted: the backup is.
        signature_checked: one of the trusted keys has signed the manifest.
    """

    backup_id: str
    deep: bool
    objects: int
    bytes: int
    blocks: int
    records: int
    errors: tuple[Damage, ...]
    notes: tuple[str, ...]
    presence_only: bool = False
    encrypted: bool = False
    signature_checked: bool = False

    @property
    def exit_code(self) -> int:
        """4 if there is damage, else 0: an incomplete backup may be undamaged, a note says so."""
        return IntegrityError.exit_code if self.errors else 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "backup_id": self.backup_id,
            "deep": self.deep,
            "presence_only": self.presence_only,
            "encrypted": self.encrypted,
            "signature_checked": self.signature_checked,
            "undamaged": not self.errors,
            "objects": self.objects,
            "bytes": self.bytes,
            "blocks": self.blocks if self.deep else None,
            "records": self.records if self.deep else None,
            "errors": [{"object": one.object, "position": one.position, "what": one.what} for one in self.errors],
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }


def verify(
    store: ObjectStore,
    manifest: Manifest,
    *,
    deep: bool = False,
    on_progress: Callable[[VerifyProgress], None] | None = None,
    max_block_bytes: int = MAX_BLOCK_BYTES,
    threads: int = 0,
) -> VerifyReport:
    """Check a backup against its manifest.

    Args:
        store: where the backup is.
        manifest: the backup's, as Catalog.load() gives it.
        deep: decode every block, and compare what is in it with the index and the manifest.
        on_progress: told after each object, from the calling thread.
        max_block_bytes: the largest block that is accepted, bytes.
        threads: objects read at once; 0 is twice the cores, at most 8.

    Returns:
        All damage found; damage is never raised.

    Raises:
        StorageError: the store does not answer.
    """
    run = _Verification(store, manifest, deep=deep, max_block_bytes=max_block_bytes)
    return run.run(on_progress, threads or min(MAX_THREADS, 2 * (os.cpu_count() or 1)))


class _Verification:
    """One run."""

    def __init__(self, store: ObjectStore, manifest: Manifest, *, deep: bool, max_block_bytes: int) -> None:
        self._store = store
        self._manifest = manifest
        self._deep = deep
        self._max_block_bytes = max_block_bytes
        self._budget = ByteBudget(max_block_bytes)
        self._errors: list[Damage] = []
        self._notes: list[str] = [*manifest.notes, *incompleteness_notes(manifest)]
        self._has_index = False

    def run(self, on_progress: Callable[[VerifyProgress], None] | None, threads: int) -> VerifyReport:
        segments = self._check_coverage()
        present = self._check_presence(segments)
        bytes_total = sum(reference.stored_bytes for reference in present.values())
        objects = bytes_read = blocks = records = bytes_done = 0
        threads = side_by_side(present.values(), threads)
        results = zip(present.values(), self._read_all(present, threads), strict=True)
        for number, (reference, found) in enumerate(results, start=1):
            self._errors.extend(found.damage)
            objects += found.bytes_read == reference.stored_bytes
            bytes_read += found.bytes_read
            blocks += found.blocks
            records += found.records
            bytes_done += reference.stored_bytes
            if on_progress is not None:
                on_progress(
                    VerifyProgress(
                        objects_done=number,
                        objects_total=len(present),
                        bytes_done=bytes_done,
                        bytes_total=bytes_total,
                    )
                )
        if self._has_index:
            damage, notes = check_index(self._store, self._manifest, deep=self._deep)
            self._errors.extend(damage)
            self._notes.extend(notes)
        return VerifyReport(
            backup_id=self._manifest.backup_id,
            deep=self._deep,
            objects=objects,
            bytes=bytes_read,
            blocks=blocks,
            records=records,
            errors=tuple(self._errors),
            notes=tuple(self._notes),
        )

    # -- by the manifest and a listing ----------------------------------------------------

    def _check_coverage(self) -> dict[str, SegmentRef]:
        """Check the manifest against itself; gives its segments by their keys in the store."""
        backup_id = self._manifest.backup_id
        found: dict[str, SegmentRef] = {}
        for topic in self._manifest.topics:
            for partition in topic.partitions:
                self._errors.extend(
                    Damage(
                        object=manifest_key(backup_id),
                        position=None,
                        what=f"{topic.name}[{partition.partition}]: {complaint}",
                    )
                    for complaint in coverage_errors(partition)
                )
                for reference in partition.segments:
                    if reference.is_foreign:  # a key that was made anew from its facts
                        found[f"{backup_folder(backup_id)}{reference.key}"] = reference
                        continue
                    name = parse_segment_key(reference.key)
                    if name is None:
                        self._errors.append(
                            Damage(
                                object=manifest_key(backup_id),
                                position=None,
                                what=f"{reference.key!a} is not the key of a segment",
                            )
                        )
                        continue
                    found[segment_key(backup_id, *name)] = reference
        return found

    def _check_presence(self, segments: dict[str, SegmentRef]) -> dict[str, SegmentRef]:
        """Compare with a listing; what that puts in doubt, a look at the object decides."""
        sizes: dict[str, int] = {}
        unlisted: list[str] = []
        for info in self._store.list(backup_folder(self._manifest.backup_id)):
            if info.key in segments:
                sizes[info.key] = info.size_bytes
            elif self._manifest.made_by:
                self._look_at_foreign(info.key, unlisted)
            elif not self._is_known(info.key):
                unlisted.append(info.key)
            elif info.key == groups_key(self._manifest.backup_id):
                self._check_groups(info.key)
            elif info.key == index_head_key(self._manifest.backup_id):
                self._has_index = True
        self._note_unlisted(unlisted)
        present: dict[str, SegmentRef] = {}
        for key, reference in segments.items():
            size = sizes.get(key)
            if size != reference.stored_bytes:
                try:
                    size = self._size_in_doubt(key)
                except NotAnObject as error:
                    self._errors.append(damage_of(error, key))
                    continue
            if size is None:
                self._damage(key, None, "it is missing")
            elif size != reference.stored_bytes:
                what = f"it has {size} bytes, the manifest says {reference.stored_bytes}"
                self._damage(key, min(size, reference.stored_bytes), what)
            else:
                present[key] = reference
        return present

    def _look_at_foreign(self, key: str, unlisted: list[str]) -> None:
        """An object of another tool's backup: what it keeps beside its segments is its own business."""
        below = key_below_backup(self._manifest.backup_id, key)
        if below == GROUPS_NAME:
            self._check_groups(key)
        elif is_segment_name(below):
            unlisted.append(key)

    def _check_groups(self, key: str) -> None:
        """The consumer groups' offsets carry their own checksum."""
        try:
            load_snapshot(self._store, self._manifest.backup_id)
        except (RepositoryError, IntegrityError, NotAnObject, ObjectTooLarge) as error:
            self._errors.append(damage_of(error, key))

    def _size_in_doubt(self, key: str) -> int | None:
        """A listing may lag behind; the object itself does not."""
        try:
            return self._store.head(key).size_bytes
        except ObjectMissing:
            return None

    def _is_known(self, key: str) -> bool:
        below = key_below_backup(self._manifest.backup_id, key)
        return (
            key == manifest_key(self._manifest.backup_id)
            or below in _KNOWN_NAMES
            or below.startswith(_KNOWN_PREFIXES)
            or below.endswith("/segments.json")
        )

    def _note_unlisted(self, keys: list[str]) -> None:
        for key in keys[:_MAX_NOTES]:
            below = key_below_backup(self._manifest.backup_id, key)
            what = "it is no object of kbr's"
            if is_segment_name(below) or parse_segment_key(below) is not None:
                what = "the manifest does not list it"
            elif is_unlisted_path(below):
                what = "no manifest listed it when a run put it aside that may use only what is signed; nobody reads it"
            self._notes.append(f"{key} is there, but {what}")
        if len(keys) > _MAX_NOTES:
            self._notes.append(f"and {len(keys) - _MAX_NOTES} more objects like these")

    def _damage(self, key: str, position: int | None, what: str) -> None:
        self._errors.append(Damage(object=key, position=position, what=what))

    # -- by reading the objects -----------------------------------------------------------

    def _read_all(self, segments: dict[str, SegmentRef], threads: int) -> Iterator[Findings]:
        """Read objects by a pool, a few ahead of the one that is waited for; results in order."""
        with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
            pending: deque[Future[Findings]] = deque()
            try:
                for key, reference in segments.items():
                    pending.append(pool.submit(self._check, key, reference))
                    if len(pending) >= 2 * threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _check(self, key: str, reference: SegmentRef) -> Findings:
        """One object, in a thread of the pool."""
        try:
            if reference.is_foreign:
                return check_foreign(
                    self._store,
                    self._manifest.backup_id,
                    reference,
                    deep=self._deep,
                    max_block_bytes=self._max_block_bytes,
                )
            if self._deep:
                return check_blocks(
                    self._store,
                    self._manifest.backup_id,
                    reference,
                    max_block_bytes=self._max_block_bytes,
                    budget=self._budget,
                )
            return check_sha256(self._store, key, reference)
        except KbrError as error:
            # Damage is what is looked for; a store that does not answer says nothing about it.
            if error.retriable:
                raise
            return Findings(damage=(damage_of(error, key),))
