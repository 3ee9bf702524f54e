"""Files that are being written: made so that who comes later can tell whether their writer is still alive.

A writer keeps its file locked (flock(2)) for as long as it has it open; the kernel unlocks it when the process dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat

__all__ = ["create_temporary", "remove_abandoned"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: For writing, as NFS wants it of who takes an exclusive lock. NONBLOCK: a pipe that somebody put there is not waited for.
_LOOK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def create_temporary(beginning: str, folder: int) -> tuple[str, int]:
    """(name, descriptor) of a new file in an open folder, mode 0600, locked where the filesystem can; OSError if not."""
    while True:
        name = beginning + secrets.token_hex(8)
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            _lock(descriptor)
            if os.fstat(descriptor).st_nlink:
                return name, descriptor
        except BlockingIOError:
            pass  # somebody clears up and came between the two calls: the next name is seen locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_abandoned(name: str, folder: int, *, before_ms: int) -> bool:
    """Remove a file that create_temporary() made and whose writer is gone; OSError if that can't be done.

    Args:
        before_ms: where the filesystem knows no locks, one that was last written before then (ms since the epoch).
    """
    try:
        descriptor = os.open(name, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return False  # renamed or removed meanwhile
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        if not _lock(descriptor) and status.st_mtime_ns // 1_000_000 >= before_ms:
            return False
        # while it is locked: its writer, if it has only just made it, sees that it is gone
        os.unlink(name, dir_fd=folder)
    except (BlockingIOError, FileNotFoundError):
        return False  # it is being written; or it was renamed meanwhile
    finally:
        os.close(descriptor)
    return True


def _lock(descriptor: int) -> bool:
    """Lock a file; False where the filesystem can't. BlockingIOError if another has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # ENOLCK, EOPNOTSUPP, ENOSYS: by filesystem
        return False
    return True
