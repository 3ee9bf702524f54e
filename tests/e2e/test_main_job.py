"""The main job on a real Kafka, by the command line as a process: what goes in comes out, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, send
from tests.support.mixed_topics import BASE_MS, CLEANER_OFF, make_mixed_topics
from tests.support.plain_reader import read_segment

#: The target's cleaner would compact a restored topic while it is compared.
CLEANER_OFF_SETS = [
    word for key, value in CLEANER_OFF.items() for word in ("--set", f"restore.topic_configs.{key}={value}")
]


@pytest.fixture(scope="module")
def mixed(kafka: KafkaHarness) -> list[str]:
    """The twenty topics."""
    return make_mixed_topics(kafka, "mixed")


def _back_up(kafka: KafkaHarness, folder: Path, backup_id: str, *more: str, env=None, exit_code: int = 0):
    return run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", backup_id, "--storage", str(folder), *more,
        env=env, exit_code=exit_code,
    )  # fmt: skip


def _restore(kafka: KafkaHarness, folder, backup_id: str, *more: str, env=None, exit_code: int = 0):
    return run_kbr_json(
        "restore", "-b", kafka.bootstrap, "--backup-id", backup_id, "--storage", str(folder), *more,
        env=env, exit_code=exit_code,
    )  # fmt: skip


def _mapping(topics: list[str], prefix: str) -> list[str]:
    return [word for topic in topics for word in ("--topic-map", f"{topic}={prefix}{topic}")]


@pytest.mark.compatibility(row="filesystem", column="backup, verify --deep, restore")
@pytest.mark.fault("K5", "aborted, committed, markers at the end, holes of compaction", promise=3)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("compression", ["zstd", pytest.param("lz4", marks=pytest.mark.long), "none"])
def test_every_committed_record_comes_back_identical_and_nothing_else(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path, compression: str
) -> None:
    report = _back_up(
        kafka, tmp_path, "all", "-t", "mixed.*", "--set", f"backup.compression={compression}",
        "--set", "backup.segment_max_bytes=300KiB",
    )  # fmt: skip
    assert report["status"] == "complete"
    assert {topic["topic"] for topic in report["topics"]} == set(mixed)
    assert run_kbr_json("verify", "all", "--deep", "--storage", str(tmp_path))["undamaged"]
    prefix = f"back-{compression}-"
    restored = _restore(kafka, tmp_path, "all", *_mapping(mixed, prefix), *CLEANER_OFF_SETS)
    assert restored["status"] == "complete"
    for topic in mixed:
        source = kafka.read_all(topic)
        target = kafka.read_all(prefix + topic)
        assert len(source) == len(target), topic
        for number, (before, after) in enumerate(zip(source, target)):
            assert [one.exact for one in before] == [one.exact for one in after], f"{topic}[{number}]"
    assert sum(one["records"] for one in report["topics"]) == restored["totals"]["records"]


def test_the_archive_holds_the_offsets_of_the_source(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    chosen = ["mixed.compacted", "mixed.transactional", "mixed.headers", "mixed.no-timestamps"]
    _back_up(kafka, tmp_path, "offsets", *[word for topic in chosen for word in ("-t", topic)])
    for topic in chosen:
        for number, expected in enumerate(kafka.read_all(topic)):
            folder = tmp_path / "offsets" / "topics" / topic / f"partition={number}"
            records = []
            for path in sorted(folder.glob("segment-*")):
                index, found = read_segment(path.read_bytes())
                assert index["topic"] == topic
                records.extend(found)
            assert [record[0] for record in records] == [one.offset for one in expected], topic


def test_topics_come_back_with_their_partitions_and_configs(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    _back_up(kafka, tmp_path, "configs", "-t", "mixed.configured", "-t", "mixed.empty-wide")
    _restore(kafka, tmp_path, "configs", *_mapping(["mixed.configured", "mixed.empty-wide"], "as-it-was-"))
    configs = kafka.topic_configs("as-it-was-mixed.configured")
    assert sorted(configs["cleanup.policy"].split(",")) == ["compact", "delete"]
    assert configs["segment.ms"] == "86400000"
    assert len(kafka.read_all("as-it-was-mixed.empty-wide")) == 12


def test_a_time_window_restores_exactly_its_records(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    _back_up(kafka, tmp_path, "window", "-t", "mixed.late", "-t", "mixed.plain", "-t", "mixed.no-timestamps")
    topics = ["mixed.late", "mixed.plain", "mixed.no-timestamps"]
    start, end = BASE_MS + 1_000, BASE_MS + 200_000_000
    _restore(
        kafka, tmp_path, "window", *_mapping(topics, "win-"), "--from-timestamp", str(start), "--to-timestamp", str(end)
    )
    for topic in topics:
        for before, after in zip(kafka.read_all(topic), kafka.read_all(f"win-{topic}")):
            expected = [one.exact for one in before if start <= one.timestamp <= end]
            assert [one.exact for one in after] == expected, topic


def test_partitions_go_where_the_mapping_says(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    _back_up(kafka, tmp_path, "moved", "-t", "mixed.tombstones")
    _restore(
        kafka, tmp_path, "moved", "--topic-map", "mixed.tombstones=moved",
        "--partition-map", "mixed.tombstones:0=3", "--partition-map", "mixed.tombstones:1=0",
    )  # fmt: skip
    source = kafka.read_all("mixed.tombstones")
    target = kafka.read_all("moved")
    assert [len(one) for one in target] == [len(source[1]), 0, 0, len(source[0])]
    assert [one.exact for one in target[3]] == [one.exact for one in source[0]]


def test_a_dry_run_writes_nothing(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    planned = _back_up(kafka, tmp_path / "store", "dry", "-t", "mixed.plain", "--dry-run")
    assert planned["status"] == "planned"
    assert not (tmp_path / "store").exists()
    _back_up(kafka, tmp_path / "store", "dry", "-t", "mixed.plain")
    plan = _restore(kafka, tmp_path / "store", "dry", *_mapping(["mixed.plain"], "dry-"), "--dry-run")["plan"]
    assert plan["records"] == 3000
    assert plan["topics_to_create"][0]["topic"] == "dry-mixed.plain"
    assert not kafka.topic_exists("dry-mixed.plain")


def test_the_offset_header_is_added_when_asked_for(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    _back_up(kafka, tmp_path, "marked", "-t", "mixed.compacted")
    _restore(
        kafka, tmp_path, "marked", *_mapping(["mixed.compacted"], "marked-"),
        "--set", "restore.include_original_offset_header=true", *CLEANER_OFF_SETS,
    )  # fmt: skip
    source, target = kafka.read_all("mixed.compacted")[0], kafka.read_all("marked-mixed.compacted")[0]
    marks = [dict(one.headers)["x-original-offset"] for one in target]
    assert [int(mark or b"-1") for mark in marks] == [one.offset for one in source]


@pytest.mark.fault("R4", "a target with records", promise=5)
def test_a_target_with_other_records_is_refused_unless_told_to_append(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    _back_up(kafka, tmp_path, "full", "-t", "mixed.null-keys")
    mapping = _mapping(["mixed.null-keys"], "full-")
    _restore(kafka, tmp_path, "full", *mapping)
    restored = kafka.read_all("full-mixed.null-keys")
    again = _restore(kafka, tmp_path, "full", *mapping)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, sum(map(len, restored)))
    assert kafka.read_all("full-mixed.null-keys") == restored
    send(kafka.producer(), "full-mixed.null-keys", [{"partition": 1, "value": b"somebody else's"}])
    before = kafka.read_all("full-mixed.null-keys")
    refused = run_kbr("restore", "-b", kafka.bootstrap, "--backup-id", "full", "--storage", str(tmp_path), *mapping)
    assert refused.returncode == 13
    assert f"the backup's records end before its offset {len(restored[1])}" in refused.stderr
    assert kafka.read_all("full-mixed.null-keys") == before
    _restore(kafka, tmp_path, "full", *mapping, "--append")
    assert [len(one) for one in kafka.read_all("full-mixed.null-keys")] == [
        len(one) + len(other) for one, other in zip(before, restored)
    ]


def test_internal_topics_are_left_out_unless_asked_for(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    plan = _back_up(kafka, tmp_path, "internal", "-t", "*", "--dry-run")
    assert not [one for one in plan["topics"] if one["topic"].startswith("__")]
    plan = _back_up(
        kafka, tmp_path, "internal", "-t", "__*", "--set", "backup.include_internal_topics=true", "--dry-run"
    )
    assert "__transaction_state" in {one["topic"] for one in plan["topics"]}


def test_excluded_topics_are_left_out(kafka: KafkaHarness, mixed: list[str], tmp_path: Path) -> None:
    plan = _back_up(kafka, tmp_path, "some", "-t", "mixed.*", "--exclude-topic", "mixed.e*", "--dry-run")
    names = {one["topic"] for one in plan["topics"]}
    assert "mixed.plain" in names
    assert not [name for name in names if name.startswith("mixed.e")]


@pytest.mark.timeout(200)
def test_the_same_holds_on_s3(kafka: KafkaHarness, mixed: list[str], s3) -> None:
    bucket = s3.make_bucket()
    place = f"s3://{bucket}/some/prefix"
    topics = ["mixed.wide", "mixed.large", "mixed.transactional", "mixed.zstd"]
    _back_up(kafka, place, "s3", *[word for topic in topics for word in ("-t", topic)], env=s3.env)
    assert run_kbr_json("verify", "s3", "--deep", "--storage", place, env=s3.env)["undamaged"]
    listed = run_kbr_json("list", "--storage", place, env=s3.env)["backups"]
    assert [one["backup_id"] for one in listed] == ["s3"]
    _restore(kafka, place, "s3", *_mapping(topics, "from-s3-"), env=s3.env)
    for topic in topics:
        for before, after in zip(kafka.read_all(topic), kafka.read_all(f"from-s3-{topic}")):
            assert [one.exact for one in before] == [one.exact for one in after], topic


def test_the_manifest_says_what_the_format_page_says(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    _back_up(kafka, tmp_path, "manifest", "-t", "mixed.some-empty-partitions")
    manifest = json.loads((tmp_path / "manifest" / "manifest.json").read_text())
    (topic,) = manifest["topics"]
    assert topic["partition_count"] == 7
    assert topic["topic_id"]
    assert topic["replication_factor"] == 1
    assert [partition["partition"] for partition in topic["partitions"]] == list(range(7))
    assert all(partition["status"] == "complete" for partition in topic["partitions"])
    first = topic["partitions"][0]
    assert first["next_offset"] == first["end_offset_exclusive"] == 300
    wanted = {"key", "start_offset", "end_offset", "start_timestamp", "end_timestamp", "record_count", "sha256"}
    assert wanted <= set(first["segments"][0])
    described = run_kbr_json("describe", "manifest", "--storage", str(tmp_path))
    assert described["totals"]["records"] == 900
