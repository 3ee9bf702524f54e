"""What fsspec's filesystems raise, told as kbr's errors. Pure: imports none of their libraries."""

from __future__ import annotations

import errno
import ftplib

from kbr.errors import AccessDenied, KbrError, ObjectMissing, StorageError, StoreFull, StoreUnavailable
from kbr.secrecy import redact

__all__ = ["is_denied", "one_line", "translate"]

#: Python's own errors that a second try would meet again; NotImplementedError is how fsspec says that a filesystem lacks
#: an operation.
_PERMANENT = (
    FileExistsError,
    ftplib.error_perm,
    ImportError,
    IsADirectoryError,
    LookupError,
    NotADirectoryError,
    NotImplementedError,
    TypeError,
    ValueError,
)
_PERMANENT_NUMBERS = frozenset({errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY})
#: Names of libraries' errors that say 'not you'.
_DENIED = frozenset(
    {
        "AuthenticationException",
        "ClientAuthenticationError",
        "DefaultCredentialsError",
        "NonRetryableError",  # gcsfs: a token that can't be renewed is at its end
        "PermissionDenied",
        "RefreshError",
        "SFTPPermissionDenied",
        "SFTPWriteProtect",
    }
)
#: Names of those that say that there is no room.
_FULL = frozenset({"SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded"})
#: How sshfs says, by a ValueError, that its connection is gone (sshfs/pools/soft.py).
_NO_CHANNEL = "Can't create any SFTP connections"
#: Of HTTP: what another try may do away with (timeouts, conflicts of two writers, too many requests).
_PASSING_STATUS = frozenset({408, 409, 425, 429})
#: Of FTP (RFC 959): not logged in, no account, not allowed, name not allowed.
_FTP_DENIED = ("530", "532", "550", "553")


def translate(error: Exception, operation: str, *, name: str, key: str, url: str) -> KbrError:
    """Whatever a filesystem raises: only the network's and the system's errors can get better.

    Args:
        operation: what was tried.
        name: the object's full name, for messages.
        url: the store's, without secrets.
    """
    words = f"{operation} of {name}: {one_line(error)}"
    reads = operation in ("get", "read", "head")
    status = _http_status(error)
    is_missing = isinstance(error, FileNotFoundError) or status == 404
    if is_missing and operation == "put":
        return StorageError(f"{operation} of {name}: the bucket or folder for it is not there", hint="make it first", object=key)
    if is_missing or (reads and isinstance(error, (NotADirectoryError, IsADirectoryError))):
        return ObjectMissing(f"{name} is not there", object=key)
    if is_denied(error):
        return AccessDenied(words, hint="check the credentials and rights", object=key)
    if type(error).__name__ in _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return StoreFull(words, hint="make room, then run the same command again", object=key)
    if _NO_CHANNEL in str(error):
        return StoreUnavailable(words, hint=f"check that {url} can be reached from here", object=key)
    refused = 400 <= status < 500 and status not in _PASSING_STATUS
    if refused or isinstance(error, _PERMANENT) or getattr(error, "errno", None) in _PERMANENT_NUMBERS:
        return StorageError(f"{operation} of {name}: {type(error).__name__}: {one_line(error)}", object=key)
    return StoreUnavailable(words, hint=f"check that {url} can be reached from here", object=key)


def is_denied(error: Exception) -> bool:
    """Whether an error says that the credentials, or their rights, are not enough."""
    if isinstance(error, PermissionError) or type(error).__name__ in _DENIED:
        return True
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return True
    if isinstance(error, ftplib.error_perm):
        return str(error)[:3] in _FTP_DENIED
    return _http_status(error) in (401, 403)


def _http_status(error: Exception) -> int:
    """What libraries on HTTP were answered: gcsfs calls it code, azure status_code, webdav4 and aiohttp status; 0 for others."""
    found = (getattr(error, name, None) for name in ("status_code", "code", "status"))
    return next((one for one in found if isinstance(one, int) and 400 <= one < 600), 0)


def one_line(words: object) -> str:
    """A library's words, or an error's, on one line, not too long."""
    # masked before anything is changed: a secret may hold spaces, and what is left of it when it was cut is not known as one
    return " ".join(redact(str(words)).split())[:300] or type(words).__name__
