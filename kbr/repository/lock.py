"""The lock on a backup: one run at a time writes it, on every store, and a run that has lost it stops by itself.

A thread keeps the claim (kbr.repository.lock_claim) by heartbeats, and renews the lease that all processes of the run
look at before they make something visible. When the store can't be reached, or the machine was suspended, the lease
ends and everybody waits; when it is back, the claim is made again, or the lease is lost for good.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from types import TracebackType

from kbr.errors import KbrError, Locked, StorageError, StoreUnavailable
from kbr.repository.layout import LockPlace
from kbr.repository.lock_claim import LockClaim, LockTimes
from kbr.repository.lock_process import LockProcess
from kbr.runtime.lease import Lease
from kbr.storage import ObjectStore, StorageOptions
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["BackupLock", "LockTimes", "lock_storage"]

_log = logging.getLogger("kbr.lock")

#: How soon a heartbeat that failed is tried again, in the time between two; the store has tried again by itself before.
_RETRY = 1 / 10


def lock_storage(options: StorageOptions, times: LockTimes) -> StorageOptions:
    """The same place for a lock: an operation that hangs is given up in time to try again within a lease."""
    return replace(
        options,
        deadline_s=min(options.deadline_s, times.request_s),
        connect_timeout_s=min(options.connect_timeout_s, times.request_s),
        read_timeout_s=min(options.read_timeout_s, times.request_s),
    )


class BackupLock:
    """One run's lock on one backup. acquire() and release() by one thread, check() by any.

    As a context manager it releases at the end; acquire() is the caller's.

    Args:
        store: one that nobody else waits for: opened with lock_storage().
        place: what is locked; a backup by its id.
        verb: what the run does, for who is kept out: ``backup``.
        lease: the run's; lost when this lock is, expired when it is released.
        process: who holds it; this process.
    """

    def __init__(
        self,
        store: ObjectStore,
        place: LockPlace | str,
        *,
        verb: str,
        lease: Lease,
        times: LockTimes | None = None,
        clock: Clock = SYSTEM_CLOCK,
        process: LockProcess | None = None,
    ) -> None:
        self._place = LockPlace.of(place)
        self._times = times or LockTimes()
        self._clock = clock
        self._lease = lease
        self._claim = LockClaim(store, self._place, verb=verb, times=self._times, clock=clock, process=process)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    def __enter__(self) -> BackupLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self, wait_s: float = 0.0) -> None:
        """Get the backup for this run, once; heartbeats begin.

        Beside ``wait_s`` it takes up to two thirds of a lock's life (40 s) where another's lock is old, to see whether
        its owner is still there.

        Args:
            wait_s: how long to wait for who has it.

        Raises:
            Locked: another run has it; its context says which.
            StoreUnavailable: the store doesn't answer, tried again for ``times.outage_s``.
            StorageError: no lock can be kept there.
        """
        if self._thread is not None:
            raise ValueError("a lock is acquired once")
        waiting = Deadline(wait_s, clock=self._clock)
        outage: Deadline | None = None
        while True:
            try:
                blocker = self._claim.attempt()
                if blocker is None:
                    break
                if wait_s > 0 and not waiting.passed:
                    _log.info("%s; waiting", blocker.message)
                    blocker = self._claim.wait_until_free(waiting)
                if blocker is not None:
                    raise blocker
                outage = None
            except StoreUnavailable:
                outage = outage or Deadline(self._times.outage_s, clock=self._clock)
                if outage.passed:
                    raise
                self._clock.sleep(1.0)
        self._lease.renew(self._claim.valid_until_ns)
        self._thread = threading.Thread(target=self._keep, name="lock-heartbeat", daemon=True)
        self._thread.start()

    def check(self, wait_s: float | None = None, *, left_s: float = 0.0) -> None:
        """Come back if the backup is surely this run's; where that isn't sure at the moment, wait until it is.

        Args:
            wait_s: for at most so long; ``times.outage_s`` unless given.
            left_s: see Lease.check().

        Raises:
            Locked: another run has, or has had, it.
            StoreUnavailable: the store could not be reached for so long.
        """
        if self._thread is None or not self._thread.is_alive():
            self._lease.lose(f"this run does not hold the lock on {self._place}")
        self._lease.check(self._times.outage_s if wait_s is None else wait_s, left_s=left_s)

    def release(self) -> None:
        """Give the backup up, if it is held; the lease ends. Never raises; a lock that can't be written ends by itself.

        Takes as long as two operations of the store at most, and what deleting old locks takes.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join(2 * self._times.request_s)
        is_lost = bool(self._lease.lost)
        self._lease.lose(f"this run has given {self._place} up")
        try:
            self._claim.release(is_lost=is_lost)
        except KbrError as error:
            _log.warning(
                "the lock on %s could not be released, and ends by itself in %.0f s: %s",
                self._place,
                self._times.life_s,
                error.message,
            )

    # -- heartbeats -----------------------------------------------------------------------

    def _keep(self) -> None:
        """The thread: an end of it that nobody asked for is the lock's end."""
        wait_s = self._times.beat_s
        try:
            while not self._stop.wait(wait_s):
                wait_s = self.beat()
        except Locked as error:
            self._lease.lose(error.message)
            _log.error("%s", error.message)
        except BaseException as error:  # whatever it is: workers must not go on without heartbeats
            self._lease.lose(f"the lock on {self._place} is not kept any more: {type(error).__name__}: {error}")
            _log.exception("the heartbeat of the lock on %s ended", self._place)

    def beat(self) -> float:
        """One heartbeat; how long to wait for the next, seconds.

        Raises:
            Locked: the lock is lost.
        """
        try:
            if not self._claim.renew():
                self._tell("the lease had ended: looking whether somebody has taken the backup over", failing=True)
                error = self._claim.recover()
                if error is not None:
                    raise error
        except StorageError as error:
            self._tell(f"no heartbeat: {error.message}", failing=True)
            return self._times.beat_s * _RETRY
        self._lease.renew(self._claim.valid_until_ns)
        self._tell("it is kept again", failing=False)
        return self._times.beat_s

    def _tell(self, words: str, *, failing: bool) -> None:
        """One line when it begins to fail, and one when it is over."""
        if failing is not self._is_failing:
            self._is_failing = failing
            _log.warning("the lock on %s: %s", self._place, words)
