"""Consumer groups of a real Kafka: every kind is seen, offsets get there, and groups with members are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbr.errors import GroupActive, KbrError, TopicMissing
from kbr.kafka.cluster import Cluster
from kbr.kafka.groups import ConsumerGroups
from kbr.kafka.settings import ClientSettings
from kbr.model import CommittedOffset, TopicPartition
from tests.support.kafka import KafkaHarness, send
from tests.support.waiting import wait_until


@pytest.fixture
def groups(kafka: KafkaHarness) -> Iterator[ConsumerGroups]:
    """Those of the one broker."""
    with Cluster(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), deadline_s=60) as cluster:
        yield cluster.groups


def _filled(kafka: KafkaHarness, prefix: str, partitions: int = 1, count: int = 20) -> str:
    topic = kafka.create_topic(kafka.topic_name(prefix), partitions)
    send(kafka.producer(), topic, [{"partition": one % partitions, "value": b"%d" % one} for one in range(count)])
    return topic


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_groups_of_both_protocols_are_captured(kafka: KafkaHarness, groups: ConsumerGroups, protocol: str) -> None:
    topic = _filled(kafka, "both")
    name = f"{protocol}-of-{topic}"
    kafka.consume_some(topic, name, 7, protocol=protocol)
    (listing,) = [one for one in groups.listed() if one.group == name]
    assert listing.kind == protocol
    found, unread = groups.offsets([listing])
    assert unread == {}
    assert {key: one.offset for key, one in found[0].offsets.items()} == {TopicPartition(topic, 0): 7}


def test_a_group_that_never_had_members_is_captured_with_what_is_kept_beside_its_offset(
    kafka: KafkaHarness, groups: ConsumerGroups
) -> None:
    topic = _filled(kafka, "simple", partitions=3)
    wanted = {
        TopicPartition(topic, 0): CommittedOffset(offset=0),
        TopicPartition(topic, 2): CommittedOffset(offset=5, leader_epoch=0, metadata="kept beside, …"),
    }
    name = f"simple-of-{topic}"
    assert groups.commit({name: wanted}) == {name: None}
    assert name in [one.group for one in groups.listed()]
    assert groups.committed([name]) == {name: wanted}
    assert groups.delete([name]) == {name: None}
    assert groups.committed([name]) == {name: {}}
    assert not groups.describe([name])[name].exists  # type: ignore[union-attr]


@pytest.mark.fault("R5", "a group with members, at a real coordinator", promise=7)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_nothing_is_committed_for_a_group_with_members(
    kafka: KafkaHarness, groups: ConsumerGroups, protocol: str
) -> None:
    topic = _filled(kafka, "busy")
    name = f"busy-{protocol}-of-{topic}"
    consumer = kafka.group_consumer(name, protocol=protocol)
    try:
        consumer.subscribe([topic])
        wait_until(lambda: consumer.poll(0.2) is not None, deadline_s=60, what="the first record")
        consumer.commit(asynchronous=False)
        standing = groups.describe([name])[name]
        assert not isinstance(standing, KbrError)
        assert standing.is_active
        answer = groups.commit({name: {TopicPartition(topic, 0): CommittedOffset(offset=15)}})[name]
        assert isinstance(answer, GroupActive)
        assert isinstance(groups.delete([name])[name], GroupActive)
        assert kafka.committed(name) == {(topic, 0): 1}
    finally:
        consumer.close()
    assert not groups.describe([name])[name].is_active  # type: ignore[union-attr]


def test_a_partition_that_does_not_exist_is_a_failure_of_its_group(kafka: KafkaHarness, groups: ConsumerGroups) -> None:
    topic = _filled(kafka, "absent")
    name = f"absent-of-{topic}"
    answers = groups.commit({name: {TopicPartition(topic, 5): CommittedOffset(offset=1)}})
    assert isinstance(answers[name], TopicMissing)


def test_each_groups_coordinator_is_asked_of_many_brokers(three_kafka: KafkaHarness) -> None:
    topic = three_kafka.create_topic(three_kafka.topic_name("spread"), 2, replication_factor=3)
    send(three_kafka.producer(), topic, [{"partition": one % 2, "value": b"x"} for one in range(40)])
    names = [f"spread-{number}-of-{topic}" for number in range(60)]
    wanted = {
        name: {TopicPartition(topic, one): CommittedOffset(offset=number % 20) for one in range(2)}
        for number, name in enumerate(names)
    }
    settings = ClientSettings(bootstrap_servers=tuple(three_kafka.bootstrap.split(",")))
    with Cluster(settings, deadline_s=60) as cluster:
        groups = cluster.groups
        assert set(groups.commit(wanted).values()) == {None}
        assert groups.committed(names) == wanted
        listed = [one for one in groups.listed() if one.group in set(names)]
        assert len(listed) == 60
    descriptions = three_kafka.admin.describe_consumer_groups(names)
    coordinators = {future.result(30).coordinator.id for future in descriptions.values()}
    # after brokers were restarted, one may lead none of the partitions of __consumer_offsets for a while
    assert len(coordinators) > 1
