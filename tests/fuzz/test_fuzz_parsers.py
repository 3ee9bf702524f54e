"""A bounded fuzzing of every reader of foreign bytes: its corpus, then mutations of it; scripts/fuzz TARGET runs longer ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.parsers import CORPUS, TARGETS
from tests.support.servers import REPOSITORY

#: Pages of Parquet are read twice as slowly as anything else.
_INPUTS = {"offset_map": 600, "block_index": 400, "config": 200}


def test_every_target_has_a_small_corpus() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert len(files) <= 200
    assert sum(path.stat().st_size for path in files) <= 500_000


@pytest.mark.timeout(180)
@pytest.mark.parametrize("target", TARGETS)
def test_no_mutated_input_gives_anything_but_a_value_or_an_error_of_kbrs(target: str, tmp_path: Path) -> None:
    """In a process of its own: a library may end it, and its memory is measured."""
    inputs = os.environ.get("KBR_FUZZ_INPUTS") or str(_INPUTS.get(target, 1000))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.parsers", target, "--inputs", inputs, "--last", str(tmp_path / "last")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\nlast input: {tmp_path / 'last'}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["inputs"] == int(inputs)
    assert result["values"] > 0
