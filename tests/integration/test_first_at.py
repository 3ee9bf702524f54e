"""What a backup of a window builds on: no record before the offset that a broker names for a time is of that time or later."""

from __future__ import annotations

import random

import pytest

from kbr.kafka.cluster import Cluster
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition
from tests.support.kafka import KafkaHarness, send

T0 = 1_714_564_800_000


@pytest.mark.parametrize(
    ("batch", "configs"),
    [(1, {"index.interval.bytes": "0"}), (7, {"index.interval.bytes": "200"}), (50, {}), (3, {"segment.bytes": "1048576"})],
)
def test_the_first_record_of_a_time_is_named_however_late_and_early_ones_are_mixed(
    kafka: KafkaHarness, batch: int, configs: dict[str, str]
) -> None:
    topic = kafka.create_topic(kafka.topic_name("first-at"), 1, configs)
    rng = random.Random(batch)
    size = 10_000 if "segment.bytes" in configs else 10
    stamps = [T0 + number * 10 + rng.choice([0, 0, 0, rng.randrange(-2000, 2001)]) for number in range(400)]
    producer = kafka.producer(**{"batch.num.messages": batch, "linger.ms": 0})
    for begin in range(0, len(stamps), batch):
        send(producer, topic, [{"value": b"x" * size, "timestamp": stamp} for stamp in stamps[begin : begin + batch]])
    key = TopicPartition(topic, 0)
    with Cluster(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), deadline_s=30) as cluster:
        for at_ms in [*rng.sample(range(min(stamps) - 5, max(stamps) + 5), 40), min(stamps), max(stamps), max(stamps) + 1]:
            first = next((offset for offset, stamp in enumerate(stamps) if stamp >= at_ms), -1)
            assert cluster.first_at([key], at_ms)[key] == first
