"""An OpenID Connect server's token endpoint for tests: client credentials in, signed tokens out (RFC 6749, 4.4)."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs

from .certificates import JwtKey

__all__ = ["IssuedToken", "OidcServer"]


class IssuedToken(NamedTuple):
    """What somebody was given."""

    client_id: str
    scope: str
    at: float
    token: str


class OidcServer:
    """Listens on 127.0.0.1 as long as it is open.

    Attributes:
        life_s: of the tokens that are given out, from now on.
        issued: all that were.
        refused: how many requests had the wrong credentials.
    """

    def __init__(self, key: JwtKey, clients: dict[str, str]) -> None:
        self.life_s = 3600.0
        self.issued: list[IssuedToken] = []
        self.refused = 0
        self._key = key
        self._clients = clients
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                size = int(self.headers.get("Content-Length", "0"))
                form = {name: values[0] for name, values in parse_qs(self.rfile.read(size).decode()).items()}
                status, answer = outer._answer(self.headers.get("Authorization", ""), form)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _answer(self, authorization: str, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization.startswith("Basic "):
            client_id, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
        if form.get("grant_type") != "client_credentials" or self._clients.get(client_id) != secret:
            self.refused += 1
            return 401, {"error": "invalid_client", "error_description": "wrong client id or secret"}
        now = time.time()
        claims: dict[str, object] = {"sub": client_id, "iat": int(now), "exp": int(now + self.life_s), "scope": form.get("scope") or "kafka"}
        token = self._key.sign(claims)
        self.issued.append(IssuedToken(client_id, form.get("scope", ""), now, token))
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": int(self.life_s)}

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
