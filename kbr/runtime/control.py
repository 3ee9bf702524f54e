"""How a running kbr is asked and told things: a socket of its own in a folder that only its user can enter.

One line of JSON as a request, one as the answer, then the connection ends. Knows nothing of what is asked.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kbr.errors import KbrError, RunMissing, UsageError
from kbr.telemetry.logs import get_logger

__all__ = ["ControlServer", "ask", "find_runs"]

_log = get_logger("kbr.control")

#: Of a request and of an answer, bytes.
_MAX_LINE = 64 * 1024
_MAX_ANSWER = 1024 * 1024
#: struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")
#: For a whole request or answer, seconds: both come at once or never.
_TIMEOUT_S = 5.0


def _folder() -> Path:
    """Where this user's runs have their sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "kbr") if base and Path(base).is_dir() else Path(tempfile.gettempdir(), f"kbr-{os.getuid()}")


def _own_folder() -> Path:
    """The folder, made if need be; nobody else may enter it, so nobody else can speak to the runs.

    Raises:
        OSError: it can't be made, or is somebody else's.
    """
    folder = _folder()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=False)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user's alone")
    return folder


class ControlServer:
    """A run's socket, served by a thread of its own.

    Args:
        answer: gets a request, gives the answer; a KbrError becomes ``{"error": ..., "hint": ...}``.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._answer = answer
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    def start(self) -> None:
        """Listen. A run goes on without its socket, where none can be made; the log says so."""
        try:
            path = _own_folder() / f"{os.getpid()}.sock"
            # a run that had this pid before and was killed
            path.unlink(missing_ok=True)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(str(path))
            path.chmod(0o600)
            server.listen(8)
        except OSError as error:
            _log.warning("no control socket (kbr status won't see this run): %s", error)
            return
        self._socket, self._path = server, path
        threading.Thread(target=self._serve, args=(server,), name="control-socket", daemon=True).start()

    def close(self) -> None:
        """Remove the socket; again is fine."""
        if self._socket is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            # wakes the thread, which close() alone does not
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    if not _may_ask(_peer_uid(connection)):
                        continue
                    connection.settimeout(_TIMEOUT_S)
                    connection.sendall(_line(self._reply(_read_line(connection))))
                except OSError as error:
                    _log.debug("a control connection broke: %s", error)

    def _reply(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise UsageError("a request is a JSON object", hint="see kbr status")
            return self._answer(request)
        except KbrError as error:
            return {"error": error.message, "hint": error.hint}
        except (ValueError, RecursionError) as error:
            return {"error": f"the request can't be read: {error}", "hint": "see kbr status"}


def _peer_uid(connection: socket.socket) -> int | None:
    """Whose process is at the other end (unix(7), SO_PEERCRED); None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _pid, uid, _gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _may_ask(uid: int | None) -> bool:
    """The folder keeps others out; should somebody have opened it, this does."""
    return uid in (None, 0, os.getuid())


def find_runs() -> list[Path]:
    """The sockets of this user's runs; what a killed run left behind may be among them.

    Raises:
        RunMissing: the folder can't be read.
    """
    try:
        return sorted(_own_folder().glob("*.sock"))
    except OSError as error:
        raise RunMissing(
            f"running kbr processes can't be found: {error}", hint="run it as the user that runs kbr"
        ) from error


def ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request to a run.

    Raises:
        RunMissing: nobody listens there (any more).
        UsageError: the run refused it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(_line(request))
            answer = json.loads(_read_line(connection, _MAX_ANSWER))
        except ConnectionRefusedError as error:
            path.unlink(missing_ok=True)  # left behind by a run that was killed
            raise RunMissing(
                f"the run of {path} has ended", hint="kbr status shows those that go on", ended=True
            ) from error
        except (OSError, ValueError) as error:
            raise RunMissing(f"the run of {path} does not answer: {error}", hint="ask again in a moment") from error
    if not isinstance(answer, dict):
        raise RunMissing(
            f"the run of {path} answered with what is no JSON object", hint="is it another version of kbr?"
        )
    if "error" in answer:
        raise UsageError(str(answer["error"]), hint=str(answer.get("hint", "")))
    return answer


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read_line(connection: socket.socket, limit: int = _MAX_LINE) -> bytes:
    """Up to the first newline.

    Raises:
        OSError: it is too long, or does not come.
    """
    data = b""
    while not data.endswith(b"\n"):
        some = connection.recv(_MAX_LINE)
        data += some
        if not some or len(data) > limit:
            raise ConnectionError("no whole line came")
    return data
