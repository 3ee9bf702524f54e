"""librdkafka's errors as one clear line each."""

from __future__ import annotations

import pytest
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
from kbr.kafka.translate import translate, translate_code


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError._TRANSPORT, ClusterUnavailable, "no broker answered at b:1"),
        (KafkaError._TIMED_OUT, ClusterUnavailable, "b:1"),
        (KafkaError._AUTHENTICATION, AuthenticationFailed, "b:1"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AuthorizationFailed, "not allowed"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissing, "looking"),
        (KafkaError.INVALID_CONFIG, ClusterError, "looking"),
    ],
)
def test_admin_errors_say_what_was_tried_where(code: int, kind: type[KbrError], words: str) -> None:
    error = translate(KafkaError(code), "looking", servers="b:1")
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


def test_the_cause_of_a_timeout_is_told() -> None:
    error = translate(KafkaError(KafkaError._TIMED_OUT), "looking", servers="b:1", cause="connection refused (b:1)")
    assert "connection refused" in str(error)


def test_a_missing_right_is_named() -> None:
    error = translate(
        KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "looking", servers="b:1", right="Describe on topic t"
    )
    assert "Describe on topic t" in error.hint


@pytest.mark.parametrize(
    ("code", "producing", "kind"),
    [
        (KafkaError._AUTO_OFFSET_RESET, False, OffsetOutOfRange),
        (KafkaError._BAD_MSG, False, FetchFailed),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False, AuthorizationFailed),
        (KafkaError.MSG_SIZE_TOO_LARGE, True, ProduceFailed),
        (KafkaError.INVALID_TIMESTAMP, True, ProduceFailed),
        (KafkaError._UNKNOWN_PARTITION, True, TopicMissing),
    ],
)
def test_data_errors_name_topic_partition_and_offset(code: int, producing: bool, kind: type[KbrError]) -> None:
    error = translate_code(code, "", topic="t", partition=3, offset=77, producing=producing)
    assert type(error) is kind
    assert "t[3]" in str(error)
    assert "offset 77" in str(error)
    assert error.hint
    assert (error.context["topic"], error.context["partition"], error.context["offset"]) == ("t", 3, 77)
