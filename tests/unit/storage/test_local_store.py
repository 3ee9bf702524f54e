"""The folder store under the faults of a real disk."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbr.errors import AccessDenied, ConfigError, KbrError, PreconditionFailed, StorageError, StoreFull, UsageError
from kbr.storage import StorageOptions, local_upload, open_store
from kbr.storage.base import ObjectInfo, Upload
from kbr.storage.local import LocalStore
from kbr.storage.local_upload import FileUpload, WholeSync


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def _synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all that is synced from now on."""
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return synced


def test_objects_and_folders_are_private(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "root"))
    store.put("a/b", b"x")
    assert stat.S_IMODE((tmp_path / "root/a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "root/a").stat().st_mode) == 0o700


@pytest.mark.fault("S7", "errors of write, fsync and rename", promise=1)
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


@pytest.mark.fault("S7", "a failed fsync", promise=1)
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
    synced = _synced(monkeypatch)
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


def _without_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_upload, "_rename_if_absent", lambda *_arguments: False)


def test_where_renames_always_replace_a_link_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_renameat2(monkeypatch)
    store = LocalStore(str(tmp_path))
    store.put("m", b"first", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("m", b"second", if_absent=True)
    assert store.get("m", max_bytes=9) == b"first"
    assert store.properties.honours_if_absent
    assert _files(tmp_path) == ["m"]


def test_a_link_that_the_file_server_had_made_already_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: the answer was lost, and the kernel asked again."""
    _without_renameat2(monkeypatch)
    link = os.link

    def twice(*arguments: object, **named: object) -> None:
        link(*arguments, **named)  # type: ignore[arg-type]
        link(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", twice)
    store = LocalStore(str(tmp_path))
    store.put("m", b"first", if_absent=True)
    assert store.get("m", max_bytes=9) == b"first"
    assert _files(tmp_path) == ["m"]


def test_a_filesystem_without_a_conditional_rename_or_links_is_looked_at_first_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    _without_renameat2(monkeypatch)
    monkeypatch.setattr(os, "link", fail)
    store = LocalStore(str(tmp_path))
    store.put("m", b"first", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("m", b"second", if_absent=True)
    assert store.get("m", max_bytes=9) == b"first"
    assert store.properties.honours_if_absent is False
    assert _files(tmp_path) == ["m"]


@pytest.mark.parametrize("has_renameat2", [True, False])
@pytest.mark.parametrize("count", [3, 20])
def test_of_uploads_committed_together_none_takes_the_place_of_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, has_renameat2: bool
) -> None:
    if not has_renameat2:
        _without_renameat2(monkeypatch)
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, count, if_absent=True)
    store.put("b/topics/t/partition=1/segment", b"another's")
    results = store.commit_together(uploads)
    assert isinstance(results[1], PreconditionFailed)
    assert all(isinstance(result, ObjectInfo) for number, result in enumerate(results) if number != 1)
    assert store.get("b/topics/t/partition=1/segment", max_bytes=9) == b"another's"
    assert len(_files(tmp_path)) == count


def test_files_that_a_dead_writer_left_are_removed_and_those_being_written_are_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from kbr.storage.local import LocalStore; store = LocalStore(sys.argv[1]);"
        "[store.open_upload(f'b/topics/t/{n}').write(b'x') for n in range(3)]; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    store = LocalStore(str(tmp_path))
    ours = store.open_upload("b/m")
    ours.write(b"x")
    others = store.open_upload("c/m")
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    (tmp_path / "b/.kbr-tmp-link").symlink_to(outside)
    (tmp_path / "b/.kbr-tmp-folder").mkdir()
    os.mkfifo(tmp_path / "b/.kbr-tmp-pipe")
    assert len(list((tmp_path / "b").iterdir())) == 7
    assert store.remove_leftovers("b") == 3
    assert store.remove_leftovers("b") == 0
    ours.commit()
    others.commit()
    assert [info.key for info in store.list("")] == ["b/m", "c/m", "outside"]
    assert outside.read_bytes() == b"x"


def test_a_link_in_place_of_the_folder_is_not_followed_to_its_temporary_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/.kbr-tmp-0123456789abcdef").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/b").symlink_to(tmp_path / "outside")
    assert LocalStore(str(tmp_path / "root")).remove_leftovers("b") == 0
    assert len(_files(tmp_path / "outside")) == 1
    assert "symbolic link" in caplog.text


def test_a_writer_whose_new_file_is_taken_for_abandoned_begins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who clears up comes between the making of the file and its lock."""
    store = LocalStore(str(tmp_path))
    other = LocalStore(str(tmp_path))
    flock = fcntl.flock
    removed = []

    def late(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(0)
            removed[0] = other.remove_leftovers("b")
        flock(descriptor, how)

    (tmp_path / "b").mkdir()
    monkeypatch.setattr(fcntl, "flock", late)
    store.put("b/m", b"x")
    assert removed == [1]
    assert store.get("b/m", max_bytes=1) == b"x"
    assert _files(tmp_path) == ["m"]


@pytest.mark.parametrize(("age_s", "count"), [(3_600, 0), (90_000, 1)])
def test_where_the_filesystem_knows_no_locks_only_old_temporary_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: int, count: int
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    store = LocalStore(str(tmp_path))
    store.put("b/m", b"x")
    left = tmp_path / "b/.kbr-tmp-0123456789abcdef"
    left.write_bytes(b"x")
    then = time.time() - age_s
    os.utime(left, (then, then))
    assert store.remove_leftovers("b") == count
    assert left.exists() is not bool(count)


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
    gc.collect()  # what other tests have left is not to be closed meanwhile
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


# -- many at once -------------------------------------------------------------------------


def _uploads(store: LocalStore, count: int, *, if_absent: bool = False) -> list[Upload]:
    uploads = []
    for number in range(count):
        upload = store.open_upload(f"b/topics/t/partition={number}/segment", if_absent=if_absent)
        upload.write(b"%d" % number)
        uploads.append(upload)
    return uploads


@pytest.mark.parametrize("count", [1, 3, 40])
def test_uploads_committed_together_are_all_there_and_no_temp_file_is_left(tmp_path: Path, count: int) -> None:
    store = LocalStore(str(tmp_path / "root"))
    infos = store.commit_together(_uploads(store, count))
    assert [info.key for info in infos if isinstance(info, ObjectInfo)] == [
        f"b/topics/t/partition={number}/segment" for number in range(count)
    ]
    assert [store.get(f"b/topics/t/partition={number}/segment", max_bytes=9) for number in range(count)] == [
        b"%d" % number for number in range(count)
    ]
    assert len(_files(tmp_path)) == count


def test_one_upload_that_fails_leaves_those_committed_with_it_alone(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, 20)
    uploads[3].abort()
    (tmp_path / "b/topics/t").mkdir(parents=True)
    (tmp_path / "b/topics/t/partition=5").write_bytes(b"in its way")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "b/topics/t/partition=7").symlink_to(outside)
    results = store.commit_together(uploads)
    assert [number for number, result in enumerate(results) if not isinstance(result, ObjectInfo)] == [3, 5, 7]
    assert "over" in str(results[3])
    assert "symbolic link" in str(results[7])
    assert _files(outside) == []
    assert len(list(store.list("b/"))) == 18  # 17, and what is in the way
    assert not list(tmp_path.rglob(".kbr-tmp-*"))


def test_a_file_of_another_size_is_not_committed_with_the_others(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, 10)
    one = uploads[4]
    assert isinstance(one, FileUpload)
    os.truncate(f"/proc/self/fd/{one._descriptor}", 7)
    results = store.commit_together(uploads)
    assert [number for number, result in enumerate(results) if not isinstance(result, ObjectInfo)] == [4]
    assert "7 bytes, 1 were written" in str(results[4])


def test_where_a_sync_of_the_whole_filesystem_fails_each_file_and_folder_is_synced_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, 10)
    calls: list[bool] = []

    def refuse(self: WholeSync, _count: int) -> bool:
        calls.append(True)
        self._trusted = False
        return False

    monkeypatch.setattr(WholeSync, "sync", refuse)
    synced = _synced(monkeypatch)
    assert all(isinstance(result, ObjectInfo) for result in store.commit_together(uploads))
    assert calls
    folders = [str(tmp_path / f"b/topics/t/partition={number}") for number in range(10)]
    assert set(folders) <= set(synced)
    # new folders' own names too, and each after what it holds
    assert synced.index(str(tmp_path / "b/topics/t")) > max(map(synced.index, folders))
    assert str(tmp_path / "b/topics") in synced
    assert str(tmp_path / "b") in synced
    assert sum(".kbr-tmp-" in name for name in synced) == 10


def test_what_lies_on_a_filesystem_mounted_below_is_synced_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, 10)
    monkeypatch.setattr(WholeSync, "covers", lambda _self, _status: False)
    synced = _synced(monkeypatch)
    assert all(isinstance(result, ObjectInfo) for result in store.commit_together(uploads))
    assert sum(".kbr-tmp-" in name for name in synced) == 10
    assert {str(tmp_path / f"b/topics/t/partition={number}") for number in range(10)} <= set(synced)
    assert str(tmp_path / "b/topics/t") in synced


def test_a_folder_that_somebody_else_has_just_made_is_made_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    store = LocalStore(str(tmp_path))
    synced = _synced(monkeypatch)
    store.put("a/b/c", b"x")
    assert str(tmp_path) in synced
    assert str(tmp_path / "a") in synced
    synced.clear()
    store.put("a/b/d", b"x")
    assert [name for name in synced if ".kbr-tmp-" not in name] == [str(tmp_path / "a/b")]


def test_a_folder_that_can_not_be_opened_for_a_batch_is_each_ones_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    uploads = _uploads(store, 10)

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(store, "open_folders", fail)
    results = store.commit_together(uploads)
    assert all(isinstance(result, StorageError) and "Too many open files" in str(result) for result in results)
    assert not list(tmp_path.rglob(".kbr-tmp-*"))


def test_a_failed_fsync_of_one_file_fails_only_that_one_and_a_failed_fsync_of_a_folder_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    monkeypatch.setattr(WholeSync, "sync", lambda _self, _count: False)
    real = os.fsync
    broken = [".kbr-tmp-"]

    def fail(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if broken and broken[0] in name:
            broken.clear()
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    results = store.commit_together(_uploads(store, 10))
    assert sum(isinstance(result, ObjectInfo) for result in results) == 9
    broken.append("partition=3")
    results = store.commit_together(_uploads(store, 10))
    assert not any(isinstance(result, ObjectInfo) for result in results)
    assert not list(tmp_path.rglob(".kbr-tmp-*"))


@pytest.mark.fault("S7", "a failed sync of the whole filesystem", promise=1)
def test_a_sync_that_failed_is_never_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = WholeSync(str(tmp_path))
    assert whole.sync(1000)  # the tests' own filesystem is one of those that are known

    class Library:
        calls = 0

        def syncfs(self, _descriptor: int) -> int:
            Library.calls += 1
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_arguments, **_named: Library())
    assert not whole.sync(1)
    assert not whole.sync(1)
    assert Library.calls == 1


def test_committing_together_leaks_no_descriptor(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))

    def use() -> None:
        uploads = _uploads(store, 20)
        uploads[1].abort()
        store.commit_together(uploads)

    use()
    gc.collect()  # what earlier tests left open would be closed in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    assert len(os.listdir("/proc/self/fd")) == before
