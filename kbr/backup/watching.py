"""What a running backup says to who asks, from any thread: what it is doing, and how far behind each topic is.

Only what the run knows already: ends of logs are as the last pass found them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

from kbr.backup.state import BackupState

__all__ = ["BackupNow", "BackupWatch", "Doing", "TopicNow"]


class Doing(Enum):
    """What a run is at, in words for people."""

    BEGINNING = "beginning"
    FETCHING = "fetching"
    BETWEEN_PASSES = "waiting for the next pass"
    BETWEEN_TRIES = "waiting for the next try"
    KAFKA = "waiting for Kafka"
    STORE = "waiting for the store"
    ENDING = "ending"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicNow:
    """One topic; offsets are sums over its partitions.

    Attributes:
        next_offset: up to here it is in the store, or was found to hold nothing.
        high_watermark: as last seen.
        lag: offsets between both, partition by partition: at most so many records.
    """

    topic: str
    partitions: int
    next_offset: int
    high_watermark: int
    lag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupNow:
    """The run at one moment."""

    doing: Doing
    topics: tuple[TopicNow, ...]


class BackupWatch:
    """Follows one run. The run's thread tells, any thread asks."""

    def __init__(self) -> None:
        self._doing = Doing.BEGINNING
        self._followed: tuple[BackupState, threading.RLock] | None = None

    def follow(self, state: BackupState, lock: threading.RLock) -> None:
        """From now on there is something to tell; ``lock`` guards ``state``."""
        self._followed = (state, lock)

    def does(self, doing: Doing) -> None:
        """The run is at something else now."""
        self._doing = doing

    def rests(self, doing: Doing) -> None:
        """It waits, for ``doing`` unless it waits already for what is away."""
        if self._doing not in (Doing.KAFKA, Doing.STORE):
            self._doing = doing

    def now(self) -> BackupNow:
        """The run now; without topics before it knows any."""
        if self._followed is None:
            return BackupNow(doing=self._doing, topics=())
        state, lock = self._followed
        with lock:
            places = state.places()
        topics = []
        for name, partitions in places.items():
            topics.append(
                TopicNow(
                    topic=name,
                    partitions=len(partitions),
                    next_offset=sum(reached for reached, _end in partitions),
                    high_watermark=sum(end for _reached, end in partitions),
                    lag=sum(max(0, end - reached) for reached, end in partitions),
                )
            )
        return BackupNow(doing=self._doing, topics=tuple(topics))
