"""Any filesystem of fsspec as a store: what its errors mean, and what is loaded when."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kbr.errors import (
    AccessDenied,
    ConfigError,
    KbrError,
    PreconditionFailed,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from kbr.storage import StorageOptions, open_store
from kbr.storage.filesystem import FilesystemStore
from kbr.storage.fsspec_store import open_filesystem
from kbr.timing import Backoff
from tests.support.clocks import FakeClock


def _store(folder: Path, clock: FakeClock | None = None) -> tuple[FilesystemStore, object]:
    options = StorageOptions(url=f"local://{folder}", deadline_s=30)
    filesystem, root = open_filesystem(options)
    made = FilesystemStore(options, filesystem, root, clock=clock or FakeClock(), backoff=Backoff(base_s=0.1, cap_s=1))
    return made, filesystem


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(errno.EACCES, "denied"), AccessDenied),
        (OSError(errno.EROFS, "read-only"), AccessDenied),
        (OSError(errno.ENOSPC, "no space"), StoreFull),
        (FileNotFoundError(errno.ENOENT, "no such file"), StorageError),
        (OSError(errno.ENAMETOOLONG, "too long"), StorageError),
        (NotImplementedError(), StorageError),  # what fsspec raises where a filesystem lacks an operation
    ],
    ids=lambda one: getattr(one, "__name__", repr(one)),
)
def test_what_cannot_get_better_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[KbrError]
) -> None:
    clock, tries = FakeClock(), []
    store, filesystem = _store(tmp_path, clock)

    def fail(*_arguments: object, **_named: object) -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(filesystem, "pipe_file", fail)
    with pytest.raises(kind):
        store.put("m", b"x")
    assert tries == [1]
    assert clock.monotonic() == 0
    assert list(tmp_path.iterdir()) == []


def test_the_network_s_errors_are_tried_again_until_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    store, filesystem = _store(tmp_path, clock)

    def fail(*_arguments: object, **_named: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(filesystem, "pipe_file", fail)
    with pytest.raises(StoreUnavailable, match="tries in"):
        store.put("m", b"x")
    assert 25 < clock.monotonic() <= 30


def test_an_upload_that_failed_leaves_nothing_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    store, filesystem = _store(tmp_path / "root")
    upload = store.open_upload("a/m")
    upload.write(b"x" * 1000)
    assert len(list(spool.iterdir())) == 1

    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "mv", fail)
        with pytest.raises(StoreFull):
            upload.commit()
    assert list(spool.iterdir()) == []
    assert [path for path in (tmp_path / "root").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("is_upload", [False, True])
@pytest.mark.parametrize("there", [b"the bytes", b"other byt", b"more than the bytes"])
def test_a_conditional_write_whose_reply_was_lost_is_known_as_ours_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes, is_upload: bool
) -> None:
    store, filesystem = _store(tmp_path, FakeClock())
    move = filesystem.mv

    def lose(source: str, target: str) -> None:
        move(source, target)
        (tmp_path / "m").write_bytes(there)
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    def write() -> None:
        if not is_upload:
            store.put("m", b"the bytes", if_absent=True)
            return
        upload = store.open_upload("m", if_absent=True)
        upload.write(b"the bytes")
        upload.commit()

    monkeypatch.setattr(filesystem, "mv", lose)
    if there == b"the bytes":
        write()
    else:
        with pytest.raises(PreconditionFailed):
            write()
    assert (tmp_path / "m").read_bytes() == there


@pytest.mark.parametrize("there", [b"the bytes", b"other byt", None])
def test_an_object_store_s_package_that_tries_again_by_itself_finds_our_own_object(
    monkeypatch: pytest.MonkeyPatch, there: bytes | None
) -> None:
    """Azure's does: what it tells after our first try may be of its own second one."""
    options = StorageOptions(url=f"memory://tries-itself-{(there or b'gone')[:5].hex()}", deadline_s=30)
    filesystem, root = open_filesystem(options)
    store = FilesystemStore(options, filesystem, root, clock=FakeClock())
    write, tries = filesystem.pipe_file, []

    def taken(path: str, data: bytes, mode: str) -> None:
        tries.append(mode)
        if there is None and len(tries) == 2:
            write(path, data)  # the one that was there is gone by now
            return
        if there is not None:
            write(path, there)
        raise FileExistsError(path)

    monkeypatch.setattr(filesystem, "pipe_file", taken)
    if there == b"other byt":
        with pytest.raises(PreconditionFailed):
            store.put("m", b"the bytes", if_absent=True)
    else:
        store.put("m", b"the bytes", if_absent=True)
    assert store.get("m", max_bytes=9) == (there or b"the bytes")
    assert tries == ["create"] * (2 if there is None else 1)
    assert store.properties.honours_if_absent is True


def test_temporary_files_a_day_old_are_removed_in_all_folders_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, filesystem = _store(tmp_path, FakeClock())
    now = FakeClock().now_ms() / 1000
    for name, age_s in (("b/.kbr-tmp-1", 90_000), ("b/t/p/.kbr-tmp-2", 90_000), ("b/t/.kbr-tmp-3", 3600), ("b/m", 90_000), ("c/.kbr-tmp-4", 90_000)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (now - age_s, now - age_s))
    assert store.remove_leftovers("b") == 2
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".kbr-tmp-3", ".kbr-tmp-4", "m"]


def test_leftovers_that_can_not_be_removed_are_told_and_fail_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, filesystem = _store(tmp_path, FakeClock())

    def fail(*_arguments: object, **_named: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    store.put("b/m", b"x")
    monkeypatch.setattr(filesystem, "find", fail)
    assert store.remove_leftovers("b") == 0
    assert "Permission denied" in caplog.text


def test_a_missing_package_is_told_with_what_installs_it() -> None:
    with pytest.raises(ConfigError, match="a package is missing for oss://bucket/x") as caught:
        open_store(StorageOptions(url="oss://bucket/x"))
    assert caught.value.hint == "pip install ossfs"


def test_an_option_that_the_filesystem_does_not_take_is_named() -> None:
    """Before anybody is connected to: nothing listens on that port."""
    options = StorageOptions(url="sftp://127.0.0.1:1/x", extra={"user_name": "kbr", "password": "hunter2-hunter2"})
    with pytest.raises(ConfigError, match=r"it takes no storage\.options\.user_name") as caught:
        open_store(options)
    assert "hunter2" not in f"{caught.value!r}{caught.value.hint}"


def test_a_password_in_a_url_shows_nowhere() -> None:
    options = StorageOptions(url="ftp://user:hunter2@127.0.0.1:1/x", check_deadline_s=0.1)
    assert "hunter2" not in repr(options)
    with pytest.raises(StoreUnavailable) as caught:
        open_store(options)
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.context}"
    assert "ftp://127.0.0.1:1/x" in str(caught.value)


def test_folders_and_memory_need_no_library(tmp_path: Path) -> None:
    """s3fs takes 200 ms to import."""
    code = (
        "import sys; from kbr.storage import StorageOptions, open_store\n"
        f"for url in ({str(tmp_path)!r}, 'memory://x'):\n"
        "    open_store(StorageOptions(url=url)).put('m', b'x')\n"
        "sys.exit(bool({'fsspec', 's3fs', 'botocore', 'aiohttp', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
