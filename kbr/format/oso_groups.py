"""The consumer groups that OSO kafka-backup has noted beside a backup, as kbr's own values. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbr.errors import GroupsUnreadable
from kbr.format.groups import MAX_GROUPS, GroupSnapshot, is_group_id
from kbr.format.names import INT64_MAX, PARTITION_MAX, is_topic_name
from kbr.format.sealed import BadValue, count_at, fail, value_at
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.wire import load_json

__all__ = ["load_oso_groups"]

_UNKNOWN = "unknown"


def load_oso_groups(data: bytes, *, backup_id: str, name: str) -> GroupSnapshot:
    """Read ``consumer-groups-snapshot.json``; groups without an offset are left out.

    Raises:
        GroupsUnreadable: it is empty, cut off, or not as it has to be.
    """
    try:
        document = load_json(data)
        if not isinstance(document, dict):
            fail("the document", "is no object")
        return _snapshot(document, backup_id)
    except (ValueError, RecursionError) as error:
        raise GroupsUnreadable(
            f"{name}: the group offsets ({len(data)} bytes) are damaged: {error}",
            hint="put back an intact copy of it; the records of the backup are not affected",
            object=name,
        ) from error


def _snapshot(document: Mapping[str, Any], backup_id: str) -> GroupSnapshot:
    captured_at_ms = count_at(document, "", "snapshot_time")
    rows: list[Any] = value_at(document, "", "groups", list)
    if len(rows) > MAX_GROUPS:
        fail("groups", f"are {len(rows)}; {MAX_GROUPS} are read")
    groups: dict[str, GroupOffsets] = {}
    for number, row in enumerate(rows):
        path = f"groups[{number}]."
        if type(row) is not dict:
            raise BadValue(f"groups[{number}] is no object")
        group: str = value_at(row, path, "group_id", str)
        if not is_group_id(group) or group in groups:
            fail(f"{path}group_id", f"can't be {ascii(group)[:100]}, or stands there twice")
        offsets = _offsets(value_at(row, path, "offsets", dict), f"{path}offsets")
        if offsets:
            groups[group] = GroupOffsets(group=group, kind=_UNKNOWN, state=_UNKNOWN, offsets=offsets)
    return GroupSnapshot(
        kbr_version="",
        backup_id=backup_id,
        cluster_id="",
        captured_at_ms=captured_at_ms,
        groups=tuple(groups[name] for name in sorted(groups)),
        log_ends={},
        other_offsets=0,
        unread={},
    )


def _offsets(topics: Mapping[str, Any], path: str) -> dict[TopicPartition, CommittedOffset]:
    found: dict[TopicPartition, CommittedOffset] = {}
    for topic, partitions in topics.items():
        if not is_topic_name(topic) or type(partitions) is not dict:
            fail(f"{path}[{ascii(topic)[:100]}]", "is no topic with its partitions")
        for number, offset in partitions.items():
            is_number = number.isascii() and number.isdecimal() and len(number) <= 10 and int(number) <= PARTITION_MAX
            if not is_number or type(offset) is not int or not 0 <= offset <= INT64_MAX:
                fail(f"{path}.{topic}[{ascii(number)[:20]}]", f"can't be {ascii(offset)[:40]}")
            found[TopicPartition(topic, int(number))] = CommittedOffset(offset=offset)
    return found
