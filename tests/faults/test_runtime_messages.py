"""What workers and supervisor say to each other, whatever it is and however much."""

from __future__ import annotations

import io
import json
import os

import pytest

from kbr.errors import CorruptSegment, WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import RunOutcome, Supervisor
from kbr.telemetry import logs

ENTRY = "tests.unit.runtime.worker_verbs:work"


def _run(*payloads: object, workers: int = 2, entry: str = ENTRY, on_event=lambda task_id, event: None) -> RunOutcome:
    supervisor = Supervisor(entry=entry, worker_count=workers)
    tasks = [TaskSpec(task_id=str(number), payload=payload) for number, payload in enumerate(payloads)]
    return supervisor.run(tasks, on_event=on_event)


def test_a_result_that_cannot_be_read_is_the_tasks_error() -> None:
    outcome = _run(("result_that_cannot_be_read", None), ("pid", None))
    assert "the result of task 0: LookupError: this can't be read" in str(outcome.failures["0"])
    assert set(outcome.results) == {"1"}


def test_an_error_whose_facts_cannot_be_sent_comes_with_their_text() -> None:
    error = _run(("error_with_odd_facts", None)).failures["0"]
    assert type(error) is CorruptSegment
    assert (error.message, error.hint, error.context["object"]) == ("s: bad", "look", "'s'")
    assert "lock" in error.context["lock"]


def test_an_event_that_cannot_be_sent_is_the_tasks_error() -> None:
    outcome = _run(("emit_what_cannot_be_sent", None), ("pid", None))
    assert isinstance(outcome.failures["0"], WorkerError)
    assert set(outcome.results) == {"1"}


def test_an_event_that_cannot_be_read_ends_its_worker_and_no_other() -> None:
    outcome = _run(("emit_what_cannot_be_read", None), ("pid", None), ("pid", None), ("pid", None))
    assert "sent what can't be read: LookupError" in str(outcome.failures["0"])
    assert set(outcome.results) == {"1", "2", "3"}


def test_a_task_that_exits_is_a_crash() -> None:
    outcome = _run(("exit_politely", 4), ("pid", None))
    assert isinstance(outcome.failures["0"], WorkerCrashed)
    assert "exit status 4" in str(outcome.failures["0"])
    assert set(outcome.results) == {"1"}


def test_large_payloads_and_events_pass_without_either_side_waiting_for_ever() -> None:
    sizes: list[int] = []
    outcome = _run(
        ("length", b"x" * 8_000_000),
        ("emit_many", (3, 8_000_000)),
        ("length", b"x" * 8_000_000),
        on_event=lambda _task, event: sizes.append(len(event[1])),
    )
    assert outcome.results == {"0": 8_000_000, "1": 3, "2": 8_000_000}
    assert sizes == [8_000_000] * 3


def test_events_come_in_order_and_before_the_result() -> None:
    seen: list[int] = []
    outcome = _run(("emit_many", (2000, 10)), on_event=lambda _task, event: seen.append(event[0]))
    assert seen == list(range(2000))
    assert outcome.results == {"0": 2000}


def test_threads_of_a_task_emit_without_mixing_their_messages() -> None:
    seen: list[int] = []
    _run(("emit_from_threads", (200, 30_000)), on_event=lambda _task, event: seen.append(event[0]))
    assert sorted(seen) == sorted(list(range(200)) * 4)


def test_an_error_of_the_callback_ends_the_run_and_its_workers() -> None:
    pids: list[int] = []

    def fail(_task: str, event: object) -> None:
        pids.append(event)
        raise CorruptSegment("the caller's own")

    with pytest.raises(CorruptSegment, match="the caller's own"):
        _run(("deaf", None), ("deaf", None), on_event=fail)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_each_worker_has_a_number_of_its_own() -> None:
    outcome = _run(("worker_id", None), ("exit_politely", 1), ("worker_id", None), workers=1)
    assert outcome.results == {"0": 0, "2": 1}


def test_log_lines_of_workers_are_written_by_the_supervisors_process() -> None:
    stream = io.StringIO()
    logs.configure(form="json", level="info", stream=stream)
    try:
        pids: list[int] = []
        _run(("pid", None), ("log", "a worker"), workers=1, on_event=lambda _task, event: pids.append(event))
    finally:
        logs.configure()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["a line of a worker", "a library warns", "it failed"]
    assert {line["pid"] for line in lines} == set(pids)
    assert (lines[0]["topic"], lines[0]["partition"]) == ("t", 3)
    assert "ValueError" in lines[2]["traceback"]
    assert "\x1b" not in stream.getvalue()


# -- boot ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('broken at import')", "ValueError: broken at import"),
        ("import sys; sys.exit('exits at import')", "SystemExit: exits at import"),
        ("import os; os._exit(9)", "before it could take a task: exit status 9"),
        ("pass", "AttributeError"),
    ],
)
def test_an_entry_that_cannot_be_imported_fails_every_task_and_is_not_tried_again(
    source: str, said: str, tmp_path, monkeypatch
) -> None:
    (tmp_path / "entry_at_fault.py").write_text(
        f"import pathlib\nopen({str(tmp_path / 'tries')!r}, 'a').write('x')\n{source}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = _run(*[("pid", None)] * 6, entry="entry_at_fault:work")
    assert len(outcome.failures) == 6
    assert all(isinstance(error, WorkerBootFailed) for error in outcome.failures.values())
    assert said in str(outcome.failures["0"])
    assert len((tmp_path / "tries").read_text()) <= 2, "no more than the two first workers"
