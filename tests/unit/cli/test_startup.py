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
        "import sys\n"
        f"sys.argv = ['kbr', *{list(arguments)!r}]\n"
        "from kbr.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    sys.stderr.write('\\n'.join(sys.modules))\n"
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


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["no-such-verb"], 2)])
def test_no_exit_handler_of_c_runs_at_the_end(arguments: list[str], status: int) -> None:
    """OpenSSL's would take from under librdkafka's threads what they are in: a process that had ended died of SIGSEGV."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)\n"
        f"sys.argv = ['kbr', *{arguments!r}]\n"
        "from kbr.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def test_what_python_has_for_its_end_still_runs() -> None:
    code = (
        "import atexit, sys\n"
        "from kbr.cli import main as module\n"
        "plain = module.cli.main\n"
        "def register_and_go_on(*args, **kwargs):\n"
        "    atexit.register(print, 'cleaned up', end='')\n"
        "    plain(*args, **kwargs)\n"
        "module.cli.main = register_and_go_on\n"
        "sys.argv = ['kbr', '--version']\n"
        "from kbr.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("cleaned up")


def test_ctrl_c_while_the_command_line_is_imported_is_an_interruption_without_a_traceback() -> None:
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'kbr.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from kbr.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
