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
from kbr.kafka.translate import Cause, missing_right, translate, translate_code


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


def _cause(code: int = KafkaError._TRANSPORT, broker: str = "b:1") -> Cause:
    return Cause(code=code, broker=broker, reason="connection refused", check="is it running?")


def test_the_cause_of_a_timeout_is_told() -> None:
    error = translate(KafkaError(KafkaError._TIMED_OUT), "looking", servers="b:1", cause=_cause(), waited_s=14.6)
    assert str(error) == "looking: no broker answered at b:1 within 15 s: connection refused"
    assert "is it running?" in error.hint
    assert "bootstrap_servers" in error.hint


def test_a_broker_that_is_not_the_one_asked_first_is_named() -> None:
    error = translate(KafkaError(KafkaError._TRANSPORT), "looking", servers="b:1", cause=_cause(broker="inner:9092"))
    assert "broker inner:9092" in str(error)


@pytest.mark.parametrize("code", [KafkaError._AUTHENTICATION, KafkaError._SSL])
def test_a_timeout_behind_a_refused_login_is_a_refused_login(code: int) -> None:
    error = translate(KafkaError(KafkaError._TRANSPORT), "looking", servers="b:1", cause=_cause(code))
    assert type(error) is AuthenticationFailed


def test_an_answer_is_not_explained_by_what_a_connection_said_before() -> None:
    cause = _cause(KafkaError._AUTHENTICATION)
    error = translate(KafkaError(KafkaError.INVALID_CONFIG, "Unknown topic config name: x"), "making", servers="b:1", cause=cause)
    assert type(error) is ClusterError
    assert str(error) == "making: Unknown topic config name: x"
    assert "restore.topic_configs" in error.hint


def test_a_writer_that_may_not_be_one_is_told_which_rights_it_needs() -> None:
    code = KafkaError.CLUSTER_AUTHORIZATION_FAILED
    error = translate_code(code, "Failed to acquire ...", topic="", partition=-1, offset=-1, producing=True)
    assert isinstance(error, AuthorizationFailed)
    assert "missing right: Write on the topics, or IdempotentWrite on the cluster" in str(error)


def test_a_missing_right_is_named() -> None:
    error = translate(
        KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED),
        "looking",
        servers="b:1",
        right="Describe on topic t",
        principal="User:me",
    )
    assert str(error) == "looking: not allowed; missing right: Describe on topic t (User:me)"
    assert error.hint.endswith("--add --allow-principal User:me --operation Describe --topic t")


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("Create on the cluster or the topic", "--operation Create --cluster"),
        ("Read on group g and on its topics", "--operation Read --group g"),
        ("a right on the topic", "whoever grants rights"),
    ],
)
def test_how_a_right_is_granted_is_told(right: str, words: str) -> None:
    assert words in missing_right("looking", right).hint


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
