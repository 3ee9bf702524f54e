"""``python -m benchmarks window``: how many bytes of a backup a window of 1 % of its time costs, from a real S3 server.

The backup is made by kbr's own writer: some partitions of records of 1 KiB (half of it random), spread evenly over the
time, in blocks of the size that a backup makes. `kbr cat` and `kbr restore` then read windows of it. What is counted is
every byte that the server sends, with HTTP's own, manifest and indexes, by a proxy before it. What was printed and restored
is compared with what the window holds, so that a read too few fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.topics import Topics
from kbr.backup.task import BLOCK_BYTES
from kbr.format.compression import BlockCompressor
from kbr.format.data_keys import KeySecrets
from kbr.format.documents import Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.format.segment import SegmentIdentity
from kbr.model import Compression, PartitionStatus, Record, RunStatus, SegmentRef
from kbr.repository.backup_keys import Trust
from kbr.repository.publish import publish_manifest
from kbr.repository.sealing import Sealing, begin_backup
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr_codec import encode_block, scan_block
from tests.support.proxy import Direction, FaultProxy
from tests.support.servers import S3Server, free_port

__all__ = ["LAYOUTS", "measure_window", "window_command"]

TOPIC, BACKUP_ID, BUCKET = "orders", "b", "window"
PARTITIONS = 4
RECORD_BYTES = 1024
SEGMENT_BYTES = 128 * 1024 * 1024
T0_MS = 1_714_564_800_000
#: Time from a partition's record to its next, ms.
STEP_MS = 100
#: Each so many-th record is late, by up to 1 % of the whole time; 0 is none.
LAYOUTS = {"all records in order": 0, "one record in 1,000 late by up to 1 % of the time": 1_000}
#: Where the window begins, of the whole time.
PLACES = {"beginning": 0.0, "middle": 0.495, "end": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A store behind the counting proxy."""

    url: str
    endpoint_url: str
    environ: dict[str, str]
    proxy: FaultProxy

    @property
    def sent_bytes(self) -> int:
        return self.proxy.passed(Direction.TO_CLIENT)


@contextmanager
def _place(folder: Path, *, encrypted: bool) -> Iterator[tuple[_Place, ObjectStore]]:
    """A server of our own, and its store past the proxy."""
    key = os.urandom(32)
    layer = Sealing(trust=Trust(secrets=KeySecrets(key=key))) if encrypted else None
    server = S3Server(folder / "s3", port=free_port())
    server.start()
    try:
        server.make_bucket(BUCKET)
        port = free_port()
        with FaultProxy({port: server.port}) as proxy:
            environ = {
                "KBR_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}",
                "KBR_STORAGE_ACCESS_KEY": server.access_key,
                "KBR_STORAGE_SECRET_KEY": server.secret_key,
                "KBR_STORAGE_REGION": "us-east-1",
                **({"KBR_ENCRYPTION_KEY": key.hex()} if encrypted else {}),
            }
            url = f"s3://{BUCKET}/backups"
            store = open_store(
                StorageOptions(
                    url=url, endpoint_url=server.endpoint_url, access_key=server.access_key, secret_key=server.secret_key,
                    region="us-east-1", path_style=True, layer=layer,
                )
            )  # fmt: skip
            try:
                begin_backup(store, BACKUP_ID)
                yield _Place(url=url, endpoint_url=environ["KBR_STORAGE_ENDPOINT"], environ=environ, proxy=proxy), store
            finally:
                store.close()
    finally:
        server.stop()


def _stamp(offset: int, count: int, late_each: int, rng: random.Random) -> int:
    late = rng.randrange(count * STEP_MS // 100) if late_each and offset % late_each == late_each // 2 else 0
    return T0_MS + max(0, offset * STEP_MS - late)


def _fill(store: ObjectStore, *, stored_bytes: int, late_each: int) -> tuple[Manifest, list[list[int]]]:
    """About so many bytes over all partitions; the timestamps of each."""
    rng = random.Random(1)
    compressor = BlockCompressor(Compression.ZSTD, 3)
    block_records = BLOCK_BYTES // (RECORD_BYTES + 20)
    count = max(2, stored_bytes // PARTITIONS // (block_records * RECORD_BYTES // 2)) * block_records
    entries, stamps = [], []
    for number in range(PARTITIONS):
        stamps.append([_stamp(offset, count, late_each, rng) for offset in range(count)])
        references: list[SegmentRef] = []
        writer = None
        for first in range(0, count, block_records):
            if writer is None:
                identity = SegmentIdentity(
                    backup_id=BACKUP_ID, topic=TOPIC, topic_id="", partition=number, sequence=first,
                    compression=Compression.ZSTD, writer="w", created_at_ms=1,
                )  # fmt: skip
                writer = SegmentWriter(store, identity)
            block = encode_block(
                Record(offset, stamps[number][offset], 1, b"key-%d" % offset, _value(rng), ())
                for offset in range(first, first + block_records)
            )
            writer.append(compressor.compress(block), len(block), scan_block(block))
            if writer.stored_bytes >= SEGMENT_BYTES or first + block_records >= count:
                references.append(writer.commit(first + block_records))
                writer = None
        entries.append(_entry(number, count, references))
    manifest = _manifest(entries)
    publish_manifest(store, manifest)
    return manifest, stamps


def _value(rng: random.Random) -> bytes:
    return rng.randbytes(RECORD_BYTES // 2) + b"order " * (RECORD_BYTES // 12)


def _entry(number: int, count: int, references: list[SegmentRef]) -> PartitionEntry:
    return PartitionEntry(
        partition=number, status=PartitionStatus.COMPLETE, log_start_offset=0, high_watermark=count, start_offset=0,
        end_offset_exclusive=count, next_offset=count, record_count=count, error=None, gaps=(), segments=tuple(references),
    )  # fmt: skip


def _manifest(entries: list[PartitionEntry]) -> Manifest:
    topic = TopicEntry(
        name=TOPIC, topic_id="", partition_count=len(entries), replication_factor=1, is_internal=False,
        configs={"retention.ms": "-1"}, partitions=tuple(entries),
    )  # fmt: skip
    return Manifest(
        kbr_version="0", backup_id=BACKUP_ID, status=RunStatus.COMPLETE, created_at_ms=1, updated_at_ms=1, finished_at_ms=1,
        source=SourceInfo(cluster_id="c", brokers=("b:1",), isolation_level="read_committed"),
        compression=Compression.ZSTD, compression_level=3, retention=None, topics=(topic,),
    )  # fmt: skip


def _kbr(place: _Place, *arguments: str) -> bytes:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KBR_", "AWS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "kbr", *arguments, "--storage", place.url],
        capture_output=True, check=False, env={**environ, **place.environ},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"kbr {arguments[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def _cat(place: _Place, window: list[str]) -> int:
    return len(_kbr(place, "cat", BACKUP_ID, "-f", r"%o\n", *window).splitlines())


def _restore(place: _Place, window: list[str], servers: str, target: str) -> int:
    try:
        report = json.loads(
            _kbr(
                place, "restore", "-b", servers, "--backup-id", BACKUP_ID, "--topic-map", f"{TOPIC}={target}", "-o", "json",
                "--set", "restore.offset_map=false", *window,
            )
        )  # fmt: skip
    finally:
        Topics(servers).delete(target)
    return int(report["totals"]["records"])


def measure_window(
    folder: Path, servers: str, *, stored_bytes: int, late_each: int, prefix: str, encrypted: bool = False
) -> dict[str, Any]:
    """Read windows of 1 % of the time, at the beginning, in the middle and at the end of a backup.

    Args:
        folder: for the S3 server.
        servers: a Kafka to restore into.
        stored_bytes: about the size of the backup.
        late_each: each so many-th record is late; 0 is none.
        prefix: of the target topics' names.
        encrypted: the backup is.

    Raises:
        SystemExit: kbr failed, or what it gave is not what the window holds.
    """
    with _place(folder, encrypted=encrypted) as (place, store):
        manifest, stamps = _fill(store, stored_bytes=stored_bytes, late_each=late_each)
        segments = [ref for partition in manifest.topics[0].partitions for ref in partition.segments]
        size = sum(ref.stored_bytes for ref in segments)
        whole_ms = len(stamps[0]) * STEP_MS
        windows = []
        for name, begin in PLACES.items():
            start = T0_MS + int(begin * whole_ms)
            end = start + whole_ms // 100 - 1
            due = sum(start <= stamp <= end for some in stamps for stamp in some)
            flags = ["--from-timestamp", str(start), "--to-timestamp", str(end)]
            readers: dict[str, Callable[[], int]] = {
                "cat": lambda flags=flags: _cat(place, flags),
                "restore": lambda flags=flags, name=name: _restore(place, flags, servers, f"{prefix}-{name}"),
            }
            one: dict[str, Any] = {"window": name, "records": due}
            for reader, read in readers.items():
                before = place.sent_bytes
                found = read()
                if found != due:
                    raise SystemExit(f"wrong: {reader} gave {found} records of the {name}, and it holds {due}")
                one[f"{reader}_bytes"] = place.sent_bytes - before
                one[f"{reader}_percent"] = round(100 * one[f"{reader}_bytes"] / size, 2)
            windows.append(one)
        return {
            "partitions": PARTITIONS,
            "records": sum(map(len, stamps)),
            "segments": len(segments),
            "blocks": sum(ref.block_count for ref in segments),
            "stored_bytes": size,
            "windows": windows,
        }


def window_command(
    parser: argparse.ArgumentParser, cluster: Callable[[str | None, Path], AbstractContextManager[str]]
) -> None:
    """Its arguments."""

    def run(arguments: argparse.Namespace) -> int:
        found = []
        with tempfile.TemporaryDirectory(prefix="kbr-window-", dir=arguments.directory) as name, cluster(
            arguments.bootstrap_servers, Path(name)
        ) as servers:
            for number, (layout, late_each) in enumerate(LAYOUTS.items()):
                one = measure_window(
                    Path(name) / str(number), servers, stored_bytes=arguments.mib << 20, late_each=late_each,
                    prefix=f"bench-window-{os.getpid()}-{number}", encrypted=arguments.encrypted,
                )  # fmt: skip
                found.append({"layout": layout, **one})
                for window in one["windows"]:
                    print(
                        f"{layout}, 1 % at the {window['window']} of {one['stored_bytes'] / 1e6:.0f} MB: "
                        f"cat {window['cat_percent']} %, restore {window['restore_percent']} %"
                    )
        if arguments.output:
            arguments.output.write_text(json.dumps({"benchmark": "window", "encrypted": arguments.encrypted, "results": found}, indent=1) + "\n")
        return 0

    parser.add_argument("--mib", type=int, default=1024, help="size of the backup, MiB")
    parser.add_argument("--encrypted", action="store_true", help="the backup is encrypted")
    parser.add_argument("--bootstrap-servers", help="a Kafka to restore into; default: one of its own")
    parser.add_argument("--directory", type=Path, help="where the servers keep their data")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=run)
