"""The conformance suite, and whole backups, on a stand-in for Google Cloud Storage. In a file of its own: it is started once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from kbr.errors import StorageError
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.storage.gcs_filesystem import GcsFilesystem
from tests.contract.backup_jobs import BackupJobs
from tests.contract.object_store import ObjectStoreConformance
from tests.support.archive import Objects
from tests.support.other_servers import GcsObjects, GcsServer

pytestmark = pytest.mark.servers
_names = itertools.count()
Record = Callable[[str, object], None]


def _store(gcs: GcsServer, place: str) -> ObjectStore:
    return open_store(StorageOptions(url=gcs.url(place), extra=gcs.options(), deadline_s=5))


class TestGcs(ObjectStoreConformance, BackupJobs):
    row = GcsServer.label

    @pytest.fixture
    def store(self, gcs: GcsServer) -> ObjectStore:
        return _store(gcs, f"backups/conformance/{next(_names)}/not/yet")

    @pytest.fixture
    def place(self, gcs: GcsServer) -> GcsServer:
        return gcs

    @staticmethod
    def objects(place: Any, bucket: str) -> Objects:
        return GcsObjects(place, bucket, "p")

    @pytest.mark.compatibility(column="listing beyond 1,000 keys")
    def test_a_listing_is_recursive_sorted_and_complete(self, gcs: GcsServer) -> None:  # type: ignore[override]
        """As the suite's, with fewer objects: this server takes longer for each, the more it has."""
        bucket = gcs.make_bucket()
        names = [f"t/{number % 7}/segment-{number:05d}" for number in range(1010)]
        gcs.fill(f"{bucket}/p", [*names, "other"])
        store = _store(gcs, f"{bucket}/p")
        assert [info.key for info in store.list("t/")] == sorted(names)
        assert [info.key for info in store.list("t/3/segment-000")] == [
            name for name in sorted(names) if name.startswith("t/3/segment-000")
        ]
        assert len(list(store.list(""))) == 1011

    @pytest.mark.compatibility(column="listing by pages")
    def test_a_listing_by_small_pages_is_complete(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = [f"t/{number:02d}" for number in range(15)]
        for key in [*keys, "u"]:
            store.put(key, b"x")
        pages = []
        list_page = GcsFilesystem._call_list_objects

        async def small_page(self: GcsFilesystem, bucket: str, **query: Any) -> Any:
            pages.append(query)
            return await list_page(self, bucket, **{**query, "maxResults": 7})

        monkeypatch.setattr(GcsFilesystem, "_call_list_objects", small_page)
        assert [info.key for info in store.list("t/")] == keys
        assert len(pages) == 3

    @pytest.mark.compatibility(column="conditional PUT", value="honoured")
    def test_of_several_conditional_writers_one_wins(self, store: ObjectStore) -> None:
        super().test_of_several_conditional_writers_one_wins(store)
        assert store.properties.honours_if_absent is True

    @pytest.mark.parametrize(
        "size",
        [10, pytest.param(20 << 20, marks=pytest.mark.compatibility(column="conditional completion", value="honoured"))],
        ids=["at once", "in parts"],
    )
    def test_of_several_uploads_if_absent_one_wins(self, store: ObjectStore, size: int) -> None:
        super().test_of_several_uploads_if_absent_one_wins(store, size)
        assert store.properties.honours_if_absent is True

    @pytest.mark.parametrize("size", [16 << 20, (16 << 20) + 1, 40 << 20], ids=lambda size: f"{size}B")
    def test_an_upload_in_parts_is_whole(self, store: ObjectStore, size: int) -> None:
        data = bytes(range(251)) * (size // 251 + 1)
        upload = store.open_upload("up")
        upload.write(memoryview(data)[:size])
        assert upload.commit().size_bytes == size
        assert store.get("up", max_bytes=size) == data[:size]

    @pytest.mark.parametrize("is_upload", [False, True])
    def test_objects_hold_whatever_bytes_they_are_given(self, store: ObjectStore, is_upload: bool) -> None:
        """gcsfs ends an object at a line of ``--==0==``, and what a topic's records hold is anybody's."""
        data = b"before\n--==0==\nbetween\r\n--==0==--\r\nafter" * 3
        if is_upload:
            upload = store.open_upload("m")
            upload.write(data)
            upload.commit()
        else:
            store.put("m", data)
        assert store.get("m", max_bytes=1000) == data

    @pytest.mark.compatibility(column="wrong settings told")
    def test_a_bucket_that_is_not_there_is_told(self, gcs: GcsServer) -> None:
        with pytest.raises(StorageError, match="the bucket or folder for it is not there"):
            _store(gcs, "nobody-made-this/p").put("m", b"x")
