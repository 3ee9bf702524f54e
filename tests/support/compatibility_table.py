"""What was seen to work with what: cells noted by tests, the results of runs, and the tables of docs/compatibility.md.

    record_property("compatibility", {"table": "storage", "row": "versitygw v1.8.0", "column": "multipart"})

with an optional "value" that the cell shows in place of "passed" (what a server does with conditional writes, say). A
pytest plugin (tests/conftest.py names it): ``--record-compatibility FILE`` notes the cells of the tests that ran; those
that did not run keep what the file had. The page is written by scripts/gen-compatibility.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__ = ["TITLES", "render_tables"]

#: Tables in the page's order, with what stands above each.
TITLES = {
    "security": (
        "Kafka: security",
        "A real Apache Kafka with a listener of each kind and ACLs. *Least rights*: with exactly the rights of "
        "[kafka-security](how-to/kafka-security.md), and each one less is refused by name.",
    ),
    "storage": ("Storage: real servers", "The same contract on each of them."),
    "faults": (
        "Storage: faults of single requests",
        "A fault at the first, a middle and the last request of a kind, between kbr and a real server: records are identical afterwards.",
    ),
    "storage options": ("Storage: options", "What was seen on the wire, or done by a real server."),
    "other filesystems": ("Storage: other filesystems", "By fsspec's packages; a real server of each on the same machine."),
    "encryption": ("Encryption and signing", ""),
    "hostile input": ("Hostile input", "Bounded memory and time, one clear error, nothing written outside."),
    "secrets": ("Secrets", "Marked secrets, searched in everything that a run leaves."),
}


class _Cell(NamedTuple):
    table: str
    row: str
    column: str


# -- the page -----------------------------------------------------------------------------


def render_tables(results: list[Mapping[str, Any]]) -> str:
    """The generated part of the page.

    Args:
        results: as the recorder wrote them.
    """
    lines: list[str] = []
    for table, (title, words) in TITLES.items():
        cells = {(one["row"], one["column"]): one for one in results if one["table"] == table}
        if not cells:
            continue
        rows = list(dict.fromkeys(row for row, _column in cells))
        columns = list(dict.fromkeys(column for _row, column in cells))
        lines += [f"## {title}", "", *([words, ""] if words else [])]
        lines += [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {row} | {' | '.join(_text(cells.get((row, column))) for column in columns)} |" for row in rows]
        lines += ["", f"Seen last on {max(one['date'] for one in cells.values())}, by {_count(cells.values())}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if found["failed"]:
        return "**failed**"
    return str(found["value"] or "passed")


def _count(cells: Any) -> str:
    tests = {test for one in cells for test in one["tests"]}
    return f"{len(tests)} test{'' if len(tests) == 1 else 's'}"


# -- the plugin ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of the tables."""
    parser.getgroup("compatibility", "compatibility tables").addoption(
        "--record-compatibility", metavar="FILE", default=None, help="note the cells of docs/compatibility.md that tests prove"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder if it is wanted."""
    path = config.getoption("--record-compatibility")
    if path is not None and not hasattr(config, "workerinput"):  # of several processes (xdist) the first one is told all
        config.pluginmanager.register(_Recorder(Path(path)))


@dataclass
class _Recorder:
    """Notes cells by the tests that prove them; whole at the end, or not at all."""

    path: Path
    proved: dict[_Cell, dict[str, str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        if report.when != "call":
            return
        self.ran.add(report.nodeid)
        for cell, value in _cells(report):
            self.proved.setdefault(cell, {})[report.nodeid] = value

    def pytest_sessionfinish(self) -> None:
        known = {_Cell(one["table"], one["row"], one["column"]): one for one in _read(self.path)}
        date = datetime.now(timezone.utc).date().isoformat()
        for cell, one in list(known.items()):
            before = dict.fromkeys(one["tests"], one["value"])
            # a test that failed before it could say what it proves is known by what it proved last time
            tests = {test: value for test, value in before.items() if test not in self.ran or test in self.failed}
            tests.update(self.proved.pop(cell, {}))
            if tests != before or self.ran.intersection(tests):
                known[cell] = self._noted(cell, tests, date if self.ran.intersection(tests) else one["date"])
        known.update({cell: self._noted(cell, tests, date) for cell, tests in self.proved.items()})
        rows = [one for _cell, one in sorted(known.items()) if one["tests"]]
        self.path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _noted(self, cell: _Cell, tests: Mapping[str, str], date: str) -> dict[str, Any]:
        return {
            **cell._asdict(),
            "value": ", ".join(sorted({value for value in tests.values() if value})),
            "failed": sorted(self.failed.intersection(tests)),
            "tests": sorted(tests),
            "date": date,
        }


def _cells(report: pytest.TestReport) -> Iterator[tuple[_Cell, str]]:
    for name, found in report.user_properties:
        if name != "compatibility":
            continue
        if not isinstance(found, dict) or found.get("table") not in TITLES:
            raise ValueError(f"{report.nodeid}: no cell of docs/compatibility.md: {found!r}")
        yield _Cell(found["table"], found["row"], found["column"]), str(found.get("value", ""))


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
