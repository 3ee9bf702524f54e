"""One object on its way to S3: a single PUT while it is small, else parts that go up while the caller makes more."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from kbr.errors import KbrError, StorageError
from kbr.storage.base import ObjectInfo

__all__ = ["UPLOAD_NONCE", "S3Upload"]

_T = TypeVar("_T")

#: Name of the metadata entry by which an object is known as this upload's own.
UPLOAD_NONCE = "kbr-upload"
#: Parts on their way at once, for one upload. Memory is these and the one being filled: 3 x part_bytes.
PARTS_IN_FLIGHT = 2
#: S3 takes 10,000 parts. They double after each of these many: 16 MiB parts reach 50 GiB with part 2,100.
PARTS_PER_SIZE = 1000
#: How long an abort may take: to see the parts end, then to tell the server, seconds each.
ABORT_WAIT_S = 5.0


class UploadTarget(Protocol):
    """What an upload needs of its store."""

    def call(
        self,
        operation: str,
        key: str,
        *,
        deadline_s: float | None = None,
        is_unwanted: Callable[[], bool] | None = None,
        **arguments: Any,
    ) -> Mapping[str, Any]:
        """One idempotent request, with retries."""

    def put_object(self, key: str, nonce: str, *, if_absent: bool, **arguments: Any) -> None:
        """Write an object that carries the nonce at once."""

    def complete(self, key: str, nonce: str, size: int, *, if_absent: bool, **arguments: Any) -> None:
        """Complete a multipart upload whose object carries the nonce."""

    def checked(self, key: str, size: int, nonce: str) -> ObjectInfo:
        """The object as it is now, if it is the one that was written."""

    def pool(self) -> ThreadPoolExecutor:
        """Threads for parts."""


class S3Upload:
    """See kbr.storage.base.Upload."""

    def __init__(
        self, store: UploadTarget, key: str, metadata: Mapping[str, str], part_bytes: int, *, if_absent: bool
    ) -> None:
        self._store = store
        self._key = key
        self._if_absent = if_absent
        self._nonce = secrets.token_hex(8)
        self._metadata = {**metadata, UPLOAD_NONCE: self._nonce}
        self._part_bytes = part_bytes
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._size = 0
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        self._flying: deque[tuple[int, Future[Mapping[str, Any]]]] = deque()
        self._over = False

    def write(self, data: bytes | memoryview) -> None:
        self._guard(lambda: self._write(data))

    def commit(self) -> ObjectInfo:
        info = self._guard(self._commit)
        self._over = True
        return info

    def abort(self) -> None:
        if self._over:
            return
        self._over = True  # waiting parts see it and end
        self._pieces = []
        futures = [future for _number, future in self._flying]
        self._flying.clear()
        for future in futures:
            future.cancel()
        if not self._upload_id:
            return
        # a part that arrives after the abort would stay, and cost money, until a lifecycle rule removes it
        wait(futures, timeout=ABORT_WAIT_S)
        try:
            self._store.call("abort_multipart_upload", self._key, deadline_s=ABORT_WAIT_S, UploadId=self._upload_id)
        except KbrError:
            # The error that led here is the one to tell; what is left is no object, and readers don't see it.
            return

    def _guard(self, function: Callable[[], _T]) -> _T:
        if self._over:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)
        try:
            return function()
        except BaseException:
            self.abort()
            raise

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._size += len(view)
        # strictly more: what is exactly one part stays a single PUT
        while self._pieces_bytes + len(view) > (limit := self._next_part_bytes()):
            room = limit - self._pieces_bytes
            self._send(b"".join((*self._pieces, view[:room])))
            view = view[room:]
            self._pieces, self._pieces_bytes = [], 0
        if view:
            whole = isinstance(data, bytes) and len(view) == len(data)
            self._pieces.append(data if whole else bytes(view))  # type: ignore[arg-type]  # bytes, if whole
            self._pieces_bytes += len(view)

    def _next_part_bytes(self) -> int:
        return self._part_bytes << ((len(self._parts) + len(self._flying)) // PARTS_PER_SIZE)

    def _send(self, part: bytes) -> None:
        if not self._upload_id:
            reply = self._store.call("create_multipart_upload", self._key, Metadata=self._metadata)
            self._upload_id = str(reply["UploadId"])
        while len(self._flying) >= PARTS_IN_FLIGHT or (self._flying and self._flying[0][1].done()):
            self._land()
        number = len(self._parts) + len(self._flying) + 1
        self._flying.append((number, self._store.pool().submit(self._upload_part, number, part)))

    def _upload_part(self, number: int, part: bytes) -> Mapping[str, Any]:
        return self._store.call(
            "upload_part",
            self._key,
            is_unwanted=lambda: self._over,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=part,
        )

    def _land(self) -> None:
        """Wait for the oldest part."""
        number, future = self._flying.popleft()
        self._parts.append({"PartNumber": number, "ETag": future.result()["ETag"]})

    def _commit(self) -> ObjectInfo:
        rest = b"".join(self._pieces)
        self._pieces = []
        if not self._upload_id:
            self._store.put_object(
                self._key, self._nonce, if_absent=self._if_absent, Body=rest, Metadata=self._metadata
            )
        else:
            if rest:
                self._send(rest)
            while self._flying:
                self._land()
            self._store.complete(
                self._key,
                self._nonce,
                self._size,
                if_absent=self._if_absent,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self._parts},
            )
            self._upload_id = ""
        return self._store.checked(self._key, self._size, self._nonce)
