"""Twenty topics of every odd shape, on a real Kafka, made by plain producers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from confluent_kafka import Producer

from .kafka import KafkaHarness, send
from .waiting import wait_until

#: 2024-05-01T12:00:00Z
BASE_MS = 1_714_564_800_000
Record = dict[str, object]
#: Topic configs with which the cleaner leaves a compacted topic alone.
CLEANER_OFF = {"min.cleanable.dirty.ratio": "1.0", "max.compaction.lag.ms": str(2**63 - 1), "min.compaction.lag.ms": str(10**15)}


def _values(source: random.Random, count: int, size: int, **more: object) -> Iterator[Record]:
    for number in range(count):
        yield {
            "key": f"key-{source.randrange(200)}".encode(),
            "value": source.randbytes(size // 2).hex().encode(),
            "timestamp": BASE_MS + number * 10,
            **more,
        }


def _spread(records: Iterator[Record], partitions: int) -> Iterator[Record]:
    for number, record in enumerate(records):
        yield {**record, "partition": number % partitions}


def make_mixed_topics(kafka: KafkaHarness, prefix: str) -> list[str]:
    """Make and fill them; their names."""
    source = random.Random(11)
    made: list[str] = []

    def topic(name: str, partitions: int = 1, configs: dict[str, str] | None = None) -> str:
        made.append(kafka.create_topic(f"{prefix}.{name}", partitions, configs))
        return made[-1]

    def fill(name: str, records: Iterator[Record], **configs: object) -> None:
        send(kafka.producer(**configs), name, records)

    fill(topic("plain"), _values(source, 3000, 200))
    fill(topic("wide", 50), _spread(_values(source, 5000, 80), 50))
    fill(topic("some-empty-partitions", 7), _spread(_values(source, 900, 50), 3))
    topic("empty")
    topic("empty-wide", 12)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        fill(topic(codec, 3), _spread(_values(source, 2000, 300), 3), compression_type=codec)
    fill(topic("null-keys", 2), _spread(_values(source, 500, 60, key=None), 2))
    fill(topic("empty-keys-and-values"), ({**one, "key": b"", "value": b""} for one in _values(source, 300, 2)))
    fill(
        topic("tombstones", 2),
        _spread(
            ({**one, "value": None if number % 3 else one["value"]} for number, one in enumerate(_values(source, 600, 40))),
            2,
        ),
    )
    fill(topic("headers"), _with_headers(_values(source, 400, 30)))
    fill(topic("late"), ({**one, "timestamp": BASE_MS + source.randrange(10**9)} for one in _values(source, 800, 40)))
    fill(
        topic("no-timestamps", 2),
        _spread(({**one, "timestamp": -1 if number % 2 else BASE_MS} for number, one in enumerate(_values(source, 300, 40))), 2),
    )
    fill(
        topic("large", configs={"max.message.bytes": "20000000"}),
        iter([{"key": b"big", "value": source.randbytes(9_000_000), "timestamp": BASE_MS}, *_values(source, 20, 100)]),
        message_max_bytes=20_000_000,
    )
    fill(topic("configured", 2, {"cleanup.policy": "compact,delete", "segment.ms": "86400000"}), _spread(_values(source, 200, 30), 2))
    fill(topic("Strange_Name.with-all.of_it", 2), _spread(_values(source, 100, 30), 2))
    _compacted(kafka, topic, source)
    _transactional(kafka, topic("transactional", 2), source)
    assert len(made) == 20
    return made


def _with_headers(records: Iterator[Record]) -> Iterator[Record]:
    shapes: list[list[tuple[str, bytes | None]]] = [
        [],
        [("one", b"1")],
        [("same", b"a"), ("same", b"b"), ("same", b"a")],
        [("null", None), ("empty", b"")],
        [("", b"no name"), ("ünï", b"\xff\x00")],
        [(f"h{number}", bytes([number])) for number in range(30)],
    ]
    for number, record in enumerate(records):
        yield {**record, "headers": shapes[number % len(shapes)]}


def _compacted(kafka: KafkaHarness, topic: Callable[..., str], source: random.Random) -> None:
    """A topic whose log has holes: the cleaner has really run."""
    name = topic(
        "compacted",
        1,
        {
            "cleanup.policy": "compact",
            "segment.bytes": "1048576",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "200",
            "delete.retention.ms": "0",
        },
    )
    producer = kafka.producer()
    sent = 0
    for _round in range(6):
        records = [
            {"key": b"k%d" % source.randrange(50), "value": source.randbytes(1000), "timestamp": BASE_MS + sent}
            for _ in range(500)
        ]
        send(producer, name, records)
        sent += len(records)

    def cleaned() -> bool:
        send(producer, name, [{"key": b"tick", "value": source.randbytes(1_000), "timestamp": BASE_MS} for _ in range(100)])
        found = kafka.read_all(name)[0]
        return found[-1].offset - found[0].offset + 1 > len(found) + 1000

    wait_until(cleaned, deadline_s=60, what="compaction")
    # from here on the log has to stay as it is, or two readings of it would differ
    kafka.set_topic_configs(name, CLEANER_OFF)
    seen: list[object] = []

    def still() -> bool:
        seen.append(kafka.read_all(name))
        return len(seen) > 1 and seen[-1] == seen[-2]

    wait_until(still, deadline_s=30, what="the cleaner's rest")


def _transactional(kafka: KafkaHarness, name: str, source: random.Random) -> None:
    """Committed and aborted transactions in turn; an abort marker is the last thing in partition 0."""
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{name}-writer", "linger.ms": 5}
    )
    producer.init_transactions(30)
    for number in range(12):
        producer.begin_transaction()
        for record in _values(source, 100, 50):
            producer.produce(name, partition=number % 2, **record)
        if number % 4 in (1, 2):
            # what is aborted must have reached the log to be worth a test
            producer.flush(30)
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    producer.begin_transaction()
    producer.produce(name, b"aborted at the very end", partition=0)
    producer.flush(30)
    producer.abort_transaction(30)
