"""The documents of ``kbr groups``, as kbr.cli.documents has those of the other verbs."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["GroupListDocument", "GroupsDocument", "RollbackDocument"]


class GroupOffsetEntry(TypedDict):
    """What a group had committed; ``lag`` is None where nobody knows."""

    topic: str
    partition: int
    offset: int
    lag: int | None


class GroupEntry(TypedDict):
    """A consumer group of a backup."""

    group: str
    type: str
    state: str
    topics: list[str]
    offsets: list[GroupOffsetEntry]


class GroupListDocument(TypedDict):
    """``kbr groups list``; ``unread`` are groups that could not be read, and why."""

    backup_id: str
    cluster_id: str
    captured_at_ms: int
    other_offsets: int
    unread: dict[str, str]
    groups: list[GroupEntry]


class GroupRowEntry(TypedDict):
    """One offset of a group: what the target has now, and what it gets; None is nothing.

    ``rewinds``: the new one is smaller than the old one. ``reason`` is same, next, first, end, beyond_backup, gone, not_restored or unknown.
    """

    group: str
    source_group: str
    topic: str
    partition: int
    old_offset: int | None
    new_offset: int | None
    reason: str
    rewinds: bool
    why: str


class GroupTotals(TypedDict):
    """Sums over all groups."""

    groups: int
    offsets: int
    changes: int
    rewinds: int


class GroupsDocument(TypedDict):
    """``kbr groups plan`` and ``apply``; status is planned, complete or incomplete. ``states`` are in Kafka's words."""

    backup_id: str
    restore_id: str
    storage: str
    cluster_id: str
    captured_at_ms: int
    status: str
    rollback: str | None
    rows: list[GroupRowEntry]
    states: dict[str, str]
    active: list[str]
    totals: GroupTotals
    failures: dict[str, str]
    warnings: list[str]


class RollbackRowEntry(TypedDict):
    """One offset of a group: what it has now, and what it gets back; None is nothing."""

    group: str
    topic: str
    partition: int
    old_offset: int | None
    new_offset: int | None
    why: str


class RollbackDocument(TypedDict):
    """``kbr groups rollback``; ``staying`` offsets can't be taken away."""

    backup_id: str
    restore_id: str
    rollback: str
    created_at_ms: int
    status: str
    rows: list[RollbackRowEntry]
    deleted: list[str]
    active: list[str]
    staying: int
    failures: dict[str, str]
