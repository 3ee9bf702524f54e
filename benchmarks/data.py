"""Topics to measure on: made from a seed, the same every time."""

from __future__ import annotations

import random
from collections.abc import Iterator

from confluent_kafka.admin import AdminClient, NewTopic

from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import Record, TopicPartition
from kbr_codec import encode_block

FIRST_TIMESTAMP_MS = 1_714_564_800_000
WORDS = 3000
RECORDS_PER_BLOCK = 20_000


def text_records(count: int, value_bytes: int, *, seed: int) -> Iterator[list[Record]]:
    """Records of words, keyed, one a millisecond; lists of up to RECORDS_PER_BLOCK.

    The values compress about 2.8 to 1 with zstd 3: text like, neither noise nor repetition.
    """
    source = random.Random(seed)
    words = [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz", k=source.randint(3, 9))) for _ in range(WORDS)]
    offset = 0
    while offset < count:
        some = []
        for _ in range(min(RECORDS_PER_BLOCK, count - offset)):
            value = b" ".join(source.choices(words, k=value_bytes // 7 + 1))[:value_bytes]
            some.append(Record(offset, FIRST_TIMESTAMP_MS + offset, 1, b"key-%d" % (offset % 1000), value, ()))
            offset += 1
        yield some


def create_topic(servers: str, name: str, partitions: int = 1) -> None:
    """A topic whose old records stay."""
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(name, partitions, 1, config={"retention.ms": "-1"})]).values():
        future.result(30)


def fill(servers: str, topic: str, batches: Iterator[list[Record]]) -> int:
    """Produce to partition 0; how many records."""
    options = SinkOptions(
        memory_bytes=128 << 20, compression="none", zero_timestamp_as=0, original_offset_header=b"", batch_bytes=1_000_000
    )
    settings = ClientSettings(bootstrap_servers=(servers,))
    count = 0
    with BlockSink(settings, options, on_client_message=lambda _message: None) as sink:
        for some in batches:
            sink.send(TopicPartition(topic, 0), encode_block(some), RecordWindow())
            count += len(some)
            sink.poll(0)
        while sink.open_count:
            sink.poll(100)
    return count
