"""Segments that no manifest lists and that nobody can use: put aside, so that their places can be written to. No Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from kbr.errors import AccessDenied, ObjectMissing
from kbr.repository.layout import (
    SegmentName,
    backup_folder,
    relative_segment_key,
    unlisted_key,
    unlisted_prefix,
)
from kbr.repository.sealing import as_stored
from kbr.storage.base import ObjectStore

__all__ = ["PutAside", "put_aside"]

#: Read at once while an object is copied, bytes.
_PIECE_BYTES = 8 * 1024 * 1024
#: Objects that are copied beside each other.
_READERS = 8


@dataclass(frozen=True, slots=True)
class PutAside:
    """What put_aside() has done.

    Attributes:
        keys: where the copies are, in the store.
        in_the_way: keys below the backup's folder, of those that could not be removed: whoever writes there replaces them.
    """

    keys: tuple[str, ...] = ()
    in_the_way: frozenset[str] = frozenset()

    def told(self, why: str) -> str:
        """A sentence.

        Args:
            why: a clause that says for what reason they are of no use.
        """
        segments = "1 segment" if len(self.keys) == 1 else f"{len(self.keys)} segments"
        names = f"{self.keys[0]}{', ...' if len(self.keys) > 1 else ''}"
        stay = "" if not self.in_the_way else f" ({len(self.in_the_way)} could not be removed from their places, for lack of a right)"
        return (
            f"put {segments} aside that no manifest lists, {why}: {names}{stay}. The records are read "
            "from the cluster again; what it has deleted meanwhile is a gap"
        )


def put_aside(store: ObjectStore, backup_id: str, names: Sequence[SegmentName], check_lock: Callable[[], None]) -> PutAside:
    """Move segments that no manifest lists to where nobody reads them, so that nothing is in the way, and nothing lost.

    Each is copied as it is stored before it is removed: when that ends in between, it is there twice, and not copied again.

    Args:
        check_lock: raises where the backup is another run's by now; asked before anything is removed.

    Raises:
        StorageError: the store failed.
        Locked: as ``check_lock``.
    """
    if not names:
        return PutAside()
    store = as_stored(store)  # what is damaged does not open
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
