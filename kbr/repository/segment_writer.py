"""Writes one segment: frames into an upload as they come, then the index, then the commit.

Knows no Kafka and no compression: frames come ready. A segment is a commit: before commit() has
returned it is not there for anybody, and it never takes the place of one that counts. Not thread-safe; may be used by different threads in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from kbr.errors import IntegrityError, KbrError, PreconditionFailed, StorageError
from kbr.format.blocks import BlockStats
from kbr.format.segment import (
    MAX_BLOCKS,
    SEGMENT_VERSION,
    SegmentAssembler,
    SegmentIdentity,
    parse_index,
)
from kbr.model import SegmentRef
from kbr.repository.layout import relative_segment_key, segment_key
from kbr.storage.base import CommitsTogether, ObjectInfo, ObjectStore, Upload

__all__ = ["SegmentWriter", "commit_segments"]


class SegmentWriter:
    """One segment on its way into a store; unusable after its first error.

    The upload is opened by the first append(), so a writer that gets no block leaves no trace.

    Args:
        store: where to.
        identity: whose segment it is; the key follows from it.
        before_commit: called right before the commit of the whole upload; if it raises, the segment is not
            committed. A lease's check(), so that a run that has lost its backup adds nothing to it.
        replaces: keys below the backup's folder where a segment lies that counts for nothing: this one may take its place.

    Raises:
        UsageError, ValueError: a name or number that can't be in a segment.
    """

    def __init__(
        self,
        store: ObjectStore,
        identity: SegmentIdentity,
        *,
        before_commit: Callable[[], None] | None = None,
        replaces: Collection[str] = (),
    ) -> None:
        facts = (identity.topic, identity.partition, identity.sequence, identity.compression)
        self._store = store
        self._identity = identity
        self._relative_key = relative_segment_key(*facts)
        self._key = segment_key(identity.backup_id, *facts)
        self._before_commit = before_commit
        self._if_absent = self._relative_key not in replaces
        self._assembler = SegmentAssembler(identity)
        self._upload: Upload | None = None
        self._ended = ""

    @property
    def key(self) -> str:
        """The segment's key in the store."""
        return self._key

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames appended so far; after commit() of the object."""
        return self._assembler.stored_bytes

    @property
    def record_count(self) -> int:
        """Records appended so far."""
        return self._assembler.record_count

    @property
    def is_full(self) -> bool:
        """Whether the segment can't take another block, whatever its size."""
        return self._assembler.block_count >= MAX_BLOCKS

    def append(self, frame: bytes, raw_bytes: int, stats: BlockStats, leader_epoch: int = -1) -> None:
        """Write the next block's frame.

        Args:
            frame: as it is to be stored.
            raw_bytes: size of the block in it.
            stats: of that block.
            leader_epoch: of its last record; -1 for unknown.

        Raises:
            StorageError: the store failed, or the writer is not usable any more.
            ValueError: the block doesn't follow the one before it, or the segment is full.
        """
        with self._usable():
            self._assembler.add(frame, raw_bytes, stats, leader_epoch)
            if self._upload is None:
                self._upload = self._store.open_upload(
                    self._key,
                    if_absent=self._if_absent,
                    metadata={
                        "kbr-writer": self._identity.writer,
                        "kbr-format": str(SEGMENT_VERSION),
                    },
                )
            self._upload.write(frame)

    def commit(self, next_offset: int) -> SegmentRef:
        """Write the index and make the segment durable and visible, whole.

        Args:
            next_offset: first offset that the segment does not answer for.

        Returns:
            What the manifest has to say of it.

        Raises:
            StorageError: the store failed; the segment is not there.
            KbrError: ``before_commit`` raised it; the segment is not there.
            PreconditionFailed: another writer's segment is there; it stays as it is.
            IntegrityError: what was to be written, or what the store has, is not the segment.
            ValueError: there is no block, or one reaches beyond ``next_offset``.
        """
        with self._usable():
            upload, reference = self._complete(next_offset)
            self._ask()
            try:
                stored = upload.commit()
            except PreconditionFailed as error:
                raise self._taken() from error
            self._check(stored, reference)
        return reference

    def complete(self, next_offset: int) -> tuple[Upload, SegmentRef]:
        """The first part of commit(): the upload has all its bytes."""
        with self._usable():
            return self._complete(next_offset)

    def ask(self) -> None:
        """The second part of commit(): whether the upload may be committed; completed() is to be told what became of it."""
        with self._usable():
            self._ask()

    def completed(self, stored: ObjectInfo | KbrError, reference: SegmentRef) -> SegmentRef:
        """The last part of commit(), with what the store returned or raised."""
        with self._usable():
            if isinstance(stored, PreconditionFailed):
                raise self._taken() from stored
            if isinstance(stored, KbrError):
                raise stored
            self._check(stored, reference)
        return reference

    def _complete(self, next_offset: int) -> tuple[Upload, SegmentRef]:
        if self._upload is None:
            raise ValueError("a segment has at least one block")
        index_frame = self._assembler.finish(next_offset)
        reference = self._read_again(index_frame, next_offset)
        self._upload.write(index_frame)
        return self._upload, reference

    def _ask(self) -> None:
        if self._before_commit is not None:
            self._before_commit()

    def _taken(self) -> PreconditionFailed:
        return PreconditionFailed(
            f"{self._key}: another writer's segment is already there, and a segment is never replaced",
            hint="let only one kbr write this backup; then run the same command again: it goes on from what is there",
            object=self._key,
        )

    def _check(self, stored: ObjectInfo, reference: SegmentRef) -> None:
        if stored.size_bytes != reference.stored_bytes:
            raise IntegrityError(
                f"{self._key}: {reference.stored_bytes} bytes were written, the store has {stored.size_bytes}",
                hint="check the store: it changes what it is given",
                object=self._key,
            )
        self._ended = "it is committed"

    def abort(self) -> None:
        """Drop what was not committed; again, or after commit(), is fine."""
        upload, self._upload = self._upload, None
        if self._ended:
            return
        self._ended = "it was aborted"
        if upload is not None:
            upload.abort()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """One operation; the first that fails ends the writer and its upload."""
        if self._ended:
            raise StorageError(
                f"{self._key}: the segment can't be written further: {self._ended}",
                object=self._key,
            )
        try:
            yield
        except BaseException as error:
            upload, self._upload = self._upload, None
            self._ended = f"an earlier error ({type(error).__name__})"
            if upload is not None:
                _abort_after_error(upload)
            raise

    def _read_again(self, index_frame: bytes, next_offset: int) -> SegmentRef:
        """Parse the index that is about to be written: what can't be read must not be committed.

        A few tenths of a millisecond against a bug or a flipped bit that nobody would see before
        the restore (restic does the same with its packs).
        """
        assembler = self._assembler
        index = parse_index(index_frame, object_bytes=assembler.stored_bytes, name=self._key)
        if index.identity != self._identity or index.blocks != assembler.blocks or index.next_offset != next_offset:
            raise IntegrityError(
                f"{self._key}: the index reads otherwise than it was written",
                hint="this is a bug in kbr, or the machine's memory is failing",
                object=self._key,
            )
        return index.segment_ref(
            key=self._relative_key,
            stored_bytes=assembler.stored_bytes,
            sha256=assembler.sha256_hex(),
        )


def commit_segments(
    store: ObjectStore, jobs: Sequence[tuple[SegmentWriter, int]]
) -> list[SegmentRef | KbrError | ValueError]:
    """Commit several segments, together where the store gains by it; each as its own commit() would.

    Args:
        store: the writers'.
        jobs: writers and the first offset that their segments don't answer for.

    Returns:
        For each, what commit() would have returned or raised.
    """
    if len(jobs) == 1 or not isinstance(store, CommitsTogether):
        return [_outcome(writer.commit, next_offset) for writer, next_offset in jobs]
    try:
        return _commit_together(store, jobs)
    except BaseException:
        for writer, _next_offset in jobs:
            writer.abort()
        raise


def _commit_together(
    store: CommitsTogether, jobs: Sequence[tuple[SegmentWriter, int]]
) -> list[SegmentRef | KbrError | ValueError]:
    results: list[SegmentRef | KbrError | ValueError] = []
    whole: list[tuple[int, Upload]] = []
    for place, (writer, next_offset) in enumerate(jobs):
        completed = _outcome(writer.complete, next_offset)
        if isinstance(completed, tuple):
            whole.append((place, completed[0]))
            results.append(completed[1])
        else:
            results.append(completed)
    # when all are complete: what is asked is to be true at the commit
    allowed: list[tuple[int, Upload]] = []
    for place, upload in whole:
        refusal = _outcome(jobs[place][0].ask)
        if refusal is None:
            allowed.append((place, upload))
        else:
            results[place] = refusal
    infos = store.commit_together([upload for _place, upload in allowed])
    for (place, _upload), info in zip(allowed, infos, strict=True):
        results[place] = _outcome(jobs[place][0].completed, info, results[place])
    return results


_T = TypeVar("_T")


def _outcome(step: Callable[..., _T], *arguments: object) -> _T | KbrError | ValueError:
    try:
        return step(*arguments)
    except (KbrError, ValueError) as error:
        return error


def _abort_after_error(upload: Upload) -> None:
    try:
        upload.abort()
    except KbrError:
        # The error that made it necessary is the one to tell; what is left is invisible to readers.
        return
