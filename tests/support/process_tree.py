"""A kbr and all of its processes, found by a mark in their environment: who they are, and their violent end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .cli import kbr_environment
from .waiting import wait_until

__all__ = ["ROLES", "Kill", "KbrRun", "children_of"]

#: Whom a kill can hit.
ROLES = ("supervisor", "worker", "forkserver", "tree")
#: Not KBR_…: those don't reach the workers.
_MARK = "FAULT_BENCH_RUN"
#: What a supervisor's death has to be known to all others in, seconds.
ORPHAN_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Kill:
    """When and whom: after ``delay_s`` from the start, or from the first worker's, as soon as there is such a process."""

    role: str
    delay_s: float
    at_work: bool = True

    def __str__(self) -> str:
        return f"{self.role} {self.delay_s:.2f} s after the {'first worker' if self.at_work else 'start'}"


class KbrRun:
    """One ``kbr ARGUMENTS`` with its workers; what it writes goes to a file. A context manager: nothing is left."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "kbr", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**kbr_environment(env), name: value},
            start_new_session=True,
        )

    def __enter__(self) -> KbrRun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pid in self.pids():
            _kill(pid)
        self.process.wait(10)
        self._output.close()

    # -- looking --------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """The end of what it wrote."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), 4000, max(0, size - 4000)).decode(errors="replace")

    @property
    def is_over(self) -> bool:
        """Whether the supervisor has ended."""
        return self.process.poll() is not None

    def pids(self) -> list[int]:
        """All of its processes that live; zombies don't."""
        mark = self._mark.encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError):
                    if mark in Path("/proc", name, "environ").read_bytes().split(b"\0") and _state(int(name)) != "Z":
                        found.append(int(name))
        return found

    def pids_of(self, role: str) -> list[int]:
        """Those that have a role now."""
        if self.is_over:
            return []
        if role == "supervisor":
            return [self.process.pid]
        pids = self.pids()
        if role == "tree":
            return pids
        servers = [pid for pid in pids if _parent(pid) == self.process.pid and b"forkserver" in _command(pid)]
        return servers if role == "forkserver" else [pid for pid in pids if _parent(pid) in servers]

    # -- ending ---------------------------------------------------------------------------

    def wait(self, deadline_s: float) -> int:
        """Its exit code; a hang is a failure."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"kbr {' '.join(self.arguments)} hangs: {self.output}") from None

    def terminate(self) -> None:
        """SIGTERM to the supervisor, as a service manager sends it."""
        self.process.send_signal(signal.SIGTERM)

    def strike(self, kill: Kill, source: random.Random) -> bool:
        """Carry a kill out; False if the run was over before. All processes end soon after their supervisor's death."""
        if kill.at_work:
            wait_until(lambda: self.is_over or self.pids_of("worker"), deadline_s=60, what="the first worker")
        else:
            wait_until(lambda: self.is_over or self.pids(), deadline_s=60, what="the start")
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(kill.delay_s)
        victims = wait_until(
            lambda: self.pids_of(kill.role) or self.is_over, deadline_s=60, what=f"a {kill.role} to kill"
        )
        if victims is True:
            return False
        for pid in victims if kill.role == "tree" else [source.choice(victims)]:
            _kill(pid)
        if kill.role in ("supervisor", "tree"):
            self.process.wait(10)
            wait_until(lambda: not self.pids(), deadline_s=ORPHAN_DEADLINE_S, what="the end of a killed supervisor's processes")
        return True


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0"]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def children_of(pid: int) -> list[int]:
    """The processes that a process has made and that live; zombies don't."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(int(name)) == pid and _state(int(name)) != "Z"]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
