"""``python -m benchmarks offsets``: what it takes to map the offsets of many records, and to look some up.

Segments and the store are kbr's own, in a folder. All blocks of a layout are one block at other offsets: made once, so
that a hundred million records are there in seconds; they are read, decompressed and mapped as any others. Each layout
has a process of its own, whose memory is what the system says: how much it grew from when all was imported to its peak.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import struct
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentIdentity
from kbr.model import Compression, Record, SegmentRef, TopicPartition
from kbr.repository.layout import offset_map_key
from kbr.repository.offset_maps import open_offset_map
from kbr.repository.segment_writer import SegmentWriter
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.plan import PartitionPlan
from kbr.restore.window import TimeWindow
from kbr.storage.local import LocalStore
from kbr_codec import encode_block, scan_block

__all__ = ["LAYOUTS", "measure_offsets", "offsets_command"]

#: Records from one hole to the next; 0 is none.
LAYOUTS = {"no holes": 0, "a hole after 100 records": 100, "a hole after 10 records": 10, "a hole after every record": 1}
#: Of a block, and blocks of a segment.
BLOCK_RECORDS, SEGMENT_BLOCKS = 50_000, 20
PARTITIONS = 4
#: Behind this one all offsets take nine bytes, so that a block can be moved.
FIRST_OFFSET = 2**33
RESTORE_ID = "0" * 32
SOURCE, TARGET = "orders", "orders-restored"
LOOKUPS = 20


def _offset(position: int, layout: int) -> int:
    """The source offset of the record at a position."""
    return FIRST_OFFSET + position + (position // layout if layout else 0)


class _Blocks:
    """One block of a layout, at any place that is a multiple of its records."""

    def __init__(self, layout: int) -> None:
        self._layout = layout
        stamp = 1_714_564_800_000
        records = [
            Record(_offset(n, layout), stamp + n, 1, b"%d" % (n % 100), b"value" * 4, ()) for n in range(BLOCK_RECORDS)
        ]
        self._block = encode_block(records)
        self._stats = scan_block(self._block)
        self._at = self._block.index(b"\xa6offset\xcf") + 8
        self._compressor = BlockCompressor(Compression.ZSTD, 1)

    def append(self, writer: SegmentWriter, position: int) -> None:
        moved = _offset(position, self._layout) - FIRST_OFFSET
        first, last = self._stats.first_offset + moved, self._stats.last_offset + moved
        block = self._block[: self._at] + struct.pack(">Q", first) + self._block[self._at + 8 :]
        stats = self._stats._replace(first_offset=first, last_offset=last)
        writer.append(self._compressor.compress(block), len(block), stats)


def _segments(store: LocalStore, partition: int, records: int, layout: int) -> tuple[SegmentRef, ...]:
    blocks = _Blocks(layout)
    found = []
    step = BLOCK_RECORDS * SEGMENT_BLOCKS
    for begin in range(0, records, step):
        end = min(begin + step, records)
        identity = SegmentIdentity(
            backup_id="b", topic=SOURCE, topic_id="", partition=partition, sequence=_offset(begin, layout),
            compression=Compression.ZSTD, writer="w", created_at_ms=1,
        )  # fmt: skip
        writer = SegmentWriter(store, identity)
        for position in range(begin, end, BLOCK_RECORDS):
            blocks.append(writer, position)
        found.append(writer.commit(_offset(end, layout)))
    return tuple(found)


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not tell {name}")


def _map(folder: str, partitions: list[MappedPartition]) -> dict[str, Any]:
    """In a process of its own: map, measured."""
    import kbr.format.offset_map
    import kbr.format.offset_map_parser  # noqa: F401  (all that is imported counts as there before)

    store = LocalStore(folder)
    mapping = OffsetMapping(store, "b", TimeWindow(), max_block_bytes=1 << 28, stopped=lambda: False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory_bytes("VmRSS")
    begun = time.perf_counter()
    mapping.write(RESTORE_ID, "cluster", partitions, created_at_ms=1)
    seconds = time.perf_counter() - begun
    peak = _memory_bytes("VmHWM")
    return {"map_s": round(seconds, 2), "grown_mb": _mb(peak - before), "process_peak_mb": _mb(peak)}


def _mb(size: int) -> float:
    return round(size / 1e6, 1)


def _look_up(folder: str, records: int, layout: int) -> dict[str, Any]:
    """In a process of its own: look some offsets up, each right or it raises."""
    found = open_offset_map(LocalStore(folder), "b", RESTORE_ID)
    each = records // PARTITIONS
    if found.record_count != records or found.range_count != (records // layout if layout else PARTITIONS):
        raise SystemExit(f"wrong: {found.record_count} records in {found.range_count} ranges")
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_bytes("VmRSS")
    begun = time.perf_counter()
    for number in range(LOOKUPS):
        position = (each - 1) * number // (LOOKUPS - 1)
        source = TopicPartition(SOURCE, number % PARTITIONS)
        place = found.target_offset(source, _offset(position, layout))
        goes_on = found.first_at_or_after(source, _offset(position, layout) + 1)
        if place != (TopicPartition(TARGET, source.partition), position) or goes_on != [(place[0], position + 1)]:
            raise SystemExit(f"wrong: position {position} of {source} is at {place}, and goes on at {goes_on}")
    seconds = time.perf_counter() - begun
    return {
        "lookup_ms": round(seconds * 1000 / (2 * LOOKUPS), 1),
        "lookup_grown_mb": _mb(_memory_bytes("VmHWM") - before),
    }


def measure_offsets(folder: Path, *, records: int, layout: int) -> dict[str, Any]:
    """Map so many records, and look some up.

    Args:
        records: a multiple of four blocks' records.
        layout: records from one hole to the next; 0 is none.

    Raises:
        SystemExit: an answer is wrong.
    """
    each = records // PARTITIONS
    if each % BLOCK_RECORDS or (layout and BLOCK_RECORDS % layout):
        raise SystemExit(f"records have to be a multiple of {PARTITIONS * BLOCK_RECORDS}")
    store = LocalStore(str(folder))
    partitions = [
        MappedPartition(
            plan=PartitionPlan(
                source=TopicPartition(SOURCE, number),
                target=TopicPartition(TARGET, number),
                segments=_segments(store, number, each, layout),
            ),
            base=0,
            record_count=each,
        )
        for number in range(PARTITIONS)
    ]

    def alone(function: Any, *arguments: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            result: dict[str, Any] = pool.submit(function, *arguments).result()
        return result

    mapped = alone(_map, str(folder), partitions)
    size = (folder / offset_map_key("b", RESTORE_ID)).stat().st_size
    ranges = records // layout if layout else PARTITIONS
    looked_up = alone(_look_up, str(folder), records, layout)
    return {"records": records, "ranges": ranges, "map_bytes": size, **mapped, **looked_up}


def _offsets(arguments: argparse.Namespace) -> int:
    found = []
    for name, layout in LAYOUTS.items():
        with tempfile.TemporaryDirectory(prefix="kbr-offsets-", dir=arguments.directory) as folder:
            one = measure_offsets(Path(folder), records=arguments.records, layout=layout)
        found.append({"layout": name, **one})
        print(
            f"{name}: {one['records']:,} records, {one['ranges']:,} ranges, {one['map_bytes'] / 1e6:.1f} MB: "
            f"{one['map_s']} s, +{one['grown_mb']} MB; a lookup takes {one['lookup_ms']} ms"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps({"benchmark": "offsets", "results": found}, indent=1) + "\n")
    return 0


def offsets_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--records", type=int, default=100_000_000, help=f"a multiple of {PARTITIONS * BLOCK_RECORDS:,}")
    parser.add_argument("--directory", type=Path, help="where the segments are written")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=_offsets)
