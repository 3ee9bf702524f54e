"""The writing half of a backup worker, without Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
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
        store=store,
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


def test_a_block_that_nobody_compressed_is_never_taken_for_written() -> None:
    segments: list[SegmentRef] = []
    with _pipeline(
        MemoryStore("memory://pipeline-unfinished"), BlockCompressor(Compression.ZSTD, 3), segments
    ) as pipeline:
        pipeline.submit(0, _block(0), PER_BLOCK)  # its thread died
        pipeline.submit(0, _block(1), 2 * PER_BLOCK)()
        pipeline.cut(0, 2 * PER_BLOCK)
        pipeline.finish()
        (failure,) = pipeline.take_failures()
        assert "not all written" in str(failure.error)
    assert segments == []


def test_where_no_thread_can_be_started_the_one_that_compressed_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    segments: list[SegmentRef] = []
    with _pipeline(
        MemoryStore("memory://pipeline-threads"), BlockCompressor(Compression.ZSTD, 3), segments
    ) as pipeline:

        def refuse(*_arguments: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(pipeline._writers, "submit", refuse)
        pipeline.submit(0, _block(0), PER_BLOCK)()
        pipeline.cut(0, PER_BLOCK)
        pipeline.finish()
        assert pipeline.take_failures() == []
        assert pipeline.committed_offset(0) == PER_BLOCK


def test_what_a_store_holds_of_many_open_segments_is_bounded_and_none_is_lost() -> None:
    """Forty partitions in turns, each with a segment open; the store may hold about six blocks of all."""
    store = MemoryStore("memory://pipeline-held")
    segments: dict[int, list[SegmentRef]] = {}
    stored = len(BlockCompressor(Compression.ZSTD, 3).compress(_block(0)))
    pipeline = SegmentPipeline(
        PipelineOptions(
            segment_max_bytes=1 << 30, in_flight_bytes=1 << 20, lanes=40, upload_bytes=1 << 20, held_bytes=6 * stored
        ),
        BlockCompressor(Compression.ZSTD, 3),
        store=store,
        on_segment=lambda index, ref: segments.setdefault(index, []).append(ref),
    )
    most = 0
    with pipeline:
        for partition in range(40):
            identity = SegmentIdentity(
                backup_id="b",
                topic="t",
                topic_id="",
                partition=partition,
                sequence=0,
                compression=Compression.ZSTD,
                writer="w",
                created_at_ms=0,
            )
            pipeline.add_lane(
                lambda sequence, identity=identity: SegmentWriter(store, replace(identity, sequence=sequence)), 0
            )
        for number in range(8):
            for partition in range(40):
                pipeline.submit(partition, _block(number), (number + 1) * PER_BLOCK)()
                with pipeline._held_lock:
                    assert pipeline._held == sum(lane.held for lane in pipeline._lanes)
                    most = max(most, pipeline._held)
        for partition in range(40):
            pipeline.cut(partition, 8 * PER_BLOCK)
        pipeline.finish()
        assert pipeline.take_failures() == []
        assert {pipeline.committed_offset(partition) for partition in range(40)} == {8 * PER_BLOCK}
    assert most <= 7 * stored  # the block that goes over it is held, and then the largest is let go
    assert sum(map(len, segments.values())) > 40
    for refs in segments.values():
        assert [ref.start_offset for ref in refs] == [0, *(ref.next_offset for ref in refs[:-1])]
        assert refs[-1].next_offset == 8 * PER_BLOCK
        assert sum(ref.record_count for ref in refs) == 8 * PER_BLOCK
