"""Where everything lies in a store: the one place that builds keys.

``{backup_id}/manifest.json`` and ``{backup_id}/topics/{topic}/partition={p}/segment-{sequence}``
with the compression's extension, below the store's root (DESIGN section 3). Names from outside are
checked by an allow-list before they are part of a key; a key from a manifest or a listing is parsed
into its facts and built again from them, never used as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kbr.errors import UsageError
from kbr.format.block_index_head import HEAD_NAME, is_piece_name
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
    "KEYS_NAME",
    "RETAINED_KEYS",
    "SEGMENT_KEYS",
    "LockPlace",
    "SegmentName",
    "backup_folder",
    "backup_id_of",
    "check_backup_id",
    "check_topic",
    "group_rollback_key",
    "groups_key",
    "index_head_key",
    "index_piece_key",
    "index_prefix",
    "is_group_rollback_key",
    "is_index_piece_key",
    "is_left_before_a_backup",
    "is_lock_key",
    "is_locks_path",
    "is_unlisted_path",
    "key_below_backup",
    "keys_key",
    "lock_key",
    "locks_prefix",
    "manifest_key",
    "offset_map_key",
    "parse_segment_key",
    "partition_prefix",
    "relative_segment_key",
    "restore_folder",
    "restore_id_of_key",
    "restore_state_key",
    "restores_prefix",
    "segment_key",
    "topics_prefix",
    "unlisted_key",
    "unlisted_prefix",
]

#: The wrapped keys of an encrypted backup: plain, as it is what opens all else.
KEYS_NAME = "keys.json"
#: Locks on a backup and on its restores: never encrypted, as who keeps others out may have no key.
_LOCKS_PATH = re.compile(r"(?:restores/[0-9a-f]{32}/)?locks/")
#: Folder of the locks below a backup's own, and how one is named there (kbr.repository.lock_claim).
_LOCKS = "locks/"
_LOCK_NAME = re.compile(r"[0-9]{13}-[0-9a-f]{16}")
_RESTORE_ID = re.compile(r"[0-9a-f]{32}")
#: Folder of what restores note, below a backup's own.
_RESTORES = "restores/"
_RESTORE_STATE = "/state.json"
#: Folder of segments that no manifest listed, put aside by a run that may use nothing unsigned, below a backup's own.
_UNLISTED = "unlisted/"
_UNLISTED_NUMBER = re.compile(r"[1-9][0-9]*")
#: Folder of the block index, below a backup's own.
_INDEX = "index/"
#: Milliseconds since the epoch: the newest is the last in a listing.
_GROUP_ROLLBACK = re.compile(r"/groups-rollback-[0-9]{13}\.json")
#: Regular expressions for whole keys, for stores that keep objects in different ways. What is written once and can be got
#: from nothing else is retained; manifests, indexes, locks and notes are replaced, and can be made again from segments.
SEGMENT_KEYS = rf"[^/]+/{TOPICS_FOLDER}[^/]+/partition=[0-9]+/segment-[0-9]{{20}}\.[a-z0-9]+"
RETAINED_KEYS = rf"{SEGMENT_KEYS}|[^/]+/(?:groups|keys)\.json"


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


def keys_key(backup_id: str) -> str:
    """The key of an encrypted backup's wrapped keys."""
    return f"{backup_folder(backup_id)}{KEYS_NAME}"


def is_locks_path(below: str) -> bool:
    """Whether a key below a backup's folder is one of a lock, or begins so."""
    return _LOCKS_PATH.match(below) is not None


def is_left_before_a_backup(below: str) -> bool:
    """Whether a key below a backup's folder is one that a run makes before there is anything of the backup: a lock, the keys."""
    return below == KEYS_NAME or is_locks_path(below)


def unlisted_prefix(backup_id: str) -> str:
    """The prefix of all segments that were put aside."""
    return f"{backup_folder(backup_id)}{_UNLISTED}"


def unlisted_key(backup_id: str, number: int, segment: str) -> str:
    """Where a segment is put aside.

    Args:
        number: from 1 on, of those that were put aside from the same place.
        segment: its key below the backup's folder.
    """
    return f"{unlisted_prefix(backup_id)}{number}/{segment}"


def is_unlisted_path(below: str) -> bool:
    """Whether a key below a backup's folder is one that unlisted_key() makes."""
    number, _, segment = below.removeprefix(_UNLISTED).partition("/")
    is_numbered = below.startswith(_UNLISTED) and _UNLISTED_NUMBER.fullmatch(number) is not None
    return is_numbered and parse_segment_name(segment) is not None


def groups_key(backup_id: str) -> str:
    """The key of a backup's consumer group offsets."""
    return f"{backup_folder(backup_id)}groups.json"


def index_prefix(backup_id: str) -> str:
    """The prefix of a backup's block index."""
    return f"{backup_folder(backup_id)}{_INDEX}"


def index_head_key(backup_id: str) -> str:
    """The key of the document that says which pieces the block index is made of."""
    return f"{index_prefix(backup_id)}{HEAD_NAME}"


def index_piece_key(backup_id: str, name: str) -> str:
    """The key of a piece of the block index.

    Raises:
        ValueError: that is no piece's name.
    """
    if not is_piece_name(name):
        raise ValueError(f"{name!a} can't be a piece of a block index")
    return f"{index_prefix(backup_id)}{name}"


def is_index_piece_key(backup_id: str, key: str) -> bool:
    """Whether index_piece_key() can have made a key."""
    below = key.removeprefix(index_prefix(backup_id))
    return below != key and is_piece_name(below)


def restores_prefix(backup_id: str) -> str:
    """The prefix of all that restores of a backup have noted."""
    return f"{backup_folder(backup_id)}{_RESTORES}"


def restore_state_key(backup_id: str, restore_id: str) -> str:
    """The key of what a restore has noted.

    Raises:
        ValueError: the restore_id is not 32 digits of lower-case hex.
    """
    return f"{restore_folder(backup_id, restore_id)}{_RESTORE_STATE}"


def restore_id_of_key(backup_id: str, key: str) -> str | None:
    """The restore whose notes a store's key is of; None for one that restore_state_key() can't have made."""
    prefix = restores_prefix(backup_id)
    restore_id = key[len(prefix) : -len(_RESTORE_STATE)]
    fits = _RESTORE_ID.fullmatch(restore_id) is not None and key == f"{prefix}{restore_id}{_RESTORE_STATE}"
    return restore_id if fits else None


def offset_map_key(backup_id: str, restore_id: str) -> str:
    """The key of a restore's offset mapping.

    Raises:
        ValueError: the restore_id is not 32 digits of lower-case hex.
    """
    return f"{restore_folder(backup_id, restore_id)}/offsets.parquet"


def group_rollback_key(backup_id: str, restore_id: str, created_at_ms: int) -> str:
    """The key of what a restore's groups had committed before.

    Raises:
        ValueError: the restore_id is not 32 digits of lower-case hex.
    """
    return f"{restore_folder(backup_id, restore_id)}/groups-rollback-{created_at_ms:013d}.json"


def is_group_rollback_key(backup_id: str, restore_id: str, key: str) -> bool:
    """Whether group_rollback_key() can have made a key."""
    folder = restore_folder(backup_id, restore_id)
    return key.startswith(folder) and _GROUP_ROLLBACK.fullmatch(key[len(folder) :]) is not None


def restore_folder(backup_id: str, restore_id: str) -> str:
    """The folder of all that a restore has noted, without a '/' at its end.

    Raises:
        ValueError: the restore_id is not 32 digits of lower-case hex.
    """
    if _RESTORE_ID.fullmatch(restore_id) is None:
        raise ValueError(f"{restore_id!a} can't be a restore_id")
    return f"{restores_prefix(backup_id)}{restore_id}"


def topics_prefix(backup_id: str) -> str:
    """The prefix of all segments of a backup."""
    return f"{backup_folder(backup_id)}{TOPICS_FOLDER}"


def partition_prefix(backup_id: str, topic: str, partition: int) -> str:
    """The prefix of one partition's segments."""
    return f"{backup_folder(backup_id)}{partition_folder(check_topic(topic), partition)}"


@dataclass(frozen=True, slots=True)
class LockPlace:
    """What a lock is on: a backup, or one restore of it."""

    backup_id: str
    restore_id: str = ""

    def __str__(self) -> str:
        return f"this restore of backup {self.backup_id}" if self.restore_id else f"backup {self.backup_id}"

    @classmethod
    def of(cls, place: LockPlace | str) -> LockPlace:
        """A backup's id is the backup itself."""
        return cls(place) if isinstance(place, str) else place


def locks_prefix(place: LockPlace | str) -> str:
    """The prefix of all locks on a backup (its id), or on a restore."""
    where = LockPlace.of(place)
    if where.restore_id:
        return f"{restore_folder(where.backup_id, where.restore_id)}/{_LOCKS}"
    return f"{backup_folder(where.backup_id)}{_LOCKS}"


def lock_key(place: LockPlace | str, name: str) -> str:
    """A lock's key: 13 digits, '-', 16 hexadecimal digits, '.json'.

    Raises:
        UsageError: that is no lock's name.
    """
    if not _LOCK_NAME.fullmatch(name):
        raise UsageError(f"{name!a} can't be the name of a lock", hint="this is a bug in kbr")
    return f"{locks_prefix(place)}{name}.json"


def is_lock_key(place: LockPlace | str, key: str) -> bool:
    """Whether lock_key() can have made a key."""
    below = key.removeprefix(locks_prefix(place))
    return below != key and below.endswith(".json") and _LOCK_NAME.fullmatch(below[: -len(".json")]) is not None


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
