"""A source that goes on with another client: every record once, in order, from where each partition was."""

from __future__ import annotations

from dataclasses import replace

from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import FetchedBlock, PartitionEnded, PartitionSource, SourceOptions
from kbr.model import OffsetRange, TopicPartition
from kbr_codec import decode_block
from tests.support.kafka import KafkaHarness, send


def test_no_record_is_lost_or_doubled_when_the_client_is_replaced(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("reopened"), partitions=3)
    sizes = {0: 5, 1: 400, 2: 700}
    send(
        kafka.producer(),
        topic,
        [{"partition": part, "value": b"%d" % n} for part, count in sizes.items() for n in range(count)],
    )
    options = SourceOptions(
        memory_bytes=16 << 20,
        block_bytes=1024,
        open_bytes=1 << 20,
        isolation_level="read_committed",
        bytes_per_s=1000.0,
    )
    found: dict[int, list[bytes | None]] = {0: [], 1: [], 2: []}
    done: dict[int, int] = {}

    def take(events: list[object]) -> None:
        for event in events:
            if isinstance(event, FetchedBlock):
                found[event.index].extend(record.value for record in decode_block(event.block))
            elif isinstance(event, PartitionEnded):
                done[event.index] = event.next_offset

    with PartitionSource(
        ClientSettings(bootstrap_servers=(kafka.bootstrap,)), options, on_client_message=lambda _message: None
    ) as source:
        source.start(
            [
                (TopicPartition(topic, part), OffsetRange(start_offset=0, end_offset_exclusive=count))
                for part, count in sizes.items()
            ]
        )
        turns = 0
        while source.open_count and turns < 3000:
            turns += 1
            take(list(source.poll(100, max_records=20)))
            if turns % 7 == 0:
                take(list(source.reopen(replace(options, bytes_per_s=options.bytes_per_s * turns), done=done)))
        assert source.totals == (sum(sizes.values()), sum(len(b"%d" % n) for c in sizes.values() for n in range(c)))
    assert found == {part: [b"%d" % n for n in range(count)] for part, count in sizes.items()}
    assert done == sizes
