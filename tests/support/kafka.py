"""A real Kafka as tests see it: topics, producers, and a reading of topics that shares nothing with kbr."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from .servers import KafkaServer, kafka_jars
from .waiting import wait_until

_numbers = itertools.count(1)


class Read(NamedTuple):
    """One record as an independent consumer sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_type: int
    timestamp: int

    @property
    def exact(self) -> tuple[object, ...]:
        """All but the offset, which a restore gives anew."""
        return (self.key, self.value, self.headers, self.timestamp_type, self.timestamp)


class KafkaHarness:
    """One running cluster."""

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.bootstrap = server.bootstrap_servers
        #: What a client of these tests is told first.
        self.properties: Mapping[str, str] = {"bootstrap.servers": self.bootstrap}
        #: Through the proxy of the fixture ``network`` (or ``three_network``), which has to run.
        self.proxied_bootstrap = server.proxied_bootstrap_servers if server.proxied else ""
        self.admin = AdminClient(dict(self.properties))

    def topic_name(self, prefix: str) -> str:
        """A name nobody else uses."""
        return f"{prefix}-{next(_numbers)}"

    def create_topic(
        self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None, replication_factor: int = 1
    ) -> str:
        """Make a topic and wait for its leaders. Old records stay: retention is off unless ``configs`` says else."""
        merged = {"retention.ms": "-1", **(configs or {})}
        new = NewTopic(name, partitions, replication_factor, config=merged)
        for future in self.admin.create_topics([new]).values():
            future.result(30)
        self.wait_for_leaders(name, partitions)
        return name

    def create_topics(self, names: Sequence[str], partitions: int) -> Sequence[str]:
        """Make many topics at once, as create_topic() does one."""
        news = [NewTopic(name, partitions, 1, config={"retention.ms": "-1"}) for name in names]
        for future in self.admin.create_topics(news).values():
            future.result(60)
        for name in names:
            self.wait_for_leaders(name, partitions)
        return names

    def count(self, topic: str) -> int:
        """Offsets of a topic over its partitions: told by the brokers, without reading; 0 while it is being made."""
        found = self.admin.list_topics(timeout=10).topics.get(topic)
        if found is None or not found.partitions:
            return 0
        wanted = {TopicPartition(topic, number): OffsetSpec.latest() for number in found.partitions}
        try:
            return sum(future.result(10).offset for future in self.admin.list_offsets(wanted).values())
        except KafkaException:
            return 0  # a topic that is being made has no leaders yet

    def log_start(self, topic: str, partition: int = 0) -> int:
        """A partition's log start offset."""
        place = TopicPartition(topic, partition)
        found = self.admin.list_offsets({place: OffsetSpec.earliest()})
        return int(next(iter(found.values())).result(10).offset)

    def wait_for_leaders(self, name: str, partitions: int) -> None:
        """Until every partition of a topic has a leader."""

        def ready() -> bool:
            topic = self.admin.list_topics(name, timeout=10).topics[name]
            return len(topic.partitions) == partitions and all(one.leader >= 0 for one in topic.partitions.values())

        wait_until(ready, deadline_s=30, what=f"leaders of {name}")

    def topic_configs(self, name: str) -> dict[str, str]:
        """Effective configs."""
        futures = self.admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)])
        entries = next(iter(futures.values())).result(30)
        return {entry.name: entry.value for entry in entries.values()}

    def set_topic_configs(self, name: str, configs: Mapping[str, str]) -> None:
        """Set single configs of a topic."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in configs.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(30)

    def topic_exists(self, name: str) -> bool:
        """Whether there is such a topic."""
        return name in self.admin.list_topics(timeout=10).topics

    def producer(self, **configs: object) -> Producer:
        """A producer; names with underscores for dots.

        Idempotent: a plain one sends a batch again behind the next one that a broker refuses (the leader of a new topic that
        does not know it yet), also with one request in flight (2 of 120 new topics on a busy machine), and a test's records
        are not in the order in which it sent them.
        """
        properties = {name.replace("_", "."): value for name, value in configs.items()}
        return Producer(
            {
                **self.properties,
                "linger.ms": 5,
                "enable.idempotence": True,
                **properties,
            }
        )

    def read_all(
        self, topic: str, *, isolation_level: str = "read_committed", deadline_s: float = 60
    ) -> list[list[Read]]:
        """Every record, by partition, by a plain consumer, each partition to its end."""
        consumer = Consumer(
            {
                **self.properties,
                "group.id": f"reader-{next(_numbers)}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": isolation_level,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 60_000_000,
                "receive.message.max.bytes": 200_000_000,
                "fetch.max.bytes": 100_000_000,
            }
        )
        try:
            # Asked by the consumer itself: without knowing the leaders it would look for them again after 0.5 s only.
            count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            found: list[list[Read]] = [[] for _ in range(count)]
            waiting = set(range(count))
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(count)])

            def step() -> bool:
                for message in consumer.consume(1000, timeout=0.05):
                    error = message.error()
                    if error is None:
                        found[message.partition()].append(_read(message))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        waiting.discard(message.partition())
                    else:
                        raise AssertionError(f"{topic}[{message.partition()}]: {error}")
                return not waiting

            wait_until(step, deadline_s=deadline_s, what=f"the end of {topic}")
        finally:
            consumer.close()
        return found

    def consume_some(
        self, topic: str, group: str, count: int, *, protocol: str = "classic", deadline_s: float = 60
    ) -> list[Read]:
        """``count`` records by a plain consumer of a group, which commits behind the last one and leaves."""
        consumer = self.group_consumer(group, protocol=protocol)
        found: list[Read] = []
        try:
            consumer.subscribe([topic])

            def step() -> bool:
                for message in consumer.consume(count - len(found), timeout=0.2):
                    assert message.error() is None, message.error()
                    found.append(_read(message))
                return len(found) == count

            wait_until(step, deadline_s=deadline_s, what=f"{count} records of {topic} for {group}")
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()
        return found

    def group_consumer(self, group: str, *, protocol: str = "classic") -> Consumer:
        """A plain consumer of a group, that begins where the group has no offset yet, and commits when it is told to."""
        return Consumer(
            {
                **self.properties,
                "group.id": group,
                "group.protocol": protocol,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """What a group has committed."""
        answer = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
        return {(one.topic, one.partition): one.offset for one in answer.topic_partitions if one.offset >= 0}

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Commit for a group without members."""

        def is_done() -> bool:  # a coordinator that was just made may not know of the topic yet
            rows = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
            answer = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, rows)])[group].result(30)
            return all(one.error is None for one in answer.topic_partitions)

        wait_until(is_done, deadline_s=30, what=f"the offsets of {group}")

    def java(self, main_class: str, *arguments: str, deadline_s: float = 60, given: str | None = None) -> str:
        """Run one of Kafka's own tools, which is given a text to read; its output."""
        done = subprocess.run(  # noqa: S603
            ["java", "-cp", f"{kafka_jars()}/*", main_class, *arguments],  # noqa: S607
            input=given,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


def _read(message) -> Read:  # noqa: ANN001
    timestamp_type, timestamp = message.timestamp()
    return Read(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
        timestamp_type,
        timestamp,
    )


def send(producer: Producer, topic: str, records: Iterable[Mapping[str, object]]) -> None:
    """Produce records given as keyword arguments of Producer.produce, and wait for all of them."""
    failures: list[object] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failures.append(error)

    for record in records:
        while True:
            try:
                producer.produce(topic, on_delivery=delivered, **record)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failures, failures[:3]
