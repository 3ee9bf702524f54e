"""Restores to other partitions on a real Kafka, by the command line: judged by plain consumers and Kafka's own clients."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, Read
from tests.support.plain_routes import murmur2
from tests.support.waiting import wait_until

KEY_COUNT = 97


def fill(kafka: KafkaHarness, topic: str, count: int, partitions: int, *, first: int = 0) -> None:
    """Records keyed by Kafka's own client; every tenth without a key."""
    producer = kafka.producer(partitioner="murmur2_random")
    for n in range(first, first + count):
        key = None if n % 10 == 9 else b"key-%d" % (n * 31 % KEY_COUNT)
        producer.produce(topic, value=b"%d %s" % (n, b"x" * (n % 200)), key=key, headers=[("n", b"%d" % n)])
        if n % 500 == 0:
            producer.poll(0)
    assert producer.flush(30) == 0


def back_up(kafka: KafkaHarness, folder: Path, *topics: str) -> None:
    chosen = [word for topic in topics for word in ("-t", topic)]
    run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *chosen,
        "--set", "backup.segment_max_bytes=64KiB",
    )  # fmt: skip


def restore_words(kafka: KafkaHarness, folder: Path, *more: str) -> list[str]:
    return ["restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *more]


def restore(kafka: KafkaHarness, folder: Path, *more: str, exit_code: int = 0) -> Any:
    return run_kbr_json(*restore_words(kafka, folder, *more), exit_code=exit_code)


def expected_lanes(
    source: list[list[Read]], partitioner: str, count: int
) -> list[list[tuple[int, Read]]]:
    """What has to be in each target partition: source partitions in order, of each its part."""
    lanes: list[list[tuple[int, Read]]] = [[] for _ in range(count)]
    for number, records in enumerate(source):
        for position, record in enumerate(records):
            if record.key is None or partitioner == "round-robin":
                place = (position + number) % count
            elif partitioner == "murmur2":
                place = (murmur2(record.key) & 0x7FFFFFFF) % count
            else:
                place = zlib.crc32(record.key) % count
            lanes[place].append((number, record))
    return lanes


def assert_lanes(target: list[list[Read]], lanes: list[list[tuple[int, Read]]]) -> None:
    assert [len(records) for records in target] == [len(lane) for lane in lanes]
    for records, lane in zip(target, lanes, strict=True):
        assert [one.exact for one in records] == [one.exact for _, one in lane]


def places_of_client(kafka: KafkaHarness, partitioner: str, count: int) -> dict[bytes, int]:
    """Where Kafka's own client puts the keys."""
    topic = kafka.create_topic(kafka.topic_name(f"placed-{partitioner}"), count)
    producer = kafka.producer(partitioner=partitioner)
    for n in range(KEY_COUNT):
        producer.produce(topic, key=b"key-%d" % n, value=b"")
    assert producer.flush(30) == 0
    return {one.key: one.partition for records in kafka.read_all(topic) for one in records if one.key is not None}


def mapped(kafka: KafkaHarness, folder: Path, restore_id: str) -> dict[tuple[str, int, int], tuple[str, int, int]]:
    import csv
    import io

    done = run_kbr("offsets", "export", "--storage", str(folder), "b", "--restore", restore_id)
    assert done.returncode == 0, done.stderr
    return {
        (row["source_topic"], int(row["source_partition"]), int(row["source_start"]) + n): (
            row["target_topic"],
            int(row["target_partition"]),
            int(row["target_start"]) + n,
        )
        for row in csv.DictReader(io.StringIO(done.stdout))
        for n in range(int(row["count"]))
    }


@pytest.mark.parametrize(
    ("partitioner", "clients", "count"),
    [
        ("murmur2", ("murmur2", "murmur2_random"), 7),
        ("consistent", ("consistent", "consistent_random"), 2),
        ("round-robin", (), 5),
    ],
)
def test_a_topic_is_spread_over_another_number_of_partitions(
    kafka: KafkaHarness, tmp_path: Path, partitioner: str, clients: tuple[str, ...], count: int
) -> None:
    source = kafka.create_topic(kafka.topic_name("spread"), 3)
    fill(kafka, source, 6000, 3)
    back_up(kafka, tmp_path, source)
    target = f"new.{source}"
    words = ("--topic-prefix", "new.", "--partitioner", partitioner, "--target-partitions", str(count))
    report = restore(kafka, tmp_path, *words)
    assert report["totals"]["records"] == 6000
    archived, found = kafka.read_all(source), kafka.read_all(target)
    lanes = expected_lanes(archived, partitioner, count)
    assert_lanes(found, lanes)
    for client in clients:
        places = places_of_client(kafka, client, count)
        assert all(places[one.key] == one.partition for records in found for one in records if one.key is not None)
    expected = {
        (source, number, record.offset): (target, place, at)
        for place, lane in enumerate(lanes)
        for at, (number, record) in enumerate(lane)
    }
    assert mapped(kafka, tmp_path, report["restore_id"]) == expected
    again = restore(kafka, tmp_path, *words)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, 6000)
    assert again["status"] == "complete"
    # what is new goes behind: the sequence of each target partition has changed in its middle, and that is refused
    assert_lanes(kafka.read_all(target), lanes)
