"""Consumer groups' committed offsets as a backup keeps them, as one sealed JSON document (docs/format.md).

Bytes to frozen values and back, without I/O. A document from outside is hostile until it is read: every type, bound
and name is checked, and what is wrong gives one error that says where and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kbr.errors import GroupsUnreadable
from kbr.format.names import INT64_MAX, PARTITION_MAX, is_backup_id, is_topic_name
from kbr.format.sealed import BadValue, count_at, fail, seal, unseal, value_at
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition

__all__ = [
    "MAX_GROUPS",
    "MAX_GROUPS_BYTES",
    "GroupSnapshot",
    "dump_groups",
    "dump_offsets",
    "is_group_id",
    "load_groups",
    "read_offsets",
]

FORMAT_NAME = "kbr-groups"
FORMAT_VERSION = 1
#: Groups in one document.
MAX_GROUPS = 10_000
#: Largest document that is read, bytes: 1.2 million offsets. A hostile one of this size takes 0.6 GB at most.
MAX_GROUPS_BYTES = 16 * 1024 * 1024

#: Kafka's strings have an int16 for their length in bytes.
_MAX_STRING_BYTES = 2**15 - 1
_MAX_LEADER_EPOCH = 2**31 - 1
_NONE = -1
_HINT = "put back an intact copy of it; the records of the backup are not affected"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSnapshot:
    """What the groups of a cluster had committed for a backup's topics, before the backup's ends were fixed."""

    kbr_version: str
    backup_id: str
    #: Of the source.
    cluster_id: str
    captured_at_ms: int
    #: In the order of their names; each has at least one offset.
    groups: tuple[GroupOffsets, ...]
    #: End of each partition's log right after the capture, by topic; -1 where it could not be had.
    log_ends: Mapping[str, tuple[int, ...]]
    #: Offsets that were left out because their topic is not in the backup, or no longer exists.
    other_offsets: int
    #: Groups that could not be read, and why.
    unread: Mapping[str, str]

    def group(self, name: str) -> GroupOffsets | None:
        """A group, if it is there."""
        return next((one for one in self.groups if one.group == name), None)

    def lag(self, partition: TopicPartition, offset: int) -> int | None:
        """How many offsets a group was behind; None where nobody knows."""
        ends = self.log_ends.get(partition.topic, ())
        end = ends[partition.partition] if partition.partition < len(ends) else _NONE
        return None if end < 0 else max(0, end - offset)


def is_group_id(name: str) -> bool:
    """Whether Kafka allows this group id."""
    return 0 < len(name.encode("utf-8", "surrogatepass")) <= _MAX_STRING_BYTES


def dump_groups(snapshot: GroupSnapshot) -> bytes:
    """The bytes of a snapshot, checksum included."""
    return seal(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": snapshot.kbr_version,
            "backup_id": snapshot.backup_id,
            "cluster_id": snapshot.cluster_id,
            "captured_at": snapshot.captured_at_ms,
            "other_offsets": snapshot.other_offsets,
            "unread": dict(snapshot.unread),
            "log_ends": {topic: list(ends) for topic, ends in snapshot.log_ends.items()},
            "groups": [
                {"group": one.group, "type": one.kind, "state": one.state, "topics": dump_offsets(one.offsets)}
                for one in snapshot.groups
            ],
        }
    )


def load_groups(data: bytes, *, name: str) -> GroupSnapshot:
    """Read a snapshot.

    Args:
        data: the whole object.
        name: the object, for messages.

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
        what="a file of consumer group offsets",
        error=unreadable,
    )
    try:
        return _snapshot(document)
    except BadValue as error:
        raise unreadable(f"{name}: the consumer group offsets make no sense: {error}") from error


# -- offsets by topic, which other documents have too -------------------------------------


def dump_offsets(offsets: Mapping[TopicPartition, CommittedOffset | None]) -> list[dict[str, Any]]:
    """Offsets as columns by topic, JSON-ready; None is -1."""
    topics: dict[str, list[tuple[int, CommittedOffset | None]]] = {}
    for key in sorted(offsets):
        topics.setdefault(key.topic, []).append((key.partition, offsets[key]))
    return [
        {
            "topic": topic,
            "partitions": [partition for partition, _ in rows],
            "offsets": [_NONE if one is None else one.offset for _, one in rows],
            "leader_epochs": [_NONE if one is None else one.leader_epoch for _, one in rows],
            "metadata": {str(partition): one.metadata for partition, one in rows if one is not None and one.metadata},
        }
        for topic, rows in topics.items()
    ]


def read_offsets(nodes: list[Any], path: str) -> dict[TopicPartition, CommittedOffset | None]:
    """What dump_offsets() made.

    Raises:
        BadValue: it did not.
    """
    found: dict[TopicPartition, CommittedOffset | None] = {}
    names: list[str] = []
    for number, node in enumerate(nodes):
        here = f"{path}topics[{number}]."
        if type(node) is not dict:
            fail(here[:-1], "is no object")
        topic = value_at(node, here, "topic", str)
        if not is_topic_name(topic):
            fail(f"{here}topic", "can't be a topic")
        names.append(topic)
        partitions = _integers(node, here, "partitions", 0, PARTITION_MAX)
        offsets = _integers(node, here, "offsets", _NONE, INT64_MAX)
        epochs = _integers(node, here, "leader_epochs", _NONE, _MAX_LEADER_EPOCH)
        if not len(partitions) == len(offsets) == len(epochs):
            fail(here[:-1], "has columns of different lengths")
        if any(before >= after for before, after in pairwise(partitions)):
            fail(f"{here}partitions", "are out of order, or one stands twice")
        metadata = value_at(node, here, "metadata", dict)
        if not all(type(text) is str for text in metadata.values()):
            fail(f"{here}metadata", "holds something else than strings")
        # a broker hangs up on more, and is asked again until the deadline
        if any(len(text.encode("utf-8", "surrogatepass")) > _MAX_STRING_BYTES for text in metadata.values()):
            fail(f"{here}metadata", f"has more than the {_MAX_STRING_BYTES} bytes that Kafka keeps of one")
        if metadata and not set(metadata) <= {str(partition) for partition in partitions}:
            fail(f"{here}metadata", "is of a partition that has no offset")
        for partition, offset, epoch in zip(partitions, offsets, epochs, strict=True):
            found[TopicPartition(topic, partition)] = (
                None
                if offset == _NONE
                else CommittedOffset(
                    offset=offset, leader_epoch=epoch, metadata=metadata.get(str(partition), "") if metadata else ""
                )
            )
    if any(before >= after for before, after in pairwise(names)):
        fail(f"{path}topics", "are out of order, or one stands twice")
    return found


def _integers(node: Mapping[str, Any], path: str, key: str, least: int, most: int) -> list[int]:
    values: list[int] = value_at(node, path, key, list)
    if not all(type(value) is int and least <= value <= most for value in values):
        fail(f"{path}{key}", "holds something else than integers in their range")
    return values


# -- reading ------------------------------------------------------------------------------


def _snapshot(document: Mapping[str, Any]) -> GroupSnapshot:
    backup_id = value_at(document, "", "backup_id", str)
    if not is_backup_id(backup_id):
        fail("backup_id", "can't be one")
    nodes = value_at(document, "", "groups", list)
    if len(nodes) > MAX_GROUPS:
        fail("groups", f"are more than {MAX_GROUPS}")
    groups = tuple(_group(node, f"groups[{number}].") for number, node in enumerate(nodes))
    if any(before.group >= after.group for before, after in pairwise(groups)):
        fail("groups", "are out of order, or one stands twice")
    unread = value_at(document, "", "unread", dict)
    if not all(type(why) is str for why in unread.values()):
        fail("unread", "holds something else than strings")
    ends = value_at(document, "", "log_ends", dict)
    if not all(is_topic_name(topic) for topic in ends):
        fail("log_ends", "names what can't be a topic")
    return GroupSnapshot(
        kbr_version=value_at(document, "", "kbr_version", str),
        backup_id=backup_id,
        cluster_id=value_at(document, "", "cluster_id", str),
        captured_at_ms=count_at(document, "", "captured_at"),
        groups=groups,
        log_ends={topic: tuple(_integers(ends, "log_ends.", topic, _NONE, INT64_MAX)) for topic in ends},
        other_offsets=count_at(document, "", "other_offsets"),
        unread=unread,
    )


def _group(node: Any, path: str) -> GroupOffsets:
    if type(node) is not dict:
        fail(path[:-1], "is no object")
    group = value_at(node, path, "group", str)
    if not is_group_id(group):
        fail(f"{path}group", "can't be a group")
    offsets = read_offsets(value_at(node, path, "topics", list), path)
    if not offsets:
        fail(f"{path}topics", "has no offset")
    committed = {key: one for key, one in offsets.items() if one is not None}
    if len(committed) != len(offsets):
        fail(f"{path}topics", "has an offset below 0")
    return GroupOffsets(
        group=group,
        kind=value_at(node, path, "type", str),
        state=value_at(node, path, "state", str),
        offsets=committed,
    )
