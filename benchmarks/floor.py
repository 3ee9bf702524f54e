"""What no backup can be cheaper than, measured through the same C API: each in a process of its own.

    python -m benchmarks.floor consume SERVERS TOPIC COUNT     fetch and drop
    python -m benchmarks.floor compress SERVERS TOPIC COUNT    zstd level 3 of the same bytes, one thread
    python -m benchmarks.floor produce SERVERS TOPIC COUNT TARGET   produce the same records from memory

Prints one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import zstandard

from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings, consumer_properties
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import TopicPartition
from kbr_codec import RawBlock
from kbr_codec.rdkafka import BlockReady, Source

MEMORY_BYTES = 64 << 20


def _source(servers: str, topic: str, count: int) -> Source:
    load_library()
    settings = ClientSettings(bootstrap_servers=(servers,))
    properties = consumer_properties(
        settings, memory_bytes=MEMORY_BYTES, partition_count=1, isolation_level="read_committed"
    )
    source = Source(properties.items(), block_bytes=4 << 20, open_bytes=64 << 20)
    source.start([(topic, 0, 0, count)])
    return source


def consume(servers: str, topic: str, count: int) -> dict[str, float]:
    """Fetch everything and drop it."""
    begun = time.monotonic()
    source = _source(servers, topic, count)
    while source.discard(1000):
        pass
    wall = time.monotonic() - begun
    records, size = source.totals
    assert records == count, f"{records} of {count} records"
    source.close()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "bytes": size}


def compress(servers: str, topic: str, count: int) -> dict[str, float]:
    """CPU seconds of zstd alone."""
    source = _source(servers, topic, count)
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True, write_checksum=True)
    cpu = 0.0
    raw = stored = 0
    while source.open_count:
        for event in source.poll(100):
            if isinstance(event, BlockReady):
                begun = time.thread_time()
                frame = compressor.compress(memoryview(event.block))
                cpu += time.thread_time() - begun
                raw += len(event.block)
                stored += len(frame)
    source.close()
    return {"cpu_s": cpu, "raw_bytes": raw, "stored_bytes": stored}


def produce(servers: str, topic: str, count: int, target: str) -> dict[str, float]:
    """Wall seconds from the first record to the last acknowledgement, all records in memory before."""
    source = _source(servers, topic, count)
    blocks: list[RawBlock] = []
    while source.open_count:
        blocks.extend(event.block for event in source.poll(100) if isinstance(event, BlockReady))
    source.close()
    options = SinkOptions(
        memory_bytes=MEMORY_BYTES, compression="lz4", zero_timestamp_as=0, original_offset_header=b"", batch_bytes=1_000_000
    )
    begun = time.monotonic()
    with BlockSink(
        ClientSettings(bootstrap_servers=(servers,)), options, on_client_message=lambda _message: None
    ) as sink:
        sent = 0
        for block in blocks:
            sent += sink.send(TopicPartition(target, 0), block, RecordWindow()).record_count
            sink.poll(0)
        while sink.open_count:
            sink.poll(100)
        wall = time.monotonic() - begun
    assert sent == count, f"{sent} of {count} records"
    return {"wall_s": wall}


if __name__ == "__main__":
    what, servers, topic, count = sys.argv[1:5]
    functions = {"consume": consume, "compress": compress, "produce": produce}
    print(json.dumps(functions[what](servers, topic, int(count), *sys.argv[5:])))
