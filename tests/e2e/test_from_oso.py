"""Backups of OSO kafka-backup by the command line, restored to a real Kafka: judged by a plain consumer, and never written to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kbr.storage import StorageOptions, open_store
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness
from tests.support.kbak import OsoBackup, Row, look, put_files, rows_of
from tests.support.s3_proxy import S3Proxy
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000
KEEP = ("--set", "restore.topic_configs.retention.ms=-1")
READS = {"GET", "HEAD", "LIST"}
Segments = dict[tuple[str, int], list[list[Row]]]


def segments_of(size: int = 20) -> Segments:
    return {
        ("orders", 0): [rows_of(0, 700, timestamp=BASE_MS, size=size), rows_of(700, 300, timestamp=BASE_MS, step=2)],
        ("orders", 2): [rows_of(1000, 500, timestamp=BASE_MS + 100_000, step=7, size=size)],
        ("payments", 0): [
            [
                Row(5, BASE_MS, None, None),
                Row(6, BASE_MS + 1, b"", b"", ((b"", b""), (b"a", b"1"), (b"a", b"2"), (b"\xc3\xa4", b"x"))),
                Row(7, BASE_MS - 1, b"k", b"x" * 900_000, ((b"x-original-offset", b"5"), (b"x-source-cluster", b"mine"))),
            ]
        ],
    }


def write(put: Any, segments: Segments, **options: Any) -> OsoBackup:
    one = OsoBackup(put, **options)
    one.topic("orders", 4, source_replication_factor=1, configurations={"cleanup.policy": "delete"})
    one.topic("payments", None)
    one.topic("empty", 2)
    for (topic, number), some in segments.items():
        one.partition(topic, number, some)
    one.groups({"readers": {"orders": {0: 12}}})
    one.finish()
    return one


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Whatever is done in it, the folder is as it was: names, bytes, times of change."""
    before = look(folder)
    try:
        yield
    finally:
        assert look(folder) == before


def expected(rows: list[Row]) -> list[tuple[object, ...]]:
    return [
        (row.key, row.value, tuple((name.decode(), value) for name, value in row.headers), 1, row.timestamp)
        for row in rows
    ]


def assert_restored(kafka: KafkaHarness, segments: Segments, names: Mapping[str, str], counts: Mapping[str, int]) -> None:
    for topic, target in names.items():
        found = kafka.read_all(target)
        assert len(found) == counts[topic]
        for number, records in enumerate(found):
            due = [row for some in segments.get((topic, number), []) for row in some]
            assert [one.exact for one in records] == expected(due), f"{topic}[{number}]"


COUNTS = {"orders": 4, "payments": 1, "empty": 2}


def mapped(prefix: str) -> tuple[dict[str, str], list[str]]:
    names = {topic: f"{prefix}-{topic}" for topic in COUNTS}
    return names, [word for pair in names.items() for word in ("--topic-map", "=".join(pair))]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("compression", "options"),
    [
        ("zstd", {"cluster": "east"}),
        ("lz4", {"old_names": True}),
        ("none", {"added": False, "key_prefix": "some/prefix/"}),
    ],
)
def test_a_backup_of_kafka_backup_is_listed_described_verified_and_restored(
    kafka: KafkaHarness, tmp_path: Path, compression: str, options: dict[str, Any]
) -> None:
    segments = segments_of()
    write(put_files(tmp_path), segments, compression=compression, **options)
    place = ("--storage", str(tmp_path))
    with unchanged(tmp_path):
        (listed,) = run_kbr_json("list", *place)["backups"]
        assert (listed["backup_id"], listed["made_by"], listed["records"]) == ("daily", "OSO kafka-backup", 1503)
        assert (listed["topics"], listed["partitions"], listed["segments"]) == (3, 7, 4)
        described = run_kbr_json("describe", "daily", *place)
        assert described["made_by"] == "OSO kafka-backup"
        assert [one["topic"] for one in described["topics"]] == ["empty", "orders", "payments"]
        table = run_kbr("describe", "daily", *place)
        assert f"Stored as: {compression}, by OSO kafka-backup" in table.stdout
        for deep in ((), ("--deep",)):
            verified = run_kbr_json("verify", "daily", *deep, *place)
            assert verified["undamaged"]
            assert verified["records"] == (1503 if deep else None)
        groups = run_kbr_json("groups", "list", "daily", *place)
        assert [one["group"] for one in groups["groups"]] == ["readers"]

        names, words = mapped(f"oso-{compression}")
        common = ("restore", "-b", kafka.bootstrap, "--backup-id", "daily", *place, *KEEP, *words)
        plan = run_kbr_json(*common, "--dry-run")
        assert plan["plan"]["records"] == 1503
        assert not kafka.topic_exists(names["orders"])
        refused = run_kbr(*common, "--groups")
        assert refused.returncode == 13
        assert "can be listed, and not put into a cluster" in refused.stderr
        assert not kafka.topic_exists(names["orders"])

        report = run_kbr_json(*common)
        assert report["status"] == "complete"
        assert report["offset_map"] is None
        assert sum("made by OSO kafka-backup" in one for one in report["warnings"]) == 1
        assert_restored(kafka, segments, names, COUNTS)
        again = run_kbr_json(*common)
        assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, 1503)
        assert_restored(kafka, segments, names, COUNTS)


def test_a_backup_of_kbrs_into_it_is_refused_and_leaves_no_trace(kafka: KafkaHarness, tmp_path: Path) -> None:
    write(put_files(tmp_path), segments_of())
    with unchanged(tmp_path):
        for more in ((), ("--dry-run",), ("--continuous",), ("--groups",)):
            refused = run_kbr(
                "backup", "-b", kafka.bootstrap, "--backup-id", "daily", "-t", "*", "--storage", str(tmp_path), *more
            )
            assert refused.returncode == 13, refused.stderr
            assert "was made by OSO kafka-backup" in refused.stderr


@pytest.mark.timeout(200)
def test_a_restore_that_was_killed_goes_on_by_what_is_in_the_target(kafka: KafkaHarness, tmp_path: Path) -> None:
    segments = segments_of(size=100)
    write(put_files(tmp_path), segments)
    names, words = mapped("oso-killed")
    common = ("restore", "-b", kafka.bootstrap, "--backup-id", "daily", "--storage", str(tmp_path), *KEEP, *words)
    with unchanged(tmp_path):
        run = start_kbr(*common, "--rate-limit", "200KB/s")
        try:
            wait_until(lambda: kafka.count(names["orders"]) > 50, deadline_s=60, what="some records in the target")
        finally:
            run.kill()
            run.communicate(timeout=30)
        time.sleep(1)
        assert kafka.count(names["orders"]) < 1500
        healed = run_kbr_json(*common)
        assert healed["status"] == "complete"
        assert healed["totals"]["already_there"] > 50
        assert healed["totals"]["already_there"] + healed["totals"]["records"] == 1503
        assert_restored(kafka, segments, names, COUNTS)


def test_a_time_window_takes_what_the_records_say(kafka: KafkaHarness, tmp_path: Path) -> None:
    segments = segments_of()
    write(put_files(tmp_path), segments)
    start, end = BASE_MS + 970, BASE_MS + 100_030
    with unchanged(tmp_path):
        run_kbr_json(
            "restore", "-b", kafka.bootstrap, "--backup-id", "daily", "--storage", str(tmp_path), "-t", "orders",
            "--topic-map", "orders=oso-window", "--from-timestamp", str(start), "--to-timestamp", str(end), *KEEP,
        )  # fmt: skip
    inside = {
        place: [[row for row in rows if start <= row.timestamp <= end] for rows in some]
        for place, some in segments.items()
    }
    assert sum(len(rows) for some in inside.values() for rows in some) > 20
    assert_restored(kafka, inside, {"orders": "oso-window"}, COUNTS)


@pytest.mark.timeout(200)
def test_on_s3_no_verb_writes_a_thing(kafka: KafkaHarness, s3, s3_network: S3Proxy) -> None:
    bucket = s3.make_bucket()
    place = f"s3://{bucket}/their/prefix"
    store = open_store(
        StorageOptions(
            url=place, endpoint_url=s3.endpoint_url, region="us-east-1", access_key=s3.access_key,
            secret_key=s3.secret_key, path_style=True,
        )
    )  # fmt: skip
    segments = segments_of()
    try:
        write(store.put, segments)
    finally:
        store.close()
    env = s3.env_through(s3_network.endpoint_url)
    names, words = mapped("oso-s3")
    run_kbr_json("list", "--storage", place, env=env)
    run_kbr_json("describe", "daily", "--storage", place, env=env)
    run_kbr_json("verify", "daily", "--deep", "--storage", place, env=env)
    run_kbr_json("groups", "list", "daily", "--storage", place, env=env)
    common = ("-b", kafka.bootstrap, "--backup-id", "daily", "--storage", place)
    assert run_kbr("backup", *common, "-t", "*", env=env).returncode == 13
    run_kbr_json("restore", *common, *KEEP, *words, env=env)
    run_kbr_json("restore", *common, *KEEP, *words, env=env)
    assert_restored(kafka, segments, names, COUNTS)
    assert len(s3_network.trace) > 20
    assert {one.operation for one in s3_network.trace} <= READS
