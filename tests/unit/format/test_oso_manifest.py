"""Manifests and groups of OSO kafka-backup become kbr's values, or an error that says where."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from kbr.errors import GroupsUnreadable, ManifestUnreadable, UnsupportedFormat
from kbr.format.documents import Manifest
from kbr.format.oso_groups import load_oso_groups
from kbr.format.oso_manifest import oso_document, parse_oso_manifest
from kbr.maintain.coverage import coverage_errors
from kbr.model import Compression, GapReason, TopicPartition
from kbr.repository.foreign import load_any_manifest
from tests.support.kbak import OsoBackup, rows_of


def document(**options: Any) -> dict[str, Any]:
    one = OsoBackup(lambda _key, _data: None, **options)
    one.topic("orders", 4)
    one.partition("orders", 2, [rows_of(50, 10), rows_of(70, 10)])
    one.partition("orders", 0, [rows_of(0, 5), rows_of(5, 5, step=3)])
    one.topic("__internal", None)
    one.partition("__internal", 1, [rows_of(0, 1)])
    return one.document()


def load(value: Any) -> Manifest:
    return load_any_manifest(json.dumps(value).encode(), name="daily/manifest.json")


def test_a_manifest_becomes_kbrs_own() -> None:
    manifest = load(document(cluster="east"))
    assert manifest.made_by == "OSO kafka-backup"
    assert (manifest.backup_id, manifest.source.cluster_id, manifest.status.value) == ("daily", "east", "complete")
    assert manifest.compression is Compression.ZSTD
    assert [topic.name for topic in manifest.topics] == ["__internal", "orders"]
    internal, orders = manifest.topics
    assert (internal.is_internal, orders.is_internal) == (True, False)
    assert (internal.partition_count, len(internal.partitions)) == (2, 2)
    assert [one.partition for one in orders.partitions] == [0, 1, 2, 3]
    assert [one.record_count for one in orders.partitions] == [10, 0, 20, 0]
    first, second = orders.partitions[2].segments
    assert (first.sequence, first.start_offset, first.end_offset, first.next_offset) == (50, 50, 59, 60)
    # the hole between them belongs to the one behind it
    assert (second.sequence, second.start_offset) == (60, 70)
    assert first.key == "topics/orders/partition=2/segment-00000000000000000050.bin.zst"
    assert first.is_foreign
    assert (first.min_timestamp, first.max_timestamp) == (-(2**63), 2**63 - 1)
    assert not [error for topic in manifest.topics for one in topic.partitions for error in coverage_errors(one)]
    assert orders.configs is None
    assert any("null are empty" in note for note in manifest.notes)
    assert any("is not told of __internal" in note for note in manifest.notes)


def test_what_later_versions_add_is_tolerated_and_used_where_it_helps() -> None:
    value = document()
    value |= {"pruned": True, "missing_topics": ["gone", "away"], "and": {"more": [1]}}
    value["topics"][0] |= {
        "source_replication_factor": 3,
        "configurations": {"cleanup.policy": "compact", "retention.ms": None},
        "new": 1,
    }
    value["topics"][0]["partitions"][0]["segments"][0]["etag"] = "x"
    manifest = load(value)
    orders = manifest.topics[1]
    assert (orders.replication_factor, orders.configs) == (3, {"cleanup.policy": "compact"})
    assert manifest.topics[0].replication_factor == -1
    assert any("gone, away" in note for note in manifest.notes)
    assert any("were removed from it" in note for note in manifest.notes)


def test_gaps_are_told_with_their_own_word() -> None:
    value = document()
    gaps = [
        {"start_offset": 62, "end_offset": 70, "reason": "RetentionExpired", "detected_at": 5},
        {"start_offset": 60, "end_offset": 62, "reason": "something new", "detected_at": None},
    ]
    value["topics"][0]["partitions"][0]["gaps"] = gaps
    (one,) = [one for one in load(value).topics[1].partitions if one.gaps]
    assert [(gap.start_offset, gap.end_offset_exclusive, gap.reason, gap.detail) for gap in one.gaps] == [
        (60, 62, GapReason.FETCH_FAILED, "something new"),
        (62, 70, GapReason.RETENTION, "RetentionExpired"),
    ]
    assert one.segments[1].sequence == 70


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
@pytest.mark.parametrize("prefix", ["", "some/prefix/"])
def test_keys_of_all_versions_with_and_without_a_prefix(compression: str, prefix: str) -> None:
    for old_names in (False, True):
        manifest = load(document(compression=compression, old_names=old_names, key_prefix=prefix))
        names = [one.key.rpartition("/")[2] for one in manifest.topics[1].partitions[2].segments]
        extension = {"zstd": ".zst", "lz4": ".lz4", "none": ""}[compression]
        numbers = ["000000", "000001"] if old_names else [f"{50:020d}", f"{70:020d}"]
        assert names == [f"segment-{number}.bin{extension}" for number in numbers]
        assert all(one.key.startswith("topics/orders/") for one in manifest.topics[1].partitions[2].segments)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(found: dict[str, Any]) -> None:
        node: Any = found
        *folders, last = path.split(".")
        for part in folders:
            node = node[int(part) if part.isdigit() else part]
        if value is None:
            del node[last]
        else:
            node[int(last) if last.isdigit() else last] = value

    return apply


SEGMENT = "topics.0.partitions.0.segments.0"


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("backup_id", "a/b", "backup_id"),
        ("created_at", -1, "created_at"),
        ("created_at", "now", "created_at"),
        ("compression", "brotli", "compression"),
        ("source_brokers", [1], "source_brokers"),
        ("source_cluster_id", 1, "source_cluster_id"),
        ("topics.0.name", "../up", r"topics\[0\].name"),
        ("topics.0", 1, r"topics\[0\] is no object"),
        ("topics.0.original_partition_count", -1, "original_partition_count"),
        ("topics.0.original_partition_count", True, "original_partition_count"),
        ("topics.0.original_partition_count", 2**31 - 1, "more than 1000000 partitions"),
        ("topics.0.configurations", {"a": 1}, "configurations"),
        ("topics.0.partitions", None, "partitions"),
        ("topics.0.partitions.0.partition_id", 2**31, "partition_id"),
        ("topics.0.partitions.0.gaps", [{"start_offset": 5, "end_offset": 5}], r"gaps\[0\]"),
        (f"{SEGMENT}.key", "daily/topics/orders/partition=2/../x.bin", "is not the key"),
        (f"{SEGMENT}.key", "daily/topics/orders/partition=1/segment-00000000000000000050.bin.zst", "is not the key"),
        (f"{SEGMENT}.key", "daily/topics/orders/partition=2/segment-00000000000000000051.bin.zst", "is not the key"),
        (f"{SEGMENT}.key", "other/topics/orders/partition=2/segment-00000000000000000050.bin.zst", "is not the key"),
        (f"{SEGMENT}.key", "xdaily/topics/orders/partition=2/segment-00000000000000000050.bin.zst", "is not the key"),
        (f"{SEGMENT}.key", None, "key"),
        (f"{SEGMENT}.start_offset", -1, "start_offset"),
        (f"{SEGMENT}.start_offset", 60, "records from offset 60 to 59"),
        (f"{SEGMENT}.end_offset", 70, "restored twice"),
        (f"{SEGMENT}.end_offset", 2**63 - 1, "records from offset"),
        (f"{SEGMENT}.record_count", 0, "0 records"),
        (f"{SEGMENT}.record_count", 11, "11 records"),
        (f"{SEGMENT}.record_count", 10.0, "record_count"),
        (f"{SEGMENT}.start_timestamp", 2**63, "start_timestamp"),
        (f"{SEGMENT}.uncompressed_size", 10, "records in 10 bytes"),
        (f"{SEGMENT}.compressed_size", 0, "stored in 0"),
        (f"{SEGMENT}.compressed_size", None, "compressed_size"),
    ],
)
def test_what_makes_no_sense_says_where(where: str, value: Any, words: str) -> None:
    found = copy.deepcopy(document())
    change(where, value)(found)
    with pytest.raises(ManifestUnreadable, match=words) as caught:
        load(found)
    assert "daily/manifest.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_names_and_numbers_that_stand_there_twice_or_count_too_much() -> None:
    empty = {"partition_id": 2, "segments": []}
    found = document()
    found["topics"][0]["partitions"].append(empty)
    with pytest.raises(ManifestUnreadable, match="partition_id 2 stands there twice"):
        load(found)
    found["topics"][0]["partitions"][-1] = {**empty, "partition_id": 2**31 - 1}
    with pytest.raises(ManifestUnreadable, match="more than 1000000 partitions"):
        load(found)
    found = document()
    found["topics"].append(found["topics"][1])
    with pytest.raises(ManifestUnreadable, match="names __internal twice"):
        load(found)


def test_something_else_is_told_as_before() -> None:
    for data, error in (
        (b"", ManifestUnreadable),
        (b"{", ManifestUnreadable),
        (json.dumps(document()).encode()[:-5], ManifestUnreadable),
        (b"[]", UnsupportedFormat),
        (b'{"a": 1}', UnsupportedFormat),
        (b'{"backup_id": "a", "topics": []}', UnsupportedFormat),
        (b'{"x": 1, "format": "kbr-manifest"}', ManifestUnreadable),
        (b"[" * 5000, ManifestUnreadable),
    ):
        assert oso_document(data) is None
        with pytest.raises(error):
            load_any_manifest(data, name="m")


def test_many_segments_are_read_in_seconds() -> None:
    value = document()
    one = value["topics"][0]["partitions"][0]["segments"][0]
    folder = "daily/topics/orders/partition=2/segment-"
    value["topics"][0]["partitions"][0]["segments"] = [
        {**one, "key": f"{folder}{n * 10:020d}.bin.zst", "start_offset": n * 10, "end_offset": n * 10 + 9}
        for n in range(50_000, 0, -1)
    ]
    found = oso_document(json.dumps(value).encode())
    assert found is not None
    begun = time.monotonic()
    manifest = parse_oso_manifest(found, name="m")
    assert time.monotonic() - begun < 15  # one second on an idle machine
    assert manifest.topics[1].partitions[2].record_count == 500_000


# -- groups -------------------------------------------------------------------------------


def groups(value: Any) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return load_oso_groups(data, backup_id="daily", name="g")


def test_groups_become_kbrs_own() -> None:
    found = groups(
        {
            "snapshot_time": 5,
            "groups": [
                {"group_id": "b", "offsets": {"orders": {"0": 7, "11": 0}}, "state": "Stable"},
                {"group_id": "a", "offsets": {"orders": {"1": 2}, "payments": {"0": 1}}},
                {"group_id": "none", "offsets": {}},
            ],
        }
    )
    assert [one.group for one in found.groups] == ["a", "b"]
    assert found.captured_at_ms == 5
    assert {key: one.offset for key, one in found.groups[1].offsets.items()} == {
        TopicPartition("orders", 0): 7,
        TopicPartition("orders", 11): 0,
    }
    assert found.lag(TopicPartition("orders", 0), 7) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        {"groups": []},
        {"snapshot_time": 1, "groups": [1]},
        {"snapshot_time": 1, "groups": [{"group_id": "", "offsets": {}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": {"0": 1}}}] * 2},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"../t": {"0": 1}}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": {"-1": 1}}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": {"2147483648": 1}}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": {"0": -1}}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": {"0": True}}}]},
        {"snapshot_time": 1, "groups": [{"group_id": "a", "offsets": {"t": 1}}]},
        {"snapshot_time": 1, "groups": [{"group_id": str(n), "offsets": {}} for n in range(10_001)]},
    ],
)
def test_groups_that_make_no_sense_are_an_error(value: Any) -> None:
    with pytest.raises(GroupsUnreadable, match="g: the group offsets"):
        groups(value)
