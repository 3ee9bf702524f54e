"""Commits offsets for consumer groups of a target, and puts back those that they had before. Knows no store.

Whatever is committed is read back and compared: a group counts as done when its coordinator says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kbr.errors import ClusterError, GroupActive, GroupRewind, KbrError
from kbr.format.group_rollback import GroupBefore, GroupRollback
from kbr.kafka.groups import GroupStanding
from kbr.model import CommittedOffset, TopicPartition
from kbr.restore.groups import GroupPlan, GroupRow

__all__ = [
    "GroupClient",
    "RollbackPlan",
    "RollbackRow",
    "before_of",
    "commit_offsets",
    "plan_rollback",
    "refuse_active",
    "refuse_rewinds",
    "rewinds_text",
    "roll_back",
]

Offsets = Mapping[TopicPartition, CommittedOffset]


class GroupClient(Protocol):
    """A cluster's groups (kbr.kafka.groups.ConsumerGroups)."""

    def committed(self, groups: Sequence[str]) -> Mapping[str, Offsets | KbrError]: ...

    def describe(self, groups: Sequence[str]) -> Mapping[str, GroupStanding | KbrError]: ...

    def commit(self, offsets: Mapping[str, Offsets]) -> Mapping[str, KbrError | None]: ...

    def delete(self, groups: Sequence[str]) -> Mapping[str, KbrError | None]: ...


def refuse_active(active: Sequence[str]) -> None:
    """Change nothing while one of the groups has members.

    Raises:
        GroupActive: one has.
    """
    if active:
        more = f" and {len(active) - 5} more" if len(active) > 5 else ""
        raise GroupActive(
            f"these groups have members: {', '.join(active[:5])}{more}; nothing was committed",
            hint="stop their consumers, or name other groups with --group; then run the same command again",
            groups=list(active),
        )


def refuse_rewinds(rows: Sequence[GroupRow]) -> None:
    """Move no group back that nobody has asked to: it may be another one of the same name, or have read on since.

    Args:
        rows: what would move back.

    Raises:
        GroupRewind: there is some.
    """
    if rows:
        raise GroupRewind(
            f"{rewinds_text(rows)}; nothing was committed",
            hint="--allow-rewind moves them back; --group and --group-map choose other groups, or other names for them",
            groups=sorted({row.group for row in rows}),
        )


def rewinds_text(rows: Sequence[GroupRow]) -> str:
    """The first of them, with old and new offset."""
    shown = ", ".join(
        f"group {row.group} in {row.partition} from {_shown(row.old)} to {_shown(row.new)}" for row in rows[:5]
    )
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"committed offsets would move back: {shown}{more}"


def before_of(
    plan: GroupPlan,
    committed: Mapping[str, Offsets | KbrError],
    standings: Mapping[str, GroupStanding | KbrError],
    last: GroupRollback | None = None,
) -> tuple[GroupBefore, ...]:
    """What the groups have that the plan changes, for a way back.

    Args:
        last: what was kept before the last time. If that was cut off, and this is the rest of it, what it has changed by
            then is part of the way back.
    """
    kept = {} if last is None else {one.group: one for one in last.groups}
    is_rest = any(
        (one := kept.get(group)) is not None
        and key in one.applied
        and _is_at(one.applied[key], wanted.offset)
        and _is_at(one.before[key], None if (old := _old(committed[group]).get(key)) is None else old.offset)
        for group, offsets in plan.changes.items()
        for key, wanted in offsets.items()
    )
    wanted_of: dict[str, dict[TopicPartition, CommittedOffset]] = {group: dict(some) for group, some in plan.changes.items()}
    before_of_last: dict[tuple[str, TopicPartition], CommittedOffset | None] = {}
    for row in plan.rows if is_rest else ():
        one = kept.get(row.group)
        if one is None or row.changes or row.new is None or not _is_at(one.applied.get(row.partition), row.new.offset):
            continue
        wanted_of.setdefault(row.group, {})[row.partition] = row.new
        before_of_last[row.group, row.partition] = one.before[row.partition]
    found = []
    for group, wanted in sorted(wanted_of.items()):
        standing, old_offsets = standings[group], _old(committed[group])
        existed = bool(old_offsets) or (isinstance(standing, GroupStanding) and standing.exists)
        found.append(
            GroupBefore(
                group=group,
                existed=kept[group].existed if is_rest and group in kept else existed,
                before={
                    key: before_of_last[group, key] if (group, key) in before_of_last else old_offsets.get(key)
                    for key in wanted
                },
                applied=wanted,
            )
        )
    return tuple(found)


def _old(committed: Offsets | KbrError) -> Offsets:
    return {} if isinstance(committed, KbrError) else committed


def _is_at(one: CommittedOffset | None, offset: int | None) -> bool:
    return (None if one is None else one.offset) == offset


def commit_offsets(client: GroupClient, wanted: Mapping[str, Offsets]) -> dict[str, KbrError]:
    """Commit, read back, compare; why groups are not as wanted."""
    answers = client.commit(wanted)
    committed = client.committed(list(wanted))
    failures: dict[str, KbrError] = {}
    for group, offsets in wanted.items():
        now, answer = committed[group], answers.get(group)
        if isinstance(now, KbrError):
            failures[group] = answer or now
            continue
        wrong = [key for key, one in offsets.items() if (found := now.get(key)) is None or found.offset != one.offset]
        if answer is not None:
            failures[group] = answer
        elif wrong:
            key = wrong[0]
            failures[group] = ClusterError(
                f"group {group}: {len(offsets) - len(wrong)} of {len(offsets)} offsets are as they were committed; "
                f"{key} is at {_shown(now.get(key))}, not {offsets[key].offset}",
                hint="somebody else may commit for this group; stop it, then run the same command again",
                groups=[group],
            )
    return failures


def _shown(one: CommittedOffset | None) -> str:
    return "none" if one is None else str(one.offset)


# -- the way back -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRow:
    """One line of a way back.

    Attributes:
        now: what the group has committed now.
        before: what it gets; None is nothing.
        why: what is special about it; empty where it is not.
        stays: it can't be taken away: the group keeps ``now``.
    """

    group: str
    partition: TopicPartition
    now: CommittedOffset | None
    before: CommittedOffset | None
    why: str
    stays: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackPlan:
    """All that is put back.

    Attributes:
        deleted: groups that did not exist before, and go with all that they have.
        active: groups with members.
        failures: why groups can't be read.
    """

    rows: tuple[RollbackRow, ...]
    deleted: tuple[str, ...]
    active: tuple[str, ...]
    failures: Mapping[str, KbrError]

    @property
    def commits(self) -> dict[str, dict[TopicPartition, CommittedOffset]]:
        """What is to be committed, by group."""
        found: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        for row in self.rows:
            if row.before is not None and row.before != row.now:
                found.setdefault(row.group, {})[row.partition] = row.before
        return found

    @property
    def staying(self) -> int:
        """Offsets that can't be taken away."""
        return sum(row.stays for row in self.rows)


def plan_rollback(
    rollback: GroupRollback,
    groups: Sequence[str],
    committed: Mapping[str, Offsets | KbrError],
    standings: Mapping[str, GroupStanding | KbrError],
) -> RollbackPlan:
    """What is to be put back for these groups of the file.

    confluent-kafka has no request that takes a single offset away: what a group did not have before is taken away only
    with the whole group, when that did not exist before and has nothing else now.
    """
    rows: list[RollbackRow] = []
    deleted: list[str] = []
    active: list[str] = []
    failures: dict[str, KbrError] = {}
    for one in rollback.groups:
        if one.group not in groups:
            continue
        now, standing = committed[one.group], standings[one.group]
        if isinstance(now, KbrError) or isinstance(standing, KbrError):
            failures[one.group] = now if isinstance(now, KbrError) else standing  # type: ignore[assignment]
            continue
        is_new = not one.existed and set(now) <= set(one.before)
        made = [_row(one, key, now.get(key), is_new=is_new) for key in sorted(one.before)]
        rows.extend(made)
        if is_new and standing.exists:
            deleted.append(one.group)
        if standing.is_active and (is_new or any(row.now != row.before and not row.stays for row in made)):
            active.append(one.group)
    return RollbackPlan(rows=tuple(rows), deleted=tuple(deleted), active=tuple(active), failures=failures)


def _row(one: GroupBefore, key: TopicPartition, now: CommittedOffset | None, *, is_new: bool) -> RollbackRow:
    before, applied = one.before[key], one.applied[key]
    stays = before is None and now is not None and not is_new
    notes = []
    if now == before:
        notes.append("nothing to do")
    elif now is not None and applied is not None and now.offset != applied.offset:
        notes.append(f"it was put on {applied.offset}, and has moved since")
    if stays:
        notes.append("it had none before, and one offset alone can't be taken away: it stays")
    elif before is None and now is not None:
        notes.append("the group did not exist before: it is deleted")
    return RollbackRow(group=one.group, partition=key, now=now, before=before, why="; ".join(notes), stays=stays)


def roll_back(client: GroupClient, plan: RollbackPlan) -> dict[str, KbrError]:
    """Put back what is planned; why groups are not as they were.

    Raises:
        GroupActive: one of them has members; nothing was changed.
    """
    refuse_active(plan.active)
    failures = {**plan.failures, **commit_offsets(client, plan.commits)}
    failures.update({group: error for group, error in client.delete(plan.deleted).items() if error is not None})
    return failures
