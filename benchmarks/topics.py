"""Topics to measure on: made, filled, read back into a digest, removed. Knows no engines."""

from __future__ import annotations

import os
import time

import msgpack
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.data import DataSpec, columns_of, pack_block, wire_batch_limit
from benchmarks.digest import Columns, Digester, TopicDigest
from benchmarks.floor import blocks_of, open_source, ranges_of
from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import TopicPartition

__all__ = ["Topics", "window_digest"]

#: For a new topic's leaders, or a deleted one's disappearance, seconds.
_PATIENCE_S = 60.0
#: A broker goes on deleting the files of many partitions after the topic is gone (6 s for the next plan were seen).
_MANY_PARTITIONS = 100
_SETTLE_S = 4.0


def window_digest(spec: DataSpec, window: tuple[int, int]) -> TopicDigest:
    """What the data holds in a time window (ms, both ends included), from the data itself and not from a topic."""
    digester = Digester(spec.partitions)
    for partition, columns in columns_of(spec):
        digester.add(partition, columns.within(window))
    return digester.result()


class Topics:
    """One cluster's topics."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._admin = AdminClient({"bootstrap.servers": servers})

    def create(self, name: str, spec: DataSpec) -> None:
        """An empty topic for such data; old records stay."""
        configs = {"retention.ms": "-1", "max.message.bytes": str(spec.max_message_bytes)}
        for future in self._admin.create_topics([NewTopic(name, spec.partitions, 1, config=configs)]).values():
            future.result(60)
        until = time.monotonic() + _PATIENCE_S
        while True:
            topic = self._admin.list_topics(name, timeout=30).topics[name]
            if len(topic.partitions) == spec.partitions and all(one.leader >= 0 for one in topic.partitions.values()):
                break
            if time.monotonic() > until:
                raise SystemExit(f"topic {name} has no leaders after {_PATIENCE_S:.0f} s: look at the broker's log")
            time.sleep(0.05)
        # a broker tells of a thousand new partitions seconds before it can serve them: that is not to be measured
        ranges_of(self._servers, name)

    def fill(self, name: str, spec: DataSpec) -> TopicDigest:
        """Produce the data; what it is."""
        limit = wire_batch_limit(spec)
        options = SinkOptions(
            memory_bytes=128 << 20,
            compression=spec.wire_compression,
            zero_timestamp_as=0,
            original_offset_header=b"",
            batch_bytes=limit,
        )
        settings = ClientSettings(bootstrap_servers=(self._servers,))
        digester = Digester(spec.partitions)
        offsets = [0] * spec.partitions
        with BlockSink(settings, options, on_client_message=lambda _message: None) as sink:
            for partition, columns in columns_of(spec):
                block = pack_block(columns, offsets[partition])
                offsets[partition] += len(columns.timestamps)
                sink.send_whole(TopicPartition(name, partition), block, RecordWindow())
                digester.add(partition, columns)
                sink.poll(0)
                while sink.open_count > 64:
                    sink.poll(10)
            while sink.open_count:
                sink.poll(100)
        # whoever syncs a file first would have to wait for the broker's unwritten gigabyte, too (ext4, data=ordered)
        os.sync()
        return digester.result()

    def digest(self, name: str) -> TopicDigest:
        """What a topic holds."""
        ranges = ranges_of(self._servers, name)
        digester = Digester(len(ranges))
        source = open_source(self._servers, ranges)
        blocks_of(source, lambda lane, block: digester.add(ranges[lane][1], _columns(bytes(block))))
        source.close()
        return digester.result()

    def records(self, name: str) -> int:
        """How many offsets a topic's partitions span: records, and what transactions add."""
        return sum(end - start for _, _, start, end in ranges_of(self._servers, name))

    def delete(self, name: str) -> None:
        """Remove it, if it is there, and wait until it is gone."""
        known = self._admin.list_topics(timeout=30).topics.get(name)
        partitions = 0 if known is None else len(known.partitions)
        try:
            for future in self._admin.delete_topics([name]).values():
                future.result(60)
        except KafkaException as error:
            if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                raise
        until = time.monotonic() + _PATIENCE_S
        while name in self._admin.list_topics(timeout=30).topics:
            if time.monotonic() > until:
                raise SystemExit(f"topic {name} is still there {_PATIENCE_S:.0f} s after it was deleted")
            time.sleep(0.05)
        if partitions > _MANY_PARTITIONS:
            time.sleep(_SETTLE_S)


def _columns(block: bytes) -> Columns:
    """A block as docs/format.md describes it."""
    document = msgpack.unpackb(block, strict_map_key=False)
    timestamps = []
    at = document["timestamp"]
    for delta in document["timestamps"]:
        at += delta
        timestamps.append(at)
    types = document["timestamp_types"]
    headers = document["headers"]
    pairs = None
    if headers is not None:
        pairs = [[(one[at], one[at + 1]) for at in range(0, len(one), 2)] if one else [] for one in headers]
    count = document["count"]
    return Columns(
        document["keys"], document["values"], pairs, timestamps, [types] * count if isinstance(types, int) else types
    )
