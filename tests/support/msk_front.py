"""Stands before a plain Kafka listener and asks for Amazon MSK's tokens: SASL/OAUTHBEARER with what AWS's signer makes.

A token is a URL, presigned for ``kafka-cluster:Connect`` (AWS Signature Version 4, query parameters). The front checks it
from AWS's own description, with nothing of AWS's code: who signed, for which region and service, when, and the signature.
A session ends with its token (KIP-368); who then goes on without a new one is cut off. What follows a login is Kafka's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import struct
import threading
import time
from calendar import timegm
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

__all__ = ["Login", "MskFront"]

_HANDSHAKE, _AUTHENTICATE = 17, 36
_REFUSED = 58  # SASL_AUTHENTICATION_FAILED


class Login(NamedTuple):
    """A token that was taken."""

    client_id: str
    region: str
    token: str
    at: float
    expires_at: float
    is_again: bool


class MskFront:
    """Listens on ``port`` and passes on to ``upstream``, both of 127.0.0.1.

    Attributes:
        logins: tokens that were taken, in order.
        refused: why others were not.
        cut_off: connections whose token had expired.
    """

    def __init__(self, port: int, upstream: int, *, access_key: str, secret_key: str) -> None:
        self.logins: list[Login] = []
        self.refused: list[str] = []
        self.cut_off = 0
        self._upstream = upstream
        self._keys = (access_key, secret_key)
        self._server = socket.create_server(("127.0.0.1", port))
        self._open: set[socket.socket] = {self._server}
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut all connections and stop listening."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        expires_at = 0.0
        kafka = socket.create_connection(("127.0.0.1", self._upstream))
        self._open.add(kafka)
        sending = threading.Lock()
        threading.Thread(target=self._pass_back, args=(kafka, client, sending), daemon=True).start()
        try:
            while (frame := _read_frame(client)) is not None:
                api, version, correlation, name_size = struct.unpack_from(">hhih", frame)
                name = frame[10 : 10 + name_size].decode() if name_size > 0 else ""
                body = frame[10 + max(0, name_size) :]
                if api == _HANDSHAKE:
                    answer = struct.pack(">hi", 0, 1) + _text("OAUTHBEARER")
                elif api == _AUTHENTICATE:
                    assert version <= 1, f"SaslAuthenticate v{version} has another layout"
                    answer, expires_at = self._log_in(name, body, is_again=expires_at > 0)
                    answer = answer if version else answer[:-8]
                elif expires_at == 0 and api != 18:  # ApiVersions comes before the login
                    return
                elif 0 < expires_at < time.time():
                    self.cut_off += 1
                    return
                else:
                    kafka.sendall(struct.pack(">i", len(frame)) + frame)
                    continue
                with sending:
                    client.sendall(struct.pack(">ii", 4 + len(answer), correlation) + answer)
        except OSError:
            pass  # one side has gone
        finally:
            for one in (client, kafka):
                self._open.discard(one)
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    @staticmethod
    def _pass_back(kafka: socket.socket, client: socket.socket, sending: threading.Lock) -> None:
        with suppress(OSError):
            while (frame := _read_frame(kafka)) is not None:
                with sending:
                    client.sendall(struct.pack(">i", len(frame)) + frame)
            client.shutdown(socket.SHUT_RDWR)

    def _log_in(self, name: str, body: bytes, *, is_again: bool) -> tuple[bytes, float]:
        size = struct.unpack_from(">i", body)[0]
        first = body[4 : 4 + size].decode()
        token = first.partition("auth=Bearer ")[2].partition("\x01")[0]
        try:
            region, expires_at = self._check(token)
        except ValueError as error:
            self.refused.append(str(error))
            return struct.pack(">h", _REFUSED) + _text(f"[test]: {error}") + struct.pack(">iq", 0, 0), 0.0
        self.logins.append(Login(name, region, token, time.time(), expires_at, is_again))
        life_ms = max(0, int((expires_at - time.time()) * 1000))
        return struct.pack(">hhiq", 0, -1, 0, life_ms), expires_at

    def _check(self, token: str) -> tuple[str, float]:
        """(region, when it expires) of a good token."""
        url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
        given = dict(parse_qsl(url.query, keep_blank_values=True))
        access_key, day, region, service, end = given["X-Amz-Credential"].split("/")
        signed = {key: value for key, value in given.items() if key not in {"X-Amz-Signature", "User-Agent"}}
        if (service, end, signed.get("Action")) != ("kafka-cluster", "aws4_request", "kafka-cluster:Connect"):
            raise ValueError("it is not for kafka-cluster:Connect")
        if access_key != self._keys[0] or url.hostname != f"kafka.{region}.amazonaws.com":
            raise ValueError("it is somebody else's")
        query = "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in sorted(signed.items()))
        request = f"GET\n/\n{query}\nhost:{url.netloc}\n\nhost\n{hashlib.sha256().hexdigest()}"
        text = f"AWS4-HMAC-SHA256\n{given['X-Amz-Date']}\n{day}/{region}/{service}/aws4_request\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{self._keys[1]}".encode()
        for step in (day, region, service, "aws4_request", text):
            key = hmac.new(key, step.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(key.hex(), given["X-Amz-Signature"]):
            raise ValueError("its signature is wrong")
        begun = timegm(time.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
        expires_at = begun + int(given["X-Amz-Expires"])
        if expires_at < time.time():
            raise ValueError("it has expired")
        return region, float(expires_at)


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _read_frame(connection: socket.socket) -> bytes | None:
    """One request or answer, without its size; None where the connection ends."""
    size = _read(connection, 4)
    return None if size is None else _read(connection, struct.unpack(">i", size)[0])


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
