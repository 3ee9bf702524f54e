"""Captures what consumer groups have committed, before a pass fixes its ends, and keeps it in the backup.

What a group committed lies then at or before those ends, or is of records that came in between: nothing that the
backup has is ahead of it. Groups never hold up records: what can't be had is told, and the run goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from kbr import __version__
from kbr.errors import AuthorizationFailed, ClusterUnavailable, GroupsMissing, KbrError
from kbr.format.groups import MAX_GROUPS, GroupSnapshot
from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.groups import ConsumerGroups, GroupListing
from kbr.model import GroupOffsets, TopicPartition
from kbr.repository.groups import load_snapshot, save_snapshot
from kbr.storage import ObjectStore
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock

__all__ = ["GroupCapture", "GroupCounts"]

_log = get_logger("kbr.backup")

#: A capture begins no sooner than so many times its cost after the last one: 2 % of the time, however many groups.
COST_FACTOR = 50
#: No capture that failed for a coordinator that is away puts off the next one for longer.
AWAY_S = 300.0
_GLOB = re.compile(r"[*?\[]")
#: Groups that one line names.
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """What a run has captured last.

    Attributes:
        failed: why groups are not, or not all of them, in the backup; empty where they are.
        warnings: what is as it was asked for, and may not have been meant.
    """

    captured_at_ms: int | None
    groups: int
    offsets: int
    other_offsets: int
    failed: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class GroupCapture:
    """One run's captures.

    Args:
        patterns: names and globs of the groups to take.
        check_lock: raises Locked when the backup is another run's by now.
    """

    def __init__(
        self,
        groups: ConsumerGroups,
        store: ObjectStore,
        *,
        backup_id: str,
        cluster_id: str,
        patterns: Collection[str],
        check_lock: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._groups = groups
        self._store = store
        self._backup_id = backup_id
        self._cluster_id = cluster_id
        self._patterns = patterns
        self._check_lock = check_lock
        self._clock = clock
        self._due_at = clock.monotonic()
        self._at_ms = 0
        self._found: list[GroupOffsets] | None = None
        self._unread: dict[str, str] = {}
        self._too_many = 0
        self._failure = ""
        #: What is told is that the cluster, or a part of it, was out of reach.
        self._is_outage = False
        self._kept: GroupSnapshot | None = None
        self._known: dict[str, GroupListing] | None = None
        #: Log lines that were given: each once.
        self._told: set[str] = set()
        self._unmatched: list[str] = []
        self._dropped = ""

    def look(self) -> None:
        """Ask what the groups have committed, unless it is too soon. To be called right before ends are asked for."""
        begun = self._clock.monotonic()
        before, self._found = self._found, None
        if begun < self._due_at:
            return
        try:
            answer = {one.group: one for one in self._groups.listed()}
            begun = self._clock.monotonic()  # what went by until brokers answered is no cost of the groups
            # a coordinator that has just started lists nothing, without an error: groups that the backup has are asked for
            answer = {**self._known_before(), **answer}
            listed = [answer[group] for group in sorted(answer) if self._is_meant(group)]
            hidden = self._hidden(answer)
            self._unmatched = [
                f"no consumer group matches {pattern}: nothing is kept of it"
                for pattern in self._patterns
                if pattern != "*" and pattern not in hidden and not any(fnmatchcase(group, pattern) for group in answer)
            ]
            if "*" in self._patterns and not answer:
                self._unmatched.append("no consumer group is to be seen: there is none, or the user lacks Describe on the groups")
            for sentence in self._unmatched:
                self._warn(sentence)
            self._too_many = max(0, len(listed) - MAX_GROUPS)
            at_ms = self._clock.now_ms()
            found, unread = self._groups.offsets(listed[:MAX_GROUPS])
            unread.update(hidden)
        except KbrError as error:
            if _is_given_up(error):
                self._give_up(before)
            else:
                self._fail(f"the consumer groups could not be read: {error}", error)
        else:
            if any(_is_given_up(why) for why in unread.values()):
                self._give_up(before)
                return
            now = self._clock.monotonic()
            self._due_at = now + COST_FACTOR * (now - begun)
            for group, why in unread.items():
                if isinstance(why, ClusterUnavailable) and group in self._known_before():
                    # what the backup has of it is older, and better than nothing: nobody misses a record by it
                    self._due_at = min(self._due_at, now + AWAY_S)
                    self._fail(f"the consumer groups could not be read anew: {group}: {why}", why)
                    return
            self._at_ms, self._found = at_ms, found
            self._unread = {group: str(error) for group, error in unread.items()}

    def keep(
        self, topics: Mapping[str, int], offsets: Mapping[TopicPartition, PartitionOffsets]
    ) -> None:
        """Write what look() found, if it is something new.

        Args:
            topics: of the backup, with their partition counts; offsets of others are counted, not kept.
            offsets: of their logs, asked for after look().

        Raises:
            Locked: the backup is another run's by now.
        """
        if self._found is None:
            return
        found, self._found = self._found, None
        groups: list[GroupOffsets] = []
        other = 0
        for one in found:
            kept = {key: value for key, value in one.offsets.items() if key.partition < topics.get(key.topic, 0)}
            other += len(one.offsets) - len(kept)
            if kept:
                groups.append(
                    GroupOffsets(group=one.group, kind=one.kind, state=one.state, offsets=kept)
                )
        used = {key.topic for one in groups for key in one.offsets}
        snapshot = GroupSnapshot(
            kbr_version=__version__,
            backup_id=self._backup_id,
            cluster_id=self._cluster_id,
            captured_at_ms=self._at_ms,
            groups=tuple(sorted(groups, key=lambda one: one.group)),
            log_ends={
                topic: tuple(
                    -1 if (log := offsets.get(TopicPartition(topic, number))) is None else log.high_watermark
                    for number in range(topics[topic])
                )
                for topic in sorted(used)
            },
            other_offsets=other,
            unread=self._unread,
        )
        if self._kept is not None and (snapshot.groups, snapshot.unread) == (self._kept.groups, self._kept.unread):
            self._failure = ""
            return  # nobody has read anything since
        self._check_lock()
        try:
            save_snapshot(self._store, snapshot)
        except KbrError as error:
            self._fail(f"the consumer group offsets could not be written: {error}", error)
            return
        self._check_lock()
        self._see_dropped()
        self._kept = snapshot
        self._known = _listings(snapshot)
        self._failure = ""

    def forgive_outage(self) -> None:
        """A continuous run is stopped while the cluster is away, which is no fault of its: what it had kept before stays."""
        if self._is_outage and self._kept is not None:
            self._failure = ""

    @property
    def counts(self) -> GroupCounts:
        """What is in the backup now, by this run."""
        kept = self._kept
        failed = [self._failure] if self._failure else []
        if self._too_many:
            failed.append(
                f"{_groups(self._too_many)} {'was' if self._too_many == 1 else 'were'} left out: a backup takes {MAX_GROUPS:,}; name those that matter in "
                "backup.consumer_groups"
            )
        failed.extend(f"consumer group {group}: {why}" for group, why in ({} if kept is None else kept.unread).items())
        return GroupCounts(
            captured_at_ms=None if kept is None else kept.captured_at_ms,
            groups=0 if kept is None else len(kept.groups),
            offsets=0 if kept is None else sum(len(one.offsets) for one in kept.groups),
            other_offsets=0 if kept is None else kept.other_offsets,
            failed=tuple(failed),
            warnings=(*self._unmatched, *([self._dropped] if self._dropped else [])),
        )

    def _hidden(self, seen: Collection[str]) -> dict[str, KbrError]:
        """Groups that are named, and that the user may not see: a listing has none of them, and says nothing."""
        named = [one for one in self._patterns if one not in seen and not _GLOB.search(one)]
        answers = self._groups.describe(named) if named else {}
        return {group: answer for group, answer in answers.items() if isinstance(answer, AuthorizationFailed)}

    def _is_meant(self, group: str) -> bool:
        return any(fnmatchcase(group, pattern) for pattern in self._patterns)

    def _see_dropped(self) -> None:
        """A backup has one capture: groups that an earlier run was asked for, and this one is not, are gone with the first."""
        gone = sorted(group for group in self._known_before() if not self._is_meant(group)) if self._kept is None else []
        if gone:
            more = f" and {len(gone) - NAMES_SHOWN:,} more" if len(gone) > NAMES_SHOWN else ""
            self._dropped = (
                f"{_groups(len(gone))} of an earlier run, not asked for any more, went from the backup: {', '.join(gone[:NAMES_SHOWN])}{more}"
            )
            self._warn(self._dropped)

    def _warn(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            _log.warning("%s", sentence)

    def _known_before(self) -> dict[str, GroupListing]:
        """The groups that the backup has, of this run or an earlier one."""
        if self._known is None:
            try:
                self._known = _listings(load_snapshot(self._store, self._backup_id))
            except GroupsMissing:
                self._known = {}
            except KbrError as error:
                _log.warning("the groups that the backup has could not be read: %s", error)
                self._known = {}
        return self._known

    def _fail(self, sentence: str, error: KbrError) -> None:
        if self._failure != sentence:
            _log.warning("%s", sentence)
        self._failure = sentence
        self._is_outage = isinstance(error, ClusterUnavailable)

    def _give_up(self, before: list[GroupOffsets] | None) -> None:
        """The run was stopped meanwhile: what was captured before is as good as it was, and nothing has failed."""
        self._found = before
        _log.info("the consumer groups were not read anew, as the run was stopped: what was captured before stays")


def _groups(count: int) -> str:
    return f"{count:,} consumer group{'' if count == 1 else 's'}"


def _is_given_up(error: KbrError) -> bool:
    return error.context.get("given_up") is True


def _listings(snapshot: GroupSnapshot) -> dict[str, GroupListing]:
    return {one.group: GroupListing(group=one.group, kind=one.kind, state=one.state) for one in snapshot.groups}
