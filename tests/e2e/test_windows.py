"""Windows on a real Kafka, by the command line: backups, restores and kbr cat of a window, judged by a plain consumer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kbr
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, Read
from tests.support.waiting import wait_until

T0 = 1_714_564_800_000
SECOND = 1000


@pytest.fixture(scope="module")
def topic(kafka: KafkaHarness) -> str:
    """Three partitions; of 3,000 records every tenth is out of order by up to 200 s, early and late."""
    name = kafka.create_topic(kafka.topic_name("windows"), 3)
    rng = random.Random(7)
    records = []
    for number in range(3000):
        stamp = T0 + number * 100 + (rng.randrange(-200, 201) * SECOND if number % 10 == 3 else 0)
        records.append((number % 3, b"key-%d" % number, b"value %d" % number, stamp))
    produce(kafka, name, records)
    return name


def produce(kafka: KafkaHarness, topic: str, records: list[tuple[int, bytes, bytes, int]]) -> None:
    producer = kafka.producer()
    for partition, key, value, stamp in records:
        producer.produce(topic, value, key, partition, timestamp=stamp)
    assert producer.flush(30) == 0


def back_up(kafka: KafkaHarness, folder: Path, topic: str, *more: str, exit_code: int = 0, backup_id: str = "b") -> Any:
    return run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", backup_id, "--storage", str(folder), "-t", topic, *more,
        exit_code=exit_code,
    )  # fmt: skip


def archived(folder: Path, backup_id: str = "b") -> dict[int, list[tuple[int, bytes | None, int]]]:
    found: dict[int, list[tuple[int, bytes | None, int]]] = {}
    with kbr.open_backup(str(folder), backup_id) as backup:
        for one in backup.records():
            found.setdefault(one.partition, []).append((one.offset, one.value, one.timestamp))
    return found


def expected(kafka: KafkaHarness, topic: str, wanted: Callable[[Read], bool]) -> dict[int, list[tuple[int, bytes | None, int]]]:
    return {
        number: rows
        for number, records in enumerate(kafka.read_all(topic))
        if (rows := [(one.offset, one.value, one.timestamp) for one in records if wanted(one)])
    }


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("start", "end"),
    [(T0 + 100 * SECOND, T0 + 160 * SECOND), (T0 + 200 * SECOND, None), (None, T0 + 50 * SECOND), (T0 + 20 * SECOND, T0 + 20 * SECOND)],
)
def test_a_backup_of_a_window_holds_each_record_of_it_and_no_other_also_out_of_order(
    kafka: KafkaHarness, topic: str, tmp_path: Path, start: int | None, end: int | None
) -> None:
    flags = [*(() if start is None else ("--from-timestamp", str(start))), *(() if end is None else ("--to-timestamp", str(end)))]
    report = back_up(kafka, tmp_path, topic, *flags)
    due = expected(
        kafka, topic, lambda one: (start is None or start <= one.timestamp) and (end is None or one.timestamp <= end)
    )
    assert report["status"] == "complete"
    assert archived(tmp_path) == due
    assert sum(map(len, due.values())) == report["totals"]["records"] > 0
    assert run_kbr("verify", "b", "--storage", str(tmp_path), "--deep").returncode == 0
    source = run_kbr_json("describe", "b", "--storage", str(tmp_path))["source"]
    assert (source["time_window_start_ms"], source["time_window_end_ms"]) == (start, end)


@pytest.mark.timeout(200)
def test_a_backup_of_a_window_goes_on_with_that_window_and_no_other(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("grows"), 2)
    produce(kafka, topic, [(0, b"", b"early", T0), (0, b"", b"first", T0 + 10), (1, b"", b"early", T0)])
    back_up(kafka, tmp_path, topic, "--from-timestamp", str(T0 + 5))
    assert archived(tmp_path) == {0: [(1, b"first", T0 + 10)]}
    produce(kafka, topic, [(0, b"", b"late", T0 + 1), (0, b"", b"second", T0 + 20), (1, b"", b"third", T0 + 5)])
    for other in ([], ["--from-timestamp", str(T0 + 6)], ["--from-timestamp", str(T0 + 5), "--to-timestamp", str(T0 + 15)]):
        done = run_kbr(
            "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "-t", topic, *other
        )
        assert done.returncode == 13
        assert f"give --from-timestamp {T0 + 5} to go on" in done.stderr
    assert archived(tmp_path) == {0: [(1, b"first", T0 + 10)]}
    report = back_up(kafka, tmp_path, topic, "--from-timestamp", str(T0 + 5))
    assert report["added"]["records"] == 2
    assert archived(tmp_path) == {0: [(1, b"first", T0 + 10), (3, b"second", T0 + 20)], 1: [(1, b"third", T0 + 5)]}
    assert run_kbr("verify", "b", "--storage", str(tmp_path), "--deep").returncode == 0
    # one that was taken without a window does not get one
    back_up(kafka, tmp_path, topic, backup_id="whole")
    done = run_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "whole", "--storage", str(tmp_path), "-t", topic, "--last", "1h"
    )
    assert done.returncode == 13
    assert "leave the time window out to go on" in done.stderr


@pytest.mark.timeout(200)
def test_a_backup_of_a_window_that_was_killed_goes_on_without_a_loss_or_a_double(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("killed"), 1)
    rng = random.Random(3)
    stamps = [T0 + number * SECOND + rng.choice([0, 0, 0, -50 * SECOND, 50 * SECOND]) for number in range(600)]
    produce(kafka, topic, [(0, b"", rng.randbytes(20_000), stamp) for stamp in stamps])
    window = (T0 + 60 * SECOND, T0 + 500 * SECOND)
    flags = ["--from-timestamp", str(window[0]), "--to-timestamp", str(window[1]), "--set", "backup.segment_max_bytes=1MiB"]
    killed = start_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "-t", topic, *flags,
        "--rate-limit", "3MB/s",
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(tmp_path.rglob("segment-*"))) >= 2, deadline_s=60, what="two segments")
    finally:
        killed.kill()
        killed.communicate(timeout=30)
    there = len(list(tmp_path.rglob("segment-*")))
    report = back_up(kafka, tmp_path, topic, *flags, "--set", "backup.lock_wait_ms=120000", "--set", "backup.lock_life_ms=3000")
    assert report["resumed"]
    assert report["totals"]["segments"] > there
    assert archived(tmp_path) == expected(kafka, topic, lambda one: window[0] <= one.timestamp <= window[1])
    assert run_kbr("verify", "b", "--storage", str(tmp_path), "--deep").returncode == 0


@pytest.mark.timeout(200)
def test_a_window_without_a_record_is_a_whole_backup_of_nothing(kafka: KafkaHarness, topic: str, tmp_path: Path) -> None:
    report = back_up(kafka, tmp_path, topic, "--last", "1h")
    assert (report["status"], report["totals"]["records"]) == ("complete", 0)
    assert any("no record lies in the time window" in one for one in report["warnings"])
    plan = back_up(kafka, tmp_path, topic, "--from-timestamp", str(T0 + 250 * SECOND), "-n", backup_id="planned")
    assert 0 < plan["totals"]["offsets"] < 3000


@pytest.mark.timeout(200)
def test_records_of_aborted_transactions_do_not_hide_where_a_window_begins(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("aborted"), 1)
    producer = kafka.producer(transactional_id=f"tx-{topic}")
    producer.init_transactions(30)
    for commits, stamp in ((True, T0), (False, T0 + 50), (True, T0 + 60), (True, T0 + 10), (False, T0 + 90)):
        producer.begin_transaction()
        for number in range(3):
            producer.produce(topic, b"%d" % number, timestamp=stamp + number)
        producer.commit_transaction(30) if commits else producer.abort_transaction(30)
    back_up(kafka, tmp_path, topic, "--from-timestamp", str(T0 + 11))
    due = expected(kafka, topic, lambda one: one.timestamp >= T0 + 11)
    assert [value for _, value, _ in due[0]] == [b"0", b"1", b"2", b"1", b"2"]
    assert archived(tmp_path) == due


@pytest.mark.timeout(200)
def test_cat_prints_what_a_consumer_reads(kafka: KafkaHarness, topic: str, tmp_path: Path) -> None:
    back_up(kafka, tmp_path, topic)
    lines = run_kbr("cat", "b", "--storage", str(tmp_path), "-t", topic, "-J").stdout.splitlines()
    printed = [json.loads(line) for line in lines]
    read = [one for records in kafka.read_all(topic) for one in records]
    assert [(one["partition"], one["offset"], one["key"], one["value"], one["timestamp_ms"]) for one in printed] == [
        (one.partition, one.offset, one.key.decode(), one.value.decode(), one.timestamp) for one in read
    ]
    done = run_kbr("cat", "b", "--storage", str(tmp_path), "-t", topic, "-p", "1", "-o", "500", "-c", "2", "-f", r"%o %s\n")
    assert done.stdout == "500 value 1501\n501 value 1504\n"


@pytest.mark.timeout(300)
def test_a_restore_of_some_offsets_sends_those_goes_on_and_maps_them(
    kafka: KafkaHarness, topic: str, tmp_path: Path
) -> None:
    back_up(kafka, tmp_path, topic)
    target = f"{topic}-cut"
    flags = [
        "restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "--topic-map", f"{topic}={target}",
        "--offsets", f"{topic}:0=100-199", "--offsets", f"{topic}:1=900-", "--to-timestamp", str(T0 + 300 * SECOND),
    ]  # fmt: skip
    source = kafka.read_all(topic)
    wanted = [
        [one for one in source[0] if 100 <= one.offset <= 199 and one.timestamp <= T0 + 300 * SECOND],
        [one for one in source[1] if one.offset >= 900 and one.timestamp <= T0 + 300 * SECOND],
        [one for one in source[2] if one.timestamp <= T0 + 300 * SECOND],
    ]
    plan = run_kbr_json(*flags, "-n")["plan"]
    assert [(one["partition"], one["start_offset"], one["end_offset"]) for one in plan["offset_windows"]] == [
        (0, 100, 199),
        (1, 900, None),
    ]
    report = run_kbr_json(*flags)
    assert report["totals"]["records"] == sum(map(len, wanted))
    assert [[one.exact for one in records] for records in kafka.read_all(target)] == [
        [one.exact for one in records] for records in wanted
    ]
    # the same again finds all of it there, and sends nothing
    again = run_kbr_json(*flags)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, sum(map(len, wanted)))
    ranges = run_kbr_json("offsets", "export", "b", "--storage", str(tmp_path))["ranges"]
    pairs = {
        (one["source_partition"], one["source_start"] + n): one["target_start"] + n for one in ranges for n in range(one["count"])
    }
    assert pairs == {
        (number, one.offset): position for number, records in enumerate(wanted) for position, one in enumerate(records)
    }
    # another window is another restore, which the records that are there are in the way of
    assert run_kbr(*flags, "--offsets", f"{topic}:2=5-6").returncode == 13
