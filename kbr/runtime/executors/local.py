"""Worker processes of this machine, from a forkserver: never forked from a process that has threads."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import re
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

from kbr.errors import WorkerBootFailed
from kbr.runtime.framing import FrameReader, frame
from kbr.runtime.messages import SupervisorMessage, WorkerMessage
from kbr.runtime.worker import SHIELDED_SIGNALS, worker_main

__all__ = ["LocalWorker", "prestart", "spawn_worker", "worker_environment"]

_context = multiprocessing.get_context("forkserver")

#: What every worker needs.
_OWN_PRELOAD = ("kbr.runtime.worker",)
#: Read at once from a worker, bytes: more than a socket's buffer holds.
_READ_BYTES = 256 * 1024
#: A dead process's pipe ends with it; a child of its own that holds on to the pipe is not waited for.
_LAST_WORDS_TIMEOUT_S = 2.0
#: From the end of a process's pipe to its own: microseconds.
_EXIT_TIMEOUT_S = 1.0
#: After SIGKILL; longer means that the kernel can't end it (a dead network mount).
_KILL_TIMEOUT_S = 10.0

_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY", re.IGNORECASE)


def worker_environment(environ: dict[str, str]) -> dict[str, str]:
    """What workers inherit: everything but kbr's own variables and what is named like a secret.

    Workers get their settings with the task. AWS's variables stay: a store without credentials of its own
    finds them there.
    """
    return {
        name: value
        for name, value in environ.items()
        if name.startswith("AWS_") or not (name.startswith("KBR_") or _SECRET_NAME.search(name))
    }


def prestart(preload: Sequence[str]) -> None:
    """Start the forkserver, which imports ``preload`` while the caller goes on.

    Does nothing once a forkserver runs; what that one has not imported, each worker imports by itself.
    """
    _context.set_forkserver_preload([*_OWN_PRELOAD, *preload])
    with _discreet_start():
        forkserver.ensure_running()


@contextmanager
def _discreet_start() -> Iterator[None]:
    """Around every start of a process by multiprocessing: what is not its business stays here.

    - ``__main__`` is hidden: multiprocessing would have the child import it (spawn.get_preparation_data), which
      runs a script that has no ``if __name__ == "__main__"`` a second time.
    - The command line and secrets in the environment are not passed on.
    - Signals for the whole process group do not end the forkserver.
    """
    main = sys.modules["__main__"]
    arguments = sys.argv
    launch = multiprocessing.util.spawnv_passfds
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = arguments[:1]
    multiprocessing.util.spawnv_passfds = _launch
    try:
        yield
    finally:
        multiprocessing.util.spawnv_passfds = launch
        sys.argv = arguments
        sys.modules["__main__"] = main


def _launch(path: Any, args: Any, passfds: Any) -> int:
    """Stands in for multiprocessing.util.spawnv_passfds, which passes on the whole environment.

    It starts ``python -c "..."``, which looks for modules in the current folder first, and the forkserver preloads
    from there (CPython before 3.12 does not even use the path that it is given): any ``logging.py`` in the folder
    where somebody takes a backup would be run. So the caller's own path is set before anything is imported.

    Changing os.environ for the moment instead would race with getenv() in librdkafka's threads. The signals are
    blocked here and not around it all, as resource_tracker unblocks two of them half-way (CPython 3.10 to 3.13).
    """
    *options, dash_c, command = args
    if dash_c != "-c":
        raise RuntimeError(f"multiprocessing starts its helpers in a way that kbr does not know: {args!r}")
    search = [entry or os.getcwd() for entry in sys.path]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED_SIGNALS)
    try:
        process = subprocess.Popen(  # noqa: S603  (this interpreter, with multiprocessing's own arguments)
            # the collector as kbr/__main__.py sets it: imports make objects that stay
            [
                *options,
                dash_c,
                f"import sys, gc; gc.set_threshold(50_000, 20, 100); sys.path[:] = {search!r}; {command}",
            ],
            executable=path,
            pass_fds=passfds,
            env=worker_environment(dict(os.environ)),
            close_fds=True,
            restore_signals=False,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # multiprocessing watches it by its pid; this object must not, nor warn that it runs on
    process.returncode = 0
    return process.pid


class LocalWorker:
    """One worker process and the supervisor's end of its pipe. Nothing here waits but end()."""

    def __init__(self, process: ForkServerProcess, end: socket.socket) -> None:
        self._process = process
        self._socket = end
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._pid = process.pid or 0
        end.setblocking(False)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._pid

    @property
    def pipe(self) -> int:
        """Descriptor that becomes readable with a message, writable when unsent ones may go on."""
        return self._socket.fileno()

    @property
    def sentinel(self) -> int:
        """Descriptor that becomes readable when the process has ended."""
        return self._process.sentinel

    @property
    def has_unsent(self) -> bool:
        """Whether send_more() has something to do once the pipe is writable."""
        return bool(self._unsent)

    def send(self, message: SupervisorMessage) -> None:
        """Send without waiting. To a dead process nothing is sent; its sentinel tells the rest."""
        self._unsent += frame(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
        self.send_more()

    def send_more(self) -> None:
        """Send what the pipe takes now."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def receive(self) -> tuple[list[WorkerMessage], bool]:
        """Messages that are there now, and whether there may be more later.

        Raises:
            Exception: whatever unpickling raises: the worker can't be understood.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return [], True
        except OSError:
            data = b""
        return [pickle.loads(message) for message in self._reader.feed(data)], bool(data)

    def wait_for_last_words(self) -> bool:
        """After the process's end: whether receive() has more to give, or will have within a moment."""
        return bool(select.select([self._socket], [], [], _LAST_WORDS_TIMEOUT_S)[0])

    def kill(self) -> None:
        """SIGKILL: whatever a worker does is safe to be cut anywhere."""
        self._process.kill()

    def end(self) -> int | None:
        """Wait for a process that has ended, was killed, or has given up its pipe.

        Returns:
            Its exit code, negative for a signal; None when it does not end even so.
        """
        self._socket.close()
        self._process.join(_EXIT_TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_KILL_TIMEOUT_S)
        code = self._process.exitcode
        if code is not None:
            self._process.close()
        return code


def spawn_worker(worker_id: int, entry: str) -> LocalWorker:
    """Start a worker; it says Ready over its pipe.

    Raises:
        WorkerBootFailed: the forkserver does not do its work.
    """
    ours, theirs = socket.socketpair()
    log_level = logging.getLogger("kbr").getEffectiveLevel()
    process = _context.Process(
        target=worker_main,
        args=(theirs, worker_id, entry, log_level),
        name=f"kbr-worker-{worker_id}",
        daemon=True,
    )
    try:
        with theirs, _discreet_start():
            process.start()
    except (OSError, EOFError) as error:
        ours.close()
        raise WorkerBootFailed(
            f"no worker process could be started: {type(error).__name__}: {error}",
            hint="look at what was written to standard error, and at the limits of processes and memory (ulimit -a)",
        ) from error
    return LocalWorker(process, ours)
