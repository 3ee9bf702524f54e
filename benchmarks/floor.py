"""What no backup or restore can be cheaper than, through the same C API; each in a process of its own.

    python -m benchmarks.floor consume SERVERS TOPIC                  fetch every record and drop it
    python -m benchmarks.floor compress SERVERS TOPIC CODEC LEVEL     compress the same bytes, one thread
    python -m benchmarks.floor produce SERVERS TOPIC TARGET CODEC [FROM TO]
                                                                      produce the same records from memory, or those
                                                                      between two timestamps (ms, both included)
    python -m benchmarks.floor rows SERVERS TOPIC                     the same records as rows, packed and zstd: their size
    python -m benchmarks.floor plain SERVERS TOPIC                    one plain confluent-kafka consumer, all partitions

Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import lz4.frame
import msgpack
import zstandard
from confluent_kafka import Consumer, TopicPartition

from kbr.backup.task import BLOCK_BYTES
from kbr.errors import KbrError
from kbr.kafka.cluster import Cluster
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings, consumer_properties
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import TopicPartition as KbrPartition
from kbr_codec import RawBlock, decode_block
from kbr_codec.rdkafka import BlockReady, Source, SourceError

MEMORY_BYTES = 64 << 20
#: Compressed at once: the size of the design's prototype; larger windows cost more CPU and pack better.
PIECE_BYTES = 4 << 20
ZSTD_LEVEL = 3


def ranges_of(servers: str, topic: str) -> list[tuple[str, int, int, int]]:
    """(topic, partition, first offset, end) of every partition."""
    with Cluster(ClientSettings(bootstrap_servers=(servers,)), deadline_s=60) as cluster:
        count = cluster.describe_topics([topic])[topic].partition_count
        keys = [KbrPartition(topic, number) for number in range(count)]
        found = cluster.offsets(keys, "read_committed")
    ranges = []
    for key in keys:
        offsets = found[key]
        if isinstance(offsets, KbrError):
            raise SystemExit(f"{key}: {offsets}")
        ranges.append((topic, key.partition, offsets.log_start, offsets.end_offset))
    return ranges


def open_source(servers: str, ranges: list[tuple[str, int, int, int]], *, block_bytes: int = PIECE_BYTES) -> Source:
    """A source of blocks of these ranges."""
    load_library()
    settings = ClientSettings(bootstrap_servers=(servers,))
    properties = consumer_properties(
        settings, memory_bytes=MEMORY_BYTES, partition_count=len(ranges), isolation_level="read_committed"
    )
    source = Source(properties.items(), block_bytes=block_bytes, open_bytes=64 << 20)
    source.start(ranges)
    return source


def blocks_of(source: Source, take: Callable[[int, RawBlock], None]) -> None:
    """All blocks, with the place of their range."""
    while source.open_count:
        for event in source.poll(100):
            if isinstance(event, BlockReady):
                take(event.lane, event.block)
            elif isinstance(event, SourceError):
                raise SystemExit(f"reading failed: {event.text}")


def consume(servers: str, topic: str) -> dict[str, float]:
    """Fetch everything and drop it; CPU seconds of it alone, without the imports."""
    ranges = ranges_of(servers, topic)
    begun, cpu_begun = time.monotonic(), time.process_time()
    source = open_source(servers, ranges)
    while source.discard(1000):
        pass
    wall = time.monotonic() - begun
    records, size = source.totals
    source.close()
    return {"wall_s": wall, "cpu_s": time.process_time() - cpu_begun, "records": records, "bytes": size}


def _compressor(codec: str, level: int) -> Callable[[bytes], bytes]:
    """The library's own call with the checksums that kbr writes too.

    Raises:
        SystemExit: no such codec.
    """
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=True).compress
    if codec == "lz4":
        return partial(lz4.frame.compress, compression_level=level, content_checksum=True, store_size=True)
    if codec == "none":
        return bytes
    raise SystemExit(f"no codec {codec}: there are zstd, lz4 and none")


def compress(servers: str, topic: str, codec: str, level: str) -> dict[str, float]:
    """CPU seconds of the codec alone, over pieces of PIECE_BYTES whatever partition they come from."""
    compressed = _compressor(codec, int(level))
    figures = {"cpu_s": 0.0, "raw_bytes": 0, "stored_bytes": 0}
    pieces: list[bytes] = []

    def squeeze() -> None:
        data = b"".join(pieces)
        begun = time.thread_time()
        frame = compressed(data)
        figures["cpu_s"] += time.thread_time() - begun
        figures["raw_bytes"] += len(data)
        figures["stored_bytes"] += len(frame)
        pieces.clear()

    def take(_lane: int, block: RawBlock) -> None:
        pieces.append(bytes(block))
        if sum(map(len, pieces)) >= PIECE_BYTES:
            squeeze()

    source = open_source(servers, ranges_of(servers, topic))
    blocks_of(source, take)
    if pieces:
        squeeze()
    source.close()
    return figures


def rows(servers: str, topic: str) -> dict[str, float]:
    """What the records take as rows ([offset, timestamp, key, value, headers] each) in blocks of kbr's size."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True, write_checksum=True)
    stored = 0

    def take(_lane: int, block: RawBlock) -> None:
        nonlocal stored
        records = [
            [one.offset, one.timestamp, one.key, one.value, [part for pair in one.headers for part in pair]]
            for one in decode_block(bytes(block))
        ]
        stored += len(compressor.compress(msgpack.packb(records)))

    source = open_source(servers, ranges_of(servers, topic), block_bytes=BLOCK_BYTES)
    blocks_of(source, take)
    source.close()
    return {"stored_bytes": stored}


def _connect(sink: BlockSink, target: str, blocks: list[tuple[int, RawBlock]]) -> None:
    """Have one record acknowledged: the target, which is thrown away, has it twice."""
    for partition, block in blocks:
        first = RecordWindow(offset_to_exclusive=block.stats.first_offset + 1)
        sink.send(KbrPartition(target, partition), block, first)
        while sink.open_count:
            sink.poll(100)


def produce(
    servers: str, topic: str, target: str, codec: str, first_ms: str = "", last_ms: str = ""
) -> dict[str, float]:
    """Wall seconds from the first record to the last acknowledgement, all records in memory before.

    The producer is connected and has its id before: one that gets records as soon as it is made stands still until
    librdkafka's timer asks for the id again (50 records of 1 KiB took 0.516 s so, and 0.007 s after 0.1 s of rest).
    That is no work, so it has no place in a floor. Of a window only blocks that touch it are held and looked through.
    """
    window = RecordWindow(timestamp_from=int(first_ms), timestamp_to=int(last_ms)) if first_ms else RecordWindow()
    ranges = ranges_of(servers, topic)
    blocks: list[tuple[int, RawBlock]] = []

    def take(lane: int, block: RawBlock) -> None:
        if block.stats.max_timestamp >= window.timestamp_from and block.stats.min_timestamp <= window.timestamp_to:
            blocks.append((ranges[lane][1], block))

    source = open_source(servers, ranges)
    blocks_of(source, take)
    source.close()
    options = SinkOptions(
        memory_bytes=MEMORY_BYTES,
        compression=codec,
        zero_timestamp_as=0,
        original_offset_header=b"",
        batch_bytes=1_000_000,
    )
    settings = ClientSettings(bootstrap_servers=(servers,), client={"message.max.bytes": "100000000"})
    with BlockSink(settings, options, on_client_message=lambda _message: None) as sink:
        _connect(sink, target, blocks[:1])
        begun, cpu_begun = time.monotonic(), time.process_time()
        sent = 0
        for partition, block in blocks:
            sent += sink.send_whole(KbrPartition(target, partition), block, window)
            sink.poll(0)
        while sink.open_count:
            sink.poll(100)
        wall = time.monotonic() - begun
    return {"wall_s": wall, "cpu_s": time.process_time() - cpu_begun, "records": sent}


def plain(servers: str, topic: str) -> dict[str, float]:
    """What people's own reader takes, wall seconds without imports: Message objects, all partitions, read to the end."""
    ranges = ranges_of(servers, topic)
    begun = time.monotonic()
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "unused", "enable.auto.commit": False, "fetch.queue.backoff.ms": 1}
    )
    consumer.assign([TopicPartition(name, number, start) for name, number, start, _ in ranges])
    wanted = sum(end - start for _, _, start, end in ranges)
    seen = 0
    while seen < wanted:
        for message in consumer.consume(10_000, 1.0):
            if message.error():
                raise SystemExit(f"reading failed: {message.error()}")
            seen += 1
    wall = time.monotonic() - begun
    consumer.close()
    return {"wall_s": wall, "records": seen}


if __name__ == "__main__":
    functions: dict[str, Callable[..., dict[str, float]]] = {
        "consume": consume,
        "compress": compress,
        "produce": produce,
        "rows": rows,
        "plain": plain,
    }
    print(json.dumps(functions[sys.argv[1]](*sys.argv[2:])))
