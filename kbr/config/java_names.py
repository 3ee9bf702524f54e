"""Names of Java clients' configuration, and what becomes of each. Tables only.

From Kafka 4.1: CommonClientConfigs, SaslConfigs, SslConfigs, AdminClientConfig, ConsumerConfig, ProducerConfig; and from
librdkafka's CONFIGURATION.md for the other side.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DIRECT", "JAVA_ONLY", "JAVA_PREFIXES", "NUMBERS"]

#: To a key of the same cluster section, value as it is.
DIRECT: Mapping[str, tuple[str, ...]] = {
    "bootstrap.servers": ("bootstrap_servers",),
    "security.protocol": ("security", "security_protocol"),
    "sasl.oauthbearer.token.endpoint.url": ("security", "oauth_token_endpoint_url"),
    "sasl.oauthbearer.client.credentials.client.id": ("security", "oauth_client_id"),
    "sasl.oauthbearer.client.credentials.client.secret": ("security", "oauth_client_secret"),
    "sasl.oauthbearer.scope": ("security", "oauth_scope"),
    "ssl.key.password": ("security", "ssl_key_password"),
    "ssl.truststore.certificates": ("client", "ssl.ca.pem"),
    "ssl.keystore.certificate.chain": ("client", "ssl.certificate.pem"),
    "ssl.keystore.key": ("client", "ssl.key.pem"),
    # both know these, and mean the same
    "client.id": ("client", "client.id"),
    "client.rack": ("client", "client.rack"),
    "client.dns.lookup": ("client", "client.dns.lookup"),
    "metadata.recovery.strategy": ("client", "metadata.recovery.strategy"),
    "sasl.kerberos.service.name": ("client", "sasl.kerberos.service.name"),
    "enable.metrics.push": ("client", "enable.metrics.push"),
}

#: Numbers: the property of librdkafka, and its bounds; what lies outside becomes the bound (-1, 'the system's', is 0).
NUMBERS: Mapping[str, tuple[str, int, int]] = {
    "request.timeout.ms": ("socket.timeout.ms", 10, 300_000),
    "send.buffer.bytes": ("socket.send.buffer.bytes", 0, 100_000_000),
    "receive.buffer.bytes": ("socket.receive.buffer.bytes", 0, 100_000_000),
    "connections.max.idle.ms": ("connections.max.idle.ms", 0, 2_147_483_647),
    "reconnect.backoff.ms": ("reconnect.backoff.ms", 0, 3_600_000),
    "reconnect.backoff.max.ms": ("reconnect.backoff.max.ms", 0, 3_600_000),
    "retry.backoff.ms": ("retry.backoff.ms", 1, 300_000),
    "retry.backoff.max.ms": ("retry.backoff.max.ms", 1, 300_000),
    "metadata.max.age.ms": ("metadata.max.age.ms", 1, 86_400_000),
    "metadata.recovery.rebootstrap.trigger.ms": ("metadata.recovery.rebootstrap.trigger.ms", 0, 2_147_483_647),
    "socket.connection.setup.timeout.ms": ("socket.connection.setup.timeout.ms", 1000, 2_147_483_647),
}

#: Of Java's clients alone, or of consumers and producers whose work kbr does in its own way.
JAVA_ONLY = frozenset(
    {
        "acks", "allow.auto.create.topics", "auto.commit.interval.ms", "auto.include.jmx.reporter",
        "auto.offset.reset", "batch.size", "bootstrap.controllers", "buffer.memory", "check.crcs",
        "compression.gzip.level", "compression.lz4.level", "compression.type", "compression.zstd.level",
        "config.providers", "default.api.timeout.ms", "default.list.key.serde.inner", "delivery.timeout.ms",
        "enable.auto.commit", "enable.idempotence", "exclude.internal.topics", "fetch.max.bytes",
        "fetch.max.wait.ms", "fetch.min.bytes", "group.id", "group.instance.id", "group.protocol",
        "group.remote.assignor", "heartbeat.interval.ms", "interceptor.classes", "isolation.level",
        "key.deserializer", "key.serializer", "linger.ms", "max.block.ms", "max.in.flight.requests.per.connection",
        "max.partition.fetch.bytes", "max.poll.interval.ms", "max.poll.records", "max.request.size",
        "metadata.max.idle.ms", "metric.reporters", "metrics.num.samples", "metrics.recording.level",
        "metrics.sample.window.ms", "partition.assignment.strategy", "partitioner.adaptive.partitioning.enable",
        "partitioner.availability.timeout.ms", "partitioner.class", "partitioner.ignore.keys",
        "receive.message.max.bytes", "retries", "sasl.kerberos.kinit.cmd", "sasl.kerberos.min.time.before.relogin",
        "sasl.kerberos.ticket.renew.jitter", "sasl.kerberos.ticket.renew.window.factor", "sasl.login.class",
        "sasl.login.connect.timeout.ms", "sasl.login.read.timeout.ms", "sasl.login.refresh.buffer.seconds",
        "sasl.login.refresh.min.period.seconds", "sasl.login.refresh.window.factor",
        "sasl.login.refresh.window.jitter", "sasl.login.retry.backoff.max.ms", "sasl.login.retry.backoff.ms",
        "sasl.oauthbearer.clock.skew.seconds", "sasl.oauthbearer.expected.audience",
        "sasl.oauthbearer.expected.issuer", "sasl.oauthbearer.header.urlencode",
        "sasl.oauthbearer.jwks.endpoint.refresh.ms", "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms", "sasl.oauthbearer.jwks.endpoint.url",
        "sasl.oauthbearer.jwt.retriever.class", "sasl.oauthbearer.jwt.validator.class",
        "sasl.oauthbearer.scope.claim.name", "sasl.oauthbearer.sub.claim.name", "security.providers",
        "session.timeout.ms", "share.acknowledgement.mode", "ssl.cipher.suites", "ssl.enabled.protocols",
        "ssl.engine.factory.class", "ssl.keymanager.algorithm", "ssl.protocol", "ssl.provider",
        "ssl.secure.random.implementation", "ssl.trustmanager.algorithm", "transaction.timeout.ms",
        "transaction.two.phase.commit.enable", "transactional.id", "value.deserializer", "value.serializer",
        "auto.register.schemas", "use.latest.version", "specific.avro.reader",
    }
)
#: The same by their beginnings: other libraries' settings in the same file.
JAVA_PREFIXES = ("schema.registry.", "basic.auth.", "bearer.auth.", "confluent.", "config.providers.", "key.", "value.")
