"""A plain reading of whole topics through confluent-kafka's own consumer: small data, for the demo's check.

Shares nothing with the source that backups use but librdkafka itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientTopicPartition

from kbr.errors import ClusterUnavailable
from kbr.kafka.settings import ClientSettings, admin_properties
from kbr.kafka.translate import translate_code
from kbr.model import Record, TopicPartition
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["read_topics"]


def read_topics(
    settings: ClientSettings, partition_counts: Mapping[str, int], *, deadline_s: float, clock: Clock = SYSTEM_CLOCK
) -> dict[TopicPartition, list[Record]]:
    """Every committed record of some topics, by partition.

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
    found: dict[TopicPartition, list[Record]] = {
        TopicPartition(topic, number): [] for topic, count in partition_counts.items() for number in range(count)
    }
    waiting = set(found)
    deadline = Deadline(deadline_s, clock=clock)
    try:
        consumer.assign([ClientTopicPartition(key.topic, key.partition, OFFSET_BEGINNING) for key in found])
        while waiting:
            if deadline.passed:
                raise ClusterUnavailable(f"reading {', '.join(partition_counts)} was not done after {deadline_s:.0f} s")
            # returns early only when all 1,000 are there, so the wait is kept short
            for message in consumer.consume(1000, timeout=0.02):
                error = message.error()
                key = TopicPartition(message.topic() or "", message.partition() or 0)
                if error is None:
                    found[key].append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(key)
                else:
                    raise translate_code(error.code(), error.str(), topic=key.topic, partition=key.partition, offset=-1)
    finally:
        consumer.close()
    return found


def _record(message) -> Record:  # type: ignore[no-untyped-def]  # noqa: ANN001  # confluent_kafka.Message
    timestamp_type, timestamp = message.timestamp()
    headers = tuple((name.encode("utf-8"), value) for name, value in message.headers() or ())
    return Record(message.offset(), timestamp, timestamp_type, message.key(), message.value(), headers)
