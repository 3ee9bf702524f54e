"""The documents that use cases return (``report.to_document()``), as the table views read them.

JSON-ready: texts, ints, floats, lists, mappings. ``*_ms`` names ending in ``_at_ms``, ``timestamp_ms`` or
``time_window_start_ms``/``_end_ms`` are instants and get an RFC 3339 twin in JSON and YAML. The renderer adds
``schema_version`` and ``exit_code``. A program may rely on these fields; more may be there.
"""

from __future__ import annotations

from typing import TypedDict

__all__ = [
    "BackupDocument",
    "CheckDocument",
    "DemoDocument",
    "DescribeDocument",
    "ListDocument",
    "RestoreDocument",
    "RunEntry",
    "StatusDocument",
    "VerifyDocument",
]


class GapEntry(TypedDict):
    """Offsets that a backup does not have."""

    partition: int
    start_offset: int
    end_offset_exclusive: int
    reason: str


class FailedEntry(TypedDict):
    """A partition that could not be read to its end."""

    partition: int
    error: str


class BackupTopic(TypedDict):
    """One topic of a backup run."""

    topic: str
    partitions: int
    offsets: int
    records: int
    raw_bytes: int
    stored_bytes: int
    segments: int
    gaps: list[GapEntry]
    failed: list[FailedEntry]


class BackupTotals(TypedDict):
    """Sums over all topics."""

    topics: int
    partitions: int
    offsets: int
    records: int
    record_bytes: int
    raw_bytes: int
    stored_bytes: int
    segments: int


class BackupDocument(TypedDict):
    """``kbr backup``; status is planned, complete, incomplete or interrupted."""

    backup_id: str
    storage: str
    status: str
    dry_run: bool
    created_at_ms: int
    finished_at_ms: int | None
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    totals: BackupTotals
    topics: list[BackupTopic]
    warnings: list[str]


class TopicToCreate(TypedDict):
    """A target topic that does not exist yet."""

    topic: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


class RestorePlanEntry(TypedDict):
    """What a restore will read and make."""

    segments: int
    blocks: int
    records: int
    records_exact: bool
    raw_bytes: int
    stored_bytes: int
    time_window_start_ms: int | None
    time_window_end_ms: int | None
    topics_to_create: list[TopicToCreate]


class RestoreTopic(TypedDict):
    """One topic of a restore run."""

    topic: str
    target: str
    partitions: int
    segments: int
    stored_bytes: int
    records: int
    bytes: int
    failed: list[str]


class RestoreTotals(TypedDict):
    """Sums over all topics."""

    topics: int
    partitions: int
    records: int
    bytes: int
    changed_timestamps: int


class RestoreDocument(TypedDict):
    """``kbr restore``; status is planned, complete, incomplete, failed or interrupted."""

    backup_id: str
    storage: str
    status: str
    dry_run: bool
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    plan: RestorePlanEntry
    topics: list[RestoreTopic]
    totals: RestoreTotals
    warnings: list[str]
    failures: dict[str, str]


class ListedBackup(TypedDict):
    """One backup at a place; the numbers are None, and ``error`` says why, where its manifest can't be read."""

    backup_id: str
    status: str
    error: str | None
    created_at_ms: int | None
    topics: int | None
    partitions: int | None
    segments: int | None
    gaps: int | None
    records: int | None
    raw_bytes: int | None
    stored_bytes: int | None
    min_timestamp_ms: int | None
    max_timestamp_ms: int | None


class ListDocument(TypedDict):
    """``kbr list``."""

    backups: list[ListedBackup]


class DescribedSource(TypedDict):
    """Where a backup came from."""

    cluster_id: str
    brokers: list[str]
    isolation_level: str


class DescribedTotals(TypedDict):
    """Sums over partitions."""

    partitions: int
    failed_partitions: int
    segments: int
    records: int
    raw_bytes: int
    stored_bytes: int
    gaps: int
    min_timestamp_ms: int | None
    max_timestamp_ms: int | None


class DescribedGap(TypedDict):
    """Offsets that a backup does not have."""

    start_offset: int
    end_offset_exclusive: int
    reason: str
    detail: str


class DescribedPartition(TypedDict):
    """One partition of a backup."""

    partition: int
    gaps: list[DescribedGap]


class DescribedTopic(TypedDict):
    """One topic of a backup."""

    topic: str
    totals: DescribedTotals
    partitions: list[DescribedPartition]


class DescribedFailure(TypedDict):
    """A partition that is not in the backup to its end."""

    topic: str
    partition: int
    status: str
    next_offset: int
    end_offset_exclusive: int
    error: str | None


class DescribeDocument(TypedDict):
    """``kbr describe``."""

    backup_id: str
    status: str
    created_at_ms: int | None
    finished_at_ms: int | None
    format_version: int
    kbr_version: str
    compression: str
    source: DescribedSource
    totals: DescribedTotals
    failures: list[DescribedFailure]
    topics: list[DescribedTopic]


class VerifyError(TypedDict):
    """One damage; ``object`` is a key in the store, ``position`` a byte in it, None for the whole."""

    object: str
    position: int | None
    what: str


class VerifyDocument(TypedDict):
    """``kbr verify``; blocks and records are None without ``--deep``; notes are no damage."""

    backup_id: str
    deep: bool
    undamaged: bool
    objects: int
    bytes: int
    blocks: int | None
    records: int | None
    errors: list[VerifyError]
    notes: list[str]


class CheckDocument(TypedDict):
    """``kbr config check``, of a configuration without mistakes; ``verbs`` are those that it is enough for."""

    ok: bool
    verbs: list[str]
    storage: str
    librdkafka: str


class RateLimitEntry(TypedDict):
    """Of uncompressed keys, values and headers; None is no limit."""

    bytes_per_s: float | None
    records_per_s: float | None


class RunEntry(TypedDict):
    """A backup or restore at work; rates are over the last ten seconds.

    ``limited_bytes`` and ``limited_records`` are those that have passed while there was a rate limit.
    """

    pid: int
    verb: str
    backup_id: str
    started_at_ms: int
    elapsed_s: float
    records: int
    total_records: int | None
    raw_bytes: int
    records_per_s: float
    bytes_per_s: float
    eta_s: float | None
    rate_limit: RateLimitEntry
    limited_bytes: int
    limited_records: int


class StatusDocument(TypedDict):
    """``kbr status``."""

    runs: list[RunEntry]


class DemoTopic(TypedDict):
    """One topic of the demo; ``verified`` says that every restored record was the one produced."""

    topic: str
    partitions: int
    produced: int
    backed_up: int
    restored: int
    restored_window: int
    verified: bool


class DemoDocument(TypedDict):
    """``kbr demo``; ``directory`` is empty if the backup was only kept for the demo's time."""

    status: str
    directory: str
    duration_s: float
    raw_bytes: int
    stored_bytes: int
    time_window_start_ms: int
    time_window_end_ms: int
    steps: list[str]
    topics: list[DemoTopic]
