"""What consumer groups had committed before kbr changed it, as one sealed JSON document (docs/format.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kbr.errors import GroupsUnreadable
from kbr.format.groups import MAX_GROUPS, MAX_GROUPS_BYTES, dump_offsets, is_group_id, read_offsets
from kbr.format.names import is_backup_id
from kbr.format.sealed import BadValue, count_at, fail, seal, unseal, value_at
from kbr.model import CommittedOffset, TopicPartition

__all__ = ["MAX_ROLLBACK_BYTES", "GroupBefore", "GroupRollback", "dump_rollback", "load_rollback"]

FORMAT_NAME = "kbr-groups-rollback"
FORMAT_VERSION = 1
#: It holds two offsets where a snapshot holds one.
MAX_ROLLBACK_BYTES = 2 * MAX_GROUPS_BYTES
_HINT = "put back an intact copy of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBefore:
    """One group of the target.

    Attributes:
        existed: the cluster knew it.
        before: what it had committed; None where it had nothing.
        applied: what was going to be committed in its place.
    """

    group: str
    existed: bool
    before: Mapping[TopicPartition, CommittedOffset | None]
    applied: Mapping[TopicPartition, CommittedOffset | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRollback:
    """All that one apply was going to change."""

    kbr_version: str
    backup_id: str
    restore_id: str
    #: Of the target.
    cluster_id: str
    created_at_ms: int
    #: In the order of their names.
    groups: tuple[GroupBefore, ...]


def dump_rollback(rollback: GroupRollback) -> bytes:
    """The bytes of a rollback file, checksum included."""
    return seal(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": rollback.kbr_version,
            "backup_id": rollback.backup_id,
            "restore_id": rollback.restore_id,
            "cluster_id": rollback.cluster_id,
            "created_at": rollback.created_at_ms,
            "groups": [
                {
                    "group": one.group,
                    "existed": one.existed,
                    "before": {"topics": dump_offsets(one.before)},
                    "applied": {"topics": dump_offsets(one.applied)},
                }
                for one in rollback.groups
            ],
        }
    )


def load_rollback(data: bytes, *, name: str) -> GroupRollback:
    """Read a rollback file.

    Raises:
        GroupsUnreadable: it is empty, cut off, altered, or not as the format says.
        UnsupportedFormat: it is of another version, or something else.
    """

    def unreadable(what: str) -> GroupsUnreadable:
        return GroupsUnreadable(what, hint=_HINT, object=name)

    document = unseal(
        data,
        name=name,
        format_name=FORMAT_NAME,
        version=FORMAT_VERSION,
        what="a file of consumer groups' former offsets",
        error=unreadable,
    )
    try:
        return _rollback(document)
    except BadValue as error:
        raise unreadable(f"{name}: the consumer groups' former offsets make no sense: {error}") from error


def _rollback(document: Mapping[str, Any]) -> GroupRollback:
    backup_id = value_at(document, "", "backup_id", str)
    if not is_backup_id(backup_id):
        fail("backup_id", "can't be one")
    nodes = value_at(document, "", "groups", list)
    if len(nodes) > MAX_GROUPS:
        fail("groups", f"are more than {MAX_GROUPS}")
    groups = tuple(_group(node, f"groups[{number}].") for number, node in enumerate(nodes))
    if any(one.group >= other.group for one, other in pairwise(groups)):
        fail("groups", "are out of order, or one stands twice")
    return GroupRollback(
        kbr_version=value_at(document, "", "kbr_version", str),
        backup_id=backup_id,
        restore_id=value_at(document, "", "restore_id", str),
        cluster_id=value_at(document, "", "cluster_id", str),
        created_at_ms=count_at(document, "", "created_at"),
        groups=groups,
    )


def _group(node: Any, path: str) -> GroupBefore:
    if type(node) is not dict:
        fail(path[:-1], "is no object")
    group = value_at(node, path, "group", str)
    if not is_group_id(group):
        fail(f"{path}group", "can't be a group")
    before, applied = (
        read_offsets(
            value_at(value_at(node, path, side, dict), f"{path}{side}.", "topics", list), f"{path}{side}."
        )
        for side in ("before", "applied")
    )
    if set(before) != set(applied):
        fail(path[:-1], "has other partitions before than afterwards")
    return GroupBefore(group=group, existed=value_at(node, path, "existed", bool), before=before, applied=applied)
