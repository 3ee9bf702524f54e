"""Checks one segment object: its SHA-256, or every block in it. What ``verify`` runs in threads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kbr.errors import CorruptSegment, KbrError
from kbr.format.blocks import BlockStats, scan_block
from kbr.format.segment import BlockEntry, SegmentIndex
from kbr.model import SegmentRef
from kbr.repository.kbak_reader import KbakReader
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.base import ObjectStore

__all__ = ["ByteBudget", "Damage", "Findings", "check_blocks", "check_foreign", "check_sha256", "damage_of"]

#: Bytes of one read where an object is only hashed.
_READ_BYTES = 8 * 1024 * 1024
#: Damaged blocks that are told of one object; the rest is counted.
_MAX_BLOCKS_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is wrong."""

    #: Key in the store; of the manifest where no single object is to blame.
    object: str
    #: Byte in the object; None where it is about the whole.
    position: int | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What came out of reading one object; blocks and records are the undamaged ones."""

    bytes_read: int = 0
    blocks: int = 0
    records: int = 0
    damage: tuple[Damage, ...] = ()


class ByteBudget:
    """What blocks that are decoded at the same time may have together: one alone may have any size. Thread-safe.

    kbr's own have 1 MiB, and none ever waits; hostile ones may each have all that one may.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        """Wait until there is room, and have it."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + size_bytes <= self._size)
            self._used += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= size_bytes
                self._changed.notify_all()


def damage_of(error: KbrError, key: str) -> Damage:
    """An error about an object, as damage."""
    position = error.context.get("position")
    return Damage(
        object=key,
        position=position if isinstance(position, int) else None,
        what=_without_key(str(error), key),
    )


def _without_key(message: str, key: str) -> str:
    """The object stands beside the message in a report; once is enough."""
    return message.removeprefix(f"{key}: ")


def check_sha256(store: ObjectStore, key: str, reference: SegmentRef) -> Findings:
    """Read an object piece by piece and compare its SHA-256 with the manifest's.

    Args:
        store: where it is.
        key: of the object, in the store.
        reference: what the manifest says of it.

    Raises:
        StorageError: it can't be read.
    """
    digest = hashlib.sha256()
    for start in range(0, reference.stored_bytes, _READ_BYTES):
        digest.update(store.read_range(key, start, min(_READ_BYTES, reference.stored_bytes - start)))
    return Findings(
        bytes_read=reference.stored_bytes,
        damage=_sha256_damage(key, digest.hexdigest(), reference),
    )


def _sha256_damage(key: str, digest: str, reference: SegmentRef) -> tuple[Damage, ...]:
    if digest == reference.sha256:
        return ()
    what = f"its SHA-256 is {digest}, the manifest says {reference.sha256}"
    return (Damage(object=key, position=None, what=what),)


def check_blocks(
    store: ObjectStore, backup_id: str, reference: SegmentRef, *, max_block_bytes: int, budget: ByteBudget
) -> Findings:
    """Read an object once: decode every block, compare all that is said of it, hash all bytes.

    Args:
        store: where it is.
        backup_id: whose it is.
        reference: what the manifest says of it.
        max_block_bytes: the largest block that is accepted, bytes.
        budget: shared by all that check at the same time.

    Raises:
        IntegrityError: its index can't be used, so nothing can be said of its blocks.
        StorageError: it can't be read.
    """
    reader = SegmentReader(store, backup_id, reference, max_block_bytes=max_block_bytes)
    index = reader.index()
    digest = hashlib.sha256()
    damage: list[Damage] = []
    damaged = blocks = records = largest = 0
    for number, (entry, frame) in enumerate(reader.read_frames(index.blocks)):
        digest.update(frame)
        try:
            with budget.hold(entry.raw_bytes):
                stats = scan_block(reader.decode_frame(entry, frame), name=reader.key, position=entry.position)
            _compare(reader.key, index, number, stats)
        except CorruptSegment as error:
            damaged += 1
            if damaged <= _MAX_BLOCKS_TOLD:
                damage.append(damage_of(error, reader.key))
            continue
        blocks += 1
        records += stats.record_count
        largest = max(largest, stats.max_record_bytes)
    if damaged > _MAX_BLOCKS_TOLD:
        what = f"{damaged - _MAX_BLOCKS_TOLD} more blocks are damaged"
        damage.append(Damage(object=reader.key, position=None, what=what))
    if not damage:
        damage.extend(_check_whole(reader, index, largest, digest.digest()))
        digest.update(reader.index_frame())
        damage.extend(_sha256_damage(reader.key, digest.hexdigest(), reference))
    return Findings(bytes_read=reference.stored_bytes, blocks=blocks, records=records, damage=tuple(damage))


def check_foreign(
    store: ObjectStore, backup_id: str, reference: SegmentRef, *, deep: bool, max_block_bytes: int
) -> Findings:
    """Read an object of another tool: its CRC-32, and its header against the manifest; deep: every record, too.

    Raises:
        IntegrityError: it is damaged, or another than the manifest says.
        StorageError: it can't be read.
    """
    reader = KbakReader(store, backup_id, reference, max_block_bytes=max_block_bytes)
    reader.check()
    blocks = reader.index().blocks if deep else ()
    return Findings(
        bytes_read=reference.stored_bytes, blocks=len(blocks), records=sum(block.record_count for block in blocks)
    )


def _compare(key: str, index: SegmentIndex, number: int, stats: BlockStats) -> None:
    """Compare what a block holds with what the index says of it."""
    entry: BlockEntry = index.blocks[number]
    checks = [
        ("record_count", entry.record_count, stats.record_count),
        ("first_offset", entry.first_offset, stats.first_offset),
        ("last_offset", entry.last_offset, stats.last_offset),
        ("min_timestamp", entry.min_timestamp, stats.min_timestamp),
        ("max_timestamp", entry.max_timestamp, stats.max_timestamp),
    ]
    if number == 0:
        checks.append(("first_timestamp", index.first_timestamp, stats.first_timestamp))
    if number == len(index.blocks) - 1:
        checks.append(("last_timestamp", index.last_timestamp, stats.last_timestamp))
    for field, said, found in checks:
        if said != found:
            raise CorruptSegment(
                f"{key}: the block in the frame at byte {entry.position} has {field} {found}, the index says {said}",
                object=key,
                position=entry.position,
            )


def _check_whole(reader: SegmentReader, index: SegmentIndex, largest: int, content_sha256: bytes) -> list[Damage]:
    """What only all blocks together tell."""
    found: list[Damage] = []
    if content_sha256 != index.content_sha256:
        what = f"the SHA-256 of its blocks is {content_sha256.hex()}, its index says "
        found.append(Damage(object=reader.key, position=0, what=what + index.content_sha256.hex()))
    if largest != index.max_record_bytes:
        what = f"its largest record has {largest} bytes, its index says {index.max_record_bytes}"
        found.append(Damage(object=reader.key, position=index.index_position, what=what))
    return found
