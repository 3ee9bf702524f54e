"""A small file that the processes of a run map and change one at a time. Knows nothing of what is in it."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kbr.errors import WorkerError

__all__ = ["SharedPage"]


class SharedPage:
    """One process's view of the file. Any of its threads may use it.

    Args:
        path: what make() made.
        magic: how the file begins.
        size: its bytes.
        what: what it is, for messages, such as ``rate limit``.

    Raises:
        WorkerError: it is not there any more, or something else.
    """

    def __init__(self, path: Path, *, magic: bytes, size: int, what: str) -> None:
        self.path = path
        self._thread_lock = threading.Lock()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._page = mmap.mmap(self._fd, size)
        except (OSError, ValueError) as error:
            raise WorkerError(
                f"the run's {what} can't be read from {path}: {error}",
                hint="something removed files of a running kbr from the folder for temporary files",
            ) from error
        if self._page[: len(magic)] != magic:
            raise WorkerError(f"{path} is no {what} of kbr", hint="something overwrote kbr's temporary files")

    @staticmethod
    def make(prefix: str, data: bytes, *, what: str) -> Path:
        """A new file with these bytes; it is the caller's to remove().

        Raises:
            WorkerError: there is no place for it.
        """
        try:
            fd, name = tempfile.mkstemp(prefix=prefix)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError as error:
            raise WorkerError(
                f"the run's {what} can't be kept in the folder for temporary files: {error}",
                hint="set TMPDIR to a folder that can be written",
            ) from error
        return Path(name)

    def remove(self) -> None:
        """The run is over; who still has it open may go on. Again is fine."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; the file stays. Who asks afterwards gets a ValueError; again is fine."""
        with self._thread_lock:
            if self._fd >= 0:
                self._page.close()
                os.close(self._fd)
                self._fd = -1  # never another file's

    @contextmanager
    def _alone(self) -> Iterator[mmap.mmap]:
        """The page, while no other thread and no other process has it."""
        with self._thread_lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # the kernel lets go of it when a process dies
            try:
                yield self._page
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
