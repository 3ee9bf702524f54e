"""The sections `backup` and `restore` of the configuration: what a run does. As kbr.config.model's other sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from kbr.config import fields
from kbr.config.fields import Section, choice, key
from kbr.model import Compression

__all__ = ["BackupConfig", "RestoreConfig"]

Partitioner = Literal["original", "murmur2", "consistent", "round-robin"]
ExistingTopics = Literal["keep", "check", "apply", "fail"]
WireCompression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
IsolationLevel = Literal["read_committed", "read_uncommitted"]
OnMissingTopic = Literal["fail", "continue"]

_MIB = 2**20
#: More processes than any machine has cores; a typing error, not a wish.
_MAX_WORKERS = 1024


def _rate_limit(verb: str) -> Any:
    """Backup's and restore's own; ``verb`` is what it limits: Read or Send."""
    return key(
        None,
        f"{verb} at most so much, all workers together: uncompressed bytes of keys, values and headers. `kbr status` "
        "changes it while it runs.",
        kind="rate",
        unit="bytes per second, as in `50MB/s`",
        shown_default="no limit",
        example="50MB/s",
    )


def _rate_limit_records(verb: str) -> Any:
    return key(
        None,
        f"{verb} at most so many records, all workers together; with `rate_limit`, the lower one counts.",
        kind="record rate",
        unit="records per second",
        shown_default="no limit",
        example="5000",
    )


def _workers(done: str) -> Any:
    return key(
        0,
        f"Worker processes; 0 is one per core. Never more than there are partitions to {done}.",
        kind="number",
        minimum=0,
        maximum=_MAX_WORKERS,
    )


def _memory_limit() -> Any:
    return key(
        None,
        "What all processes of the run together may take. Without a number of `workers` there are as many as it allows. "
        "A record of many megabytes needs several times its size beside it.",
        kind="size",
        unit="bytes",
        shown_default="128 MiB of records for each worker",
        minimum=128 * _MIB,
        maximum=2**44,
        example="1GiB",
    )


def _lock_life(what: str) -> Any:
    return key(
        60_000,
        f"A run that has not renewed its lock on the {what} for so long counts as dead; it is renewed six times as often.",
        kind="number",
        unit="milliseconds",
        minimum=3_000,
        maximum=3_600_000,
    )


def _lock_wait(what: str) -> Any:
    return key(
        0,
        f"How long to wait for {what}, before giving up with exit code 11.",
        kind="number",
        unit="milliseconds",
        minimum=0,
        maximum=86_400_000,
    )


class BackupConfig(Section):
    """How a backup is taken and stored."""

    continuous: fields.Switch = key(
        False,
        "Go on until stopped: new records, and new partitions and topics that match. Else end with what is committed at "
        "the start.",
        kind="true or false",
    )
    on_missing_topic: Annotated[OnMissingTopic, choice(*get_args(OnMissingTopic))] = key(
        "fail",
        "What it means that a topic is not there: one that is named without wildcards, or one of the backup that was "
        "deleted since. `fail`: the run, or for one that a glob found its partitions, fail; `continue`: a warning.",
        kind="word",
    )
    lock_life_ms: fields.Number = _lock_life("backup")
    lock_wait_ms: fields.Number = _lock_wait("a backup that another run has locked")

    include_internal_topics: fields.Switch = key(
        False,
        "Take internal topics (such as `__consumer_offsets`) that a glob matches; named exactly, they always are.",
        kind="true or false",
    )
    consumer_groups: fields.Groups = key(
        (),
        "Keep what consumer groups have committed for the backup's topics: `true` for all groups, or names and globs. It is "
        "read before the ends of the topics are fixed; of a continuous backup before each pass.",
        kind="list of groups, or true or false",
        shown_default="`false`",
        example="true",
    )
    time_window_start: fields.Instant = key(
        None,
        "Take records with this timestamp or a later one. A partition is read from its first such record on, and each record "
        "behind it is looked at. A backup keeps its window: the same backup_id goes on with the same one only.",
        kind="instant",
        unit="epoch milliseconds, or ISO-8601 with a zone",
        shown_default="no limit",
        example="2024-05-01T12:00:00Z",
    )
    time_window_end: fields.Instant = key(
        None,
        "Take records with this timestamp or an earlier one. Partitions are read to their ends all the same, as such records "
        "may come out of order. Not with `continuous`.",
        kind="instant",
        unit="epoch milliseconds, or ISO-8601 with a zone",
        shown_default="no limit",
        example="2024-05-01T12:30:00Z",
    )
    index: fields.Switch = key(
        False,
        "Keep an index of all blocks beside the manifest, as Parquet files (kbr index): restores of a time window out of a "
        "large backup are planned without reading thousands of segments' ends.",
        kind="true or false",
    )
    isolation_level: Annotated[IsolationLevel, choice(*get_args(IsolationLevel))] = key(
        "read_committed",
        "`read_committed`: records of committed transactions only; `read_uncommitted`: aborted and open ones too.",
        kind="word",
    )
    compression: Annotated[Compression, choice(*(one.value for one in Compression))] = key(
        Compression.ZSTD, "How blocks are stored: `zstd`, `lz4` or `none`.", kind="word"
    )
    compression_level: fields.OptionalNumber = key(
        None,
        "Higher is smaller and slower: -50 to 22 for zstd (negative ones are the fastest), 0 to 16 for lz4.",
        kind="number",
        shown_default="3 for zstd, 0 for lz4",
        example="3",
    )
    segment_max_bytes: fields.Size = key(
        134_217_728,
        "A segment is closed when its object holds this much.",
        kind="size",
        unit="bytes",
        minimum=1024,
        maximum=64 * 2**30,
    )
    segment_max_interval_ms: fields.Number = key(
        60_000,
        "A segment is closed this long after it was begun, so that what was read becomes durable. A continuous backup "
        "writes at most one segment of a partition in this time, unless it is full before.",
        kind="number",
        unit="milliseconds",
        minimum=1,
        maximum=86_400_000,
    )
    checkpoint_interval_ms: fields.Number = key(
        30_000,
        "How often the manifest is written while the backup runs.",
        kind="number",
        unit="milliseconds",
        minimum=1,
        maximum=86_400_000,
    )
    rate_limit: fields.Rate = _rate_limit("Read")
    rate_limit_records: fields.RecordRate = _rate_limit_records("Read")
    workers: fields.Number = _workers("read")
    compress_threads: fields.Number = key(
        0,
        "Threads of each worker that compress; 0 is as many as there are cores for.",
        kind="number",
        minimum=0,
        maximum=_MAX_WORKERS,
    )
    extra_verify: fields.Switch = key(
        True,
        "Decode every block again before it is stored, and compare: all of them as long as that takes less than 5 % of the "
        "CPU time, else a sample.",
        kind="true or false",
    )
    memory_limit: fields.OptionalSize = _memory_limit()


class RestoreConfig(Section):
    """What is restored, to where, and how."""

    time_window_start: fields.Instant = key(
        None,
        "Restore records with this timestamp or a later one.",
        kind="instant",
        unit="epoch milliseconds, or ISO-8601 with a zone",
        shown_default="no limit",
        example="2024-05-01T12:00:00Z",
    )
    time_window_end: fields.Instant = key(
        None,
        "Restore records with this timestamp or an earlier one.",
        kind="instant",
        unit="epoch milliseconds, or ISO-8601 with a zone",
        shown_default="no limit",
        example="2024-05-01T12:30:00Z",
    )
    offset_windows: fields.OffsetWindows = key(
        {},
        "Restore records of these offsets only: topic to {partition: FROM-TO}, both included; FROM- and -TO are open at the "
        "other end. Partitions that are not named are restored as a whole. A record has to be in the time window, too.",
        kind="mapping of offset windows",
        example="{orders: {0: 100-200}}",
    )
    topic_mapping: fields.TopicMapping = key(
        {},
        "Topics that get another name: name in the backup to name in the target. With `*` it is for all topics that fit, "
        "and each `*` on the right stands for what the `*` at the same place on the left has taken. A topic's own name comes "
        "first, then the first pattern that fits.",
        kind="mapping of topics",
        example='{orders: orders-restored, "eu-*": "restored-*"}',
    )
    topic_prefix: fields.NamePiece = key(
        "", "Put before the names of topics that `topic_mapping` does not name.", kind="text", example="restored-"
    )
    topic_suffix: fields.NamePiece = key(
        "", "Put behind the names of topics that `topic_mapping` does not name.", kind="text", example=".restored"
    )
    partition_mapping: fields.PartitionMapping = key(
        {},
        "Partitions that go to another number: topic (its name in the backup) to {partition in the backup: partition "
        "in the target}.",
        kind="mapping of partitions",
        example="{orders: {0: 3}}",
    )
    source_partitions: fields.PartitionChoice = key(
        {},
        "Partitions to restore, by topic (its name in the backup, or a glob); of other topics all are restored. The others "
        "of a topic stay empty.",
        kind="mapping of topics to partitions",
        example='{orders: "0,2-5"}',
    )
    partitioner: Annotated[Partitioner, choice(*get_args(Partitioner))] = key(
        "original",
        "How a record's partition is chosen: `original` (it keeps its partition's number, or the one of "
        "`partition_mapping`), `murmur2` (by its key, as the Java client and librdkafka's `murmur2_random` do), "
        "`consistent` (by its key, as librdkafka's default does) or `round-robin`. Records without a key go round.",
        kind="word",
    )
    target_partitions: fields.PartitionCounts = key(
        {},
        "How many partitions a topic gets, or has: topic (its name in the backup, or a glob) to their number.",
        kind="mapping of topics to numbers",
        shown_default="those of the existing topic, else as many as there were",
        example="{orders: 12}",
    )
    merge: fields.Switch = key(
        False,
        "Let several source partitions, or topics, go to one target partition, one behind the other; otherwise that is "
        "refused.",
        kind="true or false",
    )
    include_original_offset_header: fields.Switch = key(
        False, "Add a header with the source's offset to each record.", kind="true or false"
    )
    append: fields.Switch = key(
        False,
        "Write into target topics that hold other records already; otherwise that is refused. An interrupted restore "
        "goes on without it.",
        kind="true or false",
    )
    accept_cleanup: fields.Switch = key(
        False,
        "Restore although the target's retention or compaction will remove some of the restored records; otherwise that "
        "is refused.",
        kind="true or false",
    )
    allow_incomplete: fields.Switch = key(
        False,
        "Restore although some segments are missing, of another size or archived: their partitions end before the first "
        "such one (exit code 3). Otherwise that is refused before anything is sent (exit code 4).",
        kind="true or false",
    )
    consumer_groups: fields.Groups = key(
        (),
        "When all records are there, commit for the backup's consumer groups the first restored record at or after what "
        "they had committed: `true` for all groups, or names and globs. Refused while one of them has members.",
        kind="list of groups, or true or false",
        shown_default="`false`",
        example="true",
    )
    group_mapping: fields.GroupMapping = key(
        {},
        "Consumer groups that get another name: name in the backup to name in the target.",
        kind="mapping of groups",
        example="{billing: billing-restored}",
    )
    offset_map: fields.Switch = key(
        True,
        "Write which offset of the source became which offset of the target, for every record, into the backup's folder "
        "(kbr offsets).",
        kind="true or false",
    )
    create_topics: fields.Switch = key(True, "Create target topics that don't exist.", kind="true or false")
    existing_topics: Annotated[ExistingTopics, choice(*get_args(ExistingTopics))] = key(
        "keep",
        "What about target topics that exist: `keep` them as they are, `check` their partitions, replication factor and "
        "configs and refuse what differs, `apply` configs and add partitions (never fewer), or `fail`.",
        kind="word",
    )
    replication_factor: fields.OptionalNumber = key(
        None,
        "Replication factor of topics that are created.",
        kind="number",
        shown_default="as it was at the source",
        minimum=1,
        maximum=32_767,
        example="3",
    )
    topic_configs: fields.TopicConfigs = key(
        {},
        "Topic configs of topics that are created; win over those in the backup.",
        kind="topic configs",
        example='{"retention.ms": -1}',
    )
    compression: Annotated[WireCompression, choice(*get_args(WireCompression))] = key(
        "lz4",
        "Compression of the batches that are sent to the target: `none`, `gzip`, `snappy`, `lz4` or `zstd`.",
        kind="word",
    )
    zero_timestamp_as: fields.Number = key(
        0,
        "What to send for a record with timestamp 0, which librdkafka can't send (it means 'now'); 0 refuses to "
        "restore such records.",
        kind="number",
        unit="epoch milliseconds",
        minimum=0,
        maximum=253_402_300_799_999,
    )
    lock_life_ms: fields.Number = _lock_life("restore")
    lock_wait_ms: fields.Number = _lock_wait("another run of the same restore")
    rate_limit: fields.Rate = _rate_limit("Send")
    rate_limit_records: fields.RecordRate = _rate_limit_records("Send")
    workers: fields.Number = _workers("write")
    memory_limit: fields.OptionalSize = _memory_limit()
