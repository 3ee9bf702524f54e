"""What a backup run tells while it goes on, each thing once: a pass may come every few seconds, for months.

Owns the log lines and warnings of the coordinator; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from kbr.backup.plan import BackupPlan
from kbr.backup.state import BackupState
from kbr.errors import ClusterUnavailable, KbrError
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock, utc_text

__all__ = ["Notices", "joined_text"]

_log = get_logger("kbr.backup")

#: Of a continuous backup: an open transaction that is this old is told of. transaction.max.timeout.ms is 15 minutes,
#: the default of clients' own 1 minute.
HANGING_TRANSACTION_MS = 300_000
#: Topics that one line names; a name has up to 249 characters.
NAMES_SHOWN = 5


class Notices:
    """One run's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: In order, each once.
        self._warnings: dict[str, None] = {}
        #: By topic, what was last told of partitions that can't be read.
        self._told: dict[str, str] = {}
        #: What of a continuous run is away: the cluster, the store.
        self._away: set[str] = set()

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that were given, for the report."""
        return tuple(self._warnings)

    @property
    def is_cluster_away(self) -> bool:
        """Whether the cluster was told to be out of reach, and not yet to be back."""
        return "cluster" in self._away

    def warn(self, sentence: str) -> None:
        """Say it in the log and in the report."""
        if sentence not in self._warnings:
            self._warnings[sentence] = None
            _log.warning("%s", sentence)

    def away(self, error: KbrError) -> None:
        """The cluster or the store is out of reach: one line, however often it is tried."""
        what = "cluster" if isinstance(error, ClusterUnavailable) else "store"
        if what not in self._away:
            self._away.add(what)
            _log.error("%s; trying again until it is back", error)

    def back(self, what: str) -> None:
        """It answers."""
        if what in self._away:
            self._away.discard(what)
            _log.info("the %s answers again", what)

    def stopped_while_away(self, heard_at_ms: int) -> None:
        """The run is stopped while the cluster is out of reach."""
        self.warn(
            f"the cluster was out of reach when the run was stopped; it was last heard of at {utc_text(heard_at_ms)}: what was "
            "committed is in the backup, what has come since is not"
        )

    def unreadable(self, plan: BackupPlan) -> None:
        """Partitions that a pass can't read: one line a topic, and another one when it changes."""
        errors: dict[str, list[str]] = {}
        for one in plan.partitions:
            if one.error:
                errors.setdefault(one.topic, []).append(one.error)
        for topic, found in errors.items():
            if self._told.get(topic) != found[0]:
                self._told[topic] = found[0]
                _log.error("%s: %s can't be read: %s", topic, _count(len(found), "partition"), found[0])

    def joined(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Topics and partitions that a pass has taken up: one line, however many there are."""
        text = joined_text(before, after)
        if text:
            _log.info("%s", text)

    def open_transactions(self, state: BackupState) -> None:
        """A transaction that nobody ends keeps back all that comes behind it."""
        now_ms = self._clock.now_ms()
        for key, gap in state.open_transactions().items():
            if now_ms - gap.detected_at_ms >= HANGING_TRANSACTION_MS:
                self.warn(
                    f"{key}: a transaction that began at offset {gap.start_offset} is still open after "
                    f"{HANGING_TRANSACTION_MS // 60_000} minutes: nothing behind it can be backed up; end it with "
                    "kafka-transactions.sh"
                )


def joined_text(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """What has joined the backup, in one line of bounded length; empty if nothing has.

    Args:
        before, after: partitions by topic.
    """
    new = {name: count for name, count in after.items() if name not in before}
    grown = {name: after[name] - count for name, count in before.items() if after.get(name, 0) > count}
    parts = []
    if new:
        parts.append(f"{_count(len(new), 'topic')} with {_count(sum(new.values()), 'partition')} ({_named(new)})")
    if grown:
        parts.append(f"{_count(sum(grown.values()), 'more partition')} of {_count(len(grown), 'topic')} ({_named(grown)})")
    return f"joined the backup: {', and '.join(parts)}" if parts else ""


def _named(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items())[:NAMES_SHOWN])
    left = len(counts) - NAMES_SHOWN
    return f"{shown} and {left:,} more" if left > 0 else shown


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
