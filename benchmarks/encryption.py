"""``python -m benchmarks encryption``: CPU seconds of a backup without and with encryption, and of a large manifest's checkpoint.

Both backups are whole processes, of the same topic, in turns: who comes first in one round comes second in the next. The
encrypted one is verified once with its key, block by block, so that a fast wrong one fails.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import measure_checkpoints
from benchmarks.data import DataSpec
from benchmarks.measure import Command, Measured, MeasureError, measure
from benchmarks.topics import Topics
from kbr.format.data_keys import KeySecrets
from kbr.repository.backup_keys import Trust
from kbr.repository.sealed_store import seal_over
from kbr.repository.sealing import begin_backup
from kbr.storage import ObjectStore

__all__ = ["KINDS", "encryption_command", "measure_encryption"]

KINDS = ("plain", "encrypted")
DEADLINE_S = 900.0


def measure_encryption(
    folder: Path, servers: str, *, spec: DataSpec, rounds: int, compression: str, topic: str
) -> dict[str, Any]:
    """Medians over the rounds, and their ratio.

    Args:
        folder: for backups; emptied behind each.
        servers: a Kafka.
        compression: of kbr's segments.
        topic: a new one, filled with ``spec`` and removed.

    Raises:
        SystemExit: kbr failed, or the encrypted backup is not what it has to be.
    """
    key = base64.b64encode(os.urandom(32)).decode()
    environment = {"plain": {}, "encrypted": {"KBR_ENCRYPTION_KEY": key}}
    topics = Topics(servers)
    topics.create(topic, spec)
    try:
        topics.fill(topic, spec)
        found: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
        stored: dict[str, int] = {}
        for number in range(rounds + 1):
            for kind in KINDS if number % 2 else reversed(KINDS):
                place = folder / kind
                words = [
                    "backup", "-q", "-b", servers, "--backup-id", "b", "--storage", str(place), "-t", topic, "-o", "json",
                    "--set", f"backup.compression={compression}",
                ]  # fmt: skip
                done = _kbr(words, environment[kind], folder)
                if number:  # the first round warms the caches
                    found[kind].append(done)
                stored[kind] = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
                if not number:
                    _check(place, environment[kind], folder, spec)
                shutil.rmtree(place)
    finally:
        topics.delete(topic)
    cpu = {kind: statistics.median(one.cpu_s for one in found[kind]) for kind in KINDS}
    pairs = [two.cpu_s / one.cpu_s - 1 for one, two in zip(found["plain"], found["encrypted"], strict=True)]
    return {
        "compression": compression,
        "records": spec.records,
        "rounds": [{kind: found[kind][number].figures() for kind in KINDS} for number in range(rounds)],
        "stored_bytes": stored,
        "cpu_s": {kind: round(value, 4) for kind, value in cpu.items()},
        "wall_s": {kind: round(statistics.median(one.wall_s for one in found[kind]), 4) for kind in KINDS},
        "cpu_cost": round(cpu["encrypted"] / cpu["plain"] - 1, 4),
        "cpu_cost_of_pairs": round(statistics.median(pairs), 4),
    }


def _kbr(words: list[str], environment: dict[str, str], folder: Path) -> Measured:
    command = Command(argv=[sys.executable, "-m", "kbr", *words], environment=environment)
    try:
        return measure(command, folder=folder / "output", deadline_s=DEADLINE_S)
    except MeasureError as error:
        raise SystemExit(f"kbr {words[0]}: {error}") from error


def _check(place: Path, environment: dict[str, str], folder: Path, spec: DataSpec) -> None:
    done = _kbr(["verify", "b", "--deep", "--storage", str(place), "-o", "json"], environment, folder)
    report = json.loads(done.stdout)
    if (report["records"], report["encrypted"]) != (spec.records, bool(environment)):
        raise SystemExit(f"wrong: {report['records']} records, encrypted: {report['encrypted']}")


def _sealed(store: ObjectStore) -> ObjectStore:
    sealed = seal_over(store, Trust(secrets=KeySecrets(key=bytes(32))))
    begin_backup(sealed, "b")
    return sealed


def encryption_command(
    parser: argparse.ArgumentParser, cluster: Callable[[str | None, Path], AbstractContextManager[str]]
) -> None:
    """Its arguments."""

    def run(arguments: argparse.Namespace) -> int:
        document: dict[str, Any] = {"benchmark": "encryption", "results": [], "checkpoints": []}
        with tempfile.TemporaryDirectory(prefix="kbr-encryption-", dir=arguments.directory) as name:
            folder = Path(name)
            with cluster(arguments.bootstrap_servers, folder) as servers:
                for number, compression in enumerate(arguments.compression):
                    one = measure_encryption(
                        folder, servers, spec=DataSpec(records=arguments.records, value_bytes=1024),
                        rounds=arguments.rounds, compression=compression, topic=f"bench-encryption-{os.getpid()}-{number}",
                    )  # fmt: skip
                    document["results"].append(one)
                    print(
                        f"{one['records']:,} x 1 KiB, {compression}: {one['cpu_s']['plain']:.2f} CPU-s plain, "
                        f"{one['cpu_s']['encrypted']:.2f} encrypted: {one['cpu_cost']:+.1%}"
                    )
            for segments in arguments.segments:
                for kind in KINDS:
                    one = measure_checkpoints(
                        folder / f"{kind}-{segments}", segments=segments, partitions=100, new=50, rounds=arguments.rounds,
                        layer=_sealed if kind == "encrypted" else lambda store: store,
                    )  # fmt: skip
                    document["checkpoints"].append({"kind": kind, **one})
                    print(
                        f"{segments:,} segments, {kind}: a checkpoint takes {one['median_s'] * 1000:.0f} ms, "
                        f"{one['median_cpu_s'] * 1000:.0f} of CPU"
                    )
        if arguments.output:
            arguments.output.write_text(json.dumps(document, indent=1) + "\n")
        return 0

    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--compression", nargs="*", default=["zstd", "lz4"])
    parser.add_argument("--segments", nargs="*", type=int, default=[10_000, 100_000], help="of manifests")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bootstrap-servers", help="a Kafka; default: one of its own")
    parser.add_argument("--directory", type=Path, help="where data and backups go while it runs")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=run)
