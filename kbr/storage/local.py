"""A folder as a store: temp file, fsync, rename, fsync of the folder.

Written on the operating system's own calls and not on fsspec's LocalFileSystem, which neither syncs
nor refuses symbolic links (docs/decisions/0003-storage.md). Objects get mode 0600, folders 0700.
Below the root no symbolic link is followed, at no level: each folder is opened in the one above it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from kbr.errors import (
    AccessDenied,
    KbrError,
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StoreFull,
    UsageError,
)
from kbr.storage.base import (
    NO_METADATA,
    ObjectInfo,
    StoreProperties,
    Upload,
    check_key,
    check_prefix,
    check_range,
    is_key,
)

__all__ = ["LocalStore"]

#: Beginning of the names of files that are being written; refused in the last part of a key.
_TEMPORARY = ".kbr-tmp-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: NONBLOCK: opening a pipe that somebody put there would wait for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
#: A file is written back to the disk in steps of this, bytes.
_WRITEBACK_BYTES = 8 * 1024 * 1024


class LocalStore:
    """Objects as files below a folder. Thread-safe; the folder is made with the first object."""

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(os.path.expanduser(root))

    @property
    def url(self) -> str:
        """The folder."""
        return self._root

    @property
    def properties(self) -> StoreProperties:
        return StoreProperties(
            name="folder", honours_if_absent=True, replaces_whole=True, is_durable=True, keeps_metadata=False
        )

    # -- ObjectStore ----------------------------------------------------------------------

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        upload = self._open_upload(key)
        upload.write(data)
        return upload.commit(if_absent=if_absent)

    def open_upload(self, key: str, *, metadata: Mapping[str, str] = NO_METADATA) -> Upload:
        """See ObjectStore; files keep no metadata, a segment says who wrote it in its own index."""
        return self._open_upload(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        with self._opened(key) as (descriptor, status):
            if status.st_size > max_bytes:
                raise StorageError(
                    f"{self.path(key)} has {status.st_size} bytes, more than the {max_bytes} that are expected",
                    object=key,
                )
            return self._read(descriptor, key, 0, status.st_size)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_range(key, start, length)
        with self._opened(key) as (descriptor, status):
            # before anything is allocated: pread() takes memory for all that it is asked for
            if status.st_size < start + length:
                raise StorageError(
                    f"{self.path(key)} ends at byte {status.st_size}, before {start + length}", object=key
                )
            return self._read(descriptor, key, start, length)

    def head(self, key: str) -> ObjectInfo:
        with self._opened(key) as (_descriptor, status):
            return _info(key, status)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, key: str) -> None:
        folder, name = _split(key)
        try:
            with self._folder(folder) as descriptor:
                os.unlink(name, dir_fd=descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self.translated(error, "delete", key) from error

    def check(self) -> None:
        """The folder is there and can be read, or one above it is where it can be made."""
        path = self._root
        while not os.path.lexists(path) and os.path.dirname(path) != path:
            path = os.path.dirname(path)
        if not os.path.isdir(path):
            raise StorageError(f"{path} is not a folder", hint="check storage.path")
        if not os.access(path, os.R_OK | os.X_OK):
            raise AccessDenied(f"{path} can't be read", hint="check the folder's owner and mode")

    def close(self) -> None:
        return None

    # -- for uploads ----------------------------------------------------------------------

    def path(self, key: str) -> str:
        """The file of a key, for messages."""
        return os.path.join(self._root, *key.split("/"))

    def translated(self, error: OSError, operation: str, key: str) -> KbrError:
        """The system's error as kbr's."""
        words = f"{operation} of {os.path.join(self._root, key)}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(words, hint="make room, then run the same command again", object=key)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return AccessDenied(
                words, hint="check the folder's owner and mode, and that it is not mounted read-only", object=key
            )
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and operation == "read":
            return ObjectMissing(f"{self.path(key)} is not there", object=key)
        if error.errno == errno.ELOOP:
            return StorageError(f"{operation} of {self.path(key)}: a symbolic link is in its way", object=key)
        if error.errno == errno.ENAMETOOLONG:
            return StorageError(words, hint="use a shorter path or a store without such a limit", object=key)
        return StorageError(words, hint="check the disk", object=key)

    @contextmanager
    def folder_of(self, key: str, *, make: bool = False) -> Iterator[int]:
        """The folder of a key, opened; OSError if that can't be done."""
        with self._folder(_split(key)[0], make=make) as descriptor:
            yield descriptor

    # -- inner ----------------------------------------------------------------------------

    def _open_upload(self, key: str) -> _FileUpload:
        name = check_key(key).rpartition("/")[2]
        if name.startswith(_TEMPORARY):
            raise UsageError(f"not an object key: {key} begins like a file that is being written", object=key)
        temporary = _TEMPORARY + secrets.token_hex(8)
        try:
            with self.folder_of(key, make=True) as folder:
                return _FileUpload(self, key, temporary, os.open(temporary, _CREATE, 0o600, dir_fd=folder))
        except OSError as error:
            raise self.translated(error, "write", key) from error

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        if make:
            _make_root(self._root)
        descriptor = os.open(self._root, _FOLDER)  # the root itself may be a link: the user's choice
        try:
            for part in parts:
                below = _open_below(descriptor, part, make=make)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        folder, name = _split(key)
        try:
            with self._folder(folder) as parent:
                descriptor = os.open(name, _READ, dir_fd=parent)
        except OSError as error:
            raise self.translated(error, "read", key) from error
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise ObjectMissing(f"{self.path(key)} is not there: it is a folder", object=key)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(f"{self.path(key)} is not a file", object=key)
            yield descriptor, status
        finally:
            os.close(descriptor)

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

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        try:
            with self._folder(folder.split("/") if folder else []) as descriptor:
                yield from self._walk(descriptor, f"{folder}/" if folder else "", prefix)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self.translated(error, "list", folder) from error

    def _walk(self, descriptor: int, above: str, prefix: str) -> Iterator[ObjectInfo]:
        """In order of the keys: a folder sorts as its name with a slash, as all keys below it begin so."""
        found: list[tuple[str, os.DirEntry[str] | None]] = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                key = above + entry.name
                if entry.is_dir(follow_symlinks=False):
                    # mkfs makes lost+found, for root only
                    if f"{key}/".startswith(prefix[: len(key) + 1]) and key != "lost+found":
                        found.append((f"{key}/", None))
                elif key.startswith(prefix) and not entry.name.startswith(_TEMPORARY) and is_key(key):
                    found.append((key, entry))
        for key, file in sorted(found, key=lambda one: one[0]):
            with suppress(FileNotFoundError):  # deleted meanwhile
                if file is None:
                    below = _open_below(descriptor, key[len(above) : -1])
                    try:
                        yield from self._walk(below, key, prefix)
                    finally:
                        os.close(below)
                elif file.is_file(follow_symlinks=False):
                    status = os.stat(file.name, dir_fd=descriptor, follow_symlinks=False)
                    yield _info(key, status)


class _FileUpload:
    """A temp file in the folder of the object's place; see kbr.storage.base.Upload."""

    def __init__(self, store: LocalStore, key: str, temporary: str, descriptor: int) -> None:
        self._store = store
        self._key = key
        self._size = 0
        #: Up to here the kernel was asked to write.
        self._flushing = 0
        self._temporary = temporary
        self._descriptor = descriptor
        self._over = False

    def write(self, data: bytes | memoryview) -> None:
        self._require_open()
        try:
            view = memoryview(data).cast("B")
            while view:
                written = os.write(self._descriptor, view)
                self._size += written
                view = view[written:]
            self._begin_writeback()
        except OSError as error:
            self.abort()  # the space that it takes may be what is missing
            raise self._store.translated(error, "write", self._key) from error
        except BaseException:
            self.abort()
            raise

    def _begin_writeback(self) -> None:
        """Have the kernel write what came, without waiting, so that the fsync at the end has little left to do.

        On Linux POSIX_FADV_DONTNEED starts the write-back of a range's dirty pages (mm/fadvise.c) and drops only
        clean ones. 128 MB segments: the last commit of a run took 0.13 s without it, 0.02 s with it.
        """
        if self._size - self._flushing >= _WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, self._flushing, self._size - self._flushing, os.POSIX_FADV_DONTNEED)
            self._flushing = self._size

    def commit(self, *, if_absent: bool = False) -> ObjectInfo:
        """See Upload. After a failed fsync the pages are gone from the cache: the file is never tried again.

        Where only the folder's fsync fails, the object is there and whole, and its name may not outlive a power cut.
        """
        self._require_open()
        target = self._store.path(self._key)
        name = self._key.rpartition("/")[2]
        try:
            os.fsync(self._descriptor)
            status = os.fstat(self._descriptor)
            if status.st_size != self._size:
                raise StorageError(f"{target} has {status.st_size} bytes, {self._size} were written", object=self._key)
            with self._store.folder_of(self._key) as folder:
                if if_absent:
                    self._link(folder, name)
                else:
                    os.rename(self._temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                    self._temporary = ""
                os.fsync(folder)
        except FileExistsError as error:
            raise PreconditionFailed(f"{target} is already there", object=self._key) from error
        except OSError as error:
            raise self._store.translated(error, "write", self._key) from error
        finally:
            self.abort()
        return _info(self._key, status)

    def abort(self) -> None:
        self._over = True
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):  # what matters has been synced; what is aborted may fail
                os.close(descriptor)
        if self._temporary:
            name, self._temporary = self._temporary, ""
            # A leftover is never listed, and known by its name.
            with suppress(OSError), self._store.folder_of(self._key) as folder:
                os.unlink(name, dir_fd=folder)

    def _link(self, folder: int, name: str) -> None:
        """A second name for the temp file, which abort() then takes away: link() never replaces."""
        try:
            os.link(self._temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StorageError(
                    f"write of {self._store.path(self._key)}: this filesystem can't write only if absent (no hard links)",
                    hint="use another filesystem for backups",
                    object=self._key,
                ) from error
            raise

    def _require_open(self) -> None:
        if self._over:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)


def _split(key: str) -> tuple[list[str], str]:
    *folder, name = check_key(key).split("/")
    return folder, name


def _open_below(descriptor: int, name: str, *, make: bool = False) -> int:
    """Open a folder in an open one; NotADirectoryError, or ELOOP for a symbolic link."""
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=descriptor)
    os.fsync(descriptor)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)


def _make_root(path: str) -> None:
    """Make the root's folder and those above it, each durable in its parent."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        descriptor = os.open(os.path.dirname(folder), _FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=status.st_size, modified_at_ms=status.st_mtime_ns // 1_000_000)
