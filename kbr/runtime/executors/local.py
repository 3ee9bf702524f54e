"""Worker processes of this machine, from a forkserver: never forked from a process that has threads."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing import process as processes
from multiprocessing.context import ForkServerProcess
from typing import Any

from kbr.errors import WorkerBootFailed
from kbr.runtime.deaths import UNKNOWN_CODE
from kbr.runtime.framing import FrameReader, frame
from kbr.runtime.messages import SupervisorMessage, WorkerMessage
from kbr.runtime.worker import SHIELDED_SIGNALS, worker_main
from kbr.secrecy import holds_secret, is_secret_variable
from kbr.timing import Deadline

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
#: Until a forkserver has made a process: 6 ms, and the time of its imports at first, which a slow disk can make long.
_START_TIMEOUT_S = 60.0
_START_ROUND_S = 0.1

#: What no process can do without, and what libraries find their way by: never withheld, whatever a configuration refers to.
_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|TEMP|TMP|TZ|LANG|LANGUAGE|LC_\w+|XDG_\w+|PYTHON\w*|LD_\w+|MALLOC_\w+|\w*SAN_OPTIONS"
    r"|SSL_CERT_\w+|\w+_CA_BUNDLE|OPENSSL_\w+|(?:https?|all|ftp|no)_proxy|KRB5\w*|CONDA_PREFIX|HADOOP_\w+"
    r"|AWS_\w+|GOOGLE_APPLICATION_CREDENTIALS|AZURE_(?:CLIENT|TENANT|FEDERATED|AUTHORITY|STORAGE)_\w+",
    re.IGNORECASE,
)
#: What a helper of multiprocessing's needs that only watches: how it finds and runs Python.
_HELPERS_OWN = re.compile(r"PATH|HOME|TMPDIR|TZ|LANG|LANGUAGE|LC_\w+|PYTHON\w*|LD_\w+|MALLOC_\w+|\w*SAN_OPTIONS")
#: Variables that prestart() was told to withhold, ever.
_withheld: frozenset[str] = frozenset()
#: What the forkserver was given.
_given: dict[str, str] = {}


def worker_environment(environ: dict[str, str], withheld: Container[str] = ()) -> dict[str, str]:
    """What workers inherit: everything but kbr's own variables, what is named like a secret, and what holds one.

    Workers get their settings with the task. Those of AWS, Google and Azure stay: a store without credentials of its own
    finds them there, and what signs for Amazon MSK.

    Args:
        withheld: names of others that are not passed on, for the configuration has its secrets from them.
    """
    return {name: value for name, value in environ.items() if _NEEDED.fullmatch(name) or _may_pass(name, value, withheld)}


def _may_pass(name: str, value: str, withheld: Container[str]) -> bool:
    return not (name.startswith("KBR_") or name in withheld or is_secret_variable(name) or holds_secret(value))


def prestart(preload: Sequence[str], *, withheld: Iterable[str] = ()) -> None:
    """Start the forkserver, which imports ``preload`` while the caller goes on.

    Does nothing once a forkserver runs; what that one has not imported, each worker imports by itself. But one that was started
    before all secrets were known, and has inherited one of them, makes room for another, unless it has processes already.

    Args:
        withheld: see worker_environment(); for all processes from now on.
    """
    global _withheld
    _withheld |= frozenset(withheld)
    if any(name not in worker_environment(_given, _withheld) for name in _given):
        _end_forkserver()
    _context.set_forkserver_preload([*_OWN_PRELOAD, *preload])
    with _discreet_start():
        forkserver.ensure_running()


def _end_forkserver() -> None:
    """End the forkserver, if no process hangs on it."""
    if any(isinstance(one, ForkServerProcess) for one in multiprocessing.active_children()):
        return
    own = forkserver._forkserver
    pid = own.__dict__["_forkserver_pid"]
    if pid is not None:
        os.kill(pid, signal.SIGKILL)  # it may be at its imports, and need not end them first
        own._stop()  # type: ignore[attr-defined]
    _given.clear()


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

    Changing os.environ for the moment instead would race with getenv() in librdkafka's threads. The signals are blocked in
    _popen() and not around it all, as resource_tracker unblocks two of them half-way (CPython 3.10 to 3.13).
    """
    *options, dash_c, command = args
    if dash_c != "-c":
        raise RuntimeError(f"multiprocessing starts its helpers in a way that kbr does not know: {args!r}")
    search = [entry or os.getcwd() for entry in sys.path]
    # the collector as kbr/__main__.py sets it: imports make objects that stay
    first = f"import sys, gc; gc.set_threshold(50_000, 20, 100); sys.path[:] = {search!r}"
    if "multiprocessing.forkserver" not in command:
        # the one that watches resources: it stays, whatever is known as a secret later
        environ = {name: value for name, value in os.environ.items() if _HELPERS_OWN.fullmatch(name)}
        return _popen([*options, dash_c, f"{first}; {command}"], path, passfds, environ)
    # the workers' parent: it must not outlive this process, which it would if somebody has stopped it
    tie = f"from kbr.runtime.orphans import die_with; die_with({os.getpid()})"
    # before anything is preloaded: a library's log handler may keep the standard error that it finds
    tie += "; from kbr.runtime.crash_dumps import forbid_core_dumps; forbid_core_dumps()"
    tie += "; from kbr.secrecy import guard_stderr; guard_stderr()"
    environ = worker_environment(dict(os.environ), _withheld)
    _given.clear()
    _given.update(environ)
    return _launcher.call(lambda: _popen([*options, dash_c, f"{first}; {tie}; {command}"], path, passfds, environ))


def _popen(arguments: list[str], path: Any, passfds: Any, environ: dict[str, str]) -> int:
    """The pid of a new process of this interpreter."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED_SIGNALS)
    try:
        process = subprocess.Popen(  # noqa: S603  (this interpreter, with multiprocessing's own arguments)
            arguments,
            executable=path,
            pass_fds=passfds,
            env=environ,
            close_fds=True,
            restore_signals=False,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # multiprocessing watches it by its pid; this object must not, nor warn that it runs on
    process.returncode = 0
    return process.pid


class _Launcher:
    """Makes processes in a thread that ends with this process and never before.

    A process that is to die with its parent dies when the thread that made it ends (prctl(2), PR_SET_PDEATHSIG), and
    the one that needs a forkserver may be of any kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[tuple[Callable[[], int], queue.SimpleQueue[int | BaseException]]]
        #: Whose thread there is: a fork of this process has none.
        self._pid = 0

    def call(self, make: Callable[[], int]) -> int:
        """What ``make`` returns, or raises, in that thread.

        Raises:
            OSError: there is no thread to be had.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._asked = queue.SimpleQueue()
                try:
                    threading.Thread(target=self._serve, name="launcher", daemon=True).start()
                except RuntimeError as error:
                    raise OSError(str(error)) from error  # no more threads
                self._pid = os.getpid()
        answer: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
        self._asked.put((make, answer))
        made = answer.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def _serve(self) -> None:
        while True:
            make, answer = self._asked.get()
            try:
                answer.put(make())
            except BaseException as error:  # raised again by call()
                answer.put(error)


_launcher = _Launcher()


class LocalWorker:
    """One worker process and the supervisor's end of its pipe. Nothing here waits but end()."""

    def __init__(self, process: ForkServerProcess, end: socket.socket) -> None:
        self._process = process
        self._socket = end
        self._reader = FrameReader()
        self._unsent = bytearray()
        #: The worker's end is closed: no thread of it runs any more.
        self._pipe_ended = False
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
        self._pipe_ended = not data
        return [pickle.loads(message) for message in self._reader.feed(data)], bool(data)

    def has_words(self) -> bool:
        """Whether receive() has something to give."""
        return self._readable(0.0)

    def wait_for_last_words(self) -> bool:
        """After the process's end: whether receive() has more to give, or will have within a moment."""
        return self._readable(_LAST_WORDS_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: whatever a worker does is safe to be cut anywhere."""
        self._process.kill()

    def end(self) -> int | None:
        """Wait for a process that has ended, was killed, or has given up its pipe.

        Returns:
            Its exit code, negative for a signal; None when it does not end even so, or nobody knows.
        """
        # the worker's control thread ends it, should it live
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._process.join(_EXIT_TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_KILL_TIMEOUT_S)
        code = self._process.exitcode
        if code is None:
            self.abandon()
            # the end of its pipe is its own; then it is the forkserver that does not tell, as it is frozen
            return UNKNOWN_CODE if self._pipe_ended else None
        if code == UNKNOWN_CODE and not self._ends_its_pipe():
            # the forkserver was killed and took its word for it along
            code = None
        self._socket.close()
        self._process.close()
        return code

    def abandon(self) -> None:
        """Wait no more for a process that does not end: neither now nor when this one ends."""
        self._socket.close()
        # multiprocessing's own end waits for all of these
        processes._children.discard(self._process)  # type: ignore[attr-defined]

    def _ends_its_pipe(self) -> bool:
        deadline = Deadline(_KILL_TIMEOUT_S)
        while not self._pipe_ended and self._readable(deadline.remaining_s()):
            try:
                self._pipe_ended = not self._socket.recv(_READ_BYTES)
            except OSError:
                self._pipe_ended = True
        return self._pipe_ended

    def _readable(self, timeout_s: float) -> bool:
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


def spawn_worker(worker_id: int, entry: str, beat_s: float) -> LocalWorker:
    """Start a worker; it says Ready over its pipe.

    Raises:
        WorkerBootFailed: the forkserver does not do its work.
    """
    ours, theirs = socket.socketpair()
    log_level = logging.getLogger("kbr").getEffectiveLevel()
    process = _context.Process(
        target=worker_main,
        args=(theirs, worker_id, entry, log_level, beat_s),
        name=f"kbr-worker-{worker_id}",
        daemon=True,
    )
    try:
        with theirs:
            _start(process)
    except (OSError, EOFError) as error:
        ours.close()
        raise WorkerBootFailed(
            f"no worker process could be started: {type(error).__name__}: {error}",
            hint="look at what was written to standard error, and at the limits of processes and memory (ulimit -a)",
        ) from error
    return LocalWorker(process, ours)


def _start(process: ForkServerProcess) -> None:
    """Start a process, in a thread: multiprocessing would wait for a frozen forkserver for ever.

    A forkserver that does not answer is killed. Its workers die with it, and the next start makes a new one.

    Raises:
        OSError, EOFError: the forkserver is not there, or did not answer.
    """
    errors: list[BaseException] = []

    def start() -> None:
        try:
            with _discreet_start():
                process.start()
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=start, name="start-worker", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(str(error)) from error  # no more threads
    # rounds, not a clock: when all of this was frozen, nobody is to blame
    for _ in range(round(_START_TIMEOUT_S / _START_ROUND_S)):
        thread.join(_START_ROUND_S)
        if not thread.is_alive():
            break
    else:
        forkserver_pid = forkserver._forkserver.__dict__["_forkserver_pid"]
        if forkserver_pid is not None:
            os.kill(forkserver_pid, signal.SIGKILL)
        thread.join(_KILL_TIMEOUT_S)
        raise TimeoutError(f"the forkserver did not answer within {_START_TIMEOUT_S:g} s")
    if errors:
        raise errors[0]
