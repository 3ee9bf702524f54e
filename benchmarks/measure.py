"""Measures one command as a whole: a process of its own that adopts, counts and watches everything the command starts.

    echo '{"command": ["sleep", "1"], ...}' | python -m benchmarks.measure

Knows nothing of Kafka, engines or scenarios, and imports nothing but the standard library, so that what it adds
to the machine's load is its sampling and nothing else. It makes itself a child subreaper (prctl(2),
PR_SET_CHILD_SUBREAPER), so that processes whose parent ends before them (the workers of a forkserver) become its
children, and their CPU time counts in getrusage(RUSAGE_CHILDREN) like any other's.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Command", "MeasureError", "Measured", "measure"]

REPOSITORY = Path(__file__).resolve().parents[1]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Between two looks at the memory, seconds. One look at a tree of kbr's four processes with 250 MB takes about 2 ms.
_SAMPLE_EVERY_S = 0.1
#: Looking may take this share of one core; with trees so large that it would take more, looks become rarer.
_SAMPLE_SHARE = 0.03
#: What outlives the command has this long to end, seconds; then it is ended, and the run is an error.
_LEFT_OVER_S = 30.0


class MeasureError(RuntimeError):
    """A measured command failed, left processes behind, or did not end in time; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        argv: program and arguments, or one text for ``/bin/sh -c``.
        environment: set beside what the harness itself has; KBR_ variables of the harness are not passed on.
    """

    argv: Sequence[str] | str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.argv if isinstance(self.argv, str) else " ".join(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run of a command took, of all its processes together. Seconds and bytes.

    Attributes:
        wall_s: from the start of the first process to its end.
        cpu_s: user and system time of all processes, those of forkservers and pipelines included.
        peak_pss_bytes: largest sum of proportional set sizes seen at one moment (shared pages count once).
        peak_rss_bytes: largest sum of resident set sizes seen at one moment (shared pages count in each).
        peak_process_rss_bytes: the largest process's own peak, as the kernel keeps it: exact, not sampled.
        file_read_bytes: what read(2) and its like gave them (/proc/*/io, rchar), from files mostly.
        file_written_bytes: the same for writing (wchar).
        samples: how often the memory was looked at.
        sampling_cpu_s: CPU time of the looking, not in cpu_s.
    """

    wall_s: float
    cpu_s: float
    user_s: float
    system_s: float
    peak_pss_bytes: int
    peak_rss_bytes: int
    peak_process_rss_bytes: int
    file_read_bytes: int
    file_written_bytes: int
    samples: int
    sampling_cpu_s: float
    stdout: str = field(repr=False, default="")

    def figures(self) -> dict[str, float]:
        """All but the output, JSON-ready."""
        figures = asdict(self)
        del figures["stdout"]
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def measure(command: Command, *, folder: Path, deadline_s: float) -> Measured:
    """Run ``command`` to its end and say what it took.

    Args:
        folder: for its output; the files stay until the next run there.
        deadline_s: it is ended after that, with everything it started.

    Raises:
        MeasureError: it did not end well.

    However the caller ends, by a signal or by ``kill -9``, the command and all its processes end with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output, errors = folder / "stdout", folder / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KBR_")}
    environment.update(command.environment)
    request = {
        "command": command.argv if isinstance(command.argv, str) else list(command.argv),
        "environment": environment,
        "stdout": str(output),
        "stderr": str(errors),
        "deadline_s": deadline_s,
        "caller": os.getpid(),
    }
    answer_text, code = _answer(json.dumps(request))
    last_words = errors.read_text(errors="replace")[-3000:] if errors.exists() else ""
    if code:
        raise MeasureError(f"could not be measured: {command}\n{last_words}")
    answer: dict[str, Any] = json.loads(answer_text)
    problem = answer.pop("problem")
    if problem:
        raise MeasureError(f"{problem}: {command}\n{last_words}")
    return Measured(**answer, stdout=output.read_text(errors="replace"))


def _answer(request: str) -> tuple[str, int]:
    """What the process that measures says, and its exit code."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.measure"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as runner:
        try:
            text, _ = runner.communicate(request)
        except BaseException:
            # not SIGKILL, as subprocess.run() does it: it has to end what it started
            runner.terminate()
            runner.wait()
            raise
    return text, runner.returncode


# -- the process that measures --------------------------------------------------------------


class _Tree:
    """Who belongs to the command: what descends from this process, found again at each look."""

    def __init__(self) -> None:
        self._me = os.getpid()
        self._strangers = _pids()
        self._members: set[int] = set()

    def members(self) -> set[int]:
        """Process ids that live now.

        A process stays a member or a stranger for life, as orphans come to this process; so only new ones are asked
        for their parent, and a look costs one listing of /proc.
        """
        now = _pids()
        self._members &= now
        new = sorted(now - self._members - self._strangers)
        parents = {pid: _parent(pid) for pid in new}
        found = True
        while found:
            found = False
            for pid, parent in list(parents.items()):
                if parent == self._me or parent in self._members:
                    self._members.add(pid)
                    del parents[pid]
                    found = True
        self._strangers |= {pid for pid, parent in parents.items() if parent is not None}
        return self._members


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None  # it ended in between


def _memory(pid: int) -> tuple[int, int]:
    """Resident and proportional set size, bytes."""
    rss = pss = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Rss:"):
                    rss = int(line.split()[1]) * 1024
                elif line.startswith(b"Pss:"):
                    pss = int(line.split()[1]) * 1024
                    break
    except OSError:
        return 0, 0  # it ended in between
    return rss, pss


class _Sampler(threading.Thread):
    """Looks at the tree's memory until told to stop."""

    def __init__(self, tree: _Tree) -> None:
        super().__init__(daemon=True)
        self._tree = tree
        self._stop_asked = threading.Event()
        self.peak_rss = self.peak_pss = self.samples = 0
        self.cpu_s = 0.0

    def run(self) -> None:
        pause = 0.02  # the first look is early: some commands are short
        while not self._stop_asked.wait(pause):
            begun = time.thread_time()
            sizes = [_memory(pid) for pid in self._tree.members()]
            self.peak_rss = max(self.peak_rss, sum(rss for rss, _ in sizes))
            self.peak_pss = max(self.peak_pss, sum(pss for _, pss in sizes))
            self.samples += 1
            spent = time.thread_time() - begun
            self.cpu_s += spent
            pause = max(_SAMPLE_EVERY_S, spent / _SAMPLE_SHARE)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def _await_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for its end, to the millisecond: Popen.wait() with a time-out looks every 50 ms only.

    Raises:
        subprocess.TimeoutExpired: it did not end.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        if not select.select([descriptor], [], [], seconds)[0]:
            raise subprocess.TimeoutExpired(process.args, seconds)
    finally:
        os.close(descriptor)


def _prctl(option: int, value: int, name: str) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({name})")


def _end_with(caller: int) -> None:
    """Take SIGTERM as the word to clean up and go, and get one when the caller ends, however it does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, "PR_SET_PDEATHSIG")
    if os.getppid() != caller:
        sys.exit(128 + signal.SIGTERM)  # it ended before


def _file_bytes() -> tuple[int, int]:
    """rchar and wchar of this process and of all children it has waited for."""
    with open("/proc/self/io") as io:
        values = dict(line.split(": ") for line in io.read().splitlines())
    return int(values["rchar"]), int(values["wchar"])


def _reap(deadline: float) -> bool:
    """Wait for what outlived the command; False when the deadline came first."""
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)


def _end(tree: _Tree) -> None:
    """End whatever of the tree still lives."""
    while members := {pid for pid in tree.members() if pid != os.getpid()}:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(time.monotonic() + 1)


def _run(request: Mapping[str, Any]) -> dict[str, Any]:
    _end_with(request["caller"])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")
    tree = _Tree()
    sampler = _Sampler(tree)
    problem = ""
    command = request["command"]
    io_before = _file_bytes()
    with open(request["stdout"], "wb") as output, open(request["stderr"], "wb") as errors:
        sampler.start()
        begun = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                shell=isinstance(command, str),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=request["environment"],
                cwd=REPOSITORY,
                start_new_session=True,
            )
            _await_end(process, request["deadline_s"])
            code = process.wait()
            wall = time.monotonic() - begun
            sampler.stop()
            if code:
                problem = f"ended with {code}"
            if not _reap(time.monotonic() + _LEFT_OVER_S):
                problem = problem or f"left processes behind that did not end within {_LEFT_OVER_S:.0f} s"
        except subprocess.TimeoutExpired:
            wall = time.monotonic() - begun
            problem = f"did not end within {request['deadline_s']:.0f} s"
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sampler.stop()
            _end(tree)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    io_after = _file_bytes()
    return {
        "problem": problem,
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "peak_pss_bytes": sampler.peak_pss,
        "peak_rss_bytes": sampler.peak_rss,
        "peak_process_rss_bytes": usage.ru_maxrss * 1024,
        "file_read_bytes": io_after[0] - io_before[0],
        "file_written_bytes": io_after[1] - io_before[1],
        "samples": sampler.samples,
        "sampling_cpu_s": sampler.cpu_s,
    }


def main() -> int:
    print(json.dumps(_run(json.load(sys.stdin))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
