"""librdkafka's errors as kbr's: one clear line that says what, where and what to check. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from confluent_kafka import KafkaError

from kbr.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ClusterError,
    ClusterUnavailable,
    FetchFailed,
    KbrError,
    OffsetOutOfRange,
    ProduceFailed,
    TopicMissing,
)

__all__ = ["UNSUPPORTED", "Cause", "missing_right", "translate", "translate_code"]

#: How brokers, or librdkafka for them, say that they don't know a request.
UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._NOT_IMPLEMENTED})

_UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_AUTHENTICATION = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
_AUTHORIZATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
}
_ONE_RIGHT = re.compile(r"(\w+) on (?:the cluster|(topic|group) ([^\s,]+))")
_MISSING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
#: What to do about an answer of an admin request.
_ADMIN_HINTS = {
    KafkaError.TOPIC_ALREADY_EXISTS: "somebody made it meanwhile; run the same command again, or map the topic to another name",
    KafkaError.INVALID_CONFIG: "the cluster doesn't know that config or takes no such value: set another value by "
    "--topic-config (restore.topic_configs), or make the topic beforehand",
    KafkaError.INVALID_REPLICATION_FACTOR: "set restore.replication_factor to one that the cluster allows",
    KafkaError.INVALID_PARTITIONS: "the cluster allows no such partition count",
    KafkaError.TOPIC_EXCEPTION: "the cluster allows no such topic name; map the topic to another one",
    KafkaError.POLICY_VIOLATION: "the cluster has a policy for new topics: make the topic beforehand, or set "
    "restore.topic_configs and restore.replication_factor to what it allows",
    KafkaError.UNSUPPORTED_VERSION: "the brokers are too old for this",
    KafkaError._UNSUPPORTED_FEATURE: "the brokers are too old for this",
    KafkaError.THROTTLING_QUOTA_EXCEEDED: "the cluster allows only so many such changes in a time; run the same command again",
    KafkaError.NOT_CONTROLLER: "the cluster is choosing a controller; run the same command again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What the client said about a broker that it could not use.

    Attributes:
        code: rd_kafka_resp_err_t.
        broker: host:port, or empty.
        reason: what is wrong, for people.
        check: what to look at.
    """

    code: int
    broker: str
    reason: str
    check: str


def translate(
    error: KafkaError,
    doing: str,
    *,
    servers: str,
    cause: Cause | None = None,
    right: str = "",
    principal: str = "",
    waited_s: float = 0.0,
) -> KbrError:
    """An admin call's error.

    Args:
        error: librdkafka's.
        doing: what was tried, such as ``listing topics``.
        servers: the bootstrap servers, for the message.
        cause: what the client said about its connections, for errors that only say 'timed out'.
        right: the ACL operation that the call needs, such as ``Describe on topic t``.
        principal: whom the brokers take the client for, as in an ACL, where that is known.
        waited_s: for how long it was tried, seconds.
    """
    code = error.code()
    words = error.str()
    if code in _AUTHORIZATION:
        needed = right or f"a right on the {_AUTHORIZATION[code]}"
        return missing_right(doing, needed, principal)
    if code in _MISSING:
        return TopicMissing(f"{doing}: {words}", hint="check the topic's name")
    if code not in _UNREACHABLE and code not in _AUTHENTICATION:
        return ClusterError(f"{doing}: {words}", hint=_ADMIN_HINTS.get(code, ""))
    why, check = words, ""
    if cause is not None:
        # of one server, the message names it already
        why = f"{cause.reason} (broker {cause.broker})" if cause.broker not in {"", servers} else cause.reason
        check = cause.check
    if code in _AUTHENTICATION or (cause is not None and cause.code in _AUTHENTICATION):
        return AuthenticationFailed(
            f"{doing} at {servers}: {why}",
            hint=check or "check security_protocol, sasl_mechanism, username, password and certificates",
        )
    within = f" within {waited_s:.0f} s" if waited_s >= 1 else ""
    found = "check bootstrap_servers, and that a Kafka listener can be reached from here"
    return ClusterUnavailable(
        f"{doing}: no broker answered at {servers}{within}: {why}", hint=f"{check}; {found}" if check else found
    )


def missing_right(doing: str, right: str, principal: str = "", **context: object) -> AuthorizationFailed:
    """The error that names a right: ``Read on topic t``, ``Describe on group g``, ``Create on the cluster``, ...

    Args:
        doing: what it was needed for.
        principal: as translate()'s.
    """
    match = _ONE_RIGHT.match(right)
    hint = "ask for it whoever grants rights in the cluster"
    if match is not None:
        operation, kind, name = match.groups()
        resource = "--cluster" if kind is None else f"--{kind} {name}"
        hint = (
            f"grant it: kafka-acls --bootstrap-server HOST:PORT --add --allow-principal {principal or 'User:NAME'} "
            f"--operation {operation} {resource}"
        )
    who = f" ({principal})" if principal else ""
    return AuthorizationFailed(f"{doing}: not allowed; missing right: {right}{who}", hint=hint, right=right, **context)


def translate_code(
    code: int, text: str, *, topic: str, partition: int, offset: int, producing: bool = False, principal: str = ""
) -> KbrError:
    """An error of the data path.

    Args:
        code: rd_kafka_resp_err_t.
        text: librdkafka's words.
        topic, partition, offset: where; an offset below 0 is unknown.
        producing: whether a record was being written.
        principal: as translate()'s.
    """
    place = f"{topic}[{partition}]" if topic else "the client"
    if offset >= 0:
        place += f" at offset {offset}"
    context = {"topic": topic, "partition": partition, "offset": offset, "code": code}
    words = text or KafkaError(code).str()
    if code in _OUT_OF_RANGE and not producing:
        return OffsetOutOfRange(
            f"{place}: the offset is no longer in the log (retention, truncation or a recreated topic)",
            hint="records that were deleted before they were read are lost; raise the topic's retention or back up more often",
            **context,
        )
    if code in _AUTHORIZATION:
        right = f"{'Write' if producing else 'Read'} on {f'topic {topic}' if topic else 'the topics'}"
        if producing and code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            # an idempotent producer's id: since 2.8 (KIP-679) a right to write to any topic is enough
            right = "Write on the topics, or IdempotentWrite on the cluster where brokers are older than 2.8"
        return missing_right(place, right, principal, **context)
    if code in _AUTHENTICATION:
        return AuthenticationFailed(f"{place}: {words}", hint="check the credentials", **context)
    if code in _MISSING:
        return TopicMissing(f"{place}: {words}", hint="the topic or partition is gone", **context)
    if producing:
        hints = {
            KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the target topic",
            KafkaError.INVALID_TIMESTAMP: "raise message.timestamp.before.max.ms and message.timestamp.after.max.ms of "
            "the target topic",
            KafkaError.INVALID_RECORD: "the broker refuses the record (timestamp limits, or a null key in a compacted "
            "topic): check the target topic's configs",
        }
        return ProduceFailed(f"{place}: {words}", hint=hints.get(code, "check the target's brokers"), **context)
    if code == KafkaError._BAD_MSG:
        return FetchFailed(
            f"{place}: the broker's copy is damaged: {words}",
            hint="check that broker's disk; another replica may be intact",
            **context,
        )
    return FetchFailed(f"{place}: {words}", hint="check the source's brokers", **context)
