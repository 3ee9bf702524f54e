"""Worker processes of this machine, from a forkserver: never forked from a process that has threads."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from kbr.runtime.messages import RunTask, StopWork, WorkerMessage
from kbr.runtime.worker import worker_main

__all__ = ["LocalWorker", "prestart", "spawn_worker"]

_context = multiprocessing.get_context("forkserver")


def prestart(preload: Sequence[str]) -> None:
    """Start the forkserver, which imports ``preload`` while the caller goes on.

    Ignored once a forkserver runs: its modules are then imported by each worker by itself.
    """
    _context.set_forkserver_preload(list(preload))
    with _terminal_signals_blocked():
        forkserver.ensure_running()


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """What is started inside inherits a mask without Ctrl-C; the forkserver has no handler of its own for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _bare_main() -> Iterator[None]:
    """Hide the caller's ``__main__`` while a process starts.

    multiprocessing would have the child import it again (spawn.get_preparation_data), which runs a
    script that has no ``if __name__ == "__main__"`` a second time, and brings the whole command line
    into every worker.
    """
    main = sys.modules["__main__"]
    arguments = sys.argv
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        sys.argv = arguments


class LocalWorker:
    """One worker process and the supervisor's end of its pipe."""

    def __init__(self, process: ForkServerProcess, connection: Connection) -> None:
        self.process = process
        self.connection = connection

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process has ended."""
        return self.process.sentinel

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid or 0

    def send(self, message: RunTask | StopWork) -> bool:
        """Send; False when the process is gone (its sentinel tells the rest)."""
        try:
            self.connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError:
            return False
        return True

    def receive(self) -> WorkerMessage | None:
        """The next message; None when there will be no more."""
        try:
            message: WorkerMessage = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return message

    def kill(self) -> None:
        """SIGKILL: whatever a worker does is safe to be cut anywhere."""
        self.process.kill()

    def close(self) -> int | None:
        """Let the process end, wait for it, and return its exit code (negative: the signal)."""
        self.connection.close()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


def spawn_worker(entry: str) -> LocalWorker:
    """Start a worker; it says Ready over its pipe."""
    ours, theirs = _context.Pipe(duplex=True)
    process = _context.Process(target=worker_main, args=(theirs, entry), daemon=True)
    with _bare_main(), _terminal_signals_blocked():
        process.start()
    theirs.close()
    return LocalWorker(process, ours)
