"""Servers of other kinds than Kafka and S3, on loopback: SFTP (asyncssh), FTP (pyftpdlib), Azure's blobs (Azurite).

SFTP is served by a thread of the process that asks for it. Azurite comes from npm and lies in .cache/.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncssh

from tests.support.azurite import azurite
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
