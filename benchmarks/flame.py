"""``python -m benchmarks flame OUT.svg -- COMMAND…``: where a whole process tree spends its CPU seconds, as a picture.

Linux's perf samples all processes and threads, librdkafka's and the kernel's among them. Three layers: thread,
library, function. Not call chains: neither librdkafka nor zstd is built with frame pointers, and half-true chains would
say less than this.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

__all__ = ["flame_command", "fold", "render"]

_HERTZ = 499
_WIDTH = 1200
_ROW = 18
_LINE = re.compile(
    r"^\s*(?P<comm>.+?)\s+(?P<ip>[0-9a-f]+)\s+(?P<symbol>.*?) \((?P<library>[^()]*(?:\([^()]*\))?[^()]*)\)$"
)
_COLOURS = {
    "kernel": "#e58e73",
    "zstd": "#e8b04b",
    "librdkafka": "#7aa6c2",
    "python": "#8fb87a",
    "kbr_codec": "#c98fc4",
}

Stack = tuple[str, str, str]


def fold(lines: Sequence[str]) -> Counter[Stack]:
    """Samples as perf script prints them (comm, ip, sym, dso) to (thread, library, function): how often."""
    found: Counter[Stack] = Counter()
    for line in lines:
        match = _LINE.match(line)
        if match is not None:
            thread = re.sub(r"[0-9]+$", "N", match["comm"])
            found[thread, _library(match["library"]), match["symbol"].split("+0x")[0]] += 1
    return found


def _library(path: str) -> str:
    name = Path(path).name
    if "kernel" in name:
        return "kernel"
    if name.startswith("backend_c"):
        return "zstd"
    if "librdkafka" in name:
        return "librdkafka"
    if name.startswith(("libpython", "python")):
        return "python"
    if "/kbr_codec/" in path:
        return "kbr_codec"
    return name.split(".so")[0].split(".cpython")[0]


def render(stacks: Mapping[Stack, int], title: str) -> str:
    """An SVG: layers from below, as wide as their share; each box names its share when pointed at."""
    total = sum(stacks.values())
    boxes: list[str] = []

    def layer(prefix: tuple[str, ...], left: float, depth: int) -> None:
        if depth == 3:
            return
        sizes: Counter[str] = Counter()
        for stack, count in stacks.items():
            if stack[:depth] == prefix:
                sizes[stack[depth]] += count
        for name, count in sizes.most_common():
            width = count / total * _WIDTH
            if width >= 0.4:
                library = name if depth == 1 else prefix[1] if depth == 2 else ""
                boxes.append(_box(left, depth, width, name, count / total, _COLOURS.get(library, "#d9d4c7")))
                layer((*prefix, name), left, depth + 1)
            left += width

    layer((), 0.0, 0)
    height = 4 * _ROW + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="11">\n<text x="4" y="18" font-size="14">{escape(title)}</text>\n' + "\n".join(boxes) + "\n</svg>\n"
    )


def _box(left: float, depth: int, width: float, name: str, share: float, colour: str) -> str:
    top = 30 + (2 - depth) * _ROW
    letters = int(width / 6.2)
    text = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 3 else ""
    return (
        f'<g><title>{escape(name)}: {share:.1%}</title><rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.4):.1f}" '
        f'height="{_ROW - 1}" fill="{colour}"/><text x="{left + 2:.1f}" y="{top + 13}">{escape(text)}</text></g>'
    )


def _flame(arguments: argparse.Namespace) -> int:
    perf = shutil.which("perf")
    if perf is None:
        raise SystemExit("perf is missing (Debian: apt-get install linux-perf)")
    command = [sys.executable if word == "python" else word for word in arguments.command]
    with tempfile.TemporaryDirectory(prefix="kbr-flame-") as folder:
        data = str(Path(folder, "perf.data"))
        record = [perf, "record", "-q", "-F", str(_HERTZ), "--inherit", "-o", data, "--", *command]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL)
        script = [perf, "script", "-i", data, "-F", "comm,ip,sym,dso"]
        lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    stacks = fold(lines)
    if not stacks:
        raise SystemExit("perf gave no samples")
    seconds = sum(stacks.values()) / _HERTZ
    arguments.output.write_text(render(stacks, f"{arguments.title}: {seconds:.1f} CPU s"))
    for library, count in _by_library(stacks).most_common(12):
        print(f"{library:<20} {count / sum(stacks.values()):6.1%}")
    return 0


def _by_library(stacks: Mapping[Stack, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_thread, library, _function), count in stacks.items():
        found[library] += count
    return found


def flame_command(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("output", type=Path, help="the SVG")
    parser.add_argument("--title", default="kbr")
    parser.add_argument("command", nargs="+", help="after --; `python` is this one")
    parser.set_defaults(function=_flame)
