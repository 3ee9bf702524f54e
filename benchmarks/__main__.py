"""``python -m benchmarks``: see --help, and docs/how-to/benchmark.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard
from confluent_kafka import libversion

import kbr
from benchmarks.checkpoint import checkpoint_command
from benchmarks.data import MissingData
from benchmarks.encryption import encryption_command
from benchmarks.engines import ENGINES, Engine, parse_peer
from benchmarks.flame import flame_command
from benchmarks.index import index_command
from benchmarks.offsets import offsets_command
from benchmarks.page import document_of, page_command, results_of
from benchmarks.plots import plot_results, plot_throttle
from benchmarks.results import failures, markdown, targets
from benchmarks.run import DEADLINE_S, Bench
from benchmarks.scenarios import SCENARIOS, chosen
from benchmarks.simulate import simulate_command
from benchmarks.throttle import throttle_command
from benchmarks.window import window_command
from tests.support.servers import KAFKA_VERSION, REPOSITORY, KafkaServer, ServerError, free_port


@contextmanager
def cluster(servers: str | None, folder: Path) -> Iterator[str]:
    """The user's cluster, or one of our own."""
    if servers:
        yield servers
        return
    server = KafkaServer(folder / "kafka", port=free_port(2))
    server.start()
    try:
        yield server.bootstrap_servers
    finally:
        server.stop()


def machine() -> dict[str, Any]:
    """Where it was measured."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def versions(engines: Sequence[Engine], *, own_kafka: bool) -> dict[str, str]:
    """Of what was measured."""
    git = ["git", "-C", str(REPOSITORY)]
    revision = subprocess.run(
        [*git, "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, check=False
    )
    return {
        "kbr": kbr.__version__,
        "revision": revision.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "confluent-kafka": importlib.metadata.version("confluent-kafka"),
        "librdkafka": libversion()[0],
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "kafka": KAFKA_VERSION if own_kafka else "the user's",
        **{one.name: one.version() for one in engines if one.name != "kbr"},
    }


def _engines(names: str, peers: Sequence[str]) -> tuple[list[Engine], dict[str, str]]:
    """Who takes part, and who was asked for but can't run here, with the reason.

    Raises:
        SystemExit: a name that there is no engine for.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in ENGINES:
            raise SystemExit(f"no engine {name}: there are {', '.join(ENGINES)}; others go by --peer")
    found = [ENGINES[name] for name in dict.fromkeys(["kbr", *wanted])]
    absent = {engine.name: why for engine in found if (why := engine.missing())}
    for name, why in absent.items():
        print(f"engine {name} can't run here and is left out: {why}", file=sys.stderr, flush=True)
    return [*(one for one in found if one.name not in absent), *parse_peer(peers)], absent


def _run(arguments: argparse.Namespace) -> int:
    engines, absent = _engines(arguments.engines, arguments.peer)
    scenarios = chosen(arguments.scenario, arguments.scale)
    document: dict[str, Any] = {
        "benchmark": "run",
        "scale": arguments.scale,
        "machine": machine(),
        "versions": versions(engines, own_kafka=not arguments.bootstrap_servers),
        "absent": absent,
        "results": [],
    }
    with (
        tempfile.TemporaryDirectory(prefix="kbr-benchmark-", dir=arguments.directory) as name,
        cluster(arguments.bootstrap_servers, Path(name)) as servers,
    ):
        bench = Bench(
            servers,
            Path(name),
            engines,
            arguments.rounds,
            check=not arguments.no_check,
            deadline_s=arguments.deadline,
            keep=arguments.keep,
        )
        for scenario in scenarios:
            document["results"].append(bench.run(scenario))
            if arguments.output:
                # after each scenario, so that a run that is cut short keeps what it has
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    results = [{**one, "scale": arguments.scale} for one in document["results"]]
    print(markdown(results))
    for name, why in absent.items():
        print(f"not measured: {name}: {why}")
    failed = failures(results)
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


def _plot(arguments: argparse.Namespace) -> int:
    throttles = [path for path in arguments.result if document_of(path)["benchmark"] == "throttle"]
    written = [file for path in throttles for file in plot_throttle(document_of(path), arguments.output_dir)]
    rest = [path for path in arguments.result if path not in throttles]
    if rest:
        written += plot_results(results_of(rest), arguments.output_dir)
    print("\n".join(map(str, written)))
    return 0


def _list(_arguments: argparse.Namespace) -> int:
    print("Scenarios:")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:<12} {scenario.title}")
    print("Engines:")
    for engine in ENGINES.values():
        why = engine.missing()
        print(f"  {engine.name:<16} {why or engine.version()}")
    return 0


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run", help="run scenarios and print medians with their spread")
    run.add_argument("scenario", nargs="*", help="names; without any, all but `ten` (10 GB)")
    run.add_argument("--bootstrap-servers", help="a Kafka of yours; without it one is started")
    run.add_argument("--engines", default="kbr", metavar="NAME,NAME", help="beside kbr; see `list`")
    run.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME='COMMAND'",
        help="another engine's backup; NAME:restore='COMMAND' for the other direction; {bootstrap_servers} {topic} "
        "{target} {directory} {records} {partitions} {scenario} {name} are filled in",
    )
    run.add_argument("--rounds", type=_count, default=5)
    run.add_argument("--scale", type=_positive, default=1.0, help="this part of the records")
    run.add_argument("--no-check", action="store_true", help="don't compare what was restored with the source")
    run.add_argument("--directory", type=Path, help="where data and backups go while it runs")
    run.add_argument("--keep", type=Path, metavar="DIR", help="the last round's backups are moved there")
    run.add_argument(
        "--deadline", type=_positive, default=DEADLINE_S, metavar="S", help="one process may take so many seconds"
    )
    run.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON there")
    run.set_defaults(function=_run)
    for name, function, text in (
        ("table", lambda a: print(markdown(results_of(a.result))) or 0, "print results as Markdown tables"),
        ("targets", lambda a: print(targets(results_of(a.result))) or 0, "print the project's targets beside results"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("result", nargs="+", type=Path)
        verb.set_defaults(function=function)
    plot = verbs.add_parser("plot", help="draw results as PNG and SVG")
    plot.add_argument("result", nargs="+", type=Path)
    plot.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    plot.set_defaults(function=_plot)
    throttle_command(verbs.add_parser("throttle", help="asked against measured rates, while a limit changes"), cluster)
    simulate_command(verbs.add_parser("simulate", help="how long kbr's schedule takes on more cores than there are"))
    checkpoint_command(verbs.add_parser("checkpoint", help="what a checkpoint costs as a backup grows old"))
    encryption_command(verbs.add_parser("encryption", help="what encryption costs a backup, and a large manifest"), cluster)
    index_command(verbs.add_parser("index", help="what it takes to plan an hour out of a very large backup"))
    offsets_command(verbs.add_parser("offsets", help="what it takes to map the offsets of many records"))
    window_command(verbs.add_parser("window", help="bytes that a window of 1 %% of a backup's time costs"), cluster)
    flame_command(verbs.add_parser("flame", help="where a command's CPU seconds go, as SVG (needs perf)"))
    page_command(verbs.add_parser("page", help="write the tables of docs/performance.md from the committed results"))
    verbs.add_parser("list", help="scenarios and engines").set_defaults(function=_list)
    return parser


def main() -> int:
    """The command."""
    # caches of bytecode are what every installation has; without them each start compiles for 0.1 s
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    arguments = _parser().parse_args()
    if folder := getattr(arguments, "directory", None):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"--directory {folder} can't be made: {error.strerror}") from error
    try:
        return int(arguments.function(arguments))
    except (ServerError, MissingData) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
