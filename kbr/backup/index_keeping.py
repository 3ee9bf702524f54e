"""Keeps a backup's block index up beside its manifest. A run never fails for it: what is missing comes with a later one."""

from __future__ import annotations

from collections.abc import Callable

from kbr.errors import Interrupted, KbrError, Locked
from kbr.format.documents import Manifest
from kbr.repository.index_writing import IndexWriter
from kbr.storage import ObjectStore
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock, Deadline

__all__ = ["IndexKeeper"]

_log = get_logger("kbr.backup")

#: Segments that are added beside one checkpoint: their own indexes are read, 8 at a time, some 20 ms each from S3. Of an
#: old backup that had no index the rest comes with later checkpoints, and all of it at the run's end.
MOST_SEGMENTS = 2000
#: How long it is gone on with after the run was stopped, seconds.
STOPPED_PATIENCE_S = 10.0


class IndexKeeper:
    """One run's; one thread at a time.

    Args:
        check_lock: raises Locked when the backup is another run's by now.
        is_stopped: whether somebody wants the run to end.
        warn: gets what could not be done, for the run's report.
    """

    def __init__(
        self,
        store: ObjectStore,
        backup_id: str,
        *,
        kbr_version: str,
        check_lock: Callable[[], None],
        is_stopped: Callable[[], bool],
        warn: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._is_stopped = is_stopped
        self._warn = warn
        self._clock = clock
        self._patience: Deadline | None = None
        self._told: set[str] = set()
        self._writer = IndexWriter(
            store, backup_id, kbr_version=kbr_version, clock=clock, check_lock=check_lock, is_stopped=self._is_over
        )

    def checkpoint(self, manifest: Manifest) -> None:
        """Add what a manifest has just listed, as much as a checkpoint has time for.

        Raises:
            Locked: the backup is another run's by now.
        """
        self._follow(manifest, MOST_SEGMENTS)

    def finish(self, manifest: Manifest) -> None:
        """Add all that is missing; raises as checkpoint()."""
        self._follow(manifest, None)

    def _follow(self, manifest: Manifest, most: int | None) -> None:
        try:
            for problem in self._writer.follow(manifest, most=most).problems:
                self._tell(f"the block index ends before it: {problem}")
        except Locked:
            raise
        except Interrupted:
            _log.info("the block index is behind: the run was stopped. The next run adds what is missing")
        except KbrError as error:
            self._tell(f"the block index was not kept up: {error}; the next run tries again")

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._warn(what)

    def _is_over(self) -> bool:
        if not self._is_stopped():
            return False
        if self._patience is None:
            self._patience = Deadline(STOPPED_PATIENCE_S, clock=self._clock)
        return self._patience.passed
