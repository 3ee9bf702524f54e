"""The supervisor's decisions, event by event: no process, no clock."""

from __future__ import annotations

import signal

import pytest

from kbr.errors import WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.retries import MAX_REPLACED_KEPT, MAX_RESTARTS, RESTART_DELAY_S, Retry
from kbr.runtime.state import (
    LEAVE_TIMEOUT_S,
    UNDEAD_S,
    Abandon,
    AskStop,
    Assign,
    Instruction,
    Judge,
    Kill,
    Release,
    Spawn,
    SupervisorState,
)

TASKS = [TaskSpec(task_id=str(number), payload=number) for number in range(4)]
FAILURE = WorkerError("no")


def _new(tasks=TASKS, workers: int = 2, stop_timeout_s: float = 30.0) -> SupervisorState:
    return SupervisorState(tasks, worker_limit=workers, stop_timeout_s=stop_timeout_s)


def _busy(tasks=TASKS, workers: int = 2, stop_timeout_s: float = 30.0) -> SupervisorState:
    """All workers are up and have a task."""
    state = _new(tasks, workers, stop_timeout_s)
    assert state.begin(0.0) == [Spawn()] * workers
    for number in range(workers):
        state.spawned(number)
    for number in range(workers):
        assert state.ready(number, None, 0.0) == [Assign(number, tasks[number])]
    return state


def _judge(state: SupervisorState, found: list[Instruction], *retries: Retry, now_s: float = 0.0) -> list[Instruction]:
    """Answer the one failure that is to be judged; what is to be done then."""
    (failure,) = found
    assert isinstance(failure, Judge)
    return state.judged(failure.task.task_id, retries, now_s)


def _retry(task_id: str, delay_s: float = 0.0) -> Retry:
    return Retry(task=TaskSpec(task_id=task_id, payload=task_id), delay_s=delay_s)


def test_no_more_workers_than_tasks_are_started() -> None:
    assert _new(TASKS[:1], 8).begin(0.0) == [Spawn()]


def test_without_tasks_nothing_is_started() -> None:
    state = _new([])
    assert state.begin(0.0) == []
    assert state.finished


def test_two_tasks_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same task_id"):
        _new([TASKS[0], TASKS[0]])


def test_a_free_worker_gets_the_next_task_in_order_and_leaves_when_there_is_none() -> None:
    state = _busy()
    assert state.done(1, "1", "r", 0.0) == [Assign(1, TASKS[2])]
    assert _judge(state, state.failed(0, FAILURE, 0.0)) == [Assign(0, TASKS[3])]
    assert state.done(0, "3", "r", 0.0) == [Release(0)]
    assert state.done(1, "2", "r", 0.0) == [Release(1)]
    assert not state.finished, "a run ends when its workers are gone"
    assert state.exited(0, 100, 0, 0.0) == []
    assert state.exited(1, 101, 0, 0.0) == []
    assert state.finished
    assert set(state.results) == {"1", "2", "3"}
    assert state.failures == {"0": FAILURE}
    assert not state.stopping


def test_a_dead_worker_fails_its_task_and_is_replaced_while_tasks_remain() -> None:
    state = _busy()
    assert _judge(state, state.exited(0, 4711, -signal.SIGKILL, 0.0)) == [Spawn()]
    error = state.failures["0"]
    assert type(error) is WorkerCrashed
    assert str(error) == "worker process 4711 ended while it did task 0: killed by SIGKILL"
    assert "memory" in error.hint
    assert error.context["task_ids"] == ("0",)


def test_a_dead_worker_is_not_replaced_when_nothing_waits() -> None:
    state = _busy(TASKS[:2])
    assert _judge(state, state.exited(0, 1, 3, 0.0)) == []
    assert "exit status 3" in str(state.failures["0"])
    assert "memory" not in state.failures["0"].hint


def test_an_unknown_signal_is_told_by_number() -> None:
    state = _busy()
    _judge(state, state.exited(0, 1, -99, 0.0))
    assert "killed by signal 99" in str(state.failures["0"])


def test_a_leaving_worker_may_end_as_it_likes() -> None:
    state = _busy(TASKS[:1], 1)
    state.done(0, "0", "r", 0.0)
    assert state.exited(0, 1, 70, 0.0) == []
    assert state.failures == {}
    assert state.finished


def test_a_worker_that_does_not_leave_is_killed() -> None:
    state = _busy(TASKS[:1], 1)
    state.done(0, "0", "r", 10.0)
    assert state.tick(10.0 + LEAVE_TIMEOUT_S - 0.1) == []
    assert state.tick(10.0 + LEAVE_TIMEOUT_S) == [Kill(0)]
    assert state.tick(10.0 + LEAVE_TIMEOUT_S + 1) == [], "once is enough"
    state.exited(0, 1, -signal.SIGKILL, 0.0)
    assert state.failures == {}
    assert state.results == {"0": "r"}


# -- boot failures ------------------------------------------------------------------------


def test_a_worker_that_cannot_load_its_entry_is_not_respawned_and_all_tasks_fail() -> None:
    state = _new()
    state.begin(0.0)
    state.spawned(0)
    state.spawned(1)
    error = WorkerBootFailed("no")
    assert state.ready(0, error, 0.0) == [Release(0)]
    assert state.failures == {}, "the other may still boot"
    assert state.ready(1, WorkerBootFailed("again"), 0.0) == [Release(1)]
    assert state.exited(0, 1, 0, 0.0) == []
    assert state.exited(1, 2, 0, 0.0) == []
    assert state.finished
    assert list(state.failures.values()) == [error] * 4


def test_workers_that_did_boot_do_the_tasks_of_those_that_did_not() -> None:
    state = _new(TASKS[:3])
    state.begin(0.0)
    state.spawned(0)
    state.spawned(1)
    assert state.exited(1, 2, 1, 0.0) == [], "what could not begin once would not begin again"
    assert state.ready(0, None, 0.0) == [Assign(0, TASKS[0])]
    assert state.done(0, "0", "r", 0.0) == [Assign(0, TASKS[1])]
    assert _judge(state, state.exited(0, 1, -11, 0.0)) == []
    assert isinstance(state.failures["1"], WorkerCrashed)
    assert isinstance(state.failures["2"], WorkerBootFailed)
    assert state.finished


def _after_first_boot() -> SupervisorState:
    """One worker is busy with task 0, a second one is to start."""
    state = _new()
    assert state.begin(0.0) == [Spawn(), Spawn()]
    state.spawned(0)
    assert state.ready(0, None, 0.0) == [Assign(0, TASKS[0])]
    return state


def test_a_boot_failure_after_others_did_boot_is_retried_after_a_while_that_doubles_five_times() -> None:
    state = _after_first_boot()
    now_s = 0.0
    error = WorkerBootFailed("fork: no memory")
    for attempt in range(MAX_RESTARTS):
        assert state.spawn_failed(error, now_s) == []
        due_s = now_s + RESTART_DELAY_S * 2**attempt
        assert state.tick(due_s - 0.01) == []
        assert state.tick(due_s) == [Spawn()], attempt
        now_s = due_s
    assert state.spawn_failed(error, now_s) == []
    assert state.tick(now_s + 1e6) == [], "that was the last"
    assert state.done(0, "0", "r", now_s) == [Assign(0, TASKS[1])], "who did boot goes on"
    assert _judge(state, state.exited(0, 1, -11, now_s)) == []
    assert {task_id: type(error) for task_id, error in state.failures.items()} == {
        "1": WorkerCrashed,
        "2": WorkerBootFailed,
        "3": WorkerBootFailed,
    }
    assert state.finished


def test_a_worker_that_boots_ends_the_row_of_boot_failures_and_others_follow() -> None:
    state = _new(workers=4)
    assert state.begin(0.0) == [Spawn()] * 4
    state.spawned(0)
    state.ready(0, None, 0.0)
    for _ in range(3):
        assert state.spawn_failed(WorkerBootFailed("no"), 0.0) == [], "three at once are one"
    assert state.tick(RESTART_DELAY_S) == [Spawn()], "one at a time is tried"
    state.spawned(1)
    assert state.tick(RESTART_DELAY_S + 1) == []
    assert state.ready(1, None, 9.0) == [Assign(1, TASKS[1]), Spawn(), Spawn()]
    state.spawn_failed(WorkerBootFailed("no"), 9.0)
    assert state.tick(9.0 + RESTART_DELAY_S) == [], "another one is on its way"
    state.spawned(2)
    state.exited(2, 1, 1, 9.5)
    assert state.tick(9.0 + RESTART_DELAY_S) == [Spawn()]


@pytest.mark.parametrize("code", [-signal.SIGKILL, 255])
def test_a_worker_that_is_killed_at_boot_is_replaced_though_none_did_boot(code: int) -> None:
    state = _new(TASKS[:1])
    state.begin(0.0)
    state.spawned(0)
    assert state.exited(0, 7, code, 0.0) == []
    assert not state.finished
    assert state.tick(RESTART_DELAY_S) == [Spawn()]
    state.spawned(1)
    assert state.ready(1, None, 2.0) == [Assign(1, TASKS[0])]


def test_workers_that_are_killed_at_boot_again_and_again_are_given_up() -> None:
    state = _new(TASKS[:1])
    assert state.begin(0.0) == [Spawn()]
    for number in range(MAX_RESTARTS):
        state.spawned(number)
        assert state.exited(number, 7, -signal.SIGKILL, 100.0 * number) == []
        assert state.tick(100.0 * (number + 1)) == [Spawn()]
    state.spawned(9)
    assert state.exited(9, 7, -signal.SIGKILL, 1e6) == []
    assert isinstance(state.failures["0"], WorkerBootFailed)
    assert state.finished


def test_retries_that_nobody_can_begin_fail_with_what_keeps_workers_from_starting() -> None:
    state = _after_first_boot()
    state.spawned(1)
    state.ready(1, WorkerBootFailed("damaged"), 0.0)
    state.exited(1, 1, 0, 0.0)
    for attempt in range(MAX_RESTARTS):
        assert state.tick(1000.0 * attempt + 500.0) == [Spawn()]
        state.spawn_failed(WorkerBootFailed("damaged"), 1000.0 * attempt + 500.0)
    found = state.exited(0, 1, -11, 1e6)
    assert _judge(state, found, _retry("later", 3600.0), _retry("now"), now_s=1e6) == []
    assert set(state.failures) == {"1", "2", "3", "later", "now"}
    assert all(isinstance(error, WorkerBootFailed) for error in state.failures.values())
    assert state.finished


def test_a_worker_that_exits_at_boot_is_a_boot_failure() -> None:
    state = _new(TASKS[:1])
    state.begin(0.0)
    state.spawned(0)
    assert state.exited(0, 17, 3, 0.0) == []
    assert isinstance(state.failures["0"], WorkerBootFailed)
    assert "before it could take a task: exit status 3" in str(state.failures["0"])
    assert state.finished


def test_a_process_that_cannot_be_started_is_a_boot_failure() -> None:
    state = _new()
    error = WorkerBootFailed("no process")
    assert state.begin(0.0) == [Spawn(), Spawn()]
    assert state.spawn_failed(error, 0.0) == []
    assert not state.finished
    assert state.spawn_failed(error, 0.0) == []
    assert state.finished
    assert set(state.failures.values()) == {error}


# -- stopping -----------------------------------------------------------------------------


def test_a_stop_asks_the_busy_lets_the_booting_go_and_begins_nothing() -> None:
    state = _new()
    state.begin(0.0)
    state.spawned(0)
    state.spawned(1)
    state.ready(0, None, 0.0)
    assert state.stop(5.0) == [AskStop(0), Release(1)]
    assert state.ready(1, None, 5.0) == [], "it was ready too late"
    assert state.done(0, "0", "partial", 6.0) == [Release(0)]
    state.exited(0, 1, 0, 0.0)
    state.exited(1, 2, 0, 0.0)
    assert state.finished
    assert state.stopping
    assert state.results == {"0": "partial"}
    assert state.failures == {}
    assert state.unstarted == ("1", "2", "3")


def test_a_stop_before_the_beginning_begins_nothing() -> None:
    state = _new()
    assert state.stop(0.0) == []
    assert state.begin(0.0) == []
    assert state.finished
    assert state.unstarted == ("0", "1", "2", "3")


def test_a_worker_that_dies_after_a_stop_is_not_replaced() -> None:
    state = _busy()
    state.stop(0.0)
    assert state.exited(0, 1, -11, 0.0) == []
    assert isinstance(state.failures["0"], WorkerCrashed)


def test_a_second_stop_kills_and_says_so() -> None:
    state = _busy()
    state.stop(0.0)
    assert state.stop(1.0) == [Kill(0), Kill(1)]
    assert state.stop(1.1) == []
    state.exited(0, 7, -signal.SIGKILL, 0.0)
    assert str(state.failures["0"]) == "worker process 7 was ended in task 0: the run was stopped a second time"
    assert "memory" not in state.failures["0"].hint


def test_workers_that_do_not_stop_in_time_are_killed() -> None:
    state = _busy(stop_timeout_s=30.0)
    assert state.tick(1e6) == [], "nobody asked"
    state.stop(100.0)
    assert state.tick(129.9) == []
    assert state.tick(130.0) == [Kill(0), Kill(1)]
    state.exited(1, 7, -signal.SIGKILL, 0.0)
    assert "had not stopped 30 s after it was asked to" in str(state.failures["1"])


def test_the_last_word_of_a_killed_worker_counts() -> None:
    state = _busy(TASKS[:1], 1)
    state.stop(0.0)
    state.stop(0.0)
    assert state.done(0, "0", "just in time", 0.1) == []
    state.exited(0, 1, -signal.SIGKILL, 0.0)
    assert state.results == {"0": "just in time"}
    assert state.failures == {}


def test_a_worker_that_was_terminated_itself_ends_the_run() -> None:
    state = _busy()
    assert state.end_early(0.0) == [AskStop(0), AskStop(1)]
    assert state.stopping


def test_a_workers_sigterm_and_the_supervisors_own_are_one_stop() -> None:
    state = _busy()
    state.end_early(0.0)
    assert state.stop(0.1) == [], "a service manager signals all processes: that is the first wish"
    assert state.end_early(0.2) == []
    assert state.stop(0.3) == [Kill(0), Kill(1)]


# -- workers that talk nonsense -----------------------------------------------------------


def test_a_worker_that_cannot_be_understood_is_killed_and_replaced() -> None:
    state = _busy()
    assert state.broken(0, FAILURE, 0.0) == [Kill(0)]
    assert state.broken(0, WorkerError("more of it"), 0.0) == []
    assert state.done(0, "0", "a late word", 0.0) == []
    assert state.failed(0, WorkerError("another"), 0.0) == []
    assert _judge(state, state.exited(0, 1, -signal.SIGKILL, 0.0)) == [Spawn()]
    assert state.failures == {"0": FAILURE}
    assert state.results == {}


# -- retries ------------------------------------------------------------------------------


def test_what_stands_in_for_a_failed_task_is_done_before_what_was_not_begun() -> None:
    state = _busy()
    found = state.failed(0, FAILURE, 5.0)
    first, second = _retry("0.1"), _retry("0.2")
    assert _judge(state, found, first, second, now_s=5.0) == [Assign(0, first.task)]
    assert state.done(1, "1", "r", 6.0) == [Assign(1, second.task)]
    assert state.done(1, "0.2", "r", 6.0) == [Assign(1, TASKS[2])]
    assert state.failures == {}
    assert state.retried == (("0", FAILURE),)
    assert state.retried_count == 1


def test_a_crashed_workers_task_is_judged_when_its_process_is_gone_and_both_halves_get_a_worker() -> None:
    state = _busy(TASKS[:2])
    assert state.done(1, "1", "r", 0.0) == [Release(1)]
    found = state.exited(0, 1, -11, 0.0)
    assert _judge(state, found, _retry("0.1"), _retry("0.2")) == [Spawn(), Spawn()]


def test_a_delayed_retry_is_begun_when_its_time_has_come_and_the_run_waits_for_it() -> None:
    state = _busy(TASKS[:1], 1)
    late, early = _retry("late", 30.0), _retry("early", 10.0)
    assert _judge(state, state.failed(0, FAILURE, 100.0), late, early, now_s=100.0) == [Release(0)]
    assert state.exited(0, 1, 0, 100.1) == []
    assert not state.finished
    assert state.unstarted == ("early", "late")
    assert state.tick(109.9) == []
    assert state.tick(110.0) == [Spawn()]
    state.spawned(1)
    assert state.ready(1, None, 111.0) == [Assign(1, early.task)]
    assert state.tick(130.0) == []
    assert state.done(1, "early", "r", 131.0) == [Assign(1, late.task)]
    assert state.done(1, "late", "r", 132.0) == [Release(1)]
    state.exited(1, 2, 0, 132.0)
    assert state.finished
    assert set(state.results) == {"early", "late"}


def test_several_that_become_due_at_once_keep_their_order() -> None:
    state = _busy(TASKS[:1], 1)
    _judge(state, state.failed(0, FAILURE, 0.0), _retry("c", 3.0), _retry("a", 1.0), _retry("b", 1.0))
    state.exited(0, 1, 0, 0.0)
    state.tick(10.0)
    assert state.unstarted == ("a", "b", "c")


def test_a_retry_may_fail_and_be_retried() -> None:
    state = _busy(TASKS[:1], 1)
    assert _judge(state, state.failed(0, FAILURE, 0.0), _retry("0.1")) == [Assign(0, _retry("0.1").task)]
    assert _judge(state, state.failed(0, FAILURE, 0.0), _retry("0.2")) == [Assign(0, _retry("0.2").task)]
    assert _judge(state, state.failed(0, FAILURE, 0.0)) == [Release(0)]
    assert state.failures == {"0.2": FAILURE}
    assert [task_id for task_id, _ in state.retried] == ["0", "0.1"]


@pytest.mark.parametrize("taken", ["0", "1", "3", "0.1"])
def test_a_retry_with_a_task_id_that_is_taken_is_refused(taken: str) -> None:
    state = _busy()
    state.done(1, "1", "r", 0.0)
    with pytest.raises(ValueError, match=f"a task_id that is taken: {taken}"):
        _judge(state, state.failed(0, FAILURE, 0.0), _retry("0.1"), _retry(taken))


@pytest.mark.parametrize("delay_s", [-0.1, float("inf"), float("nan")])
def test_a_retry_that_would_never_begin_is_refused(delay_s: float) -> None:
    with pytest.raises(ValueError, match="can't wait"):
        _retry("x", delay_s)


def test_a_run_of_a_month_remembers_the_latest_failures_and_counts_all() -> None:
    state = _busy(TASKS[:1], 1)
    for number in range(MAX_REPLACED_KEPT + 10):
        _judge(state, state.failed(0, FAILURE, 0.0), _retry(f"try-{number}"))
    assert state.retried_count == MAX_REPLACED_KEPT + 10
    assert len(state.retried) == MAX_REPLACED_KEPT
    assert state.retried[-1][0] == f"try-{MAX_REPLACED_KEPT + 8}"


def test_a_stop_during_a_delay_ends_the_run_at_once() -> None:
    state = _busy(TASKS[:1], 1)
    _judge(state, state.failed(0, FAILURE, 0.0), _retry("0.1", 3600.0))
    state.exited(0, 1, 0, 0.0)
    assert state.stop(1.0) == []
    assert state.finished
    assert state.unstarted == ("0.1",)
    assert state.failures == {}
    assert state.tick(4000.0) == [], "nothing is begun any more"
    assert state.unstarted == ("0.1",)


def test_nothing_is_retried_once_the_run_is_to_end() -> None:
    state = _busy()
    state.stop(0.0)
    assert state.failed(0, FAILURE, 0.0) == [Release(0)]
    assert state.exited(1, 7, -11, 0.0) == []
    assert set(state.failures) == {"0", "1"}
    assert state.retried_count == 0


def test_what_stands_in_for_a_task_that_failed_just_before_a_stop_is_left_unstarted() -> None:
    state = _busy(TASKS[:1], 1)
    found = state.failed(0, FAILURE, 0.0)
    assert state.stop(0.0) == []
    assert not state.finished
    assert _judge(state, found, _retry("0.1")) == [Release(0)]
    state.exited(0, 1, 0, 0.0)
    assert state.finished
    assert state.unstarted == ("0.1",)


# -- workers that give no sign of life, or do not die -------------------------------------


def test_a_silent_worker_is_killed_and_its_task_is_judged_when_it_is_gone() -> None:
    state = _busy()
    assert state.silent(0, 7, 60.0, 100.0) == [Kill(0)]
    assert state.silent(0, 7, 60.0, 100.1) == []
    assert state.failures == {}
    found = state.exited(0, 7, -signal.SIGKILL, 101.0)
    assert _judge(state, found, _retry("0.1")) == [Spawn()]
    ((task_id, error),) = state.retried
    assert task_id == "0"
    assert type(error) is WorkerCrashed
    assert str(error) == "worker process 7 sent no sign of life for 60 s while it did task 0, and was killed"
    assert error.retriable


def test_what_a_silent_worker_said_at_last_counts() -> None:
    state = _busy(TASKS[:1], 1)
    state.silent(0, 7, 60.0, 0.0)
    assert state.done(0, "0", "it did it", 0.0) == []
    assert state.exited(0, 7, -signal.SIGKILL, 0.0) == []
    assert state.results == {"0": "it did it"}
    assert state.failures == {}


def test_a_worker_that_falls_silent_at_boot_is_replaced() -> None:
    state = _new(TASKS[:1])
    state.begin(0.0)
    state.spawned(0)
    assert state.silent(0, 7, 60.0, 60.0) == [Kill(0)]
    assert state.ready(0, None, 60.0) == [], "too late"
    assert state.exited(0, 7, -signal.SIGKILL, 60.0) == []
    assert state.tick(60.0 + RESTART_DELAY_S) == [Spawn()]


def test_a_worker_that_falls_silent_at_boot_again_and_again_says_so() -> None:
    state = _new(TASKS[:1])
    state.begin(0.0)
    for number in range(MAX_RESTARTS + 1):
        state.spawned(number)
        state.silent(number, 7, 60.0, 1000.0 * number)
        state.exited(number, 7, -signal.SIGKILL, 1000.0 * number)
        state.tick(1000.0 * (number + 1))
    assert isinstance(state.failures["0"], WorkerBootFailed)
    assert "no sign of life for 60 s, before it could take a task" in str(state.failures["0"])
    assert state.finished


def test_a_worker_that_falls_silent_when_it_leaves_harms_no_task() -> None:
    state = _busy(TASKS[:1], 1)
    state.done(0, "0", "r", 0.0)
    assert state.silent(0, 7, 60.0, 0.0) == [Kill(0)]
    assert state.exited(0, 7, -signal.SIGKILL, 0.0) == []
    assert state.finished
    assert state.failures == {}


def test_a_killed_worker_that_does_not_end_is_abandoned_and_its_task_given_to_nobody() -> None:
    state = _busy()
    state.silent(0, 7, 60.0, 100.0)
    assert state.tick(100.0 + UNDEAD_S - 0.1) == []
    assert state.tick(100.0 + UNDEAD_S) == [Abandon(0)]
    assert state.tick(100.0 + UNDEAD_S + 1) == [], "once is enough"
    assert state.exited(0, 7, None, 131.0) == [Spawn()], "the others' work goes on"
    assert "no sign of life" in str(state.failures["0"])
    assert "nobody else may do its task" in str(state.failures["0"])


def test_workers_that_do_not_end_after_a_stop_do_not_keep_the_run_from_ending() -> None:
    state = _busy(TASKS[:1], 1, stop_timeout_s=30.0)
    state.stop(0.0)
    assert state.tick(30.0) == [Kill(0)]
    assert state.tick(30.0 + UNDEAD_S) == [Abandon(0)]
    assert state.exited(0, 7, None, 60.0) == []
    assert state.finished
    assert "had not stopped 30 s after" in str(state.failures["0"])


def test_a_kill_for_want_of_memory_is_told_as_a_fact_where_the_kernel_says_so() -> None:
    state = _busy()
    _judge(state, state.exited(0, 7, -signal.SIGKILL, 0.0, oom_killed=True))
    error = state.failures["0"]
    assert str(error).endswith("killed by SIGKILL, as memory ran out")
    assert "the kernel killed for want of memory" in error.hint
