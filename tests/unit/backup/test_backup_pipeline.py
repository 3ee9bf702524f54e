"""The writing half of a backup worker, without Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest

from kbr.backup.pipeline import PipelineOptions, SegmentPipeline
from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentIdentity
from kbr.model import Compression, Record, SegmentRef
from kbr.repository.segment_reader import SegmentReader
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage.memory import MemoryStore
from kbr_codec import BlockStats, RawBlock, decode_block, encode_block, scan_block

BLOCKS = 30
PER_BLOCK = 10


class _BrokenCompressor(BlockCompressor):
    def compress(self, data: bytes | memoryview) -> bytes:
        raise MemoryError


def _records(number: int) -> list[Record]:
    first = number * PER_BLOCK
    return [Record(first + n, 1, 1, b"k", b"value %d" % (first + n), ()) for n in range(PER_BLOCK)]


def _pipeline(
    store: MemoryStore, compressor: BlockCompressor, segments: list[SegmentRef], *, in_flight_bytes: int = 1 << 20
) -> SegmentPipeline:
    pipeline = SegmentPipeline(
        PipelineOptions(segment_max_bytes=1000, in_flight_bytes=in_flight_bytes, lanes=1),
        compressor,
        on_segment=lambda _index, ref: segments.append(ref),
    )

    def new_writer(sequence: int) -> SegmentWriter:
        identity = SegmentIdentity(
            backup_id="b",
            topic="t",
            topic_id="",
            partition=0,
            sequence=sequence,
            compression=Compression.ZSTD,
            writer="w",
            created_at_ms=0,
        )
        return SegmentWriter(store, identity)

    pipeline.add_lane(new_writer, 0)
    return pipeline


class _Block(bytes):
    """Stands in for a RawBlock, which only a source can make."""

    stats: BlockStats


def _block(number: int) -> RawBlock:
    block = _Block(encode_block(_records(number)))
    block.stats = scan_block(block)
    return cast("RawBlock", block)


def test_blocks_compressed_in_any_order_are_stored_in_theirs() -> None:
    store = MemoryStore("memory://pipeline-order")
    segments: list[SegmentRef] = []
    with _pipeline(store, BlockCompressor(Compression.ZSTD, 3), segments) as pipeline:
        jobs: list[Callable[[], None]] = [
            pipeline.submit(0, _block(number), (number + 1) * PER_BLOCK) for number in range(BLOCKS)
        ]
        for job in reversed(jobs):
            job()
        pipeline.cut(0, BLOCKS * PER_BLOCK)
        pipeline.finish()
        assert pipeline.take_failures() == []
        assert pipeline.committed_offset(0) == BLOCKS * PER_BLOCK
    assert len(segments) > 1
    found: list[Record] = []
    for ref in segments:
        reader = SegmentReader(store, "b", ref, max_block_bytes=1 << 20)
        for _entry, data in reader.read_blocks(reader.index().blocks):
            found.extend(decode_block(data))
    assert found == [record for number in range(BLOCKS) for record in _records(number)]


def test_room_is_waited_for_until_a_writer_has_taken_what_was_compressed() -> None:
    segments: list[SegmentRef] = []
    with _pipeline(
        MemoryStore("memory://pipeline-room"), BlockCompressor(Compression.ZSTD, 3), segments, in_flight_bytes=1
    ) as pipeline:
        pipeline.wait_for_room()
        job = pipeline.submit(0, _block(0), PER_BLOCK)
        passed = threading.Event()

        def wait() -> None:
            pipeline.wait_for_room()
            passed.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not passed.wait(0.05)
        job()
        assert passed.wait(30)
        waiter.join()


@pytest.mark.parametrize("then", [0, 3])
def test_a_block_that_cannot_be_compressed_fails_its_partition_and_commits_nothing_behind_it(then: int) -> None:
    segments: list[SegmentRef] = []
    with _pipeline(MemoryStore("memory://pipeline-broken"), _BrokenCompressor(Compression.ZSTD, 3), segments) as pipeline:
        for number in range(1 + then):
            pipeline.submit(0, _block(number), (number + 1) * PER_BLOCK)()
        pipeline.cut(0, (1 + then) * PER_BLOCK)
        pipeline.finish()
        (failure,) = pipeline.take_failures()
        assert failure.index == 0
        assert "MemoryError" in str(failure.error)
        assert pipeline.committed_offset(0) == 0
    assert segments == []
