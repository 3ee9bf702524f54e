"""``python -m benchmarks index``: what it takes to plan an hour of one topic out of a very large backup.

With the block index, and without it by the manifest and the segments' own indexes; both plans have to be the same. The
manifest and the index are made by kbr's own writers from columns of numbers, an hour a segment and 30 blocks each; only
the segments that are looked at are there, as files without data, with an index at their end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kbr.format.block_index_head import BlockIndexHead, dump_head
from kbr.format.documents import Manifest, PartitionEntry, SourceInfo, TopicEntry, dump_manifest
from kbr.format.segment import BlockEntry, SegmentAssembler, SegmentIdentity
from kbr.model import Compression, PartitionStatus, RunStatus, SegmentRef, TopicPartition
from kbr.repository.catalog import Catalog
from kbr.repository.index_writing import IndexWriter, RunWriter
from kbr.repository.indexes import IndexedRows, open_index
from kbr.repository.layout import index_head_key, manifest_key, relative_segment_key
from kbr.restore.chosen import chosen_blocks
from kbr.restore.counting import count_plan
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, plan_restore
from kbr.storage.local import LocalStore
from kbr.timing import SYSTEM_CLOCK

__all__ = ["index_command", "measure_index"]

BACKUP_ID = "b"
BLOCKS = 30
BLOCK_MS = 120_000
HOUR_MS = 3_600_000
BEGIN_MS = 1_714_564_800_000
TOPICS, PARTITIONS = 50, 20
#: Segments that one checkpoint adds.
NEW = 50
ROUNDS = 15
#: Of a segment's index frame, bytes: texts in it are as long as they have to be.
FRAME_BYTES = 3072
TARGETS = {"index_read_share": 0.05, "index_plan_ms": 150.0, "manifest_plan_s": 10.0}


def _columns(topic: int, partition: int, segments: int) -> dict[str, Any]:
    """A partition's blocks: about 4,000 records and a megabyte each, times that overlap a little."""
    source = np.random.default_rng((topic, partition))
    rows = segments * BLOCKS
    counts = source.integers(3500, 4200, rows)
    stored = source.integers(1_000_000, 1_500_000, rows)
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    by_segment = stored.reshape(segments, BLOCKS)
    positions = np.cumsum(by_segment, axis=1) - by_segment
    times = BEGIN_MS + np.arange(rows) * BLOCK_MS
    found = {
        "segment": np.repeat(firsts[::BLOCKS], BLOCKS),
        "segment_mark": np.repeat(source.integers(-(2**63), 2**63, segments), BLOCKS),
        "position": positions.reshape(rows),
        "stored_bytes": stored,
        "raw_bytes": source.integers(4_000_000, 4_300_000, rows),
        "record_count": counts,
        "first_offset": firsts,
        "last_offset": firsts + counts - 1,
        "min_timestamp": times - source.integers(0, 4000, rows),
        "max_timestamp": times + BLOCK_MS + source.integers(0, 4000, rows),
    }
    return {name: np.ascontiguousarray(values, dtype=np.int64) for name, values in found.items()}


def _references(name: str, partition: int, columns: dict[str, Any]) -> list[SegmentRef]:
    """What a manifest says of the segments; their SHA-256 is nothing but the mark."""
    ends = columns["last_offset"][BLOCKS - 1 :: BLOCKS].tolist()
    lows, highs = (
        getattr(columns[f"{kind}_timestamp"].reshape(-1, BLOCKS), kind)(axis=1).tolist() for kind in ("min", "max")
    )
    sums = {
        one: columns[one].reshape(-1, BLOCKS).sum(axis=1).tolist() for one in ("record_count", "raw_bytes", "stored_bytes")
    }
    found = []
    marks = columns["segment_mark"][::BLOCKS].tolist()
    for number, sequence in enumerate(columns["segment"][::BLOCKS].tolist()):
        reference = SegmentRef(
            key=relative_segment_key(name, partition, sequence, Compression.ZSTD), sequence=sequence,
            next_offset=ends[number] + 1, start_offset=sequence, end_offset=ends[number],
            start_timestamp=lows[number], end_timestamp=highs[number], min_timestamp=lows[number],
            max_timestamp=highs[number], record_count=sums["record_count"][number], block_count=BLOCKS,
            raw_bytes=sums["raw_bytes"][number], stored_bytes=sums["stored_bytes"][number] + FRAME_BYTES,
            max_record_bytes=2000, sha256=f"{marks[number] % 2**64:016x}" * 4,
        )  # fmt: skip
        found.append(reference)
    return found


def _topic_entry(topic: int, segments: int) -> TopicEntry:
    name = f"topic-{topic:04d}"
    partitions = []
    for partition in range(PARTITIONS):
        references = _references(name, partition, _columns(topic, partition, segments))
        end = references[-1].next_offset
        entry = PartitionEntry(
            partition=partition, status=PartitionStatus.COMPLETE, log_start_offset=0, high_watermark=end,
            start_offset=0, end_offset_exclusive=end, next_offset=end, error=None, segments=tuple(references),
            record_count=sum(one.record_count for one in references), gaps=(),
        )  # fmt: skip
        partitions.append(entry)
    return TopicEntry(
        name=name, topic_id="", partition_count=PARTITIONS, replication_factor=3, is_internal=False, configs={},
        partitions=tuple(partitions),
    )  # fmt: skip


def _manifest(topics: tuple[TopicEntry, ...]) -> Manifest:
    return Manifest(
        kbr_version="0", backup_id=BACKUP_ID, status=RunStatus.COMPLETE, created_at_ms=1, updated_at_ms=1, finished_at_ms=1,
        source=SourceInfo(cluster_id="c", brokers=("h:1",), isolation_level="read_committed"),
        compression=Compression.ZSTD, compression_level=3, retention=None, topics=topics,
    )  # fmt: skip


def _write_manifest(store: LocalStore, topics: int, segments: int) -> None:
    """A topic in memory at a time: the bytes of a manifest of all are those of manifests of one, joined."""
    upload = store.open_upload(manifest_key(BACKUP_ID))
    digest = hashlib.sha256()

    def write(data: bytes) -> None:
        digest.update(data)
        upload.write(data)

    for topic in range(topics):
        data = dump_manifest(_manifest((_topic_entry(topic, segments),)))
        begin, end = data.index(b',"topics":[') + len(b',"topics":['), data.rindex(b'],"sha256"')
        write(data[:begin] if topic == 0 else b",")
        write(data[begin:end])
    write(b"]")
    upload.write(b',"sha256":"%b"}' % digest.hexdigest().encode())
    upload.commit()


def _write_index(store: LocalStore, topics: int, segments: int) -> None:
    run = RunWriter(store, BACKUP_ID, kbr_version="0", level=5)
    for topic in range(topics):
        for partition in range(PARTITIONS):
            columns = {name: memoryview(values) for name, values in _columns(topic, partition, segments).items()}
            run.add_rows(IndexedRows(TopicPartition(f"topic-{topic:04d}", partition), 0, columns))
    head = BlockIndexHead(kbr_version="0", backup_id=BACKUP_ID, updated_at_ms=1, pieces=tuple(run.close()))
    store.put(index_head_key(BACKUP_ID), dump_head(head))


def _blocks(columns: dict[str, Any], number: int) -> list[BlockEntry]:
    names = ("position", "stored_bytes", "raw_bytes", "record_count", "first_offset", "last_offset", "min_timestamp")
    rows = slice(number * BLOCKS, (number + 1) * BLOCKS)
    parts = zip(*(columns[name][rows].tolist() for name in (*names, "max_timestamp")), strict=True)
    return [BlockEntry(**dict(zip((*names, "max_timestamp"), row, strict=True)), crc32=0) for row in parts]


def _write_object(folder: Path, key: TopicPartition, reference: SegmentRef, blocks: list[BlockEntry]) -> None:
    """A segment without its data: its index, behind a hole in a file."""
    # two texts of three bytes' length: the rest of the frame is theirs
    missing = FRAME_BYTES - len(_frame(key, reference, blocks, 256, 256))
    more = min(missing, 768)
    frame = _frame(key, reference, blocks, 256 + more, 256 + missing - more)
    path = folder / BACKUP_ID / reference.key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.seek(blocks[-1].position + blocks[-1].stored_bytes)
        file.write(frame)


def _frame(key: TopicPartition, reference: SegmentRef, blocks: list[BlockEntry], writer: int, topic_id: int) -> bytes:
    identity = SegmentIdentity(
        backup_id=BACKUP_ID, topic=key.topic, topic_id="i" * topic_id, partition=key.partition,
        sequence=reference.sequence, compression=Compression.ZSTD, writer="w" * writer, created_at_ms=1,
    )  # fmt: skip
    assembler = SegmentAssembler(identity)
    assembler._blocks = blocks
    assembler._position = sum(one.stored_bytes for one in blocks)
    assembler._record_count, assembler._raw_bytes = reference.record_count, reference.raw_bytes
    assembler._max_record_bytes = reference.max_record_bytes
    assembler._first_timestamp, assembler._last_timestamp = reference.start_timestamp, reference.end_timestamp
    return assembler.finish(reference.next_offset)


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not tell {name}")


class _Peak:
    """How much the process has grown at most since this was made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _memory_bytes("VmRSS")

    def grown_mb(self) -> float:
        return round((_memory_bytes("VmHWM") - self._before) / 1e6, 1)


def _make(folder: str, topics: int, segments: int) -> dict[str, Any]:
    """In a process of its own: manifest, index, and the segments that are looked at."""
    store = LocalStore(folder)
    peak = _Peak()
    begun = time.perf_counter()
    _write_manifest(store, topics, segments)
    _write_index(store, topics, segments)
    return {"make_s": round(time.perf_counter() - begun, 1), "make_grown_mb": peak.grown_mb()}


def _plan(manifest: Manifest, topic: str, window: tuple[int, int]) -> RestorePlan:
    options = RestoreOptions(backup_id=BACKUP_ID, time_window_start_ms=window[0], time_window_end_ms=window[1])
    return plan_restore(manifest, [one for one in manifest.topics if one.name == topic], options, {})


def _with_index(folder: str, topic: str, window: tuple[int, int]) -> dict[str, Any]:
    """In a process of its own, with the manifest read before."""
    store = LocalStore(folder)
    manifest = Catalog(store).load_chosen(BACKUP_ID, lambda name: name == topic)
    import kbr.format.block_index_parser  # noqa: F401  (what a restore imports in any case)

    peak = _Peak()
    seconds, cpu = [], []
    for _ in range(ROUNDS):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        plan = _plan(manifest, topic, window)
        counts = count_plan(store, plan, max_block_bytes=1 << 28, manifest=manifest)
        seconds.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - cpu_begun)
    grown = peak.grown_mb()
    index = open_index(store, BACKUP_ID)
    from kbr.restore import chosen

    chosen.open_index = lambda _store, _id: index  # the same again, with what it reads counted
    cut = [chosen.Cut(one.source, ref, 0, one.window(plan.window)) for one in plan.partitions for ref in one.segments]
    list(chosen_blocks(store, plan, cut, manifest=manifest, max_block_bytes=1 << 28))
    read = index.bytes_read + (Path(folder) / index_head_key(BACKUP_ID)).stat().st_size
    return {
        "index_bytes": index.head.size_bytes,
        "index_pieces": len(index.head.pieces),
        "index_read_bytes": read,
        "index_read_share": round(read / index.head.size_bytes, 5),
        "index_plan_first_ms": round(seconds[0] * 1000, 1),
        "index_plan_ms": round(statistics.median(seconds[1:]) * 1000, 1),
        "index_plan_best_ms": round(min(seconds) * 1000, 1),
        "index_plan_cpu_ms": round(statistics.median(cpu) * 1000, 1),
        "index_grown_mb": grown,
        "plan": asdict(counts),
    }


def _without(folder: str, topic: str, window: tuple[int, int]) -> dict[str, Any]:
    """In a process of its own: from nothing, by the manifest and the segments' own indexes."""
    store = LocalStore(folder)
    peak = _Peak()
    begun = time.perf_counter()
    manifest = Catalog(store).load_chosen(BACKUP_ID, lambda name: name == topic)
    loaded = time.perf_counter()
    plan = _plan(manifest, topic, window)
    counts = count_plan(store, plan, max_block_bytes=1 << 28)
    ended = time.perf_counter()
    return {
        "manifest_bytes": (Path(folder) / manifest_key(BACKUP_ID)).stat().st_size,
        "manifest_load_s": round(loaded - begun, 2),
        "manifest_plan_s": round(ended - begun, 2),
        "own_indexes_ms": round((ended - loaded) * 1000, 1),
        "manifest_grown_mb": peak.grown_mb(),
        "plan": asdict(counts),
    }


def _whole(folder: str) -> dict[str, Any]:
    """In a process of its own: the manifest with the segments of all topics."""
    store = LocalStore(folder)
    peak = _Peak()
    begun = time.perf_counter()
    Catalog(store).load(BACKUP_ID)
    return {"manifest_whole_s": round(time.perf_counter() - begun, 2), "manifest_whole_grown_mb": peak.grown_mb()}


def _grow(folder: str, topic: str) -> dict[str, Any]:
    """In a process of its own: what a checkpoint costs that adds some segments to the index."""
    store = LocalStore(folder)
    manifest = Catalog(store).load(BACKUP_ID)
    writer = IndexWriter(store, BACKUP_ID, kbr_version="0", clock=SYSTEM_CLOCK)
    begun = time.perf_counter()
    writer.follow(manifest)
    first = time.perf_counter() - begun
    seconds, written = [], []
    for _ in range(ROUNDS):
        manifest = _with_more(Path(folder), manifest, topic)
        begun = time.perf_counter()
        built = writer.follow(manifest)
        seconds.append(time.perf_counter() - begun)
        written.append(built.bytes_written)
        if built.added != NEW or built.left:
            raise SystemExit(f"wrong: {built.added} segments were added, {built.left} are left")
    return {
        "checkpoint_first_ms": round(first * 1000, 1),
        "checkpoint_ms": round(statistics.median(seconds) * 1000, 1),
        "checkpoint_bytes": round(statistics.median(written)),
    }


def _with_more(folder: Path, manifest: Manifest, topic: str) -> Manifest:
    """The manifest with some more segments, which are there."""
    (entry,) = (one for one in manifest.topics if one.name == topic)
    partitions = list(entry.partitions)
    for number in range(NEW):
        at = number % PARTITIONS
        partition = partitions[at]
        key = TopicPartition(topic, at)
        sequence = partition.next_offset
        blocks = [
            BlockEntry(
                position=1_000_000 * n, stored_bytes=1_000_000, raw_bytes=4_000_000, record_count=4000,
                first_offset=sequence + 4000 * n, last_offset=sequence + 4000 * n + 3999, min_timestamp=BEGIN_MS,
                max_timestamp=BEGIN_MS + 1, crc32=0,
            )
            for n in range(BLOCKS)
        ]  # fmt: skip
        reference = SegmentRef(
            key=relative_segment_key(topic, at, sequence, Compression.ZSTD), sequence=sequence,
            next_offset=sequence + 4000 * BLOCKS, start_offset=sequence, end_offset=sequence + 4000 * BLOCKS - 1,
            start_timestamp=BEGIN_MS, end_timestamp=BEGIN_MS + 1, min_timestamp=BEGIN_MS, max_timestamp=BEGIN_MS + 1,
            record_count=4000 * BLOCKS, block_count=BLOCKS, raw_bytes=4_000_000 * BLOCKS, stored_bytes=1_000_000 * BLOCKS + FRAME_BYTES,
            max_record_bytes=2000, sha256=hashlib.sha256(b"%d %d" % (at, sequence)).hexdigest(),
        )  # fmt: skip
        _write_object(folder, key, reference, blocks)
        partitions[at] = replace(
            partition,
            segments=(*partition.segments, reference),
            next_offset=reference.next_offset,
            end_offset_exclusive=reference.next_offset,
            record_count=partition.record_count + reference.record_count,
        )
    topics = tuple(replace(one, partitions=tuple(partitions)) if one.name == topic else one for one in manifest.topics)
    return replace(manifest, topics=topics)


def _touched(topic: int, segments: int, window: tuple[int, int]) -> Iterator[tuple[TopicPartition, SegmentRef, list[BlockEntry]]]:
    name = f"topic-{topic:04d}"
    for partition in range(PARTITIONS):
        columns = _columns(topic, partition, segments)
        for number, reference in enumerate(_references(name, partition, columns)):
            if reference.min_timestamp <= window[1] and reference.max_timestamp >= window[0]:
                yield TopicPartition(name, partition), reference, _blocks(columns, number)


def measure_index(folder: Path, *, segments: int) -> dict[str, Any]:
    """Plans of an hour of one topic, of a backup of so many segments.

    Raises:
        SystemExit: the plans differ.
    """
    topics = TOPICS
    each = segments // (topics * PARTITIONS)
    if each < 4:
        raise SystemExit(f"at least {4 * topics * PARTITIONS} segments are needed")
    topic, begin = topics // 2, BEGIN_MS + each // 2 * HOUR_MS + 20 * 60_000
    window = (begin, begin + HOUR_MS)

    def alone(function: Any, *arguments: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            result: dict[str, Any] = pool.submit(function, *arguments).result()
        return result

    made = alone(_make, str(folder), topics, each)
    for key, reference, blocks in _touched(topic, each, window):
        _write_object(folder, key, reference, blocks)
    name = f"topic-{topic:04d}"
    with_index = alone(_with_index, str(folder), name, window)
    without = alone(_without, str(folder), name, window)
    plans = with_index.pop("plan"), without.pop("plan")
    if plans[0] != plans[1] or not plans[0]["blocks"]:
        raise SystemExit(f"wrong: the plan is {plans[0]} with the index, and {plans[1]} without")
    return {
        "segments": topics * PARTITIONS * each, "blocks": topics * PARTITIONS * each * BLOCKS, "topics": topics,
        "partitions": topics * PARTITIONS, "planned_segments": plans[0]["segments"], "planned_blocks": plans[0]["blocks"],
        **made, **with_index, **without, **alone(_whole, str(folder)), **alone(_grow, str(folder), name),
    }  # fmt: skip


def _index(arguments: argparse.Namespace) -> int:
    found = []
    for segments in arguments.segments:
        with tempfile.TemporaryDirectory(prefix="kbr-index-", dir=arguments.directory) as name:
            one = measure_index(Path(name), segments=segments)
        found.append(one)
        print(
            f"{one['segments']:>9,} segments, {one['blocks']:,} blocks: index {one['index_bytes'] / 1e6:.0f} MB, "
            f"{one['index_read_share']:.2%} read, {one['index_plan_ms']:.0f} ms; by the manifest "
            f"{one['manifest_plan_s']:.1f} s, +{one['manifest_grown_mb']:.0f} MB; a checkpoint of {NEW} segments "
            f"{one['checkpoint_ms']:.0f} ms, {one['checkpoint_bytes'] / 1e3:.0f} kB"
        )
    if arguments.output:
        load = round(os.getloadavg()[1], 1)
        document = {"benchmark": "index", "cores": os.cpu_count(), "load_5min": load, "targets": TARGETS, "results": found}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def index_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("segments", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--directory", type=Path, help="where manifest and index are written: 1.1 GB for a million segments")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=_index)
