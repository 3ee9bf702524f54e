"""From rounds to medians, ratios, tables and targets. Pure: documents in, texts and numbers out."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Spread", "Target", "failures", "figures_of", "label", "markdown", "targets"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """``3.71 (3.60-3.92)``; one round has no spread."""
        if self.least == self.most:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


_Round = Mapping[str, Any]


def _figures(own: _Round, floor: _Round, data: _Round, verb: str) -> dict[str, float]:
    """One round's figures of one engine and verb; ``data`` is what was backed up, or what was to be restored."""
    backup = verb == "backup"
    found = {
        "wall_s": own["wall_s"],
        "cpu_s": own["cpu_s"],
        "mb_per_s": data["record_bytes"] / own["wall_s"] / 1e6,
        "cpu_s_per_gb": own["cpu_s"] / data["record_bytes"] * 1e9,
        "peak_pss_mb": own["peak_pss_bytes"] / 1e6,
        "peak_rss_mb": own["peak_rss_bytes"] / 1e6,
    }
    if floor:
        found["wall_ratio"] = own["wall_s"] / floor["cpu_s" if backup else "produce_wall_s"]
        found["cpu_ratio"] = own["cpu_s"] / floor["cpu_s" if backup else "produce_cpu_s"]
    if "stored_bytes" in own:
        found["stored_mb"] = own["stored_bytes"] / 1e6
    if backup and "plain_wall_s" in floor:
        found["plain_ratio"] = own["wall_s"] / floor["plain_wall_s"]
    return found


def _moved(result: Mapping[str, Any], verb: str) -> _Round:
    """What a verb moved: a restore of a time window not all that there is."""
    found: _Round = result["restored" if verb == "restore" and "restored" in result else "data"]
    return found


def figures_of(result: Mapping[str, Any], engine: str, verb: str) -> dict[str, Spread]:
    """All figures of one engine and verb over the rounds; ratios are formed within each round."""
    rows = result.get("rows_stored_bytes")
    rounds = [
        _figures(one[engine][verb], one["floor"], _moved(result, verb), verb)
        for one in result["rounds"]
        if verb in one.get(engine, {})
    ]
    if rows:
        for one in rounds:
            if "stored_mb" in one:
                one["stored_to_rows"] = one["stored_mb"] * 1e6 / rows
    return {name: Spread.of([one[name] for one in rounds]) for name in (rounds[0] if rounds else ())}


def label(result: Mapping[str, Any]) -> str:
    """A scenario's name; of one that was run with a part of its records, with which part."""
    scale = result.get("scale", 1)
    return str(result["scenario"]) if scale == 1 else f"{result['scenario']} (scale {scale:g})"


def failures(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which engines failed where, in how many rounds, and why in the first of them."""
    found = []
    for result in results:
        for engine in result["engines"]:
            reasons = [one[engine]["failed"] for one in result["rounds"] if "failed" in one.get(engine, {})]
            if reasons:
                first = (reasons[0].splitlines() or [""])[0]
                found.append(f"{label(result)}: {engine}: in {len(reasons)} of {len(result['rounds'])} rounds: {first[:200]}")
    return found


def _rows(results: Sequence[Mapping[str, Any]], verb: str) -> Iterator[list[str]]:
    for result in results:
        for engine in result["engines"]:
            found = figures_of(result, engine, verb)
            if not found:
                reasons = [one[engine]["failed"] for one in result["rounds"] if "failed" in one.get(engine, {})]
                if reasons:
                    yield [label(result), engine, f"failed: {reasons[0].splitlines()[0][:60]}"] + [""] * 8
                continue
            yield [
                label(result),
                engine,
                found["wall_s"].text(),
                found["cpu_s"].text(),
                found["wall_ratio"].text() if "wall_ratio" in found else "",
                found["cpu_ratio"].text() if "cpu_ratio" in found else "",
                f"{found['mb_per_s'].median:.0f}",
                f"{found['cpu_s_per_gb'].median:.1f}",
                f"{found['peak_pss_mb'].most:.0f}",
                f"{found['peak_rss_mb'].most:.0f}",
                f"{found['stored_mb'].median:.1f}" if verb == "backup" else _kept(result, engine),
            ]


def _kept(result: Mapping[str, Any], engine: str) -> str:
    """What came back: compared record by record in one round, counted in each."""
    differs = result["checked"].get(engine)
    wanted = _moved(result, "restore").get("records")
    counts = {
        one[engine]["restore"].get("records", wanted) for one in result["rounds"] if "restore" in one.get(engine, {})
    }
    if differs:
        return "differ: " + ", ".join(differs)
    if wrong := sorted(counts - {wanted}):
        return f"differ: records ({wrong[0]} of {wanted}) in some rounds"
    return "not compared" if differs is None else "identical"


_HEADS = {
    "backup": ["scenario", "engine", "wall s", "CPU s", "wall / F", "CPU / F", "MB/s", "CPU s / GB", "peak PSS MB", "peak RSS MB", "stored MB"],
    "restore": ["scenario", "engine", "wall s", "CPU s", "wall / R", "CPU / R", "MB/s", "CPU s / GB", "peak PSS MB", "peak RSS MB", "records"],
}  # fmt: skip


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Two tables: backups and restores. Medians, in parentheses the least and the most; of memory the largest."""
    parts = []
    for verb, heads in _HEADS.items():
        parts.append(f"**{verb.capitalize()}**\n")
        parts.append("| " + " | ".join(heads) + " |")
        parts.append("|" + "---|" * 2 + "---:|" * (len(heads) - 3) + ("---:|" if verb == "backup" else "---|"))
        parts.extend("| " + " | ".join(row) + " |" for row in _rows(results, verb))
        parts.append("")
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to reach: a figure of kbr in a scenario, at most so much."""

    scenario: str
    verb: str
    figure: str
    most: float


TARGETS = (
    Target("k1", "backup", "cpu_ratio", 1.25),
    Target("k1", "backup", "wall_ratio", 0.70),
    Target("s1", "backup", "cpu_ratio", 1.40),
    Target("s1", "backup", "wall_ratio", 0.80),
    Target("k4", "backup", "wall_ratio", 0.65),
    Target("k1", "restore", "wall_ratio", 1.25),
    Target("s1", "restore", "wall_ratio", 1.25),
    Target("m1000", "backup", "plain_ratio", 1.60),
    Target("m1000", "restore", "wall_ratio", 1.50),
    Target("k1", "backup", "stored_to_rows", 1.00),
    Target("s1", "backup", "stored_to_rows", 0.85),
    Target("k1", "backup", "peak_pss_mb", 300),
    Target("k4", "backup", "peak_pss_mb", 600),
    Target("m1000", "backup", "peak_pss_mb", 400),
    Target("k1", "restore", "peak_pss_mb", 300),
    Target("k4", "restore", "peak_pss_mb", 600),
    Target("m1000", "restore", "peak_pss_mb", 400),
    # its memory_limit of 192 MiB
    Target("limit", "backup", "peak_pss_mb", 201.3),
    Target("limit", "restore", "peak_pss_mb", 201.3),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Something to reach between two scenarios: a figure of kbr in one, over the same in the other."""

    scenario: str
    other: str
    verb: str
    figure: str
    most: float | None = None
    least: float | None = None


COMPARISONS = (
    # a 10 GB run's peak within 10 % of a 1 GB run's
    Comparison("ten", "k1", "backup", "peak_pss_mb", most=1.10),
    Comparison("ten", "k1", "restore", "peak_pss_mb", most=1.10),
    # two workers are 1.7 times as fast as one when compression is what takes the time
    Comparison("workers-1", "workers-2", "backup", "wall_s", least=1.70),
)


def targets(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of what is to be reached and what was, and how many of them are met.

    Results of a part of the records are shown, and meet nothing: starting takes longer than the work.
    """
    met: dict[bool, int] = {True: 0, False: 0}

    def verdict(holds: bool, *some: Mapping[str, Any]) -> str:
        if any(one.get("scale", 1) != 1 for one in some):
            return "scaled down"
        met[holds] += 1
        return "yes" if holds else "no"

    lines = ["| scenario | verb | figure | target | measured | met |", "|---|---|---|---:|---:|---|"]
    by_name = {one["scenario"]: one for one in results}
    for target in TARGETS:
        if target.scenario not in by_name:
            continue
        found = figures_of(by_name[target.scenario], "kbr", target.verb).get(target.figure)
        if found is None:
            continue
        value = found.most if target.figure == "peak_pss_mb" else found.median
        lines.append(
            f"| {label(by_name[target.scenario])} | {target.verb} | {target.figure} | ≤ {target.most:g} | {found.text()} "
            f"| {verdict(value <= target.most, by_name[target.scenario])} |"
        )
    for one in COMPARISONS:
        pair = [figures_of(by_name[name], "kbr", one.verb) for name in (one.scenario, one.other) if name in by_name]
        if len(pair) < 2 or any(one.figure not in found for found in pair):
            continue
        value = pair[0][one.figure].median / pair[1][one.figure].median
        holds = (one.most is None or value <= one.most) and (one.least is None or value >= one.least)
        both = (by_name[one.scenario], by_name[one.other])
        asked = f"≤ {one.most:.2f}" if one.most is not None else f"≥ {one.least:.2f}"
        lines.append(
            f"| {' / '.join(map(label, both))} | {one.verb} | {one.figure} | {asked} | {value:.2f} | {verdict(holds, *both)} |"
        )
    return "\n".join([*lines, "", f"{met[True]} of {met[True] + met[False]} targets are met."])
