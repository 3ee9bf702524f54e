"""The supervisor's decisions, event by event."""

from __future__ import annotations

from kbr.errors import WorkerBootFailed, WorkerCrashed
from kbr.runtime.messages import TaskSpec
from kbr.runtime.state import AskStop, Assign, Kill, Release, Spawn, SupervisorState

TASKS = [TaskSpec(task_id=str(number), payload=number) for number in range(4)]
CRASH = WorkerCrashed("gone")


def _begun(workers: int = 2) -> SupervisorState:
    """All workers are up and have a task."""
    state, instructions = SupervisorState.begin(TASKS, workers)
    assert instructions == [Spawn()] * workers
    for number in range(workers):
        state.spawned(number)
        assert state.ready(number, None) == [Assign(number, TASKS[number])]
    return state


def test_no_more_workers_than_tasks_are_started() -> None:
    _state, instructions = SupervisorState.begin(TASKS[:1], 8)
    assert instructions == [Spawn()]


def test_an_idle_worker_gets_the_next_task_in_order() -> None:
    state = _begun()
    assert state.done(1, "1", "r") == [Assign(1, TASKS[2])]
    assert state.failed(0, "0", CRASH) == [Assign(0, TASKS[3])]
    assert state.done(0, "3", "r") == [Release(0)]
    state.released(0)
    assert not state.finished
    assert state.done(1, "2", "r") == [Release(1)]
    state.released(1)
    assert state.finished


def test_a_dead_worker_is_replaced_while_tasks_remain() -> None:
    state = _begun()
    assert state.exited(0, CRASH) == [Spawn()]
    assert state.failures == {"0": CRASH}


def test_a_dead_worker_is_not_replaced_when_nothing_is_left() -> None:
    state = _begun()
    state.waiting.clear()
    assert state.exited(0, CRASH) == []


def test_a_worker_that_cannot_boot_ends_the_run_and_is_not_respawned() -> None:
    state, _ = SupervisorState.begin(TASKS, 2)
    state.spawned(0)
    state.spawned(1)
    error = WorkerBootFailed("no")
    assert Release(0) in state.ready(0, error)
    state.released(0)
    state.released(1)
    assert state.finished
    assert set(state.failures.values()) == {error}


def test_a_stop_asks_the_busy_lets_the_idle_go_and_begins_nothing() -> None:
    state = _begun()
    state.running[1] = None
    assert state.stop() == [AskStop(0), Release(1)]
    state.released(1)
    assert state.done(0, "0", "partial") == [Release(0)]
    state.released(0)
    assert state.finished
    assert [task.task_id for task in state.waiting] == ["2", "3"]


def test_a_second_stop_kills() -> None:
    state = _begun()
    state.stop()
    assert state.stop() == [Kill(0), Kill(1)]
    assert state.killing
