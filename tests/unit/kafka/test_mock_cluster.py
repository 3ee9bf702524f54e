"""librdkafka's mock cluster, which the demo runs on, answers less than a real one: nothing waits for the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from kbr.errors import ClusterError, KbrError, TopicMissing
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition, TopicSpec
from kbr_codec.rdkafka import MockCluster


@pytest.fixture
def servers() -> Iterator[str]:
    load_library()
    mock = MockCluster(brokers=3)
    mock.create_topic("t", partitions=2, replication_factor=3)
    try:
        yield mock.bootstrap_servers
    finally:
        mock.close()


@pytest.fixture
def cluster(servers: str) -> Iterator[Cluster]:
    # a call that waits for a controller takes its whole time: the limit of the test would end it
    with Cluster(ClientSettings(bootstrap_servers=tuple(servers.split(","))), deadline_s=600) as opened:
        yield opened


def test_topics_are_listed_and_described_without_ids_and_configs(cluster: Cluster) -> None:
    assert cluster.topics() == [("t", False, 2)]
    assert len(cluster.info().brokers) == 3
    assert cluster.describe_topics(["t"]) == {
        "t": TopicSpec(name="t", partition_count=2, replication_factor=3, topic_id="", configs=None)
    }
    assert cluster.topic_configs(["t"], include_defaults=True) == {}


def test_a_topic_that_is_not_there_is_named(cluster: Cluster) -> None:
    with pytest.raises(TopicMissing, match="gone"):
        cluster.describe_topics(["t", "gone"])


def test_offsets_are_told(servers: str, cluster: Cluster) -> None:
    producer = Producer({"bootstrap.servers": servers})
    for _ in range(5):
        producer.produce("t", b"x", partition=1)
    assert producer.flush(30) == 0
    empty, full = TopicPartition("t", 0), TopicPartition("t", 1)
    for level in ("read_committed", "read_uncommitted"):
        assert cluster.offsets([empty, full], level) == {
            empty: PartitionOffsets(log_start=0, high_watermark=0, end_offset=0),
            full: PartitionOffsets(log_start=0, high_watermark=5, end_offset=5),
        }


def test_making_topics_is_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="new.*mock cluster") as caught:
        cluster.create_topics([TopicSpec(name="new", partition_count=1, replication_factor=1)])
    assert isinstance(caught.value, KbrError)
    assert caught.value.hint
