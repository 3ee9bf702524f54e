"""The S3 proxy passes requests on as they came, and does to the chosen ones what it is told."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.s3_proxy import SLOW_S, Request, S3Proxy, operation_of


class _Behind(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str | None, bytes]] = []

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, self.headers["Host"], body))
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "10")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"0123456789")

    do_GET = do_HEAD = do_POST = do_PUT


@pytest.fixture
def proxy() -> Iterator[S3Proxy]:
    _Behind.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Behind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with S3Proxy(server.server_port) as made:
        yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


def ask(proxy: S3Proxy, method: str = "PUT", path: str = "/bucket/some/key", body: bytes = b"data") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(proxy.endpoint_url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body=body, headers={"Host": "as.it.was:1234"})
        answer = connection.getresponse()
        assert answer.status != 200 or method == "HEAD" or answer.getheader("Content-Length")
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("PUT", "/b/k", "PUT"),
        ("PUT", "/b/k?partNumber=1&uploadId=x", "part"),
        ("POST", "/b/k?uploads", "create"),
        ("POST", "/b/k?uploadId=x", "complete"),
        ("DELETE", "/b/k?uploadId=x", "abort"),
        ("DELETE", "/b/k", "DELETE"),
        ("HEAD", "/b/k", "HEAD"),
        ("GET", "/b/k", "GET"),
        ("GET", "/b?list-type=2", "LIST"),
        ("GET", "/b/?list-type=2", "LIST"),
    ],
)
def test_each_operation_is_known_by_its_request(method: str, path: str, operation: str) -> None:
    assert operation_of(method, path) == (operation, "" if operation == "LIST" else "k")


def test_requests_go_on_as_they_came_and_are_noted(proxy: S3Proxy) -> None:
    assert ask(proxy) == (200, b"0123456789")
    assert ask(proxy, "HEAD", body=b"") == (200, b"")
    assert _Behind.seen == [
        ("PUT", "/bucket/some/key", "as.it.was:1234", b"data"),
        ("HEAD", "/bucket/some/key", "as.it.was:1234", b""),
    ]
    assert proxy.trace == [Request("PUT", "some/key", ""), Request("HEAD", "some/key", "")]
    assert proxy.count("PUT") == 1


def test_the_chosen_requests_fail_and_no_others(proxy: S3Proxy) -> None:
    fault = proxy.fail("PUT", "503", at=2, times=2)
    assert [ask(proxy)[0] for _ in range(4)] == [200, 503, 503, 200]
    assert fault.done == 2
    assert len(_Behind.seen) == 2
    proxy.fail("GET", "403")
    proxy.heal()
    assert ask(proxy, "GET", body=b"")[0] == 200


def test_a_fault_may_be_about_some_keys_only(proxy: S3Proxy) -> None:
    fault = proxy.fail("PUT", "403", at=2, times=9, key="/other")
    assert [ask(proxy, path=f"/bucket/{key}")[0] for key in ("a/other", "a/key", "b/other", "c/other")] == [
        200, 200, 403, 403,
    ]  # fmt: skip
    assert fault.done == 2


def test_each_request_may_fail_once_and_pass_when_it_is_tried_again(proxy: S3Proxy) -> None:
    fault = proxy.fail("PUT", "500", at=2, times=2, spares_retries=True)
    keys = ("a", "b", "b", "c", "c", "d", "d")
    assert [ask(proxy, path=f"/bucket/{key}")[0] for key in keys] == [200, 500, 200, 500, 200, 200, 200]
    assert fault.done == 2


def test_a_reset_before_does_nothing_and_one_after_does_it(proxy: S3Proxy) -> None:
    for kind, done in (("reset before", 0), ("reset after", 1)):
        _Behind.seen = []
        proxy.fail("PUT", kind)
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            ask(proxy)
        assert len(_Behind.seen) == done
        proxy.reset()


def test_an_error_may_come_with_status_200(proxy: S3Proxy) -> None:
    proxy.fail("complete", "error in 200")
    status, body = ask(proxy, "POST", "/bucket/k?uploadId=x")
    assert status == 200
    assert b"<Code>InternalError</Code>" in body
    assert _Behind.seen == []


def test_a_short_body_ends_in_a_reset(proxy: S3Proxy) -> None:
    proxy.fail("GET", "short")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ask(proxy, "GET", body=b"")


def test_a_slow_answer_is_whole(proxy: S3Proxy) -> None:
    proxy.fail("GET", "slow")
    begun = time.monotonic()
    assert ask(proxy, "GET", body=b"") == (200, b"0123456789")
    assert time.monotonic() - begun >= SLOW_S


def test_unknown_faults_are_refused(proxy: S3Proxy) -> None:
    with pytest.raises(ValueError, match="no such fault"):
        proxy.fail("put", "500")
    with pytest.raises(ValueError, match="no such fault"):
        proxy.fail("PUT", "501")
