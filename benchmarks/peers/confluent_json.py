"""A backup script as people write it: confluent-kafka, one JSON line a record, zstd; and back.

    python benchmarks/peers/confluent_json.py backup SERVERS TOPIC FOLDER
    python benchmarks/peers/confluent_json.py restore SERVERS TARGET FOLDER

Not kbr's: it shares no code with it, on purpose. Keys, values and headers are base64, as JSON has no bytes.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import zstandard
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition


def encoded(data: str | bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def backup(servers: str, topic: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "backup", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    left = set(partitions)
    with zstandard.open(folder / "records.jsonl.zst", "wt", cctx=zstandard.ZstdCompressor(level=3)) as file:
        while left:
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise SystemExit(str(error))
                    left.discard(message.partition())
                    continue
                record = {
                    "partition": message.partition(),
                    "offset": message.offset(),
                    "timestamp": message.timestamp()[1],
                    "key": encoded(message.key()),
                    "value": encoded(message.value()),
                    "headers": [[name, encoded(value)] for name, value in list(message.headers() or [])],
                }
                file.write(json.dumps(record) + "\n")
    consumer.close()


def restore(servers: str, topic: str, folder: Path) -> None:
    producer = Producer(
        {"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all", "compression.type": "lz4",
         "message.max.bytes": 20_000_000}
    )  # fmt: skip
    with zstandard.open(folder / "records.jsonl.zst", "rt") as file:
        for line in file:
            record: dict[str, Any] = json.loads(line)
            while True:
                try:
                    producer.produce(
                        topic,
                        partition=record["partition"],
                        timestamp=record["timestamp"],
                        key=decoded(record["key"]),
                        value=decoded(record["value"]),
                        headers=[(name, decoded(value)) for name, value in record["headers"]],
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
    producer.flush()


if __name__ == "__main__":
    {"backup": backup, "restore": restore}[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]))
