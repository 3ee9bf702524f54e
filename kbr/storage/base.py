"""The object store that backups are kept in: keys and bytes, nothing about backups.

Every store promises the same: an object appears whole or not at all, what was reported as written is
durable, and errors are kbr's, with the object's name. Each operation is tried again after temporary
errors until the store's deadline; none is tried again after an error that can't get better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from kbr.errors import KbrError, UsageError
from kbr.secrecy import cut

__all__ = [
    "NO_METADATA",
    "CommitsTogether",
    "ObjectInfo",
    "ObjectStore",
    "StoreProperties",
    "TakesSizes",
    "Upload",
    "check_folder",
    "check_key",
    "check_prefix",
    "check_range",
    "is_key",
]

NO_METADATA: Mapping[str, str] = MappingProxyType({})
#: S3's limit on a key, bytes; filesystems' paths are longer.
MAX_KEY_BYTES = 1024
#: A backslash or a control character.
_BAD_CHARACTER = re.compile(r"[\\\x00-\x1f\x7f]")
#: A part that is empty, ``.`` or ``..``.
_BAD_PART = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object as the store sees it.

    Attributes:
        modified_at_ms: by the store's clock; None where it doesn't tell.
        metadata: only from head(); empty on stores that keep none.
        is_archived: it has to be got back from an archive before it can be read. Where list() says so, it may have
            been got back: head() knows.
    """

    key: str
    size_bytes: int
    modified_at_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA)
    is_archived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProperties:
    """What a store can and can't do, so that callers need not know which one it is.

    Attributes:
        name: its kind, such as ``s3``.
        honours_if_absent: whether of two put(if_absent=True) at the same moment exactly one succeeds; None where
            only the server knows, and has not shown it yet. One after the other is refused by every store. So with
            uploads, but that some servers honour it for the one and not for the other.
        replaces_whole: whether a reader sees the older or the newer object and never a part of one.
        is_durable: whether what was committed outlives a power cut of this machine.
        keeps_metadata: whether head() gives back what put() and open_upload() were given.
    """

    name: str
    honours_if_absent: bool | None
    replaces_whole: bool
    is_durable: bool
    keeps_metadata: bool


class Upload(Protocol):
    """One object being written, invisible until commit(); of no use after its first error.

    Not for several threads at once, but for different ones in turn. An upload whose write() or commit()
    raised has already let go of what it held; abort() is still fine. A commit() that raised may have been
    done all the same where the reply was lost until the deadline: only a later look tells.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Append; may block while earlier parts are on their way."""

    def commit(self) -> ObjectInfo:
        """Make it visible, whole and durable, in place of an older object; its size has been checked on return.

        Raises:
            PreconditionFailed: it was opened with ``if_absent``, and another's object is there.
        """

    def abort(self) -> None:
        """Leave nothing behind; again, and after commit() or an error, it does nothing. Never raises.

        Takes seconds at most: what can't be removed by then stays behind, invisible to readers.
        """


class ObjectStore(Protocol):
    """Keys and bytes below a root. Thread-safe.

    Every method is idempotent but for writes with ``if_absent``, and each of those tells its own earlier try, whose
    reply was lost, from another writer's object. So temporary errors are tried again inside, until one deadline
    for each call; a caller has no reason to do it once more.

    Raises (all methods):
        StoreUnavailable: temporary errors until the deadline.
        AccessDenied: credentials or a right are missing. Never tried again.
        StoreFull: no space. Not tried again.
        StorageError: anything else that can't get better.
        UsageError: not a key.
    """

    @property
    def properties(self) -> StoreProperties:
        """What it can do."""

    @property
    def url(self) -> str:
        """The root, for messages; never holds secrets."""

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        """Write an object at once, in place of an older one; durable, whole and checked on return.

        Raises:
            PreconditionFailed: ``if_absent``, and it is there. Against a writer at the same moment only where
                ``properties.honours_if_absent``.
        """

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        """Begin to write an object piece by piece.

        Args:
            if_absent: as put()'s, told by the commit: what is there by then is never replaced.
        """

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """A whole object.

        Raises:
            ObjectMissing: it is not there.
            ObjectTooLarge: it is larger than ``max_bytes``.
        """

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``.

        Raises:
            ObjectMissing: it is not there.
            StorageError: it ends before that.
        """

    def head(self, key: str) -> ObjectInfo:
        """Size, time and metadata.

        Raises:
            ObjectMissing: it is not there.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose keys begin with ``prefix``, in order of the keys' bytes; never from a cache.

        Objects that another program left under names that are no keys are passed over. Objects that come or go
        meanwhile may be listed or not.
        """

    def delete(self, key: str) -> None:
        """Remove; one that is not there is fine. After a power cut the object may be back."""

    def remove_leftovers(self, folder: str) -> int:
        """Remove what interrupted writers left below a folder and readers never see: temporary files, unfinished uploads.

        Only for who holds the lock of the backup in that folder: an upload of another's may be ended. It never fails:
        what can't be found or removed is told by the log, and a later call finds it again.

        Args:
            folder: the first part of keys.

        Returns:
            How many were removed.

        Raises:
            UsageError: not the first part of a key.
        """

    def check(self) -> None:
        """Whether the place can be used at all, told fast: it exists, and the credentials are known."""

    def close(self) -> None:
        """Let connections go; again is fine."""


@runtime_checkable
class CommitsTogether(Protocol):
    """A store that makes many uploads durable at less cost than one after the other."""

    def commit_together(self, uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        """Commit uploads of this store, each as its own commit() would: one that fails leaves the others alone.

        Returns:
            For each, what commit() would have returned or raised.
        """


@runtime_checkable
class TakesSizes(Protocol):
    """A store that has to know an object's size before it can read a part of it."""

    def note_size(self, key: str, size_bytes: int) -> None:
        """What somebody knows the size of an object to be; spares a request. A wrong one does no harm."""


def is_key(key: str) -> bool:
    """Whether it is a name that an object can have, and that can't leave the root."""
    return _BAD_PART.search(key) is None and _is_text(key)


def check_key(key: str) -> str:
    """``key``, if it is one that can't leave the root.

    Raises:
        UsageError: it is empty, too long, absolute, not Unicode, or has a part that is empty, ``.`` or ``..``, a
            backslash or a control character.
    """
    if not is_key(key):
        raise UsageError(f"not an object key: {cut(key, 200)!r}", object=key[:200])
    return key


def check_prefix(prefix: str) -> str:
    """``prefix``, if keys can begin with it: empty, or a key or its beginning, with or without a last ``/``.

    Raises:
        UsageError: no key begins so.
    """
    folder, _, beginning = prefix.rpartition("/")
    if (folder and not is_key(folder)) or prefix.startswith("/") or not _is_text(beginning):
        raise UsageError(f"not a prefix of object keys: {cut(prefix, 200)!r}", object=prefix[:200])
    return prefix


def check_folder(folder: str) -> str:
    """``folder``, if it can be the first part of a key.

    Raises:
        UsageError: it can't.
    """
    if "/" in folder:
        raise UsageError(f"not the first part of object keys: {cut(folder, 200)!r}", object=folder[:200])
    return check_key(folder)


def check_range(key: str, start: int, length: int) -> None:
    """Raise UsageError for a range that no object can have."""
    if start < 0 or length < 0:
        raise UsageError(f"not a range of {key}: {length} bytes from {start}", object=key)


def _is_text(text: str) -> bool:
    if _BAD_CHARACTER.search(text) is not None:
        return False
    try:
        return len(text.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:  # a lone surrogate: from a file name that is not UTF-8
        return False
