"""No core file, and nothing in what a system makes instead of one. What runs' processes have: tests/e2e/test_secrets.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

#: Allows itself core files as far as it may, and then does what it is told to.
CHILD = f"""
import os, resource, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
exec(sys.argv[1])
print(open("/proc/self/limits").read())
print("filter", open("/proc/self/coredump_filter").read())
print("dumpable", __import__("ctypes").CDLL(None).prctl(3, 0, 0, 0, 0))
sys.stdout.flush()
signal.signal(getattr(signal, sys.argv[2]), signal.SIG_DFL)  # a shell's background jobs ignore SIGQUIT
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""
FORBID = "from kbr.runtime.crash_dumps import forbid_core_dumps; forbid_core_dumps()"


def _crash(code: str, name: str, cwd: Path) -> tuple[str, bool]:
    """What a child says before it crashes, and whether the kernel made a core file or began to."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, code, name], stdout=subprocess.PIPE, text=True, cwd=cwd)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    said = process.communicate(timeout=30)[0]
    assert ended is not None
    assert ended.si_status == getattr(signal, name)
    return said, ended.si_code == os.CLD_DUMPED


def _core_limit(said: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith("Max core file size")]
    return line.split()[4]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGQUIT"])
def test_a_crash_leaves_no_core(tmp_path: Path, name: str) -> None:
    said, dumped = _crash(FORBID, name, tmp_path)
    assert not dumped
    assert list(tmp_path.iterdir()) == []
    assert _core_limit(said) == ("0" if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else "1")
    assert "filter 00000000" in said
    assert "dumpable 1" in said, "whoever runs kbr can look at it"


def test_without_that_it_would(tmp_path: Path) -> None:
    """Where this machine allows core files, the test above has something to prevent."""
    said, dumped = _crash("pass", "SIGSEGV", tmp_path)
    assert dumped or _core_limit(said) == "0" or not _writes_files()


def _writes_files() -> bool:
    return not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/", "@"))


def test_where_neither_can_be_had_the_process_is_not_dumpable(tmp_path: Path) -> None:
    code = (
        "import kbr.runtime.crash_dumps as c; c._FILTER = '/proc/self/no-such-file'; "
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); c.forbid_core_dumps()"
    )
    said, dumped = _crash(code, "SIGSEGV", tmp_path)
    assert "dumpable 0" in said
    assert not dumped


def test_children_have_it_from_their_parent(tmp_path: Path) -> None:
    code = f"{FORBID}; import subprocess; subprocess.run(['cat', '/proc/self/limits', '/proc/self/coredump_filter'])"
    said, _ = _crash(code, "SIGTERM", tmp_path)
    limits = [line.split()[4] for line in said.splitlines() if line.startswith("Max core file size")]
    assert len(limits) == 2
    assert set(limits) <= {"0", "1"}
    assert "\n00000000\n" in said
