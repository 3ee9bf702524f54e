"""The values that a manifest is made of: frozen, nothing but data and sums over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbr.model import Compression, FailureKind, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef, TopicSpec

__all__ = ["FORMAT_VERSION", "Manifest", "PartitionEntry", "SourceInfo", "TopicEntry"]

#: The manifest version that is written, and the only one that is read.
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """The cluster that a backup comes from."""

    cluster_id: str
    #: host:port each.
    brokers: tuple[str, ...]
    #: read_committed or read_uncommitted.
    isolation_level: str
    #: Records with other timestamps were left out, both ends included; None is open.
    time_window_start_ms: int | None = None
    time_window_end_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionEntry:
    """One partition of a backup, an empty one too."""

    partition: int
    status: PartitionStatus
    #: As the cluster said them when the backup began.
    log_start_offset: int
    high_watermark: int
    #: The range that the backup is to hold, fixed at its start.
    start_offset: int
    end_offset_exclusive: int
    #: Everything of the range before it is in the segments, or never will be (gaps, holes).
    next_offset: int
    #: Sum over the segments.
    record_count: int
    #: Why it failed, or of a complete one what ended it; None if there is nothing to say.
    error: str | None
    #: What that means for later runs; None where it did not fail, and in manifests that are older than this key.
    failure: FailureKind | None = None
    gaps: tuple[Gap, ...]
    #: In order of their sequence.
    segments: tuple[SegmentRef, ...]

    @property
    def position(self) -> int:
        """First offset that is in no listed segment and in no lasting gap: what the next segment answers from."""
        found = self.segments[-1].next_offset if self.segments else self.start_offset
        for gap in sorted(self.gaps, key=lambda one: one.start_offset):
            if gap.reason is not GapReason.OPEN_TRANSACTION and gap.start_offset <= found < gap.end_offset_exclusive:
                found = gap.end_offset_exclusive
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEntry:
    """One topic of a backup, as the cluster described it, with all its partitions in order."""

    name: str
    #: Empty where the cluster has none.
    topic_id: str
    partition_count: int
    replication_factor: int
    is_internal: bool
    #: Non-default topic configs; None where the cluster could not tell.
    configs: Mapping[str, str] | None
    partitions: tuple[PartitionEntry, ...]

    @property
    def spec(self) -> TopicSpec:
        """The topic without its data."""
        return TopicSpec(
            name=self.name,
            partition_count=self.partition_count,
            replication_factor=self.replication_factor,
            topic_id=self.topic_id,
            configs=self.configs,
            is_internal=self.is_internal,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One backup."""

    format_version: int = FORMAT_VERSION
    #: What wrote it.
    kbr_version: str
    backup_id: str
    status: RunStatus
    created_at_ms: int
    updated_at_ms: int
    finished_at_ms: int | None
    source: SourceInfo
    compression: Compression
    compression_level: int | None
    #: The policy that the backup was made under, JSON-ready; None without one.
    retention: Mapping[str, Any] | None
    #: In name order.
    topics: tuple[TopicEntry, ...]
    #: The other tool whose backup it is, which is only ever read; empty for kbr's own.
    made_by: str = ""
    #: What has to be known of such a backup, a sentence each.
    notes: tuple[str, ...] = ()
