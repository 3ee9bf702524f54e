"""A folder as a store: temp file, fsync, rename, fsync of the folder.

Written on the operating system's own calls and not on fsspec's LocalFileSystem, which neither syncs
nor refuses symbolic links (docs/decisions/0003-storage.md). Objects get mode 0600, folders 0700.
Below the root no symbolic link is followed, at no level: each folder is opened in the one above it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from kbr.errors import (
    AccessDenied,
    KbrError,
    NotAnObject,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StoreFull,
    UsageError,
)
from kbr.storage.base import (
    NO_METADATA,
    ObjectInfo,
    StoreProperties,
    Upload,
    check_folder,
    check_key,
    check_prefix,
    check_range,
    is_key,
)
from kbr.storage.local_temporary import create_temporary, remove_abandoned
from kbr.storage.local_upload import FileUpload, WholeSync, commit_together, object_info
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["LocalStore"]

#: Beginning of the names of files that are being written; refused in the last part of a key.
_TEMPORARY = ".kbr-tmp-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: NONBLOCK: opening a pipe that somebody put there would wait for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Folders that are remembered to be durable, at most.
_DURABLE_KNOWN = 20_000
#: Where no lock says whether a temporary file is still written, one this old is not.
_ABANDONED_MS = 86_400_000
_log = logging.getLogger("kbr.storage")


class LocalStore:
    """Objects as files below a folder. Thread-safe; the folder is made with the first object."""

    def __init__(self, root: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._root = os.path.abspath(os.path.expanduser(root))
        self._honours_if_absent = True
        self._whole: WholeSync | None = None
        self._whole_lock = threading.Lock()
        #: Folders whose names this process has seen made durable; one that is just there may be another's, who has
        #: not synced it yet.
        self._durable: set[tuple[str, ...]] = set()

    @property
    def url(self) -> str:
        """The folder."""
        return self._root

    @property
    def properties(self) -> StoreProperties:
        return StoreProperties(
            name="folder",
            honours_if_absent=self._honours_if_absent,
            replaces_whole=True,
            is_durable=True,
            keeps_metadata=False,
        )

    # -- ObjectStore ----------------------------------------------------------------------

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        upload = self._open_upload(key, if_absent=if_absent)
        upload.write(data)
        return upload.commit()

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        """See ObjectStore; files keep no metadata, a segment says who wrote it in its own index."""
        upload = self._open_upload(key, if_absent=if_absent)
        with self._whole_lock:
            if self._whole is None:  # from before the first byte that it is to answer for
                with suppress(OSError):  # folders that can't be opened are told by who needs them
                    self._whole = WholeSync(self._root)
        return upload

    def commit_together(self, uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        """See kbr.storage.base.CommitsTogether."""
        return commit_together(self, uploads, self._whole)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        with self._opened(key) as (descriptor, status):
            if status.st_size > max_bytes:
                raise ObjectTooLarge(
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
            return object_info(key, status)

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

    def remove_leftovers(self, folder: str) -> int:
        """See ObjectStore: temporary files that no process is writing."""
        removed = 0
        try:
            with self._folder([check_folder(folder)]) as descriptor:
                with os.scandir(descriptor) as entries:
                    names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
                for name in names:
                    if name.startswith(_TEMPORARY):
                        removed += remove_abandoned(name, descriptor, before_ms=self._clock.now_ms() - _ABANDONED_MS)
        except FileNotFoundError:
            return 0
        except OSError as error:
            problem = self.translated(error, "removal of temporary files", folder)
            _log.warning("temporary files of interrupted runs stay: %s", problem.message)
        return removed

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
            return NotAnObject(
                f"{operation} of {os.path.join(self._root, key)}: a symbolic link is in its way",
                hint="no link below the storage folder is followed: put what it leads to in its place, or the folder there",
                object=key,
            )
        if error.errno in (errno.ENXIO, errno.ENODEV):
            return NotAnObject(
                f"{os.path.join(self._root, key)} is not a file: a socket or a device",
                hint="remove it, and get the object from another copy of the backup",
                object=key,
            )
        if error.errno == errno.EXDEV:
            return StorageError(
                words,
                hint="a filesystem is mounted below the backup's folder: mount it at the backup's folder, or above",
                object=key,
            )
        if error.errno == errno.ENAMETOOLONG:
            return StorageError(words, hint="use a shorter path or a store without such a limit", object=key)
        return StorageError(words, hint="check the disk", object=key)

    @contextmanager
    def folder_of(self, key: str, *, make: bool = False) -> Iterator[int]:
        """The folder of a key, opened; OSError if that can't be done."""
        with self._folder(_split(key)[0], make=make) as descriptor:
            yield descriptor

    @contextmanager
    def folder_of_temporary(self, key: str, *, make: bool = False) -> Iterator[int]:
        """The folder of a key's temp file: that of the key's first part, whatever lies between; OSError if not."""
        with self._folder(_split(key)[0][:1], make=make) as descriptor:
            yield descriptor

    @contextmanager
    def open_folders(self) -> Iterator[_OpenFolders]:
        """Folders for one batch."""
        folders = _OpenFolders(self._root, self._durable)
        try:
            yield folders
        finally:
            folders.close()

    def cannot_write_if_absent(self) -> None:
        """This filesystem has shown that it has no way to write only if absent in one step."""
        self._honours_if_absent = False

    # -- inner ----------------------------------------------------------------------------

    def _open_upload(self, key: str, *, if_absent: bool) -> FileUpload:
        name = check_key(key).rpartition("/")[2]
        if name.startswith(_TEMPORARY):
            raise UsageError(f"not an object key: {key} begins like a file that is being written", object=key)
        try:
            with self.folder_of_temporary(key, make=True) as folder:
                temporary, descriptor = create_temporary(_TEMPORARY, folder)
                return FileUpload(self, key, temporary, descriptor, if_absent=if_absent)
        except OSError as error:
            raise self.translated(error, "write", key) from error

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        if make:
            _make_root(self._root)
        descriptor = os.open(self._root, _FOLDER)  # the root itself may be a link: the user's choice
        try:
            for depth, part in enumerate(parts, 1):
                below, made = _open_or_make(descriptor, part) if make else (_open_existing(descriptor, part), False)
                above, descriptor = descriptor, below
                try:
                    if make and (made or tuple(parts[:depth]) not in self._durable):
                        os.fsync(above)
                        _note_durable(self._durable, tuple(parts[:depth]))
                finally:
                    os.close(above)
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
                raise NotAnObject(
                    f"{self.path(key)} is not a file: {_kind(status.st_mode)}",
                    hint="remove it, and get the object from another copy of the backup",
                    object=key,
                )
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
                    # mkfs makes lost+found, for root only; in a folder whose name is no part of a key there are none,
                    # and so none is so deep that this would run out of files
                    if f"{key}/".startswith(prefix[: len(key) + 1]) and key != "lost+found" and is_key(key):
                        found.append((f"{key}/", None))
                elif key.startswith(prefix) and not entry.name.startswith(_TEMPORARY) and is_key(key):
                    found.append((key, entry))
        for key, file in sorted(found, key=lambda one: one[0]):
            with suppress(FileNotFoundError):  # deleted meanwhile
                if file is None:
                    below = _open_existing(descriptor, key[len(above) : -1])
                    try:
                        yield from self._walk(below, key, prefix)
                    finally:
                        os.close(below)
                elif file.is_file(follow_symlinks=False):
                    status = os.stat(file.name, dir_fd=descriptor, follow_symlinks=False)
                    yield object_info(key, status)


class _OpenFolders:
    """See kbr.storage.local_upload.OpenFolders."""

    def __init__(self, root: str, durable: set[tuple[str, ...]]) -> None:
        _make_root(root)
        self._durable = durable
        self.changed: set[tuple[str, ...]] = set()
        self._opened: dict[tuple[str, ...], int] = {(): os.open(root, _FOLDER)}

    def get(self, parts: tuple[str, ...]) -> int:
        found = self._opened.get(parts)
        if found is None:
            above = self.get(parts[:-1])
            found, made = _open_or_make(above, parts[-1])
            self._opened[parts] = found
            if made or parts not in self._durable:
                self.changed.add(parts[:-1])
        return found

    def are_durable(self) -> None:
        for parts in self._opened:
            _note_durable(self._durable, parts)

    def opened(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for parts in self.changed:
            yield parts, self._opened[parts]

    def close(self) -> None:
        for descriptor in self._opened.values():
            os.close(descriptor)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISSOCK: "a socket"}
    return next((name for holds, name in kinds.items() if holds(mode)), "something else")


def _note_durable(known: set[tuple[str, ...]], parts: tuple[str, ...]) -> None:
    if len(known) >= _DURABLE_KNOWN:
        known.clear()  # each costs one more fsync, once
    known.add(parts)


def _split(key: str) -> tuple[list[str], str]:
    *folder, name = check_key(key).split("/")
    return folder, name


def _open_existing(descriptor: int, name: str) -> int:
    """Open a folder in an open one; NotADirectoryError, or ELOOP for a symbolic link."""
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise


def _open_or_make(descriptor: int, name: str) -> tuple[int, bool]:
    """Open a folder in an open one, made if it is not there; whether somebody has just made it.

    One that another thread made counts too: that thread may not have made it durable yet.
    """
    with suppress(FileNotFoundError):
        return _open_existing(descriptor, name), False
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=descriptor)
    return _open_existing(descriptor, name), True


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
