"""The configuration's model: every key that kbr knows, its meaning, unit, bounds and default.

The reference page, the JSON schema, the example file, the environment variables and the messages about unknown
keys all come from here. Knows no files, no environment and no command line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import PrivateAttr

from kbr.config import fields
from kbr.config.fields import Section, choice, key, section
from kbr.config.problems import DEFAULT_ORIGIN, Origin, Path
from kbr.model import Compression

__all__ = [
    "BackupConfig",
    "ClusterConfig",
    "Config",
    "LimitsConfig",
    "LoggingConfig",
    "RestoreConfig",
    "SecurityConfig",
    "StorageConfig",
    "TopicSelection",
]

Mode = Literal["backup", "restore"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
Partitioner = Literal["original", "murmur2", "consistent", "round-robin"]
ExistingTopics = Literal["keep", "check", "apply", "fail"]
WireCompression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
IsolationLevel = Literal["read_committed", "read_uncommitted"]
OnMissingTopic = Literal["fail", "continue"]
LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Backend = Literal["s3", "ceph", "filesystem"]

_MIB = 2**20
#: More processes than any machine has cores; a typing error, not a wish.
_MAX_WORKERS = 1024


class TopicSelection(Section):
    """Which topics."""

    include: fields.IncludeGlobs = key(
        ("*",),
        "Topics to take: exact names and globs (`*`, `?`, `[abc]`, `[!abc]`). A name without wildcards has to exist.",
        kind="list of names and globs",
        example='["orders", "payments-*"]',
    )
    exclude: fields.Globs = key(
        (),
        "Topics to leave out, by name or glob; wins over `include`.",
        kind="list of names and globs",
        example='["*-tmp"]',
    )


class SecurityConfig(Section):
    """How to log in to a cluster."""

    security_protocol: Annotated[SecurityProtocol, choice(*get_args(SecurityProtocol))] = key(
        "PLAINTEXT",
        "How to talk to the brokers: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.",
        kind="word",
        example="SASL_SSL",
    )
    sasl_mechanism: Annotated[SaslMechanism | None, choice(*get_args(SaslMechanism), optional=True)] = key(
        None,
        "How to log in with a SASL protocol: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, or `OAUTHBEARER` (its "
        "settings go to `client`).",
        kind="word",
        example="SCRAM-SHA-512",
    )
    username: fields.Text = key(None, "User name for PLAIN and SCRAM.", kind="text", example="kbr")
    password: fields.Secret = key(
        None, "Password for PLAIN and SCRAM.", kind="text", secret=True, example="${KAFKA_PASSWORD}"
    )
    password_command: fields.Argv = key(
        None,
        "A program and its arguments that prints the password; instead of `password`.",
        kind="list of texts",
        example='["pass", "show", "kafka/kbr"]',
    )
    ssl_ca_location: fields.FilePath = key(
        None,
        "File or folder of CA certificates (PEM) that the brokers' certificates are checked with.",
        kind="path",
        shown_default="the system's certificates",
        example="/etc/kbr/ca.pem",
    )
    ssl_certificate_location: fields.FilePath = key(
        None, "The client's own certificate (PEM), for mutual TLS.", kind="path", example="/etc/kbr/client.pem"
    )
    ssl_key_location: fields.FilePath = key(
        None, "The key of the client's certificate (PEM).", kind="path", example="/etc/kbr/client.key"
    )
    ssl_key_password: fields.Secret = key(
        None, "Password of that key.", kind="text", secret=True, example="${KAFKA_KEY_PASSWORD}"
    )
    ssl_key_password_command: fields.Argv = key(
        None,
        "A program and its arguments that prints it; instead of `ssl_key_password`.",
        kind="list of texts",
        example='["pass", "show", "kafka/key"]',
    )


class ClusterConfig(Section):
    """A Kafka cluster."""

    bootstrap_servers: fields.Broker = key(
        (),
        "Brokers to start from, each `host:port`; a list, or a text with commas.",
        kind="list of host:port",
        shown_default="required",
        example='["localhost:9092"]',
    )
    deadline_ms: fields.Number = key(
        60_000,
        "How long to wait for the cluster's answers about brokers, topics and offsets before giving up (exit code 5).",
        kind="number",
        unit="milliseconds",
        minimum=100,
        maximum=86_400_000,
    )
    client: fields.Properties = key(
        {},
        "Any librdkafka property, by its own name; wins over what kbr sets.",
        kind="properties",
        example='{"socket.keepalive.enable": true}',
    )
    topics: TopicSelection = section(TopicSelection, "Which topics.")
    security: SecurityConfig = section(SecurityConfig, "How to log in.")


class StorageConfig(Section):
    """Where backups lie: `url`, or `backend` with its keys."""

    url: fields.Url = key(
        None,
        "A folder, `file:///folder` or `s3://bucket/prefix`; instead of `backend`, `bucket`, `prefix` and `path`.",
        kind="URL",
        example="s3://kafka-backups/production",
    )
    backend: Annotated[Backend | None, choice(*get_args(Backend), optional=True)] = key(
        None, "`s3` (any S3 server), `ceph` (Ceph RGW), or `filesystem`.", kind="word", example="s3"
    )
    path: fields.FilePath = key(None, "The folder, for `filesystem`.", kind="path", example="/var/backups/kafka")
    bucket: fields.Bucket = key(None, "The bucket, for `s3` and `ceph`.", kind="text", example="kafka-backups")
    prefix: fields.Prefix = key(
        None, "A folder in the bucket.", kind="text", shown_default="the bucket itself", example="production"
    )
    endpoint: fields.Endpoint = key(
        None,
        "Address of the S3 server.",
        kind="URL",
        shown_default="AWS; required for `ceph`",
        example="https://s3.example.org",
    )
    region: fields.Text = key(
        None, "The bucket's region.", kind="text", shown_default="what boto finds", example="eu-central-1"
    )
    access_key: fields.Secret = key(
        None,
        "Access key id.",
        kind="text",
        secret=True,
        shown_default="boto's chain: environment, profile, instance role",
        example="${S3_ACCESS_KEY}",
    )
    secret_key: fields.Secret = key(
        None,
        "Secret access key.",
        kind="text",
        secret=True,
        shown_default="as `access_key`",
        example="${S3_SECRET_KEY}",
    )
    secret_key_command: fields.Argv = key(
        None,
        "A program and its arguments that prints the secret key; instead of `secret_key`.",
        kind="list of texts",
        example='["pass", "show", "s3/kbr"]',
    )
    session_token: fields.Secret = key(
        None, "Session token of temporary credentials.", kind="text", secret=True, example="${S3_SESSION_TOKEN:-}"
    )
    path_style: fields.OptionalSwitch = key(
        None,
        "Put the bucket into the path of requests and not into the host name.",
        kind="true or false",
        shown_default="true if `endpoint` is given",
        example="true",
    )
    ca_bundle: fields.FilePath = key(
        None,
        "CA certificates (PEM) that the S3 server's certificate is checked with.",
        kind="path",
        shown_default="those that come with botocore",
        example="/etc/kbr/s3-ca.pem",
    )
    deadline_ms: fields.Number = key(
        900_000,
        "How long one operation is tried again after temporary errors before kbr gives up with exit code 5.",
        kind="number",
        unit="milliseconds",
        minimum=100,
        maximum=86_400_000,
    )

    @property
    def location(self) -> str:
        """A folder's path, or s3://bucket/prefix: whichever way it was given."""
        if self.url is not None:
            return self.url
        if self.path is not None:
            return self.path
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def is_s3(self) -> bool:
        """Whether it is an object store and not a folder."""
        return self.location.startswith("s3://")

    @property
    def uses_path_style(self) -> bool:
        """``path_style``, or what fits the endpoint: servers other than AWS seldom have bucket host names."""
        return self.endpoint is not None if self.path_style is None else self.path_style


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


class LoggingConfig(Section):
    """Log lines, on standard error."""

    format: Annotated[LogFormat, choice(*get_args(LogFormat))] = key(
        "plain", "`plain` for people, `json` for programs: one object a line.", kind="word"
    )
    level: Annotated[LogLevel, choice(*get_args(LogLevel))] = key(
        "info", "The least level that is written: `debug`, `info`, `warning` or `error`.", kind="word"
    )


class LimitsConfig(Section):
    """What is believed of a backup: it is untrusted input."""

    max_block_bytes: fields.Size = key(
        256 * _MIB,
        "The largest block that is read, decompressed; a block that claims more is damaged.",
        kind="size",
        unit="bytes",
        minimum=_MIB,
        maximum=2**31 - 1,
    )


class Config(Section):
    """A whole configuration, checked and frozen."""

    mode: Annotated[Mode | None, choice(*get_args(Mode), optional=True)] = key(
        None,
        "What the file is for; `kbr backup` refuses a file for `restore`, and the other way round.",
        kind="word",
        example="backup",
    )
    backup_id: fields.BackupId = key(
        None,
        "The backup's name: letters, digits, `.`, `_`, `-`; at most 128.",
        kind="text",
        shown_default="required by backup and restore",
        example="nightly-1",
    )
    source: ClusterConfig = section(ClusterConfig, "The cluster that a backup reads.")
    target: ClusterConfig = section(
        ClusterConfig, "The cluster that a restore writes; `topics` selects topics of the backup, by their names in it."
    )
    storage: StorageConfig = section(StorageConfig, "Where backups lie: `url`, or `backend` with its keys.")
    backup: BackupConfig = section(BackupConfig, "How a backup is taken and stored.")
    restore: RestoreConfig = section(RestoreConfig, "What is restored, and how.")
    logging: LoggingConfig = section(LoggingConfig, "Log lines, on standard error.")
    limits: LimitsConfig = section(LimitsConfig, "What is believed of a backup: it is untrusted input.")

    _origins: dict[Path, Origin] = PrivateAttr(default_factory=dict)

    def origin_of(self, path: Path) -> Origin:
        """Where the value of a key came from."""
        return self._origins.get(path, DEFAULT_ORIGIN)
