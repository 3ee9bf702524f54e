"""The file that a user has named for groups' former offsets: seen to be writable early, written once, never over another."""

from __future__ import annotations

import os
from pathlib import Path

from kbr.errors import GroupsUnreadable, PreflightRefused, UnsupportedFormat
from kbr.format.group_rollback import MAX_ROLLBACK_BYTES, load_rollback

__all__ = ["check_new_file", "write_new_file"]

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


def _is_of(file: Path, backup_id: str) -> bool:
    try:
        if file.stat().st_size > MAX_ROLLBACK_BYTES:
            return False
        return load_rollback(file.read_bytes(), name=str(file)).backup_id == backup_id
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
