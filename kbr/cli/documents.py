"""The documents that use cases return (``report.to_document()``), as the table views read them.

JSON-ready: texts, ints, floats, lists, mappings. ``*_ms`` names ending in ``_at_ms``, ``timestamp_ms`` or
``time_window_start_ms``/``_end_ms`` are instants and get an RFC 3339 twin in JSON and YAML. The renderer adds
``schema_version`` and ``exit_code``. A program may rely on these fields; more may be there.
"""

from __future__ import annotations

from typing import TypedDict

from kbr.cli.group_documents import GroupsDocument
from kbr.cli.window_documents import OffsetWindow, WindowEnds

__all__ = [
    "BackupDocument",
    "CheckDocument",
    "DemoDocument",
    "DescribeDocument",
    "KeyDocument",
    "ListDocument",
    "ProbeDocument",
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
    offsets_left: int
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
    offsets_left: int
    records: int
    record_bytes: int
    raw_bytes: int
    stored_bytes: int
    segments: int


class BackupAdded(TypedDict):
    """What one run has added to a backup."""

    records: int
    segments: int
    raw_bytes: int
    stored_bytes: int
    gaps: int


class BackupGroups(TypedDict):
    """Consumer groups that a run has captured; ``other_offsets`` are of topics that are not in the backup."""

    captured_at_ms: int | None
    groups: int
    offsets: int
    other_offsets: int
    failed: int


class ExtraVerify(TypedDict):
    """Blocks of one run, and how many of them were decoded again before they were stored."""

    blocks: int
    decoded: int
    cpu_s: float


class BackupDocument(WindowEnds):
    """``kbr backup``; status is planned, complete, incomplete or interrupted. Totals and topics are of the whole backup.

    Of its ``offsets``, ``offsets_left`` are those that are not read yet: with ``--dry-run`` what a run would read.
    """

    backup_id: str
    storage: str
    status: str
    dry_run: bool
    continuous: bool
    resumed: bool
    added: BackupAdded
    created_at_ms: int
    finished_at_ms: int | None
    duration_s: float
    phases_s: dict[str, float]
    waited_s: dict[str, float]
    peak_worker_rss_bytes: int
    worker_cpu_s: float
    extra_verify: ExtraVerify
    totals: BackupTotals
    topics: list[BackupTopic]
    groups: BackupGroups | None
    warnings: list[str]


class TopicToCreate(TypedDict):
    """A target topic that does not exist yet."""

    topic: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


class RestorePlanEntry(WindowEnds):
    """What a restore will read and make."""

    segments: int
    blocks: int
    records: int
    records_exact: bool
    raw_bytes: int
    stored_bytes: int
    offset_windows: list[OffsetWindow]
    topics_to_create: list[TopicToCreate]


class RestoreTopic(TypedDict):
    """One topic of a restore run."""

    topic: str
    target: str
    partitions: int
    segments: int
    stored_bytes: int
    records: int
    already_there: int
    gone: int
    bytes: int
    failed: list[str]


class RestoreTotals(TypedDict):
    """Sums over all topics."""

    topics: int
    partitions: int
    records: int
    records_exact: bool
    already_there: int
    gone: int
    bytes: int
    changed_timestamps: int


class RestoreDocument(TypedDict):
    """``kbr restore``; status is planned, complete, incomplete or interrupted.

    ``records`` are those that this run sent (at least so many, where ``totals.records_exact`` is false: partitions have
    failed with records under way), ``already_there`` those that were in the target before, ``gone`` those that were
    restored, and are no longer there. ``retries`` are rounds in which partitions that had failed were tried again.
    ``offset_map`` is the key of the offset mapping in the store, None where there is none (yet).
    """

    backup_id: str
    restore_id: str
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
    offset_map: str | None
    warnings: list[str]
    retries: int
    failures: dict[str, str]
    groups: GroupsDocument | None


class ListedBackup(TypedDict):
    """One backup at a place; the numbers are None, and ``error`` says why, where its manifest can't be read.

    ``lock_held`` is None unless the status is ``running``: false says that the run has ended without saying so.
    ``made_by`` is the tool whose backup it is: ``kbr``, or another one, whose status nobody knows; None beside an error.
    """

    backup_id: str
    status: str
    lock_held: bool | None
    made_by: str | None
    encrypted: bool
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


class DescribedSource(WindowEnds):
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


class ListedRestore(TypedDict):
    """One restore of a backup; status is running, complete or unreadable, ``lock_held`` as in ``kbr list``."""

    restore_id: str
    status: str
    lock_held: bool | None
    error: str | None
    cluster_id: str
    created_at_ms: int | None
    updated_at_ms: int | None
    target_topics: list[str]
    has_offset_map: bool


class DescribeDocument(TypedDict):
    """``kbr describe``; ``lock_held`` as in ``kbr list``.

    Restores are None where the store would not list them; ``notes`` are of another tool's backup. ``distrusted`` says why
    whoever relies on the backup would refuse it: not signed, or not encrypted, as the configuration wants it.
    """

    backup_id: str
    status: str
    lock_held: bool | None
    encrypted: bool
    distrusted: str | None
    made_by: str
    notes: list[str]
    created_at_ms: int | None
    finished_at_ms: int | None
    format_version: int
    kbr_version: str
    compression: str
    source: DescribedSource
    totals: DescribedTotals
    failures: list[DescribedFailure]
    topics: list[DescribedTopic]
    restores: list[ListedRestore] | None


class MappedPartitionEntry(TypedDict):
    """What of a source partition lies in one target partition."""

    source_topic: str
    source_partition: int
    target_topic: str
    target_partition: int
    ranges: int
    records: int
    source_start_offset: int
    source_end_offset_exclusive: int
    target_start_offset: int
    target_end_offset_exclusive: int


class MappedRange(TypedDict):
    """Records one behind the other: as the columns of the mapping's file."""

    source_topic: str
    source_partition: int
    source_start: int
    target_topic: str
    target_partition: int
    target_start: int
    count: int


class MappedPlace(TypedDict):
    """An offset of the target."""

    topic: str
    partition: int
    offset: int


class OffsetLookup(TypedDict):
    """One offset: where exactly that record is (None: not restored), and where a consumer would go on."""

    source_offset: int
    target: MappedPlace | None
    first_at_or_after: list[MappedPlace]


class OffsetsDocument(TypedDict):
    """``kbr offsets show``; without a mapping where several restores could be meant, and none was named.

    ``shown`` are the first ranges of a partition that was asked for, and ``lookup`` is there for ``--offset``.
    """

    backup_id: str
    restores: list[ListedRestore]
    mapping: OffsetsMapping | None


class OffsetsMapping(TypedDict):
    """One restore's mapping."""

    restore_id: str
    cluster_id: str
    created_at_ms: int
    ranges: int
    records: int
    partitions: list[MappedPartitionEntry]
    shown: list[MappedRange]
    lookup: OffsetLookup | None


class VerifyError(TypedDict):
    """One damage; ``object`` is a key in the store, ``position`` a byte in it, None for the whole."""

    object: str
    position: int | None
    what: str


class VerifyDocument(TypedDict):
    """``kbr verify``; blocks and records are None without ``--deep``; notes are no damage.

    ``presence_only``: without a key of an encrypted backup nothing was read, and ``bytes`` are those that lie there.
    """

    backup_id: str
    deep: bool
    presence_only: bool
    encrypted: bool
    signature_checked: bool
    undamaged: bool
    objects: int
    bytes: int
    blocks: int | None
    records: int | None
    errors: list[VerifyError]
    notes: list[str]


class KeyDocument(TypedDict):
    """``kbr config key``; ``key`` is the new symmetric one, else the files are given."""

    kind: str
    key_id: str
    key: str | None
    private_file: str | None
    public_file: str | None


class ProbeEntry(TypedDict):
    """One thing that ``kbr config check --probe`` tried.

    ``place`` is storage, source or target; ``outcome`` is ok, denied, failed, note or skipped; ``needed_for`` has verbs;
    ``missed`` says whether one of ``probed_for`` needs it and does not have it.
    """

    place: str
    check: str
    outcome: str
    needed_for: list[str]
    right: str
    detail: str
    hint: str
    missed: bool


class CheckDocument(TypedDict):
    """``kbr config check``, of a configuration without mistakes; ``verbs`` are those that it is enough for."""

    ok: bool
    verbs: list[str]
    storage: str
    librdkafka: str


class ProbeDocument(CheckDocument):
    """The same with ``--probe``: ``ok`` is whether the verbs in ``probed_for`` miss nothing."""

    probed_for: list[str]
    probe: list[ProbeEntry]
    exit_code: int


class RateLimitEntry(TypedDict):
    """Of uncompressed keys, values and headers; None is no limit."""

    bytes_per_s: float | None
    records_per_s: float | None


class RunTopic(TypedDict):
    """A topic of a running backup; offsets are sums over its partitions.

    ``next_offset`` is where what is in the store ends, ``high_watermark`` the log's end as last seen, ``lag_records`` what lies
    between, partition by partition: at most so many records.
    """

    topic: str
    partitions: int
    next_offset: int
    high_watermark: int
    lag_records: int


class RunEntry(TypedDict):
    """A backup or restore at work; rates are over the last ten seconds.

    ``limited_bytes`` and ``limited_records`` are those that have passed while there was a rate limit. Of a backup ``doing`` is
    what it is at (fetching, waiting for the next pass, for Kafka, for the store, ...), and ``topics`` are the 1000 of its
    ``topic_count`` that are furthest behind; of a restore they are None and empty.
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
    doing: str | None
    lag_records: int | None
    topic_count: int | None
    topics: list[RunTopic]


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
