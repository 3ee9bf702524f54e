"""Workers that give no sign of life, those that only seem so, and what becomes of workers that nobody watches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kbr.errors import WorkerCrashed
from kbr.runtime.supervisor import Supervisor
from tests.support.runtime import ENTRY, RetryingCaller, is_alive, parent_of, run_tasks, session_of
from tests.support.servers import REPOSITORY
from tests.support.waiting import wait_until


def _freeze_first(_supervisor: Supervisor, task_id: str, pid: object) -> None:
    if task_id == "0":
        os.kill(pid, signal.SIGSTOP)


def test_a_frozen_worker_is_killed_and_its_task_done_by_another(tmp_path: Path) -> None:
    payload = ("once", (str(tmp_path / "done"), ("deaf", None), ("length", "abc")))
    outcome = run_tasks(
        payload, ("length", "x"), on_failure=RetryingCaller(), on_event=_freeze_first, hang_timeout_s=0.8
    )
    assert outcome.failures == {}
    assert outcome.results == {"0#2": 3, "1": 1}
    ((_, error),) = outcome.retried
    assert isinstance(error, WorkerCrashed)
    assert "sent no sign of life for 0.8 s while it did task 0" in str(error)


def test_a_killed_worker_that_does_not_end_keeps_neither_the_run_nor_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kbr.runtime.executors.local.LocalWorker.kill", lambda worker: None)  # held by the kernel
    monkeypatch.setattr("kbr.runtime.state.UNDEAD_S", 0.3)
    frozen: list[int] = []

    def freeze(_supervisor: Supervisor, task_id: str, pid: object) -> None:
        if task_id == "0":
            frozen.append(pid)
            os.kill(pid, signal.SIGSTOP)

    caller = RetryingCaller()
    try:
        outcome = run_tasks(("deaf", None), ("length", "x"), on_failure=caller, on_event=freeze, hang_timeout_s=0.8)
        assert is_alive(frozen[0])
    finally:
        os.kill(frozen[0], signal.SIGKILL)
    assert "not known to have ended" in str(outcome.failures["0"])
    assert caller.asked == [], "it may still write: nobody else may do its task"
    assert outcome.results == {"1": 1}
    assert multiprocessing.active_children() == [], "these would be waited for at the end of this process"


def test_a_worker_that_keeps_the_gil_is_a_hung_one() -> None:
    outcome = run_tasks(("deaf_with_the_gil", None), ("length", "x"), on_failure=None, hang_timeout_s=0.8)
    assert "sent no sign of life" in str(outcome.failures["0"])
    assert outcome.results == {"1": 1}


def test_a_worker_that_is_frozen_in_the_middle_of_a_message_is_killed() -> None:
    def freeze(_supervisor: Supervisor, task_id: str, event: object) -> None:
        if isinstance(event, int):
            pids.append(event)
        elif len(pids) == 1:
            os.kill(pids[0], signal.SIGSTOP)  # it is blocked in sending
            pids.append(0)

    pids: list[int] = []
    outcome = run_tasks(
        ("pid", None), ("emit_many", (50, 4_000_000)), workers=1, on_failure=None, on_event=freeze, hang_timeout_s=0.8
    )
    assert "sent no sign of life" in str(outcome.failures["1"])


def test_a_worker_that_waits_in_silence_is_not_hung() -> None:
    ticks: list[float] = []

    def stop_later(supervisor: Supervisor) -> None:
        ticks.append(time.monotonic())
        if ticks[-1] - ticks[0] > 2.0:
            supervisor.stop()

    outcome = run_tasks(("until_stopped", "a"), workers=1, on_failure=None, on_tick=stop_later, hang_timeout_s=0.6)
    assert outcome.failures == {}
    assert outcome.results == {"0": "partial a"}


def test_a_callback_that_takes_longer_than_workers_have_kills_none_of_them() -> None:
    slept: list[None] = []

    def slow(supervisor: Supervisor) -> None:
        if len(slept) < 2:
            time.sleep(1.0)  # a slow store, say
        slept.append(None)
        if len(slept) == 5:
            supervisor.stop()

    outcome = run_tasks(("until_stopped", "a"), workers=1, on_failure=None, on_tick=slow, hang_timeout_s=0.6)
    assert outcome.failures == {}


SCRIPT = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
supervisor = Supervisor(entry={ENTRY!r}, worker_count=2, hang_timeout_s=0.8)
ticks = []
def tick():
    ticks.append(None)
    if len(ticks) == 12:
        supervisor.stop()
outcome = supervisor.run([TaskSpec(task_id=str(n), payload=("until_stopped", n)) for n in range(2)],
                         on_event=lambda t, e: print(e, flush=True), on_tick=tick)
print(sorted(outcome.results.values()), sorted(outcome.failures), flush=True)
"""


@pytest.mark.parametrize("whole", [True, False], ids=["the whole tree", "the supervisor alone"])
def test_a_pause_longer_than_the_timeout_kills_no_worker(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        for _ in range(2):
            run.stdout.readline()
        send = os.killpg if whole else os.kill
        send(run.pid, signal.SIGSTOP)
        time.sleep(1.3)  # the pause itself
        send(run.pid, signal.SIGCONT)
        out, _ = run.communicate(timeout=30)
    assert out == "['partial 0', 'partial 1'] []\n"


# -- no orphans ---------------------------------------------------------------------------

ORPHANS_SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
outcome = Supervisor(entry={ENTRY!r}, worker_count=2).run(
    [TaskSpec(task_id=str(n), payload=("append_for_ever", os.path.join(sys.argv[1], str(n)))) for n in range(2)],
    on_event=lambda t, e: print(e, flush=True))
print(sorted(outcome.failures), flush=True)
"""


@pytest.mark.parametrize("victim", ["supervisor", "forkserver"])
def test_after_the_death_of_supervisor_or_forkserver_nobody_writes_any_more(tmp_path: Path, victim: str) -> None:
    script = [sys.executable, "-c", ORPHANS_SCRIPT, str(tmp_path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        workers = [int(run.stdout.readline()) for _ in range(2)]
        files = [tmp_path / str(number) for number in range(2)]
        wait_until(
            lambda: all(file.exists() and file.stat().st_size > 10 for file in files), deadline_s=10, what="work"
        )
        tree = session_of(run.pid)
        assert {run.pid, parent_of(workers[0]), *workers} <= tree
        os.kill(run.pid if victim == "supervisor" else parent_of(workers[0]), signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)), deadline_s=5, what="the workers' end")
        sizes = [file.stat().st_size for file in files]
        if victim == "forkserver":
            assert run.stdout.readline() == "['0', '1']\n"
        wait_until(lambda: not any(map(is_alive, tree)), deadline_s=5, what="the end of all processes")
        assert [file.stat().st_size for file in files] == sizes


@pytest.mark.fault("P2", "the supervisor is killed while all of its processes are stopped (SIGSTOP)", promise=1)
def test_processes_that_are_stopped_die_with_their_supervisor_and_never_wake_up_to_write(tmp_path: Path) -> None:
    script = [sys.executable, "-c", ORPHANS_SCRIPT, str(tmp_path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        workers = [int(run.stdout.readline()) for _ in range(2)]
        stopped = [*workers, parent_of(workers[0])]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        os.kill(run.pid, signal.SIGKILL)
        try:
            wait_until(lambda: not any(map(is_alive, stopped)), deadline_s=5, what="the end of all that were stopped")
        finally:
            for pid in filter(is_alive, stopped):
                os.kill(pid, signal.SIGKILL)


def test_a_forkserver_lives_on_when_the_thread_that_asked_for_it_has_ended() -> None:
    def parents_of_two_tasks() -> set[object]:
        outcome = run_tasks(("surroundings", None), ("surroundings", None), on_failure=None)
        assert outcome.failures == {}
        return {result["parent"] for result in outcome.results.values()}

    first: set[object] = set()
    os.kill(parents_of_two_tasks().pop(), signal.SIGKILL)  # so that the thread is the one that asks
    thread = threading.Thread(target=lambda: first.update(parents_of_two_tasks()))
    thread.start()
    thread.join()
    assert len(first) == 1
    assert parents_of_two_tasks() == first
