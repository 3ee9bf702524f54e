"""A server of Google's buckets for tests that does as it is told: small, in memory, for uploads, reads and listings.

Standard library only. What it can do wrong, the stand-in that conformance runs on can't.
"""

from __future__ import annotations

import base64
import json
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

__all__ = ["ScriptedGcs"]

_PARTS = 256 * 1024


class ScriptedGcs:
    """A context manager. ``faults`` are what the next writing requests meet, one each:

    a number (answered with that status, nothing done), ``lose`` (done, the connection closed without an answer), ``less``
    (of a part only 256 KiB are kept), ``other`` (done, and told of with another checksum), ``hang`` (no answer until the end).
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: list[str | int] = []
        self.writes: list[str] = []
        self.tokens: list[str] = []  # of these requests, as they came
        self._sessions: dict[str, tuple[str, bool, bytearray]] = {}
        self._over = threading.Event()
        scripted = self

        class Handler(_Handler):
            script = scripted

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.05), daemon=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ScriptedGcs:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    # -- what it does; gives a status, headers and a document ---------------------------------

    def write(self, kind: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], object]:
        name, new = query.get("name", ""), query.get("ifGenerationMatch") == "0"
        if kind == "multipart":
            parts = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body).get_payload()
            resource = json.loads(parts[0].get_payload(decode=True))
            boundary = headers["content-type"].partition('boundary="')[2].rstrip('"').encode()
            data = body.split(b"\r\n--" + boundary)[1].partition(b"\r\n\r\n")[2]
            return self._finish(resource["name"], data, new)
        if kind == "resumable":
            number = str(len(self._sessions))
            name = json.loads(body)["name"]
            self._sessions[number] = (name, new, bytearray())
            return 200, {"Location": f"{self.endpoint_url}/session?upload={number}"}, {}
        name, new, there = self._sessions[query["upload"]]
        place, _, size = headers["content-range"].removeprefix("bytes ").partition("/")
        start = int(place.partition("-")[0])
        assert start == len(there), f"part from {start} where {len(there)} bytes are there"
        there += body[:_PARTS] if kind == "less" else body
        if len(there) < int(size):
            return 308, {"Range": f"bytes=0-{len(there) - 1}"}, None
        return self._finish(name, bytes(there), new)

    def _finish(self, name: str, data: bytes, new: bool) -> tuple[int, dict[str, str], object]:
        if new and name in self.objects:
            return 412, {}, {"error": {"code": 412, "message": "At least one of the pre-conditions you specified did not hold."}}
        self.objects[name] = data
        return 200, {}, self.resource(name)

    def resource(self, name: str) -> dict[str, object]:
        data = self.objects[name]
        checksum = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
        return {"name": name, "size": str(len(data)), "crc32c": checksum, "updated": "2026-05-01T12:00:00.000Z"}

    def wait_for_the_end(self) -> None:
        self._over.wait(60)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: ScriptedGcs

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        script = self.script
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if url.path == "/token":
            self._answer(200, {}, {"access_token": "the-token", "token_type": "Bearer", "expires_in": 3600})
            return
        kind = query.get("uploadType", "part")
        script.writes.append(kind)
        script.tokens.append(self.headers.get("Authorization", ""))
        fault = script.faults.pop(0) if script.faults else ""
        if isinstance(fault, int):
            self._answer(fault, {}, {"error": {"code": fault, "message": "so\n they say"}})
            return
        if fault == "hang":
            script.wait_for_the_end()
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more, document = script.write("less" if fault == "less" else kind, url.path, query, headers, body)
        if fault == "lose":
            self.close_connection = True
            return
        if fault == "other" and isinstance(document, dict):
            document = {**document, "crc32c": "AAAAAA=="}
        self._answer(status, more, document)

    do_PUT = do_POST

    def do_GET(self) -> None:
        script = self.script
        name = unquote(self.path.partition("/o/")[2].partition("?")[0])
        if name not in script.objects:
            self._answer(404, {}, {"error": {"code": 404, "message": "No such object"}})
        elif self.path.startswith("/download/"):
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            self._answer(206, {}, script.objects[name][int(start) : int(end) + 1])
        else:
            self._answer(200, {}, script.resource(name))

    def _answer(self, status: int, headers: dict[str, str], document: object) -> None:
        body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
