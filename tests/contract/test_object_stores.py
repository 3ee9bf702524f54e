"""The conformance suite on every store but for the servers that have a file of their own (test_ceph.py, test_seaweedfs.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.storage.filesystem import FilesystemStore
from kbr.storage.fsspec_store import open_filesystem
from tests.contract.backup_jobs import BackupJobs
from tests.contract.object_store import ObjectStoreConformance
from tests.contract.s3_store import S3StoreConformance
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from tests.conftest import S3Place

_names = itertools.count()


class TestMemoryStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_store(StorageOptions(url=f"memory://conformance-{next(_names)}"))


class TestLocalStore(ObjectStoreConformance):
    row = "filesystem"

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return open_store(StorageOptions(url=str(tmp_path / "not" / "yet" / "there")))


class TestFsspecMemory(ObjectStoreConformance):
    """An object store of fsspec: written by whole objects."""

    @pytest.fixture
    def store(self) -> Iterator[ObjectStore]:
        # open_store() has a memory store of its own
        options = StorageOptions(url=f"memory://fsspec-{next(_names)}/prefix")
        filesystem, root = open_filesystem(options)
        yield FilesystemStore(options, filesystem, root)
        if filesystem.exists(root):
            filesystem.rm(root, recursive=True)


class TestFsspecFiles(ObjectStoreConformance):
    """A filesystem of fsspec: written by temp file and rename."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return open_store(StorageOptions(url=f"local://{tmp_path}/not/yet/there"))


class TestVersitygw(S3StoreConformance, BackupJobs):
    """An S3 server over a folder."""

    row = S3Server.label
    puts_if_absent = completes_if_absent = "honoured"

    @pytest.fixture
    def place(self, s3: S3Place) -> S3Place:
        return s3
