"""describe: what the manifest says, in sums and in full, ready for JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kbr.maintain.describe import describe, list_document, rfc3339, summary_document
from kbr.model import Gap, GapReason, PartitionStatus
from kbr.repository.catalog import BackupSummary, Catalog
from tests.support.backups import RecordingStore, manifest_of, partition_of, store_backup, topic_of


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, None),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, None),
        (2**63 - 1, None),
        (-(2**63), None),
    ],
)
def test_times_are_utc_with_milliseconds(timestamp: int | None, text: str | None) -> None:
    assert rfc3339(timestamp) == text


def test_sums_are_over_topics_and_partitions() -> None:
    manifest = store_backup(RecordingStore())
    description = describe(manifest)
    totals = description.totals
    assert (totals.partition_count, totals.empty_partition_count) == (3, 1)
    assert (totals.segment_count, totals.block_count, totals.record_count) == (4, 12, 240)
    assert totals.ratio == totals.raw_bytes / totals.stored_bytes
    by_topic = {topic.name: sums for topic, sums in description.topics}
    assert by_topic["empty"].record_count == 0
    assert by_topic["empty"].ratio is None
    assert by_topic["empty"].min_timestamp is None
    assert by_topic["orders"].record_count == 240


def test_topics_can_be_chosen_and_segments_listed() -> None:
    manifest = store_backup(RecordingStore())
    document = describe(manifest, topics=["orders"], segments=True).to_document()
    assert [topic["topic"] for topic in document["topics"]] == ["orders"]
    assert document["totals"]["topics"] == 1
    segments = document["topics"][0]["partitions"][0]["segments"]
    assert [segment["sequence"] for segment in segments] == [100, 160]
    assert segments[0]["min_timestamp"] == "2023-11-14T22:13:20.000Z"
    assert "segments" not in describe(manifest).to_document()["topics"][1]["partitions"][0]


def test_gaps_and_failures_are_in_front() -> None:
    lost = Gap(
        start_offset=5,
        end_offset_exclusive=15,
        reason=GapReason.RETENTION,
        detected_at_ms=1_700_000_000_000,
        detail="too late",
    )
    failed = partition_of(partition=1, status=PartitionStatus.FAILED, error="no leader", end_offset_exclusive=9)
    manifest = manifest_of([topic_of("t", [partition_of(gaps=(lost,)), failed])])
    document = json.loads(json.dumps(describe(manifest).to_document()))
    assert document["totals"]["gaps"] == 1
    assert document["totals"]["gap_offsets"] == 10
    assert document["totals"]["failed_partitions"] == 1
    assert document["failures"] == [
        {
            "topic": "t",
            "partition": 1,
            "status": "failed",
            "next_offset": 0,
            "end_offset_exclusive": 9,
            "error": "no leader",
        }
    ]
    assert document["topics"][0]["partitions"][0]["gaps"][0]["reason"] == "retention"


def test_the_document_holds_times_twice() -> None:
    document = describe(store_backup(RecordingStore())).to_document()
    assert document["created_at"] == "2023-11-14T22:13:20.000Z"
    assert document["created_at_ms"] == 1_700_000_000_000
    running = replace(manifest_of([]), finished_at_ms=None)
    assert describe(running).to_document()["finished_at"] is None
    assert describe(running).to_document()["finished_at_ms"] is None


def test_a_list_tells_unreadable_backups_apart() -> None:
    store = RecordingStore()
    for backup_id in ("a", "b"):
        store_backup(store, backup_id=backup_id)
    store.put("a/manifest.json", b"{")
    document = json.loads(json.dumps(list_document(Catalog(store).summaries())))
    unreadable, good = document["backups"]
    assert (unreadable["backup_id"], unreadable["status"]) == ("a", "unreadable")
    assert "a/manifest.json" in unreadable["error"]
    assert unreadable["records"] is None
    assert unreadable["ratio"] is None
    assert (good["backup_id"], good["status"], good["error"]) == ("b", "complete", None)
    assert good["records"] == 240
    assert good["ratio"] > 1


def test_a_manifest_is_summed_up_on_the_way() -> None:
    manifest = store_backup(RecordingStore())
    assert summary_document(manifest)["records"] == 240
    assert summary_document(BackupSummary(backup_id="x", status="unreadable"))["records"] is None
