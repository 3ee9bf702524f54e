"""The supervisor's decisions under random events: workers that die, hang, stall or talk nonsense, and stops in between."""

from __future__ import annotations

import random
import signal

from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.errors import WorkerBootFailed, WorkerError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.retries import MAX_RESTARTS, Retry
from kbr.runtime.state import Abandon, AskStop, Assign, Instruction, Judge, Kill, Release, Spawn, SupervisorState

#: Attempts of a task and of each half of it, as the world below has it.
ATTEMPTS = 3


class _World:
    """Plays supervisor, workers and caller, and keeps its own account of who does what.

    A task is a set of pieces; one that fails is tried again, or split in two, until it has had its attempts.
    """

    def __init__(self, rng: random.Random, *, tasks: int, workers: int) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.pieces = {f"t{number}": (number * 2, number * 2 + 1) for number in range(tasks)}
        self.attempt = dict.fromkeys(self.pieces, 1)
        self.workers = workers
        self.state = SupervisorState(
            [TaskSpec(task_id=name, payload=None) for name in self.pieces], worker_limit=workers, stop_timeout_s=30.0
        )
        #: Live processes: the task that each one has, None when it has none.
        self.live: dict[int, str | None] = {}
        self.booting: set[int] = set()
        self.killed: set[int] = set()
        self.leaving: set[int] = set()
        #: Killed ones that never end.
        self.undead: set[int] = set()
        #: Those that sent what can't be read.
        self.nonsense: set[int] = set()
        #: What undead ones have in hand, for ever.
        self.lost: set[int] = set()
        self.assigned: list[str] = []
        self.next_worker = 0
        self.spawns_in_a_row = 0
        #: Faults are played only for so long; afterwards everything goes well.
        self.faults_left = 60

    def carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Spawn):
                self._spawn()
            elif isinstance(instruction, Assign):
                self._assign(instruction)
            elif isinstance(instruction, Judge):
                self._judge(instruction)
            elif isinstance(instruction, Kill):
                assert instruction.worker not in self.killed, "killed twice"
                self.killed.add(instruction.worker)
            elif isinstance(instruction, Release):
                assert self.live[instruction.worker] is None, "let go with a task in hand"
                self.leaving.add(instruction.worker)
                self.booting.discard(instruction.worker)
            elif isinstance(instruction, AskStop):
                assert self.live[instruction.worker] is not None
            elif isinstance(instruction, Abandon):
                assert instruction.worker in self.killed
                self.exit(instruction.worker, None)

    def _fault(self, chance: float) -> bool:
        if self.faults_left and self.rng.random() < chance:
            self.faults_left -= 1
            return True
        return False

    def _spawn(self) -> None:
        assert not self.state.stopping
        self.spawns_in_a_row += 1
        assert self.spawns_in_a_row <= self.workers + MAX_RESTARTS, "starts are not bounded"
        if self._fault(0.2):
            self.carry_out(self.state.spawn_failed(WorkerBootFailed("no process"), self.now_s))
            return
        number = self.next_worker
        self.next_worker += 1
        self.live[number] = None
        self.booting.add(number)
        self.carry_out(self.state.spawned(number))
        assert len(set(self.live) - self.leaving) <= self.workers, "more processes than there may be"

    def _assign(self, instruction: Assign) -> None:
        task_id = instruction.task.task_id
        assert not self.state.stopping
        assert instruction.worker not in self.killed | self.leaving | self.booting
        assert self.live[instruction.worker] is None, "two tasks at once"
        assert task_id not in self.assigned, "begun twice"
        in_hand = {piece for task in self.live.values() if task is not None for piece in self.pieces[task]}
        assert not (in_hand | self.lost) & set(self.pieces[task_id]), "two workers at one piece"
        self.assigned.append(task_id)
        self.live[instruction.worker] = task_id

    def _judge(self, failure: Judge) -> None:
        task_id = failure.task.task_id
        assert task_id not in self.live.values(), "judged while somebody works at it"
        assert not self.state.stopping
        retries: list[Retry] = []
        pieces = self.pieces[task_id]
        if len(pieces) > 1 and self.rng.random() < 0.5:
            retries = [self._retry(f"{task_id}.{place}", (piece,), 1) for place, piece in enumerate(pieces)]
        elif self.attempt[task_id] < ATTEMPTS:
            retries = [self._retry(f"{task_id}+", pieces, self.attempt[task_id] + 1)]
        if self.rng.random() < 0.05:
            self.carry_out(self.state.stop(self.now_s))  # between question and answer
        self.carry_out(self.state.judged(task_id, retries, self.now_s))

    def _retry(self, task_id: str, pieces: tuple[int, ...], attempt: int) -> Retry:
        self.pieces[task_id] = pieces
        self.attempt[task_id] = attempt
        return Retry(task=TaskSpec(task_id=task_id, payload=None), delay_s=self.rng.choice([0.0, 0.0, 0.05, 3.0]))

    def exit(self, worker: int, code: int | None) -> None:
        task = self.live.pop(worker)
        if code is None and task is not None:
            self.lost.update(self.pieces[task])
        for group in (self.booting, self.killed, self.leaving):
            group.discard(worker)
        self.carry_out(self.state.exited(worker, 1000 + worker, code, self.now_s))

    def step(self, stop_chance: float) -> None:
        self.now_s += self.rng.choice([0.01, 0.1, 0.1, 1.0])
        if self._fault(stop_chance):
            self.carry_out(self.rng.choice([self.state.stop, self.state.end_early])(self.now_s))
        for worker in self.rng.sample(sorted(self.live), len(self.live)):
            if worker in self.live and self.rng.random() < 0.5:
                self._live_on(worker)
        self.carry_out(self.state.tick(self.now_s))

    def _live_on(self, worker: int) -> None:
        state, now_s, task = self.state, self.now_s, self.live[worker]
        if worker in self.killed:
            if self._fault(0.1):
                self.undead.add(worker)
            if task is not None and self.rng.random() < 0.3:
                self._say(worker, task)  # its last words
            if worker not in self.undead:
                self.exit(worker, -signal.SIGKILL)
        elif self._fault(0.1):
            self.exit(worker, self.rng.choice([-signal.SIGKILL, -signal.SIGSEGV, 255, 3, 0]))
        elif self._fault(0.05):
            self.carry_out(state.silent(worker, 1000 + worker, 60.0, now_s))
        elif self._fault(0.05):
            self.nonsense.add(worker)
            self.carry_out(state.broken(worker, WorkerError("nonsense"), now_s))
        elif worker in self.booting:
            error = WorkerBootFailed("no entry") if self._fault(0.05) else None
            if error is None:
                self.spawns_in_a_row = 0
                self.booting.discard(worker)
            self.carry_out(state.ready(worker, error, now_s))
        elif task is not None:
            self._say(worker, task)
        elif worker in self.leaving:
            self.exit(worker, 0)

    def _say(self, worker: int, task: str) -> None:
        # what a worker that talks nonsense says does not count: the task is its own until it is gone
        if worker not in self.nonsense:
            self.live[worker] = None
        if self._fault(0.3):
            self.carry_out(self.state.failed(worker, WorkerError("it failed"), self.now_s))
        else:
            self.carry_out(self.state.done(worker, task, "done", self.now_s))


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    tasks=st.integers(0, 8),
    workers=st.integers(1, 4),
    stop_chance=st.sampled_from([0.0, 0.0, 0.01, 0.1]),
)
def test_whatever_happens_each_piece_of_work_is_done_once_or_accounted_for_and_the_run_ends(
    seed: int, tasks: int, workers: int, stop_chance: float
) -> None:
    world = _World(random.Random(seed), tasks=tasks, workers=workers)
    state = world.state
    world.carry_out(state.begin(0.0))
    for _ in range(3000):
        if state.finished:
            break
        world.step(stop_chance)
    assert state.finished, "it never ends"
    assert not world.live
    ends = [*state.results, *state.failures, *state.unstarted]
    assert len(ends) == len(set(ends)), "one task with two ends"
    pieces = sorted(piece for task_id in ends for piece in world.pieces[task_id])
    assert pieces == list(range(tasks * 2)), "a piece was lost, or done twice"
    assert set(state.unstarted).isdisjoint(world.assigned)
    assert state.stopping or not state.unstarted
    replaced = [task_id for task_id, _ in state.retried]
    assert sorted([*ends, *replaced]) == sorted(world.pieces), "a task is neither here nor there"
    assert state.retried_count == len(replaced)
