"""A bounded fuzzing of the compiled decoder, under the sanitizers; scripts/fuzz runs longer ones."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.servers import REPOSITORY


@pytest.mark.timeout(300)
def test_no_mutated_block_crashes_hangs_or_bloats_the_decoder() -> None:
    """Only CodecError is ever raised (an allocation over 64 MB ends the run)."""
    inputs = os.environ.get("KBR_FUZZ_INPUTS", "120000")
    done = subprocess.run(
        [str(REPOSITORY / "scripts" / "fuzz"), "codec", "--inputs", inputs], capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["inputs"] == int(inputs)
    assert 0 < result["decoded"] < result["inputs"] // 2
