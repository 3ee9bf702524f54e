"""The supervisor's decisions, event by event: no process, no clock."""

from __future__ import annotations

import signal

import pytest

from kbr.errors import WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.state import LEAVE_TIMEOUT_S, AskStop, Assign, Kill, Release, Spawn, SupervisorState

TASKS = [TaskSpec(task_id=str(number), payload=number) for number in range(4)]
FAILURE = WorkerError("no")


def _new(tasks=TASKS, workers: int = 2, stop_timeout_s: float = 30.0) -> SupervisorState:
    return SupervisorState(tasks, worker_limit=workers, stop_timeout_s=stop_timeout_s)


def _busy(tasks=TASKS, workers: int = 2, stop_timeout_s: float = 30.0) -> SupervisorState:
    """All workers are up and have a task."""
    state = _new(tasks, workers, stop_timeout_s)
    assert state.begin() == [Spawn()] * workers
    for number in range(workers):
        state.spawned(number)
    for number in range(workers):
        assert state.ready(number, None, 0.0) == [Assign(number, tasks[number])]
    return state


def test_no_more_workers_than_tasks_are_started() -> None:
    assert _new(TASKS[:1], 8).begin() == [Spawn()]


def test_without_tasks_nothing_is_started() -> None:
    state = _new([])
    assert state.begin() == []
    assert state.finished


def test_two_tasks_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same task_id"):
        _new([TASKS[0], TASKS[0]])


def test_a_free_worker_gets_the_next_task_in_order_and_leaves_when_there_is_none() -> None:
    state = _busy()
    assert state.done(1, "1", "r", 0.0) == [Assign(1, TASKS[2])]
    assert state.failed(0, "0", FAILURE, 0.0) == [Assign(0, TASKS[3])]
    assert state.done(0, "3", "r", 0.0) == [Release(0)]
    assert state.done(1, "2", "r", 0.0) == [Release(1)]
    assert not state.finished, "a run ends when its workers are gone"
    assert state.exited(0, 100, 0) == []
    assert state.exited(1, 101, 0) == []
    assert state.finished
    assert set(state.results) == {"1", "2", "3"}
    assert state.failures == {"0": FAILURE}
    assert not state.stopping


def test_a_dead_worker_fails_its_task_and_is_replaced_while_tasks_remain() -> None:
    state = _busy()
    assert state.exited(0, 4711, -signal.SIGKILL) == [Spawn()]
    error = state.failures["0"]
    assert type(error) is WorkerCrashed
    assert str(error) == "worker process 4711 ended while it did task 0: killed by SIGKILL"
    assert "memory" in error.hint
    assert error.context["task_ids"] == ("0",)


def test_a_dead_worker_is_not_replaced_when_nothing_waits() -> None:
    state = _busy(TASKS[:2])
    assert state.exited(0, 1, 3) == []
    assert "exit status 3" in str(state.failures["0"])
    assert "memory" not in state.failures["0"].hint


def test_an_unknown_signal_is_told_by_number() -> None:
    state = _busy()
    state.exited(0, 1, -99)
    assert "killed by signal 99" in str(state.failures["0"])


def test_a_leaving_worker_may_end_as_it_likes() -> None:
    state = _busy(TASKS[:1], 1)
    state.done(0, "0", "r", 0.0)
    assert state.exited(0, 1, 70) == []
    assert state.failures == {}
    assert state.finished


def test_a_worker_that_does_not_leave_is_killed() -> None:
    state = _busy(TASKS[:1], 1)
    state.done(0, "0", "r", 10.0)
    assert state.tick(10.0 + LEAVE_TIMEOUT_S - 0.1) == []
    assert state.tick(10.0 + LEAVE_TIMEOUT_S) == [Kill(0)]
    assert state.tick(10.0 + LEAVE_TIMEOUT_S + 1) == [], "once is enough"
    state.exited(0, 1, -signal.SIGKILL)
    assert state.failures == {}
    assert state.results == {"0": "r"}


# -- boot failures ------------------------------------------------------------------------


def test_a_worker_that_cannot_load_its_entry_is_not_respawned_and_all_tasks_fail() -> None:
    state = _new()
    state.begin()
    state.spawned(0)
    state.spawned(1)
    error = WorkerBootFailed("no")
    assert state.ready(0, error, 0.0) == [Release(0)]
    assert state.failures == {}, "the other may still boot"
    assert state.ready(1, WorkerBootFailed("again"), 0.0) == [Release(1)]
    assert state.exited(0, 1, 0) == []
    assert state.exited(1, 2, 0) == []
    assert state.finished
    assert list(state.failures.values()) == [error] * 4


def test_workers_that_did_boot_do_the_tasks_of_those_that_did_not() -> None:
    state = _new(TASKS[:3])
    state.begin()
    state.spawned(0)
    state.spawned(1)
    assert state.ready(0, None, 0.0) == [Assign(0, TASKS[0])]
    assert state.exited(1, 2, 1) == [], "a boot failure is never respawned"
    assert state.done(0, "0", "r", 0.0) == [Assign(0, TASKS[1])]
    assert state.exited(0, 1, -11) == []
    assert isinstance(state.failures["1"], WorkerCrashed)
    assert isinstance(state.failures["2"], WorkerBootFailed)
    assert state.finished


def test_a_worker_that_exits_at_boot_is_a_boot_failure() -> None:
    state = _new(TASKS[:1])
    state.begin()
    state.spawned(0)
    assert state.exited(0, 17, 3) == []
    assert isinstance(state.failures["0"], WorkerBootFailed)
    assert "before it could take a task: exit status 3" in str(state.failures["0"])
    assert state.finished


def test_a_process_that_cannot_be_started_is_a_boot_failure() -> None:
    state = _new()
    error = WorkerBootFailed("no process")
    assert state.begin() == [Spawn(), Spawn()]
    assert state.spawn_failed(error) == []
    assert not state.finished
    assert state.spawn_failed(error) == []
    assert state.finished
    assert set(state.failures.values()) == {error}


# -- stopping -----------------------------------------------------------------------------


def test_a_stop_asks_the_busy_lets_the_booting_go_and_begins_nothing() -> None:
    state = _new()
    state.begin()
    state.spawned(0)
    state.spawned(1)
    state.ready(0, None, 0.0)
    assert state.stop(5.0) == [AskStop(0), Release(1)]
    assert state.ready(1, None, 5.0) == [], "it was ready too late"
    assert state.done(0, "0", "partial", 6.0) == [Release(0)]
    state.exited(0, 1, 0)
    state.exited(1, 2, 0)
    assert state.finished
    assert state.stopping
    assert state.results == {"0": "partial"}
    assert state.failures == {}
    assert state.unstarted == ("1", "2", "3")


def test_a_stop_before_the_beginning_begins_nothing() -> None:
    state = _new()
    assert state.stop(0.0) == []
    assert state.begin() == []
    assert state.finished
    assert state.unstarted == ("0", "1", "2", "3")


def test_a_worker_that_dies_after_a_stop_is_not_replaced() -> None:
    state = _busy()
    state.stop(0.0)
    assert state.exited(0, 1, -11) == []
    assert isinstance(state.failures["0"], WorkerCrashed)


def test_a_second_stop_kills_and_says_so() -> None:
    state = _busy()
    state.stop(0.0)
    assert state.stop(1.0) == [Kill(0), Kill(1)]
    assert state.stop(1.1) == []
    state.exited(0, 7, -signal.SIGKILL)
    assert str(state.failures["0"]) == "worker process 7 was ended in task 0: the run was stopped a second time"
    assert "memory" not in state.failures["0"].hint


def test_workers_that_do_not_stop_in_time_are_killed() -> None:
    state = _busy(stop_timeout_s=30.0)
    assert state.tick(1e6) == [], "nobody asked"
    state.stop(100.0)
    assert state.tick(129.9) == []
    assert state.tick(130.0) == [Kill(0), Kill(1)]
    state.exited(1, 7, -signal.SIGKILL)
    assert "had not stopped 30 s after it was asked to" in str(state.failures["1"])


def test_the_last_word_of_a_killed_worker_counts() -> None:
    state = _busy(TASKS[:1], 1)
    state.stop(0.0)
    state.stop(0.0)
    assert state.done(0, "0", "just in time", 0.1) == []
    state.exited(0, 1, -signal.SIGKILL)
    assert state.results == {"0": "just in time"}
    assert state.failures == {}


def test_a_worker_that_was_terminated_itself_ends_the_run() -> None:
    state = _busy()
    assert state.stop_seen(0.0) == [AskStop(0), AskStop(1)]
    assert state.stopping


def test_a_workers_sigterm_and_the_supervisors_own_are_one_stop() -> None:
    state = _busy()
    state.stop_seen(0.0)
    assert state.stop(0.1) == [], "a service manager signals all processes: that is the first wish"
    assert state.stop_seen(0.2) == []
    assert state.stop(0.3) == [Kill(0), Kill(1)]


# -- workers that talk nonsense -----------------------------------------------------------


def test_a_worker_that_cannot_be_understood_is_killed_and_replaced() -> None:
    state = _busy()
    assert state.broken(0, FAILURE) == [Kill(0)]
    assert state.done(0, "0", "a late word", 0.0) == []
    assert state.exited(0, 1, -signal.SIGKILL) == [Spawn()]
    assert state.failures == {"0": FAILURE}
    assert state.results == {}
