"""Which test proves which fault: the marker ``fault``, the results of runs, and the table of docs/reliability.md.

    @pytest.mark.fault("P1", "SIGKILL of a worker, one-shot", promise=1)

A pytest plugin (tests/conftest.py names it). ``--record-faults FILE`` notes how the marked tests ended; those that did
not run keep what the file had. The page is written by scripts/gen-reliability from markers and file.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from .fault_rows import GROUPS, ROWS

__all__ = ["FaultMark", "find_marks", "render_table"]

DEFAULT_KILLS = 20


# -- the page -----------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class FaultMark:
    """One marker.

    Attributes:
        row: of fault_rows.ROWS.
        promise: number of the promise in docs/reliability.md.
        test: file and function.
    """

    row: str
    test: str
    situation: str
    promise: int


def find_marks(root: Path) -> list[FaultMark]:
    """All markers of the tests below ``root``, read without running anything.

    Raises:
        ValueError: one is not written as the module says, or of no row.
    """
    found: list[FaultMark] = []
    for path in sorted((root / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "pytest.mark.fault(" not in text:
            continue
        name = path.relative_to(root).as_posix()
        tree = ast.parse(text)
        marks = list(_marks_of(tree, name, ()))
        if len(marks) != sum(map(_is_mark, ast.walk(tree))):
            raise ValueError(f"{name}: a marker that is not a decorator of a test")
        found.extend(marks)
    return sorted(found)


def _marks_of(node: ast.AST, test: str, above: tuple[str, ...]) -> Iterator[FaultMark]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            continue
        names = (*above, child.name)
        for decorator in child.decorator_list:
            if _is_mark(decorator):
                yield _mark(decorator, "::".join((test, *names)))
        if isinstance(child, ast.ClassDef):
            yield from _marks_of(child, test, names)


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"


def _mark(call: ast.Call, test: str) -> FaultMark:
    try:
        row, situation = (ast.literal_eval(argument) for argument in call.args)
        ((name, promise),) = ((one.arg, ast.literal_eval(one.value)) for one in call.keywords)
    except ValueError as error:
        raise ValueError(f"{test}: fault(row, situation, promise=number), all written out") from error
    if row not in ROWS or name != "promise" or promise not in range(1, 10):
        raise ValueError(f"{test}: there is no row {row}, or no promise {promise}")
    return FaultMark(row, test, situation, promise)


def render_table(marks: list[FaultMark], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The generated part of the page."""
    by_row: dict[str, list[FaultMark]] = defaultdict(list)
    for mark in marks:
        by_row[mark.row].append(mark)
    lines: list[str] = []
    for letter, title in GROUPS.items():
        rows = {row: fault for row, fault in ROWS.items() if row[0] == letter and row in by_row}
        if not rows:
            continue
        lines += [f"### {title}", "", "| | fault | situation | promise | test | last full run |", "|---|---|---|---|---|---|"]
        for row, fault in rows.items():
            for mark in by_row[row]:
                file, _, name = mark.test.partition("::")
                link = f"[`{name}`](../{file})"
                lines.append(
                    f"| {row} | {fault} | {mark.situation} | {mark.promise} | {link} | {_result(results.get(mark.test))} |"
                )
                row, fault = "", ""
        lines.append("")
    lines += ["### Not covered yet", ""]
    missing = [f"- **{row}** {fault}" for row, fault in ROWS.items() if row not in by_row]
    lines += missing or ["Every row has a test."]
    return "\n".join(lines) + "\n"


def _result(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run yet"
    cases = f", {found['cases']} cases" if found["cases"] > 1 else ""
    return f"{found['outcome']}{cases}, {found['date']}"


# -- the plugin ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault bench."""
    group = parser.getgroup("faults", "fault bench")
    group.addoption("--kills", type=int, default=DEFAULT_KILLS, help="kills of tests/faults/test_random_kills.py")
    group.addoption("--record-faults", metavar="FILE", default=None, help="note how tests marked with fault ended")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the recorder if it is wanted."""
    config.addinivalue_line("markers", "fault(row, situation, promise): the test proves a row of docs/reliability.md")
    path = config.getoption("--record-faults")
    if path is not None and not hasattr(config, "workerinput"):  # of several processes (xdist) the first one is told all
        config.pluginmanager.register(_Recorder(Path(path)))


@dataclass
class _Tally:
    cases: int = 0
    failed: int = 0


@dataclass
class _Recorder:
    """Notes results by test function; whole at the end, or not at all."""

    path: Path
    tallies: dict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "fault" not in report.keywords:
            return
        tally = self.tallies[report.nodeid.partition("[")[0]]
        if report.when == "call":
            tally.cases += 1
        tally.failed += report.failed

    def pytest_sessionfinish(self) -> None:
        results = json.loads(self.path.read_text()) if self.path.exists() else {}
        date = datetime.now(timezone.utc).date().isoformat()
        for test, tally in self.tallies.items():
            outcome = f"{tally.failed} failed" if tally.failed else "passed"
            results[test] = {"outcome": outcome, "cases": tally.cases, "date": date}
        self.path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
