"""The only importer of s3fs and botocore: s3fs as an S3 client. Filesystems of other URLs: kbr.storage.fsspec_open.

s3fs is used for its session, credentials and event loop; its listing cache, its file objects, its filter of
arguments and its retries stay out. What was found in its source is in docs/decisions/0003-storage.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.config
import botocore.exceptions
import s3fs

from kbr.renewal import SeenFiles
from kbr.storage.filesystem_errors import one_line
from kbr.storage.fsspec_open import open_filesystem
from kbr.storage.options import StorageOptions
from kbr.storage.s3_errors import BodyTooLarge, FailureKind, S3Failure

__all__ = ["S3fsClient", "open_filesystem"]

#: botocore's own errors, by what they mean; what is in none of these got no answer.
_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
)
#: What a server says of temporary credentials that have ended, in lower case: what is found anew may be better.
_EXPIRED = frozenset({"expiredtoken", "expiredtokenexception", "tokenrefreshrequired"})
_REQUEST = (
    botocore.exceptions.ParamValidationError,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.UnknownServiceError,
    botocore.exceptions.ConfigParseError,
    ValueError,
    TypeError,
)


class S3fsClient:
    """kbr.storage.s3.S3Client on s3fs. One s3fs instance in one process, made on first use; never inherited."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._filesystem: s3fs.S3FileSystem | None = None
        self._process = 0
        #: Whether the server has ever taken our credentials.
        self._was_let_in = False
        #: Lists of CAs, as they were when the session was made, which does not read them again.
        self._authorities = SeenFiles(())

    def call(
        self, operation: str, *, timeout_s: float, max_body_bytes: int | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """See S3Client. Credentials that have expired are looked for anew, once, and so are CAs that have changed."""
        until = time.monotonic() + timeout_s
        filesystem = None
        try:
            try:
                filesystem = self._connected(timeout_s)
                return self._ask(filesystem, operation, timeout_s, max_body_bytes, arguments)
            except botocore.exceptions.SSLError:
                if filesystem is None or not self._authorities.changed:
                    raise
                self._forget(filesystem)
                return self._ask(self._connected(timeout_s), operation, until - time.monotonic(), max_body_bytes, arguments)
            except botocore.exceptions.ClientError as error:
                if filesystem is None or not self._may_find_others(operation, error):
                    raise
                self._forget(filesystem)
                return self._ask(
                    self._connected(timeout_s), operation, until - time.monotonic(), max_body_bytes, arguments
                )
        except (S3Failure, BodyTooLarge):
            raise
        except Exception as error:
            raise self._failure(error, timeout_s) from error

    def close(self) -> None:
        """See S3Client."""
        with self._lock:
            filesystem, self._filesystem = self._filesystem, None
            inherited = self._process != os.getpid()
        if filesystem is not None and not inherited:
            filesystem.close_session(filesystem.loop, filesystem.s3)

    def _ask(
        self,
        filesystem: s3fs.S3FileSystem,
        operation: str,
        timeout_s: float,
        max_body_bytes: int | None,
        arguments: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        reply: dict[str, Any] = self._run(
            filesystem, _request(filesystem, operation, max_body_bytes, arguments), timeout_s
        )
        self._was_let_in = True
        return reply

    def _may_find_others(self, operation: str, error: botocore.exceptions.ClientError) -> bool:
        """Whether a refusal is about credentials that have ended, and those were found, not given."""
        if self._options.anonymous or self._options.access_key is not None:
            return False
        code = str(error.response.get("Error", {}).get("Code", "")).lower()
        # a HEAD has no words: AWS answers 400 to an expired token
        return code in _EXPIRED or (operation == "head_object" and code == "400" and self._was_let_in)

    def _forget(self, filesystem: s3fs.S3FileSystem) -> None:
        """Let the next request make a new session, which reads environment, files and roles again.

        The old one ends with its last request: it closes itself when nobody has it any more.
        """
        with self._lock:
            if self._filesystem is filesystem:  # else another thread was first
                self._filesystem = None

    def _failure(self, error: Exception, timeout_s: float) -> S3Failure:
        lost = isinstance(error, _CREDENTIALS) and not isinstance(error, botocore.exceptions.ProfileNotFound)
        if lost and self._was_let_in:  # they were there: whoever gives them will be back
            return S3Failure(FailureKind.NO_ANSWER, one_line(error))
        failure = _failure(error, timeout_s)
        if failure.kind is FailureKind.TLS and self._was_let_in:  # a certificate has run out, and will be renewed
            return S3Failure(FailureKind.NO_ANSWER, f"TLS: {failure.reason}")
        return failure

    def _connected(self, timeout_s: float) -> s3fs.S3FileSystem:
        with self._lock:
            if self._filesystem is None or self._process != os.getpid():
                # first: what is changed while it is read is a change
                self._authorities = SeenFiles(filter(None, (self._options.ca_bundle, os.environ.get("AWS_CA_BUNDLE"))))
                filesystem = self._make()
                # under the lock: older s3fs make two sessions when two threads come at once
                client = self._run(filesystem, filesystem.set_session(), timeout_s)
                client.meta.events.register_last("before-call.s3", _without_expect)
                self._filesystem, self._process = filesystem, os.getpid()
            return self._filesystem

    def _make(self) -> s3fs.S3FileSystem:
        options = self._options
        known = botocore.config.Config.OPTION_DEFAULTS
        more: dict[str, Any] = {}
        config: dict[str, Any] = {
            # One try: the store's own loop decides (botocore knows no deadline, and too few errors).
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": options.connect_timeout_s,
            "read_timeout": options.read_timeout_s,
            "max_pool_connections": 32,
            "connector_args": _connector_args(options.read_timeout_s),
        }
        if self._may_be_another_server and "request_checksum_calculation" in known:
            # Newer botocore adds trailing checksums in aws-chunked framing, which some servers store
            # as part of the object (boto3#4435); an older one that doesn't know the setting doesn't do it.
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        if options.path_style:
            config["s3"] = {"addressing_style": "path"}
        if options.profile is not None:
            more["profile"] = options.profile
        client: dict[str, Any] = {}
        if options.region is not None:
            client["region_name"] = options.region
        if options.ca_bundle is not None:
            client["verify"] = options.ca_bundle
        return s3fs.S3FileSystem(
            anon=options.anonymous,
            key=options.access_key,
            secret=options.secret_key,
            token=options.session_token,
            endpoint_url=options.endpoint_url,
            client_kwargs=client,
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,
            **more,
        )

    @property
    def _may_be_another_server(self) -> bool:
        """Whether it is anything but AWS itself, as far as can be told: variables and profiles can name a server, too."""
        return (
            self._options.endpoint_url is not None
            or self._options.profile is not None
            or any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"))
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
            one_line(answer.get("Message") or code),
            code=code,
            status=int(metadata.get("HTTPStatusCode", 0)),
            server_time_ms=_server_time_ms(metadata.get("HTTPHeaders", {}).get("date", "")),
        )
    if isinstance(error, _CREDENTIALS):
        return S3Failure(FailureKind.CREDENTIALS, one_line(error))
    if isinstance(error, botocore.exceptions.SSLError):
        return S3Failure(FailureKind.TLS, _root_reason(error))
    if isinstance(error, _REQUEST):
        return S3Failure(FailureKind.REQUEST, one_line(error))
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
                return one_line(getattr(system, "verify_message", "") or system.reason or system)
            if system.errno is not None and system.strerror and system.strerror.startswith("Connect call failed"):
                return os.strerror(system.errno)  # asyncio has put the address in its place
            if system.strerror:
                return one_line(system.strerror)
        carried = getattr(found, "kwargs", {}).get("error")
        found = found.__cause__ or found.__context__ or (carried if isinstance(carried, BaseException) else None)
    return one_line(error)


def _server_time_ms(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp() * 1000)
    except (TypeError, ValueError):
        return None
