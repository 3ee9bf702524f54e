"""The progress display on a terminal and elsewhere: standard error only, and log lines stay whole."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from kbr.cli.progress import LinesProgress, LiveProgress, choose_progress
from kbr.telemetry.events import ProgressEvent
from kbr.telemetry.progress import ProgressModel
from tests.support.clocks import FakeClock
from tests.support.servers import REPOSITORY

SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.cli.progress import choose_progress
from kbr.telemetry import logs
from kbr.telemetry.events import ProgressEvent
from kbr.telemetry.progress import ProgressModel
from tests.support.clocks import FakeClock

clock = FakeClock()
logs.configure()
model = ProgressModel(verb="backup", totals={{f"topic-{{n:02}}": 1000 for n in range(15)}}, clock=clock)
sink = choose_progress(stats_interval_s=60)
sink._clock = clock
print(type(sink).__name__, file=sys.stderr)
sink.start(model)
for step in range(20):
    clock.advance(1)
    for n in range(15):
        model.add(ProgressEvent(topic=f"topic-{{n:02}}", records=n, raw_bytes=n * 1000))
    sink.update(model.snapshot())
    if step == 10:
        logs.get_logger("kbr.test").warning("a line in between \\x1b[2J of topic-14")
        os.kill(os.getpid(), signal.SIGUSR1)
sink.close()
print("done", file=sys.stderr)
"""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _on_a_terminal(columns: int = 120) -> tuple[str, str]:
    """(standard output, what the terminal got) of the script."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "KBR_PROGRESS_FPS": "60"}
    environ.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=environ
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return out.decode(), shown.decode()


def test_a_terminal_gets_a_live_table_with_log_lines_above_it() -> None:
    out, shown = _on_a_terminal()
    assert out == "", "standard output is for results"
    plain = _ESCAPE.sub("", shown)
    assert "LiveProgress" in plain
    assert "BACKUP" in plain
    assert "total" in plain
    last_table = plain[plain.rindex("BACKUP") :]
    assert [f"topic-{number:02}" for number in range(10)] == sorted(set(re.findall(r"topic-\d\d", last_table)))
    assert "and 5 more topics" in last_table
    assert r"WARN  a line in between \x1b[2J of topic-14" in plain
    assert "\x1b[2J" not in shown, "text from outside moves no cursor"
    assert plain.count("INFO  backup: ") == 1, "SIGUSR1 asks for one line"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again"
    assert plain.rstrip().endswith("done"), "the signal ends nothing"


def test_a_narrow_terminal_does_not_break_it() -> None:
    _, shown = _on_a_terminal(columns=30)
    assert _ESCAPE.sub("", shown).rstrip().endswith("done")


def test_a_pipe_gets_lines() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "LinesProgress"
    assert "\x1b" not in done.stderr
    assert len([line for line in lines if "INFO  backup: " in line]) == 1, (
        "20 s is less than the interval; one was asked for"
    )
    assert lines[-1] == "done"


@pytest.fixture
def lines(monkeypatch):
    """Lines that a LinesProgress writes."""
    found: list[str] = []
    monkeypatch.setattr("kbr.cli.progress._log.info", found.append)
    return found


def _model(clock: FakeClock, **totals: int) -> ProgressModel:
    return ProgressModel(verb="restore", totals=totals, clock=clock)


def _add(model: ProgressModel, records: int) -> None:
    model.add(
        ProgressEvent(topic="a", records=records, raw_bytes=records * 1000)
    )


def test_lines_come_once_an_interval_and_tell_of_all_topics(lines: list[str]) -> None:
    clock = FakeClock()
    model = _model(clock, a=1000)
    sink = LinesProgress(interval_s=60, clock=clock)
    sink.start(model)
    for _ in range(120):
        clock.advance(1)
        _add(model, 5)
        sink.update(model.snapshot())
    sink.close()
    assert len(lines) == 2
    assert lines[0].startswith("restore: 300 of at most 1,000 records, ")
    assert lines[0].endswith("ETA 2 min 20 s")


def test_a_line_at_the_start_says_that_the_eta_is_unknown(lines: list[str]) -> None:
    clock = FakeClock()
    model = _model(clock, a=1000)
    sink = LinesProgress(interval_s=1, clock=clock)
    sink.start(model)
    clock.advance(1)
    _add(model, 500)
    sink.update(model.snapshot())
    sink.close()
    assert lines[0].endswith("ETA unknown")


@pytest.mark.parametrize("make", [lambda: LinesProgress(interval_s=60), LiveProgress])
def test_the_signals_handler_is_put_back(make, capfd) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    sink = make()
    sink.start(_model(FakeClock(), a=1))
    assert signal.getsignal(signal.SIGUSR1) != before
    sink.close()
    sink.close()
    assert signal.getsignal(signal.SIGUSR1) == before
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "interval_s"), [("10", 0.1), ("0", 0.25), ("nonsense", 0.25), ("1e9", 0.25), ("", 0.25)]
)
def test_frames_per_second_are_taken_from_the_environment_if_they_make_sense(
    value: str, interval_s: float, monkeypatch
) -> None:
    monkeypatch.setenv("KBR_PROGRESS_FPS", value)
    assert LiveProgress()._interval_s == pytest.approx(interval_s)


def test_a_dumb_terminal_gets_lines(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(choose_progress(stats_interval_s=1), LinesProgress)
