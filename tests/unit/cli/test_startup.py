"""What the whole process imports: little for help, nothing of the command line in a worker's way."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "pydantic",
    "yaml",
    "rich",
    "confluent_kafka",
    "fsspec",
    "s3fs",
    "msgpack",
    "orjson",
    "kbr.config",
    "kbr.app",
    "kbr_codec",
}


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: sys.stderr.write('\\n'.join(sys.modules)))\n"
        f"sys.argv = ['kbr', *{list(arguments)!r}]\n"
        "from kbr.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split("\n"))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["backup", "--help"], ["restore", "-h"], ["config", "check", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert modules_after(*arguments) & HEAVY == set()


def test_the_overview_loads_no_verb() -> None:
    assert {name for name in modules_after("--help") if name.startswith("kbr.cli.") and name.endswith("_cmd")} == set()


def test_the_main_module_imports_nothing_when_it_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import kbr.__main__; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "click" not in done.stdout
    assert "kbr.cli" not in done.stdout
