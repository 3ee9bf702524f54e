"""A worker's producer goes from task to task, but never one that may hold or have lost something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from kbr.errors import ProduceFailed
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import RecordWindow, SinkOptions
from kbr.model import TopicPartition
from kbr.restore.task import _SinkKeeper
from kbr_codec import Record, encode_block
from kbr_codec.rdkafka import MockCluster

OPTIONS = SinkOptions(
    memory_bytes=16 << 20, compression="none", zero_timestamp_as=0, original_offset_header=b"", batch_bytes=100_000
)
BLOCK = encode_block([Record(0, 1, 1, b"k", b"v", ())])


@pytest.fixture(scope="module")
def client() -> Iterator[ClientSettings]:
    load_library()
    cluster = MockCluster(brokers=1)
    cluster.create_topic("t", partitions=1)
    yield ClientSettings(bootstrap_servers=(cluster.bootstrap_servers,))
    cluster.close()


def test_the_next_task_gets_the_same_producer_and_its_own_messages(client: ClientSettings) -> None:
    keeper = _SinkKeeper()
    first, second = [], []
    with keeper.sink(client, OPTIONS, first.append) as sink:
        sink.send(TopicPartition("t", 0), BLOCK, RecordWindow())
        while sink.open_count:
            sink.poll(100)
    with keeper.sink(client, OPTIONS, second.append) as again:
        assert again is sink
        assert again.on_client_message == second.append
    with keeper.sink(client, replace(OPTIONS, batch_bytes=50_000), second.append) as other:
        assert other is not sink
    other.close()


def test_a_producer_with_something_under_way_is_not_kept(client: ClientSettings) -> None:
    keeper = _SinkKeeper()
    with keeper.sink(client, OPTIONS, print) as sink:
        sink.send(TopicPartition("t", 0), BLOCK, RecordWindow())
    with keeper.sink(client, OPTIONS, print) as other:
        assert other is not sink
    other.close()


def test_a_producer_whose_task_failed_is_not_kept(client: ClientSettings) -> None:
    keeper = _SinkKeeper()
    with pytest.raises(ProduceFailed), keeper.sink(client, OPTIONS, print) as sink:
        raise ProduceFailed("t[0]: it is not to be")
    with keeper.sink(client, OPTIONS, print) as other:
        assert other is not sink
    other.close()
