"""The file that a user has named for groups' former offsets: seen to be writable early, written once, never over another."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kbr.errors import GroupsUnreadable, PreflightRefused, UnsupportedFormat
from kbr.format.group_rollback import MAX_ROLLBACK_BYTES, GroupRollback, load_rollback

__all__ = ["check_new_file", "read_rollback", "write_new_file"]

_HINT = "name a file that does not exist, in a folder that may be written to"


def check_new_file(file: Path, backup_id: str) -> None:
    """See that the file can be made, before anything is done that it is needed for.

    One that an earlier run for the same backup has written may be there: such a run may have nothing to keep any more.

    Raises:
        PreflightRefused: it can't.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        why = "there is no such folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = "its folder may not be written to"
    elif os.path.lexists(file) and not _is_of(file, backup_id):
        why = "it exists"
    else:
        return
    raise PreflightRefused(f"the groups' former offsets could not be kept in {file}: {why}; nothing was done", hint=_HINT)


def read_rollback(file: Path) -> GroupRollback:
    """What a file has that write_new_file() made.

    Raises:
        GroupsUnreadable: it is none, damaged or too large.
        UnsupportedFormat: it is of another version, or something else.
        OSError: it can't be read.
    """
    with file.open("rb") as stream:  # of a device or a pipe no size is known beforehand
        data = stream.read(MAX_ROLLBACK_BYTES + 1)
    if len(data) > MAX_ROLLBACK_BYTES:
        raise GroupsUnreadable(
            f"{file}: more than the {MAX_ROLLBACK_BYTES} bytes that a file of groups' former offsets has",
            hint="name the file that kbr groups apply --rollback-file wrote",
        )
    return load_rollback(data, name=str(file))


def _is_of(file: Path, backup_id: str) -> bool:
    try:
        # a pipe would be waited for
        return stat.S_ISREG(file.stat().st_mode) and read_rollback(file).backup_id == backup_id
    except (OSError, GroupsUnreadable, UnsupportedFormat):
        return False  # whatever it is, it is not that


def write_new_file(file: Path, data: bytes) -> None:
    """Write it, durably.

    Raises:
        PreflightRefused: it exists, or can't be written.
    """
    try:
        # like everything that kbr writes: for its user alone
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise PreflightRefused(
            f"can't write the groups' former offsets to {file}: {error.strerror}; nothing was committed", hint=_HINT
        ) from error
