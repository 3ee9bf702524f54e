"""The object store that backups are kept in: keys and bytes, nothing about backups.

Every store promises the same: an object appears whole or not at all, what was reported as written is
durable, and errors are kbr's, with the object's name. Each operation is tried again after temporary
errors until the store's deadline; none is tried again after an error that can't get better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kbr.errors import UsageError

__all__ = ["NO_METADATA", "ObjectInfo", "ObjectStore", "Upload", "check_key"]

NO_METADATA: Mapping[str, str] = {}
#: S3's limit on a key, bytes; filesystems' paths are longer.
MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object as the store sees it.

    Attributes:
        modified_at_ms: by the store's clock; None where it doesn't tell.
        metadata: only from head(); empty on stores that keep none.
    """

    key: str
    size_bytes: int
    modified_at_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Upload(Protocol):
    """One object being written, invisible until commit(); of no use after its first error.

    Not for several threads at once, but for different ones in turn.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Append. The data may be kept until commit(); it must not change."""

    def commit(self) -> ObjectInfo:
        """Make it visible, whole and durable; its size has been checked on return."""

    def abort(self) -> None:
        """Leave nothing behind; again, and after commit(), it does nothing."""


class ObjectStore(Protocol):
    """Keys and bytes below a root. Thread-safe.

    Raises (all methods):
        StoreUnavailable: temporary errors until the deadline.
        AccessDenied: credentials or a right are missing.
        StoreFull: no space.
        StorageError: anything else.
    """

    @property
    def url(self) -> str:
        """The root, for messages; never holds secrets."""

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        """Write an object at once, replacing an older one.

        Raises:
            PreconditionFailed: ``if_absent``, and it is there. Stores that can't tell write anyway.
        """

    def open_upload(self, key: str, *, metadata: Mapping[str, str] = NO_METADATA) -> Upload:
        """Begin to write an object piece by piece."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """A whole object.

        Raises:
            ObjectMissing: it is not there.
            StorageError: it is larger than ``max_bytes``.
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
        """All objects whose keys begin with ``prefix``, in key order; never from a cache."""

    def delete(self, key: str) -> None:
        """Remove; one that is not there is fine."""

    def check(self) -> None:
        """Whether the place can be used at all, told fast: it exists, and the credentials are known."""

    def close(self) -> None:
        """Let connections go; again is fine."""


def check_key(key: str) -> str:
    """``key``, if it is one that can't leave the root.

    Raises:
        UsageError: it is empty, too long, absolute, or has a part that is empty, ``.`` or ``..``, a backslash or a
            control character.
    """
    parts = key.split("/")
    if (
        not key
        or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES
        or any(part in ("", ".", "..") for part in parts)
        or any(character == "\\" or ord(character) < 0x20 or ord(character) == 0x7F for character in key)
    ):
        raise UsageError(f"not an object key: {key[:200]!r}", object=key[:200])
    return key
