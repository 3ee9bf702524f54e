"""A rate limit that all worker processes of a run keep together, and that may change while they work.

One small file, mapped by every process: the asked rates, and for each the moment from which on more may pass (the
generic cell rate algorithm, ITU-T I.371 annex A: a bucket kept as one time stamp). Who wants to pass takes a slice
under the file's lock and settles afterwards what it really used. Knows bytes and records as numbers only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kbr.runtime.shared_page import SharedPage
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["CHECK_S", "UNLIMITED", "Allowance", "Pacer", "RateLimit", "shared_pacer"]

#: What is handed out at once, seconds of the asked rate: short, so that the flow is smooth and many workers share it
#: fairly; long enough that its cost (10 us) does not show.
SLICE_S = 0.01
#: How much of what was not used may be made up for, seconds of the asked rate. It makes good what sleeping too long
#: costs; any 10 s hold at most 1.5 % too much, any second 15 %.
CREDIT_S = 0.15

#: Who waits looks again after this, seconds: the limit may have changed, and so may the wish to go on.
CHECK_S = 0.05

_WHAT = "rate limit"
_MAGIC = b"kbrpace1"
#: Behind the magic: bytes per second, records per second (0: no limit); for each the time from which on more may pass
#: (monotonic s); bytes and records that have passed. Read under the lock only: struct writes zeros before it writes
#: numbers, and a rate of 0 would be no limit.
_NUMBERS = struct.Struct("<2d 2d 2d")
_SIZE = len(_MAGIC) + _NUMBERS.size


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most so many uncompressed record bytes (keys, values, headers) and records per second; 0 is no limit."""

    bytes_per_s: float = 0.0
    records_per_s: float = 0.0

    def __bool__(self) -> bool:
        return self.bytes_per_s > 0 or self.records_per_s > 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may pass now.

    Attributes:
        wait_s: nothing for so long; then ask again.
        max_bytes, max_records: about so much, if wait_s is 0; negative for no bound.
    """

    wait_s: float
    max_bytes: int
    max_records: int


UNLIMITED = Allowance(0.0, -1, -1)


class Pacer(SharedPage):
    """One process's view of the limit. Any of its threads may use it."""

    def __init__(self, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Open what create() made.

        Raises:
            WorkerError: it is not there any more, or something else.
        """
        super().__init__(path, magic=_MAGIC, size=_SIZE, what=_WHAT)
        self._clock = clock
        #: Up to then (monotonic s) nobody looks whether there is a limit: there was none.
        self._unlimited_until = 0.0

    @classmethod
    def create(cls, limit: RateLimit, *, clock: Clock = SYSTEM_CLOCK) -> Pacer:
        """Begin to pace a run; the file is the creator's to remove().

        Raises:
            WorkerError: there is no place for it.
        """
        now = clock.monotonic()
        page = _MAGIC + _NUMBERS.pack(limit.bytes_per_s, limit.records_per_s, now, now, 0.0, 0.0)
        return cls(cls.make("kbr-pace-", page, what=_WHAT), clock=clock)

    @property
    def limit(self) -> RateLimit:
        """As it is now."""
        with self._locked() as page:
            return RateLimit(page[0], page[1])

    @property
    def passed(self) -> tuple[int, int]:
        """(bytes, records) that were settled since the run began, while there was a limit."""
        with self._locked() as page:
            return int(page[4]), int(page[5])

    def change(self, limit: RateLimit) -> None:
        """Another limit, from now on; what was passed too much under the old one is paid at the new one."""
        self._unlimited_until = 0.0
        with self._locked() as page:
            now = self._clock.monotonic()
            for index, new in enumerate((limit.bytes_per_s, limit.records_per_s)):
                old, due = page[index], page[index + 2]
                debt = max(0.0, due - now) * old
                page[index] = new
                page[index + 2] = now + (debt / new if new > 0 else 0.0)

    def ask(self) -> Allowance:
        """What may pass now. It is taken already: settle() puts right what was used of it.

        Where there is no limit, a new one is seen CHECK_S later.
        """
        now = self._clock.monotonic()
        if now < self._unlimited_until:
            return UNLIMITED
        with self._locked() as page:
            if page[0] <= 0 and page[1] <= 0:
                self._unlimited_until = now + CHECK_S
                return UNLIMITED
            now = self._clock.monotonic()
            waits = 0.0
            for index in (0, 1):
                if page[index] > 0:
                    page[index + 2] = max(page[index + 2], now - CREDIT_S)
                    waits = max(waits, page[index + 2] - now)
            if waits > 0:
                return Allowance(waits, 0, 0)
            slices = [-1, -1]
            for index in (0, 1):
                rate = page[index]
                if rate > 0:
                    slices[index] = max(1, int(rate * SLICE_S))
                    page[index + 2] += slices[index] / rate
            return Allowance(0.0, slices[0], slices[1])

    def settle(self, allowance: Allowance, used_bytes: int, used_records: int) -> None:
        """Say what was used of an allowance: more, as a record goes whole, or less."""
        if allowance is UNLIMITED:
            return
        with self._locked() as page:
            for index, (taken, used) in enumerate(
                ((allowance.max_bytes, used_bytes), (allowance.max_records, used_records))
            ):
                if taken >= 0 and page[index] > 0:
                    page[index + 2] += (used - taken) / page[index]
            page[4] += used_bytes
            page[5] += used_records

    @contextmanager
    def _locked(self) -> Iterator[list[float]]:
        """The page's numbers, alone; they are written back."""
        with self._alone() as page:
            numbers = list(_NUMBERS.unpack_from(page, len(_MAGIC)))
            before = numbers.copy()
            yield numbers
            if numbers != before:
                _NUMBERS.pack_into(page, len(_MAGIC), *numbers)


@lru_cache(maxsize=1)
def shared_pacer(path: Path) -> Pacer:
    """A worker process's one view of its run's limit, from task to task."""
    return Pacer(path)
