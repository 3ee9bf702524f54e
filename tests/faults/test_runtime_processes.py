"""Supervisor and workers as real processes: everything that can happen to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kbr.errors import CorruptSegment, WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import RunOutcome, Supervisor
from tests.support.servers import REPOSITORY
from tests.support.waiting import wait_until

ENTRY = "tests.support.worker_entries:work"


def _run(
    *payloads: object, workers: int = 2, entry: str = ENTRY, stop_timeout_s: float = 30.0, on_event=None
) -> RunOutcome:
    supervisor = Supervisor(entry=entry, worker_count=workers, stop_timeout_s=stop_timeout_s)
    tasks = [TaskSpec(task_id=str(number), payload=payload) for number, payload in enumerate(payloads)]
    events: list[object] = []

    def take(task_id: str, event: object) -> None:
        events.append((task_id, event))
        if on_event is not None:
            on_event(supervisor, task_id, event)

    outcome = supervisor.run(tasks, on_event=take)
    assert _alive_children() == [], "no worker may be left"
    return outcome


def _alive_children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children()]


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_two_hundred_tasks_are_done_once_each_by_two_workers() -> None:
    outcome = _run(*[("echo", number) for number in range(200)])
    assert outcome.results == {str(number): number for number in range(200)}
    assert outcome.failures == {}
    assert not outcome.interrupted
    assert outcome.peak_worker_rss_bytes > 1_000_000


def test_a_workers_own_error_comes_back_as_it_was() -> None:
    error = CorruptSegment("s: bad", hint="look", object="s", position=7)
    outcome = _run(("raise", error), ("raise", ValueError("oh")), ("echo", 1))
    found = outcome.failures["0"]
    assert type(found) is CorruptSegment
    assert (found.message, found.hint, found.context) == ("s: bad", "look", {"object": "s", "position": 7})
    assert isinstance(outcome.failures["1"], WorkerError)
    assert "ValueError: oh" in str(outcome.failures["1"])
    assert "Traceback" in outcome.failures["1"].context["traceback"]
    assert outcome.results == {"2": 1}


@pytest.mark.fault("P1", "one worker dies, the others go on", promise=4)
def test_a_worker_that_dies_fails_its_task_and_no_other() -> None:
    outcome = _run(("kill", signal.SIGKILL), ("exit", 3), ("kill", signal.SIGSEGV), *[("echo", n) for n in range(20)])
    assert {"0", "1", "2"} == set(outcome.failures)
    assert all(isinstance(error, WorkerCrashed) for error in outcome.failures.values())
    assert "SIGKILL" in str(outcome.failures["0"])
    assert "memory" in outcome.failures["0"].hint
    assert "exit status 3" in str(outcome.failures["1"])
    assert len(outcome.results) == 20


def test_a_result_that_cannot_be_sent_is_the_tasks_error() -> None:
    outcome = _run(("unpicklable", None), ("echo", 1))
    assert isinstance(outcome.failures["0"], WorkerError)
    assert outcome.results == {"1": 1}


def test_an_entry_that_cannot_be_loaded_is_not_tried_for_ever() -> None:
    outcome = _run(*[("echo", n) for n in range(10)], entry="no.such.module:work")
    assert len(outcome.failures) == 10
    assert all(isinstance(error, WorkerBootFailed) for error in outcome.failures.values())


def test_a_stop_gives_partial_results_and_begins_nothing_new() -> None:
    outcome = _run(
        ("until_stopped", "a"), ("until_stopped", "b"), ("echo", 1),
        on_event=lambda supervisor, task_id, _event: supervisor.stop() if task_id == "1" else None,
    )  # fmt: skip
    assert outcome.interrupted
    assert outcome.results == {"0": "partial a", "1": "partial b"}
    assert outcome.unstarted == ("2",)


def test_a_second_stop_ends_workers_that_do_not_listen() -> None:
    def twice(supervisor: Supervisor, _task_id: str, _event: object) -> None:
        supervisor.stop()
        supervisor.stop()

    outcome = _run(("deaf", 1), workers=1, on_event=twice)
    assert outcome.interrupted
    assert isinstance(outcome.failures["0"], WorkerCrashed)


def test_workers_that_do_not_listen_are_ended_after_the_time_they_have() -> None:
    outcome = _run(
        ("deaf", 1), workers=1, stop_timeout_s=0.3, on_event=lambda supervisor, _task, _event: supervisor.stop()
    )
    assert outcome.interrupted
    assert isinstance(outcome.failures["0"], WorkerCrashed)


def test_a_stop_from_another_thread_is_heard() -> None:
    timers: list[threading.Timer] = []

    def later(supervisor: Supervisor, _task_id: str, _event: object) -> None:
        timers.append(threading.Timer(0.05, supervisor.stop))
        timers[-1].start()

    outcome = _run(("until_stopped", 1), workers=1, on_event=later)
    timers[0].join()
    assert outcome.results == {"0": "partial 1"}


def _script(body: str) -> str:
    return (
        "import sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from kbr.runtime.supervisor import Supervisor\n"
        "from kbr.runtime.messages import TaskSpec\n"
        "print('main runs', flush=True)\n"
        f"supervisor = Supervisor(entry={ENTRY!r}, worker_count=2)\n"
        f"{body}\n"
    )


def test_a_script_without_a_main_guard_is_not_run_again_in_workers(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        _script(
            "outcome = supervisor.run([TaskSpec(task_id='0', payload=('main', None))], on_event=lambda t, e: None)\n"
            "print(outcome.results)"
        )
    )
    done = subprocess.run(
        [sys.executable, str(path), "an-argument"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("main runs") == 1
    assert "an-argument" not in done.stdout


@pytest.mark.fault("P2", "workers end within seconds", promise=1)
def test_workers_end_within_seconds_of_their_supervisors_death(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        _script(
            "supervisor.run([TaskSpec(task_id=str(n), payload=('deaf', None)) for n in range(2)],"
            " on_event=lambda t, e: print(e[1], flush=True))"
        )
    )
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "main runs"
    pids = [int(process.stdout.readline()) for _ in range(2)]
    assert not any(_gone(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: all(_gone(pid) for pid in pids), deadline_s=5, what="the workers' end")


_TELL_MODULES = f"""
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import Supervisor

task = TaskSpec(task_id="0", payload=("modules", ["kbr.backup.task", "kbr.restore.task"]))
outcome = Supervisor(entry="{ENTRY}", worker_count=1).run([task], on_event=lambda *_: None)
print("\\n".join(outcome.results["0"]))
"""


def test_workers_load_nothing_of_the_command_line() -> None:
    # in a process of its own: the forkserver of this one has loaded what other tests needed
    done = subprocess.run(
        [sys.executable, "-c", _TELL_MODULES], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "kbr.backup.task" in loaded
    assert not loaded & {"click", "rich", "pydantic", "yaml", "pyarrow", "s3fs", "fsspec"}
