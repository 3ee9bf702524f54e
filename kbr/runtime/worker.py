"""A worker process: takes tasks from its pipe, one after another, until it is told to leave.

A control thread reads the pipe, so that a stop, or the supervisor's death, is seen whatever the main
thread is doing. When the supervisor is gone the process ends at once, without clean-up: whatever it
was doing must be safe to be cut anywhere, and nothing may be written once nobody watches.

Tasks run in the main thread. When that, the control thread or the one that beats ends by an error, the process does: a
worker that only seems to live would be waited for.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import forkserver

from kbr.errors import KbrError, WorkerBootFailed, WorkerCrashed, WorkerError
from kbr.runtime.crash_dumps import forbid_core_dumps
from kbr.runtime.framing import FrameReader, frame
from kbr.runtime.leaving import leave
from kbr.runtime.messages import (
    Beat,
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
from kbr.runtime.orphans import FORKSERVER_PID, ORPHANED_STATUS, die_with
from kbr.secrecy import guard_stderr
from kbr.telemetry.logs import forward_to

__all__ = ["SHIELDED_SIGNALS", "TaskContext", "worker_main"]

#: What a terminal, a service manager or `pkill -USR1 kbr` may send to all processes at once. The forkserver is
#: started with these blocked, for they would end it and every worker with it; a worker unblocks them.
SHIELDED_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})

#: ru_maxrss is in KiB on Linux, in bytes on macOS (getrusage(2)).
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
_READ_BYTES = 64 * 1024

_Entry = Callable[[object, "TaskContext"], object]


class _Pipe:
    """The worker's end: many threads send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._reader = FrameReader()

    def send(self, message: WorkerMessage) -> None:
        """Send, or end the process when the supervisor is gone.

        Raises:
            Exception: whatever pickling an odd value raises; then nothing was sent.
        """
        self.send_frame(_framed(message))

    def send_frame(self, data: bytes) -> None:
        """The same with a message that is framed already."""
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(ORPHANED_STATUS)

    def receive(self) -> list[RunTask | StopWork | Leave]:
        """The next messages; ends the process when the supervisor is gone."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            os._exit(ORPHANED_STATUS)
        return [pickle.loads(message) for message in self._reader.feed(data)]


def _framed(message: WorkerMessage) -> bytes:
    return frame(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


class _Stop:
    """Whether to end early, and who said so."""

    def __init__(self, pipe: _Pipe) -> None:
        #: Plain attributes: a signal handler may not wait for a lock that it interrupted.
        self.requested = False
        self._terminated = False
        self._pipe = pipe
        self._lock = threading.Lock()
        self._told = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def terminated(self, _number: int, _frame: object) -> None:
        """SIGTERM's handler."""
        self.requested = True
        self._terminated = True
        self._wake.put(None)  # made for signal handlers: put() is reentrant

    def tell_supervisor(self) -> None:
        """Say that SIGTERM came, once; on the way before any result that it may have cut short."""
        if not self._terminated:
            return
        with self._lock:
            if not self._told:
                self._pipe.send(StopSeen())
                self._told = True

    def watch(self) -> None:
        """A thread's work: tells it at once, whatever the main thread does."""
        self._wake.get()
        self.tell_supervisor()


class TaskContext:
    """What a task's function may use of its worker.

    Attributes:
        worker_id: unique in a run; a replacement has a new one.
    """

    def __init__(self, worker_id: int, task_id: str, pipe: _Pipe, stop: _Stop) -> None:
        self.worker_id = worker_id
        self._task_id = task_id
        self._pipe = pipe
        self._stop = stop

    def emit(self, event: object) -> None:
        """Send a picklable event to the supervisor; any thread may. Waits while the supervisor is behind."""
        self._pipe.send(TaskEvent(self._task_id, event))

    def stop_requested(self) -> bool:
        """Whether the run is to end now, with what is there."""
        return self._stop.requested


def worker_main(end: socket.socket, worker_id: int, entry: str, log_level: int, beat_s: float) -> None:
    """The process's main function; never returns.

    Args:
        end: its end of the pipe.
        worker_id: unique in a run.
        entry: ``package.module:function``, called with (payload, context) for each task.
        log_level: of the lines that are worth sending, as `logging` numbers them.
        beat_s: how often it gives a sign of life.
    """
    status = 1
    try:
        _work(end, worker_id, entry, log_level, beat_s)
        status = 0
    except BaseException as error:
        # what no task may raise, or an error of this module: said here, as the interpreter's own end is not waited for
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            status = error.code or 0
        else:
            traceback.print_exc()
    finally:
        leave(status)  # meanwhile the process would beat as if it were alive


def _work(end: socket.socket, worker_id: int, entry: str, log_level: int, beat_s: float) -> None:
    pipe = _Pipe(end)
    stop = _Stop(pipe)
    _die_with_the_forkserver()
    forbid_core_dumps()
    guard_stderr()
    # a crash in compiled code tells at least where: file names and lines, no values
    if sys.stderr is not None:  # None when the descriptor is closed
        faulthandler.enable()
    forward_to(lambda line: pipe.send(WorkerLog(line)), level=log_level)
    tasks: queue.SimpleQueue[TaskSpec | None] = queue.SimpleQueue()
    _start("control", lambda: _control(pipe, stop, tasks))
    _start("sigterm", stop.watch)
    _start("beat", lambda: _beat(pipe, beat_s))
    _take_signals(stop)
    function = _load(entry, pipe)
    if function is not None:
        pipe.send(Ready(None))
    while (task := tasks.get()) is not None:
        if function is not None:
            ended = _run(function, task, TaskContext(worker_id, task.task_id, pipe, stop))
            stop.tell_supervisor()
            pipe.send(ended)


def _start(name: str, work: Callable[[], None]) -> None:
    """Run a thread without which the process is of no use."""

    def run() -> None:
        try:
            work()
        except BaseException:  # MemoryError, above all
            try:
                traceback.print_exc()
            finally:
                os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


def _beat(pipe: _Pipe, beat_s: float) -> None:
    """A thread's work: proves that the process runs and that its threads get the GIL, and no more than that.

    It waits while another message is on its way, which is a sign of life itself.
    """
    beat = _framed(Beat())
    never = threading.Event()
    while not never.wait(beat_s):
        pipe.send_frame(beat)


def _control(pipe: _Pipe, stop: _Stop, tasks: queue.SimpleQueue[TaskSpec | None]) -> None:
    while True:
        for message in pipe.receive():
            if isinstance(message, RunTask):
                tasks.put(message.task)
            elif isinstance(message, StopWork):
                stop.requested = True
            else:
                tasks.put(None)


def _take_signals(stop: _Stop) -> None:
    """Ctrl-C goes to the whole process group: the supervisor says over the pipe what is to happen."""
    for number in SHIELDED_SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop.terminated)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED_SIGNALS)


def _die_with_the_forkserver() -> None:
    """Have the kernel kill this process when its parent, the forkserver, ends, which is tied to the supervisor in the same way.

    The control thread sees the supervisor's end as well, but needs the GIL, which compiled code may hold, and does nothing
    in a process that is stopped; and a forkserver that was killed can't watch this process any more.
    """
    # the forkserver goes on for as long as anybody has this descriptor, so that workers could start workers
    alive_fd = forkserver._forkserver.__dict__.pop("_forkserver_alive_fd", None)
    if alive_fd is not None:
        os.close(alive_fd)
    die_with(FORKSERVER_PID)


def _load(entry: str, pipe: _Pipe) -> _Entry | None:
    """The entry function; None when there is none, which the supervisor then knows."""
    try:
        module, _, name = entry.partition(":")
        function: _Entry = getattr(importlib.import_module(module), name)
    except BaseException as error:  # SystemExit too: a module that exits at import is as useless
        pipe.send(
            Ready(
                WorkerBootFailed(
                    f"a worker could not load {entry}: {type(error).__name__}: {error}",
                    hint="the installation is damaged: reinstall kbr",
                    traceback=traceback.format_exc(),
                )
            )
        )
        return None
    return function


def _run(function: _Entry, task: TaskSpec, context: TaskContext) -> TaskDone | TaskFailed:
    try:
        result = function(task.payload, context)
    except KbrError as error:
        return TaskFailed(task.task_id, _sendable(error), _usage())
    except MemoryError:
        return TaskFailed(
            task.task_id,
            WorkerCrashed(
                f"task {task.task_id}: no memory was left for worker process {os.getpid()}",
                hint="lower memory_limit or workers",
                pid=os.getpid(),
                task_ids=(task.task_id,),
                traceback=traceback.format_exc(),
            ),
            _usage(),
        )
    except Exception as error:
        return TaskFailed(task.task_id, _unexpected(f"task {task.task_id}", error), _usage())
    done = TaskDone(task.task_id, result, _usage())
    try:
        _check_travels(done)
    except Exception as error:
        return TaskFailed(task.task_id, _unexpected(f"the result of task {task.task_id}", error), _usage())
    return done


def _unexpected(what: str, error: Exception) -> WorkerError:
    return WorkerError(
        f"{what}: {type(error).__name__}: {error}",
        hint="this is a bug in kbr; run with --debug and report what it prints",
        traceback=traceback.format_exc(),
    )


def _check_travels(value: object) -> None:
    """Results and errors are rare and small: see here, where it can be told, that the other side can read them."""
    pickle.loads(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))


def _sendable(error: KbrError) -> KbrError:
    """The error itself, or with its facts as text when they can't be pickled."""
    try:
        _check_travels(error)
    except Exception:  # whatever pickling an odd fact raises; the error itself goes on, with its facts as text
        facts = {name: repr(value) for name, value in error.context.items()}
        return type(error)(error.message, hint=error.hint, **facts)
    return error


def _usage() -> Usage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(cpu_s=used.ru_utime + used.ru_stime, peak_rss_bytes=used.ru_maxrss * _RSS_UNIT_BYTES)
