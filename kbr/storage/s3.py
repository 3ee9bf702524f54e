"""Objects of an S3 bucket: commit rules, lost replies, checks after writing. Knows no S3 library.

The library sits behind S3Client (kbr.storage.fsspec_store has the one of s3fs). Why things are as they are, with
what was found in s3fs's source, is in docs/decisions/0003-storage.md.
"""

from __future__ import annotations

import random
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from kbr.errors import ConfigError, KbrError, ObjectMissing, ObjectTooLarge, PreconditionFailed, StorageError
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
from kbr.storage.options import StorageOptions, without_secrets
from kbr.storage.retry import Retry
from kbr.storage.s3_errors import (
    BodyTooLarge,
    FailureKind,
    Place,
    S3Failure,
    is_missing,
    is_refused_condition,
    is_taken,
    translate,
    wants_checksum,
)
from kbr.storage.s3_facts import epoch_ms, info_of, is_archived
from kbr.storage.s3_leftovers import end_unfinished_uploads
from kbr.storage.s3_parameters import RequestParameters
from kbr.storage.s3_upload import UPLOAD_NONCE, S3Upload
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["S3Client", "S3Store"]

#: S3's least part but for the last one.
MIN_PART_BYTES = 5 * 1024 * 1024
#: Threads for parts on their way, of all uploads of a store together.
UPLOAD_THREADS = 8
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class S3Client(Protocol):
    """One request at a time, tried once. Thread-safe."""

    def call(
        self, operation: str, *, timeout_s: float, max_body_bytes: int | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """Make a request by botocore's names; gives its reply, with ``Body`` read whole if ``max_body_bytes`` is set.

        Raises:
            S3Failure: it was not done, as far as is known.
            BodyTooLarge: the reply's body is larger than ``max_body_bytes``.
        """

    def close(self) -> None:
        """Let connections go; the next call() opens new ones."""


class S3Store:
    """Objects of a bucket below a prefix. Thread-safe; nothing is connected to before the first operation.

    Args:
        options: ``url`` is s3://bucket/prefix.

    Raises:
        ConfigError: the URL or the endpoint can't be one, or the parts are too small.
    """

    def __init__(
        self,
        options: StorageOptions,
        *,
        client: S3Client,
        clock: Clock = SYSTEM_CLOCK,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
    ) -> None:
        bucket, _, prefix = options.url.partition("://")[2].partition("/")
        prefix = prefix.strip("/")
        if not _BUCKET.fullmatch(bucket) or (prefix and not is_key(prefix)):
            raise ConfigError(
                f"not a bucket and a prefix: {without_secrets(options.url)}", hint="use s3://bucket/prefix"
            )
        if options.endpoint_url is not None and not re.match(r"https?://[^/]", options.endpoint_url):
            raise ConfigError(
                f"not the address of an S3 server: {options.endpoint_url}",
                hint="use https://host:port or http://host:port",
            )
        if options.part_bytes < MIN_PART_BYTES:
            raise ConfigError(
                f"parts of {options.part_bytes} bytes are too small", hint=f"S3 takes {MIN_PART_BYTES} at least"
            )
        self._options = options
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = options.endpoint_url or "AWS"
        self._client = client
        self._clock = clock
        self._parameters = RequestParameters(options.objects, clock.now_ms)
        #: By operation: servers may honour a condition in one of them and not in the other.
        self._honours_if_absent: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._retry = Retry(
            deadline_s=options.deadline_s, translate=self._translate, clock=clock, backoff=backoff, rng=rng
        )

    @property
    def url(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def properties(self) -> StoreProperties:
        return StoreProperties(
            name="s3",
            honours_if_absent=self._honours_if_absent.get("put_object"),
            replaces_whole=True,
            is_durable=True,
            keeps_metadata=True,
        )

    # -- ObjectStore ----------------------------------------------------------------------

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        check_key(key)
        nonce = secrets.token_hex(8)
        self.put_object(key, nonce, if_absent=if_absent, Body=data, Metadata={**metadata, UPLOAD_NONCE: nonce})
        return self.checked(key, len(data), nonce)

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        return S3Upload(self, check_key(key), metadata, self._options.part_bytes, if_absent=if_absent)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        check_key(key)
        return self._retry.call(lambda deadline: self._body(key, max_bytes, deadline), "get", key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_key(key)
        check_range(key, start, length)

        def attempt(deadline: Deadline) -> bytes:
            if length:
                try:
                    data = self._body(key, length, deadline, Range=f"bytes={start}-{start + length - 1}")
                except S3Failure as failure:
                    if failure.status != 416:
                        raise
                    data = b""
                if len(data) == length:
                    return data
            size = self._head(key, deadline).size_bytes
            if size < start + length:
                raise StorageError(f"{self.name(key)} ends at byte {size}, before {start + length}", object=key)
            if not length:
                return b""
            raise S3Failure(FailureKind.NO_ANSWER, f"{len(data)} of {length} bytes came")

        return self._retry.call(attempt, "read", key)

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        return self._retry.call(lambda deadline: self._head(key, deadline), "head", key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore. Everything is read before the first is given: not every server lists in S3's order."""
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, key: str) -> None:
        check_key(key)

        def attempt(deadline: Deadline) -> None:
            try:
                self.request("delete_object", key, deadline)
            except S3Failure as failure:
                if not is_missing(failure):  # AWS never says so, others do
                    raise

        self._retry.call(attempt, "delete", key)

    def remove_leftovers(self, folder: str) -> int:
        """See ObjectStore: multipart uploads that were neither completed nor aborted."""
        prefix = f"{check_folder(folder)}/"
        return end_unfinished_uploads(self, self._prefix, prefix, deadline_s=self._options.check_deadline_s)

    def check(self) -> None:
        self._retry.call(
            lambda deadline: self.request("list_objects_v2", "", deadline, Prefix=self._prefix, MaxKeys=1),
            "list",
            "",
            deadline_s=self._options.check_deadline_s,
        )

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
            self._closed = True  # parts that are still tried again end with their next try
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # -- for uploads ----------------------------------------------------------------------

    def call(
        self,
        operation: str,
        key: str,
        *,
        deadline_s: float | None = None,
        is_unwanted: Callable[[], bool] | None = None,
        **arguments: Any,
    ) -> Mapping[str, Any]:
        """One idempotent request about an object, with retries."""
        return self._retry.call(
            lambda deadline: self.request(operation, key, deadline, **arguments),
            operation,
            key,
            deadline_s=deadline_s,
            is_unwanted=is_unwanted,
        )

    def put_object(self, key: str, nonce: str, *, if_absent: bool, **arguments: Any) -> None:
        """Write an object that carries the nonce at once; one whose reply was lost is recognised by that."""

        def attempt(deadline: Deadline) -> None:
            if if_absent:
                self._write_if_absent("put_object", key, nonce, deadline, arguments)
            else:
                self.request("put_object", key, deadline, **arguments)

        self._retry.call(attempt, "put", key)

    def complete(self, key: str, nonce: str, size: int, *, if_absent: bool, **arguments: Any) -> None:
        """Complete a multipart upload; one whose reply was lost is recognised by the object that is there."""

        def attempt(deadline: Deadline) -> None:
            try:
                if if_absent:
                    self._write_if_absent("complete_multipart_upload", key, nonce, deadline, arguments)
                else:
                    self.request("complete_multipart_upload", key, deadline, **arguments)
            except S3Failure as failure:
                if failure.status != 404:
                    raise
                if not self._is_ours(key, nonce, size, deadline):
                    raise S3Failure(failure.kind, failure.reason, code="NoSuchUpload", status=404) from failure

        self._retry.call(attempt, "complete", key)

    def checked(self, key: str, size: int, nonce: str) -> ObjectInfo:
        """The object as a HEAD sees it: of the size and with the nonce that were written."""
        try:
            reply = self._retry.call(lambda deadline: self.request("head_object", key, deadline), "head", key)
        except ObjectMissing as error:
            raise StorageError(
                f"{self.name(key)} is not there right after it was written",
                hint="somebody else deletes there, or the store doesn't show what it has taken",
                object=key,
            ) from error
        info = info_of(key, reply)
        if info.metadata.get(UPLOAD_NONCE, nonce) != nonce:
            raise StorageError(
                f"{self.name(key)} was replaced by another writer right after it was written",
                hint="let only one kbr write this backup",
                object=key,
            )
        if info.size_bytes != size:
            raise StorageError(
                f"{self.name(key)} has {info.size_bytes} bytes after {size} were written",
                hint="the server may store aws-chunked framing: it is not safe for backups as it is set up",
                object=key,
            )
        ignored = self._parameters.ignored_encryption(reply)
        if ignored:
            raise ConfigError(
                f"{self.name(key)} was written, and not encrypted as {ignored} says: {self._endpoint} has ignored it",
                hint=f"remove {ignored}, or use a server that can do it",
                object=key,
            )
        return info

    def pool(self) -> ThreadPoolExecutor:
        """Threads that wait for parts; shared by all uploads of the store."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="s3-part")
            return self._pool

    def name(self, key: str) -> str:
        """An object's full name, for messages."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    # -- single tries ---------------------------------------------------------------------

    def request(
        self, operation: str, key: str, deadline: Deadline, *, max_body_bytes: int | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """One try of one request."""
        if self._closed:
            raise StorageError(f"{self.url} is closed", object=key)
        if not key:
            return self._ask(operation, deadline, max_body_bytes, arguments)
        arguments["Key"] = self._prefix + key
        body = arguments.get("Body")
        more = self._parameters.of(operation, key, body)
        try:
            return self._ask(operation, deadline, max_body_bytes, {**arguments, **more})
        except S3Failure as failure:
            if body is None or "ContentMD5" in more or not wants_checksum(failure):
                failure.options = self._parameters.options_of(operation, key)
                raise
        # a bucket with a default retention: from now on with every body
        self._parameters.with_md5 = True
        return self.request(operation, key, deadline, max_body_bytes=max_body_bytes, **arguments)

    def condition_kept(self, key: str) -> bool | None:
        """See Probed."""

        def attempt(deadline: Deadline) -> bool | None:
            try:
                self.request("put_object", key, deadline, IfNoneMatch="*", Body=b"")
            except S3Failure as failure:
                if is_taken(failure):
                    return True
                if is_refused_condition(failure):
                    return None
                raise
            return False

        return self._retry.call(attempt, "put", key)

    def kept_options(self, key: str) -> Mapping[str, bool]:
        """See Probed."""
        reply = self._retry.call(lambda deadline: self.request("head_object", key, deadline), "head", key)
        return self._parameters.kept(key, reply)

    def _ask(
        self, operation: str, deadline: Deadline, max_body_bytes: int | None, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return self._client.call(
            operation, timeout_s=deadline.remaining_s(), max_body_bytes=max_body_bytes, Bucket=self._bucket, **arguments
        )

    def _write_if_absent(
        self, operation: str, key: str, nonce: str, deadline: Deadline, arguments: Mapping[str, Any]
    ) -> None:
        """A look first, as some servers ignore the condition (SeaweedFS; Ceph RGW 16 in a completion) or refuse it."""
        if self._is_there(key, nonce, deadline):
            return
        if self._honours_if_absent.get(operation) is not False:
            try:
                self.request(operation, key, deadline, IfNoneMatch="*", **arguments)
            except S3Failure as failure:
                if is_taken(failure):
                    self._honours_if_absent[operation] = True
                    if self._is_there(key, nonce, deadline):
                        return
                    raise S3Failure(FailureKind.NO_ANSWER, "somebody else wrote and deleted it meanwhile") from None
                if not is_refused_condition(failure):
                    raise
            else:
                return
        self.request(operation, key, deadline, **arguments)
        # only now: an error that the plain request meets as well says nothing of conditions
        self._honours_if_absent[operation] = False

    def _is_there(self, key: str, nonce: str, deadline: Deadline) -> bool:
        """Whether our own earlier try was done; PreconditionFailed for another's object, False for none."""
        try:
            info = self._head(key, deadline)
        except S3Failure as failure:
            if is_missing(failure):
                return False
            raise
        if info.metadata.get(UPLOAD_NONCE) != nonce:
            raise PreconditionFailed(f"{self.name(key)} is already there", object=key)
        return True

    def _is_ours(self, key: str, nonce: str, size: int, deadline: Deadline) -> bool:
        try:
            info = self._head(key, deadline)
        except S3Failure as failure:
            if is_missing(failure):
                return False
            raise
        return info.metadata.get(UPLOAD_NONCE) == nonce and info.size_bytes == size

    def _head(self, key: str, deadline: Deadline) -> ObjectInfo:
        return info_of(key, self.request("head_object", key, deadline))

    def _body(self, key: str, max_bytes: int, deadline: Deadline, **arguments: Any) -> bytes:
        try:
            reply = self.request("get_object", key, deadline, max_body_bytes=max_bytes, **arguments)
        except BodyTooLarge as error:
            raise ObjectTooLarge(
                f"{self.name(key)} has {error.size_bytes} bytes, more than the {max_bytes} that are expected",
                object=key,
            ) from error
        data: bytes = reply["Body"]
        if len(data) != reply.get("ContentLength", len(data)):
            raise S3Failure(FailureKind.NO_ANSWER, f"{len(data)} of {reply['ContentLength']} bytes came")
        return data

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        found: list[tuple[str, int, int | None, bool]] = []
        token = ""
        while True:
            page = self._page(self._prefix + prefix, token)
            for entry in page.get("Contents") or ():
                key = str(entry["Key"])[len(self._prefix) :]
                if is_key(key):
                    found.append((key, int(entry["Size"]), epoch_ms(entry.get("LastModified")), is_archived(entry)))
            if not page.get("IsTruncated"):
                break
            before, token = token, str(page.get("NextContinuationToken") or "")
            if token in ("", before):
                raise StorageError(
                    f"the listing of {self.name(prefix)} at {self._endpoint} breaks off after {len(found)} objects",
                    hint="the server says that there is more, and not how to get it",
                )
        found.sort()
        for key, size, modified_at_ms, archived in found:
            yield ObjectInfo(key=key, size_bytes=size, modified_at_ms=modified_at_ms, is_archived=archived)

    def _page(self, prefix: str, token: str) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"ContinuationToken": token} if token else {}
        return self._retry.call(
            lambda deadline: self.request("list_objects_v2", "", deadline, Prefix=prefix, **arguments), "list", ""
        )

    def _translate(self, error: Exception, operation: str, key: str) -> KbrError:
        if not isinstance(error, S3Failure):
            return StorageError(
                f"{operation} of {self.name(key)}: {type(error).__name__}: {error}",
                hint="this is a bug in kbr",
                object=key,
            )
        name = self.name(key) if key else f"bucket {self._bucket}"
        place = Place(operation=operation, endpoint=self._endpoint, bucket=self._bucket, name=name, key=key)
        return translate(error, place, now_ms=self._clock.now_ms())

