"""What a restore notes about its target, as one JSON document with its own checksum (docs/format.md).

Bytes to frozen values and back, without I/O. A state from outside is hostile until it is read: every type, bound and
name is checked, and what is wrong gives one error that says where and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any

from kbr.errors import RestoreStateUnreadable, UnsupportedFormat
from kbr.format.names import INT64_MAX, is_backup_id, is_topic_name
from kbr.format.sealed import BadValue, count_at, fail, is_sealed, seal, value_at
from kbr.model import TopicPartition
from kbr.wire import load_json

__all__ = [
    "MAX_STATE_BYTES",
    "RestoreState",
    "RestoreStatus",
    "RestoredTopic",
    "dump_restore_state",
    "load_restore_state",
]

FORMAT_NAME = "kbr-restore-state"
FORMAT_VERSION = 1
#: Largest state that is read, bytes: some 600,000 partitions. A hostile one of this size takes about 0.5 GB at most.
MAX_STATE_BYTES = 8 * 1024 * 1024

_HINT = (
    "put back an intact copy of it; or delete it, and the target topics too, to restore from the beginning. Without it "
    "and with the topics kept, everything in them is compared with the backup first"
)
_NO_BASE = -1


class RestoreStatus(str, Enum):
    """Whether a restore has done all it was told."""

    RUNNING = "running"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredTopic:
    """One target topic of a restore.

    Attributes:
        name: in the target.
        topic_id: the incarnation that is written to; empty where the cluster has none, or the topic is about to be made.
        made: this restore made it, or is about to.
        configs_afterwards: to be set when all records are there; None puts a config back to its default.
        bases: by target partition, its end before the first record of this restore; None where nothing is written to.
        source_ends: where several source partitions share target partitions, one past the last offset of each that belongs
            to the restore: what comes into the backup later would have to lie between records that are there.
    """

    name: str
    topic_id: str
    made: bool
    configs_afterwards: Mapping[str, str | None]
    bases: tuple[int | None, ...]
    source_ends: Mapping[TopicPartition, int] = field(default_factory=dict)

    def base(self, partition: int) -> int | None:
        """A partition's base, None where there is none."""
        return self.bases[partition] if 0 <= partition < len(self.bases) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreState:
    """One restore: what the same command, run again, has to know."""

    kbr_version: str
    backup_id: str
    restore_id: str
    #: Of the target.
    cluster_id: str
    status: RestoreStatus
    created_at_ms: int
    updated_at_ms: int
    #: In name order.
    topics: tuple[RestoredTopic, ...]

    def topic(self, name: str) -> RestoredTopic | None:
        """A target topic, if it is there."""
        return next((topic for topic in self.topics if topic.name == name), None)


def dump_restore_state(state: RestoreState) -> bytes:
    """The bytes of a state object, checksum included."""
    return seal(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "kbr_version": state.kbr_version,
            "backup_id": state.backup_id,
            "restore_id": state.restore_id,
            "cluster_id": state.cluster_id,
            "status": state.status.value,
            "created_at": state.created_at_ms,
            "updated_at": state.updated_at_ms,
            "topics": [
                {
                    "name": topic.name,
                    "topic_id": topic.topic_id,
                    "made": topic.made,
                    "configs_afterwards": dict(topic.configs_afterwards),
                    "bases": [_NO_BASE if base is None else base for base in topic.bases],
                    **(
                        {"source_ends": [[*source, end] for source, end in topic.source_ends.items()]}
                        if topic.source_ends
                        else {}
                    ),
                }
                for topic in state.topics
            ],
        }
    )


def load_restore_state(data: bytes, *, name: str) -> RestoreState:
    """Read a state object.

    Args:
        data: the whole object.
        name: the object, for messages.

    Raises:
        RestoreStateUnreadable: it is empty, cut off, altered, or not as the format says.
        UnsupportedFormat: it is of another version, or something else than a restore's state.
    """

    def unreadable(what: str) -> RestoreStateUnreadable:
        return RestoreStateUnreadable(f"{name}: the restore's state {what}", hint=_HINT, object=name)

    try:
        document = load_json(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(f"({len(data)} bytes) is empty, cut off or damaged") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise UnsupportedFormat(
            f"{name}: this is no state of a kbr restore",
            hint="another program may have written it; move it away",
            object=name,
        )
    if document.get("format_version") != FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{name}: a restore's state of version {document.get('format_version')!r:.20}; this kbr reads version "
            f"{FORMAT_VERSION}",
            hint="run the restore with the version of kbr that began it, or a newer one",
            object=name,
        )
    if not is_sealed(data):
        raise unreadable("is damaged or was edited: its checksum does not fit")
    try:
        return _state(document)
    except BadValue as error:
        raise unreadable(f"makes no sense: {error}") from error


# -- reading ------------------------------------------------------------------------------


def _state(document: Mapping[str, Any]) -> RestoreState:
    backup_id = value_at(document, "", "backup_id", str)
    if not is_backup_id(backup_id):
        fail("backup_id", "can't be one")
    status = value_at(document, "", "status", str)
    if status not in {one.value for one in RestoreStatus}:
        fail("status", "is neither running nor complete")
    topics = tuple(
        _topic(node, f"topics[{number}].") for number, node in enumerate(value_at(document, "", "topics", list))
    )
    names = [topic.name for topic in topics]
    if any(before >= after for before, after in pairwise(names)):
        fail("topics", "are out of order, or one stands twice")
    return RestoreState(
        kbr_version=value_at(document, "", "kbr_version", str),
        backup_id=backup_id,
        restore_id=value_at(document, "", "restore_id", str),
        cluster_id=value_at(document, "", "cluster_id", str),
        status=RestoreStatus(status),
        created_at_ms=count_at(document, "", "created_at"),
        updated_at_ms=count_at(document, "", "updated_at"),
        topics=topics,
    )


def _topic(node: Any, path: str) -> RestoredTopic:
    if type(node) is not dict:
        fail(path[:-1], "is no object")
    name = value_at(node, path, "name", str)
    if not is_topic_name(name):
        fail(f"{path}name", "can't be a topic")
    configs = value_at(node, path, "configs_afterwards", dict)
    if not all(value is None or type(value) is str for value in configs.values()):
        fail(f"{path}configs_afterwards", "holds something else than strings and null")
    bases = value_at(node, path, "bases", list)
    if not all(type(base) is int and _NO_BASE <= base <= INT64_MAX for base in bases):
        fail(f"{path}bases", "holds something else than offsets and -1")
    ends = value_at(node, path, "source_ends", list) if "source_ends" in node else []
    if not all(_is_end(end) for end in ends):
        fail(f"{path}source_ends", "holds something else than topics, partitions and offsets")
    return RestoredTopic(
        name=name,
        topic_id=value_at(node, path, "topic_id", str),
        made=value_at(node, path, "made", bool),
        configs_afterwards=configs,
        bases=tuple(None if base == _NO_BASE else base for base in bases),
        source_ends={TopicPartition(topic, number): end for topic, number, end in ends},
    )


def _is_end(node: Any) -> bool:
    return (
        type(node) is list
        and len(node) == 3
        and type(node[0]) is str
        and is_topic_name(node[0])
        and all(type(number) is int and 0 <= number <= INT64_MAX for number in node[1:])
    )
