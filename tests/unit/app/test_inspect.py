"""list and describe: what they say of a backup whose run is gone, and what they ask the store for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from kbr.app import inspect
from kbr.app.inspect import describe_backup, list_backups
from kbr.app.stores import storage_options
from kbr.app.trust import make_key
from kbr.cli.describe_cmd import describe_blocks
from kbr.cli.documents import DescribeDocument
from kbr.config import Config, load_config
from kbr.format.restore_state import RestoreState, RestoreStatus
from kbr.model import RunStatus
from kbr.repository.layout import LockPlace
from kbr.repository.lock_claim import LockClaim, LockTimes
from kbr.repository.publish import publish_manifest
from kbr.repository.restore_states import save_state
from kbr.repository.sealing import begin_backup
from kbr.storage import ObjectStore, StorageOptions, open_store
from tests.support.backups import manifest_of


def _config(folder: Path) -> Config:
    return load_config(None, overrides={"storage.url": str(folder)}, environ={}, mode=None)


def _store(folder: Path, *, running: tuple[str, ...], complete: tuple[str, ...] = ()) -> ObjectStore:
    store = open_store(StorageOptions(url=str(folder)))
    for name in running:
        running_one = manifest_of([], backup_id=name, status=RunStatus.RUNNING)
        publish_manifest(store, replace(running_one, finished_at_ms=None))
    for name in complete:
        publish_manifest(store, manifest_of([], backup_id=name))
    return store


def _hold(store: ObjectStore, place: LockPlace | str) -> LockClaim:
    claim = LockClaim(store, place, verb="backup", times=LockTimes())
    assert claim.attempt() is None
    return claim


def test_a_backup_that_says_it_is_running_is_told_from_one_whose_run_is_gone(tmp_path: Path) -> None:
    store = _store(tmp_path, running=("alive", "killed"), complete=("done",))
    _hold(store, "alive")
    found = {one["backup_id"]: one for one in list_backups(_config(tmp_path)).to_document()["backups"]}
    assert {name: one["lock_held"] for name, one in found.items()} == {"alive": True, "killed": False, "done": None}
    assert found["killed"]["status"] == "running"
    assert describe_backup(_config(tmp_path), "alive").to_document()["lock_held"] is True
    assert describe_backup(_config(tmp_path), "killed").to_document()["lock_held"] is False
    assert describe_backup(_config(tmp_path), "done").to_document()["lock_held"] is None


def test_only_locks_of_backups_that_say_they_are_running_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store(tmp_path, running=("killed",), complete=("a", "b", "c"))
    looked: list[str] = []
    monkeypatch.setattr(inspect, "is_lock_held", lambda _store, backup_id: looked.append(backup_id))
    list_backups(_config(tmp_path))
    assert looked == ["killed"]


def test_a_run_that_ends_between_the_looks_is_not_called_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path, running=("ending",))

    def ends(_store: object, backup_id: str) -> bool:
        publish_manifest(store, manifest_of([], backup_id=backup_id))
        return False

    monkeypatch.setattr(inspect, "is_lock_held", ends)
    (one,) = list_backups(_config(tmp_path)).to_document()["backups"]
    assert (one["status"], one["lock_held"]) == ("complete", None)


# -- restores -----------------------------------------------------------------------------


def _note(store: ObjectStore, restore_id: str, status: RestoreStatus) -> None:
    save_state(
        store,
        RestoreState(
            kbr_version="1", backup_id="b", restore_id=restore_id, cluster_id="c", status=status,
            created_at_ms=1, updated_at_ms=1, topics=(),
        ),
    )  # fmt: skip


def _restores(folder: Path) -> dict[str, tuple[str, bool | None]]:
    restores = describe_backup(_config(folder), "b").to_document()["restores"]
    return {one["restore_id"][0]: (one["status"], one["lock_held"]) for one in restores}


def test_a_restore_that_says_it_is_running_is_told_from_one_that_is_gone(tmp_path: Path) -> None:
    store = _store(tmp_path, running=(), complete=("b",))
    for name, status in (("a", RestoreStatus.RUNNING), ("d", RestoreStatus.RUNNING), ("f", RestoreStatus.COMPLETE)):
        _note(store, name * 32, status)
    claim = _hold(store, LockPlace("b", "a" * 32))
    assert _restores(tmp_path) == {"a": ("running", True), "d": ("running", False), "f": ("complete", None)}
    claim.release()
    assert _restores(tmp_path)["a"] == ("running", False)


def test_a_restore_that_ends_between_the_looks_is_not_called_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path, running=(), complete=("b",))
    _note(store, "a" * 32, RestoreStatus.RUNNING)

    def ends(_store: object, place: LockPlace) -> bool:
        _note(store, place.restore_id, RestoreStatus.COMPLETE)
        return False

    monkeypatch.setattr(inspect, "is_lock_held", ends)
    assert _restores(tmp_path) == {"a": ("complete", None)}


# -- what the configuration wants of a backup ---------------------------------------------


def test_describe_says_that_a_backup_is_not_signed_or_not_encrypted_as_it_is_wanted(tmp_path: Path) -> None:
    """It shows what verify and restore refuse: whoever looks has to be told, or takes it for the genuine one."""
    _store(tmp_path / "store", running=(), complete=("b",))
    make_key("signing", tmp_path / "signing.pem")

    def distrusted(**keys: object) -> str | None:
        overrides = {"storage.url": str(tmp_path / "store"), **{name.replace("__", "."): value for name, value in keys.items()}}
        config = load_config(None, overrides=overrides, environ={}, mode=None)
        document = describe_backup(config, "b").to_document()
        assert (document["backup_id"], document["encrypted"]) == ("b", False)
        last = describe_blocks(cast(DescribeDocument, document))[-1]
        assert (document["distrusted"] is not None) == str(last).startswith("Warning: only shown, and refused")
        said: str | None = document["distrusted"]
        return said

    assert distrusted() is None
    assert "the manifest is not signed" in (distrusted(signing__public_keys=str(tmp_path / "signing.pem.pub")) or "")
    assert "is not encrypted" in (distrusted(encryption__key=bytes(32).hex()) or "")
    assert distrusted(encryption__key=bytes(32).hex(), encryption__accept_plain=True) is None


def test_describe_says_that_a_backup_is_encrypted(tmp_path: Path) -> None:
    overrides = {"storage.url": str(tmp_path), "encryption.key": bytes(32).hex()}
    config = load_config(None, overrides=overrides, environ={}, mode=None)
    store = open_store(storage_options(config))
    begin_backup(store, "b")
    publish_manifest(store, manifest_of([], backup_id="b"))
    document = describe_backup(config, "b").to_document()
    assert (document["encrypted"], document["distrusted"]) == (True, None)
    assert "Encrypted: yes" in describe_blocks(cast(DescribeDocument, document))
