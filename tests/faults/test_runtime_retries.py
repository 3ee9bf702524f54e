"""Workers that die, or run out of memory, and helpers that do: what they had to do is done by others, and the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kbr.errors import KbrError, WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime import supervisor as supervisor_module
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import Retry, Supervisor
from tests.support.runtime import ENTRY, RetryingCaller, is_alive, parent_of, run_tasks
from tests.support.servers import REPOSITORY


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("kill_self", signal.SIGKILL), "killed by SIGKILL"),
        (("kill_self", signal.SIGSEGV), "killed by SIGSEGV"),
        (("exit_politely", 5), "exit status 5"),
        (("raise_what_no_task_may_raise", None), "exit status 1"),
        (("emit_what_cannot_be_read", None), "can't be read"),
        (("eat_memory", 64 << 20), "no memory was left"),
    ],
)
def test_what_a_worker_did_not_do_is_done_by_another(tmp_path: Path, fault: object, said: str) -> None:
    caller = RetryingCaller()
    outcome = run_tasks(
        ("once", (str(tmp_path / "done"), fault, ("length", "abc"))), ("length", "x"), on_failure=caller
    )
    assert outcome.failures == {}
    assert outcome.results == {"0#2": 3, "1": 1}
    ((task_id, error),) = outcome.retried
    assert task_id == "0"
    assert said in str(error)
    assert outcome.retried_count == 1
    assert caller.asked == [(task_id, error)]


@pytest.mark.parametrize("verb", ["kill_self", "eat_memory"])
def test_a_worker_without_memory_is_one_that_is_worth_a_retry(verb: str) -> None:
    argument = signal.SIGKILL if verb == "kill_self" else 64 << 20
    error = run_tasks((verb, argument), on_failure=None).failures["0"]
    assert isinstance(error, WorkerCrashed)
    assert error.retriable
    assert "memory_limit" in error.hint


def test_a_poisoned_task_fails_after_its_attempts_and_no_other_with_it() -> None:
    caller = RetryingCaller(attempts=3, delay_s=0.05)
    outcome = run_tasks(("kill_self", signal.SIGSEGV), *[("length", "x")] * 20, on_failure=caller)
    assert set(outcome.failures) == {"0#3"}
    assert [task_id for task_id, _ in caller.asked] == ["0", "0#2", "0#3"]
    assert [task_id for task_id, _ in outcome.retried] == ["0", "0#2"]
    assert len(outcome.results) == 20


def test_an_error_that_a_task_raises_is_judged_too_and_its_worker_goes_on() -> None:
    caller = RetryingCaller(attempts=2)
    outcome = run_tasks(("error_with_odd_facts", None), ("worker_id", None), on_failure=caller, workers=1)
    assert [task_id for task_id, _ in caller.asked] == ["0", "0#2"]
    assert set(outcome.failures) == {"0#2"}
    assert outcome.results == {"1": 0}, "it was the same worker all the time"


def test_a_retry_waits_for_its_time_while_no_worker_is_there() -> None:
    began = time.monotonic()
    waiting: list[int] = []

    def count(supervisor: Supervisor) -> None:
        waiting.append(len(supervisor._workers))

    outcome = run_tasks(
        ("exit_politely", 3), on_failure=RetryingCaller(attempts=2, delay_s=0.5), on_tick=count, workers=1
    )
    assert time.monotonic() - began >= 0.5
    assert set(outcome.failures) == {"0#2"}
    assert 0 in waiting, "workers leave meanwhile"


def test_a_stop_during_a_delay_ends_the_run_promptly() -> None:
    def stop_when_it_waits(supervisor: Supervisor) -> None:
        if caller.asked:
            supervisor.stop()

    caller = RetryingCaller(delay_s=3600.0)
    outcome = run_tasks(("exit_politely", 3), ("length", "x"), on_failure=caller, on_tick=stop_when_it_waits)
    assert outcome.interrupted
    assert outcome.unstarted == ("0#2",)
    assert outcome.failures == {}


def test_an_error_of_the_one_who_judges_ends_the_run() -> None:
    def fail(_task: TaskSpec, _error: KbrError) -> Sequence[Retry]:
        raise WorkerError("the caller's own")

    with pytest.raises(WorkerError, match="the caller's own"):
        run_tasks(("exit_politely", 3), ("deaf", None), on_failure=fail)


def test_a_moment_without_processes_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork fails for a moment, after workers did boot."""
    spawn = supervisor_module.spawn_worker
    tries: list[int] = []

    def scarce(number: int, entry: str, beat_s: float) -> object:
        tries.append(number)
        if 2 <= len(tries) <= 3:
            raise WorkerBootFailed("no worker process could be started: BlockingIOError")
        return spawn(number, entry, beat_s)

    monkeypatch.setattr(supervisor_module, "spawn_worker", scarce)
    monkeypatch.setattr("kbr.runtime.retries.RESTART_DELAY_S", 0.05)
    outcome = run_tasks(("exit_politely", 3), ("length", "x"), on_failure=RetryingCaller(attempts=2), workers=1)
    assert set(outcome.failures) == {"0#2"}
    assert outcome.results == {"1": 1}
    assert len(tries) >= 4


# -- helpers of multiprocessing -----------------------------------------------------------


def test_a_killed_forkserver_costs_a_retry_and_nothing_else(tmp_path: Path) -> None:
    servers: list[int] = []

    def kill_server(_supervisor: Supervisor, _task: str, pid: object) -> None:
        pids.append(pid)
        if len(pids) == 2:
            servers.append(parent_of(pid))
            os.kill(servers[0], signal.SIGKILL)

    pids: list[object] = []
    payloads = [("once", (str(tmp_path / f"done-{n}"), ("deaf", None), ("surroundings", None))) for n in range(2)]
    outcome = run_tasks(*payloads, ("length", "x"), on_failure=RetryingCaller(attempts=5), on_event=kill_server)
    assert outcome.failures == {}
    assert len(outcome.results) == 3
    assert {task_id for task_id, _ in outcome.retried} >= {"0", "1"}
    for task_id, result in outcome.results.items():
        if task_id != "2":
            assert result["parent"] != servers[0], "a new forkserver made it"


def test_a_forkserver_that_is_killed_again_and_again_does_not_end_the_run() -> None:
    kills: list[object] = []

    def kill_server(supervisor: Supervisor, _task: str, pid: object) -> None:
        if len(kills) == 3:
            supervisor.stop()
        else:
            kills.append(pid)
            os.kill(parent_of(pid), signal.SIGKILL)

    outcome = run_tasks(("until_stopped", 1), workers=1, on_failure=RetryingCaller(attempts=50), on_event=kill_server)
    assert outcome.failures == {}
    assert outcome.results == {"0#4": "partial 1"}


def test_a_frozen_forkserver_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_START_TIMEOUT_S": 0.5, "_EXIT_TIMEOUT_S": 0.1, "_KILL_TIMEOUT_S": 0.2}.items():
        monkeypatch.setattr(f"kbr.runtime.executors.local.{name}", value)
    monkeypatch.setattr("kbr.runtime.retries.RESTART_DELAY_S", 0.05)
    servers: list[int] = []

    def freeze_server(_supervisor: Supervisor, task_id: str, pid: object) -> None:
        if task_id == "0":
            servers.append(parent_of(pid))
            os.kill(servers[0], signal.SIGSTOP)

    outcome = run_tasks(
        ("pid", None),
        ("exit_politely", 3),
        ("surroundings", None),
        workers=1,
        on_failure=RetryingCaller(attempts=2),
        on_event=freeze_server,
    )
    assert set(outcome.failures) == {"1#2"}
    assert outcome.results["2"]["parent"] != servers[0]
    assert not is_alive(servers[0])


RESOURCE_TRACKER_SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from multiprocessing import resource_tracker
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
def kill_tracker(task, pid):
    os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
outcome = Supervisor(entry={ENTRY!r}, worker_count=1).run(
    [TaskSpec(task_id="0", payload=("pid", None)), TaskSpec(task_id="1", payload=("exit_politely", 3)),
     TaskSpec(task_id="2", payload=("length", "abc"))], on_event=kill_tracker)
print(outcome.results["2"], sorted(outcome.failures), flush=True)
"""


def test_a_killed_resource_tracker_harms_nobody() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESOURCE_TRACKER_SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "3 ['1']\n"


def test_an_error_that_no_task_may_raise_ends_its_worker_at_once_and_is_told(tmp_path: Path) -> None:
    script = RESOURCE_TRACKER_SCRIPT.replace("exit_politely", "raise_what_no_task_may_raise")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "3 ['1']\n"
    assert "KeyboardInterrupt" in done.stderr
