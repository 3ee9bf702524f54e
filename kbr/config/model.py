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
from kbr.config.storage import StorageConfig
from kbr.config.trust import EncryptionConfig, SigningConfig

__all__ = [
    "BackupConfig",
    "ClusterConfig",
    "Config",
    "EncryptionConfig",
    "LimitsConfig",
    "LoggingConfig",
    "RestoreConfig",
    "SecurityConfig",
    "SigningConfig",
    "StorageConfig",
    "TopicSelection",
]

Mode = Literal["backup", "restore"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM", "GSSAPI"]
HostCheck = Literal["https", "none"]
LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

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
        "How to log in with a SASL protocol: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER` (the `oauth_` keys), "
        "`AWS_MSK_IAM` (the `aws_` keys; needs `kbr[msk]`), or `GSSAPI` (Kerberos, where librdkafka was built with it; "
        "`sasl.kerberos.` properties go to `client`).",
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
    oauth_token_endpoint_url: fields.TokenUrl = key(
        None,
        "Where OAUTHBEARER tokens are asked for, by client credentials: an OpenID Connect server's token endpoint.",
        kind="URL",
        example="https://login.example.org/oauth2/token",
    )
    oauth_client_id: fields.Text = key(None, "Client id at that server.", kind="text", example="kbr")
    oauth_client_secret: fields.Secret = key(
        None, "Client secret at that server.", kind="text", secret=True, example="${KAFKA_CLIENT_SECRET}"
    )
    oauth_client_secret_command: fields.Argv = key(
        None,
        "A program and its arguments that prints the client secret; instead of `oauth_client_secret`.",
        kind="list of texts",
        example='["pass", "show", "kafka/client"]',
    )
    oauth_scope: fields.Text = key(None, "Scope of the tokens that are asked for.", kind="text", example="kafka")
    oauth_extensions: fields.Text = key(
        None,
        "SASL extensions, `name=value` with commas between: Confluent Cloud wants `logicalCluster` and `identityPoolId`.",
        kind="text",
        example="logicalCluster=lkc-1,identityPoolId=pool-1",
    )
    aws_region: fields.Text = key(
        None,
        "The Amazon MSK cluster's region, for AWS_MSK_IAM.",
        kind="text",
        shown_default="by the brokers' names, else `AWS_REGION`",
        example="eu-central-1",
    )
    aws_profile: fields.Text = key(
        None,
        "Profile of the AWS configuration files, for AWS_MSK_IAM.",
        kind="text",
        shown_default="boto's chain: environment, profile, instance role",
        example="backup",
    )
    aws_role_arn: fields.Text = key(
        None,
        "A role to take on first, for AWS_MSK_IAM.",
        kind="text",
        example="arn:aws:iam::123456789012:role/kbr",
    )
    aws_role_session: fields.Text = key(
        None, "What that role's session is called in AWS's logs.", kind="text", example="kbr-nightly"
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


    ssl_endpoint_identification_algorithm: Annotated[HostCheck | None, choice(*get_args(HostCheck), optional=True)] = key(
        None,
        "`https`: a broker's certificate has to be for the name that it is called by. `none` leaves that out, and anybody "
        "with a certificate of the same CA can be the broker.",
        kind="word",
        shown_default="`https`",
        example="https",
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
    command_config: fields.FilePath = key(
        None,
        "A `client.properties` file of Kafka's own tools, whose names are translated; keys given here win over it.",
        kind="path",
        example="/etc/kafka/client.properties",
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
    encryption: EncryptionConfig = section(EncryptionConfig, "Encryption of backups by kbr itself: whatever opens them is here.")
    signing: SigningConfig = section(SigningConfig, "Signatures of manifests: who signs, and whose are wanted.")
    backup: BackupConfig = section(BackupConfig, "How a backup is taken and stored.")
    restore: RestoreConfig = section(RestoreConfig, "What is restored, and how.")
    logging: LoggingConfig = section(LoggingConfig, "Log lines, on standard error.")
    limits: LimitsConfig = section(LimitsConfig, "What is believed of a backup: it is untrusted input.")

    _origins: dict[Path, Origin] = PrivateAttr(default_factory=dict)
    _warnings: list[str] = PrivateAttr(default_factory=list)
    _variables: set[str] = PrivateAttr(default_factory=set)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no mistake, and should be looked at: a sentence each."""
        return tuple(self._warnings)

    @property
    def variables(self) -> frozenset[str]:
        """Environment variables that it refers to with ``${...}``."""
        return frozenset(self._variables)

    def origin_of(self, path: Path) -> Origin:
        """Where the value of a key came from."""
        return self._origins.get(path, DEFAULT_ORIGIN)
