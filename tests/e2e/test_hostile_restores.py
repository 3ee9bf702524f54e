"""Hostile manifests, indexes and groups' files in what goes to a cluster: windows, plans and the way back of groups.

As tests/e2e/test_hostile_backups.py, whose table has the commands that need no cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import (
    BACKUP_ID,
    Limited,
    edit_document,
    reseal,
    run_limited,
    sealed,
    thrift_list_bomb,
    write_backup,
    write_index_of,
)
from tests.support.kafka import KafkaHarness

Record = Callable[[str, object], None]
Document = dict[str, Any]

MB = 10**6
LIMIT_BYTES = 300 * MB
DEADLINE_S = 60
INT64_MAX = 2**63 - 1
RESTORE_ID = "0" * 32
ROLLBACK = f"restores/{RESTORE_ID}/groups-rollback-{1_700_000_000_000:013d}.json"
#: Of the good backup, 36 records of each partition are not after this.
WINDOW = ("--from-timestamp", "2020-01-01T00:00:00Z", "--to-timestamp", "2023-11-14T22:13:20.005Z")
DRY = ("--dry-run",)


def _to_the_last_offset(document: Document) -> None:
    partition = document["topics"][1]["partitions"][0]
    partition["segments"][-1]["next_offset"] = INT64_MAX
    partition.update(next_offset=INT64_MAX, end_offset_exclusive=INT64_MAX, high_watermark=INT64_MAX)


def _all_times(document: Document) -> None:
    for one in document["topics"][1]["partitions"][0]["segments"]:
        one.update(min_timestamp=-(2**63), max_timestamp=INT64_MAX, end_timestamp=INT64_MAX)


def _large(document: Document) -> None:
    for one in document["topics"][1]["partitions"][0]["segments"]:
        one.update(raw_bytes=2**62, max_record_bytes=2**62)


def manifest(change: Callable[[Document], None]) -> Callable[[Path], None]:
    return lambda store: edit_document(write_backup(store) / "manifest.json", change)


def groups_of_arrays(store: Path) -> None:
    head = b'{"format":"kbr-groups","format_version":1,"groups":['
    (write_backup(store) / "groups.json").write_bytes(reseal(head + b"[]," * (5 * 10**6) + b"0]}"))


#: By row: what writes it, the words of the restore, its exit code and what it has to name.
RESTORES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int, str]] = {
    "offsets to the end of int64": (manifest(_to_the_last_offset), WINDOW, 4, "its index says next_offset 220"),
    "timestamps of all times": (manifest(_all_times), WINDOW, 4, "its index says end_timestamp"),
    "blocks and records of 4 EiB": (manifest(_large), DRY, 13, "max.message.bytes"),
    "2 G partitions": (
        manifest(lambda document: document["topics"][1].update(partition_count=2**31 - 1)), DRY, 4, "partition_count says 2147483647",
    ),
    "groups: empty arrays": (groups_of_arrays, (*DRY, "--groups"), 4, "groups.json"),
    "block index: 200 million row groups in 20 bytes": (
        lambda store: write_index_of(store, thrift_list_bomb(4, 200_000_000)), WINDOW, 0, "the block index is not used",
    ),
}  # fmt: skip


def _check(done: Limited, exit_code: int, names: str) -> None:
    shown = f"exit {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert not done.timed_out, shown
    assert "Traceback" not in done.stderr, shown
    assert done.returncode == exit_code, shown
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == (exit_code != 0), shown
    assert names in done.stdout + done.stderr, shown
    assert len(done.stderr) < 10_000, shown
    assert done.peak_bytes <= LIMIT_BYTES, f"{done.peak_bytes / MB:.0f} MB\n{shown}"


@pytest.mark.fault("H3", "a window and a plan over manifests, groups and indexes that lie", promise=9)
@pytest.mark.parametrize("row", RESTORES)
def test_a_window_and_a_plan_over_hostile_facts_are_bounded_and_told(
    kafka: KafkaHarness, row: str, tmp_path: Path, record_property: Record
) -> None:
    make, words, exit_code, names = RESTORES[row]
    column = "restore --dry-run" if "--dry-run" in words else "restore, a window"
    record_property("compatibility", {"table": "hostile input", "row": row, "column": column})
    store = tmp_path / "store"
    store.mkdir()
    make(store)
    target = kafka.topic_name("hostile-window")
    done = run_limited(
        "restore", "-b", kafka.bootstrap, "--backup-id", BACKUP_ID, "--storage", str(store), "-t", "orders",
        "--topic-map", f"orders={target}", "--set", "restore.replication_factor=1", "--topic-config", "retention.ms=-1", *words,
        folder=tmp_path / "run", deadline_s=DEADLINE_S,
    )  # fmt: skip
    _check(done, exit_code, names)
    if exit_code or "--dry-run" in words:
        assert not kafka.topic_exists(target)
    else:
        assert [len(records) for records in kafka.read_all(target)] == [36, 36]


# -- the way back of groups -----------------------------------------------------------------


def _offsets(offset: int, metadata: dict[str, str]) -> Document:
    return {"topics": [{"topic": "orders", "partitions": [0], "offsets": [offset], "leader_epochs": [-1], "metadata": metadata}]}


def rollback_of(cluster_id: str, metadata: str = "") -> bytes:
    """The former offset of one group."""
    group = {
        "group": "readers", "existed": True, "before": _offsets(5, {"0": metadata} if metadata else {}), "applied": _offsets(9, {}),
    }  # fmt: skip
    head = {"format": "kbr-groups-rollback", "format_version": 1, "kbr_version": "1", "backup_id": BACKUP_ID, "restore_id": RESTORE_ID}
    return sealed({**head, "cluster_id": cluster_id, "created_at": 1, "groups": [group]})


def rollback_of_arrays(_cluster_id: str) -> bytes:
    """30 MB, which such a file may have."""
    return reseal(b'{"format":"kbr-groups-rollback","format_version":1,"groups":[' + b"[]," * 10**7 + b"0]}")


#: By row: the file's bytes for a cluster's id (None: it is a device), the exit code and what the error has to name.
ROLLBACKS: dict[str, tuple[Callable[[str], bytes] | None, int, str]] = {
    "groups' former offsets: empty arrays": (rollback_of_arrays, 4, "empty, cut off or damaged"),
    "groups' former offsets: a device": (None, 4, "/dev/zero"),
    "groups' former offsets: a cluster's id of 1 MB": (lambda _id: rollback_of("\x1b[2J" + "c" * MB), 13, "not of the target"),
    "groups' former offsets: metadata of 20 MB": (lambda cluster_id: rollback_of(cluster_id, "m" * 20 * MB), 4, "metadata has more"),
}


@pytest.mark.fault("H3", "files of groups' former offsets", promise=9)
@pytest.mark.parametrize("row", ROLLBACKS)
def test_a_hostile_file_of_former_offsets_is_bounded_and_told(
    kafka: KafkaHarness, row: str, tmp_path: Path, record_property: Record
) -> None:
    record_property("compatibility", {"table": "hostile input", "row": row, "column": "groups rollback"})
    make, exit_code, names = ROLLBACKS[row]
    store, file = tmp_path / "store", tmp_path / "former.json"
    write_backup(store)
    if make is None:
        file = Path("/dev/zero")
    else:
        file.write_bytes(make(_cluster_id(kafka)))
    _check(_roll_back(kafka, store, "--file", str(file)), exit_code, names)
    assert not _has_group(kafka)


@pytest.mark.fault("H3", "groups' former offsets in a backup", promise=9)
def test_hostile_former_offsets_in_a_backup_are_bounded_and_told(kafka: KafkaHarness, tmp_path: Path, record_property: Record) -> None:
    """A gigabyte that takes no place on the disk; then a link out of the store."""
    row = "groups' former offsets: 1 GiB in the backup"
    record_property("compatibility", {"table": "hostile input", "row": row, "column": "groups rollback"})
    store = tmp_path / "store"
    path = write_backup(store) / ROLLBACK
    _write_notes(path.parent, _cluster_id(kafka))
    path.touch()
    os.truncate(path, 2**30)
    _check(_roll_back(kafka, store), 4, path.name)
    path.unlink()
    path.symlink_to("/dev/zero")
    _check(_roll_back(kafka, store), 10, "there is nothing to go back to")
    assert not _has_group(kafka)


@pytest.mark.fault("H3", "clusters' ids of a megabyte, in notes and manifests", promise=9)
def test_a_cluster_s_id_of_a_megabyte_is_not_shown_whole(kafka: KafkaHarness, tmp_path: Path) -> None:
    store, long_id = tmp_path / "store", "\x1b[2J" + "c" * MB
    backup = write_backup(store)
    _write_notes(backup / f"restores/{RESTORE_ID}", long_id)
    _check(_roll_back(kafka, store, "--restore", RESTORE_ID), 13, "the target is")
    edit_document(backup / "manifest.json", lambda document: document["source"].update(cluster_id=long_id))
    words = ("backup", "-b", kafka.bootstrap, "--backup-id", BACKUP_ID, "--storage", str(store), "-t", kafka.create_topic("hostile-id", 1))
    done = run_limited(*words, folder=tmp_path / "run", deadline_s=DEADLINE_S)
    _check(done, 13, "is of another cluster")


def _write_notes(folder: Path, cluster_id: str) -> None:
    """Of a restore into a cluster."""
    notes = {
        "format": "kbr-restore-state", "format_version": 1, "kbr_version": "1", "backup_id": BACKUP_ID, "restore_id": RESTORE_ID,
        "cluster_id": cluster_id, "status": "complete", "created_at": 1, "updated_at": 1, "topics": [],
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "state.json").write_bytes(sealed(notes))


def _roll_back(kafka: KafkaHarness, store: Path, *words: str) -> Limited:
    return run_limited(
        "groups", "rollback", BACKUP_ID, "--storage", str(store), "-b", kafka.bootstrap, "--execute", *words,
        folder=store.parent / "run", deadline_s=DEADLINE_S,
    )  # fmt: skip


def _has_group(kafka: KafkaHarness) -> bool:
    """Whether the group of these files is known: a commit would have made it."""
    return "readers" in {one.group_id for one in kafka.admin.list_consumer_groups().result(30).valid}


def _cluster_id(kafka: KafkaHarness) -> str:
    return kafka.admin.list_topics(timeout=10).cluster_id
