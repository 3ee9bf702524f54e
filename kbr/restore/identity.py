"""What makes two restores the same one: the same command finds what it noted the last time. Pure."""

from __future__ import annotations

import hashlib

from kbr.restore.options import RestoreOptions
from kbr.wire import dump_json

__all__ = ["restore_id_of"]


def restore_id_of(options: RestoreOptions, cluster_id: str) -> str:
    """32 digits of hex, the same for two runs that would write the same records to the same places.

    Whatever decides which records go where, and as what, is in it; how fast, by how many workers, and with which
    topic configs is not, nor is ``append``, which says what to do about records that are there.
    """
    windows = sorted(
        [topic, number, start, -1 if end is None else end]
        for topic, partitions in options.offset_windows.items()
        for number, (start, end) in partitions.items()
    )
    facts = {
        "version": 1,
        "backup_id": options.backup_id,
        "cluster_id": cluster_id,
        "include": sorted(options.include),
        "exclude": sorted(options.exclude),
        "time_window": [options.time_window_start_ms, options.time_window_end_ms],
        "topics": sorted([one, other] for one, other in options.topic_mapping.items() if one != other),
        "partitions": sorted(
            [topic, one, other]
            for topic, moves in options.partition_mapping.items()
            for one, other in moves.items()
            if one != other
        ),
        # only where there are some: earlier versions knew none, and their restores go on
        **({"offset_windows": windows} if windows else {}),
        "original_offset_header": options.include_original_offset_header,
        "zero_timestamp_as": options.zero_timestamp_as,
    }
    placement = _placement(options)
    if placement:
        facts["placement"] = placement
    return hashlib.sha256(dump_json(facts)).hexdigest()[:32]


def _placement(options: RestoreOptions) -> dict[str, object]:
    """What else decides where records go, as far as it was given: without any of it the id is what it always was."""
    given: dict[str, object] = {
        "prefix": options.topic_prefix,
        "suffix": options.topic_suffix,
        "partitioner": "" if options.partitioner == "original" else options.partitioner,
        "target_partitions": sorted([topic, count] for topic, count in options.target_partitions.items()),
        "source_partitions": sorted([topic, sorted(some)] for topic, some in options.source_partitions.items()),
        "merge": options.merge,
    }
    if any("*" in left for left in options.topic_mapping):
        # the first pattern that fits wins
        given["patterns"] = [left for left in options.topic_mapping if "*" in left]
    if options.topic_prefix or options.topic_suffix or "patterns" in given:
        # a name that is mapped to itself is out of their reach
        given["kept"] = sorted(one for one, other in options.topic_mapping.items() if one == other)
    return {name: value for name, value in given.items() if value}
