"""S3 through s3fs: the only importer of fsspec, s3fs and botocore.

s3fs is used as an S3 client (its call_s3 with the session, credentials and event loop it manages), not as
a filesystem: its listing cache, its file objects and its own retries stay out. What was found in its
source, and why, is in docs/decisions/0003-storage.md.

An object up to part_bytes is one PUT; a larger one is a multipart upload whose parts go up while the
caller makes the next ones. Either way it is invisible until it is whole.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import botocore.exceptions
import s3fs

from kbr.errors import (
    AccessDenied,
    ConfigError,
    KbrError,
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from kbr.storage.base import NO_METADATA, ObjectInfo, check_key
from kbr.storage.options import StorageOptions
from kbr.storage.retry import Retry
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock

__all__ = ["S3Store"]

_T = TypeVar("_T")

#: Parts on their way at once, for one upload: memory is (this + 1) x part_bytes.
PARTS_IN_FLIGHT = 2
#: S3 takes 10,000 parts; parts double in size after each of these many, so 50 GiB objects fit.
PARTS_PER_SIZE = 1000
#: Name of the metadata entry by which an upload is known again after its reply was lost.
UPLOAD_NONCE = "kbr-upload"

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
#: Codes in lower case: servers differ in it.
_DENIED = {
    "accessdenied": "a right is missing for this user",
    "403": "the store denies it",
    "forbidden": "the store denies it",
    "invalidaccesskeyid": "the access key is not known there: check access_key",
    "signaturedoesnotmatch": "the signature is wrong: check secret_key (and region)",
    "invalidtoken": "the session token is not valid",
    "expiredtoken": "the session token has expired",
    "allaccessdisabled": "access is switched off",
    "accountproblem": "the account has a problem",
}
_TEMPORARY = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "OperationAborted",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "500",
        "502",
        "503",
        "504",
        "429",
    }
)


class _ShortBody(Exception):
    """A reply had fewer bytes than asked for: the connection was cut."""


class S3Store:
    """Objects of a bucket below a prefix. Thread-safe.

    Args:
        options: ``url`` is s3://bucket/prefix.
    """

    def __init__(
        self, options: StorageOptions, *, clock: Clock = SYSTEM_CLOCK, backoff: Backoff | None = None
    ) -> None:
        rest = options.url.partition("://")[2]
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise ConfigError(f"no bucket in {options.url}", hint="use s3://bucket/prefix")
        self._options = options
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._where = options.endpoint_url or "AWS"
        self._filesystem: s3fs.S3FileSystem | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._retry = Retry(deadline_s=options.deadline_s, translate=self._translate, clock=clock, backoff=backoff)

    @property
    def url(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    # -- ObjectStore ----------------------------------------------------------------------

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        nonce = secrets.token_hex(8)
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}

        def attempt() -> None:
            try:
                self._s3(
                    "put_object",
                    Key=self._key(key),
                    Body=bytes(data),
                    Metadata={**metadata, UPLOAD_NONCE: nonce},
                    **arguments,
                )
            except Exception as error:
                translated = self._translate(error, "put", key)
                # Our own earlier try may have been done and its reply lost.
                if isinstance(translated, PreconditionFailed) and self._is_ours(key, nonce, len(data)):
                    return
                raise

        self._retry.call(attempt, "put", key)
        return self._checked(key, len(data))

    def open_upload(self, key: str, *, metadata: Mapping[str, str] = NO_METADATA) -> _S3Upload:
        check_key(key)
        return _S3Upload(self, key, metadata, self._options.part_bytes)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        def attempt() -> bytes:
            return self._body(key, max_bytes)

        return self._retry.call(attempt, "get", key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            return b""

        def attempt() -> bytes:
            data = self._body(key, length, Range=f"bytes={start}-{start + length - 1}")
            if len(data) == length:
                return data
            size = self._head(key).size_bytes
            if size < start + length:
                raise StorageError(f"{self._name(key)} ends at byte {size}, before {start + length}", object=key)
            raise _ShortBody(f"{len(data)} of {length} bytes came")

        return self._retry.call(attempt, "read", key)

    def head(self, key: str) -> ObjectInfo:
        return self._retry.call(lambda: self._head(key), "head", key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        token: str | None = None
        while True:
            page = self._retry.call(lambda token=token: self._page(prefix, token), "list", prefix)  # type: ignore[misc]
            for entry in page.get("Contents") or []:
                yield ObjectInfo(
                    key=str(entry["Key"])[len(self._prefix) :],
                    size_bytes=int(entry["Size"]),
                    modified_at_ms=int(entry["LastModified"].timestamp() * 1000),
                )
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return

    def delete(self, key: str) -> None:
        self._retry.call(lambda: self._s3("delete_object", Key=self._key(key)), "delete", key)

    def check(self) -> None:
        self._retry.call(
            lambda: self._s3("list_objects_v2", Prefix=self._prefix, MaxKeys=1),
            "list",
            "",
            deadline_s=self._options.check_deadline_s,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._filesystem = None

    # -- for uploads ----------------------------------------------------------------------

    def call(self, operation: str, key: str, **arguments: Any) -> Any:
        """One request about an object, with retries."""
        return self._retry.call(lambda: self._s3(operation, Key=self._key(key), **arguments), operation, key)

    def complete(self, key: str, upload_id: str, parts: Sequence[Mapping[str, Any]], nonce: str, size: int) -> None:
        """Complete a multipart upload; a lost reply is recognised by the object that is there."""

        def attempt() -> None:
            try:
                self._s3(
                    "complete_multipart_upload", Key=self._key(key), UploadId=upload_id, MultipartUpload={"Parts": [dict(part) for part in parts]}
                )
            except Exception as error:
                gone = any(_code(cause) == "NoSuchUpload" for cause in _chain(error))
                if gone and self._is_ours(key, nonce, size):
                    return
                raise

        self._retry.call(attempt, "complete", key)

    def pool(self) -> ThreadPoolExecutor:
        """Threads that wait for parts; shared by all uploads of the store."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="s3-part")
        return self._pool

    def checked(self, key: str, size: int) -> ObjectInfo:
        """See _checked."""
        return self._checked(key, size)

    # -- inner ----------------------------------------------------------------------------

    def _s3(self, operation: str, **arguments: Any) -> Any:
        if self._filesystem is None:
            self._filesystem = self._connect()
        return self._filesystem.call_s3(operation, Bucket=self._bucket, **arguments)

    def _connect(self) -> s3fs.S3FileSystem:
        options = self._options
        config: dict[str, Any] = {
            # One try: this store's own loop decides (s3fs and botocore know too few errors and no deadline).
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": options.connect_timeout_s,
            "read_timeout": options.read_timeout_s,
            "max_pool_connections": 32,
        }
        if options.endpoint_url is not None:
            # Newer botocore adds trailing checksums in aws-chunked framing, which some servers store
            # as part of the object (boto3#4435).
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        if options.path_style:
            config["s3"] = {"addressing_style": "path"}
        client: dict[str, Any] = {}
        if options.region is not None:
            client["region_name"] = options.region
        if options.ca_bundle is not None:
            client["verify"] = options.ca_bundle
        filesystem = s3fs.S3FileSystem(
            key=options.access_key,
            secret=options.secret_key,
            token=options.session_token,
            endpoint_url=options.endpoint_url,
            client_kwargs=client,
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        filesystem.retries = 1
        return filesystem

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def _page(self, prefix: str, token: str | None) -> Any:
        more = {"ContinuationToken": token} if token else {}
        return self._s3("list_objects_v2", Prefix=self._prefix + prefix, **more)

    def _head(self, key: str) -> ObjectInfo:
        reply = self._s3("head_object", Key=self._key(key))
        return ObjectInfo(
            key=key,
            size_bytes=int(reply["ContentLength"]),
            modified_at_ms=int(reply["LastModified"].timestamp() * 1000),
            metadata=dict(reply.get("Metadata") or {}),
        )

    def _body(self, key: str, max_bytes: int, **arguments: Any) -> bytes:
        filesystem = self._filesystem or self._connect()
        self._filesystem = filesystem
        reply = self._s3("get_object", Key=self._key(key), **arguments)
        body = reply["Body"]
        size = int(reply["ContentLength"])
        if size > max_bytes:
            body.close()
            raise StorageError(
                f"{self._name(key)} has {size} bytes, more than the {max_bytes} that are expected", object=key
            )
        data = _sync(filesystem, body.read)
        if len(data) != size:
            raise _ShortBody(f"{len(data)} of {size} bytes came")
        return data

    def _checked(self, key: str, size: int) -> ObjectInfo:
        """The object as a HEAD sees it, which must have the size that was written."""
        info = self.head(key)
        if info.size_bytes != size:
            raise StorageError(
                f"{self._name(key)} has {info.size_bytes} bytes after {size} were written",
                hint="the server may store aws-chunked framing: it is not safe for backups as it is set up",
                object=key,
            )
        return info

    def _is_ours(self, key: str, nonce: str, size: int) -> bool:
        info = self._head(key)
        return info.metadata.get(UPLOAD_NONCE) == nonce and info.size_bytes == size

    def _translate(self, error: Exception, operation: str, key: str) -> KbrError:
        """Whatever s3fs and botocore raise, as kbr's."""
        if isinstance(error, KbrError):
            return error
        for cause in _chain(error):
            if isinstance(cause, botocore.exceptions.ClientError):
                return self._translate_reply(cause, operation, key)
        place = self._name(key) if key else f"s3://{self._bucket}"
        words = f"{operation} of {place} at {self._where}: {_words(error)}"
        if isinstance(error, PermissionError):
            return AccessDenied(words, hint="check the credentials and rights", object=key)
        if isinstance(error, FileNotFoundError):
            return self._missing(words, key)
        if isinstance(error, (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError)):
            return AccessDenied(
                f"no credentials for {self._where}", hint="set storage.access_key and storage.secret_key, or a profile"
            )
        if isinstance(error, botocore.exceptions.SSLError):
            return StorageError(words, hint="set storage.ca_bundle to the CA that signed the server's certificate")
        if isinstance(error, (botocore.exceptions.ParamValidationError, ValueError, TypeError)):
            return StorageError(words, hint="check the storage configuration", object=key)
        return StoreUnavailable(words, hint=f"check that {self._where} can be reached from here", object=key)

    def _translate_reply(self, error: botocore.exceptions.ClientError, operation: str, key: str) -> KbrError:
        code = _code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = str(error.response.get("Error", {}).get("Message", "")) or code
        place = self._name(key) if key else f"s3://{self._bucket}"
        words = f"{operation} of {place} at {self._where}: {message}"
        if code == "NoSuchBucket":
            return StorageError(f"bucket {self._bucket} does not exist at {self._where}", hint="check storage.bucket")
        if code == "RequestTimeTooSkewed":
            return AccessDenied(f"{words}", hint="this machine's clock is off: set it right", object=key)
        if code.lower() in _DENIED:
            return AccessDenied(f"{operation} of {place} at {self._where}: {_DENIED[code.lower()]}", object=key)
        if code in ("PreconditionFailed", "ConditionalRequestConflict") or status == 412:
            return PreconditionFailed(f"{self._name(key)} is already there", object=key)
        if code in _MISSING or status == 404:
            return self._missing(words, key)
        if code in ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage") or status == 507:
            return StoreFull(words, hint="make room, then run the same command again", object=key)
        if code in _TEMPORARY or status >= 500 or status == 429:
            return StoreUnavailable(words, hint=f"{self._where} is overloaded or has a fault", object=key)
        return StorageError(words, object=key, code=code)

    def _missing(self, words: str, key: str) -> KbrError:
        if not key:
            return StorageError(words, hint="check storage.bucket")
        return ObjectMissing(f"{self._name(key)} is not there", object=key)


class _S3Upload:
    """One PUT, or parts."""

    def __init__(self, store: S3Store, key: str, metadata: Mapping[str, str], part_bytes: int) -> None:
        self._store = store
        self._key = key
        self._nonce = secrets.token_hex(8)
        self._metadata = {**metadata, UPLOAD_NONCE: self._nonce}
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._size = 0
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        self._flying: deque[tuple[int, Future[Any]]] = deque()
        self._over = False

    def write(self, data: bytes | memoryview) -> None:
        self._guard(lambda: self._write(data))

    def commit(self) -> ObjectInfo:
        info = self._guard(self._commit)
        self._over = True
        return info

    def abort(self) -> None:
        if self._over and not self._upload_id:
            return
        self._over = True
        self._buffer = bytearray()
        for _number, future in self._flying:
            future.cancel()
        if self._upload_id:
            upload_id, self._upload_id = self._upload_id, ""
            try:
                self._store.call("abort_multipart_upload", self._key, UploadId=upload_id)
            except KbrError:
                # The error that led here is the one to tell; an upload left over holds no object.
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
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) > self._next_part_bytes():
            size = self._next_part_bytes()
            part = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
            self._send(part)

    def _next_part_bytes(self) -> int:
        return self._part_bytes << ((len(self._parts) + len(self._flying)) // PARTS_PER_SIZE)

    def _send(self, part: bytes) -> None:
        if not self._upload_id:
            reply = self._store.call("create_multipart_upload", self._key, Metadata=self._metadata)
            self._upload_id = reply["UploadId"]
        while len(self._flying) >= PARTS_IN_FLIGHT:
            self._land()
        number = len(self._parts) + len(self._flying) + 1
        self._flying.append(
            (
                number,
                self._store.pool().submit(
                    self._store.call,
                    "upload_part",
                    self._key,
                    UploadId=self._upload_id,
                    PartNumber=number,
                    Body=part,
                ),
            )
        )

    def _land(self) -> None:
        number, future = self._flying.popleft()
        self._parts.append({"PartNumber": number, "ETag": future.result()["ETag"]})

    def _commit(self) -> ObjectInfo:
        if not self._upload_id:
            self._store.call("put_object", self._key, Body=bytes(self._buffer), Metadata=self._metadata)
        else:
            if self._buffer:
                self._send(bytes(self._buffer))
            while self._flying:
                self._land()
            self._store.complete(self._key, self._upload_id, self._parts, self._nonce, self._size)
            self._upload_id = ""
        self._buffer = bytearray()
        return self._store.checked(self._key, self._size)


def _sync(filesystem: s3fs.S3FileSystem, function: Callable[[], Any]) -> bytes:
    """Run a coroutine function on s3fs's event loop, from whatever thread this is."""
    from fsspec.asyn import sync

    return bytes(sync(filesystem.loop, function))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """S3's code of an error, empty for others."""
    if not isinstance(error, botocore.exceptions.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def _words(error: BaseException) -> str:
    if isinstance(error, botocore.exceptions.EndpointConnectionError):
        return "could not connect"  # its own words are the whole request's URL
    return (str(error) or type(error).__name__).splitlines()[0][:300]
