"""A real cluster's facts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ClientTopicPartition

from kbr.errors import ClusterError, ClusterUnavailable, KbrError, TopicMissing
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition, TopicSpec
from tests.support.kafka import KafkaHarness, send
from tests.support.servers import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def cluster(kafka: KafkaHarness) -> Iterator[Cluster]:
    with Cluster(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), deadline_s=30) as opened:
        yield opened


def test_topics_are_described_with_id_and_own_configs_only(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("described", 3, {"cleanup.policy": "compact,delete", "max.message.bytes": "2000000"})
    spec = cluster.describe_topics([name])[name]
    assert (spec.partition_count, spec.replication_factor, spec.is_internal) == (3, 1, False)
    assert len(spec.topic_id) >= 20
    assert spec.configs is not None
    assert set(spec.configs["cleanup.policy"].split(",")) == {"compact", "delete"}
    assert spec.configs["max.message.bytes"] == "2000000"
    assert "segment.bytes" not in spec.configs
    assert "segment.bytes" in cluster.topic_configs([name], include_defaults=True)[name]
    assert (name, False, 3) in cluster.topics()


@pytest.mark.fault("K4", "the last stable offset of a real broker", promise=3)
def test_the_end_of_committed_data_is_before_an_open_transaction(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("open-transaction")
    send(kafka.producer(), name, [{"value": b"1"}, {"value": b"2"}])
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(name, b"uncommitted")
    producer.flush(30)
    key = TopicPartition(name, 0)
    committed = cluster.offsets([key], "read_committed")[key]
    assert committed == PartitionOffsets(log_start=0, end_offset=2, high_watermark=3)
    assert cluster.offsets([key], "read_uncommitted")[key] == PartitionOffsets(
        log_start=0, end_offset=3, high_watermark=3
    )
    producer.abort_transaction(30)


def test_a_partition_that_is_not_there_is_an_error_of_its_own(kafka: KafkaHarness) -> None:
    name = kafka.create_topic("one-partition")
    keys = [TopicPartition(name, 0), TopicPartition(name, 9)]
    with Cluster(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), deadline_s=2) as cluster:
        found = cluster.offsets(keys, "read_committed")
    assert isinstance(found[keys[0]], PartitionOffsets)
    assert isinstance(found[keys[1]], KbrError)


def test_a_topic_that_is_not_there_is_named(kafka: KafkaHarness) -> None:
    name = kafka.topic_name("no-such-topic")
    key = TopicPartition(name, 0)
    with Cluster(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), deadline_s=2) as cluster:
        with pytest.raises(TopicMissing, match=name):
            cluster.describe_topics([name])
        (found,) = cluster.offsets([key], "read_committed").values()
    assert isinstance(found, KbrError)
    assert name in str(found)
    assert not kafka.topic_exists(name), "asking must not make it"


def test_who_the_cluster_is(kafka: KafkaHarness, cluster: Cluster) -> None:
    info = cluster.info()
    assert info.cluster_id == kafka.admin.list_topics(timeout=10).cluster_id
    assert info.brokers == (kafka.bootstrap,)


def test_offsets_start_where_old_records_were_deleted(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("deleted-records", 2)
    send(kafka.producer(), name, [{"value": b"x", "partition": 1} for _ in range(10)])
    for future in kafka.admin.delete_records([ClientTopicPartition(name, 1, 4)]).values():
        future.result(30)
    keys = [TopicPartition(name, 1), TopicPartition(name, 0)]
    assert cluster.offsets(keys, "read_committed") == {
        keys[0]: PartitionOffsets(log_start=4, end_offset=10, high_watermark=10),
        keys[1]: PartitionOffsets(log_start=0, end_offset=0, high_watermark=0),
    }


@pytest.mark.timeout(240)  # an election, and three brokers that start before and stop after it
@pytest.mark.fault("K1", "a leader that hangs, while offsets are asked for", promise=4)
def test_a_leader_that_hangs_is_waited_out_until_another_is_elected(three_kafka: KafkaHarness) -> None:
    name = three_kafka.create_topic("hung-leader", 6, replication_factor=3)
    send(three_kafka.producer(), name, [{"value": b"x", "partition": number} for number in range(6)])
    keys = [TopicPartition(name, number) for number in range(6)]
    full = dict.fromkeys(keys, PartitionOffsets(log_start=0, end_offset=1, high_watermark=1))
    hanging = three_kafka.server.processes[2]
    with Cluster(ClientSettings(bootstrap_servers=tuple(three_kafka.bootstrap.split(","))), deadline_s=100) as cluster:
        assert cluster.offsets(keys, "read_committed") == full
        hanging.signal(signal.SIGSTOP)
        try:
            assert cluster.offsets(keys, "read_committed") == full
        finally:
            hanging.signal(signal.SIGCONT)
    three_kafka.server.start()  # returns when all three know each other again


def test_ends_of_partitions_are_told_alone(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("ends", 2)
    send(kafka.producer(), name, [{"value": b"x", "partition": 1}])
    keys = [TopicPartition(name, number) for number in range(2)]
    assert cluster.high_watermarks(keys) == {keys[0]: 0, keys[1]: 1}


def test_a_new_topics_configs_are_told_before_it_is_made(kafka: KafkaHarness, cluster: Cluster) -> None:
    defaults = cluster.new_topic_configs()
    assert defaults["retention.ms"] == "604800000"
    name = "with-the-brokers-configs"
    cluster.create_topics([TopicSpec(name=name, partition_count=1, replication_factor=1)])
    cluster.wait_for_leaders([name])
    made = kafka.topic_configs(name)
    assert defaults == {key: made[key] for key in defaults}
    assert {"max.message.bytes", "message.timestamp.type", "cleanup.policy", "min.insync.replicas"} <= set(defaults)


def test_internal_topics_are_known_as_such(kafka: KafkaHarness, cluster: Cluster) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "internal"})
    producer.init_transactions(30)
    name = "__transaction_state"
    assert (name, True, 1) in cluster.topics()
    assert cluster.describe_topics([name])[name].is_internal


def test_a_topic_that_exists_is_not_made_again(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("twice")
    with pytest.raises(ClusterError, match=f"making topic {name}.*already exists"):
        cluster.create_topics([TopicSpec(name=name, partition_count=1, replication_factor=1)])


def test_topics_are_made_as_they_were(kafka: KafkaHarness, cluster: Cluster) -> None:
    spec = TopicSpec(
        name=kafka.topic_name("as-it-was"),
        partition_count=5,
        replication_factor=1,
        configs={"cleanup.policy": "compact,delete", "retention.ms": "-1", "compression.type": "zstd"},
    )
    assert cluster.create_topics([spec]) == []
    cluster.wait_for_leaders([spec.name])
    made = cluster.describe_topics([spec.name, spec.name])[spec.name]
    assert replace(made, topic_id="") == spec


def test_single_configs_are_set_and_put_back(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("changed", 1, {"retention.ms": "1000", "max.message.bytes": "2000000"})
    cluster.set_topic_configs(name, {"retention.ms": None, "cleanup.policy": "compact,delete"})
    # the controller has them when it answers, a broker tells them when they have come to it
    wait_until(
        lambda: cluster.describe_topics([name])[name].configs
        == {"max.message.bytes": "2000000", "cleanup.policy": "compact,delete"},
        deadline_s=30,
        what="the topic's new configs",
    )


def test_a_replication_factor_beyond_the_brokers_is_lowered_and_said(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.topic_name("too-many-replicas")
    (note,) = cluster.create_topics([TopicSpec(name=name, partition_count=2, replication_factor=3)])
    cluster.wait_for_leaders([name])
    assert "not 3" in note
    assert cluster.describe_topics([name])[name].replication_factor == 1


def test_a_config_that_the_cluster_does_not_know_is_named(kafka: KafkaHarness, cluster: Cluster) -> None:
    spec = TopicSpec(
        name=kafka.topic_name("bad-config"), partition_count=1, replication_factor=1, configs={"no.such.config": "1"}
    )
    with pytest.raises(KbrError, match=r"no\.such\.config"):
        cluster.create_topics([spec])


def test_a_thousand_partitions_are_asked_for_in_one_go(kafka: KafkaHarness, cluster: Cluster) -> None:
    name = kafka.create_topic("thousand", 1000)
    keys = [TopicPartition(name, number) for number in range(1000)]
    found = cluster.offsets(keys, "read_committed")
    assert list(found) == keys
    assert set(found.values()) == {PartitionOffsets(log_start=0, end_offset=0, high_watermark=0)}


def test_a_wrong_address_is_one_clear_error_in_bounded_time() -> None:
    port = free_port()
    begun = time.monotonic()
    with (
        Cluster(ClientSettings(bootstrap_servers=(f"127.0.0.1:{port}",)), deadline_s=2) as cluster,
        pytest.raises(ClusterUnavailable, match="connection refused"),
    ):
        cluster.topics()
    assert time.monotonic() - begun < 30, "bounded, not fast: a limit against hanging"
