"""Names in a backup of OSO kafka-backup, below its own folder. Pure text.

Names from outside are only compared with, or parsed into, what these rules give: never used as they are.
"""

from __future__ import annotations

import re

from kbr.format.names import is_topic_name, partition_folder
from kbr.model import Compression, TopicPartition

__all__ = ["GROUPS_NAME", "MADE_BY", "is_segment_name", "segment_compression", "segment_key_below", "segment_partition"]

#: How messages call the tool.
MADE_BY = "OSO kafka-backup"
#: Its consumer groups' offsets, in a backup's folder.
GROUPS_NAME = "consumer-groups-snapshot.json"

#: By the first record's offset, 20 digits; before its version 0.12 by a running number.
_FILE = re.compile(r"segment-(?P<digits>[0-9]{6,20})\.bin(?P<extension>\.zst|\.lz4|)")
_OFFSET_DIGITS = 20
_FOLDER = re.compile(r"topics/(?P<topic>[^/]{1,249})/partition=(?P<partition>0|[1-9][0-9]{0,9})/")
_COMPRESSIONS = {".zst": Compression.ZSTD, ".lz4": Compression.LZ4, "": Compression.NONE}


def segment_key_below(key: str, *, backup_id: str, topic: str, partition: int, start_offset: int) -> str | None:
    """The key below the backup's folder of a segment that a manifest names.

    Args:
        key: as the manifest has it: with the backup_id, and maybe a prefix before that.

    Returns:
        None where it is not the key of a segment of this partition that begins at this offset.
    """
    folder = partition_folder(topic, partition)
    prefix, found, name = key.rpartition(f"{backup_id}/{folder}")
    if not found or (prefix and not prefix.endswith("/")):
        return None
    match = _FILE.fullmatch(name)
    if match is None or (len(match["digits"]) == _OFFSET_DIGITS and int(match["digits"]) != start_offset):
        return None
    return f"{folder}{name}"


def segment_compression(name: str) -> Compression | None:
    """How a segment is compressed by its name, or its key; None for what is no segment's."""
    match = _FILE.fullmatch(name.rpartition("/")[2])
    return None if match is None else _COMPRESSIONS[match["extension"]]


def is_segment_name(name: str) -> bool:
    """Whether it is a segment's key below a backup's folder."""
    return segment_partition(name) is not None


def segment_partition(name: str) -> TopicPartition | None:
    """The partition that a segment is of, by its key below a backup's folder; None for what is no segment's."""
    folder, _, _ = name.rpartition("/")
    match = _FOLDER.fullmatch(f"{folder}/")
    if match is None or not is_topic_name(match["topic"]) or segment_compression(name) is None:
        return None
    return TopicPartition(match["topic"], int(match["partition"]))
