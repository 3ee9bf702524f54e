"""Another tool's backup is found by what it holds, and nothing is written where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbr.app.backup_run import run_backup
from kbr.app.groups import refuse_foreign_groups
from kbr.backup.options import BackupOptions
from kbr.backup.previous import load_previous
from kbr.cli.stop import StopSignals
from kbr.config import load_config
from kbr.errors import AccessDenied, BackupExists, GroupsMissing, KbrError, PreflightRefused
from kbr.format.documents import SourceInfo
from kbr.repository.catalog import UNREADABLE, Catalog
from kbr.repository.foreign import ReadOnlyStore, made_by, refuse_foreign
from kbr.repository.groups import load_snapshot
from tests.support.backups import RecordingStore, store_backup
from tests.support.kbak import OsoBackup, look, put_files, rows_of

WRITES = {"put", "open_upload", "write", "commit", "delete"}


def foreign_store(*, backup_id: str = "daily", groups: bool = True) -> RecordingStore:
    store = RecordingStore()
    one = OsoBackup(store.put, backup_id=backup_id)
    one.topic("orders", 2)
    one.partition("orders", 1, [rows_of(0, 10), rows_of(10, 10)])
    if groups:
        one.groups({"readers": {"orders": {1: 7}}})
    one.finish()
    store.calls.clear()
    return store


def test_backups_of_both_kinds_are_listed_beside_each_other() -> None:
    store = foreign_store()
    store_backup(store)
    broken = OsoBackup(store.put, backup_id="broken", more={"compression": "brotli"})
    broken.finish()
    found = {one.backup_id: one for one in Catalog(store).summaries()}
    assert found["daily"].made_by == "OSO kafka-backup"
    assert (found["daily"].record_count, found["daily"].segment_count, found["daily"].status) == (20, 2, "complete")
    assert found["nightly"].made_by == ""
    assert found["broken"].status == UNREADABLE
    assert "compression" in found["broken"].error
    # as far as first and last records tell
    stamps = [rows[at].timestamp for rows in (rows_of(0, 10), rows_of(10, 10)) for at in (0, -1)]
    assert (found["daily"].min_timestamp, found["daily"].max_timestamp) == (min(stamps), max(stamps))


def test_whose_a_backup_is_costs_kbrs_own_one_short_read() -> None:
    store = foreign_store()
    store_backup(store)
    store.calls.clear()
    assert made_by(store, "daily") == "OSO kafka-backup"
    assert made_by(store, "nothing") == ""
    store.calls.clear()
    assert made_by(store, "nightly") == ""
    assert [operation for operation, _ in store.calls] == ["head", "read_range"]
    assert made_by(foreign_store(groups=False), "daily")


def test_a_backup_of_the_other_tool_is_found_without_a_manifest_or_with_a_damaged_one() -> None:
    store = foreign_store()
    data = store.data("daily/manifest.json")
    store.delete("daily/manifest.json")  # its first run has not written it yet
    assert made_by(store, "daily") == "OSO kafka-backup"
    for damaged in (b"", b"{", data[:-20], data.replace(b"topics", b"tropics")):
        store.put("daily/manifest.json", damaged)
        assert made_by(store, "daily") == "OSO kafka-backup"
    store_backup(store)
    store.delete("nightly/manifest.json")
    assert made_by(store, "nightly") == ""


def test_nobody_writes_there() -> None:
    store = foreign_store()
    with pytest.raises(BackupExists, match="made by OSO kafka-backup") as caught:
        refuse_foreign(store, "daily")
    assert caught.value.exit_code == 13
    source = SourceInfo(cluster_id="c", brokers=(), isolation_level="read_committed")
    options = BackupOptions(backup_id="daily", include=("*",))
    with pytest.raises(BackupExists, match="never writes to it"):
        load_previous(store, options, source)
    with pytest.raises(PreflightRefused, match="groups of a backup that was made by"):
        refuse_foreign_groups("OSO kafka-backup")
    refuse_foreign_groups("")
    assert not WRITES.intersection(operation for operation, _ in store.calls)


def test_a_backup_into_it_is_refused_before_its_lock_is_written(tmp_path: Path) -> None:
    one = OsoBackup(put_files(tmp_path))
    one.topic("orders", 1)
    one.partition("orders", 0, [rows_of(0, 10)])
    one.finish()
    before = look(tmp_path)
    config = load_config(
        None,
        environ={},
        mode="backup",
        overrides={
            "storage.url": str(tmp_path),
            "backup_id": "daily",
            "source.bootstrap_servers": ["127.0.0.1:1"],
            "source.topics.include": ["*"],
        },
    )
    for dry_run in (True, False):
        with pytest.raises(BackupExists, match="made by OSO kafka-backup"):
            run_backup(config, dry_run=dry_run, progress=None, stop=StopSignals())
        assert look(tmp_path) == before


def test_a_view_reads_and_refuses_every_write() -> None:
    inner = foreign_store()
    view = ReadOnlyStore(inner, "another tool")
    key = "daily/manifest.json"
    assert view.get(key, max_bytes=10**6) == inner.data(key)
    assert view.read_range(key, 0, 3) == inner.data(key)[:3]
    assert view.head(key).size_bytes == len(inner.data(key))
    assert [one.key for one in view.list("daily/")] == inner.stored_keys()
    assert (view.url, view.properties) == (inner.url, inner.properties)
    view.check()
    view.close()
    for write in (
        lambda: view.put("daily/x", b""),
        lambda: view.open_upload("daily/x"),
        lambda: view.delete(key),
        lambda: view.remove_leftovers("daily"),
    ):
        with pytest.raises(AccessDenied, match="nothing is written to a backup of another tool"):
            write()
    assert not WRITES.intersection(operation for operation, _ in inner.calls)


def test_groups_can_be_read() -> None:
    snapshot = load_snapshot(foreign_store(), "daily")
    assert [one.group for one in snapshot.groups] == ["readers"]
    assert snapshot.backup_id == "daily"
    with pytest.raises(GroupsMissing):
        load_snapshot(foreign_store(groups=False), "daily")


def test_a_renamed_backup_is_named_as_such() -> None:
    store = foreign_store()
    store.put("other/manifest.json", store.data("daily/manifest.json"))
    with pytest.raises(KbrError, match="manifest of backup daily"):
        Catalog(store).load("other")
