"""A worker process: takes tasks from its pipe, one after another, until the pipe ends.

A control thread reads the pipe, so that a stop, or the supervisor's death, is seen whatever the main
thread is doing. When the supervisor is gone the process ends at once, without clean-up: whatever it
was doing must be safe to be cut anywhere, and nothing may be written once nobody watches.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from kbr.errors import KbrError, WorkerBootFailed, WorkerError
from kbr.runtime.messages import (
    Ready,
    RunTask,
    StopWork,
    TaskDone,
    TaskEvent,
    TaskFailed,
    TaskSpec,
    Usage,
    WorkerMessage,
)

__all__ = ["TaskContext", "worker_main"]

#: Exit status of a worker whose supervisor is gone.
ORPHANED_STATUS = 70
#: ru_maxrss is in KiB on Linux, in bytes on macOS (getrusage(2)).
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class _Pipe:
    """The worker's end: many threads send, one receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: WorkerMessage) -> None:
        """Send, or end the process when the supervisor is gone."""
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            with self._lock:
                self._connection.send_bytes(data)
        except OSError:
            os._exit(ORPHANED_STATUS)

    def receive(self) -> RunTask | StopWork:
        """The next message; ends the process when the supervisor is gone."""
        try:
            message = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(ORPHANED_STATUS)
        if not isinstance(message, (RunTask, StopWork)):
            raise TypeError(f"a worker can't take {type(message).__name__}")
        return message


class TaskContext:
    """What a task's function may use of its worker."""

    def __init__(self, task_id: str, pipe: _Pipe, stop: threading.Event) -> None:
        self._task_id = task_id
        self._pipe = pipe
        self._stop = stop

    def emit(self, event: object) -> None:
        """Send a picklable event to the supervisor; any thread may."""
        self._pipe.send(TaskEvent(self._task_id, event))

    def stop_requested(self) -> bool:
        """Whether the run is to end now, with what is there."""
        return self._stop.is_set()


def worker_main(connection: Connection, entry: str) -> None:
    """The process's main function.

    Args:
        connection: its end of the pipe.
        entry: ``package.module:function``, called with (payload, context) for each task.
    """
    # Ctrl-C goes to the whole process group; the supervisor says over the pipe what is to happen.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    pipe = _Pipe(connection)
    function = _load(entry, pipe)
    tasks: queue.SimpleQueue[TaskSpec] = queue.SimpleQueue()

    def control() -> None:
        while True:
            message = pipe.receive()
            if isinstance(message, StopWork):
                stop.set()
            else:
                tasks.put(message.task)

    threading.Thread(target=control, name="control", daemon=True).start()
    pipe.send(Ready(None))
    while True:
        pipe.send(_run(function, tasks.get(), pipe, stop))


def _load(entry: str, pipe: _Pipe) -> Callable[[object, TaskContext], object]:
    try:
        module, _, name = entry.partition(":")
        function: Callable[[object, TaskContext], object] = getattr(importlib.import_module(module), name)
    except BaseException as error:
        pipe.send(
            Ready(
                WorkerBootFailed(
                    f"a worker could not load {entry}: {type(error).__name__}: {error}",
                    hint="the installation is damaged: reinstall kbr",
                    traceback=traceback.format_exc(),
                )
            )
        )
        os._exit(1)
    return function


def _run(
    function: Callable[[object, TaskContext], object], task: TaskSpec, pipe: _Pipe, stop: threading.Event
) -> TaskDone | TaskFailed:
    try:
        result = function(task.payload, TaskContext(task.task_id, pipe, stop))
        done = TaskDone(task.task_id, result, _usage())
        pickle.dumps(done, protocol=pickle.HIGHEST_PROTOCOL)
    except KbrError as error:
        return TaskFailed(task.task_id, _sendable(error), _usage())
    except Exception as error:
        wrapped = WorkerError(
            f"task {task.task_id}: {type(error).__name__}: {error}",
            hint="this is a bug in kbr; run with --debug and report what it prints",
            traceback=traceback.format_exc(),
        )
        return TaskFailed(task.task_id, wrapped, _usage())
    return done


def _sendable(error: KbrError) -> KbrError:
    """The error itself, or without its context when that can't be pickled."""
    try:
        pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return type(error)(error.message, hint=error.hint)
    return error


def _usage() -> Usage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(cpu_s=used.ru_utime + used.ru_stime, peak_rss_bytes=used.ru_maxrss * _RSS_UNIT_BYTES)
