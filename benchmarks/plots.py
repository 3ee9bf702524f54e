"""Pictures of results, as PNG and SVG. Needs matplotlib (``pip install 'kbr[bench]'``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import figures_of, label

__all__ = ["plot_results", "plot_throttle"]

_UNITS = {"wall_s": "wall, s", "cpu_s": "CPU, s", "peak_pss_mb": "peak PSS of all processes, MB"}


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise SystemExit("matplotlib is missing: pip install 'kbr[bench]'") from error
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kbr"  # the same picture is the same file
    return plt


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for ending in ("png", "svg"):
        path = folder / f"{name}.{ending}"
        figure.savefig(path, bbox_inches="tight", dpi=110, metadata={"Date": None} if ending == "svg" else None)
        written.append(path)
    return written


def plot_results(results: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """For each verb: wall, CPU and memory of every engine in every scenario; medians, with the range as a line."""
    pyplot = _pyplot()
    written = []
    for verb in ("backup", "restore"):
        bars = [
            (label(result), engine, figures_of(result, engine, verb))
            for result in results
            for engine in result["engines"]
        ]
        bars = [bar for bar in bars if bar[2]]
        figure, axes = pyplot.subplots(1, len(_UNITS), figsize=(13, 1 + 0.3 * len(bars)), sharey=True)
        colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(bar[1] for bar in bars))}
        for axis, (name, unit) in zip(axes, _UNITS.items(), strict=True):
            for row, (_scenario, engine, found) in enumerate(bars):
                spread = found[name]
                axis.barh(row, spread.median, color=colours[engine])
                axis.plot([spread.least, spread.most], [row, row], color="black", linewidth=1)
            axis.set_xlabel(unit)
            axis.set_yticks(range(len(bars)), [f"{scenario}  {engine}" for scenario, engine, _ in bars])
            axis.grid(axis="x", alpha=0.3)
        axes[0].invert_yaxis()
        figure.suptitle(verb)
        written += _save(figure, folder, f"figures-{verb}")
        pyplot.close(figure)
    return written


def plot_throttle(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Asked against measured rates over time (means of half a second), both directions."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 1, figsize=(10, 7), sharex=True)
    for axis, verb in zip(axes, ("backup", "restore"), strict=True):
        for source, document in result[verb].items():
            samples = document["samples"]
            step = 10
            times = [after[0] for after in samples[step::step]]
            rates = [
                (after[1] - before[1]) / (after[0] - before[0]) / 1e6
                for before, after in zip(samples[::step], samples[step::step], strict=False)
            ]
            axis.plot(times, rates, label=f"measured: {source.replace('_', ' ')}", linewidth=1)
        axis.step(
            [one[0] for one in samples], [one[2] / 1e6 for one in samples], label="asked", color="black", alpha=0.6
        )
        axis.set_yscale("log")
        axis.set_ylabel("MB/s")
        axis.set_title(verb)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("s")
    written = _save(figure, folder, "throttle")
    pyplot.close(figure)
    return written
