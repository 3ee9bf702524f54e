"""Which answers of an offsets request are final, told by a client that answers as scripted."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from kbr.errors import AuthorizationFailed, ClusterError, ClusterUnavailable, KbrError
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.offsets import PARTITIONS_PER_REQUEST
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition
from tests.support.clocks import FakeClock

KEY, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)
#: What librdkafka gives for a partition whose leader did not answer (RD_KAFKA_OFFSET_INVALID), without an error.
UNANSWERED = -1001
SEVEN = PartitionOffsets(log_start=7, high_watermark=7, end_offset=7)


class _Admin:
    """Answers a partition's first requests as scripted: an offset, or an error's code as KafkaError."""

    def __init__(self, script: dict[int, list[int | KafkaError]]) -> None:
        self.script = script
        self.asked: list[list[int]] = []
        self.metadata_count = 0
        self.timestamp = -1

    def list_offsets(self, request, **_options):
        self.asked.append([partition.partition for partition in request])
        return {partition: self._answer(partition.partition) for partition in request}

    def list_topics(self, **_options):
        self.metadata_count += 1
        return SimpleNamespace(cluster_id="c", brokers={}, topics={})

    def poll(self, _timeout):
        return 0

    def _answer(self, partition: int) -> Future:
        future: Future = Future()
        answers = self.script.get(partition)
        answer = answers.pop(0) if answers else 7
        if isinstance(answer, KafkaError):
            future.set_exception(KafkaException(answer))
        else:
            future.set_result(SimpleNamespace(offset=answer, timestamp=self.timestamp))
        return future


def _offsets(
    admin: _Admin, clock: FakeClock, keys: tuple[TopicPartition, ...] = (KEY, OTHER)
) -> dict[TopicPartition, PartitionOffsets | KbrError]:
    cluster = Cluster(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=30, clock=clock)
    cluster._session._client = admin
    return cluster.offsets(keys, "read_uncommitted")


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._NOENT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    ],
)
def test_a_partition_whose_leader_is_not_ready_is_asked_again_alone(code: int) -> None:
    admin = _Admin({0: [KafkaError(code), KafkaError(code)]})
    found = _offsets(admin, FakeClock())
    assert found[KEY] == found[OTHER] == SEVEN
    assert admin.asked[:3] == [[0, 1], [0], [0]]


@pytest.mark.fault("K8", "a leader that does not answer is no empty partition", promise=2)
def test_a_partition_whose_leader_does_not_answer_is_never_taken_for_an_empty_one() -> None:
    clock = FakeClock()
    found = _offsets(_Admin({0: [UNANSWERED] * 10_000}), clock)
    assert isinstance(found[KEY], ClusterUnavailable)
    assert "t[0]" in str(found[KEY])
    assert found[OTHER] == SEVEN
    assert clock.monotonic() == pytest.approx(30), "one deadline for the whole call"


def test_the_leader_is_looked_up_again_before_it_is_asked_again() -> None:
    admin = _Admin({0: [UNANSWERED, UNANSWERED]})
    assert _offsets(admin, FakeClock())[KEY] == SEVEN
    assert admin.metadata_count == 2


def test_a_partition_whose_leader_never_comes_is_its_own_error_at_the_deadline() -> None:
    clock = FakeClock()
    admin = _Admin({0: [KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH) for _ in range(10_000)]})
    found = _offsets(admin, clock)
    assert isinstance(found[KEY], ClusterError)
    assert "t[0]" in str(found[KEY])
    assert isinstance(found[OTHER], PartitionOffsets)
    assert clock.monotonic() == pytest.approx(30), "one deadline for the whole call"


def test_a_missing_right_is_not_asked_for_again() -> None:
    admin = _Admin({0: [KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)]})
    found = _offsets(admin, FakeClock())
    assert isinstance(found[KEY], AuthorizationFailed)
    assert "Describe on topic t" in str(found[KEY])
    assert admin.asked == [[0, 1], [1]]


def test_many_partitions_are_asked_for_in_requests_of_bounded_size() -> None:
    keys = tuple(TopicPartition("t", number) for number in range(2 * PARTITIONS_PER_REQUEST + 1))
    admin = _Admin({})
    found = _offsets(admin, FakeClock(), keys)
    assert list(found) == list(keys)
    assert set(found.values()) == {SEVEN}
    assert [len(asked) for asked in admin.asked[:3]] == [PARTITIONS_PER_REQUEST, PARTITIONS_PER_REQUEST, 1]


def _first_at(admin: _Admin, at_ms: int) -> dict[TopicPartition, int | KbrError]:
    cluster = Cluster(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=30, clock=FakeClock())
    cluster._session._client = admin
    return cluster.first_at((KEY, OTHER), at_ms)


def test_no_record_of_a_time_is_an_answer_and_a_leader_that_says_nothing_is_none() -> None:
    admin = _Admin({0: [-1], 1: [UNANSWERED, UNANSWERED, 5]})
    admin.timestamp = 1000
    assert _first_at(admin, 1000) == {KEY: -1, OTHER: 5}
    assert admin.asked == [[0, 1], [1], [1]]
    silent = _first_at(_Admin({1: [UNANSWERED] * 10_000, 0: [-1]}), 1000)[OTHER]
    assert isinstance(silent, ClusterUnavailable)


def test_an_offset_without_a_record_of_that_time_is_no_answer() -> None:
    admin = _Admin({0: [-1]})
    admin.timestamp = 999
    assert isinstance(_first_at(admin, 1000)[OTHER], ClusterUnavailable)
