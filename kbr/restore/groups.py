"""Where consumer groups are put after a restore: the first restored record at or after what they had committed. Pure.

From a backup's groups, the offset map of a restore, and what the target says of its groups and logs. Promise 7: never
negative, never past the end, never skipping data that was restored and not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Protocol

from kbr.errors import KbrError, UsageError
from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.groups import GroupStanding
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition

__all__ = [
    "GroupFacts",
    "GroupPlan",
    "GroupRow",
    "OffsetMap",
    "Place",
    "Reason",
    "WithEmptyPartitions",
    "choose_groups",
    "infer_empty",
    "place_groups",
    "plan_groups",
]

#: No offset is as large: what the map says of it is the end of what was restored.
_BEYOND = 2**63 - 1


class OffsetMap(Protocol):
    """What a restore has put where."""

    def first_at_or_after(self, source: TopicPartition, offset: int) -> list[tuple[TopicPartition, int]]:
        """Target offset of the first restored record whose source offset is ``offset`` or larger.

        Behind the last one, it is one past the last one's target offset. Several target partitions when the source's
        records were spread over them; none when the partition was not part of the restore.
        """


class WithEmptyPartitions:
    """An offset map that also knows where partitions went of which no record was restored.

    Args:
        empty: source partition to the target's, and the offset that its first record would have got.
    """

    def __init__(self, offset_map: OffsetMap, empty: Mapping[TopicPartition, tuple[TopicPartition, int]]) -> None:
        self._map = offset_map
        self._empty = empty

    def first_at_or_after(self, source: TopicPartition, offset: int) -> list[tuple[TopicPartition, int]]:
        """As the map says; of an empty partition, its beginning, which is its end."""
        found = self._map.first_at_or_after(source, offset)
        return found or ([self._empty[source]] if source in self._empty else [])


def infer_empty(
    sources: Iterable[TopicPartition], offset_map: OffsetMap, bases: Mapping[TopicPartition, int]
) -> dict[TopicPartition, tuple[TopicPartition, int]]:
    """Where partitions went of which no record was restored, as far as that can be told from their neighbours.

    A partition keeps its number unless it was mapped; then the target has no base of that number, or another source's
    records there.

    Args:
        sources: the backup's partitions.
        bases: by target partition, its end before the restore; those that the restore did not write to are absent.
    """
    topics: dict[str, str] = {}
    fed: set[TopicPartition] = set()
    empty: list[TopicPartition] = []
    for source in sources:
        targets = [target for target, _ in offset_map.first_at_or_after(source, 0)]
        fed.update(targets)
        for target in targets:
            topics[source.topic] = target.topic
        if not targets:
            empty.append(source)
    found = {}
    for source in empty:
        # of a topic without any record, only the name tells
        target = TopicPartition(topics.get(source.topic, source.topic), source.partition)
        if target not in fed and target in bases:
            found[source] = (target, bases[target])
    return found


class Reason(str, Enum):
    """How a group's new offset was found; the words are for programs."""

    #: The very record that the group wants next was restored.
    SAME = "same"
    #: That one was not (a hole, a gap, a time window), a later one was.
    NEXT = "next"
    #: It wants records from before the first restored one.
    FIRST = "first"
    #: It has read all that was restored.
    END = "end"
    #: It has read more than is in the backup.
    BEYOND_BACKUP = "beyond_backup"
    #: The target has lost the record since: the first one that it still has.
    GONE = "gone"
    #: The partition was not part of the restore.
    NOT_RESTORED = "not_restored"
    #: The target can't tell, or has no such partition any more.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a group is put in one target partition.

    Attributes:
        offset: None where it is not put anywhere.
        source: the partition that decided it.
        committed: what the group had committed there.
    """

    offset: int | None
    reason: Reason
    why: str
    source: TopicPartition
    committed: CommittedOffset
    metadata: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One line of a plan.

    Attributes:
        group: in the target.
        source_group: in the backup.
        partition: in the target; in the source where the partition was not restored.
        old: what the target's group has committed now.
        new: what is to be committed; None where nothing is.
    """

    group: str
    source_group: str
    partition: TopicPartition
    old: CommittedOffset | None
    new: CommittedOffset | None
    reason: Reason
    why: str

    @property
    def changes(self) -> bool:
        """Whether there is something to commit."""
        if self.new is None:
            return False
        return self.old is None or (self.old.offset, self.old.metadata) != (self.new.offset, self.new.metadata)

    @property
    def rewinds(self) -> bool:
        """Whether the group would read again what it has read in the target."""
        return self.old is not None and self.new is not None and self.new.offset < self.old.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What the target says.

    Attributes:
        offsets: of the logs of target partitions.
        committed: of the target's groups.
        standings: of the target's groups.
    """

    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError]
    committed: Mapping[str, Mapping[TopicPartition, CommittedOffset] | KbrError]
    standings: Mapping[str, GroupStanding | KbrError]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """All that is to be done to groups.

    Attributes:
        rows: in the order of groups and partitions.
        states: of the target's groups, in Kafka's words.
        active: groups with members, whose offsets would change.
        failures: why groups can't be planned.
    """

    rows: tuple[GroupRow, ...]
    states: Mapping[str, str]
    active: tuple[str, ...]
    failures: Mapping[str, KbrError]

    @property
    def changes(self) -> dict[str, dict[TopicPartition, CommittedOffset]]:
        """What is to be committed, by group."""
        found: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        for row in self.rows:
            if row.changes and row.new is not None:
                found.setdefault(row.group, {})[row.partition] = row.new
        return found

    @property
    def rewinds(self) -> tuple[GroupRow, ...]:
        """What would move back."""
        return tuple(row for row in self.rows if row.rewinds)


def choose_groups(
    groups: Iterable[GroupOffsets], patterns: Sequence[str], group_mapping: Mapping[str, str]
) -> dict[str, GroupOffsets]:
    """The groups that are meant, by the names that they have in the target.

    Args:
        patterns: names and globs.
        group_mapping: group of the backup to group of the target; others keep their names.

    Raises:
        UsageError: a name or a mapping means no group, or two groups would become one.
    """
    there = {one.group: one for one in groups}
    chosen = [one for one in there if any(fnmatchcase(one, pattern) for pattern in patterns)]
    unknown = [pattern for pattern in patterns if not any(fnmatchcase(one, pattern) for one in there)]
    if unknown and list(patterns) != ["*"]:
        raise UsageError(
            f"no group in the backup matches {', '.join(unknown)}", hint="kbr groups list shows the backup's groups"
        )
    absent = sorted(set(group_mapping) - set(there))
    if absent:
        raise UsageError(
            f"the group mapping names {', '.join(absent)}, which is not among the backup's groups",
            hint="kbr groups list shows the backup's groups",
        )
    found: dict[str, GroupOffsets] = {}
    for name in sorted(chosen, key=lambda one: group_mapping.get(one, one)):
        target = group_mapping.get(name, name)
        if target in found:
            raise UsageError(
                f"groups {found[target].group} and {name} would both become {target}",
                hint="map one of them to another name",
            )
        found[target] = there[name]
    return found


def place_groups(
    groups: Mapping[str, GroupOffsets],
    offset_map: OffsetMap,
    archive_ends: Mapping[TopicPartition, int],
    record_ends: Mapping[TopicPartition, int] | None = None,
) -> dict[str, dict[TopicPartition, Place]]:
    """Where each group is put, by target partition; by source partition where that was not restored.

    Where several source partitions feed one target partition, the smallest of their offsets counts: nothing that the
    group has not read lies before it. Asks the map for one source partition after the other, by rising offsets: it
    keeps what is near in memory.

    Args:
        groups: by any name.
        archive_ends: by source partition, one past the last offset that the backup answers for.
        record_ends: by source partition, one past the backup's last record.
    """
    wanted: dict[TopicPartition, list[tuple[CommittedOffset, str]]] = {}
    for name, group in groups.items():
        for source, committed in group.offsets.items():
            wanted.setdefault(source, []).append((committed, name))
    found: dict[str, dict[TopicPartition, list[Place]]] = {name: {} for name in groups}
    left_out: dict[str, dict[TopicPartition, Place]] = {name: {} for name in groups}
    for source in sorted(wanted):
        firsts = dict(offset_map.first_at_or_after(source, 0))
        ends = dict(offset_map.first_at_or_after(source, _BEYOND))
        for committed, name in sorted(wanted[source], key=lambda one: one[0].offset):
            if not firsts:
                left_out[name][source] = Place(
                    offset=None,
                    reason=Reason.NOT_RESTORED,
                    why="the partition was not restored",
                    source=source,
                    committed=committed,
                )
                continue
            following = dict(offset_map.first_at_or_after(source, min(committed.offset + 1, _BEYOND)))
            answers = offset_map.first_at_or_after(source, committed.offset)
            last = (record_ends or {}).get(source, 0) - 1
            has_more = last >= committed.offset and all(offset == ends[target] for target, offset in answers)
            for target, offset in answers:
                reason, why = _reason(
                    committed.offset,
                    offset,
                    first=firsts[target],
                    following=following[target],
                    end=ends[target],
                    archive_end=archive_ends.get(source),
                    unrestored=last if has_more else None,
                    is_spread=len(answers) > 1,
                )
                place = Place(
                    offset=offset, reason=reason, why=why, source=source, committed=committed, metadata=committed.metadata
                )
                found[name].setdefault(target, []).append(place)
    _add_uncommitted(groups, offset_map, archive_ends, found)
    return {
        name: {**left_out[name], **{target: _smallest(places) for target, places in found[name].items()}}
        for name in groups
    }


def _add_uncommitted(
    groups: Mapping[str, GroupOffsets],
    offset_map: OffsetMap,
    archive_ends: Mapping[TopicPartition, int],
    found: Mapping[str, Mapping[TopicPartition, list[Place]]],
) -> None:
    """Partitions of its topics that a group has committed nothing for count as not read, where others share their target."""
    by_topic: dict[str, list[TopicPartition]] = {}
    for source in sorted(archive_ends):
        by_topic.setdefault(source.topic, []).append(source)
    firsts: dict[TopicPartition, list[tuple[TopicPartition, int]]] = {}
    for name, group in groups.items():
        for topic in sorted({source.topic for source in group.offsets}):
            for source in by_topic.get(topic, ()):
                if source in group.offsets:
                    continue
                if source not in firsts:
                    firsts[source] = offset_map.first_at_or_after(source, 0)
                for target, offset in firsts[source]:
                    if target in found[name]:
                        found[name][target].append(
                            Place(
                                offset=offset,
                                reason=Reason.FIRST,
                                why="nothing is committed for a partition that goes there too: its first restored record",
                                source=source,
                                committed=CommittedOffset(offset=0),
                            )
                        )


def _smallest(places: Sequence[Place]) -> Place:
    best = min(places, key=lambda place: place.offset or 0)
    if len(places) == 1:
        return best
    # what one source's consumer kept beside its offset says nothing of a mixture
    return replace(
        best, metadata="", why=f"{best.why}; {best.source} decides, of {len(places)} partitions that feed this one"
    )


def _reason(
    committed: int,
    offset: int,
    *,
    first: int,
    following: int,
    end: int,
    archive_end: int | None,
    unrestored: int | None,
    is_spread: bool,
) -> tuple[Reason, str]:
    if archive_end is not None and committed > archive_end:
        return (
            Reason.BEYOND_BACKUP,
            f"committed {committed}, the backup ends at {archive_end}: the end of what was restored",
        )
    if offset == end:
        what = "nothing was restored" if first == end else "all that was restored has been read"
        more = "" if unrestored is None else f"; the backup has records up to offset {unrestored} that are not restored"
        return Reason.END, f"committed {committed}: {what}{more}"
    if following > offset:
        return Reason.SAME, f"committed {committed}: that record"
    if offset == first:
        return Reason.FIRST, f"committed {committed}, before the first restored record"
    what = "was not restored to this partition" if is_spread else "was not restored"
    return Reason.NEXT, f"committed {committed}, which {what}: the next record"


def plan_groups(
    chosen: Mapping[str, GroupOffsets],
    offset_map: OffsetMap,
    facts: GroupFacts,
    archive_ends: Mapping[TopicPartition, int],
    record_ends: Mapping[TopicPartition, int] | None = None,
) -> GroupPlan:
    """What is to be done to the target's groups.

    Args:
        chosen: from choose_groups().
        archive_ends, record_ends: as place_groups() has them.
    """
    rows: list[GroupRow] = []
    failures: dict[str, KbrError] = {}
    active: list[str] = []
    states: dict[str, str] = {}
    placed = place_groups(chosen, offset_map, archive_ends, record_ends)
    for name, group in chosen.items():
        committed, standing = facts.committed[name], facts.standings[name]
        if isinstance(standing, KbrError) or isinstance(committed, KbrError):
            failures[name] = standing if isinstance(standing, KbrError) else committed  # type: ignore[assignment]
            continue
        states[name] = standing.state if standing.exists else "none"
        made = [
            _row(name, group.group, key, place, committed.get(key), facts.offsets.get(key))
            for key, place in sorted(placed[name].items(), key=lambda one: one[0])
        ]
        rows.extend(made)
        if standing.is_active and any(row.changes for row in made):
            active.append(name)
    return GroupPlan(rows=tuple(rows), states=states, active=tuple(active), failures=failures)


def _row(
    group: str,
    source_group: str,
    partition: TopicPartition,
    place: Place,
    old: CommittedOffset | None,
    log: PartitionOffsets | KbrError | None,
) -> GroupRow:
    offset, reason, why = place.offset, place.reason, place.why
    if reason is Reason.NOT_RESTORED:
        old = None
    elif isinstance(log, KbrError) or log is None:
        offset, reason = None, Reason.UNKNOWN
        why = "the target has no such partition any more" if log is None else str(log)
    elif offset is not None and offset < log.log_start:
        why = f"{why}; the target has lost the records before {log.log_start} since"
        offset, reason = log.log_start, Reason.GONE
    elif offset is not None and offset > log.high_watermark:
        why = f"{why}; the target ends at {log.high_watermark} by now"
        offset, reason = log.high_watermark, Reason.GONE
    new = None if offset is None else CommittedOffset(offset=offset, metadata=place.metadata)
    if old is not None and new is not None and new.offset < old.offset:
        why = f"{why}; moves back: the target's group is at {old.offset}"
    return GroupRow(
        group=group,
        source_group=source_group,
        partition=partition,
        old=old,
        new=new,
        reason=reason,
        why=why,
    )
