"""Which errors of an offsets request pass by themselves, told by a client that answers as scripted."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from kbr.errors import AuthorizationFailed, ClusterError, KbrError
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition
from tests.support.clocks import FakeClock

KEY, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


class _Admin:
    """Meets a partition's first requests with errors."""

    def __init__(self, failures: dict[int, list[int]]) -> None:
        self.failures = failures
        self.asked: list[list[int]] = []

    def list_offsets(self, request, **_options):
        self.asked.append([partition.partition for partition in request])
        return {partition: self._answer(partition.partition) for partition in request}

    def _answer(self, partition: int) -> Future:
        future: Future = Future()
        waiting = self.failures.get(partition)
        if waiting:
            future.set_exception(KafkaException(KafkaError(waiting.pop(0))))
        else:
            future.set_result(SimpleNamespace(offset=7))
        return future


def _offsets(admin: _Admin, clock: FakeClock) -> dict[TopicPartition, PartitionOffsets | KbrError]:
    cluster = Cluster(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=30, clock=clock)
    cluster._admin = admin
    return cluster.offsets([KEY, OTHER], "read_uncommitted")


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
    ],
)
def test_a_partition_whose_leader_is_not_ready_is_asked_again_alone(code: int) -> None:
    admin = _Admin({0: [code, code]})
    found = _offsets(admin, FakeClock())
    assert found[KEY] == found[OTHER] == PartitionOffsets(log_start=7, high_watermark=7, end_offset=7)
    assert admin.asked[:3] == [[0, 1], [0], [0]]


def test_a_partition_whose_leader_never_comes_is_its_own_error_at_the_deadline() -> None:
    clock = FakeClock()
    found = _offsets(_Admin({0: [KafkaError.UNKNOWN_LEADER_EPOCH] * 10_000}), clock)
    assert isinstance(found[KEY], ClusterError)
    assert "t[0]" in str(found[KEY])
    assert isinstance(found[OTHER], PartitionOffsets)
    assert clock.monotonic() == pytest.approx(30), "one deadline for the whole call"


def test_a_missing_right_is_not_asked_for_again() -> None:
    admin = _Admin({0: [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 2})
    found = _offsets(admin, FakeClock())
    assert isinstance(found[KEY], AuthorizationFailed)
    assert "Describe on topic t" in found[KEY].hint
    assert admin.asked == [[0, 1], [0, 1]]
