"""librdkafka's errors as kbr's: one clear line that says what, where and what to check."""

from __future__ import annotations

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

__all__ = ["translate", "translate_code"]

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
_MISSING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


def translate(error: KafkaError, doing: str, *, servers: str, cause: str = "", right: str = "") -> KbrError:
    """An admin call's error.

    Args:
        error: librdkafka's.
        doing: what was tried, such as ``listing topics``.
        servers: the bootstrap servers, for the message.
        cause: what the client said about its connections, for errors that only say 'timed out'.
        right: the ACL operation that the call needs, such as ``Describe on the topic``.
    """
    code = error.code()
    words = cause or error.str()
    if code in _AUTHENTICATION or "authentication failed" in cause or "certificate" in cause or "TLS" in cause:
        return AuthenticationFailed(
            f"{doing} at {servers}: {words}",
            hint="check security_protocol, sasl_mechanism, username, password and certificates",
        )
    if code in _UNREACHABLE:
        return ClusterUnavailable(
            f"{doing}: no broker answered at {servers}: {words}",
            hint="check bootstrap_servers, and that a Kafka listener can be reached from here",
        )
    if code in _AUTHORIZATION:
        needed = right or f"a right on the {_AUTHORIZATION[code]}"
        return AuthorizationFailed(f"{doing}: not allowed: {error.str()}", hint=f"the user needs {needed}")
    if code in _MISSING:
        return TopicMissing(f"{doing}: {error.str()}", hint="check the topic's name")
    return ClusterError(f"{doing}: {error.str()}")


def translate_code(
    code: int, text: str, *, topic: str, partition: int, offset: int, producing: bool = False
) -> KbrError:
    """An error of the data path.

    Args:
        code: rd_kafka_resp_err_t.
        text: librdkafka's words.
        topic, partition, offset: where; an offset below 0 is unknown.
        producing: whether a record was being written.
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
        return AuthorizationFailed(
            f"{place}: not allowed: {words}",
            hint=f"the user needs {'Write' if producing else 'Read'} on topic {topic}",
            **context,
        )
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
