"""The only importer of fsspec, s3fs and botocore: s3fs as an S3 client, and the filesystems of other URLs.

s3fs is used for its session, credentials and event loop; its listing cache, its file objects, its filter of
arguments and its retries stay out. What was found in its source is in docs/decisions/0003-storage.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.config
import botocore.exceptions
import fsspec
import s3fs

from kbr.errors import ConfigError
from kbr.storage.options import StorageOptions, without_secrets
from kbr.storage.s3_errors import BodyTooLarge, FailureKind, S3Failure

__all__ = ["S3fsClient", "open_filesystem"]

#: botocore's own errors, by what they mean; what is in none of these got no answer.
_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
)
_REQUEST = (
    botocore.exceptions.ParamValidationError,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.UnknownServiceError,
    ValueError,
    TypeError,
)


def open_filesystem(options: StorageOptions) -> tuple[Any, str]:
    """The filesystem of a URL, and what it calls the place; without a listing cache, not shared.

    Raises:
        ConfigError: fsspec doesn't know the URL, or a package is missing.
    """
    shown = without_secrets(options.url)
    try:
        filesystem, root = fsspec.core.url_to_fs(
            options.url, skip_instance_cache=True, use_listings_cache=False, **options.extra
        )
    except ImportError as error:
        raise ConfigError(f"a package is missing for {shown}: {_one_line(error)}", hint="install it") from error
    except Exception as error:
        # Whatever a constructor says: its words may hold the URL, and the URL a password.
        raise ConfigError(
            f"no store can be opened for {shown} ({type(error).__name__})", hint="use a folder or s3://bucket/prefix"
        ) from None
    return filesystem, str(root)


class S3fsClient:
    """kbr.storage.s3.S3Client on s3fs. One s3fs instance in one process, made on first use; never inherited."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._filesystem: s3fs.S3FileSystem | None = None
        self._process = 0

    def call(
        self, operation: str, *, timeout_s: float, max_body_bytes: int | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """See S3Client."""
        try:
            filesystem = self._connected(timeout_s)
            reply: dict[str, Any] = self._run(
                filesystem, _request(filesystem, operation, max_body_bytes, arguments), timeout_s
            )
            return reply
        except (S3Failure, BodyTooLarge):
            raise
        except Exception as error:
            raise _failure(error, timeout_s) from error

    def close(self) -> None:
        """See S3Client."""
        with self._lock:
            filesystem, self._filesystem = self._filesystem, None
            inherited = self._process != os.getpid()
        if filesystem is not None and not inherited:
            filesystem.close_session(filesystem.loop, filesystem.s3)

    def _connected(self, timeout_s: float) -> s3fs.S3FileSystem:
        with self._lock:
            if self._filesystem is None or self._process != os.getpid():
                filesystem = self._make()
                # under the lock: older s3fs make two sessions when two threads come at once
                client = self._run(filesystem, filesystem.set_session(), timeout_s)
                client.meta.events.register_last("before-call.s3", _without_expect)
                self._filesystem, self._process = filesystem, os.getpid()
            return self._filesystem

    def _make(self) -> s3fs.S3FileSystem:
        options = self._options
        known = botocore.config.Config.OPTION_DEFAULTS
        config: dict[str, Any] = {
            # One try: the store's own loop decides (botocore knows no deadline, and too few errors).
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": options.connect_timeout_s,
            "read_timeout": options.read_timeout_s,
            "max_pool_connections": 32,
            "connector_args": _connector_args(options.read_timeout_s),
        }
        if options.endpoint_url is not None and "request_checksum_calculation" in known:
            # Newer botocore adds trailing checksums in aws-chunked framing, which some servers store
            # as part of the object (boto3#4435); an older one that doesn't know the setting doesn't do it.
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        if options.path_style:
            config["s3"] = {"addressing_style": "path"}
        client: dict[str, Any] = {}
        if options.region is not None:
            client["region_name"] = options.region
        if options.ca_bundle is not None:
            client["verify"] = options.ca_bundle
        return s3fs.S3FileSystem(
            key=options.access_key,
            secret=options.secret_key,
            token=options.session_token,
            endpoint_url=options.endpoint_url,
            client_kwargs=client,
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    @staticmethod
    def _run(filesystem: s3fs.S3FileSystem, coroutine: Any, timeout_s: float) -> Any:
        """Run a coroutine on s3fs's event loop, from whatever thread this is; cancelled if this thread is interrupted."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout_s), filesystem.loop)
        try:
            return future.result()
        finally:
            future.cancel()


async def _request(
    filesystem: s3fs.S3FileSystem, operation: str, max_body_bytes: int | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Not call_s3: that drops arguments it doesn't know (IfNoneMatch, once) and makes other errors of botocore's."""
    client = await filesystem.get_s3(arguments["Bucket"])
    reply: dict[str, Any] = await getattr(client, operation)(**arguments)
    if max_body_bytes is not None:
        async with reply["Body"] as body:
            size = reply.get("ContentLength")
            if size is not None and size > max_body_bytes:
                body.close()  # else the connection would be read to its end to be used again
                raise BodyTooLarge(size)
            data = await (body.read() if size is not None else body.read(max_body_bytes + 1))
        if len(data) > max_body_bytes:
            raise BodyTooLarge(len(data))
        reply["Body"] = bytes(data)
    return reply


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    """Send bodies at once: with the header that botocore adds, aiohttp waits for the server's word without a timeout."""
    params["headers"].pop("Expect", None)


def _connector_args(silence_s: float) -> dict[str, Any]:
    arguments = {"socket_factory": _socket_factory(silence_s)}
    try:
        s3fs.core.AioConfig(connector_args=arguments)
    except botocore.exceptions.ParamValidationError:
        return {}  # an older aiobotocore: a peer that takes nothing is given up at the deadline only
    return arguments


def _socket_factory(silence_s: float) -> Callable[[Any], socket.socket]:
    """Sockets that give up a peer that takes nothing for so long: read timeouts don't count while a body is sent."""

    def make(address: Any) -> socket.socket:
        made = socket.socket(family=address[0], type=address[1], proto=address[2])
        made.setblocking(False)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, max(1, int(silence_s * 1000)))
        return made

    return make


def _failure(error: Exception, timeout_s: float) -> S3Failure:
    """Whatever botocore, aiohttp or the system raised."""
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response.get("Error", {})
        metadata = error.response.get("ResponseMetadata", {})
        code = str(answer.get("Code", ""))
        return S3Failure(
            FailureKind.ANSWERED,
            _one_line(answer.get("Message") or code),
            code=code,
            status=int(metadata.get("HTTPStatusCode", 0)),
            server_time_ms=_server_time_ms(metadata.get("HTTPHeaders", {}).get("date", "")),
        )
    if isinstance(error, _CREDENTIALS):
        return S3Failure(FailureKind.CREDENTIALS, _one_line(error))
    if isinstance(error, botocore.exceptions.SSLError):
        return S3Failure(FailureKind.TLS, _root_reason(error))
    if isinstance(error, _REQUEST):
        return S3Failure(FailureKind.REQUEST, _one_line(error))
    if isinstance(error, botocore.exceptions.ConnectTimeoutError):
        return S3Failure(FailureKind.NO_ANSWER, "the connection was not accepted in time")
    if isinstance(error, botocore.exceptions.ReadTimeoutError):
        return S3Failure(FailureKind.NO_ANSWER, "no answer in time")
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return S3Failure(FailureKind.NO_ANSWER, f"no answer in {timeout_s:.0f} s")
    return S3Failure(FailureKind.NO_ANSWER, _root_reason(error))


def _root_reason(error: BaseException) -> str:
    """What the system said, without the request's URL around it: 'Connection refused', a certificate's fault."""
    found: BaseException | None = error
    while found is not None:
        system = found if isinstance(found, OSError) else getattr(found, "os_error", None)
        # aiohttp's own errors are OSErrors as well, around the one of the system
        if isinstance(system, OSError) and not type(system).__module__.startswith("aiohttp"):
            if isinstance(system, ssl.SSLError):
                return _one_line(getattr(system, "verify_message", "") or system.reason or system)
            if system.errno is not None and system.strerror and system.strerror.startswith("Connect call failed"):
                return os.strerror(system.errno)  # asyncio has put the address in its place
            if system.strerror:
                return _one_line(system.strerror)
        carried = getattr(found, "kwargs", {}).get("error")
        found = found.__cause__ or found.__context__ or (carried if isinstance(carried, BaseException) else None)
    return _one_line(error)


def _one_line(words: object) -> str:
    text = " ".join(str(words).split())
    return text[:300] or type(words).__name__


def _server_time_ms(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp() * 1000)
    except (TypeError, ValueError):
        return None
