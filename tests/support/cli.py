"""kbr's command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def kbr_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without KBR_ variables, plus ``env``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KBR_", "AWS_"))}
    return {**clean, "PYTHONUNBUFFERED": "1", **(env or {})}


def run_kbr(
    *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 110
) -> subprocess.CompletedProcess[str]:
    """Run ``kbr ARGUMENTS`` to its end."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "kbr", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=kbr_environment(env),
        stdin=subprocess.DEVNULL,
    )


def start_kbr(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start ``kbr ARGUMENTS`` and leave it running."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "kbr", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kbr_environment(env),
    )


def run_kbr_json(*arguments: str, exit_code: int = 0, env: Mapping[str, str] | None = None) -> Any:
    """Run with ``-o json``, expect an exit code, give the document."""
    done = run_kbr(*arguments, "-o", "json", env=env)
    assert done.returncode == exit_code, f"exit {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)
