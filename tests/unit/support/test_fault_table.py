"""docs/reliability.md says what the tests say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fault_rows import GROUPS, ROWS
from tests.support.fault_table import FaultMark, find_marks, render_table
from tests.support.servers import REPOSITORY


def test_the_committed_page_is_what_the_markers_say() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "gen-reliability"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run scripts/gen-reliability: {done.stdout}{done.stderr}"


def test_every_row_belongs_to_a_group() -> None:
    assert {row[0] for row in ROWS} == set(GROUPS)


def test_a_row_without_a_test_is_listed_as_not_covered() -> None:
    page = render_table([FaultMark("P1", "tests/x.py::test_a", "a worker", 1)], {})
    covered, _, missing = page.partition("### Not covered yet")
    assert "| P1 |" in covered
    assert "| not run yet |" in covered
    assert "**P1**" not in missing
    assert all(f"- **{row}** {fault}" in missing for row, fault in ROWS.items() if row != "P1")


def test_a_failed_run_shows_in_the_table() -> None:
    results = {"tests/x.py::test_a": {"outcome": "2 failed", "cases": 15, "date": "2026-01-01"}}
    page = render_table([FaultMark("P1", "tests/x.py::test_a", "a worker", 1)], results)
    assert "| 2 failed, 15 cases, 2026-01-01 |" in page


def _tests(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(f"import pytest\n{text}")
    return tmp_path


def test_markers_of_functions_and_methods_are_found(tmp_path: Path) -> None:
    root = _tests(
        tmp_path,
        'class TestA:\n @pytest.mark.fault("S1", "x", promise=2)\n def test_b(self): pass\n'
        '@pytest.mark.fault("P1", "y", promise=1)\n@pytest.mark.fault("P2", "z", promise=1)\ndef test_c(): pass\n',
    )
    assert [(one.row, one.test) for one in find_marks(root)] == [
        ("P1", "tests/test_it.py::test_c"),
        ("P2", "tests/test_it.py::test_c"),
        ("S1", "tests/test_it.py::TestA::test_b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.fault("P99", "x", promise=1)\ndef test_a(): pass',
        '@pytest.mark.fault("P1", "x", promise=10)\ndef test_a(): pass',
        '@pytest.mark.fault("P1", NAME, promise=1)\ndef test_a(): pass',
        'pytestmark = pytest.mark.fault("P1", "x", promise=1)',
    ],
)
def test_a_marker_that_would_be_overlooked_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="tests/test_it.py"):
        find_marks(_tests(tmp_path, text))


@pytest.mark.parametrize("processes", [(), ("--numprocesses", "2")])
def test_results_are_noted_by_test_and_others_stay(tmp_path: Path, processes: tuple[str, ...]) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"tests/old.py::test_old": {"outcome": "passed", "cases": 1, "date": "2020-01-01"}}))
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        '@pytest.mark.fault("P1", "y", promise=1)\n@pytest.mark.parametrize("n", range(3))\ndef test_c(n): assert n != 1\n'
        "def test_d(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.fault_table", "--rootdir", str(tmp_path)]
    subprocess.run(
        [*command, *processes, "-c", "/dev/null", "--record-faults", str(results), str(tmp_path / "test_it.py")],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
    )
    noted = json.loads(results.read_text())
    assert set(noted) == {"tests/old.py::test_old", "test_it.py::test_c"}
    assert (noted["test_it.py::test_c"]["outcome"], noted["test_it.py::test_c"]["cases"]) == ("1 failed", 3)
