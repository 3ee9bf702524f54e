"""What a backup run can be told. Frozen values; knows no files, no environment, no command line."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.model import Compression
from kbr.repository.window import TimeWindow

__all__ = ["BackupOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """One backup run.

    Attributes:
        backup_id: the backup's name in the store.
        include, exclude: topic names and globs; exclude wins.
        include_internal: take internal topics that a glob matches.
        isolation_level: read_committed or read_uncommitted.
        compression, compression_level: how blocks are stored; the level is for zstd and lz4.
        segment_max_bytes: a segment is closed when it holds this much, stored bytes.
        segment_max_interval_ms: a segment is closed this long after it was begun.
        bytes_per_s, records_per_s: rate limit over all workers, of uncompressed record bytes; 0 is none.
        workers: worker processes; 0 is one per core, never more than partitions.
        compress_threads: of each worker; 0 is as many as there are cores for.
        extra_verify: decode blocks again before they are stored, as long as that costs little.
        memory_limit: of all processes together, bytes; None is 128 MiB for each worker's records.
        checkpoint_interval_s: how often the manifest is written while the run goes on.
        continuous: go on until stopped, with new records, partitions and topics.
        consumer_groups: names and globs of consumer groups whose committed offsets are kept; none without any.
        time_window_start_ms, time_window_end_ms: records with timestamps in it, both ends included; None is open.
        index: keep the block index up.
        on_missing_topic: what a topic that is named and not there, or gone, means: ``fail`` or ``continue``.
        max_manifest_bytes: the largest manifest of an earlier run that is believed.
    """

    backup_id: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    include_internal: bool = False
    isolation_level: str = "read_committed"
    compression: Compression = Compression.ZSTD
    compression_level: int | None = 3
    segment_max_bytes: int = 134_217_728
    segment_max_interval_ms: int = 60_000
    bytes_per_s: int = 0
    records_per_s: int = 0
    workers: int = 0
    compress_threads: int = 0
    extra_verify: bool = True
    memory_limit: int | None = None
    checkpoint_interval_s: float = 30.0
    continuous: bool = False
    on_missing_topic: str = "fail"
    consumer_groups: tuple[str, ...] = ()
    index: bool = False
    max_manifest_bytes: int = 1024 * 1024 * 1024
    time_window_start_ms: int | None = None
    time_window_end_ms: int | None = None

    @property
    def window(self) -> TimeWindow:
        """The records that are wanted."""
        return TimeWindow.between(self.time_window_start_ms, self.time_window_end_ms)
