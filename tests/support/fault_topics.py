"""Small topics for runs through faults: several partitions, sizes from nothing to 2 MB, headers, nulls."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .kafka import KafkaHarness, Read, send
from .mixed_topics import BASE_MS

__all__ = ["fault_records", "make_fault_topic"]

#: What such a topic allows; a broker's default is 1 MB.
MAX_MESSAGE_BYTES = 4_000_000


def fault_records(count: int, partitions: int, *, seed: int = 5, large: int = 1) -> Iterator[dict[str, object]]:
    """``count`` small records, ``large`` ones of 2 MB in between; their values don't compress."""
    source = random.Random(seed)
    large_ones = {count * (2 * number + 1) // (2 * large) for number in range(large)}
    for number in range(count):
        size = source.choice((0, 10, 200, 800, 3000))
        yield {
            "partition": number % partitions,
            "key": None if number % 7 == 0 else b"key-%d" % number,
            "value": None if number % 11 == 0 else source.randbytes(size),
            "headers": [("a", b"%d" % number), ("a", None), ("b", b"")] if number % 5 == 0 else [],
            "timestamp": BASE_MS + number,
        }
        if number in large_ones:
            yield {"partition": 1 % partitions, "key": b"large", "value": source.randbytes(2_000_000), "timestamp": BASE_MS}


def make_fault_topic(
    kafka: KafkaHarness, prefix: str, *, count: int = 3000, partitions: int = 4, replication_factor: int = 1, large: int = 1
) -> tuple[str, list[list[Read]]]:
    """A filled topic's name, and an independent reading of it."""
    configs = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    if replication_factor > 1:
        configs["min.insync.replicas"] = "2"
    name = kafka.create_topic(kafka.topic_name(prefix), partitions, configs, replication_factor)
    producer = kafka.producer(message_max_bytes=MAX_MESSAGE_BYTES, acks="all")
    send(producer, name, fault_records(count, partitions, large=large))
    return name, kafka.read_all(name)
