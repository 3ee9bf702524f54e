"""``kbr index`` and what verify says of an index, on a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbr.cli.main import cli
from kbr.format.documents import Manifest
from kbr.repository.layout import index_head_key, index_prefix
from kbr.repository.publish import publish_manifest
from kbr.storage.local import LocalStore
from tests.support.backups import RecordingStore, manifest_of, partition_of, store_backup, topic_of
from tests.support.kbak import OsoBackup, look, put_files, rows_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backup of four segments, of three blocks each."""
    memory = RecordingStore()
    store_backup(memory)
    store = LocalStore(str(tmp_path))
    for key in memory.stored_keys():
        store.put(key, memory.data(key))
    return tmp_path


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--storage", str(folder)])


def document(folder: Path, *arguments: str, exit_code: int = 0) -> Any:
    result = run(folder, *arguments, "-o", "json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def stored(folder: Path) -> Manifest:
    from kbr.repository.catalog import Catalog

    return Catalog(LocalStore(str(folder))).load("nightly")


def publish(folder: Path, segments: int) -> None:
    """The manifest with so many segments of each partition."""
    topic = stored(folder).topics[1]
    partitions = [partition_of(one.segments[:segments], partition=one.partition) for one in topic.partitions]
    publish_manifest(LocalStore(str(folder)), manifest_of([topic_of("orders", partitions)]))


def test_an_index_is_built_and_shown(folder: Path) -> None:
    built = document(folder, "index", "build", "nightly")
    assert (built["segments"], built["blocks"], built["pieces"], built["segments_left"]) == (4, 12, 1, 0)
    shown = document(folder, "index", "show", "nightly")
    assert (shown["state"], shown["segments_covered"], shown["segments"]) == ("current", 4, 4)
    assert "current. It covers 4 of 4 segments." in run(folder, "index", "show", "nightly").stdout
    assert "12 blocks of 4 segments" in run(folder, "index", "build", "nightly").stdout
    # of the first build nothing is left but what the head names
    assert len(list((folder / "nightly" / "index").iterdir())) == 2


def test_another_tools_backup_gets_no_index_and_nothing_is_written_to_it(tmp_path: Path) -> None:
    one = OsoBackup(put_files(tmp_path))
    one.topic("orders", 1)
    one.partition("orders", 0, [rows_of(0, 10)])
    one.finish()
    before = look(tmp_path)
    for verb, exit_code in (("build", 13), ("show", 13)):
        result = run(tmp_path, "index", verb, "daily")
        assert result.exit_code == exit_code
        assert "OSO kafka-backup" in result.stderr
        assert "index build" not in result.stderr
    assert look(tmp_path) == before


def test_an_index_that_is_missing_behind_stale_or_damaged_is_shown_as_such(folder: Path) -> None:
    whole = (folder / "nightly" / "manifest.json").read_bytes()
    result = run(folder, "index", "show", "nightly")
    assert result.exit_code == 10
    assert "kbr index build" in result.stderr
    assert run(folder, "index", "build", "other").exit_code == 10
    assert not (folder / "other").exists()
    publish(folder, 1)
    document(folder, "index", "build", "nightly")
    (folder / "nightly" / "manifest.json").write_bytes(whole)
    assert document(folder, "index", "show", "nightly")["state"] == "behind"
    document(folder, "index", "build", "nightly")
    publish(folder, 1)
    stale = document(folder, "index", "show", "nightly", exit_code=4)
    assert stale["state"] == "stale"
    assert "orders[0]: it has 2 segments, the manifest 1" in stale["reasons"]
    (folder / index_head_key("nightly")).write_bytes(b"{}")
    assert document(folder, "index", "show", "nightly", exit_code=4)["state"] == "unreadable"


def test_a_segment_that_can_not_be_indexed_is_named_with_exit_code_3(folder: Path) -> None:
    victim = stored(folder).topics[1].partitions[0].segments[0]
    path = folder / "nightly" / victim.key
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    built = document(folder, "index", "build", "nightly", exit_code=3)
    assert (built["segments"], built["segments_left"]) == (2, 2)
    assert victim.key in built["problems"][0]


def test_a_backup_that_a_run_writes_is_left_to_it(folder: Path) -> None:
    from kbr.app.run_lock import RunLock
    from kbr.repository.layout import LockPlace
    from kbr.storage import StorageOptions

    with (
        RunLock(StorageOptions(url=str(folder)), verb="backup", life_s=60, wait_s=0) as run_lock,
        run_lock.hold(LockPlace("nightly")),
    ):
        assert run(folder, "index", "build", "nightly").exit_code == 11


@pytest.mark.parametrize("deep", [False, True])
def test_verify_is_content_with_an_index_and_says_when_it_is_behind_or_stale(folder: Path, deep: bool) -> None:
    more = ["--deep"] if deep else []
    whole = (folder / "nightly" / "manifest.json").read_bytes()
    document(folder, "index", "build", "nightly")
    assert document(folder, "verify", "nightly", *more)["notes"] == []
    publish(folder, 1)
    assert any("stale" in note for note in document(folder, "verify", "nightly", *more)["notes"])
    document(folder, "index", "build", "nightly")
    (folder / "nightly" / "manifest.json").write_bytes(whole)
    (note,) = document(folder, "verify", "nightly", *more)["notes"]
    assert note.startswith("the block index covers 2 of 4 segments")


def test_a_piece_that_is_cut_off_is_damage_of_the_index_alone(folder: Path) -> None:
    document(folder, "index", "build", "nightly")
    (piece,) = (folder / index_prefix("nightly")).glob("*.parquet")
    whole = piece.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1):
        piece.write_bytes(whole[:size])
        shown = document(folder, "index", "show", "nightly", exit_code=4)
        assert shown["state"] == "unreadable"
        assert "cut off" in shown["reasons"][0]
        found = document(folder, "verify", "nightly", exit_code=4)
        assert found["objects"] == 4
        assert ["cut off" in one["what"] for one in found["errors"]] == [True]
    document(folder, "index", "build", "nightly")
    assert document(folder, "index", "show", "nightly")["state"] == "current"


def test_verify_names_a_damaged_index(folder: Path) -> None:
    document(folder, "index", "build", "nightly")
    (piece,) = (folder / index_prefix("nightly")).glob("*.parquet")
    data = bytearray(piece.read_bytes())
    data[100] ^= 1
    piece.write_bytes(data)
    found = document(folder, "verify", "nightly", exit_code=4)
    assert [one["object"] for one in found["errors"]] == [f"nightly/index/{piece.name}"]
    assert "kbr index build" in found["errors"][0]["what"] or "checksum" in found["errors"][0]["what"]


def test_verify_finds_an_index_that_lies_and_tells_deep_what_only_the_segments_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kbr.format.block_index import BlockIndexWriter

    add = BlockIndexWriter.add

    def lying(field: str, by: int):
        def lie(self, key, compression, reference, blocks) -> None:
            from dataclasses import replace

            wrong = [replace(one, **{field: getattr(one, field) + by}) if number == 1 else one for number, one in enumerate(blocks)]
            add(self, key, compression, reference, wrong)

        return lie

    # a sum that the manifest knows; and a timestamp in the middle, which it does not
    for field, by, shallow in (("record_count", -1, 4), ("max_timestamp", -1, 0)):
        monkeypatch.setattr(BlockIndexWriter, "add", lying(field, by))
        document(folder, "index", "build", "nightly")
        monkeypatch.setattr(BlockIndexWriter, "add", add)
        found = document(folder, "verify", "nightly", exit_code=4 if shallow else 0)
        assert len(found["errors"]) == shallow
        found = document(folder, "verify", "nightly", "--deep", exit_code=4)
        assert len(found["errors"]) == 4
        assert all("the block index lies about segment" in one["what"] for one in found["errors"])
        assert all(one["object"] == index_head_key("nightly") for one in found["errors"])


def test_nothing_is_written_to_a_backup_that_another_tool_has_made(tmp_path: Path) -> None:
    one = OsoBackup(put_files(tmp_path), compression="zstd", cluster="east")
    one.topic("orders", 1)
    one.partition("orders", 0, [rows_of(10, 60, timestamp=1_714_564_800_000)])
    one.finish()
    before = look(tmp_path)
    for verb in ("build", "show"):
        result = run(tmp_path, "index", verb, "daily")
        assert look(tmp_path) == before
        assert result.exit_code == 13
        assert "was made by OSO kafka-backup" in result.output
