"""How clients are set up: what the user gave, what correctness needs, what the memory budget allows.

Pure. Property names and meanings: librdkafka's CONFIGURATION.md. docs/explanation/client-settings.md
tells the same to users. A topic property (auto.offset.reset, acks, message.timeout.ms, compression.codec, ...) may
stand among the others: librdkafka passes it on to its default topic configuration (rd_kafka_conf_set), which every
topic here uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbr.errors import ConfigError
from kbr.secrecy import MASK, MIN_CHARS, is_secret_property

__all__ = [
    "MSK_IAM",
    "ClientSettings",
    "MskIamLogin",
    "OidcLogin",
    "admin_properties",
    "consumer_properties",
    "login_files",
    "producer_properties",
]

#: The mechanism's name as Amazon's Java library has it. On the wire it is OAUTHBEARER here, as in AWS's signers for
#: other languages.
MSK_IAM = "AWS_MSK_IAM"

#: Properties that the promises stand on, and why: a client setting that differs is refused.
_FIXED: Mapping[str, tuple[str, str]] = {
    "auto.offset.reset": ("error", "an offset out of range would silently move, and leave a hole"),
    "enable.auto.commit": ("false", "kbr keeps its positions in the backup, not in a consumer group"),
    "enable.partition.eof": ("true", "the end of a partition is told by it"),
    "allow.auto.create.topics": ("false", "a broker must not invent a topic"),
    "check.crcs": ("true", "damaged batches must be seen"),
    "enable.idempotence": ("true", "a retried batch must not be doubled"),
    "enable.gapless.guarantee": ("true", "nothing may be written behind a failed batch"),
    "acks": ("all", "an acknowledged record must survive its leader"),
    "message.timeout.ms": ("0", "one record must not time out while later ones go through"),
    "isolation.level": ("", "set backup.isolation_level instead"),
    "transactional.id": ("", "a restore is not one transaction, and would wait for a begin that never comes"),
    "log.queue": ("true", "log lines go through kbr"),
}
#: How often a consumer tells its positions, ms: often against how long nothing may come (kbr.backup.fetching).
STATISTICS_MS = 10_000
#: How far ahead of a rate limit is fetched, seconds of that rate.
PREFETCH_S = 0.25
_ALIASES = {
    "request.required.acks": "acks",
    "delivery.timeout.ms": "message.timeout.ms",
    "auto.commit.enable": "enable.auto.commit",
    "enable.auto.offset.store": "enable.auto.commit",
}
#: How the names of properties end whose values are paths (CONFIGURATION.md).
_FILES = (".location", ".file", ".keytab")
#: librdkafka quotes what it can't read of this one (rdkafka_sasl_oauthbearer.c: "beginning at: ...").
_QUOTED_PROPERTY = "sasl.oauthbearer.config"


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcLogin:
    """Where librdkafka gets its tokens for OAUTHBEARER: an OpenID Connect server (KIP-768), by client credentials.

    Attributes:
        extensions: SASL extensions, ``name=value`` with commas between.
    """

    token_endpoint_url: str
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    extensions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MskIamLogin:
    """What AWS's signer makes tokens for Amazon MSK with; what is None is found as botocore finds it.

    Attributes:
        region: None: by the brokers' names, or else AWS_REGION or AWS_DEFAULT_REGION.
        profile: of the AWS configuration files.
        role_arn: a role to take on first.
        role_session: what that session is called in AWS's logs.
    """

    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    role_session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How to reach a cluster. Secrets don't show in repr; picklable, as workers need it.

    Attributes:
        ssl_endpoint_identification_algorithm: ``https`` (librdkafka's default: the certificate has to name the
            host) or ``none``.
        oidc: for OAUTHBEARER.
        msk_iam: for AWS_MSK_IAM.
        client: any librdkafka property; wins over what kbr sets, but not over what its promises need.
    """

    bootstrap_servers: tuple[str, ...]
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_ca_location: str | None = None
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    ssl_endpoint_identification_algorithm: str | None = None
    oidc: OidcLogin | None = None
    msk_iam: MskIamLogin | None = None
    client: Mapping[str, str] = field(default_factory=dict, repr=False)

    def redact(self, text: str) -> str:
        """``text`` without any of these settings' secrets: for what librdkafka says about its configuration.

        Short ones, too, where they stand alone: in the midst of a word (``kbr`` in ``kbr-1.example.org``) nobody would know them for
        secrets, but by what the mask leaves of the word.
        """
        if _QUOTED_PROPERTY in text:
            text = f"{text.partition(_QUOTED_PROPERTY)[0]}{_QUOTED_PROPERTY} (not shown: it holds secrets)"
        secrets = {self.password, self.ssl_key_password, None if self.oidc is None else self.oidc.client_secret}
        secrets.update(str(value) for name, value in self.client.items() if is_secret_property(name))
        for secret in sorted((one for one in secrets if one), key=len, reverse=True):
            if len(secret) >= MIN_CHARS:
                text = text.replace(secret, MASK)
            else:
                text = re.sub(rf"(?<![\w.-]){re.escape(secret)}(?![\w.-])", MASK, text)
        return text

    @property
    def principal(self) -> str:
        """Whom the brokers most likely take this client for, as in an ACL; empty where that can't be known here."""
        name = self.client.get("sasl.username", self.username)
        if self.client.get("security.protocol", self.security_protocol).upper().startswith("SASL") and name:
            return f"User:{name}"
        return ""


def _connection(settings: ClientSettings) -> dict[str, str]:
    properties = {
        "bootstrap.servers": ",".join(settings.bootstrap_servers),
        "client.id": "kbr",
        "security.protocol": settings.security_protocol,
        "allow.auto.create.topics": "false",
        # The default of 100 ms to 10 s between attempts is kept; a broker that closes an idle
        # connection is no event worth a line.
        "log.connection.close": "false",
        # Throttled restores and slow uploads leave connections silent for minutes; firewalls forget such ones, and
        # the next request would wait for socket.timeout.ms (60 s).
        "socket.keepalive.enable": "true",
    }
    oidc = settings.oidc
    optional = {
        "sasl.mechanism": "OAUTHBEARER" if settings.sasl_mechanism == MSK_IAM else settings.sasl_mechanism,
        "sasl.username": settings.username,
        "sasl.password": settings.password,
        "ssl.ca.location": settings.ssl_ca_location,
        "ssl.certificate.location": settings.ssl_certificate_location,
        "ssl.key.location": settings.ssl_key_location,
        "ssl.key.password": settings.ssl_key_password,
        "ssl.endpoint.identification.algorithm": settings.ssl_endpoint_identification_algorithm,
    }
    if oidc is not None:
        optional.update(
            {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": oidc.token_endpoint_url,
                "sasl.oauthbearer.client.id": oidc.client_id,
                "sasl.oauthbearer.client.secret": oidc.client_secret,
                "sasl.oauthbearer.scope": oidc.scope,
                "sasl.oauthbearer.extensions": oidc.extensions,
            }
        )
    properties.update({name: value for name, value in optional.items() if value is not None})
    return properties


def _with_client(properties: dict[str, str], settings: ClientSettings) -> dict[str, str]:
    """The user's properties over ours, except where a promise would break."""
    for given, value in settings.client.items():
        name = _ALIASES.get(given, given)
        fixed = _FIXED.get(name)
        if fixed is not None and str(value).lower() not in {fixed[0], {"all": "-1"}.get(fixed[0], fixed[0])}:
            wanted = f"has to stay {fixed[0]}" if fixed[0] else "is not a client setting here"
            raise ConfigError(f"client property {given} {wanted}: {fixed[1]}", hint=f"remove {given} from client", key=given)
        if fixed is None:
            properties[name] = str(value)
    return properties


def admin_properties(settings: ClientSettings) -> dict[str, str]:
    """For metadata, offsets, configs and making topics.

    Raises:
        ConfigError: ``client`` holds a property that kbr's promises fix.
    """
    properties = _connection(settings)
    # Its lines explain why no broker answers, and are not shown: that a listener closes each connection tells something.
    properties["log.connection.close"] = "true"
    # The default of 30 s is longer than a wrong address is tried (kbr.kafka.admin), and its cause would not be
    # known by then: a host behind a firewall that drops packets just says nothing.
    properties["socket.connection.setup.timeout.ms"] = "10000"
    return _with_client(properties, settings)


def login_files(properties: Mapping[str, str]) -> tuple[str, ...]:
    """Paths that librdkafka reads when it makes a client: certificates, keys, lists of CAs, keytabs. It reads none a second time."""
    return tuple(value for name, value in sorted(properties.items()) if value and name.endswith(_FILES))


def consumer_properties(
    settings: ClientSettings,
    *,
    memory_bytes: int,
    partition_count: int,
    isolation_level: str,
    bytes_per_s: float = 0.0,
    records_per_s: float = 0.0,
) -> dict[str, str]:
    """For fetching.

    Args:
        memory_bytes: budget for what is fetched and waits. A fetched record costs about 350 bytes
            beside its payload (an rd_kafka_op_t), so the queue is bounded in records too.
        partition_count: how many share it.
        isolation_level: read_committed or read_uncommitted.
        bytes_per_s, records_per_s: the run's rate limit, 0 for none: what is fetched ahead of it goes over the wire
            faster than was asked for.

    Raises:
        ConfigError: ``client`` holds a property that kbr's promises fix.
    """
    queue_bytes = max(4 << 20, memory_bytes // 4)
    if bytes_per_s:
        queue_bytes = max(128 << 10, min(queue_bytes, int(bytes_per_s * PREFETCH_S)))
    # One answer of each broker holds at most this, as stored: it is unpacked whole, so that compression multiplies it
    # and every small record adds its op. JSON lines of 98 B that zstd packs 50 to 1 took a worker to 396 MB with
    # 2 MiB a partition (one partition), 234 MB with 1 MiB; at the usual 5 to 10 to 1, a fifth of that. 600 k x 1 KiB
    # in one partition were as fast with 256 KiB as with 2 MiB (2.9 to 3.4 s), and 4.4 s instead of 3.6 s with 8 MiB.
    answer_bytes = max(1 << 20, min(4 << 20, memory_bytes // 4))
    per_partition = max(256 << 10, min(1 << 20, answer_bytes // max(1, min(partition_count, 64))))
    if bytes_per_s:
        # a broker gives at least one whole batch, however small this is
        answer_bytes = max(64 << 10, min(answer_bytes, queue_bytes // 2))
        per_partition = min(per_partition, answer_bytes)
    queue_records = max(1000, min(100_000, queue_bytes // 700))
    if records_per_s:
        queue_records = max(10, min(queue_records, int(records_per_s * PREFETCH_S)))
    properties = _connection(settings)
    properties.update(
        {
            "auto.offset.reset": "error",
            "enable.partition.eof": "true",
            "check.crcs": "true",
            "isolation.level": isolation_level,
            # A full queue stops fetching for this long; at its default of 1000 ms a consumer stands
            # still for a second whenever it is faster than its reader (2.8 s became 0.82 s for
            # 1 M x 100 B over 1,000 partitions, DESIGN section 5).
            "fetch.queue.backoff.ms": "1",
            # An answer waits this long for data at the end of a log: the tail of a one-shot run.
            "fetch.wait.max.ms": "50" if partition_count < 100 else "5",
            "fetch.error.backoff.ms": "100",
            # By them it is seen that something is read of which no record comes (aborted ones). 1 kB a partition.
            "statistics.interval.ms": str(STATISTICS_MS),
            "queued.max.messages.kbytes": str(queue_bytes // 1024),
            "queued.min.messages": str(queue_records),
            "fetch.message.max.bytes": str(per_partition),
            "fetch.max.bytes": str(answer_bytes),
            # A single record may be larger than any of these (KIP-74): the answer is taken up to here.
            "receive.message.max.bytes": "2147483647",
            # Has to be at most fetch.max.bytes (rdkafka_conf.c raises that one otherwise).
            "message.max.bytes": str(min(1_000_000, answer_bytes)),
        }
    )
    return _agreeing(_with_client(properties, settings), settings)


def _agreeing(properties: dict[str, str], settings: ClientSettings) -> dict[str, str]:
    """Our sizes moved to fit the user's: message.max.bytes <= fetch.max.bytes <= receive.message.max.bytes - 512.

    librdkafka refuses other combinations, in words about a property that the user never set.
    """
    names = ("message.max.bytes", "fetch.max.bytes", "receive.message.max.bytes")
    if not all(properties[name].isdecimal() for name in names):
        return properties  # librdkafka says which one is no number
    message, fetch, receive = (int(properties[name]) for name in names)
    given = settings.client
    if "fetch.max.bytes" not in given:
        floor = message if "message.max.bytes" in given else 0
        fetch = max(floor, min(fetch, receive - 512))
    if "receive.message.max.bytes" not in given:
        receive = max(receive, min(fetch + 512, 2147483647))
    if "message.max.bytes" not in given:
        message = min(message, fetch)
    return {**properties, **dict(zip(names, map(str, (message, fetch, receive)), strict=True))}


def producer_properties(
    settings: ClientSettings, *, memory_bytes: int, compression: str, batch_bytes: int, largest_record_bytes: int = 0
) -> dict[str, str]:
    """For restoring: idempotent, acks=all, no record left behind.

    Args:
        memory_bytes: budget for what waits to be sent.
        compression: none, gzip, snappy, lz4 or zstd.
        batch_bytes: largest batch before compression; a single larger record goes alone.
        largest_record_bytes: of those to come, where that may be more than the budget.

    Raises:
        ConfigError: ``client`` holds a property that kbr's promises fix.
    """
    properties = _connection(settings)
    properties.update(
        {
            "enable.idempotence": "true",
            "enable.gapless.guarantee": "true",
            "acks": "all",
            "max.in.flight.requests.per.connection": "5",
            "message.timeout.ms": "0",
            # Batches fill by themselves here; a short wait only matters for the last ones.
            "linger.ms": "5",
            "batch.size": str(batch_bytes),
            "batch.num.messages": str(max(1, min(100_000, batch_bytes // 50))),
            # The client's own limit on one request must not be below what the topic takes.
            "message.max.bytes": "1000000000",
            # A record larger than this is never taken, not even alone. Its room costs nothing here: values are read from
            # the block's own memory.
            "queue.buffering.max.kbytes": str(max(4 << 10, memory_bytes // 1024, -(-largest_record_bytes // 1024))),
            "queue.buffering.max.messages": str(max(1000, min(500_000, memory_bytes // 400))),
            "compression.codec": compression,
        }
    )
    return _with_client(properties, settings)
