"""Until when a run may write: one small file that all its processes map, renewed by the one that holds the lock.

The holder writes the moment up to which its lock is surely still its own; every process looks right before it makes
something visible. So a run that was paused, suspended or cut off stops by itself, before another can have taken over.
Knows nothing of locks and stores but a moment and a reason.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

from kbr.errors import Locked, StoreUnavailable
from kbr.runtime.shared_page import SharedPage
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["WAIT_S", "Lease", "shared_lease"]

#: How long who finds it expired waits for its renewal, seconds: as long as one operation of a store is tried again.
WAIT_S = 900.0
#: Who waits looks again after this, seconds.
CHECK_S = 0.1

_WHAT = "lease"
_MAGIC = b"kbrleas1"
#: Behind the magic: valid until (Clock.boot_ns); bytes of the reason why it is lost, 0 while it isn't. Then the reason.
#: Read and written under the file's lock only: struct writes numbers byte by byte.
_HEAD = struct.Struct("<qq")
_REASON_AT = len(_MAGIC) + _HEAD.size
_SIZE = 1024


class Lease(SharedPage):
    """One process's view of the lease. Any of its threads may use it."""

    def __init__(self, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Open what create() made.

        Raises:
            WorkerError: it is not there any more, or something else.
        """
        super().__init__(path, magic=_MAGIC, size=_SIZE, what=_WHAT)
        self._clock = clock

    @classmethod
    def create(cls, *, clock: Clock = SYSTEM_CLOCK) -> Lease:
        """Begin a run, with a lease that has expired until it is renewed; the file is the creator's to remove().

        Raises:
            WorkerError: there is no place for it.
        """
        return cls(cls.make("kbr-lease-", _MAGIC.ljust(_SIZE, b"\0"), what=_WHAT), clock=clock)

    # -- for who holds the lock -----------------------------------------------------------

    def renew(self, until_ns: int) -> None:
        """It is valid until then (Clock.boot_ns), unless it is lost: that stays."""
        with self._alone():
            _until, lost_bytes = self._head()
            _HEAD.pack_into(self._page, len(_MAGIC), until_ns, lost_bytes)

    def lose(self, reason: str) -> None:
        """It is lost for good; the first reason stays.

        Args:
            reason: what check() raises: one line.
        """
        data = (reason or "the lock is lost").encode()[: _SIZE - _REASON_AT]
        with self._alone():
            until_ns, lost_bytes = self._head()
            if not lost_bytes:
                self._page[_REASON_AT : _REASON_AT + len(data)] = data
                _HEAD.pack_into(self._page, len(_MAGIC), until_ns, len(data))

    # -- for who writes -------------------------------------------------------------------

    @property
    def remaining_s(self) -> float:
        """For how long it is still valid; 0 if it has expired or is lost."""
        until_ns, reason = self._read()
        return 0.0 if reason else max(0.0, (until_ns - self._clock.boot_ns()) / 1e9)

    @property
    def lost(self) -> str:
        """Why it is lost for good; empty while it isn't."""
        return self._read()[1]

    def check(self, wait_s: float = WAIT_S, *, left_s: float = 0.0) -> None:
        """Come back if it is valid; if it has expired, wait for its renewal.

        Args:
            wait_s: for at most so long.
            left_s: it has to be valid for so much longer: what the caller is about to do may take that long.

        Raises:
            Locked: it is lost: another run has, or has had, the backup.
            StoreUnavailable: it has not been renewed for so long.
        """
        deadline = Deadline(wait_s, clock=self._clock)
        while True:
            until_ns, reason = self._read()
            if reason:
                raise Locked(reason, hint="what was committed is kept; run the same command again when the other run has ended")
            if until_ns - self._clock.boot_ns() > left_s * 1e9:
                return
            if deadline.passed:
                raise StoreUnavailable(
                    f"the run's lock on the backup could not be renewed for {wait_s:.0f} s, so nothing may be written",
                    hint="check that the store can be reached, then run the same command again",
                )
            self._clock.sleep(min(CHECK_S, max(0.001, deadline.remaining_s())))

    # -- inner ----------------------------------------------------------------------------

    def _read(self) -> tuple[int, str]:
        with self._alone():
            until_ns, lost_bytes = self._head()
            reason = self._page[_REASON_AT : _REASON_AT + lost_bytes].decode(errors="replace")
        return until_ns, reason

    def _head(self) -> tuple[int, int]:
        until_ns, lost_bytes = _HEAD.unpack_from(self._page, len(_MAGIC))
        return until_ns, lost_bytes


@lru_cache(maxsize=1)
def shared_lease(path: Path) -> Lease:
    """A worker process's one view of its run's lease, from task to task."""
    return Lease(path)
