"""Signals, kills and freezes of every process of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kbr.errors import WorkerCrashed
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import RunOutcome, Supervisor
from tests.support.servers import REPOSITORY
from tests.support.waiting import wait_until

ENTRY = "tests.unit.runtime.worker_verbs:work"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _run(*payloads: object, on_event, workers: int = 2, stop_timeout_s: float = 30.0) -> RunOutcome:
    supervisor = Supervisor(entry=ENTRY, worker_count=workers, stop_timeout_s=stop_timeout_s)
    tasks = [TaskSpec(task_id=str(number), payload=payload) for number, payload in enumerate(payloads)]
    return supervisor.run(tasks, on_event=lambda task_id, event: on_event(supervisor, task_id, event))


@pytest.mark.fault("P6", "SIGTERM to one worker", promise=2)
def test_a_worker_that_is_terminated_ends_the_run_with_partial_results() -> None:
    outcome = _run(
        ("until_stopped", "a"),
        ("until_stopped", "b"),
        ("pid", None),
        on_event=lambda _supervisor, task_id, pid: os.kill(pid, signal.SIGTERM) if task_id == "1" else None,
    )
    assert outcome.interrupted, "or a partial result would pass for a whole one"
    assert outcome.results == {"0": "partial a", "1": "partial b"}
    assert outcome.unstarted == ("2",)


def test_a_result_that_a_signal_cut_short_never_comes_before_the_news_of_the_signal() -> None:
    outcome = _run(("terminated_in_its_last_moment", None), ("pid", None), workers=1, on_event=lambda *_: None)
    assert outcome.interrupted
    assert outcome.results == {"0": "cut short"}
    assert outcome.unstarted == ("1",)


@pytest.mark.fault("P6", "SIGTERM to all processes", promise=2)
def test_a_service_managers_sigterm_to_all_processes_is_one_clean_stop() -> None:
    pids: list[int] = []

    def terminate_all(supervisor: Supervisor, _task: str, pid: int) -> None:
        pids.append(pid)
        if len(pids) == 2:
            for one in (*pids, _parent(pid)):
                os.kill(one, signal.SIGTERM)
            supervisor.stop()  # what the supervisor's own handler does

    outcome = _run(("until_stopped", "a"), ("until_stopped", "b"), on_event=terminate_all)
    assert outcome.interrupted
    assert outcome.failures == {}
    assert outcome.results == {"0": "partial a", "1": "partial b"}


@pytest.mark.fault("P6", "signals to the process group", promise=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_meant_for_the_supervisor_do_workers_and_forkserver_no_harm(number: signal.Signals) -> None:
    def disturb(supervisor: Supervisor, _task: str, pid: int) -> None:
        os.kill(_parent(pid), number)
        os.kill(pid, number)
        supervisor.stop()

    outcome = _run(("until_stopped", "a"), workers=1, on_event=disturb)
    assert outcome.failures == {}
    assert outcome.results == {"0": "partial a"}


@pytest.mark.fault("P6", "a frozen worker", promise=4)
def test_a_frozen_worker_keeps_nobody_from_stopping() -> None:
    def freeze(supervisor: Supervisor, _task: str, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        supervisor.stop()

    outcome = _run(("deaf", None), workers=1, stop_timeout_s=0.2, on_event=freeze)
    assert outcome.interrupted
    assert "had not stopped 0.2 s after it was asked to" in str(outcome.failures["0"])


def test_a_worker_frozen_in_the_middle_of_a_message_keeps_nobody_from_stopping() -> None:
    def freeze(supervisor: Supervisor, task_id: str, event: object) -> None:
        if task_id == "1":
            return
        if isinstance(event, int):
            pids.append(event)
        elif len(pids) == 1:
            # it is blocked in sending: its next message is partly in the pipe
            os.kill(pids[0], signal.SIGSTOP)
            pids.append(0)
            supervisor.stop()

    pids: list[int] = []
    outcome = _run(
        ("pid", None), ("pid", None), ("emit_many", (50, 4_000_000)), workers=1, stop_timeout_s=0.2, on_event=freeze
    )
    assert outcome.interrupted
    assert isinstance(outcome.failures["2"], WorkerCrashed)


@pytest.mark.fault("P1", "the forkserver is killed", promise=1)
def test_a_killed_forkserver_fails_what_ran_and_a_new_one_does_the_rest() -> None:
    pids: list[int] = []

    def kill_server(_supervisor: Supervisor, task_id: str, pid: int) -> None:
        pids.append(pid)
        if len(pids) == 2:
            os.kill(_parent(pid), signal.SIGKILL)

    outcome = _run(("deaf", None), ("deaf", None), ("pid", None), ("pid", None), on_event=kill_server)
    assert set(outcome.failures) == {"0", "1"}
    assert all(isinstance(error, WorkerCrashed) for error in outcome.failures.values())
    assert set(outcome.results) == {"2", "3"}
    assert all(_gone(pid) for pid in pids[:2])


def test_a_stop_before_the_run_begins_nothing() -> None:
    supervisor = Supervisor(entry=ENTRY, worker_count=1)
    supervisor.stop()
    outcome = supervisor.run([TaskSpec(task_id="0", payload=("pid", None))], on_event=lambda task, event: None)
    assert outcome.interrupted
    assert outcome.unstarted == ("0",)


def test_a_stop_after_the_run_is_written_to_nobodys_file(tmp_path: Path) -> None:
    supervisor = Supervisor(entry=ENTRY, worker_count=1)
    supervisor.run([TaskSpec(task_id="0", payload=("pid", None))], on_event=lambda task, event: None)
    files = [open(tmp_path / str(number), "w+b") for number in range(10)]  # they get the lowest free descriptors
    supervisor.stop()
    for file in files:
        file.close()
    assert all((tmp_path / str(number)).read_bytes() == b"" for number in range(10))


def test_runs_leave_no_descriptors_behind() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    _run(("pid", None), on_event=lambda *_: None)
    before = count()
    for _ in range(3):
        _run(("pid", None), ("exit_politely", 3), on_event=lambda *_: None)
    assert count() == before


def test_an_entry_that_hangs_at_import_keeps_nobody_from_stopping(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hanging_entry.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    supervisor = Supervisor(entry="hanging_entry:work", worker_count=1, stop_timeout_s=0.1)
    ticks: list[None] = []

    def tick() -> None:
        ticks.append(None)
        if len(ticks) == 3:
            supervisor.stop()

    outcome = supervisor.run([TaskSpec(task_id="0", payload=None)], on_event=lambda task, event: None, on_tick=tick)
    assert outcome.interrupted
    assert outcome.unstarted == ("0",)


# -- a supervisor in a process of its own -------------------------------------------------

SCRIPT = f"""
import signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
supervisor = Supervisor(entry={ENTRY!r}, worker_count=2)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: supervisor.stop())
print("up", flush=True)
verb = sys.argv[1]
outcome = supervisor.run([TaskSpec(task_id=str(n), payload=(verb, n)) for n in range(2)],
                         on_event=lambda t, e: print(e, flush=True))
print(sorted(outcome.results.values()), sorted(outcome.failures), outcome.interrupted, flush=True)
"""


def _script(tmp_path: Path, verb: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(path), verb],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.fault("P2", "workers and forkserver end within seconds, even while compiled code holds the GIL", promise=1)
@pytest.mark.parametrize("verb", ["deaf", "deaf_with_the_gil"])
def test_workers_and_forkserver_end_within_seconds_of_their_supervisors_death(tmp_path: Path, verb: str) -> None:
    with _script(tmp_path, verb) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        pids = [int(process.stdout.readline()) for _ in range(2)]
        pids.append(_parent(pids[0]))
        assert not any(_gone(pid) for pid in pids)
        process.kill()
        wait_until(lambda: all(_gone(pid) for pid in pids), deadline_s=5, what="the workers' end")


def test_ctrl_c_in_a_terminal_ends_a_run_cleanly_and_prints_nothing(tmp_path: Path) -> None:
    with _script(tmp_path, "until_stopped") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        for _ in range(2):
            process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: all processes of the group
        out, err = process.communicate(timeout=30)
    assert out == "['partial 0', 'partial 1'] [] True\n"
    assert err == ""


def test_ctrl_c_while_processes_are_starting_ends_a_run_cleanly_and_prints_nothing(tmp_path: Path) -> None:
    with _script(tmp_path, "until_stopped") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        wait_until(
            lambda: (
                subprocess.run(
                    ["pgrep", "-g", str(process.pid), "-f", "multiprocessing"], capture_output=True, check=False
                ).stdout
            ),
            deadline_s=10,
            what="the first helper process",
        )
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert "True" in out.splitlines()[-1]
    assert err == ""
