"""An object for a filesystem that takes whole ones only: its pieces wait on the local disk until the commit."""

from __future__ import annotations

import errno
import tempfile
from typing import Any, Protocol

from kbr.errors import StorageError, StoreFull
from kbr.storage.base import ObjectInfo

__all__ = ["SpooledUpload"]


class WholeObjects(Protocol):
    """What an upload needs of its store."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """See ObjectStore."""

    def put_file(self, key: str, local: str, size: int, *, if_absent: bool) -> ObjectInfo:
        """Store a local file."""


class SpooledUpload:
    """Pieces on the local disk until they are put."""

    def __init__(self, store: WholeObjects, key: str, *, if_absent: bool) -> None:
        self._store = store
        self._key = key
        self._if_absent = if_absent
        self._size = 0
        self._file: Any = None
        self._over = False

    def write(self, data: bytes | memoryview) -> None:
        self._require_open()
        try:
            if self._file is None:
                self._file = tempfile.NamedTemporaryFile(prefix="kbr-upload-", buffering=0)  # noqa: SIM115  (see abort)
            view = memoryview(data).cast("B")
            self._size += len(view)
            while view:
                view = view[self._file.write(view) :]
        except BaseException as error:
            self.abort()
            if not isinstance(error, OSError):
                raise
            kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
            raise kind(
                f"collecting {self._key} in {tempfile.gettempdir()}: {error.strerror}",
                hint="point TMPDIR to a disk with room",
                object=self._key,
            ) from error

    def commit(self) -> ObjectInfo:
        self._require_open()
        try:
            if self._file is None:
                return self._store.put(self._key, b"", if_absent=self._if_absent)
            return self._store.put_file(self._key, self._file.name, self._size, if_absent=self._if_absent)
        finally:
            self.abort()

    def abort(self) -> None:
        self._over = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _require_open(self) -> None:
        if self._over:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)
