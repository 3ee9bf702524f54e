"""``python -m benchmarks checkpoint``: what a checkpoint of the manifest costs, as a backup grows old.

The state and the publisher are kbr's own, the store is a folder (fsync included). Between two checkpoints some
segments are committed; each checkpoint is timed whole, as the thread that writes it would see it, and put into
relation to the time until the next one, which kbr stretches with the cost (kbr.backup.checkpoints).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbr.backup.checkpoints import COST_FACTOR
from kbr.backup.options import BackupOptions
from kbr.backup.plan import plan_partitions
from kbr.backup.state import BackupState
from kbr.format.documents import SourceInfo
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import RunStatus, SegmentRef, TopicPartition, TopicSpec
from kbr.repository.publish import ManifestPublisher
from kbr.storage import ObjectStore
from kbr.storage.local import LocalStore
from kbr.telemetry.events import SegmentCommitted

__all__ = ["checkpoint_command", "measure_checkpoints"]

#: kbr's default for backup.checkpoint_interval_ms, seconds.
INTERVAL_S = 30.0
_STEP = 10


def _segment(partition: int, sequence: int) -> SegmentRef:
    return SegmentRef(
        key=f"topics/t/partition={partition}/segment-{sequence:020d}.zst", sequence=sequence,
        next_offset=sequence + _STEP, start_offset=sequence, end_offset=sequence + _STEP - 1,
        start_timestamp=1_714_564_800_000, end_timestamp=1_714_564_801_000, min_timestamp=1_714_564_800_000,
        max_timestamp=1_714_564_801_000, record_count=_STEP, block_count=1, raw_bytes=1_048_576, stored_bytes=262_144,
        max_record_bytes=1100, sha256=hashlib.sha256(b"%d" % sequence).hexdigest(),
    )  # fmt: skip


def measure_checkpoints(
    folder: Path,
    *,
    segments: int,
    partitions: int,
    new: int,
    rounds: int,
    layer: Callable[[ObjectStore], ObjectStore] = lambda store: store,
) -> dict[str, Any]:
    """Checkpoints of a backup that has so many segments, with ``new`` ones before each.

    Args:
        layer: put over the folder, as encryption is.

    Returns:
        Seconds of the first checkpoint of a run, median and most of those after it, the manifest's size, and the
        share of the time that they take.
    """
    options = BackupOptions(backup_id="b", include=("t",))
    source = SourceInfo(cluster_id="c", brokers=("h:1",), isolation_level="read_committed")
    state = BackupState(options, source, kbr_version="0", created_at_ms=1)
    spec = TopicSpec(name="t", partition_count=partitions, replication_factor=1, topic_id="id")
    offsets = {
        TopicPartition("t", number): PartitionOffsets(log_start=0, high_watermark=2**40, end_offset=2**40)
        for number in range(partitions)
    }
    state.begin(plan_partitions([spec], offsets, {}, known={}, ends={}, now_ms=1))
    made = 0

    def commit(count: int) -> None:
        nonlocal made
        for number in range(made, made + count):
            reference = _segment(number % partitions, number // partitions * _STEP)
            state.segment_committed(SegmentCommitted(topic="t", partition=number % partitions, ref=reference))
        made += count

    publisher = ManifestPublisher(layer(LocalStore(str(folder))))

    cpu: list[float] = []

    def checkpoint() -> float:
        begun, cpu_before = time.perf_counter(), time.process_time()
        state.begin_check()
        state.confirm({"t": "id"})
        publisher.publish(state.manifest(RunStatus.RUNNING, now_ms=2))
        cpu.append(time.process_time() - cpu_before)
        return time.perf_counter() - begun

    commit(segments)
    first = checkpoint()
    later = []
    for _ in range(rounds):
        commit(new)
        later.append(checkpoint())
    median = statistics.median(later)
    return {
        "segments": segments,
        "partitions": partitions,
        "new_segments": new,
        "first_s": round(first, 4),
        "median_s": round(median, 4),
        "most_s": round(max(later), 4),
        "median_cpu_s": round(statistics.median(cpu[1:]), 4),
        "manifest_bytes": (folder / "b" / "manifest.json").stat().st_size,
        "share_of_time": round(median / max(INTERVAL_S, COST_FACTOR * median), 5),
    }


def _checkpoint(arguments: argparse.Namespace) -> int:
    found = []
    for segments in arguments.segments:
        with tempfile.TemporaryDirectory(prefix="kbr-checkpoint-", dir=arguments.directory) as name:
            one = measure_checkpoints(
                Path(name), segments=segments, partitions=arguments.partitions, new=arguments.new, rounds=arguments.rounds
            )
        found.append(one)
        print(
            f"{segments:>9,} segments: {one['median_s'] * 1000:.0f} ms (most {one['most_s'] * 1000:.0f}), "
            f"{one['share_of_time']:.2%} of the time"
        )
    if arguments.output:
        document = {"benchmark": "checkpoint", "interval_s": INTERVAL_S, "results": found}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def checkpoint_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("segments", nargs="*", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--partitions", type=int, default=100)
    parser.add_argument("--new", type=int, default=50, help="segments committed between two checkpoints")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--directory", type=Path, help="where the manifest is written")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=_checkpoint)
