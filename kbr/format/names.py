"""Names within one backup: which are allowed, and how a segment's name follows from its facts.

Pure text; knows no store and no folder above the backup's own. ``kbr.repository.layout`` puts
these names under a backup_id. Names that come from outside (a manifest, a listing) are only ever
compared with, or parsed into, what these rules give: never used as they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kbr.model import Compression

__all__ = [
    "BACKUP_ID_RULE",
    "INT64_MAX",
    "MANIFEST_NAME",
    "PARTITION_MAX",
    "TOPICS_FOLDER",
    "TOPIC_RULE",
    "SegmentName",
    "is_backup_id",
    "is_topic_name",
    "parse_segment_name",
    "partition_folder",
    "segment_name",
]

MANIFEST_NAME = "manifest.json"
TOPICS_FOLDER = "topics/"

INT64_MAX = 2**63 - 1
#: Kafka's partition numbers are int32.
PARTITION_MAX = 2**31 - 1

#: What a topic's name may be, for messages (Kafka's own rule, org.apache.kafka...Topic).
TOPIC_RULE = "1 to 249 of A-Z a-z 0-9 . _ -, but not '.' or '..'"
BACKUP_ID_RULE = "1 to 128 of A-Z a-z 0-9 . _ -, but not '.' or '..'"

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BACKUP_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SEGMENT = re.compile(
    r"topics/(?P<topic>[A-Za-z0-9._-]{1,249})"
    r"/partition=(?P<partition>0|[1-9][0-9]{0,9})"
    r"/segment-(?P<sequence>[0-9]{20})(?P<extension>\.zst|\.lz4|\.mpk)"
)
_COMPRESSION_BY_EXTENSION = {one.extension: one for one in Compression}


class SegmentName(NamedTuple):
    """What a segment's name says of it."""

    topic: str
    partition: int
    sequence: int
    compression: Compression


def is_topic_name(name: str) -> bool:
    """Whether Kafka allows this topic name; anything else never becomes a path."""
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")


def is_backup_id(name: str) -> bool:
    """Whether this may name a backup's folder."""
    return _BACKUP_ID.fullmatch(name) is not None and name not in (".", "..")


def partition_folder(topic: str, partition: int) -> str:
    """A partition's folder below the backup's, with a '/' at the end.

    Raises:
        ValueError: a name or a number that the rules don't allow.
    """
    if not is_topic_name(topic):
        raise ValueError(f"{topic!r} can't be a topic: {TOPIC_RULE}")
    if not 0 <= partition <= PARTITION_MAX:
        raise ValueError(f"{partition} can't be a partition")
    return f"{TOPICS_FOLDER}{topic}/partition={partition}/"


def segment_name(topic: str, partition: int, sequence: int, compression: Compression) -> str:
    """A segment's key below the backup's folder.

    Raises:
        ValueError: a name or a number that the rules don't allow.
    """
    if not 0 <= sequence <= INT64_MAX:
        raise ValueError(f"{sequence} can't be an offset")
    return f"{partition_folder(topic, partition)}segment-{sequence:020d}{compression.extension}"


def parse_segment_name(name: str) -> SegmentName | None:
    """The reverse of segment_name; None for anything that it can't have made."""
    found = _SEGMENT.fullmatch(name)
    if found is None:
        return None
    topic, partition, sequence = found["topic"], int(found["partition"]), int(found["sequence"])
    if not is_topic_name(topic) or partition > PARTITION_MAX or sequence > INT64_MAX:
        return None
    return SegmentName(topic, partition, sequence, _COMPRESSION_BY_EXTENSION[found["extension"]])
