"""The catalog and publishing: unreadable is never missing, and never hides the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kbr.errors import (
    AccessDenied,
    BackupMissing,
    IntegrityError,
    ManifestUnreadable,
    StoreFull,
    StoreUnavailable,
    UnsupportedFormat,
    UsageError,
)
from kbr.format.documents import Manifest
from kbr.model import RunStatus, SegmentRef
from kbr.repository.catalog import UNREADABLE, Catalog, known_time_range, summarise
from kbr.repository.layout import manifest_key
from kbr.repository.publish import publish_manifest
from kbr.storage.base import ObjectInfo
from tests.support.backups import (
    RecordingStore,
    manifest_of,
    partition_of,
    store_backup,
    topic_of,
)


def test_a_published_manifest_is_loaded_as_it_was() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    assert Catalog(store).load("nightly") == manifest


def test_a_manifest_takes_the_place_of_the_one_before() -> None:
    store = RecordingStore()
    manifest = replace(manifest_of([], status=RunStatus.RUNNING), finished_at_ms=None)
    publish_manifest(store, manifest)
    publish_manifest(store, manifest_of([]))
    assert Catalog(store).load("nightly").status is RunStatus.COMPLETE


@pytest.mark.fault("D4", "a manifest that can't be read", promise=1)
def test_a_manifest_that_could_not_be_read_again_is_not_published() -> None:
    store = RecordingStore()
    good = store_backup(store)
    orders = good.topics[1]
    broken = replace(orders, partitions=orders.partitions[::-1])
    with pytest.raises(ManifestUnreadable):
        publish_manifest(store, replace(good, topics=(good.topics[0], broken)))
    with pytest.raises(IntegrityError, match="otherwise"):
        publish_manifest(store, replace(good, retention={"keep": (1, 2)}))
    assert Catalog(store).load("nightly") == good


def test_a_manifest_that_is_too_large_to_be_read_again_does_not_take_the_place_of_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = RecordingStore()
    good = store_backup(store)
    monkeypatch.setattr("kbr.repository.publish.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(IntegrityError, match="more than the 100"):
        publish_manifest(store, replace(good, status=RunStatus.INCOMPLETE))
    assert Catalog(store).load("nightly") == good


def test_a_failed_publish_leaves_the_manifest_before() -> None:
    store = RecordingStore()
    good = store_backup(store)
    store.fail["put"] = StoreFull("no space")
    with pytest.raises(StoreFull):
        publish_manifest(store, manifest_of([]))
    assert Catalog(store).load("nightly") == good


def test_a_store_that_changes_a_manifest_is_found_out() -> None:
    class Framing(RecordingStore):
        def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
            return super().put(key, b"1000;chunk-signature" + data, **options)

    with pytest.raises(IntegrityError, match="the store has"):
        publish_manifest(Framing(), manifest_of([]))


def test_no_backup_is_exit_10() -> None:
    store = RecordingStore()
    store_backup(store)
    with pytest.raises(BackupMissing) as caught:
        Catalog(store).load("weekly")
    assert caught.value.exit_code == 10
    assert "weekly" in str(caught.value)
    assert store.url in str(caught.value)
    assert not Catalog(store).has_objects("weekly")
    assert Catalog(store).has_objects("nightly")


def test_a_name_that_begins_like_another_is_not_it() -> None:
    store = RecordingStore()
    store_backup(store, backup_id="nightly-2")
    with pytest.raises(BackupMissing):
        Catalog(store).load("nightly")


@pytest.mark.fault("D2", "missing beside segments", promise=4)
def test_segments_without_a_manifest_are_not_no_backup() -> None:
    store = RecordingStore()
    store_backup(store)
    store.delete("nightly/manifest.json")
    with pytest.raises(ManifestUnreadable, match="not there") as caught:
        Catalog(store).load("nightly")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"format":"kbr-manifest"'])
def test_a_manifest_cut_short_is_not_no_backup(data: bytes) -> None:
    store = RecordingStore()
    store_backup(store)
    store.put("nightly/manifest.json", data)
    with pytest.raises(ManifestUnreadable) as caught:
        Catalog(store).load("nightly")
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_the_manifest_of_another_backup_is_refused() -> None:
    store = RecordingStore()
    store_backup(store)
    store.put("weekly/manifest.json", store.data("nightly/manifest.json"))
    with pytest.raises(ManifestUnreadable, match="manifest of backup nightly"):
        Catalog(store).load("weekly")


def test_a_hostile_backup_id_reaches_no_store() -> None:
    store = RecordingStore()
    for backup_id in ("..", "a/b", "", "/etc"):
        with pytest.raises(UsageError):
            Catalog(store).load(backup_id)
    assert store.calls == []


def test_all_backups_are_listed_and_nothing_else() -> None:
    store = RecordingStore()
    store_backup(store, backup_id="b")
    store_backup(store, backup_id="a")
    store.put("c/readme.txt", b"")
    store.put("readme.txt", b"")
    store_backup(store, backup_id="d")
    store.delete("d/manifest.json")
    assert Catalog(store).backup_ids() == ["a", "b", "d"]


def test_an_unreadable_manifest_does_not_hide_the_others() -> None:
    store = RecordingStore()
    for backup_id in ("a", "b", "c", "d"):
        store_backup(store, backup_id=backup_id)
    store.put("b/manifest.json", b"{")
    store.put("c/manifest.json", b'{"format":"kbr-manifest","format_version":2}')
    store.delete("d/manifest.json")
    found = list(Catalog(store).summaries())
    assert [one.backup_id for one in found] == ["a", "b", "c", "d"]
    assert [one.status for one in found] == ["complete", UNREADABLE, UNREADABLE, UNREADABLE]
    assert found[0].record_count == 240
    for one in found[1:]:
        assert one.error
        assert one.record_count is None


def test_a_store_that_does_not_answer_is_not_a_list_of_unreadable_backups() -> None:
    store = RecordingStore()
    store_backup(store)
    store.fail["get"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        list(Catalog(store).summaries())
    store.fail["get"] = AccessDenied("one object is archived")
    assert [one.status for one in Catalog(store).summaries()] == [UNREADABLE]


@pytest.mark.fault("D2", "of a newer version", promise=9)
def test_a_newer_manifest_is_refused_with_both_versions() -> None:
    store = RecordingStore()
    store.put("nightly/manifest.json", b'{"format":"kbr-manifest","format_version":2}')
    with pytest.raises(UnsupportedFormat, match="version 2; this kbr reads version 1"):
        Catalog(store).load("nightly")


# -- sums ---------------------------------------------------------------------------------


def test_a_summary_adds_up() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    summary = summarise(manifest)
    assert (summary.topic_count, summary.partition_count, summary.segment_count) == (2, 3, 4)
    assert summary.record_count == 240
    assert summary.stored_bytes == sum(len(store.data(key)) for key in store.stored_keys() if "segment-" in key)
    assert (summary.min_timestamp, summary.max_timestamp) == (1_700_000_000_000, 1_700_000_000_019)


def test_an_empty_backup_has_no_times() -> None:
    summary = summarise(manifest_of([topic_of("t", [partition_of()])]))
    assert summary.record_count == 0
    assert summary.min_timestamp is None
    assert summary.max_timestamp is None


def first_segment(manifest: Manifest) -> SegmentRef:
    return manifest.topics[1].partitions[0].segments[0]


@pytest.mark.parametrize(
    ("times", "known"),
    [
        ({"min": 5, "max": 9, "start": 5, "end": 9}, (5, 9)),
        ({"min": -1, "max": -1, "start": -1, "end": -1}, (None, None)),
        ({"min": -1, "max": 9, "start": -1, "end": 7}, (7, 9)),
        ({"min": -1, "max": 9, "start": -1, "end": -1}, (9, 9)),
        ({"min": 0, "max": 0, "start": 0, "end": 0}, (0, 0)),
    ],
)
def test_records_without_a_timestamp_do_not_make_a_backup_old(
    times: dict[str, int], known: tuple[int | None, int | None]
) -> None:
    segment = first_segment(store_backup(RecordingStore()))
    changes: dict[str, Any] = {
        "min_timestamp": times["min"],
        "max_timestamp": times["max"],
        "start_timestamp": times["start"],
        "end_timestamp": times["end"],
    }
    assert known_time_range([replace(segment, **changes)]) == known


def test_a_manifest_beyond_the_limit_is_never_read() -> None:
    store = RecordingStore()
    store_backup(store)
    store.put(manifest_key("nightly"), bytes(3000))
    with pytest.raises(ManifestUnreadable, match="3000 bytes; 2000 are read") as caught:
        Catalog(store, max_manifest_bytes=2000).load("nightly")
    assert "limits.max_manifest_bytes" in caught.value.hint
    assert store.ranges == []


def test_of_a_large_object_that_is_no_manifest_only_its_ends_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbr.repository.catalog.SMALL_MANIFEST_BYTES", 100)
    store = RecordingStore()
    good = store_backup(store)
    assert Catalog(store).load("nightly") == good
    data = store.data(manifest_key("nightly"))
    for changed in (bytes(5000), data[:-1] + b" ", data[:-1] + b"\0", b" " + data):
        store.put(manifest_key("nightly"), changed)
        store.ranges.clear()
        with pytest.raises(ManifestUnreadable, match="don't begin and end as one"):
            Catalog(store).load("nightly")
        assert sum(size for _, size in store.ranges) <= 16
