"""Fixtures of servers of other kinds, each started once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbr.storage import StorageOptions
from kbr.storage.fsspec_open import open_filesystem
from tests.support.other_servers import AzureServer, FtpServer, GcsServer, SftpServer


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """A real SFTP server."""
    with SftpServer(tmp_path_factory.mktemp("sftp-server")) as server:
        yield server


@pytest.fixture(scope="session")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FtpServer]:
    """A real FTP server."""
    with FtpServer(tmp_path_factory.mktemp("ftp-server")) as server:
        yield server


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A server of Azure's blobs with the container ``backups``."""
    with AzureServer(tmp_path_factory.mktemp("azure-server")) as server:
        open_filesystem(StorageOptions(url=server.url("backups"), extra=server.options()))[0].mkdir("backups")
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A server of Google's buckets with the bucket ``backups``."""
    with GcsServer(tmp_path_factory.mktemp("gcs-server")) as server:
        server.make_bucket("backups")
        yield server
