"""What a restore that is to put groups sees to before it sends anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from kbr.app.restore_run import run_restore
from kbr.app.rollback_file import check_new_file, read_rollback, write_new_file
from kbr.config import load_config
from kbr.errors import ClusterUnavailable, ConfigError, GroupsUnreadable, KbrError, PreflightRefused
from kbr.format.group_rollback import GroupRollback, dump_rollback
from kbr.format.groups import GroupSnapshot
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.repository.groups import save_snapshot
from kbr.repository.publish import publish_manifest
from kbr.storage import StorageOptions, open_store
from tests.support.backups import manifest_of


def _rollback(backup_id: str) -> bytes:
    return dump_rollback(
        GroupRollback(
            kbr_version="1", backup_id=backup_id, restore_id="0" * 32, cluster_id="c", created_at_ms=1, groups=()
        )
    )


def test_a_file_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    check_new_file(file, "b")
    write_new_file(file, b"x")
    assert file.read_bytes() == b"x"
    with pytest.raises(PreflightRefused, match="File exists; nothing was committed"):
        write_new_file(file, b"y")
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize("content", [b"", b"a letter", _rollback("another"), b"x" * 100])
def test_a_file_that_is_there_is_refused_unless_it_is_of_an_earlier_run(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "before.json"
    file.write_bytes(content)
    with pytest.raises(PreflightRefused, match=r"before\.json: it exists; nothing was done") as caught:
        check_new_file(file, "b")
    assert "in a folder that may be written to" in caught.value.hint
    file.write_bytes(_rollback("b"))
    check_new_file(file, "b")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightRefused, match="there is no such folder"):
        check_new_file(tmp_path / "none" / "before.json", "b")
    (tmp_path / "file").touch()
    with pytest.raises(PreflightRefused, match="there is no such folder"):
        check_new_file(tmp_path / "file" / "before.json", "b")
    broken = tmp_path / "link"
    broken.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PreflightRefused, match="it exists"):
        check_new_file(broken, "b")


def test_a_relative_name_is_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_new_file(Path("before.json"), "b")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("changes", "file", "error", "words"),
    [
        ({"restore.offset_map": False}, None, ConfigError, "restore.offset_map is off"),
        ({}, "none/before.json", PreflightRefused, "there is no such folder"),
        # all is well: the target is asked, and is not there
        ({}, "before.json", ClusterUnavailable, "127.0.0.1:1"),
        ({"restore.offset_map": False, "restore.consumer_groups": None}, None, ClusterUnavailable, "127.0.0.1:1"),
    ],
)
def test_a_restore_that_could_not_put_its_groups_is_refused_before_the_target_is_asked(
    tmp_path: Path, dry_run: bool, changes: dict[str, Any], file: str | None, error: type[KbrError], words: str
) -> None:
    folder = tmp_path / "store"
    store = open_store(StorageOptions(url=str(folder)))
    publish_manifest(store, manifest_of([], backup_id="b"))
    group = GroupOffsets(group="g", kind="classic", state="Empty", offsets={TopicPartition("t", 0): CommittedOffset(offset=1)})
    save_snapshot(
        store,
        GroupSnapshot(
            kbr_version="1", backup_id="b", cluster_id="s", captured_at_ms=1, log_ends={"t": (1,)}, other_offsets=0, unread={},
            groups=(group,),
        ),
    )  # fmt: skip
    config = load_config(
        None,
        overrides={
            "backup_id": "b", "storage.url": str(folder), "target.bootstrap_servers": "127.0.0.1:1",
            "target.deadline_ms": 1000, "restore.consumer_groups": True, **changes,
        },
        environ={},
        mode="restore",
    )  # fmt: skip
    with pytest.raises(error, match=words):
        run_restore(
            config,
            dry_run=dry_run,
            progress=None,
            stop=cast("Any", None),
            rollback_file=None if file is None else tmp_path / file,
        )


def test_a_device_is_no_earlier_file_and_is_not_read_for_ever() -> None:
    with pytest.raises(PreflightRefused, match="it exists"):
        check_new_file(Path("/dev/zero"), "b")
    with pytest.raises(GroupsUnreadable, match="/dev/zero: more than"):
        read_rollback(Path("/dev/zero"))


def test_what_is_kept_is_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_new_file(tmp_path / "kept.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o600
