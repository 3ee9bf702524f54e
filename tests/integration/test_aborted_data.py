"""What transactions left behind that were aborted is read over by the client, and gives no record: is it seen?"""

from __future__ import annotations

from confluent_kafka import Producer

from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import PartitionEnded, PartitionSource, SourceOptions
from kbr.model import OffsetRange, TopicPartition
from tests.support.kafka import KafkaHarness
from tests.support.proxy import TO_CLIENT, FaultProxy


def test_reading_over_aborted_records_is_seen_though_none_of_them_comes(kafka: KafkaHarness, network: FaultProxy) -> None:
    topic = kafka.create_topic(kafka.topic_name("aborted-only"))
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic, "batch.size": 20_000, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(1500):
        producer.produce(topic, partition=0, value=bytes(1000))
    producer.flush(30)
    producer.abort_transaction(30)
    network.slow(TO_CLIENT, bytes_per_s=500_000)  # 1.5 MB: three seconds
    settings = ClientSettings(
        bootstrap_servers=tuple(kafka.proxied_bootstrap.split(",")),
        client={"statistics.interval.ms": "100", "fetch.message.max.bytes": "50000", "fetch.max.bytes": "50000"},
    )
    options = SourceOptions(memory_bytes=64 << 20, block_bytes=1 << 20, open_bytes=4 << 20, isolation_level="read_committed")
    seen: list[int] = []
    with PartitionSource(settings, options, on_client_message=lambda _message: None) as source:
        source.start([(TopicPartition(topic, 0), OffsetRange(start_offset=0, end_offset_exclusive=1501))])
        for _ in range(600):
            events = source.poll(100)
            if events:
                break
            seen.append(source.advances)
        assert events == [PartitionEnded(0, 1501)]
        assert source.totals == (0, 0)
    assert len(set(seen)) >= 4, seen
