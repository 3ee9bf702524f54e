"""Runs tasks in worker processes and watches over them.

The loop: wait for a message, an ended process, a wish to stop or a tick; ask the state machine; do
what it says. Signal handlers only call stop(), which only notes the wish.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait

from kbr.errors import KbrError, WorkerCrashed
from kbr.runtime.executors.local import LocalWorker, prestart, spawn_worker
from kbr.runtime.messages import Ready, RunTask, StopWork, TaskDone, TaskEvent, TaskFailed, TaskSpec, Usage
from kbr.runtime.state import AskStop, Assign, Instruction, Kill, Release, Spawn, SupervisorState
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["RunOutcome", "Supervisor"]

#: The loop looks up at least this often, seconds: progress, checkpoints and deadlines hang on it.
TICK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What became of the tasks.

    Attributes:
        results: by task_id.
        failures: by task_id.
        interrupted: somebody stopped the run.
        unstarted: task_ids that nobody began.
        peak_worker_rss_bytes: the largest worker's peak resident memory.
        worker_cpu_s: CPU seconds of all workers up to the end of their last task.
    """

    results: dict[str, object]
    failures: dict[str, KbrError]
    interrupted: bool
    unstarted: tuple[str, ...]
    peak_worker_rss_bytes: int
    worker_cpu_s: float


class Supervisor:
    """One run of some tasks.

    Args:
        entry: ``package.module:function``, called in the worker with (payload, context).
        worker_count: processes at once.
        preload: modules that the forkserver imports once for all workers.
        stop_timeout_s: how long workers get after the first stop() before they are killed.
    """

    def __init__(
        self,
        *,
        entry: str,
        worker_count: int,
        preload: Sequence[str] = (),
        stop_timeout_s: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if worker_count < 1:
            raise ValueError("a supervisor needs at least one worker")
        self._entry = entry
        self._worker_count = worker_count
        self._preload = tuple(preload)
        self._stop_timeout_s = stop_timeout_s
        self._clock = clock
        self._wishes = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._workers: dict[int, LocalWorker] = {}
        self._usage: dict[int, Usage] = {}
        self._next_worker = 0

    def stop(self) -> None:
        """Ask for the end of the run; a second time: now. Safe in a signal handler."""
        self._wishes += 1
        try:
            os.write(self._wake_write, b"s")
        except OSError:
            return  # the pipe is full of wishes, or the run is over: the count tells

    def run(
        self,
        tasks: Sequence[TaskSpec],
        *,
        on_event: Callable[[str, object], None],
        on_tick: Callable[[], None] | None = None,
    ) -> RunOutcome:
        """Do all tasks; returns when no worker is left.

        Args:
            tasks: in the order in which they are begun.
            on_event: gets (task_id, event) of every event that a worker emits.
            on_tick: called several times a second.

        Raises:
            KbrError: what on_event or on_tick raise ends the run; workers are killed first.
        """
        prestart(self._preload)
        state, instructions = SupervisorState.begin(tasks, self._worker_count)
        try:
            self._carry_out(state, instructions)
            self._loop(state, on_event, on_tick)
        finally:
            self._end_all()
        return RunOutcome(
            results=state.results,
            failures=state.failures,
            interrupted=state.stopping,
            unstarted=tuple(task.task_id for task in state.waiting),
            peak_worker_rss_bytes=max((usage.peak_rss_bytes for usage in self._usage.values()), default=0),
            worker_cpu_s=sum(usage.cpu_s for usage in self._usage.values()),
        )

    def _loop(
        self, state: SupervisorState, on_event: Callable[[str, object], None], on_tick: Callable[[], None] | None
    ) -> None:
        heard = 0
        deadline: Deadline | None = None
        while not state.finished:
            self._wait_and_take(state, on_event)
            if on_tick is not None:
                on_tick()
            while heard < self._wishes:
                heard += 1
                self._carry_out(state, state.stop())
                deadline = deadline or Deadline(self._stop_timeout_s, clock=self._clock)
            if deadline is not None and deadline.passed and not state.killing:
                self._carry_out(state, state.kill())

    def _wait_and_take(self, state: SupervisorState, on_event: Callable[[str, object], None]) -> None:
        by_handle: dict[object, int] = {}
        for number, worker in self._workers.items():
            by_handle[worker.connection] = number
            by_handle[worker.sentinel] = number
        ready = wait([*by_handle, self._wake_read], timeout=TICK_S)  # type: ignore[list-item]
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        ended = []
        for handle in ready:
            number_of = by_handle.get(handle)
            if number_of is None or number_of not in self._workers:
                continue
            if isinstance(handle, int):
                ended.append(number_of)
            else:
                self._take(state, number_of, on_event)
        for number in ended:
            # what it said before it ended counts
            while number in self._workers and self._workers[number].connection.poll():
                if not self._take(state, number, on_event):
                    break
            if number in self._workers:
                self._buried(state, number)

    def _take(self, state: SupervisorState, number: int, on_event: Callable[[str, object], None]) -> bool:
        message = self._workers[number].receive()
        if message is None:
            return False
        if isinstance(message, TaskEvent):
            on_event(message.task_id, message.event)
        elif isinstance(message, TaskDone):
            self._usage[number] = message.usage
            self._carry_out(state, state.done(number, message.task_id, message.result))
        elif isinstance(message, TaskFailed):
            self._usage[number] = message.usage
            self._carry_out(state, state.failed(number, message.task_id, message.error))
        elif isinstance(message, Ready):
            self._carry_out(state, state.ready(number, message.error))
        return True

    def _buried(self, state: SupervisorState, number: int) -> None:
        worker = self._workers.pop(number)
        pid = worker.pid
        code = worker.close()
        task = state.running.get(number)
        doing = f"while it did task {task.task_id}" if task is not None else "while it was idle"
        error = WorkerCrashed(f"worker process {pid} ended {doing}: {_how(code)}", hint=_hint(code), exit_code=code)
        self._carry_out(state, state.exited(number, error))

    def _carry_out(self, state: SupervisorState, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Spawn):
                number = self._next_worker
                self._next_worker += 1
                self._workers[number] = spawn_worker(self._entry)
                self._carry_out(state, state.spawned(number))
            elif isinstance(instruction, Assign):
                self._workers[instruction.worker].send(RunTask(instruction.task))
            elif isinstance(instruction, AskStop):
                self._workers[instruction.worker].send(StopWork())
            elif isinstance(instruction, Kill):
                self._workers[instruction.worker].kill()
            elif isinstance(instruction, Release):
                worker = self._workers.pop(instruction.worker, None)
                if worker is not None:
                    worker.close()
                self._carry_out(state, state.released(instruction.worker))

    def _end_all(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _how(code: int | None) -> str:
    if code is None:
        return "nobody knows how"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit status {code}"


def _hint(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the system may have run out of memory: look at its log, and lower memory_limit or workers"
    return "what it had committed is kept; look at what it wrote to standard error"
