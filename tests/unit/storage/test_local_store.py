"""The folder store under the faults of a real disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from kbr.errors import AccessDenied, KbrError, StorageError, StoreFull
from kbr.storage.local import LocalStore


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_objects_and_folders_are_private(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "root"))
    store.put("a/b", b"x")
    assert stat.S_IMODE((tmp_path / "root/a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "root/a").stat().st_mode) == 0o700


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, AccessDenied), (errno.EIO, StorageError)]
)
def test_a_failing_disk_leaves_no_object_and_no_temp_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[KbrError]
) -> None:
    store = LocalStore(str(tmp_path))
    store.put("m", b"the old one")

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(kind) as caught:
            store.put("m", b"the new one")
    assert str(tmp_path / "m") in str(caught.value)
    assert _files(tmp_path) == ["m"]
    assert store.get("m", max_bytes=100) == b"the old one"


def test_after_a_failed_fsync_the_upload_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = LocalStore(str(tmp_path)).open_upload("m")
    upload.write(b"x")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            upload.commit()
    with pytest.raises(StorageError, match="over"):
        upload.commit()
    upload.abort()
    assert _files(tmp_path) == []


def test_files_being_written_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    upload = store.open_upload("a/b")
    upload.write(b"x")
    assert list(store.list("")) == []
    upload.abort()


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    store = LocalStore(str(tmp_path / "root"))
    store.put("real", b"x")
    (tmp_path / "root" / "link").symlink_to(outside)
    assert [info.key for info in store.list("")] == ["real"]
    with pytest.raises(StorageError):
        store.get("link", max_bytes=100)


def test_a_file_where_the_root_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="not a folder"):
        LocalStore(str(tmp_path / "file" / "below")).check()


def test_every_new_folder_is_synced_into_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    LocalStore(str(tmp_path / "root")).put("a/b/c", b"x")
    for folder in (tmp_path, tmp_path / "root", tmp_path / "root/a", tmp_path / "root/a/b"):
        assert str(folder) in synced
