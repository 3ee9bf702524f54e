"""A store in this process's memory: for tests, and for trying things out. Keeps every promise but durability."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from kbr.errors import ObjectMissing, ObjectTooLarge, PreconditionFailed, StorageError
from kbr.storage.base import (
    NO_METADATA,
    ObjectInfo,
    StoreProperties,
    check_folder,
    check_key,
    check_prefix,
    check_range,
)
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["MemoryStore"]

_shared: dict[str, MemoryStore] = {}
_shared_lock = threading.Lock()


class MemoryStore:
    """Objects in a dict. Thread-safe."""

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url = url
        self._clock = clock
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._lock = threading.Lock()

    @classmethod
    def shared(cls, url: str) -> MemoryStore:
        """The store of that name in this process."""
        with _shared_lock:
            return _shared.setdefault(url, cls(url))

    @property
    def url(self) -> str:
        """memory://name."""
        return self._url

    @property
    def properties(self) -> StoreProperties:
        return StoreProperties(
            name="memory", honours_if_absent=True, replaces_whole=True, is_durable=False, keeps_metadata=True
        )

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        info = ObjectInfo(
            key=check_key(key), size_bytes=len(data), modified_at_ms=self._clock.now_ms(), metadata=dict(metadata)
        )
        with self._lock:
            if if_absent and key in self._objects:
                raise PreconditionFailed(f"{key} is already there", object=key)
            self._objects[key] = (bytes(data), info)
        return info

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> _MemoryUpload:
        return _MemoryUpload(self, check_key(key), metadata, if_absent=if_absent)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        data, _info = self._find(key)
        if len(data) > max_bytes:
            raise ObjectTooLarge(
                f"{key} has {len(data)} bytes, more than the {max_bytes} that are expected", object=key
            )
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_range(key, start, length)
        data, _info = self._find(key)
        part = data[start : start + length]
        if len(part) != length:
            raise StorageError(f"{key} ends at byte {len(data)}, before {start + length}", object=key)
        return part

    def head(self, key: str) -> ObjectInfo:
        return self._find(key)[1]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix))
            infos = [self._objects[key][1] for key in found]
        return (ObjectInfo(key=one.key, size_bytes=one.size_bytes, modified_at_ms=one.modified_at_ms) for one in infos)

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    def remove_leftovers(self, folder: str) -> int:
        """See ObjectStore: what isn't committed is nowhere."""
        check_folder(folder)
        return 0

    def check(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _find(self, key: str) -> tuple[bytes, ObjectInfo]:
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectMissing(f"{key} is not there", object=key)
        return found


class _MemoryUpload:
    """Pieces until they are put."""

    def __init__(self, store: MemoryStore, key: str, metadata: Mapping[str, str], *, if_absent: bool) -> None:
        self._store = store
        self._key = key
        self._metadata = metadata
        self._if_absent = if_absent
        self._pieces: list[bytes] = []
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        if not self._open:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)
        try:
            self._pieces.append(bytes(memoryview(data)))
        except BaseException:
            self.abort()
            raise

    def commit(self) -> ObjectInfo:
        if not self._open:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)
        self._open = False
        return self._store.put(
            self._key, b"".join(self._pieces), if_absent=self._if_absent, metadata=self._metadata
        )

    def abort(self) -> None:
        self._open = False
        self._pieces.clear()
