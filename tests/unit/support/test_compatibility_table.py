"""docs/compatibility.md says what tests have seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.compatibility_table import render_tables
from tests.support.servers import REPOSITORY

MODULE = """
import pytest
BROKEN = {broken}
def cell(row, column, **more):
    return {{"table": "storage", "row": row, "column": column, **more}}
@pytest.mark.parametrize("server", ["versitygw", "Ceph RGW"])
def test_commit(server, record_property):
    assert not BROKEN or server != "Ceph RGW"
    record_property("compatibility", cell(server, "commit"))
def test_conditions(record_property):
    record_property("compatibility", cell("versitygw", "conditional writes", value="honoured"))
def test_other():
    pass
"""


def test_the_committed_page_is_what_the_results_say() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "gen-compatibility"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run scripts/gen-compatibility: {done.stdout}{done.stderr}"


def _record(tmp_path: Path, *, broken: bool, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    (tmp_path / "test_it.py").write_text(MODULE.format(broken=broken))
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.compatibility_table", "--rootdir", str(tmp_path)]
    subprocess.run(
        [*command, "-c", "/dev/null", "--record-compatibility", str(results), str(tmp_path / "test_it.py"), *more],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
    )
    return json.loads(results.read_text())


@pytest.mark.parametrize("processes", [(), ("--numprocesses", "2")])
def test_cells_are_noted_with_the_tests_that_prove_them(tmp_path: Path, processes: tuple[str, ...]) -> None:
    noted = _record(tmp_path, broken=False, more=processes)
    assert [(one["row"], one["column"], one["value"], one["failed"]) for one in noted] == [
        ("Ceph RGW", "commit", "", []),
        ("versitygw", "commit", "", []),
        ("versitygw", "conditional writes", "honoured", []),
    ]
    page = render_tables(noted)
    assert "| | commit | conditional writes |" in page
    assert "| Ceph RGW | passed | – |" in page
    assert "| versitygw | passed | honoured |" in page


def test_a_test_that_fails_before_it_says_what_it_proves_shows_as_failed(tmp_path: Path) -> None:
    _record(tmp_path, broken=False)
    noted = _record(tmp_path, broken=True)
    assert [one["failed"] for one in noted] == [["test_it.py::test_commit[Ceph RGW]"], [], []]
    assert "| Ceph RGW | **failed** | – |" in render_tables(noted)
    assert "failed" not in render_tables(_record(tmp_path, broken=False))


def test_cells_of_tests_that_did_not_run_stay(tmp_path: Path) -> None:
    before = _record(tmp_path, broken=False)
    assert _record(tmp_path, broken=True, more=("-k", "conditions")) == before
    assert _record(tmp_path, broken=True, more=("-k", "other")) == before
