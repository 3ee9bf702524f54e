"""A worker process: takes tasks from its pipe, one after another, until it is told to leave.

A control thread reads the pipe, so that a stop, or the supervisor's death, is seen whatever the main
thread is doing. When the supervisor is gone the process ends at once, without clean-up: whatever it
was doing must be safe to be cut anywhere, and nothing may be written once nobody watches.
"""

from __future__ import annotations

import contextlib
import ctypes
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

from kbr.errors import KbrError, WorkerBootFailed, WorkerError
from kbr.runtime.framing import FrameReader, frame
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
from kbr.telemetry.logs import forward_to

__all__ = ["SHIELDED_SIGNALS", "TaskContext", "worker_main"]

#: Exit status of a worker whose supervisor is gone.
ORPHANED_STATUS = 70
#: What a terminal, a service manager or `pkill -USR1 kbr` may send to all processes at once. The forkserver is
#: started with these blocked, for they would end it and every worker with it; a worker unblocks them.
SHIELDED_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})

#: ru_maxrss is in KiB on Linux, in bytes on macOS (getrusage(2)).
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
_READ_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1

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
        data = frame(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
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


def worker_main(end: socket.socket, worker_id: int, entry: str, log_level: int) -> None:
    """The process's main function; never returns.

    Args:
        end: its end of the pipe.
        worker_id: unique in a run.
        entry: ``package.module:function``, called with (payload, context) for each task.
        log_level: of the lines that are worth sending, as `logging` numbers them.
    """
    pipe = _Pipe(end)
    stop = _Stop(pipe)
    _die_with_the_forkserver()
    # a core file would hold credentials
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # a crash in compiled code tells at least where: file names and lines, no values
    if sys.stderr is not None:  # None when the descriptor is closed
        faulthandler.enable()
    forward_to(lambda line: pipe.send(WorkerLog(line)), level=log_level)
    tasks: queue.SimpleQueue[TaskSpec | None] = queue.SimpleQueue()
    threading.Thread(target=_control, args=(pipe, stop, tasks), name="control", daemon=True).start()
    threading.Thread(target=stop.watch, name="sigterm", daemon=True).start()
    _take_signals(stop)
    function = _load(entry, pipe)
    if function is not None:
        pipe.send(Ready(None))
    while (task := tasks.get()) is not None:
        if function is not None:
            ended = _run(function, task, TaskContext(worker_id, task.task_id, pipe, stop))
            stop.tell_supervisor()
            pipe.send(ended)
    _leave()


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
    """Have the kernel kill this process when its parent, the forkserver, ends (prctl(2)).

    The forkserver ends when the supervisor does. The control thread is quicker, but needs the GIL, which compiled
    code may hold; and a forkserver that was killed can't watch this process any more.
    """
    # the forkserver goes on for as long as anybody has this descriptor, so that workers could start workers
    alive_fd = forkserver._forkserver.__dict__.pop("_forkserver_alive_fd", None)
    if alive_fd is not None:
        os.close(alive_fd)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() == 1:
            os._exit(ORPHANED_STATUS)


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
            WorkerError(
                f"task {task.task_id}: no memory was left for a worker",
                hint="lower memory_limit or workers",
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


def _leave() -> None:
    """End without the interpreter's own end, which would wait for whatever threads a library left behind."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone: nobody is left to tell
            stream.flush()
    os._exit(0)
