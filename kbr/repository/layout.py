"""Where everything lies in a store: the one place that builds keys.

``{backup_id}/manifest.json`` and ``{backup_id}/topics/{topic}/partition={p}/segment-{sequence}``
with the compression's extension, below the store's root (DESIGN section 3). Names from outside are
checked by an allow-list before they are part of a key; a key from a manifest or a listing is parsed
into its facts and built again from them, never used as it is.
"""

from __future__ import annotations

from kbr.errors import UsageError
from kbr.format.names import (
    BACKUP_ID_RULE,
    MANIFEST_NAME,
    TOPIC_RULE,
    TOPICS_FOLDER,
    SegmentName,
    is_backup_id,
    is_topic_name,
    parse_segment_name,
    partition_folder,
    segment_name,
)
from kbr.model import Compression

__all__ = [
    "SegmentName",
    "backup_folder",
    "backup_id_of",
    "check_backup_id",
    "check_topic",
    "key_below_backup",
    "manifest_key",
    "parse_segment_key",
    "partition_prefix",
    "relative_segment_key",
    "segment_key",
    "topics_prefix",
]


def check_backup_id(backup_id: str) -> str:
    """Give the name back if it may be a backup's.

    Raises:
        UsageError: it may not.
    """
    if not is_backup_id(backup_id):
        raise UsageError(
            f"{backup_id!a} can't be a backup_id",
            hint=f"a backup_id is {BACKUP_ID_RULE}",
        )
    return backup_id


def check_topic(topic: str) -> str:
    """Give the name back if it may be a topic's.

    Raises:
        UsageError: it may not.
    """
    if not is_topic_name(topic):
        raise UsageError(f"{topic!a} can't be a topic", hint=f"a topic is {TOPIC_RULE}")
    return topic


def backup_folder(backup_id: str) -> str:
    """The prefix of all of a backup's keys, with a '/' at the end."""
    return f"{check_backup_id(backup_id)}/"


def manifest_key(backup_id: str) -> str:
    """The manifest's key."""
    return f"{backup_folder(backup_id)}{MANIFEST_NAME}"


def topics_prefix(backup_id: str) -> str:
    """The prefix of all segments of a backup."""
    return f"{backup_folder(backup_id)}{TOPICS_FOLDER}"


def partition_prefix(backup_id: str, topic: str, partition: int) -> str:
    """The prefix of one partition's segments."""
    return f"{backup_folder(backup_id)}{partition_folder(check_topic(topic), partition)}"


def relative_segment_key(topic: str, partition: int, sequence: int, compression: Compression) -> str:
    """A segment's key below its backup's folder, as the manifest names it."""
    return segment_name(check_topic(topic), partition, sequence, compression)


def segment_key(backup_id: str, topic: str, partition: int, sequence: int, compression: Compression) -> str:
    """A segment's key in the store."""
    folder = backup_folder(backup_id)
    return f"{folder}{relative_segment_key(topic, partition, sequence, compression)}"


def parse_segment_key(key: str) -> SegmentName | None:
    """Topic, partition, sequence and compression of a segment's key below its backup's folder.

    None for a key that relative_segment_key() can't have made.
    """
    return parse_segment_name(key)


def key_below_backup(backup_id: str, key: str) -> str:
    """The part of a store's key that lies below a backup's folder.

    Raises:
        ValueError: the key is not in that folder.
    """
    folder = backup_folder(backup_id)
    if not key.startswith(folder):
        raise ValueError(f"{key} is not below {folder}")
    return key[len(folder) :]


def backup_id_of(key: str) -> str | None:
    """The backup that a store's key belongs to, if it is one of a manifest or a segment."""
    backup_id, separator, below = key.partition("/")
    if not separator or not is_backup_id(backup_id):
        return None
    if below == MANIFEST_NAME or parse_segment_name(below) is not None:
        return backup_id
    return None
