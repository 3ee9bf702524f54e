"""A stand-in for S3 that fails as it is told: for what no real server can be made to do on time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["Answer", "Cut", "Lose", "Mangle", "Overtake", "ScriptedS3", "Silence", "scripted_s3"]

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_STAMP = "2026-01-02T03:04:05.000Z"
_HTTP_STAMP = "Fri, 02 Jan 2026 03:04:05 GMT"


@dataclass(frozen=True)
class Answer:
    """Say this and do nothing; an empty code is an answer without a body, as a proxy gives."""

    status: int
    code: str = ""


@dataclass(frozen=True)
class Lose:
    """Do it, then hang up without a reply."""


@dataclass(frozen=True)
class Silence:
    """Do nothing, say nothing, keep the connection."""


@dataclass(frozen=True)
class Cut:
    """Promise the whole body, send these many bytes of it, hang up."""

    after_bytes: int


@dataclass(frozen=True)
class Mangle:
    """Do it, but with these bytes more."""

    extra: bytes


@dataclass(frozen=True)
class Overtake:
    """Another writer's object appears just before it is done; then the reply may be lost."""

    data: bytes
    lose: bool


Fault = Answer | Lose | Silence | Cut | Mangle | Overtake


@dataclass
class _Upload:
    key: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class ScriptedS3:
    """Buckets all exist and are one; keys are what stands behind the bucket's name."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.uploads: dict[str, _Upload] = {}
        #: Every request, in order, by botocore's name of the operation.
        self.requests: list[str] = []
        self.page_size = 1000
        self.endpoint_url = ""
        self.over = threading.Event()
        self.lock = threading.Lock()
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._next_upload = 0

    def fail(self, operation: str, *faults: Fault) -> None:
        """Meet the next requests of that operation with these, one each."""
        self._faults.setdefault(operation, []).extend(faults)

    def fail_always(self, operation: str, fault: Fault) -> None:
        """Meet every request of that operation, ``*`` for all, with this."""
        self._always[operation] = fault

    def count(self, operation: str) -> int:
        """How many requests of that operation came."""
        return self.requests.count(operation)

    def unused(self) -> list[Fault]:
        """Faults that nothing has met."""
        return [fault for faults in self._faults.values() for fault in faults]

    def next_fault(self, operation: str) -> Fault | None:
        """Note a request; how it is to fail."""
        with self.lock:
            self.requests.append(operation)
            waiting = self._faults.get(operation)
            if waiting:
                return waiting.pop(0)
            return self._always.get(operation) or self._always.get("*")

    def begin(self, key: str, metadata: dict[str, str]) -> str:
        """A new multipart upload's id."""
        with self.lock:
            self._next_upload += 1
            name = f"upload-{self._next_upload}"
            self.uploads[name] = _Upload(key, metadata)
            return name


def _operation(method: str, key: str, query: dict[str, list[str]]) -> str:
    if not key:
        return "list_objects_v2"
    if method == "POST":
        return "create_multipart_upload" if "uploads" in query else "complete_multipart_upload"
    if "uploadId" in query:
        return "upload_part" if method == "PUT" else "abort_multipart_upload"
    return {"PUT": "put_object", "GET": "get_object", "HEAD": "head_object", "DELETE": "delete_object"}[method]


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: ScriptedS3

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        self._serve()

    do_GET = do_HEAD = do_DELETE = do_POST = do_PUT

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        key = unquote(address.path).lstrip("/").partition("/")[2]
        operation = _operation(self.command, key, query)
        self._fault = self.s3.next_fault(operation)
        if isinstance(self._fault, Answer):
            self._error(self._fault.status, self._fault.code)
        elif isinstance(self._fault, Silence):
            self.s3.over.wait()
            self.close_connection = True
        else:
            if isinstance(self._fault, Mangle):
                body += self._fault.extra
            if isinstance(self._fault, Overtake):
                self.s3.objects[key] = (self._fault.data, {"kbr-upload": "another's"})
            getattr(self, operation)(key, query, body)

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if isinstance(self._fault, Lose) or (isinstance(self._fault, Overtake) and self._fault.lose):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(self._fault, Cut):
            body = body[: self._fault.after_bytes]
            self.close_connection = True
        self.wfile.write(body)

    def _xml(self, text: str, status: int = 200) -> None:
        self._reply(status, (_XML + text).encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        if not code or self.command == "HEAD":
            self._reply(status)
        else:
            self._xml(f"<Error><Code>{code}</Code><Message>told to say {code}</Message></Error>", status)

    def _metadata(self) -> dict[str, str]:
        begin = "x-amz-meta-"
        return {name[len(begin) :]: value for name, value in self.headers.items() if name.lower().startswith(begin)}

    def put_object(self, key: str, _query: object, body: bytes) -> None:
        with self.s3.lock:
            taken = key in self.s3.objects and self.headers.get("If-None-Match") == "*"
            if not taken:
                self.s3.objects[key] = (body, self._metadata())
        if taken:
            self._error(412, "PreconditionFailed")
        else:
            self._reply(200, headers={"ETag": _etag(body)})

    def head_object(self, key: str, _query: object, _body: bytes) -> None:
        found = self.s3.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
            return
        data, metadata = found
        own = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        self._reply(
            200, headers={"Content-Length": str(len(data)), "ETag": _etag(data), "Last-Modified": _HTTP_STAMP, **own}
        )

    def get_object(self, key: str, _query: object, _body: bytes) -> None:
        found = self.s3.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
            return
        data = found[0]
        asked = self.headers.get("Range")
        headers = {"ETag": _etag(data), "Last-Modified": _HTTP_STAMP}
        if asked is None:
            self._reply(200, data, headers)
            return
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        if first >= len(data):
            self._error(416, "InvalidRange")
            return
        part = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self._reply(206, part, headers)

    def delete_object(self, key: str, _query: object, _body: bytes) -> None:
        self.s3.objects.pop(key, None)
        self._reply(204)

    def list_objects_v2(self, _key: str, query: dict[str, list[str]], _body: bytes) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", [""])[0]
        with self.s3.lock:
            keys = sorted(key for key in self.s3.objects if key.startswith(prefix) and key > after)
            page = keys[: self.s3.page_size]
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_STAMP}</LastModified>"
                f"<Size>{len(self.s3.objects[key][0])}</Size></Contents>"
                for key in page
            )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        truncated = "true" if more else "false"
        self._xml(f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{entries}</ListBucketResult>")

    def create_multipart_upload(self, key: str, _query: object, _body: bytes) -> None:
        name = self.s3.begin(key, self._metadata())
        self._xml(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")

    def upload_part(self, _key: str, query: dict[str, list[str]], body: bytes) -> None:
        upload = self.s3.uploads.get(query["uploadId"][0])
        if upload is None:
            self._error(404, "NoSuchUpload")
            return
        upload.parts[int(query["partNumber"][0])] = body
        self._reply(200, headers={"ETag": _etag(body)})

    def complete_multipart_upload(self, key: str, query: dict[str, list[str]], _body: bytes) -> None:
        with self.s3.lock:
            upload = self.s3.uploads.pop(query["uploadId"][0], None)
            if upload is not None:
                data = b"".join(upload.parts[number] for number in sorted(upload.parts))
                self.s3.objects[key] = (data, upload.metadata)
        if upload is None:
            self._error(404, "NoSuchUpload")
        else:
            self._xml("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def abort_multipart_upload(self, _key: str, query: dict[str, list[str]], _body: bytes) -> None:
        if self.s3.uploads.pop(query["uploadId"][0], None) is None:
            self._error(404, "NoSuchUpload")
        else:
            self._reply(204)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that hangs up first is no news."""


@contextmanager
def scripted_s3() -> Iterator[ScriptedS3]:
    """A server of this kind while the block lasts."""
    s3 = ScriptedS3()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": s3}))
    s3.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield s3
    finally:
        s3.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
