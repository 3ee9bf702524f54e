"""An HTTP proxy before a real S3 server that does as it is told: faults at the k-th request of an operation.

Standard library only. Requests go on as they came, the Host header too, so that their signatures stay valid. ``trace``
lists all that came, for choosing k. What it can't show, a server's own mind, is in scripted_s3.py.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["OPERATIONS", "Request", "S3Fault", "S3Proxy"]

OPERATIONS = ("PUT", "create", "part", "complete", "GET", "HEAD", "LIST", "DELETE", "abort")
#: Answers by the fault's name: status and code.
ANSWERS = {
    "500": (500, "InternalError"), "503": (503, "SlowDown"), "429": (429, "TooManyRequests"), "403": (403, "AccessDenied"),
    "archived": (403, "InvalidObjectState"),
}  # fmt: skip
#: As servers say it; others repeat their code.
_MESSAGES = {
    "AccessDenied": "Access Denied.",
    "SlowDown": "Please reduce your request rate.",
    "InvalidObjectState": "The operation is not valid for the object's storage class",
}
#: What else can go wrong.
KINDS = (
    *ANSWERS,
    "reset before",  # nothing is done, the connection is reset
    "reset after",  # it is done, the reply is lost
    "error in 200",  # nothing is done, the answer is a 200 with an error in it
    "error in 200 after",  # the same, and it is done
    "short",  # half of the body, then the connection is reset
    "slow",  # the answer comes after SLOW_S
    "dies at half",  # half of the body reaches the server, then it dies (on_death), and the connection is reset
    "dies at the end",  # the whole request does, and no answer was awaited
)
SLOW_S = 2.0
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Request(NamedTuple):
    """One that came, and what was done to it (empty: nothing)."""

    operation: str
    key: str
    fault: str


@dataclass
class S3Fault:
    """What happens to requests of an operation: from the ``at``-th on (1 is the first after it was armed), ``times`` of them.

    Only those about keys that contain ``key`` are counted. With ``spares_retries`` a request that failed by it and comes
    once more passes, uncounted: so ``times`` many different requests fail once each.
    """

    operation: str
    kind: str
    at: int = 1
    times: int = 1
    key: str = ""
    spares_retries: bool = False
    seen: int = 0
    done: int = 0
    #: What failed and is awaited once more.
    awaited: list[str] = field(default_factory=list)

    def strikes(self, operation: str, key: str, path: str) -> bool:
        """Whether it happens to this request."""
        if self.operation != operation or self.key not in key:
            return False
        if path in self.awaited:
            self.awaited.remove(path)
            return False
        self.seen += 1
        if not self.at <= self.seen < self.at + self.times:
            return False
        self.done += 1
        if self.spares_retries:
            self.awaited.append(path)
        return True


class S3Proxy:
    """Listens on a free port of 127.0.0.1. A context manager; its methods may be called from any thread.

    Args:
        port: of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        #: Ends the server behind: for the faults by which it dies.
        self.on_death: Callable[[], None] = _nobody
        self._lock = threading.Lock()
        self._faults: list[S3Fault] = []
        self.trace: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """From now on, to its clients; before the first connection."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(
        self, operation: str, kind: str, *, at: int = 1, times: int = 1, key: str = "", spares_retries: bool = False
    ) -> S3Fault:
        """Arm a fault; ``done`` of it tells how often it has struck."""
        if operation not in OPERATIONS or kind not in KINDS:
            raise ValueError(f"no such fault: {operation}, {kind}")
        with self._lock:
            self._faults.append(S3Fault(operation, kind, at, times, key, spares_retries))
            return self._faults[-1]

    def heal(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def count(self, operation: str) -> int:
        """How many requests of an operation came since reset()."""
        with self._lock:
            return sum(one.operation == operation for one in self.trace)

    def reset(self) -> None:
        """No more faults, and an empty trace."""
        with self._lock:
            self._faults.clear()
            self.trace.clear()

    def take(self, operation: str, key: str, path: str) -> str:
        """What happens to a request that came: a fault's kind, or nothing."""
        kind = ""
        with self._lock:
            for fault in self._faults:
                if not kind and fault.strikes(operation, key, path):
                    kind = fault.kind
            self.trace.append(Request(operation, key, kind))
        return kind

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _nobody() -> None:
    raise ValueError("on_death is not set")


def operation_of(method: str, path: str) -> tuple[str, str]:
    """A request's operation, and the key it is about ('' for the bucket)."""
    url = urlsplit(path)
    key = unquote(url.path).lstrip("/").partition("/")[2]
    query = parse_qs(url.query, keep_blank_values=True)
    if method == "PUT":
        return ("part" if "partNumber" in query else "PUT"), key
    if method == "POST":
        return ("create" if "uploads" in query else "complete"), key
    if method == "DELETE":
        return ("abort" if "uploadId" in query else "DELETE"), key
    if method == "HEAD":
        return "HEAD", key
    return ("GET" if key else "LIST"), key


def _handler(proxy: S3Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        _behind: http.client.HTTPConnection | None = None

        def log_message(self, *_arguments: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, http.client.HTTPException):  # the client went away, or the server
                super().handle()
            if self._behind is not None:
                self._behind.close()

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            operation, key = operation_of(self.command, self.path)
            kind = proxy.take(operation, key, self.path)
            if kind in ANSWERS:
                self.refuse(*ANSWERS[kind])
                return
            if kind == "reset before":
                self.reset()
                return
            if kind.startswith("dies"):
                with suppress(OSError):  # a connection that the server has closed meanwhile
                    self.send_on(body, len(body) // 2 if kind == "dies at half" else len(body))
                proxy.on_death()
                self.reset()
                return
            if kind == "error in 200":
                self.answer(200, self.error("InternalError"), [("Content-Type", "application/xml")])
                return
            status, headers, data = self.pass_on(body)
            if kind == "reset after":
                self.reset()
            elif kind == "error in 200 after":
                self.answer(200, self.error("InternalError"), [("Content-Type", "application/xml")])
            else:
                if kind == "slow":
                    time.sleep(SLOW_S)
                self.answer(status, data, headers, short=kind == "short")

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET = handle_any

        def send_on(self, body: bytes, count: int) -> http.client.HTTPConnection:
            """The request, with so many bytes of its body."""
            if self._behind is None:
                self._behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=60)
            self._behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "keep-alive", "expect"}:
                    self._behind.putheader(name, value)
            self._behind.endheaders(body[:count] or None)
            return self._behind

        def pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """The server's own answer."""
            answer = self.send_on(body, len(body)).getresponse()
            data = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            if self.command == "HEAD":
                headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            if answer.will_close and self._behind is not None:
                self._behind.close()
                self._behind = None
            return answer.status, headers, data

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, b"" if self.command == "HEAD" else self.error(code), [("Content-Type", "application/xml")])

        def error(self, code: str) -> bytes:
            return (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(code)}</Code>'
                f"<Message>{escape(_MESSAGES.get(code, code))}</Message></Error>"
            ).encode()

        def answer(self, status: int, body: bytes, headers: list[tuple[str, str]], *, short: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if status not in (204, 304) and not any(name == "Content-Length" for name, _ in headers):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if short else body)
            if short:
                self.reset()

        def reset(self) -> None:
            """Not by close(): http.server would say goodbye first."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    return Handler
