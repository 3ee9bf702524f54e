"""The conformance suite on every store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kbr.errors import AccessDenied, KbrError, StorageError
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.storage.filesystem import FilesystemStore
from kbr.storage.fsspec_store import S3fsClient, open_filesystem
from tests.contract.object_store import PART_BYTES, ObjectStoreConformance

if TYPE_CHECKING:
    from tests.conftest import S3Place

_names = itertools.count()


class TestMemoryStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_store(StorageOptions(url=f"memory://conformance-{next(_names)}"))


class TestLocalStore(ObjectStoreConformance):
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


class TestS3Store(ObjectStoreConformance):
    """A real server."""

    @pytest.fixture
    def options(self, s3: S3Place) -> StorageOptions:
        return StorageOptions(
            url=f"s3://{s3.make_bucket()}/some/prefix",
            endpoint_url=s3.endpoint_url,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            region="us-east-1",
            path_style=True,
            part_bytes=PART_BYTES,
            deadline_s=20,
        )

    @pytest.fixture
    def store(self, options: StorageOptions) -> Iterator[ObjectStore]:
        opened = open_store(options)
        yield opened
        opened.close()
        opened.close()

    def test_an_aborted_upload_leaves_no_parts(self, store: ObjectStore, options: StorageOptions) -> None:
        client = S3fsClient(options)
        bucket = options.url.split("/")[2]

        def unfinished() -> int:
            return len(client.call("list_multipart_uploads", timeout_s=10, Bucket=bucket).get("Uploads") or [])

        upload = store.open_upload("up")
        upload.write(b"x" * (2 * PART_BYTES + 1))
        assert unfinished() == 1
        upload.abort()
        assert unfinished() == 0
        client.close()

    def test_unfinished_uploads_below_one_folder_are_ended_and_those_of_others_are_not(
        self, store: ObjectStore, options: StorageOptions
    ) -> None:
        keys = ["nightly/topics/a", "nightly/topics/b", "nightly-2/a", "other"]
        uploads = [store.open_upload(key) for key in keys]
        for upload in uploads:
            upload.write(b"x" * (PART_BYTES + 1))
        assert store.remove_leftovers("nightly") == 2
        assert store.remove_leftovers("nightly") == 0
        with pytest.raises(StorageError, match="unfinished upload"):
            uploads[0].commit()
        for upload in uploads[2:]:
            upload.commit()
        assert [info.key for info in store.list("")] == ["nightly-2/a", "other"]

    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"access_key": "nobody"}, AccessDenied, "the access key is not known"),
            ({"secret_key": "a-wrong-secret"}, AccessDenied, "the signature is wrong"),
            (
                {"url": "s3://no-such-bucket/p"},
                StorageError,
                "bucket no-such-bucket does not exist at http://127.0.0.1",
            ),
        ],
        ids=["access key", "secret key", "bucket"],
    )
    def test_wrong_settings_are_one_clear_line(
        self, options: StorageOptions, changes: dict[str, str], kind: type[KbrError], words: str
    ) -> None:
        opened = open_store(replace(options, **changes))
        with pytest.raises(kind) as caught:
            opened.check()
        assert words in str(caught.value)
        assert "wrong-secret" not in f"{caught.value!r}{caught.value.hint}"
        opened.close()
