"""Servers of other kinds than Kafka and S3, on loopback: SFTP (asyncssh), FTP (pyftpdlib), Azure's blobs (Azurite), Google's
(fake-gcs-server).

SFTP is served by a thread of the process that asks for it. Azurite comes from npm, fake-gcs-server is a Go module; both lie in
.cache/.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Coroutine, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import asyncssh

from tests.support.azurite import azurite
from tests.support.fake_gcs import FAKE_GCS_VERSION, fake_gcs_binary
from tests.support.servers import Process, ServerError, free_port
from tests.support.waiting import wait_until

USER, PASSWORD = "kbr", "hunter2-of-the-tests"
_T = TypeVar("_T")


class SftpServer:
    """SFTP over a folder, which its clients see as ``/``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "sftp"
        self.folder.mkdir(parents=True)
        self.known_hosts = folder / "known_hosts"
        self.port = free_port()
        self.logins = 0
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        name = f"[127.0.0.1]:{self.port} "
        self.known_hosts.write_text(name + self._key.export_public_key().decode())
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._listener: asyncssh.SSHAcceptor | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> SftpServer:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def start(self) -> None:
        """Listen; again after stop()."""
        self._listener = self._run(self._listen())

    def stop(self) -> None:
        """Listen no more, and cut all connections."""
        self._run(self._close())

    def cut(self) -> None:
        """Cut all connections."""
        self._run(self._cut())

    def options(self) -> dict[str, str]:
        """For storage.options."""
        return {"username": USER, "password": PASSWORD, "known_hosts": str(self.known_hosts)}

    def url(self, path: str) -> str:
        return f"sftp://127.0.0.1:{self.port}/{path}"

    async def _listen(self) -> asyncssh.SSHAcceptor:
        server = self

        class Login(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self.connection = conn
                server._connections.add(conn)

            def connection_lost(self, exc: Exception | None) -> None:
                server._connections.discard(self.connection)

            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                server.logins += 1
                return (username, password) == (USER, PASSWORD)

        return await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=Login,
            server_host_keys=[self._key],
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(self.folder)),
        )

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None
        await self._cut()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)


class FtpServer:
    """FTP over a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve() / "ftp"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self._process = Process("ftp", self.folder)

    def __enter__(self) -> FtpServer:
        data = self.folder / "data"
        data.mkdir()
        self._process.start(
            [
                sys.executable, "-W", "ignore", "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(self.port),
                "-u", USER, "-P", PASSWORD, "-w", "-d", str(data),
            ],
            port=self.port,
        )  # fmt: skip
        wait_until(self._is_up, deadline_s=20, what="the FTP server answers")
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.stop()

    def _is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def options(self) -> dict[str, str]:
        return {"username": USER, "password": PASSWORD}

    def url(self, path: str) -> str:
        return f"ftp://127.0.0.1:{self.port}/{path}"


class AzureServer:
    """Azurite, Microsoft's own stand-in for Azure's blobs; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve() / "azurite"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.account = "kbrtests"
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self._process = Process("azurite", self.folder)

    def __enter__(self) -> AzureServer:
        node = shutil.which("node")
        if node is None:
            raise ServerError("node is missing: install Node.js (Debian: apt-get install nodejs npm)")
        self._process.start(
            [
                node, str(azurite()), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location",
                str(self.folder), "--silent", "--skipApiVersionCheck", "--disableTelemetry",
            ],
            port=self.port,
            env={"AZURITE_ACCOUNTS": f"{self.account}:{self.key}"},
        )  # fmt: skip
        try:
            wait_until(self._is_up, deadline_s=30, what=f"Azurite answers\n{self._process.tail()}")
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.stop()

    def options(self) -> dict[str, str]:
        endpoint = f"BlobEndpoint=http://127.0.0.1:{self.port}/{self.account}"
        text = f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};{endpoint};"
        return {"connection_string": text}

    def url(self, path: str) -> str:
        return f"abfs://{path}"

    def _is_up(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/", timeout=1):
                return True
        except HTTPError:
            return True
        except OSError:
            return False


class GcsServer:
    """fake-gcs-server, in memory or, where it is to be killed and started again, over a folder; a context manager.

    Nobody logs in: it asks for no token.
    """

    label = f"fake-gcs-server {FAKE_GCS_VERSION.removeprefix('v')}"

    def __init__(self, folder: Path, *, keeps_objects: bool = False) -> None:
        self.folder = folder.resolve() / "gcs"
        self.folder.mkdir(parents=True)
        self.backend = "filesystem" if keeps_objects else "memory"
        self.port = free_port()
        self._process = Process("fake-gcs-server", self.folder)

    def __enter__(self) -> GcsServer:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers; again after crash(), with what was written before if it keeps that."""
        place = f"127.0.0.1:{self.port}"
        self._process.start(
            [
                str(fake_gcs_binary()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port),
                "-backend", self.backend, "-filesystem-root", str(self.folder / "buckets"), "-log-level", "warn",
                "-external-url", self.endpoint_url, "-public-host", place,
            ],
            port=self.port,
        )  # fmt: skip
        try:
            wait_until(self._is_up, deadline_s=30, what=f"fake-gcs-server answers\n{self._process.tail()}")
        except BaseException:
            self._process.stop()
            raise

    def crash(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def make_bucket(self, name: str = "") -> str:
        """A bucket, of this name or of one that nobody else uses."""
        name = name or f"bucket-{secrets.token_hex(6)}"
        body = json.dumps({"name": name}).encode()
        request = Request(f"{self.endpoint_url}/storage/v1/b?project=kbr-tests", body, {"Content-Type": "application/json"})
        urlopen(request, timeout=10).close()
        return name

    def fill(self, place: str, keys: Sequence[str]) -> None:
        """Write many objects of one byte below ``bucket/prefix``, past all libraries: those take milliseconds for each."""
        bucket, _, prefix = place.partition("/")
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            for key in keys:
                name = quote(f"{prefix}/{key}", safe="")
                connection.request("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", b"x")
                with connection.getresponse() as answer:
                    if answer.status != 200:
                        raise ServerError(f"fake-gcs-server answers {answer.status} to the upload of {key}")
                    answer.read()

    def options(self) -> dict[str, str]:
        return {"endpoint_url": self.endpoint_url, "token": "anon"}

    @property
    def env(self) -> dict[str, str]:
        """KBR_ variables that lead to it."""
        return {f"KBR_STORAGE_OPTIONS__{name.upper()}": value for name, value in self.options().items()}

    def url(self, path: str) -> str:
        return f"gs://{path}"

    def storage_url(self, bucket: str, prefix: str = "") -> str:
        return self.url(f"{bucket}/{prefix}".rstrip("/"))

    def _is_up(self) -> bool:
        try:
            with urlopen(f"{self.endpoint_url}/storage/v1/b", timeout=1):
                return True
        except OSError:
            return False


class GcsObjects:
    """Objects below a prefix of one of its buckets, by Google's JSON, past kbr and gcsfs."""

    def __init__(self, server: GcsServer, bucket: str, prefix: str) -> None:
        self._url = f"{server.endpoint_url}/storage/v1/b/{bucket}/o"
        self._prefix = f"{prefix}/"

    def sizes(self) -> dict[str, int]:
        found, page = {}, ""
        while True:
            query = urlencode({"prefix": self._prefix, "pageToken": page})
            with urlopen(f"{self._url}?{query}", timeout=20) as answer:
                listed = json.load(answer)
            found.update({one["name"].removeprefix(self._prefix): int(one["size"]) for one in listed.get("items", [])})
            page = listed.get("nextPageToken", "")
            if not page:
                return found

    def get(self, key: str) -> bytes | None:
        try:
            with urlopen(f"{self._url}/{quote(self._prefix + key, safe='')}?alt=media", timeout=20) as answer:
                return answer.read()
        except HTTPError as error:
            if error.code != 404:
                raise
            return None

    def leftovers(self) -> list[str]:
        """None: what was not finished is no object, and no listing has it."""
        return []
