"""``python -m benchmarks throttle``: asked rates against measured ones, while the limit changes under way.

One backup and one restore, each with a limit that goes through several rates by ``kbr status --rate-limit``. Measured
from outside where that can be: a restore by the target's log end offsets (what consumers can see), a backup by
the bytes that the loopback interface carried, beside what kbr itself says has passed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from benchmarks.data import DataSpec
from benchmarks.topics import Topics
from kbr.errors import RunMissing
from kbr.runtime.control import ask, find_runs

__all__ = ["Sample", "figures", "throttle", "throttle_command"]

#: Seconds between two looks.
SAMPLE_S = 0.05
#: Of each rate, how long it takes effect before it is judged, seconds: a limit that was raised opens a new client.
SETTLE_S = 1.5
MB = 1_000_000
VALUE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """At ``at_s`` so many bytes had passed, and this rate was asked for (bytes/s)."""

    at_s: float
    bytes: float
    asked: float


def figures(samples: Sequence[Sample], rates: Sequence[float]) -> list[dict[str, float]]:
    """For each rate: what was measured over its whole time, any 10 s, and any second; as ratios to what was asked."""
    found = []
    for rate in rates:
        own = [one for one in samples if one.asked == rate]
        own = [one for one in own if one.at_s >= own[0].at_s + SETTLE_S]
        whole = (own[-1].bytes - own[0].bytes) / (own[-1].at_s - own[0].at_s)
        tens, seconds = _windows(own, 10.0), _windows(own, 1.0)
        found.append(
            {
                "asked_mb_s": rate / MB,
                "measured_mb_s": whole / MB,
                "ratio": whole / rate,
                "ten_seconds_min": min(tens) / rate,
                "ten_seconds_max": max(tens) / rate,
                "second_min": min(seconds) / rate,
                "second_median": statistics.median(seconds) / rate,
                "second_max": max(seconds) / rate,
            }
        )
    return found


def _windows(samples: Sequence[Sample], seconds: float) -> list[float]:
    """Mean rate of every window of about that length, bytes/s."""
    found = []
    end = 0
    for begin in samples:
        while end < len(samples) and samples[end].at_s - begin.at_s < seconds:
            end += 1
        if end == len(samples):
            break
        found.append((samples[end].bytes - begin.bytes) / (samples[end].at_s - begin.at_s))
    if not found:
        raise SystemExit(f"no {seconds:g} s were measured: give --seconds of at least {seconds + 2 * SETTLE_S:g}")
    return found


class _Run:
    """A kbr process under a limit."""

    def __init__(self, arguments: Sequence[str], rate: float) -> None:
        command = [sys.executable, "-m", "kbr", *arguments, "-q", "-o", "json", "--rate-limit", f"{rate:.0f}B/s"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._socket = self._find()

    def _find(self) -> Path:
        until = time.monotonic() + 30
        while time.monotonic() < until and self._process.poll() is None:
            for path in find_runs():
                if path.stem == str(self._process.pid):
                    return path
            time.sleep(0.02)
        raise SystemExit("kbr did not come up")

    def ask(self, **request: object) -> dict[str, Any]:
        return ask(self._socket, request)

    def stop(self) -> dict[str, Any]:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        output = self._process.communicate(timeout=120)[0]
        return dict(json.loads(output))


def _sampled(
    run: _Run, rates: Sequence[float], seconds: float, measure: dict[str, Callable[[], float]]
) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {name: [] for name in measure}
    while run.ask()["limited_bytes"] == 0:
        time.sleep(0.01)  # it still starts
    begun = time.monotonic()
    for number, rate in enumerate(rates):
        run.ask(rate_limit={"bytes_per_s": rate})
        while time.monotonic() < begun + (number + 1) * seconds:
            for name, look in measure.items():
                found[name].append(Sample(time.monotonic() - begun, look(), rate))
            time.sleep(SAMPLE_S)
    return found


def _loopback_bytes() -> float:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.strip().partition(":")
        if name == "lo":
            return float(rest.split()[0])
    raise SystemExit("there is no loopback interface")


class _EndOffsets:
    """The bytes that a target topic holds, as its end offsets tell."""

    def __init__(self, servers: str, topic: str, partitions: int, record_bytes: float) -> None:
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._record_bytes = record_bytes

    def __call__(self) -> float:
        ends = [self._consumer.get_watermark_offsets(one, timeout=10)[1] for one in self._partitions]
        return sum(ends) * self._record_bytes


def throttle(servers: str, topic: str, rates: Sequence[float], seconds: float, folder: Path) -> dict[str, Any]:
    """Both directions of a topic whose records all have one size.

    Args:
        rates: bytes per second, in the order in which they are asked for.
        seconds: how long each.
    """
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    partitions = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.close()
    place = ["-b", servers, "--storage", str(folder)]
    name = f"throttle-{os.getpid()}"
    run = _Run(["backup", *place, "-t", topic, "--backup-id", f"{name}-limited"], rates[0])
    backup = _sampled(
        run, rates, seconds, {"kbr": lambda: float(run.ask()["limited_bytes"]), "loopback": _loopback_bytes}
    )
    backup_end = run.stop()
    subprocess.run(
        [sys.executable, "-m", "kbr", "backup", "-q", *place, "-t", topic, "--backup-id", name, "-o", "json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    arguments = ["restore", *place, "--backup-id", name, "--topic-map", f"{topic}={name}"]
    run = _Run(arguments, rates[0])
    totals = backup_end["totals"]
    ends = _EndOffsets(servers, name, partitions, totals["record_bytes"] / totals["records"])
    restore = _sampled(run, rates, seconds, {"kbr": lambda: float(run.ask()["limited_bytes"]), "log_end": ends})
    run.stop()
    return {
        "benchmark": "throttle",
        "seconds_each": seconds,
        "rates": list(rates),
        "backup": {source: _document(samples, rates) for source, samples in backup.items()},
        "restore": {source: _document(samples, rates) for source, samples in restore.items()},
    }


def _document(samples: Sequence[Sample], rates: Sequence[float]) -> dict[str, Any]:
    return {
        "figures": [{name: round(value, 4) for name, value in one.items()} for one in figures(samples, rates)],
        "samples": [[round(one.at_s, 3), round(one.bytes), one.asked] for one in samples],
    }


def _throttle(arguments: argparse.Namespace) -> int:
    rates = [float(one) * MB for one in arguments.rates.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix="kbr-throttle-", dir=arguments.directory) as folder,
        arguments.cluster(arguments.bootstrap_servers, Path(folder)) as servers,
    ):
        topic = f"throttle-source-{os.getpid()}"
        # a fifth more than passes in that time, so that no run ends before it was measured
        records = round(1.2 * sum(rates) * arguments.seconds / (VALUE_BYTES + 6))
        spec = DataSpec(records=records, value_bytes=VALUE_BYTES, partitions=arguments.partitions)
        topics = Topics(servers)
        topics.create(topic, spec)
        topics.fill(topic, spec)
        try:
            result = throttle(servers, topic, rates, arguments.seconds, Path(folder))
        except RunMissing as error:
            raise SystemExit(f"{error}: kbr ended before it was measured") from error
    for verb in ("backup", "restore"):
        for source, document in result[verb].items():
            for one in document["figures"]:
                print(verb, source, json.dumps(one))
    if arguments.output:
        arguments.output.write_text(json.dumps(result) + "\n")
    return 0


def throttle_command(
    parser: argparse.ArgumentParser, cluster: Callable[[str | None, Path], AbstractContextManager[str]]
) -> None:
    """Its arguments; ``cluster`` gives the user's Kafka or starts one."""
    parser.add_argument("--bootstrap-servers", help="a Kafka of yours; without it one is started")
    parser.add_argument("--rates", default="1,20,200,50", help="MB/s, in order")
    parser.add_argument("--seconds", type=float, default=14, help="how long each")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--directory", type=Path, help="where data and backups go while it runs")
    parser.add_argument("--output", type=Path, help="write the result as JSON there")
    parser.set_defaults(function=_throttle, cluster=cluster)
