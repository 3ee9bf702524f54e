"""A plain reading of whole topics through confluent-kafka's own consumer: small data, for the demo's check.

Shares nothing with the source that backups use but librdkafka itself.
"""

from __future__ import annotations

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientTopicPartition

from kbr.errors import ClusterUnavailable
from kbr.kafka.settings import ClientSettings, admin_properties
from kbr.kafka.translate import translate_code
from kbr.model import Record
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["read_topic"]


def read_topic(
    settings: ClientSettings, topic: str, partition_count: int, *, deadline_s: float, clock: Clock = SYSTEM_CLOCK
) -> list[list[Record]]:
    """Every committed record of a topic, by partition.

    Raises:
        ClusterUnavailable: not done within ``deadline_s``.
    """
    consumer = Consumer(
        {
            **admin_properties(settings),
            "group.id": "kbr-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
        }
    )
    found: list[list[Record]] = [[] for _ in range(partition_count)]
    waiting = set(range(partition_count))
    deadline = Deadline(deadline_s, clock=clock)
    try:
        consumer.assign([ClientTopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partition_count)])
        while waiting:
            if deadline.passed:
                raise ClusterUnavailable(f"reading {topic} was not done after {deadline_s:.0f} s")
            for message in consumer.consume(1000, timeout=0.2):
                error = message.error()
                number = message.partition() or 0
                if error is None:
                    found[number].append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(number)
                else:
                    raise translate_code(error.code(), error.str(), topic=topic, partition=number, offset=-1)
    finally:
        consumer.close()
    return found


def _record(message) -> Record:  # type: ignore[no-untyped-def]  # noqa: ANN001  # confluent_kafka.Message
    timestamp_type, timestamp = message.timestamp()
    headers = tuple((name.encode("utf-8"), value) for name, value in message.headers() or ())
    return Record(message.offset(), timestamp, timestamp_type, message.key(), message.value(), headers)
