"""``python -m benchmarks page``: the tables of docs/performance.md, from the committed result files.

A table stands between ``<!-- KIND FILE … -->`` and ``<!-- end -->``; KIND is ``table``, ``targets``, ``scenarios``,
``throttle``, ``simulate``, ``checkpoint``, ``offsets``, ``index`` or ``window``, and the files lie in benchmarks/results.
``--check`` changes nothing and fails where a table is another than its results say, so that no figure of the page can
drift from them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import markdown, targets

__all__ = ["document_of", "page_command", "rendered", "results_of"]

_RESULTS = Path(__file__).parent / "results"
_PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_TABLE = re.compile(r"(?P<head><!-- (?P<kind>[a-z]+) (?P<files>[\w. -]+\.json) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)


def document_of(path: Path) -> dict[str, Any]:
    """A result file's document.

    Raises:
        SystemExit: it can't be read, or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise SystemExit(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict) or "benchmark" not in document:
        raise SystemExit(f"{path} is no result of a benchmark")
    return document


def results_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The scenarios of some results of ``run``, with the scale they were run at; of one in several files the last counts.

    Raises:
        SystemExit: a file is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        document = document_of(path)
        if document["benchmark"] != "run":
            raise SystemExit(f"{path} is no result of `benchmarks run`")
        scale = document.get("scale", 1.0)
        found.update({result["scenario"]: {**result, "scale": scale} for result in document["results"]})
    return list(found.values())


def _throttle(paths: Sequence[Path]) -> str:
    lines = [
        "| direction | measured by | asked MB/s | measured MB/s | any 10 s, least-most | any second, least-most |",
        "|---|---|---:|---:|---:|---:|",
    ]
    (document,) = (document_of(path) for path in paths)
    for direction in ("backup", "restore"):
        for by, measured in document[direction].items():
            for one in measured["figures"]:
                lines.append(
                    f"| {direction} | {by.replace('_', ' ')} | {one['asked_mb_s']:g} | {one['measured_mb_s']:.2f} "
                    f"| {one['ten_seconds_min']:.3f}-{one['ten_seconds_max']:.3f} "
                    f"| {one['second_min']:.2f}-{one['second_max']:.2f} |"
                )
    return "\n".join(lines)


def _simulate(paths: Sequence[Path]) -> str:
    lines = ["| load | sizes right | wrong by half |", "|---|---:|---:|"]
    (document,) = (document_of(path) for path in paths)
    loads: dict[str, dict[float, float]] = {}
    for one in document["results"]:
        loads.setdefault(one["load"], {})[one["sizes_wrong_by"]] = one["ratio"]
    lines += [f"| {load} | {ratios[0.0]:.3f} | {ratios[0.5]:.3f} |" for load, ratios in loads.items()]
    return "\n".join(lines)


def _checkpoint(paths: Sequence[Path]) -> str:
    lines = [
        "| segments | manifest MB | first of a run s | median s | most s | share of the time |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    (document,) = (document_of(path) for path in paths)
    lines += [
        f"| {one['segments']:,} | {one['manifest_bytes'] / 1e6:.1f} | {one['first_s']:.2f} | {one['median_s']:.3f} "
        f"| {one['most_s']:.3f} | {one['share_of_time']:.2%} |"
        for one in document["results"]
    ]
    return "\n".join(lines)


def _scenarios(paths: Sequence[Path]) -> str:
    lines = ["| scenario | what |", "|---|---|", *(f"| {one['scenario']} | {one['title']} |" for one in results_of(paths))]
    return "\n".join(lines)


def _offsets(paths: Sequence[Path]) -> str:
    lines = [
        "| 100 M records with | ranges | file MB | mapped in s | memory grown by MB | whole process MB | a lookup ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    (document,) = (json.loads(path.read_text()) for path in paths)
    lines += [
        f"| {one['layout']} | {one['ranges']:,} | {one['map_bytes'] / 1e6:.1f} | {one['map_s']:.1f} | {one['grown_mb']:.0f} "
        f"| {one['process_peak_mb']:.0f} | {one['lookup_ms']:.0f} |"
        for one in document["results"]
    ]
    return "\n".join(lines)


def _index(paths: Sequence[Path]) -> str:
    lines = [
        "| segments | blocks | index MB | read | plan with it ms | best | CPU | manifest MB | plan without s | memory MB | whole manifest s | MB "
        "| a checkpoint ms | kB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    (document,) = (json.loads(path.read_text()) for path in paths)
    if document["load_5min"] > document["cores"]:
        busy = f"The machine was busy with other work: {document['load_5min']} processes wanted its {document['cores']} cores."
        lines = [busy, "", *lines]
    lines += [
        f"| {one['segments']:,} | {one['blocks']:,} | {one['index_bytes'] / 1e6:.0f} | {one['index_read_share']:.2%} "
        f"| {one['index_plan_ms']:.0f} | {one['index_plan_best_ms']:.0f} | {one['index_plan_cpu_ms']:.0f} "
        f"| {one['manifest_bytes'] / 1e6:.0f} | {one['manifest_plan_s']:.1f} "
        f"| {one['manifest_grown_mb']:.0f} | {one['manifest_whole_s']:.1f} | {one['manifest_whole_grown_mb']:.0f} "
        f"| {one['checkpoint_ms']:.0f} | {one['checkpoint_bytes'] / 1e3:.0f} |"
        for one in document["results"]
    ]
    return "\n".join(lines)


def _window(paths: Sequence[Path]) -> str:
    lines = [
        "| 1 % of the time, at the | of | which has | records | kbr cat read MB | of the backup | kbr restore read MB | of the backup |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    (document,) = (json.loads(path.read_text()) for path in paths)
    lines += [
        f"| {window['window']} | {one['stored_bytes'] / 1e6:,.0f} MB in {one['blocks']:,} blocks | {one['layout']} "
        f"| {window['records']:,} | {window['cat_bytes'] / 1e6:.1f} | {window['cat_percent']:.2f} % "
        f"| {window['restore_bytes'] / 1e6:.1f} | {window['restore_percent']:.2f} % |"
        for one in document["results"]
        for window in one["windows"]
    ]
    return "\n".join(lines)


_KINDS: Mapping[str, Callable[[Sequence[Path]], str]] = {
    "table": lambda paths: markdown(results_of(paths)).strip(),
    "targets": lambda paths: targets(results_of(paths)),
    "scenarios": _scenarios,
    "throttle": _throttle,
    "simulate": _simulate,
    "checkpoint": _checkpoint,
    "offsets": _offsets,
    "index": _index,
    "window": _window,
}


def rendered(page: str, results: Path = _RESULTS) -> str:
    """The page with every table as its results are.

    Raises:
        SystemExit: a table of a kind that there is not, or without its results.
    """

    def fill(found: re.Match[str]) -> str:
        if found["kind"] not in _KINDS:
            raise SystemExit(f"no table {found['kind']}: there are {', '.join(_KINDS)}")
        paths = [results / name for name in found["files"].split()]
        if missing := [path.name for path in paths if not path.exists()]:
            raise SystemExit(f"no result {', '.join(missing)} in {results}")
        return f"{found['head']}{_KINDS[found['kind']](paths)}\n{found['tail']}"

    return _TABLE.sub(fill, page)


def _page(arguments: argparse.Namespace) -> int:
    page = _PAGE.read_text()
    filled = rendered(page)
    if arguments.check:
        if filled != page:
            print(f"{_PAGE} is not what its results say: run `python -m benchmarks page`", file=sys.stderr)
        return int(filled != page)
    _PAGE.write_text(filled)
    return 0


def page_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--check", action="store_true", help="change nothing; fail where it would")
    parser.set_defaults(function=_page)
