"""The conformance suite in an encrypted backup's folder: whoever writes and reads there sees no difference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kbr.errors import StorageError
from kbr.format.data_keys import DataKey
from kbr.repository.backup_keys import Trust
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.storage import ObjectInfo, ObjectStore, StorageOptions, Upload, open_store
from kbr.storage.base import NO_METADATA, CommitsTogether, check_folder, check_key, check_prefix
from kbr.storage.memory import MemoryStore
from tests.contract.object_store import ObjectStoreConformance

_names = itertools.count()
_KNOWN = {"sealed": DataKey.of(bytes(32))}
_FOLDER = "sealed/"


class _Below:
    """A backup's folder as a store of its own, as the suite's keys are those of a root."""

    def __init__(self, store: SealedStore) -> None:
        self.store = store
        self.properties = store.properties
        self.url = store.url

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        return self._bare(self.store.put(_FOLDER + check_key(key), data, if_absent=if_absent, metadata=metadata))

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        return _Upload(self.store.open_upload(_FOLDER + check_key(key), if_absent=if_absent, metadata=metadata))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return self.store.get(_FOLDER + check_key(key), max_bytes=max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.store.read_range(_FOLDER + check_key(key), start, length)

    def head(self, key: str) -> ObjectInfo:
        return self._bare(self.store.head(_FOLDER + check_key(key)))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return (self._bare(info) for info in self.store.list(_FOLDER + prefix))

    def delete(self, key: str) -> None:
        self.store.delete(_FOLDER + check_key(key))

    def remove_leftovers(self, folder: str) -> int:
        check_folder(folder)
        return self.store.remove_leftovers("sealed")

    def check(self) -> None:
        self.store.check()

    def close(self) -> None:
        self.store.close()

    @staticmethod
    def _bare(info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key.removeprefix(_FOLDER))


class _Upload:
    def __init__(self, inner: Upload) -> None:
        self._inner = inner
        self.write, self.abort = inner.write, inner.abort

    def commit(self) -> ObjectInfo:
        return _Below._bare(self._inner.commit())


def sealed(options: StorageOptions) -> ObjectStore:
    return _Below(seal_over(open_store(options), Trust(), known=_KNOWN))


class SealedConformance(ObjectStoreConformance):
    def test_an_object_larger_than_expected_is_refused(self, store: ObjectStore) -> None:
        """Before it is read, so the sizes are those of what is stored."""
        store.put("m", b"0123456789")
        with pytest.raises(StorageError, match="90 bytes"):
            store.get("m", max_bytes=9)


class TestSealedMemoryStore(SealedConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return sealed(StorageOptions(url=f"memory://sealed-{next(_names)}"))

    def test_what_the_suite_writes_is_encrypted(self, store: _Below) -> None:
        store.put("m", b"hello")
        assert b"hello" not in store.store.inner.get("sealed/m", max_bytes=1000)


class TestSealedLocalStore(SealedConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return sealed(StorageOptions(url=str(tmp_path / "there")))


def test_it_commits_together_only_where_the_store_below_does(tmp_path: Path) -> None:
    local = seal_over(open_store(StorageOptions(url=str(tmp_path))), Trust(), known=_KNOWN)
    assert isinstance(local, CommitsTogether)
    assert not isinstance(seal_over(MemoryStore(), Trust()), CommitsTogether)
    uploads = [local.open_upload(f"sealed/{number}") for number in range(3)] + [local.open_upload("plain")]
    for number, upload in enumerate(uploads):
        upload.write(b"x" * number)
    infos = local.commit_together(uploads)
    assert [one.size_bytes for one in infos] == [0, 1, 2, 3]
    assert [local.get(f"sealed/{number}", max_bytes=9) for number in range(3)] == [b"", b"x", b"xx"]
    assert local.inner.get("plain", max_bytes=9) == b"xxx"
