"""Google Cloud Storage as a filesystem of fsspec: gcsfs, but for how requests are tried and objects written.

The only importer of gcsfs. It is gcsfs.core's class, not the one that gcsfs gives by itself: that asks every bucket over
gRPC what kind it is, and where gRPC doesn't come through each request waits 60 s for it (gcsfs 2026.10).
"""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Mapping
from typing import Any, BinaryIO
from urllib.parse import quote

import google_crc32c
from aiohttp import ClientTimeout
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError
from google.auth.exceptions import RefreshError, TransportError

__all__ = ["GcsFilesystem", "Refused"]

#: Up to this an object is one request, above several of this each; Google wants multiples of 256 KiB.
_PART_BYTES = 16 * 1024 * 1024
#: A request in all, in times that the other side may be silent: no clock but this one runs while a body is sent.
_SILENCES = 5
#: Answered where more of an object is wanted.
_GO_ON = 308
_TYPE = "application/octet-stream"


class Refused(OSError):
    """What Google answered, where that was an error.

    Attributes:
        code: of HTTP.
    """

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{words or 'no reason given'} (HTTP {code})")
        self.code = code


class GcsFilesystem(GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """Buckets. Each request is tried once, within a time: trying again is the store's affair.

    gcsfs itself tries six times in half a minute and more, logs a traceback when it gives up, and takes the answer to
    a second try of a conditional write, whose first one's reply was lost, for another writer's object.

    Args:
        connect_timeout_s, read_timeout_s: for one connection, and how long the other side may be silent.
        request_timeout_s: for one request, at most.
    """

    def __init__(
        self, *, connect_timeout_s: float, read_timeout_s: float, request_timeout_s: float, **options: Any
    ) -> None:
        timeout = ClientTimeout(
            total=min(request_timeout_s, _SILENCES * read_timeout_s),
            sock_connect=connect_timeout_s,
            sock_read=read_timeout_s,
        )
        super().__init__(**{"requests_timeout": timeout, **options})

    async def _request(
        self, method: str, path: str, *args: str, headers: Any = None, json: Any = None, data: Any = None, **params: Any
    ) -> tuple[int, Mapping[str, str], Any, bytes]:
        """gcsfs's, which all its requests go through, tried once; its words and kinds of errors say less."""
        for name in ("cache_type", "cache_source"):
            params.pop(name, None)
        await self._set_session()
        async with self._session.request(
            method=method,
            url=self._format_path(path, args),
            params=self._get_params(params),
            json=json,
            headers=self._with_credentials(headers),
            data=data,
            timeout=self.requests_timeout,
        ) as reply:
            content = await reply.read()
            if reply.status < 400:
                return reply.status, reply.headers, reply.request_info, content
        if reply.status == 404:
            raise FileNotFoundError(path)
        if reply.status == 412:
            raise FileExistsError(path)
        raise Refused(reply.status, _words(content))

    def _with_credentials(self, headers: Any) -> dict[str, str]:
        try:
            return dict(self._get_headers(headers))
        except HttpError as error:
            failure = error.__cause__
            away = isinstance(failure, RefreshError) and (failure.retryable or isinstance(failure.__cause__, TransportError))
            if not away:
                raise
            # who gives the credentials is away: an outage, and no word about them
            raise ConnectionError(f"no credentials can be had: {failure}") from error

    async def _info(self, path: str, **options: Any) -> Any:
        """One request, and no listing beside it to know whether a key that is there is a folder as well."""
        if not self.split_path(path)[1]:
            return await super()._info(path, **options)
        return await self._get_object(path)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_others: Any) -> Any:
        """A whole object at once; Google refuses it if the bytes are not those of their checksum.

        gcsfs puts it between lines that it takes to be in no object (``--==0==``): one that has such a line ends there.
        """
        resource = {"name": self.split_path(path)[1], "crc32c": _text(google_crc32c.value(value)), "contentType": _TYPE}
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {_TYPE}\r\n\r\n"
        )
        _, _, _, content = await self._request(
            "POST",
            self._uploads(path),
            uploadType="multipart",
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            data=_body(head.encode(), value, f"\r\n--{boundary}--\r\n".encode()),
            **_condition(mode),
        )
        return _checked(content, resource)

    async def _put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **_others: Any) -> Any:
        """A local file: at once, or in parts of a resumable upload.

        An upload that ends early is no object, and Google forgets it after a week.
        """
        with open(lpath, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size <= _PART_BYTES:
                return await self._pipe_file(rpath, file.read(), mode=mode)
            resource = {"name": self.split_path(rpath)[1], "crc32c": _text(_crc32c(file)), "contentType": _TYPE}
            _, headers, _, _ = await self._request(
                "POST",
                self._uploads(rpath),
                uploadType="resumable",
                json=resource,
                headers={"X-Upload-Content-Type": _TYPE},
                **_condition(mode),
            )
            return _checked(await self._send_parts(headers["Location"], file, size), resource)

    async def _send_parts(self, place: str, file: BinaryIO, size: int) -> bytes:
        """All of a file to a resumable upload, from where Google says that it has it; what it answers at the end."""
        start = 0
        while True:
            file.seek(start)
            part = file.read(_PART_BYTES)
            status, headers, _, content = await self._request(
                "PUT", place, headers={"Content-Range": f"bytes {start}-{start + len(part) - 1}/{size}"}, data=_body(part)
            )
            if status != _GO_ON:
                return content
            there = int(headers["Range"].rpartition("-")[2]) + 1 if "Range" in headers else 0
            if not start < there < size:
                raise ConnectionError(f"the server has {there} bytes of {size} after part {start}-{start + len(part) - 1}")
            start = there

    def _uploads(self, path: str) -> str:
        return f"{self._location}/upload/storage/v1/b/{quote(self.split_path(path)[0], safe='')}/o"


def _body(*pieces: bytes) -> BinaryIO:
    """What aiohttp sends piece by piece: bytes by themselves would keep all other requests waiting meanwhile."""
    return io.BytesIO(b"".join(pieces))


def _condition(mode: str) -> dict[str, str]:
    """Generation 0 is that of no object."""
    return {"ifGenerationMatch": "0"} if mode == "create" else {}


def _crc32c(file: BinaryIO) -> int:
    checksum = 0
    while piece := file.read(1 << 20):
        checksum = google_crc32c.extend(checksum, piece)
    return int(checksum)


def _text(checksum: int) -> str:
    """As Google writes it: big-endian, in base64."""
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def _checked(content: bytes, resource: Mapping[str, str]) -> Any:
    """What Google says of an object that was written.

    Raises:
        ConnectionError: it has other bytes than were sent.
    """
    found = json.loads(content)
    if found.get("crc32c", resource["crc32c"]) != resource["crc32c"]:
        raise ConnectionError(f"the server has CRC-32C {found['crc32c']} for what was sent with {resource['crc32c']}")
    return found


def _words(content: bytes) -> str:
    """Google's own, out of JSON or as they are."""
    text = content[:10_000].decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return text
