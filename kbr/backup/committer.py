"""Commits segments beside the writing of the next ones, many at once where the store gains by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from kbr.model import SegmentRef
from kbr.repository.segment_writer import SegmentWriter, commit_segments
from kbr.storage import ObjectStore
from kbr.storage.base import CommitsTogether

__all__ = ["Committer"]

#: For a store whose commits are round trips: they are waits, not work.
_THREADS = 8
#: Segments committed at once, at most: each holds a file and a folder open.
_BATCH = 128
#: With more partitions than this, a batch is waited for so long, seconds.
_FEW_LANES, _GATHER_S = 8, 0.02


@dataclass(frozen=True, slots=True)
class _Job:
    writer: SegmentWriter
    next_offset: int
    on_committed: Callable[[SegmentRef], None]
    done: Future[None]


class Committer:
    """Threads that commit; errors are in what submit() returns."""

    def __init__(self, store: ObjectStore, *, lanes: int) -> None:
        self._store = store
        self._gather_s = _GATHER_S if lanes > _FEW_LANES else 0.0
        together = isinstance(store, CommitsTogether)
        self._batch = _BATCH if together else 1
        threads = 1 if together else max(1, min(_THREADS, lanes))
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._loop, name=f"commit-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, writer: SegmentWriter, next_offset: int, on_committed: Callable[[SegmentRef], None]
    ) -> Future[None]:
        """Commit it soon; ``on_committed`` is called by a thread of this object, then the result is there."""
        done: Future[None] = Future()
        self._queue.put(_Job(writer, next_offset, on_committed, done))
        return done

    def close(self) -> None:
        """Wait for all that was submitted; again is fine."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs = [job]
            last = False
            try:
                until = time.monotonic() + self._gather_s
                while len(jobs) < self._batch:
                    following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                    if following is None:
                        last = True
                        break
                    jobs.append(following)
            except Empty:
                pass  # what has come meanwhile is the batch
            self._commit(jobs)
            if last:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            results = commit_segments(self._store, [(job.writer, job.next_offset) for job in jobs])
        except BaseException as error:  # a thread's error must reach those who wait for it
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            try:
                if not isinstance(result, SegmentRef):
                    raise result
                job.on_committed(result)
            except BaseException as error:  # as above
                job.done.set_exception(error)
            else:
                job.done.set_result(None)
