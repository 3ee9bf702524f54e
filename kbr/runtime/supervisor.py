"""Runs tasks in worker processes and watches over them.

The loop: wait for a message, an ended process, a wish to stop or a tick; ask the state machine; do
what it says. Signal handlers only call stop(), which only notes the wish. Nothing in the loop waits
for a single worker, so a worker that is stuck, frozen or slow keeps nobody from stopping the run.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from kbr.errors import KbrError, WorkerBootFailed, WorkerError
from kbr.runtime.executors.local import LocalWorker, prestart, spawn_worker
from kbr.runtime.liveness import HANG_S, LifeSigns, beat_interval_s
from kbr.runtime.messages import (
    Leave,
    Ready,
    RunTask,
    StopSeen,
    StopWork,
    TaskDone,
    TaskEvent,
    TaskFailed,
    TaskSpec,
    Usage,
    WorkerLog,
    WorkerMessage,
)
from kbr.runtime.oom import OomKills, memory_events_file
from kbr.runtime.retries import Retry
from kbr.runtime.state import Abandon, AskStop, Assign, Instruction, Judge, Kill, Release, SupervisorState
from kbr.telemetry.logs import replay
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["Retry", "RunOutcome", "Supervisor"]

#: on_tick's interval and the loop's patience, seconds: progress, checkpoints and deadlines hang on it.
TICK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What became of the tasks.

    Attributes:
        results: by task_id; partial ones when interrupted.
        failures: by task_id; of those that others stand in for, the others' only.
        retried: failures that others stand in for, task_id and error, in order; the last thousand.
        retried_count: how many there were.
        interrupted: somebody stopped the run.
        unstarted: task_ids that nobody began, those that waited to stand in for others included.
        peak_worker_rss_bytes: the largest worker's peak resident memory.
        worker_cpu_s: CPU seconds of all workers up to the end of their last task.
    """

    results: dict[str, object]
    failures: dict[str, KbrError]
    retried: tuple[tuple[str, KbrError], ...]
    retried_count: int
    interrupted: bool
    unstarted: tuple[str, ...]
    peak_worker_rss_bytes: int
    worker_cpu_s: float


#: A wish to stop, and one to end early.
_STOP, _END_EARLY = b"s", b"e"


class _Wishes:
    """Wishes to stop, as bytes in a pipe: a signal handler, or any thread, may put one in at any time.

    The pipe lives as long as this object, not as long as a run: a signal that comes after the run must not be
    written to whatever file has got the descriptor's number since.
    """

    def __init__(self) -> None:
        self._fds = os.pipe()
        for fd in self._fds:
            os.set_blocking(fd, False)

    @property
    def fd(self) -> int:
        """Becomes readable with a wish."""
        return self._fds[0]

    def add(self, wish: bytes) -> None:
        """Note one."""
        try:
            os.write(self._fds[1], wish)
        except BlockingIOError:
            return  # thousands are noted already

    def take(self) -> bytes:
        """Those that came since the last time."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def __del__(self) -> None:
        for fd in getattr(self, "_fds", ()):  # there are none when there were no descriptors left for them
            os.close(fd)


class Supervisor:
    """One run of some tasks.

    Args:
        entry: ``package.module:function``, called in the worker with (payload, context).
        worker_count: processes at once.
        preload: modules that the forkserver imports once for all workers.
        withheld: names of environment variables that workers don't inherit, beside those that are named like secrets.
        stop_timeout_s: how long workers get after the first stop() before they are killed.
        hang_timeout_s: a worker that gives no sign of life for so long is killed. Its process beats by itself, so this
            finds those that are frozen, starved, or stuck in compiled code that keeps the GIL; not a task that
            waits for ever. Time in which the supervisor did not run does not count.
    """

    def __init__(
        self,
        *,
        entry: str,
        worker_count: int,
        preload: Sequence[str] = (),
        withheld: Collection[str] = (),
        stop_timeout_s: float = 30.0,
        hang_timeout_s: float = HANG_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if worker_count < 1:
            raise ValueError("a supervisor needs at least one worker")
        self._entry = entry
        self._worker_count = worker_count
        self._preload = tuple(preload)
        self._withheld = frozenset(withheld)
        self._stop_timeout_s = stop_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self._clock = clock
        self._signs = LifeSigns(hang_timeout_s, clock.monotonic())
        self._oom_kills = OomKills(memory_events_file())
        self._on_failure: Callable[[TaskSpec, KbrError], Sequence[Retry]] | None = None
        self._wishes = _Wishes()
        self._workers: dict[int, LocalWorker] = {}
        self._by_fd: dict[int, int] = {}
        self._usage: dict[int, Usage] = {}
        self._next_worker = 0

    @staticmethod
    def prestart(preload: Sequence[str] = ()) -> None:
        """Start the forkserver now, so that it is up when the first worker is needed.

        Returns at once; ``preload`` is imported meanwhile. Optional: run() does it otherwise.
        """
        prestart(preload)

    def stop(self) -> None:
        """Ask for the end of the run; a second time: now. Safe in a signal handler and in any thread.

        Before run() it makes the run end before it begins, after run() it does nothing.
        """
        self._wishes.add(_STOP)

    def end_early(self) -> None:
        """Have everything that was begun end with what is there, and begin no more; any number of times.

        Unlike stop(), it counts as no wish of somebody who is in a hurry: a stop() that comes after it still asks.
        """
        self._wishes.add(_END_EARLY)

    def run(
        self,
        tasks: Sequence[TaskSpec],
        *,
        on_event: Callable[[str, object], None],
        on_tick: Callable[[], None] | None = None,
        on_failure: Callable[[TaskSpec, KbrError], Sequence[Retry]] | None = None,
    ) -> RunOutcome:
        """Do all tasks; returns when no worker is left.

        Args:
            tasks: in the order in which they are begun.
            on_event: gets (task_id, event) of every event that a worker emits.
            on_tick: called ten times a second.
            on_failure: says what stands in for a task that failed, and when; nothing, or no on_failure: the failure
                stands. Called when nobody works at the task any more, and not once the run is to end. It must be
                quick, and bound the attempts. Not asked for: a task that nobody could begin as no worker starts, and
                one whose worker is not known to have ended.

        Raises:
            ValueError: two tasks have the same id.
            KbrError: what on_event, on_tick or on_failure raise ends the run; workers are killed first.
        """
        self._on_failure = on_failure
        state = SupervisorState(tasks, worker_limit=self._worker_count, stop_timeout_s=self._stop_timeout_s)
        if tasks:
            prestart(self._preload, withheld=self._withheld)
        try:
            self._hear_wishes(state)
            self._carry_out(state, state.begin(self._clock.monotonic()))
            tick_at = self._clock.monotonic()
            while not state.finished:
                self._take_what_came(state, on_event, patience_s=max(0.0, tick_at - self._clock.monotonic()))
                self._hear_wishes(state)
                now = self._clock.monotonic()
                self._signs.round_ended(now)
                if now >= tick_at:
                    tick_at = now + TICK_S
                    self._end_silent(state, now)
                    self._carry_out(state, state.tick(now))
                    if on_tick is not None:
                        on_tick()
        finally:
            self._end_all()
        return RunOutcome(
            results=state.results,
            failures=state.failures,
            retried=state.retried,
            retried_count=state.retried_count,
            interrupted=state.stopping,
            unstarted=state.unstarted,
            peak_worker_rss_bytes=max((usage.peak_rss_bytes for usage in self._usage.values()), default=0),
            worker_cpu_s=sum(usage.cpu_s for usage in self._usage.values()),
        )

    def _hear_wishes(self, state: SupervisorState) -> None:
        for wish in self._wishes.take():
            now = self._clock.monotonic()
            self._carry_out(state, state.stop(now) if wish == _STOP[0] else state.end_early(now))

    # -- what workers say -----------------------------------------------------------------

    def _take_what_came(
        self, state: SupervisorState, on_event: Callable[[str, object], None], *, patience_s: float
    ) -> None:
        poll = select.poll()
        poll.register(self._wishes.fd, select.POLLIN)
        for worker in self._workers.values():
            poll.register(worker.pipe, select.POLLIN | (select.POLLOUT if worker.has_unsent else 0))
            poll.register(worker.sentinel, select.POLLIN)
        by_fd = self._by_fd.copy()
        for fd, what in poll.poll(patience_s * 1000):
            number = by_fd.get(fd)
            if number is None or number not in self._workers:
                continue  # a wish, or a worker that an earlier event of this round buried
            found = self._workers[number]
            if fd == found.sentinel:
                self._bury(state, number, found, on_event)
            elif what & select.POLLOUT:
                found.send_more()
            elif not self._listen(state, number, found, on_event):
                # the pipe has ended before the sentinel tells: the process is on its way out
                self._bury(state, number, found, on_event)

    def _listen(
        self, state: SupervisorState, number: int, worker: LocalWorker, on_event: Callable[[str, object], None]
    ) -> bool:
        """Take what a worker says; False when it will say no more."""
        self._signs.heard(number)
        try:
            messages, more = worker.receive()
        except Exception as error:
            # whatever unpickling raises: the stream can't be trusted from here on
            unreadable = WorkerError(
                f"worker process {worker.pid} sent what can't be read: {type(error).__name__}: {error}",
                hint="this is a bug in kbr; run with --debug and report what it prints",
            )
            unreadable.__cause__ = error
            self._carry_out(state, state.broken(number, unreadable, self._clock.monotonic()))
            return False
        for message in messages:
            self._take(state, number, message, on_event)
        return more

    def _take(
        self, state: SupervisorState, number: int, message: WorkerMessage, on_event: Callable[[str, object], None]
    ) -> None:
        now = self._clock.monotonic()
        if isinstance(message, TaskEvent):
            on_event(message.task_id, message.event)
        elif isinstance(message, WorkerLog):
            replay(message.line)
        elif isinstance(message, TaskDone):
            self._usage[number] = message.usage
            self._carry_out(state, state.done(number, message.task_id, message.result, now))
        elif isinstance(message, TaskFailed):
            self._usage[number] = message.usage
            self._carry_out(state, state.failed(number, message.error, now))
        elif isinstance(message, Ready):
            self._carry_out(state, state.ready(number, message.error, now))
        elif isinstance(message, StopSeen):
            self._carry_out(state, state.end_early(now))
        # a Beat was heard, that is all

    def _bury(
        self, state: SupervisorState, number: int, worker: LocalWorker, on_event: Callable[[str, object], None]
    ) -> None:
        # what it said before it ended counts; the end of its pipe also proves the end of the process
        while worker.wait_for_last_words() and self._listen(state, number, worker, on_event):
            pass
        self._forget(number, worker)
        code = worker.end()
        self._carry_out(
            state,
            state.exited(
                number,
                worker.pid,
                code,
                self._clock.monotonic(),
                oom_killed=code == -signal.SIGKILL and self._oom_kills.take(),
            ),
        )

    def _end_silent(self, state: SupervisorState, now: float) -> None:
        for number in self._signs.silent():
            worker = self._workers[number]
            # what came while this round's other messages were dealt with counts
            if not worker.has_words():
                self._carry_out(state, state.silent(number, worker.pid, self._hang_timeout_s, now))

    # -- what the state machine says ------------------------------------------------------

    def _carry_out(self, state: SupervisorState, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Assign):
                self._workers[instruction.worker].send(RunTask(instruction.task))
            elif isinstance(instruction, AskStop):
                self._workers[instruction.worker].send(StopWork())
            elif isinstance(instruction, Kill):
                self._workers[instruction.worker].kill()
            elif isinstance(instruction, Release):
                self._workers[instruction.worker].send(Leave())
            elif isinstance(instruction, Judge):
                self._judge(state, instruction)
            elif isinstance(instruction, Abandon):
                self._abandon(state, instruction.worker)
            else:
                self._spawn(state)

    def _spawn(self, state: SupervisorState) -> None:
        number = self._next_worker
        self._next_worker += 1
        try:
            worker = spawn_worker(number, self._entry, beat_interval_s(self._hang_timeout_s))
        except WorkerBootFailed as error:
            self._carry_out(state, state.spawn_failed(error, self._clock.monotonic()))
            return
        self._workers[number] = worker
        self._signs.heard(number)
        self._by_fd[worker.pipe] = self._by_fd[worker.sentinel] = number
        self._carry_out(state, state.spawned(number))

    def _judge(self, state: SupervisorState, failure: Judge) -> None:
        retries = self._on_failure(failure.task, failure.error) if self._on_failure is not None else ()
        self._carry_out(state, state.judged(failure.task.task_id, retries, self._clock.monotonic()))

    def _abandon(self, state: SupervisorState, number: int) -> None:
        worker = self._workers[number]
        self._forget(number, worker)
        worker.abandon()
        self._carry_out(state, state.exited(number, worker.pid, None, self._clock.monotonic()))

    def _forget(self, number: int, worker: LocalWorker) -> None:
        self._signs.forget(number)
        del self._workers[number], self._by_fd[worker.pipe], self._by_fd[worker.sentinel]

    def _end_all(self) -> None:
        """No worker outlives the run, whatever ended it."""
        workers = self._workers.copy()
        for worker in workers.values():
            worker.kill()
        for number, worker in workers.items():
            self._forget(number, worker)
            worker.end()
