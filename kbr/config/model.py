"""The configuration's model: every key that kbr knows, its meaning, unit, bounds and default.

The reference page, the JSON schema, the example file, the environment variables and the messages about unknown
keys all come from here. Knows no files, no environment and no command line.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import PrivateAttr

from kbr.config import fields
from kbr.config.fields import Section, choice, key, section
from kbr.config.problems import DEFAULT_ORIGIN, Origin, Path
from kbr.config.runs import BackupConfig, RestoreConfig

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
LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Backend = Literal["s3", "ceph", "filesystem"]

_MIB = 2**20


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
    max_manifest_bytes: fields.Size = key(
        1024 * _MIB,
        "The largest manifest that is read: 1 GiB is 1.8 million segments, and takes 4.5 GB of memory.",
        kind="size",
        unit="bytes",
        minimum=_MIB,
        maximum=1024 * _MIB,
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
