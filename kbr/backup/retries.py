"""When to try partitions again that could not be read or written to their end. Pure but for the clock it is given."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kbr.errors import (
    FetchFailed,
    IntegrityError,
    KbrError,
    OffsetOutOfRange,
    StorageError,
    StoreFull,
    StoreUnavailable,
    WorkerCrashed,
)
from kbr.model import TopicPartition
from kbr.timing import Clock

__all__ = ["PartitionRetries"]

#: Tries of one partition in a row that don't get it any further.
MAX_TRIES = 5
#: From one try to the next, seconds: doubled each time, up to the cap.
BASE_DELAY_S = 0.2
MAX_DELAY_S = 30.0


@dataclass(slots=True)
class _Trouble:
    position: int
    tries: int
    since_s: float
    due_s: float


class PartitionRetries:
    """Counts what each partition's tries have come to.

    Args:
        full_deadline_s: how long a full store is waited for.
        for_ever: nothing is given up (a backup that goes on until it is stopped), only tried less often.
    """

    def __init__(
        self, *, clock: Clock, full_deadline_s: float, for_ever: bool, rng: random.Random | None = None
    ) -> None:
        self._clock = clock
        self._full_deadline_s = full_deadline_s
        self._for_ever = for_ever
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self._troubles: dict[TopicPartition, _Trouble] = {}
        #: Those that were due when somebody last asked: the next pass is about them.
        self._offered: set[TopicPartition] = set()

    def note(
        self,
        tried: Iterable[TopicPartition],
        failures: Mapping[TopicPartition, KbrError | None],
        positions: Mapping[TopicPartition, int],
        *,
        undone: Collection[TopicPartition] = (),
    ) -> None:
        """A pass has ended.

        What was due before it and is not in it (its topic is gone) is over, too; what became due meanwhile is not.

        Args:
            tried: what it was about.
            failures: those of them that were not read to their end, with what a worker said, if it said anything.
            positions: where each of those has come to.
            undone: those of them that were left as they are: the pass was ended early.
        """
        now = self._clock.monotonic()
        for key in {*tried, *self._offered}.difference(undone):
            if key not in failures:
                self._troubles.pop(key, None)
        self._offered = set()
        for key, error in failures.items():
            trouble = self._troubles.get(key)
            if trouble is None or trouble.position != positions[key]:
                trouble = self._troubles[key] = _Trouble(positions[key], 0, now, now)
            trouble.tries += 1
            if self._worth_it(trouble, error, now):
                ceiling = min(MAX_DELAY_S, BASE_DELAY_S * 2 ** min(trouble.tries, 16))
                trouble.due_s = now + self._rng.uniform(ceiling / 2, ceiling)
            else:
                trouble.due_s = math.inf

    def has_failed(self, key: TopicPartition) -> bool:
        """Whether its last try has."""
        return key in self._troubles

    def tries(self, key: TopicPartition) -> int:
        """How often it has failed in a row without getting any further."""
        trouble = self._troubles.get(key)
        return 0 if trouble is None else trouble.tries

    def due(self) -> set[TopicPartition]:
        """Those whose time has come, for the next pass."""
        now = self._clock.monotonic()
        self._offered = {key for key, trouble in self._troubles.items() if trouble.due_s <= now}
        return set(self._offered)

    def held_back(self) -> set[TopicPartition]:
        """Those that wait, or are given up; the others are for the next pass."""
        return self._troubles.keys() - self.due()

    def wait_s(self) -> float | None:
        """Until the next one is due, seconds; None if nothing is going to be tried again."""
        times = [trouble.due_s for trouble in self._troubles.values() if trouble.due_s != math.inf]
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    def _worth_it(self, trouble: _Trouble, error: KbrError | None, now: float) -> bool:
        if self._for_ever:
            return True
        if isinstance(error, StoreUnavailable):
            return False  # the store has been tried until its deadline
        if isinstance(error, StoreFull):
            return now - trouble.since_s < self._full_deadline_s
        # damage that was seen before anything was stored: what is fetched again is new
        again = error is None or isinstance(
            error, (OffsetOutOfRange, StorageError, WorkerCrashed, FetchFailed, IntegrityError)
        )
        return again and trouble.tries < MAX_TRIES
