"""The folder store under the faults of a real disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from kbr.errors import AccessDenied, ConfigError, KbrError, StorageError, StoreFull, UsageError
from kbr.storage import StorageOptions, open_store
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
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EROFS, AccessDenied),
        (errno.EACCES, AccessDenied),
        (errno.EIO, StorageError),
    ],
)
def test_a_failing_disk_leaves_no_object_and_no_temp_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[KbrError]
) -> None:
    store = LocalStore(str(tmp_path))
    store.put("m", b"the old one")

    def fail(*_arguments: object, **_named: object) -> None:
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


def test_a_symbolic_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"secret")
    store = LocalStore(str(tmp_path / "root"))
    store.put("real", b"x")
    (tmp_path / "root" / "a").symlink_to(outside)
    calls = [
        lambda: store.get("a/b", max_bytes=100),
        lambda: store.head("a/b"),
        lambda: store.put("a/new", b"x"),
        lambda: store.put("a/new/deeper", b"x"),
        lambda: store.delete("a/b"),
        lambda: list(store.list("a/")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="symbolic link"):
            call()
    assert [info.key for info in store.list("")] == ["real"]
    assert _files(outside) == ["b"]


def test_a_link_put_in_place_of_a_folder_during_an_upload_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = LocalStore(str(tmp_path / "root"))
    upload = store.open_upload("a/b")
    upload.write(b"x")
    (tmp_path / "root" / "a").rename(tmp_path / "moved")
    (tmp_path / "root" / "a").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        upload.commit()
    assert _files(outside) == []


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    store = LocalStore(str(tmp_path / "root"))
    store.put("a/b", b"x")
    assert _files(tmp_path / "disk") == ["b"]
    assert store.get("a/b", max_bytes=1) == b"x"


def test_a_pipe_in_an_object_s_place_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m")
    store = LocalStore(str(tmp_path))
    with pytest.raises(StorageError, match="not a file"):
        store.get("m", max_bytes=10)
    assert list(store.list("")) == []


def test_names_of_files_being_written_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        LocalStore(str(tmp_path)).put("a/.kbr-tmp-1", b"x")


def test_a_file_of_another_size_than_was_written_never_appears(tmp_path: Path) -> None:
    upload = LocalStore(str(tmp_path)).open_upload("m")
    upload.write(b"12345")
    (temporary,) = tmp_path.iterdir()
    os.truncate(temporary, 3)
    with pytest.raises(StorageError, match="3 bytes, 5 were written"):
        upload.commit()
    assert _files(tmp_path) == []


def test_a_full_disk_while_writing_gives_back_at_once_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = LocalStore(str(tmp_path)).open_upload("m")
    upload.write(b"x" * 100)
    real = os.write

    def partly(descriptor: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:50])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", partly)
        with pytest.raises(StoreFull):
            upload.write(b"y" * 100)
    assert _files(tmp_path) == []
    with pytest.raises(StorageError, match="over"):
        upload.commit()


def test_a_filesystem_without_hard_links_says_that_it_can_not_write_conditionally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="no hard links"):
        LocalStore(str(tmp_path)).put("m", b"x", if_absent=True)
    assert _files(tmp_path) == []


def test_no_upload_leaks_a_descriptor(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))

    def use() -> None:
        store.put("a/b", b"x")
        store.open_upload("a/c").abort()
        upload = store.open_upload("a/d")
        with pytest.raises(TypeError):
            upload.write(None)  # type: ignore[arg-type]
        for key in ("a", "a/b/c", "none"):
            with pytest.raises(StorageError):
                store.get(key, max_bytes=1)
        assert len(list(store.list(""))) == 1
        next(store.list(""))  # given up half-way

    use()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        use()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_rights_of_a_folder_are_the_system_s_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    store = LocalStore(str(tmp_path))
    store.put("m", b"x")
    monkeypatch.setattr(os, "open", fail)
    for call in (lambda: store.get("m", max_bytes=1), lambda: store.put("n", b""), lambda: list(store.list(""))):
        with pytest.raises(AccessDenied, match="Permission denied"):
            call()


@pytest.mark.parametrize("url", ["file://otherhost/folder", ""])
def test_a_url_that_is_no_folder_of_this_machine_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(StorageOptions(url=url))


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    open_store(StorageOptions(url=f"file://{tmp_path}/x")).put("m", b"x")
    assert _files(tmp_path / "x") == ["m"]
