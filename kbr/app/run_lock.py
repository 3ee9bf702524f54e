"""A run's lock on its backup or restore, with the lease that its processes look at: opened for a use case, held while it writes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from kbr.errors import StorageError
from kbr.repository.layout import LockPlace
from kbr.repository.lock import BackupLock, LockTimes, lock_storage
from kbr.runtime.lease import Lease
from kbr.storage import StorageOptions, open_store
from kbr.telemetry.logs import get_logger

__all__ = ["HeldLock", "NoLock", "RunLock"]

_log = get_logger("kbr.lock")

#: The part of a lock's life that is surely left when a write begins.
WRITE_SHARE = 1 / 10
#: The lease of a run that has no lock (Clock.boot_ns).
FOR_EVER_NS = 2**62


class RunLock:
    """One run's lock; a context manager for its files and connections. hold() is the lock itself.

    Args:
        storage: the backup's.
        verb: what the run does, for who is kept out.
        life_s: a run that has not renewed its lock for so long counts as dead.
        wait_s: how long to wait for what another run has.
    """

    def __init__(self, storage: StorageOptions, *, verb: str, life_s: float, wait_s: float) -> None:
        self._verb = verb
        self._wait_s = wait_s
        self._times = LockTimes(life_s=life_s)
        self._lease = Lease.create()
        # of its own: nobody else's requests stand before a heartbeat
        self._store = open_store(lock_storage(storage, self._times))

    @property
    def lease_path(self) -> Path:
        """For workers (kbr.runtime.lease)."""
        return self._lease.path

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.remove()
        self._lease.close()
        self._store.close()

    def hold(self, place: LockPlace, *, is_needed: bool = True) -> HeldLock:
        """Acquires when it is entered, releases when it is left.

        Args:
            is_needed: False: where the store may not be written to, go on without.
        """
        lock = BackupLock(self._store, place, verb=self._verb, lease=self._lease, times=self._times)
        left_s = self._times.life_s * WRITE_SHARE
        return HeldLock(lock, self._wait_s, left_s=left_s, without=None if is_needed else self._lease)

    def forgo(self, why: str) -> NoLock:
        """Stands for a lock where none may be kept: nobody else is kept out.

        Args:
            why: for the log.
        """
        return NoLock(self._lease, why)


class NoLock:
    """No lock, and a lease that does not end."""

    def __init__(self, lease: Lease, why: str) -> None:
        self._lease = lease
        self._why = why

    def __enter__(self) -> NoLock:
        _log.warning("no lock is kept (%s): see yourself that no other run does the same", self._why)
        self._lease.renew(FOR_EVER_NS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""

    def check(self) -> None:
        """Always come back."""


class HeldLock:
    """What is locked is this run's while this is entered.

    Args:
        left_s: what a check() has to find left of the lease, seconds.
        without: the lease of a run that may go on without a lock.
    """

    def __init__(self, lock: BackupLock, wait_s: float, *, left_s: float, without: Lease | None) -> None:
        self._lock = lock
        self._wait_s = wait_s
        self._left_s = left_s
        self._without = without
        self._is_held = False

    def __enter__(self) -> HeldLock:
        try:
            self._lock.acquire(self._wait_s)
            self._is_held = True
        except StorageError as error:
            if self._without is None or error.retriable:
                raise
            _log.warning("no lock can be kept (%s): see yourself that no other run does the same", error.message)
            self._without.renew(FOR_EVER_NS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_held:
            self._lock.release()

    def check(self) -> None:
        """Come back while it is this run's, and will be for as long as a small write takes.

        Raises:
            Locked: it is another's.
            StoreUnavailable: the store could not be reached for too long to know.
        """
        if self._is_held:
            self._lock.check(left_s=self._left_s)
