"""kbr.open_backup: records and Arrow tables of a backup, from a program."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

import kbr
from kbr.errors import BackupMissing, ConfigError, UsageError
from kbr.repository.publish import publish_manifest
from kbr.storage import StorageOptions, open_store
from kbr_codec import Record, encode_block
from tests.support.backups import RecordingStore, identity_of, manifest_of, partition_of, topic_of, write_segment

T0 = 1_700_000_000_000
RECORDS = [
    Record(0, T0, 1, b"a", b"one", ((b"h", b"1"), (b"h", None))),
    Record(1, T0 + 1000, 2, None, None, ()),
    Record(5, -1, 0, b"", b"", ((b"\xff", b""),)),
    Record(6, T0 + 500, 1, b"\xff\x00", b"x" * 100, ()),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Topic ``orders`` of two partitions with the same records, in blocks of two."""
    store = RecordingStore()
    blocks = [encode_block(RECORDS[:2]), encode_block(RECORDS[2:])]
    entries = [
        partition_of([write_segment(store, identity_of(partition=number), blocks, 7)], partition=number)
        for number in range(2)
    ]
    publish_manifest(store, manifest_of([topic_of("orders", entries)]))
    real = open_store(StorageOptions(url=str(tmp_path)))
    for key in store.stored_keys():
        real.put(key, store.data(key))
    real.close()
    return tmp_path


def test_records_are_exact_and_come_by_partition_and_offset(folder: Path) -> None:
    with kbr.open_backup(str(folder), "nightly") as backup:
        assert (backup.backup_id, backup.topics, backup.partition_count("orders")) == ("nightly", ("orders",), 2)
        assert backup.offsets("orders", 1) == (0, 7)
        found = list(backup.records())
    assert [tuple(one) for one in found] == [("orders", number, *one) for number in range(2) for one in RECORDS]


def test_the_last_part_of_the_url_is_the_backup_where_no_other_is_named(folder: Path) -> None:
    with kbr.open_backup(folder, "nightly") as backup:
        assert backup.backup_id == "nightly"
    with kbr.open_backup(folder / "nightly") as backup:
        assert backup.backup_id == "nightly"
    with kbr.open_backup(f"{folder}/nightly/") as backup:
        assert len(list(backup.records("orders", 0))) == 4
    with pytest.raises(BackupMissing):
        kbr.open_backup(f"{folder}/weekly")
    with pytest.raises(UsageError, match="names no backup"):
        kbr.open_backup("s3://bucket")
    with pytest.raises(ConfigError, match="no_such_key"):
        kbr.open_backup(str(folder), "nightly", no_such_key=1)


def test_windows_by_time_and_offset_are_the_same_in_every_form(folder: Path) -> None:
    with kbr.open_backup(str(folder), "nightly") as backup:
        moment = datetime.fromtimestamp((T0 + 500) / 1000, timezone.utc)
        for start in (T0 + 500, moment, "2023-11-14T22:13:20.500Z"):
            assert [one.offset for one in backup.records("orders", 0, from_timestamp=start)] == [1, 6]
        assert [one.offset for one in backup.records(partitions=0, to_timestamp=T0)] == [0, 5]
        assert [one.offset for one in backup.records(partitions=0, from_offset=1, to_offset=5)] == [1, 5]
        assert [one.offset for one in backup.records(partitions=[0], from_offset=-2)] == [5, 6]
        assert [(one.partition, one.offset) for one in backup.records(from_offset=6, limit=2)] == [(0, 6), (1, 6)]
        assert list(backup.records(limit=0)) == []


@pytest.mark.parametrize(
    ("selection", "what"),
    [
        ({"from_timestamp": "2024-05-01T12:00:00"}, "no time zone"),
        ({"from_timestamp": datetime(2024, 5, 1)}, "no time zone"),
        ({"from_timestamp": T0, "to_timestamp": T0 - 1}, "ends before it begins"),
        ({"limit": -1}, "limit is -1"),
        ({"topics": "payments"}, "no topic payments"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused_before_anything_is_read(folder: Path, selection: dict, what: str) -> None:
    with kbr.open_backup(str(folder), "nightly") as backup, pytest.raises(UsageError, match=what):
        backup.blocks(**selection)


def test_an_arrow_table_has_every_field_and_tells_null_from_empty(folder: Path) -> None:
    with kbr.open_backup(str(folder), "nightly") as backup:
        table = backup.arrow_table("orders", 0)
        batches = list(backup.arrow_batches("orders", 0))
        nothing = backup.arrow_table("orders", from_offset=100)
    assert [batch.num_rows for batch in batches] == [2, 2]
    assert pa.Table.from_batches(batches) == table
    assert table.to_pydict() == {
        "topic": ["orders"] * 4,
        "partition": [0] * 4,
        "offset": [0, 1, 5, 6],
        "timestamp": [
            datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc),
            datetime(2023, 11, 14, 22, 13, 21, tzinfo=timezone.utc),
            None,
            datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=timezone.utc),
        ],
        "timestamp_type": ["CreateTime", "LogAppendTime", None, "CreateTime"],
        "key": [b"a", None, b"", b"\xff\x00"],
        "value": [b"one", None, b"", b"x" * 100],
        "headers": [
            [{"name": b"h", "value": b"1"}, {"name": b"h", "value": None}],
            [],
            [{"name": b"\xff", "value": b""}],
            [],
        ],
    }
    assert (nothing.num_rows, nothing.schema) == (0, table.schema)


def test_importing_kbr_loads_nothing_and_reading_records_no_pyarrow(folder: Path) -> None:
    program = (
        "import sys, kbr\n"
        "assert not [name for name in sys.modules if name.startswith('kbr.')]\n"
        f"assert len(list(kbr.open_backup({str(folder)!r}, 'nightly').records())) == 8\n"
        "assert 'pyarrow' not in sys.modules and 'confluent_kafka' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
