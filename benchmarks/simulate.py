"""``python -m benchmarks simulate``: kbr's own schedule (kbr.runtime.schedule) on more cores than this machine has.

Partition sizes come from backups' manifests, or are made; a worker takes the next bundle when it is idle. Prints the
makespan beside the ideal one: what no schedule can be below, as a partition can't be divided.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from kbr.runtime.schedule import make_bundles

__all__ = ["least_makespan", "made_sizes", "makespan", "simulate_command"]

#: What a bundle costs beside its records (a client's start), as so many bytes of work: 40 ms at 250 MB/s.
BUNDLE_BYTES = 10_000_000
#: What a partition costs beside its records (a segment's commit): 1 ms at 250 MB/s.
PARTITION_BYTES = 250_000


def makespan(sizes: Sequence[int], workers: int, *, leaders: int, misjudged: float = 0.0) -> tuple[float, float]:
    """(what the schedule takes, what none can be below), in bytes of one worker's work.

    Args:
        misjudged: the schedule sees sizes that are wrong by up to this factor (0.5: half to one and a half times), as
            offsets say little of bytes.
    """
    source = random.Random(1)
    items = [
        (size, size * (1 + misjudged * source.uniform(-1, 1)), number % leaders) for number, size in enumerate(sizes)
    ]
    bundles = make_bundles(items, size=lambda one: max(1, int(one[1])), leader=lambda one: int(one[2]), workers=workers)
    free = [0.0] * workers
    for bundle in bundles:
        cost = BUNDLE_BYTES + sum(size + PARTITION_BYTES for size, _, _ in bundle)
        heapq.heappush(free, heapq.heappop(free) + cost)
    costs = [size + PARTITION_BYTES for size in sizes]
    return max(free), least_makespan(costs, workers) + BUNDLE_BYTES


def least_makespan(costs: Sequence[int], workers: int) -> float:
    """A bound that no schedule of undivided pieces is below.

    The mean load; and of the ``k * workers + 1`` largest pieces some worker has at least ``k + 1``, which are at least
    as large as the ``k + 1`` smallest of those (k = 0 is the largest piece).
    """
    ordered = sorted(costs, reverse=True)
    bound = sum(ordered) / workers
    for taken in range(1, len(ordered) + 1, workers):
        bound = max(bound, sum(ordered[taken - 1 - (taken - 1) // workers : taken]))
    return bound


def made_sizes(kind: str, count: int) -> list[int]:
    """Partition sizes as clusters have them, bytes: 5 GB each on the average."""
    source = random.Random(kind)
    if kind == "equal":
        return [5_000_000_000] * count
    if kind == "lognormal":
        return [int(source.lognormvariate(20.3, 2)) for _ in range(count)]
    if kind == "zipf":
        whole = sum(1 / rank for rank in range(1, count + 1))
        return [int(5_000_000_000 * count / rank / whole) for rank in range(1, count + 1)]
    raise ValueError(kind)


def _recorded(manifest: Path) -> list[int]:
    topics = json.loads(manifest.read_text())["topics"]
    return [
        sum(segment["raw_bytes"] for segment in partition["segments"])
        for topic in topics
        for partition in topic["partitions"]
        if partition["segments"]
    ]


def _simulate(arguments: argparse.Namespace) -> int:
    loads: Mapping[str, list[int]] = {
        **{str(path): _recorded(path) for path in arguments.manifest},
        **{f"{kind}, {count:,} partitions": made_sizes(kind, count)
           for kind in ("equal", "lognormal", "zipf") for count in (200, 2_000, 20_000)},
    }  # fmt: skip
    found = []
    for name, sizes in loads.items():
        for misjudged in (0.0, 0.5):
            taken, ideal = makespan(sizes, arguments.workers, leaders=arguments.brokers, misjudged=misjudged)
            found.append({"load": name, "sizes_wrong_by": misjudged, "ratio": round(taken / ideal, 4)})
            print(f"{name:<32} sizes wrong by {misjudged:.0%}: {taken / ideal:.3f} of the ideal")
    if arguments.output:
        document = {
            "benchmark": "simulate",
            "workers": arguments.workers,
            "brokers": arguments.brokers,
            "results": found,
        }
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def simulate_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("manifest", nargs="*", type=Path, help="manifest.json of backups, for their partitions' sizes")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--brokers", type=int, default=6)
    parser.add_argument("--output", type=Path)
    parser.set_defaults(function=_simulate)
