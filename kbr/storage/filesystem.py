"""Any filesystem of fsspec as a store, as well as that filesystem can. Knows no library: it is given a filesystem.

kbr.storage.fsspec_open makes the filesystem of a URL.
"""

from __future__ import annotations

import inspect
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from typing import Any, Protocol, TypeVar

from kbr.errors import KbrError, ObjectMissing, ObjectTooLarge, PreconditionFailed, StorageError, StoreUnavailable
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
from kbr.storage.filesystem_errors import translate
from kbr.storage.options import StorageOptions, without_secrets
from kbr.storage.retry import Retry
from kbr.storage.spooled_upload import SpooledUpload
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["FilesystemStore", "connected_store"]

_T = TypeVar("_T")
_log = logging.getLogger("kbr.storage")
#: A temporary file this old is no one's any more: a whole object is written at once, within the deadline of a request.
_ABANDONED_MS = 86_400_000

#: Two objects are compared in pieces of this, bytes.
_COMPARED_BYTES = 8 * 1024 * 1024
#: Filesystems whose write of a whole object is one PUT: it appears whole or not at all.
_OBJECT_STORES = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "ocilake", "oss", "tos"})
#: Beginning of names that are being written, on the others.
_TEMPORARY = ".kbr-tmp-"
#: Where filesystems keep the time of the last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "modify", "created")
#: In this process: no server, no connection, and any number of threads at once.
_HERE = frozenset({"file", "local", "memory"})


class _Write(Protocol):
    """Writes a whole object to a path."""

    def __call__(self, path: str, **mode: str) -> object:
        """``mode`` is fsspec's."""


class FilesystemStore:
    """Objects on any filesystem that fsspec knows, as well as that one can. Thread-safe if the filesystem is.

    On object stores an object is written at once; elsewhere into a temp file that is renamed (or copied, where
    that is all it can), which is as atomic and as durable as that filesystem makes it. An upload is collected on the local disk until its commit.

    Args:
        filesystem: one of fsspec's, without a listing cache.
        root: what the filesystem calls the place of ``options.url``.
        reopen: makes another such filesystem, for one that keeps a connection, after that is lost.
    """

    def __init__(
        self,
        options: StorageOptions,
        filesystem: Any,
        root: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
        backoff: Backoff | None = None,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        self._url = without_secrets(options.url).rstrip("/")
        self._check_deadline_s = options.check_deadline_s
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        protocol = filesystem.protocol
        self._protocols = frozenset((protocol,) if isinstance(protocol, str) else protocol)
        self._reopen = reopen if not self._is_object_store and not self._protocols & _HERE else None
        # ftplib and the like have one connection, on which one request follows the other
        alone = not getattr(filesystem, "async_impl", False) and not self._protocols & _HERE
        self._turn = threading.RLock() if alone else nullcontext()
        self._opening = threading.Lock()
        # fsspec's own mv() copies; a filesystem that has its own renames
        self._clock = clock
        self._renames = any(
            not {"mv", "_mv"}.isdisjoint(vars(kind))
            for kind in type(filesystem).__mro__
            if kind.__module__ not in ("fsspec.spec", "fsspec.asyn")
        )
        self._has_ranges = takes_ranges(filesystem)
        self._honours_if_absent: bool | None = None if self._is_object_store else False
        self._retry = Retry(deadline_s=options.deadline_s, translate=self._translate, clock=clock, backoff=backoff)

    @property
    def url(self) -> str:
        """The root, without user and password."""
        return self._url

    @property
    def properties(self) -> StoreProperties:
        whole = self._is_object_store
        return StoreProperties(
            name="/".join(sorted(self._protocols)),
            honours_if_absent=self._honours_if_absent,
            replaces_whole=whole or self._renames,
            is_durable=whole and "memory" not in self._protocols,
            keeps_metadata=False,
        )

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        """See ObjectStore; metadata is not kept, as fsspec has no common way."""

        def same() -> bool:
            size = len(data)
            return self._info(key).size_bytes == size and self._bytes(key, 0, size) == data

        self._write(key, lambda path, **mode: self._filesystem.pipe_file(path, data, **mode), same, if_absent=if_absent)
        return self._checked(key, len(data))

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        return SpooledUpload(self, check_key(key), if_absent=if_absent)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        path = self._path(key)

        def attempt() -> bytes:
            size = self._info(key).size_bytes
            # one byte more than may come: it may be replaced by a larger one in between
            data = self._cat(path, 0, max_bytes + 1) if size else b""
            if max(size, len(data)) > max_bytes:
                raise ObjectTooLarge(
                    f"{self.name(key)} has {size} bytes, more than the {max_bytes} that are expected", object=key
                )
            return data

        return self._call(attempt, "get", key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_range(key, start, length)
        path = self._path(key)

        def attempt() -> bytes:
            size = self._info(key).size_bytes
            if size < start + length:
                raise StorageError(f"{self.name(key)} ends at byte {size}, before {start + length}", object=key)
            data = self._cat(path, start, start + length) if length else b""
            if len(data) != length:
                raise StoreUnavailable(f"read of {self.name(key)}: {len(data)} of {length} bytes came", object=key)
            return data

        return self._call(attempt, "read", key)

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        return self._call(lambda: self._info(key), "head", key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        folder = self._root + "/" + prefix.rpartition("/")[0]
        entries = self._call(lambda: self._find(folder.rstrip("/")), "list", prefix)
        cut = len(self._root) + 1
        found = [self._to_info(name[cut:], entry) for name, entry in entries.items()]
        found = [info for info in found if info.key.startswith(prefix) and self._is_object(info.key)]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        path = self._path(key)

        def attempt() -> None:
            try:
                self._filesystem.rm_file(path)
            except FileNotFoundError:
                return
            except Exception:
                if self._is_there(path):  # not every filesystem says so by its error
                    raise

        self._call(attempt, "delete", key)

    def remove_leftovers(self, folder: str) -> int:
        """See ObjectStore: temporary files a day old; whether a younger one is still written can't be told here."""
        path = f"{self._root}/{check_folder(folder)}"
        before_ms = self._clock.now_ms() - _ABANDONED_MS
        removed = 0
        try:
            for name, entry in self._call(lambda: self._find(path), "list", folder).items():
                moment = self._to_info(name, entry).modified_at_ms
                if name.rpartition("/")[2].startswith(_TEMPORARY) and moment is not None and moment < before_ms:
                    self._call(lambda name=name: self._filesystem.rm_file(name), "delete", folder)  # type: ignore[misc]
                    removed += 1
        except KbrError as error:
            _log.warning("temporary files of interrupted runs stay: %s", error.message)
        return removed

    def check(self) -> None:
        def attempt() -> None:
            try:
                self._filesystem.ls(self._root or "/", detail=False)
            except FileNotFoundError:
                return  # it is made with the first object

        self._call(attempt, "list", "", deadline_s=self._check_deadline_s)

    def close(self) -> None:
        return None

    # -- for uploads ----------------------------------------------------------------------

    def put_file(self, key: str, local: str, size: int, *, if_absent: bool) -> ObjectInfo:
        """Store a local file; see ObjectStore.put()."""

        def same() -> bool:
            if self._info(key).size_bytes != size:
                return False
            with open(local, "rb") as file:
                return all(
                    file.read(_COMPARED_BYTES) == self._bytes(key, start, min(_COMPARED_BYTES, size - start))
                    for start in range(0, size, _COMPARED_BYTES)
                )

        self._write(
            key, lambda path, **mode: self._filesystem.put_file(local, path, **mode), same, if_absent=if_absent
        )
        return self._checked(key, size)

    def name(self, key: str) -> str:
        """An object's full name, for messages."""
        return f"{self._url}/{key}"

    # -- inner ----------------------------------------------------------------------------

    @property
    def _is_object_store(self) -> bool:
        return bool(self._protocols & _OBJECT_STORES)

    def _path(self, key: str) -> str:
        check_key(key)
        if not self._is_object(key):
            raise StorageError(f"{key}: the last part of a key can't begin with {_TEMPORARY}", object=key)
        return f"{self._root}/{key}"

    def _is_object(self, key: str) -> bool:
        return is_key(key) and not key.rpartition("/")[2].startswith(_TEMPORARY)

    def _call(self, function: Callable[[], _T], operation: str, key: str, *, deadline_s: float | None = None) -> _T:
        def attempt(_deadline: Deadline) -> _T:
            filesystem = self._filesystem
            try:
                with self._turn:
                    return function()
            except Exception as error:
                failure = error if isinstance(error, KbrError) else self._translate(error, operation, key)
                if isinstance(failure, StoreUnavailable):
                    self._connect_again(filesystem)
                raise failure from (error.__cause__ if failure is error else error)

        return self._retry.call(attempt, operation, key, deadline_s=deadline_s)

    def _connect_again(self, broken: Any) -> None:
        """Another filesystem in place of one whose connection may be lost; whatever threads come at once make one.

        Raises:
            KbrError: it can't be made.
        """
        if self._reopen is None:
            return
        with self._opening:
            if self._filesystem is broken:
                self._filesystem = self._reopen()

    def _bytes(self, key: str, start: int, length: int) -> bytes:
        return self._cat(self._path(key), start, start + length) if length else b""

    def _cat(self, path: str, start: int, end: int) -> bytes:
        """Bytes of a file from start to before end, or to its own end."""
        if self._has_ranges:
            return bytes(self._filesystem.cat_file(path, start=start, end=end))
        with self._filesystem.open(path, "rb") as file:  # sshfs reads all of a file, whatever range was asked for
            file.seek(start)
            pieces = []
            while start < end and (piece := bytes(file.read(end - start))):
                pieces.append(piece)
                start += len(piece)
            return b"".join(pieces)

    def _write(self, key: str, write: _Write, same: Callable[[], bool], *, if_absent: bool) -> None:
        """Make an object appear, tried again after temporary errors.

        Args:
            write: of the whole object to a path; takes fsspec's ``mode``.
            same: whether what is there now has the bytes that are written.
        """
        path = self._path(key)
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            if not if_absent:
                self._place(path, write)
                return
            # an earlier try may have been done, and its answer lost; no metadata tells whose it is, but its bytes
            if self._is_there(path):
                if tries == 1 or not same():
                    raise PreconditionFailed(f"{self.name(key)} is already there", object=key)
                return
            try:
                self._write_new(path, write)
            except FileExistsError as error:
                # some packages try again by themselves, unseen (adlfs): on object stores our first try may be a second one
                if (tries == 1 and not self._is_object_store) or not self._is_still(same):
                    raise PreconditionFailed(f"{self.name(key)} is already there", object=key) from error

        self._call(attempt, "put", key)

    @staticmethod
    def _is_still(same: Callable[[], bool]) -> bool:
        try:
            return same()
        except (FileNotFoundError, ObjectMissing) as error:
            raise ConnectionError("somebody else wrote and deleted it meanwhile") from error

    def _write_new(self, path: str, write: _Write) -> None:
        """Write what was not there a moment ago, and where that is known to be told apart, is not there now."""
        if not self._is_object_store:
            self._place(path, write)
            return
        try:
            write(path, mode="create")
        except FileExistsError:
            self._honours_if_absent = True
            raise
        except (NotImplementedError, TypeError):  # that filesystem has no such mode
            write(path)

    def _place(self, path: str, write: _Write) -> None:
        """Make an object appear whole, as well as the filesystem can."""
        if self._is_object_store:
            write(path)
            return
        folder, _, _ = path.rpartition("/")
        self._filesystem.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            write(temporary)
            if self._renames:
                self._filesystem.mv(temporary, path)
            else:  # not fsspec's own mv(), which takes a star in a name for a pattern
                self._filesystem.cp_file(temporary, path)
                self._filesystem.rm_file(temporary)
        except BaseException:
            with suppress(Exception):  # the error that led here is the one to tell; what stays is a temporary file
                self._filesystem.rm_file(temporary)
            raise

    def _find(self, folder: str) -> dict[str, dict[str, Any]]:
        self._filesystem.invalidate_cache()
        try:
            # of a file, filesystems find the file itself, or (FTP) one of its name in it, or (adlfs) no dictionary
            if folder != self._root and self._is_file(folder):
                return {}
            found: dict[str, dict[str, Any]] = self._filesystem.find(folder, detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _is_file(self, path: str) -> bool:
        """False also where nothing of that name is there: some object stores know no folders."""
        try:
            return bool(self._filesystem.info(path).get("type") == "file")
        except FileNotFoundError:
            return False

    def _is_there(self, path: str) -> bool:
        """Not by exists(): that takes every error for a no."""
        try:
            self._filesystem.info(path)
        except FileNotFoundError:
            return False
        return True

    def _info(self, key: str) -> ObjectInfo:
        self._filesystem.invalidate_cache()
        entry = self._filesystem.info(self._path(key))
        if entry.get("type") != "file":
            raise ObjectMissing(f"{self.name(key)} is not there", object=key)
        return self._to_info(key, entry)

    @staticmethod
    def _to_info(key: str, entry: Mapping[str, Any]) -> ObjectInfo:
        moment = next((entry[name] for name in _TIMES if entry.get(name) is not None), None)
        if isinstance(moment, str):
            moment = _parsed(moment)
        if isinstance(moment, datetime):
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        return ObjectInfo(
            key=key,
            size_bytes=int(entry["size"]),
            modified_at_ms=int(moment * 1000) if isinstance(moment, (int, float)) else None,
        )

    def _checked(self, key: str, size: int) -> ObjectInfo:
        info = self.head(key)
        if info.size_bytes != size:
            raise StorageError(f"{self.name(key)} has {info.size_bytes} bytes after {size} were written", object=key)
        return info

    def _translate(self, error: Exception, operation: str, key: str) -> KbrError:
        return translate(error, operation, name=self.name(key), key=key, url=self._url)


def _parsed(moment: str) -> datetime | None:
    """A time as ISO-8601 or as FTP has it (RFC 3659); None for one that says no year."""
    try:
        if moment[:14].isdecimal():
            return datetime.strptime(moment[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
        return datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        return None


def takes_ranges(filesystem: Any) -> bool:
    """Whether its cat_file() reads ranges; some take the arguments and read everything."""
    method = getattr(filesystem, "_cat_file", None) or filesystem.cat_file
    return "start" in inspect.signature(method).parameters


def connected_store(
    options: StorageOptions, opener: Callable[[StorageOptions], tuple[Any, str]], *, clock: Clock = SYSTEM_CLOCK
) -> FilesystemStore:
    """The store of a filesystem that connects when it is made: tried again for a while, and later after lost connections.

    Args:
        opener: makes the filesystem, and says what that calls the place; raises kbr's errors.

    Raises:
        KbrError: what the opener raises.
    """

    def unexpected(error: Exception, _operation: str, _target: str) -> KbrError:
        return StorageError(f"{without_secrets(options.url)}: {type(error).__name__}", hint="this is a bug in kbr")

    deadline_s = min(options.check_deadline_s, options.deadline_s)
    retry = Retry(deadline_s=deadline_s, translate=unexpected, clock=clock)
    filesystem, root = retry.call(lambda _deadline: opener(options), "open", "")
    return FilesystemStore(options, filesystem, root, clock=clock, reopen=lambda: opener(options)[0])
