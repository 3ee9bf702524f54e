"""kbr verify on another tool's backup: damage is found with what that backup has to tell by, and nothing is written."""

from __future__ import annotations

import pytest

from kbr.maintain.describe import describe, list_document
from kbr.maintain.verify import VerifyReport, verify
from kbr.repository.catalog import Catalog
from tests.support.backups import RecordingStore
from tests.support.kbak import OsoBackup, rows_of

KEY = "daily/topics/orders/partition=1/segment-00000000000000000010.bin.zst"


@pytest.fixture
def store() -> RecordingStore:
    store = RecordingStore()
    one = OsoBackup(store.put)
    one.topic("orders", 2)
    one.partition("orders", 1, [rows_of(0, 10), rows_of(10, 10), rows_of(30, 5)])
    one.groups({"readers": {"orders": {1: 7}}})
    one.finish()
    store.put("daily/state/offsets.db", b"its own business")
    store.calls.clear()
    return store


def check(store: RecordingStore, *, deep: bool) -> VerifyReport:
    report = verify(store, Catalog(store).load("daily"), deep=deep)
    assert {operation for operation, _ in store.calls} <= {"get", "list", "head", "read_range"}
    return report


@pytest.mark.parametrize("deep", [True, False])
def test_a_good_one_is_good(store: RecordingStore, deep: bool) -> None:
    report = check(store, deep=deep)
    assert (report.exit_code, report.errors, report.objects) == (0, (), 3)
    assert (report.blocks, report.records) == ((3, 25) if deep else (0, 0))
    assert any("made by OSO kafka-backup" in note for note in report.notes)
    assert not any("state/offsets.db" in note for note in report.notes)
    assert report.to_document()["undamaged"]


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("what", ["flipped", "cut", "missing", "swapped"])
def test_damage_is_found(store: RecordingStore, deep: bool, what: str) -> None:
    if what == "flipped":
        data = bytearray(store.data(KEY))
        data[len(data) // 2] ^= 1
        store.put(KEY, bytes(data))
    elif what == "cut":
        store.put(KEY, store.data(KEY)[:-1])
    elif what == "missing":
        store.delete(KEY)
    else:
        other = KEY.replace("10.bin", "00.bin")
        one, two = store.data(KEY), store.data(other)
        store.put(KEY, two)
        store.put(other, one)
    store.calls.clear()
    report = check(store, deep=deep)
    assert report.exit_code == 4
    assert KEY in [error.object for error in report.errors]
    assert len(report.errors) == (2 if what == "swapped" else 1)


def test_damaged_groups_and_unlisted_segments_are_told(store: RecordingStore) -> None:
    store.put("daily/consumer-groups-snapshot.json", b"{")
    extra = KEY.replace("10.bin", "99.bin")
    store.put(extra, b"x")
    store.calls.clear()
    report = check(store, deep=False)
    assert [error.object for error in report.errors] == ["daily/consumer-groups-snapshot.json"]
    assert f"{extra} is there, but the manifest does not list it" in report.notes


def test_what_is_not_known_is_null_and_not_a_number(store: RecordingStore) -> None:
    manifest = Catalog(store).load("daily")
    document = describe(manifest, segments=True).to_document()
    assert document["made_by"] == "OSO kafka-backup"
    assert document["notes"] == list(manifest.notes)
    (segment, *_) = document["topics"][0]["partitions"][1]["segments"]
    assert (segment["min_timestamp"], segment["min_timestamp_ms"], segment["max_timestamp_ms"]) == (None, None, None)
    assert document["totals"]["min_timestamp_ms"] == 1_700_000_000_000
    assert document["totals"]["records"] == 25
    (listed,) = list_document(Catalog(store).summaries())["backups"]
    assert listed["made_by"] == "OSO kafka-backup"
    assert listed["max_timestamp_ms"] < 1_800_000_000_000
