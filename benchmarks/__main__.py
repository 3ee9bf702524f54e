"""``python -m benchmarks smoke``: kbr's main job beside the floor of the same machine, in one run.

Starts its own Kafka (or uses yours, with --bootstrap-servers), makes 1 M records of 1 KiB in one partition, then in
turns: fetching alone, zstd alone, ``kbr backup`` as a whole process, producing from memory alone, ``kbr restore`` as a
whole process. Prints medians with their spread, and ratios within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from confluent_kafka import libversion

import kbr
from benchmarks.data import create_topic, fill, text_records
from tests.support.servers import KafkaServer, free_port


def _measured(*command: str, prints_json: bool = True) -> dict[str, Any]:
    """Run a whole process: wall and CPU seconds, and the JSON it printed."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "document": json.loads(output) if prints_json else None}


def _round(servers: str, topic: str, count: int, folder: Path, number: int) -> dict[str, float]:
    consumed = _measured("benchmarks.floor", "consume", servers, topic, str(count))["document"]
    compressed = _measured("benchmarks.floor", "compress", servers, topic, str(count))["document"]
    floor_cpu = consumed["cpu_s"] + compressed["cpu_s"]
    backup = _measured(
        "kbr", "backup", "-q", "-b", servers, "-t", topic, "--backup-id", f"round-{number}", "--storage", str(folder),
        "-o", "json",
    )  # fmt: skip
    document = backup["document"]
    assert document["totals"]["records"] == count, document["totals"]
    # workers are the forkserver's children, so they say themselves what they used
    backup_cpu = backup["cpu_s"] + document["worker_cpu_s"]
    direct, target = f"direct-{number}", f"restored-{number}"
    create_topic(servers, direct)
    produced = _measured("benchmarks.floor", "produce", servers, topic, str(count), direct)["document"]
    restore = _measured(
        "kbr", "restore", "-q", "-b", servers, "--backup-id", f"round-{number}", "--storage", str(folder),
        "--topic-map", f"{topic}={target}", "-o", "json",
    )  # fmt: skip
    restored = restore["document"]
    assert restored["totals"]["records"] == count, restored["totals"]
    helped = _measured("kbr", "--help", prints_json=False)
    return {
        "help_wall_s": helped["wall_s"],
        "floor_consume_cpu_s": consumed["cpu_s"],
        "floor_zstd_cpu_s": compressed["cpu_s"],
        "floor_cpu_s": floor_cpu,
        "backup_wall_s": backup["wall_s"],
        "backup_cpu_s": backup_cpu,
        "backup_wall_per_floor_cpu": backup["wall_s"] / floor_cpu,
        "backup_cpu_per_floor_cpu": backup_cpu / floor_cpu,
        "backup_stored_bytes": document["totals"]["stored_bytes"],
        "backup_worker_peak_rss_bytes": document["peak_worker_rss_bytes"],
        "floor_produce_wall_s": produced["wall_s"],
        "restore_wall_s": restore["wall_s"],
        "restore_wall_per_floor_wall": restore["wall_s"] / produced["wall_s"],
        "restore_worker_peak_rss_bytes": restored["peak_worker_rss_bytes"],
    }


def _smoke(servers: str, arguments: argparse.Namespace) -> dict[str, Any]:
    topic = f"smoke-{os.getpid()}"
    create_topic(servers, topic)
    made = fill(servers, topic, text_records(arguments.records, arguments.value_bytes, seed=1))
    rounds = []
    with tempfile.TemporaryDirectory(prefix="kbr-benchmark-") as folder:
        for number in range(arguments.rounds):
            rounds.append(_round(servers, topic, made, Path(folder), number))
            print(f"round {number + 1} of {arguments.rounds} done", file=sys.stderr)
    return {
        "benchmark": "smoke",
        "records": made,
        "value_bytes": arguments.value_bytes,
        "rounds": rounds,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": {"kbr": kbr.__version__, "librdkafka": libversion()[0]},
    }


def _print(result: dict[str, Any]) -> None:
    print(f"{result['records']:,} records of {result['value_bytes']} B, one partition, {len(result['rounds'])} rounds")
    print(f"{'figure':<32} {'median':>12} {'min':>12} {'max':>12}")
    for name in result["rounds"][0]:
        values = [one[name] for one in result["rounds"]]
        unit = 1e6 if name.endswith("_bytes") else 1.0
        label = name.replace("_bytes", "_MB") if unit > 1 else name
        print(
            f"{label:<32} {statistics.median(values) / unit:>12.2f} {min(values) / unit:>12.2f} {max(values) / unit:>12.2f}"
        )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["smoke"])
    parser.add_argument("--bootstrap-servers", help="a Kafka of yours; without it one is started")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the result as JSON there")
    arguments = parser.parse_args()
    if arguments.bootstrap_servers:
        result = _smoke(arguments.bootstrap_servers, arguments)
    else:
        with tempfile.TemporaryDirectory(prefix="kbr-benchmark-kafka-") as folder:
            server = KafkaServer(Path(folder), port=free_port(2))
            server.start()
            try:
                result = _smoke(server.bootstrap_servers, arguments)
            finally:
                server.stop()
    _print(result)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
