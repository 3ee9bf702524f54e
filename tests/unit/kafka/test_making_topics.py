"""How topics are made when the cluster does not want them as they were, told by a client that answers as scripted."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from kbr.errors import ClusterError, ClusterUnavailable, KbrError
from kbr.kafka.cluster import Cluster
from kbr.kafka.new_topics import NEW_PARTITIONS_PER_REQUEST, TOPICS_PER_REQUEST, topic_defaults
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicSpec
from tests.support.clocks import FakeClock


class _Admin:
    """Refuses (topic, replication factor) pairs as told."""

    def __init__(self, refusals: dict[tuple[str, int], int] | None = None, *, brokers: int = 3) -> None:
        self.refusals = refusals or {}
        self.brokers = brokers
        self.requests: list[list[tuple[str, int, int]]] = []

    def list_topics(self, **_options):
        return SimpleNamespace(cluster_id="c", brokers=dict.fromkeys(range(self.brokers)), topics={})

    def create_topics(self, topics, **_options):
        self.requests.append([(new.topic, new.num_partitions, new.replication_factor) for new in topics])
        return {new.topic: self._answer(new.topic, new.replication_factor) for new in topics}

    def _answer(self, name: str, factor: int) -> Future:
        future: Future = Future()
        code = self.refusals.get((name, factor))
        if code is None:
            future.set_result(None)
        else:
            future.set_exception(KafkaException(KafkaError(code, f"{name} is refused")))
        return future

    def poll(self, _timeout):
        return 0


def _make(admin: _Admin, *specs: TopicSpec) -> list[str]:
    cluster = Cluster(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=30, clock=FakeClock())
    cluster._session._client = admin
    return cluster.create_topics(specs)


def _spec(name: str, *, partitions: int = 1, factor: int = 1, **configs: str) -> TopicSpec:
    named = {key.replace("_", "."): value for key, value in configs.items()}
    return TopicSpec(name=name, partition_count=partitions, replication_factor=factor, configs=named)


def test_a_replication_factor_that_the_cluster_refuses_becomes_its_default_and_is_said() -> None:
    admin = _Admin({("a", 1): KafkaError.INVALID_REPLICATION_FACTOR})
    (note,) = _make(admin, _spec("a"), _spec("b"))
    assert "a: made with the cluster's default replication factor, not 1" in note
    assert "a is refused" in note
    assert admin.requests == [[("a", 1, 1), ("b", 1, 1)], [("a", 1, -1)]]


def test_a_default_that_is_refused_too_is_an_error() -> None:
    refused = KafkaError.INVALID_REPLICATION_FACTOR
    with pytest.raises(ClusterError, match="making topic a: a is refused") as caught:
        _make(_Admin({("a", 1): refused, ("a", -1): refused}), _spec("a"))
    assert "restore.replication_factor" in caught.value.hint


def test_more_in_sync_replicas_than_there_are_brokers_are_told() -> None:
    (note,) = _make(_Admin(brokers=1), _spec("a", factor=3, min_insync_replicas="2"))
    assert "replication factor 1, not 3" in note
    assert "min.insync.replicas is 2" in note


def test_all_topics_that_could_not_be_made_are_named() -> None:
    exists, policy = KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.POLICY_VIOLATION
    with pytest.raises(ClusterError, match="making topic a: a is refused; 1 more of the topics .*: c") as caught:
        _make(_Admin({("a", 1): exists, ("c", 1): policy}), _spec("a"), _spec("b"), _spec("c"))
    assert caught.value.hint


def test_no_answer_ends_it_at_once() -> None:
    with pytest.raises(ClusterUnavailable):
        _make(_Admin({("a", 1): KafkaError._TIMED_OUT}), _spec("a"), _spec("b"))


def test_requests_are_bounded_in_topics_and_in_partitions() -> None:
    admin = _Admin()
    half = NEW_PARTITIONS_PER_REQUEST // 2
    _make(admin, *(_spec(name, partitions=half) for name in "abc"), _spec("huge", partitions=4 * half), _spec("last"))
    assert [[name for name, _, _ in request] for request in admin.requests] == [["a", "b"], ["c"], ["huge"], ["last"]]
    many = _Admin()
    _make(many, *(_spec(f"t{number}") for number in range(TOPICS_PER_REQUEST + 1)))
    assert [len(request) for request in many.requests] == [TOPICS_PER_REQUEST, 1]


def test_nothing_to_make_is_no_request() -> None:
    admin = _Admin()
    assert _make(admin) == []
    assert admin.requests == []


def test_errors_keep_what_programs_need() -> None:
    with pytest.raises(KbrError) as caught:
        _make(_Admin({("a", 1): KafkaError.INVALID_CONFIG}), _spec("a"))
    assert caught.value.context["kafka_code"] == KafkaError.INVALID_CONFIG


def test_a_new_topics_retention_is_the_brokers_finest_setting() -> None:
    hours: dict[str, str | None] = {"log.retention.hours": "168", "log.retention.minutes": None, "log.retention.ms": None}
    assert topic_defaults(hours)["retention.ms"] == "604800000"
    assert topic_defaults({**hours, "log.retention.minutes": "10"})["retention.ms"] == "600000"
    assert topic_defaults({**hours, "log.retention.ms": "-1"})["retention.ms"] == "-1"
    assert topic_defaults({"log.retention.hours": "-1"})["retention.ms"] == "-1"
    assert topic_defaults({}) == {}
