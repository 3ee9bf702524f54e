"""`kbr cat` and `kbr.open_backup` read another tool's backups as kbr's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import kbr
from kbr.cli.main import cli
from tests.support.kbak import OsoBackup, look, put_files, rows_of

BASE_MS = 1_714_564_800_000
ROWS = {
    0: [rows_of(10, 60, timestamp=BASE_MS), rows_of(70, 60, timestamp=BASE_MS + 500, step=3)],
    1: [rows_of(0, 30, timestamp=BASE_MS)],
}


@pytest.fixture(params=["zstd", "lz4", "none"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    one = OsoBackup(put_files(tmp_path), compression=request.param, cluster="east")
    one.topic("orders", 2)
    for number, segments in ROWS.items():
        one.partition("orders", number, segments)
    one.finish()
    return tmp_path


def test_every_record_is_read_as_it_was_at_the_source(folder: Path) -> None:
    before = look(folder)
    with kbr.open_backup(str(folder), "daily") as backup:
        found = list(backup.records("orders"))
        table = backup.arrow_table("orders")
    assert [(one.partition, one.offset, one.timestamp, one.key, one.value, one.headers) for one in found] == [
        (number, row.offset, row.timestamp, row.key, row.value, row.headers)
        for number, segments in ROWS.items()
        for rows in segments
        for row in rows
    ]
    assert table.num_rows == len(found)
    assert look(folder) == before


def test_a_window_holds_what_its_records_say_not_what_the_manifest_does(folder: Path) -> None:
    with kbr.open_backup(str(folder), "daily") as backup:
        everything = list(backup.records("orders"))
        some = list(backup.records("orders", from_timestamp=BASE_MS + 20, to_timestamp=BASE_MS + 520))
    assert some == [one for one in everything if BASE_MS + 20 <= one.timestamp <= BASE_MS + 520]
    assert 0 < len(some) < len(everything)


def test_cat_prints_them(folder: Path) -> None:
    result = CliRunner().invoke(
        cli, ["cat", "--storage", str(folder), "daily", "-t", "orders", "-p", "0", "-o", "100", "-c", "3", "-f", "%o\\n"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["100", "103", "106"]
    result = CliRunner().invoke(cli, ["cat", "--storage", str(folder), "daily", "-t", "orders", "-c", "1", "-J"])
    assert json.loads(result.stdout)["offset"] == 10
