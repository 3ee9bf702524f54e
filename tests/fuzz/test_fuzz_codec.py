"""A bounded fuzzing of the compiled decoder, under the sanitizers; scripts/fuzz runs longer ones."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.servers import REPOSITORY


@pytest.mark.timeout(180)
def test_no_mutated_block_crashes_hangs_or_bloats_the_decoder() -> None:
    """Some 100,000s of inputs; only CodecError is ever raised (an allocation over 64 MB ends the run)."""
    seconds = os.environ.get("KBR_FUZZ_SECONDS", "20")
    done = subprocess.run(
        [str(REPOSITORY / "scripts" / "fuzz"), "--seconds", seconds], capture_output=True, text=True, timeout=float(seconds) + 150, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["inputs"] > 50_000
    assert 0 < result["decoded"] < result["inputs"] // 2
