"""A folder as a store: temp file, fsync, rename, fsync of the folder.

Written on the operating system's own calls and not on fsspec's LocalFileSystem, which neither syncs
nor refuses symbolic links (docs/decisions/0003-storage.md). Objects get mode 0600, folders 0700.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress

from kbr.errors import (
    AccessDenied,
    KbrError,
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StoreFull,
)
from kbr.storage.base import NO_METADATA, ObjectInfo, check_key

__all__ = ["LocalStore"]

#: Names of files that are being written; no key has such a part, as keys' parts come from topics and numbers.
_TEMPORARY = ".kbr-tmp-"


class LocalStore:
    """Objects as files below a folder. Thread-safe; the folder is made with the first object."""

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(os.path.expanduser(root))

    @property
    def url(self) -> str:
        """The folder."""
        return self._root

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        upload = self.open_upload(key, metadata=metadata)
        try:
            upload.write(data)
            return upload.commit(if_absent=if_absent)
        finally:
            upload.abort()

    def open_upload(self, key: str, *, metadata: Mapping[str, str] = NO_METADATA) -> _FileUpload:
        """See ObjectStore; files keep no metadata, a segment says who wrote it in its own index."""
        del metadata
        return _FileUpload(self, check_key(key))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        descriptor = self._open(key)
        try:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                raise StorageError(
                    f"{self.path(key)} has {size} bytes, more than the {max_bytes} that are expected", object=key
                )
            return self._read(descriptor, key, 0, size)
        finally:
            os.close(descriptor)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        descriptor = self._open(key)
        try:
            return self._read(descriptor, key, start, length)
        finally:
            os.close(descriptor)

    def head(self, key: str) -> ObjectInfo:
        descriptor = self._open(key)
        try:
            return _info(key, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        found = [info for info in self._walk(folder) if info.key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        try:
            os.unlink(self.path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.translated(error, "delete", key) from error

    def check(self) -> None:
        """The folder is there, or can be made."""
        path = self._root
        while not os.path.lexists(path) and os.path.dirname(path) != path:
            path = os.path.dirname(path)
        if not os.path.isdir(path):
            raise StorageError(f"{path} is not a folder", hint="check storage.path")
        if not os.access(path, os.R_OK | os.X_OK):
            raise AccessDenied(f"{path} can't be read", hint="check the folder's owner and mode")

    def close(self) -> None:
        return None

    def path(self, key: str) -> str:
        """The file of a key."""
        return os.path.join(self._root, *check_key(key).split("/"))

    def translated(self, error: OSError, operation: str, key: str) -> KbrError:
        """The system's error as kbr's."""
        words = f"{operation} of {os.path.join(self._root, key)}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(words, hint="make room, then run the same command again", object=key)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return AccessDenied(words, hint="check the folder's owner and mode, and that it is not mounted read-only", object=key)
        if error.errno == errno.ENOENT:
            return ObjectMissing(words, object=key)
        if error.errno == errno.ELOOP:
            return StorageError(f"{words}: a symbolic link where an object has to be", object=key)
        if error.errno == errno.ENAMETOOLONG:
            return StorageError(words, hint="use a shorter path or a store without such a limit", object=key)
        return StorageError(words, hint="check the disk", object=key)

    def make_folders(self, key: str) -> str:
        """Make the folders above a key, each durable in its parent; returns the innermost."""
        folder = os.path.dirname(self.path(key))
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            sync_folder(os.path.dirname(folder))
        return os.path.dirname(self.path(key))

    def _open(self, key: str) -> int:
        try:
            return os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self.translated(error, "read", key) from error

    def _read(self, descriptor: int, key: str, start: int, length: int) -> bytes:
        pieces = []
        left = length
        try:
            while left:
                piece = os.pread(descriptor, left, start + length - left)
                if not piece:
                    raise StorageError(
                        f"{self.path(key)} ends at byte {start + length - left}, before {start + length}", object=key
                    )
                pieces.append(piece)
                left -= len(piece)
        except OSError as error:
            raise self.translated(error, "read", key) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                with os.scandir(os.path.join(self._root, current)) as entries:
                    for entry in entries:
                        key = f"{current}/{entry.name}" if current else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(key)
                        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(_TEMPORARY):
                            with suppress(FileNotFoundError):
                                yield _info(key, entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self.translated(error, "list", current) from error


class _FileUpload:
    """A temp file beside the object's place."""

    def __init__(self, store: LocalStore, key: str) -> None:
        self._store = store
        self._key = key
        self._size = 0
        self._temporary = ""
        self._descriptor = -1
        self._failed = False
        try:
            folder = store.make_folders(key)
            self._temporary = os.path.join(folder, _TEMPORARY + secrets.token_hex(8))
            self._descriptor = os.open(
                self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise store.translated(error, "write", key) from error

    def write(self, data: bytes | memoryview) -> None:
        self._require_open()
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self._size += written
                view = view[written:]
        except OSError as error:
            self._failed = True
            raise self._store.translated(error, "write", self._key) from error

    def commit(self, *, if_absent: bool = False) -> ObjectInfo:
        """See Upload. After a failed fsync the pages are gone from the cache: the file is never tried again."""
        self._require_open()
        self._failed = True
        target = self._store.path(self._key)
        try:
            os.fsync(self._descriptor)
            status = os.fstat(self._descriptor)
            if if_absent:
                os.link(self._temporary, target, follow_symlinks=False)
                os.unlink(self._temporary)
            else:
                os.rename(self._temporary, target)
            self._temporary = ""
            sync_folder(os.path.dirname(target))
        except FileExistsError as error:
            raise PreconditionFailed(f"{target} is already there", object=self._key) from error
        except OSError as error:
            raise self._store.translated(error, "write", self._key) from error
        finally:
            self._close()
        if status.st_size != self._size:
            raise StorageError(f"{target} has {status.st_size} bytes, {self._size} were written", object=self._key)
        return _info(self._key, status)

    def abort(self) -> None:
        self._failed = True
        self._close()
        if self._temporary:
            with suppress(OSError):  # a leftover is found and removed by its name
                os.unlink(self._temporary)
            self._temporary = ""

    def _require_open(self) -> None:
        if self._failed:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_folder(path: str) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{key} is not a file", object=key)
    return ObjectInfo(key=key, size_bytes=status.st_size, modified_at_ms=status.st_mtime_ns // 1_000_000)
