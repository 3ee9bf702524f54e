"""What a restore run can be told. Frozen values; knows no files, no environment, no command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RestoreOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """One restore run.

    Attributes:
        backup_id: which backup.
        include, exclude: topic names and globs over the backup's topics; exclude wins.
        time_window_start_ms, time_window_end_ms: records with timestamps in it, both ends included; None is open.
        offset_windows: source topic to {source partition: (first offset, last offset or None)}: records of these only;
            partitions that are not named are restored as a whole.
        topic_mapping: source topic to target topic, patterns with ``*`` too (kbr.restore.names); others keep their names.
        topic_prefix, topic_suffix: around the names of topics that the mapping does not name.
        partition_mapping: source topic to {source partition: target partition}; others keep theirs.
        source_partitions: topic or glob to the partitions to restore; of other topics all.
        partitioner: how target partitions are chosen (kbr.restore.routing).
        target_partitions: topic or glob of the backup to the number of partitions in the target.
        merge: several sources may go to one target partition, one behind the other.
        include_original_offset_header: add a header with the source offset to each record.
        append: write to topics that hold records already.
        accept_cleanup: restore although the target's retention or compaction will remove some of the records.
        allow_incomplete: restore although some segments can't be read: their partitions end before them.
        offset_map: write which source offset became which target offset.
        create_topics: make missing topics.
        existing_topics: what about target topics that exist: keep, check, apply or fail (kbr.restore.existing).
        replication_factor: of topics that are made; None is as it was.
        topic_configs: set on topics that are made, over those of the backup.
        compression: the wire codec: none, gzip, snappy, lz4, zstd.
        zero_timestamp_as: what to send for timestamp 0, which the client can't send; 0 refuses.
        bytes_per_s, records_per_s: rate limit over all workers, of uncompressed record bytes; 0 is none.
        workers: worker processes; 0 is one per core, never more than partitions.
        memory_limit: of all processes together, bytes; None is 128 MiB for each worker's records.
        max_block_bytes, max_manifest_bytes: the largest block and the largest manifest that are believed.
    """

    backup_id: str
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    time_window_start_ms: int | None = None
    time_window_end_ms: int | None = None
    offset_windows: Mapping[str, Mapping[int, tuple[int, int | None]]] = field(default_factory=dict)
    topic_mapping: Mapping[str, str] = field(default_factory=dict)
    topic_prefix: str = ""
    topic_suffix: str = ""
    partition_mapping: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    source_partitions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    partitioner: str = "original"
    target_partitions: Mapping[str, int] = field(default_factory=dict)
    merge: bool = False
    include_original_offset_header: bool = False
    append: bool = False
    accept_cleanup: bool = False
    allow_incomplete: bool = False
    offset_map: bool = True
    create_topics: bool = True
    existing_topics: str = "keep"
    replication_factor: int | None = None
    topic_configs: Mapping[str, str] = field(default_factory=dict)
    compression: str = "lz4"
    zero_timestamp_as: int = 0
    bytes_per_s: int = 0
    records_per_s: int = 0
    workers: int = 0
    memory_limit: int | None = None
    max_block_bytes: int = 256 * 1024 * 1024
    max_manifest_bytes: int = 1024 * 1024 * 1024
