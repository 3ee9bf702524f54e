"""Stores that fsspec's filesystems make, on real servers: SFTP, FTP, Azure's blobs."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from kbr.errors import AccessDenied, StorageError
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.storage.filesystem import FilesystemStore
from kbr.storage.fsspec_open import open_filesystem
from tests.contract.object_store import ObjectStoreConformance
from tests.support.other_servers import AzureServer, FtpServer, SftpServer

pytestmark = [
    pytest.mark.servers,
    # azure-storage-blob gives aiohttp bytes
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
_names = itertools.count()


class _OneConnection(ObjectStoreConformance):
    """Stores in different places of one filesystem, which connects once: a subclass has a fixture ``place``."""

    @pytest.fixture
    def store(self, place: tuple[StorageOptions, Any]) -> ObjectStore:
        options, filesystem = place
        options = replace(options, url=f"{options.url}/{next(_names)}/not/yet")
        return FilesystemStore(options, filesystem, type(filesystem)._strip_protocol(options.url))

    def test_a_listing_is_recursive_sorted_and_complete(self, store: ObjectStore) -> None:
        """As the suite's, with fewer objects: these have no pages of a thousand, and take 20 ms for each."""
        names = [f"t/{number % 7}/segment-{number:05d}" for number in range(40)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: store.put(name, b"x"), names))
        store.put("other", b"x")
        assert [info.key for info in store.list("t/")] == sorted(names)
        assert [info.key for info in store.list("t/3/segment-000")] == [name for name in sorted(names) if "/3/" in name]
        assert len(list(store.list(""))) == 41


class TestSftp(_OneConnection):
    @pytest.fixture(scope="class")
    @staticmethod
    def place(sftp: SftpServer) -> tuple[StorageOptions, Any]:
        options = StorageOptions(url=sftp.url("conformance"), extra=sftp.options(), deadline_s=5)
        return options, open_filesystem(options)[0]


class TestFtp(_OneConnection):
    @pytest.fixture(scope="class")
    @staticmethod
    def place(ftp: FtpServer) -> tuple[StorageOptions, Any]:
        options = StorageOptions(url=ftp.url("conformance"), extra=ftp.options(), deadline_s=5)
        return options, open_filesystem(options)[0]


class TestAzure(_OneConnection):
    @pytest.fixture(scope="class")
    @staticmethod
    def place(azure: AzureServer) -> tuple[StorageOptions, Any]:
        options = StorageOptions(url=azure.url("conformance"), extra=azure.options(), deadline_s=5)
        filesystem = open_filesystem(options)[0]
        filesystem.mkdir("conformance")
        return options, filesystem


def test_a_container_that_is_not_there_is_told(azure: AzureServer) -> None:
    store = open_store(StorageOptions(url=azure.url("nobody-made-this/p"), extra=azure.options(), deadline_s=5))
    with pytest.raises(StorageError, match="the bucket or folder for it is not there"):
        store.put("m", b"x")


def test_a_wrong_key_is_told_and_not_tried_until_the_deadline(azure: AzureServer) -> None:
    options = {"connection_string": azure.options()["connection_string"].replace(azure.key, "bm90IHRoZSBrZXkgYXQgYWxs")}
    store = open_store(StorageOptions(url=azure.url("backups/p"), extra=options, deadline_s=60))
    with pytest.raises(AccessDenied) as caught:
        store.put("m", b"x")
    assert "bm90IHRo" not in f"{caught.value} {caught.value.hint}"
