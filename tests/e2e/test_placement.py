"""Restores to other partitions on a real Kafka, by the command line: judged by plain consumers and Kafka's own clients."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, Read
from tests.support.plain_routes import murmur2
from tests.support.process_tree import KbrRun
from tests.support.waiting import wait_until

KEY_COUNT = 97


def fill(kafka: KafkaHarness, topic: str, count: int, *, first: int = 0, keyless: bool = True) -> None:
    """Records keyed by Kafka's own client; every tenth without a key, unless all have one."""
    producer = kafka.producer(partitioner="murmur2_random")
    for n in range(first, first + count):
        key = None if keyless and n % 10 == 9 else b"key-%d" % (n * 31 % KEY_COUNT)
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
        pytest.param("consistent", ("consistent", "consistent_random"), 2, marks=pytest.mark.long),
        pytest.param("round-robin", (), 5, marks=pytest.mark.long),
    ],
)
def test_a_topic_is_spread_over_another_number_of_partitions(
    kafka: KafkaHarness, tmp_path: Path, partitioner: str, clients: tuple[str, ...], count: int
) -> None:
    source = kafka.create_topic(kafka.topic_name("spread"), 3)
    fill(kafka, source, 6000)
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
    # without notes, everything is compared
    shutil.rmtree(tmp_path / "b" / "restores")
    again = restore(kafka, tmp_path, *words)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, 6000)
    assert_lanes(kafka.read_all(target), lanes)


@pytest.mark.parametrize(
    "partitioner", [pytest.param("murmur2", marks=pytest.mark.long), pytest.param("consistent", marks=pytest.mark.long), "round-robin"]
)
def test_a_killed_one_goes_on_and_the_backup_may_have_grown_meanwhile(
    kafka: KafkaHarness, tmp_path: Path, partitioner: str
) -> None:
    source = kafka.create_topic(kafka.topic_name("killed"), 3)
    fill(kafka, source, 9000)
    back_up(kafka, tmp_path, source)
    archived = kafka.read_all(source)
    target = f"{source}-again"
    words = ("--topic-suffix=-again", f"--partitioner={partitioner}", "--target-partitions", f"{source}=5", "--workers=2")
    for share in (0.2, 0.6):
        process = start_kbr(*restore_words(kafka, tmp_path, *words, "--rate-limit", "300kB/s"))
        try:
            wait_until(
                lambda wanted=9000 * share: kafka.topic_exists(target) and kafka.count(target) > wanted,
                deadline_s=60,
                what=f"{share} of the records",
            )
        finally:
            process.kill()
            process.communicate()
    fill(kafka, source, 500, first=9000)
    back_up(kafka, tmp_path, source)
    report = restore(kafka, tmp_path, *words)
    assert report["status"] == "complete"
    assert report["totals"]["records"] + report["totals"]["already_there"] == 9000
    assert report["totals"]["already_there"] > 5000
    assert any("has more of" in warning for warning in report["warnings"])
    lanes = expected_lanes(archived, partitioner, 5)
    assert_lanes(kafka.read_all(target), lanes)
    assert mapped(kafka, tmp_path, report["restore_id"]) == {
        (source, number, record.offset): (target, place, at)
        for place, lane in enumerate(lanes)
        for at, (number, record) in enumerate(lane)
    }


def test_a_time_window_and_chosen_partitions_are_spread_too(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("cut"), 4)
    producer = kafka.producer(partitioner="murmur2_random")
    for n in range(4000):
        producer.produce(source, key=b"key-%d" % (n % KEY_COUNT) if n % 7 else None, value=b"%d" % n, timestamp=1_700_000_000_000 + n)
    assert producer.flush(30) == 0
    back_up(kafka, tmp_path, source)
    target = kafka.create_topic(f"{source}-cut", 3)
    window = (1_700_000_000_700, 1_700_000_003_100)
    report = restore(
        kafka, tmp_path, "--topic-map=cut-*=cut-*-cut", "--partitioner=murmur2",
        f"--source-partitions={source}:1-2", "--from-timestamp", str(window[0]), "--to-timestamp", str(window[1]),
        "--topic-config=retention.ms=-1",
    )  # fmt: skip
    archived = [records if number in (1, 2) else [] for number, records in enumerate(kafka.read_all(source))]
    lanes = [
        [(number, one) for number, one in lane if window[0] <= one.timestamp <= window[1]]
        for lane in expected_lanes(archived, "murmur2", 3)
    ]
    assert report["totals"]["records"] == sum(map(len, lanes)) > 500
    assert_lanes(kafka.read_all(target), lanes)


def test_partitions_that_are_merged_come_one_behind_the_other(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("merged"), 3)
    fill(kafka, source, 1500)
    back_up(kafka, tmp_path, source)
    moves = (f"--partition-map={source}:1=0", f"--topic-map={source}=into-{source}")
    refused = run_kbr(*restore_words(kafka, tmp_path, *moves, "--dry-run"))
    assert refused.returncode == 2
    assert "would both be restored to" in refused.stderr
    assert "--merge" in refused.stderr
    report = restore(kafka, tmp_path, *moves, "--merge")
    archived, found = kafka.read_all(source), kafka.read_all(f"into-{source}")
    assert [one.exact for one in found[0]] == [one.exact for one in (*archived[0], *archived[1])]
    assert found[1] == []
    assert [one.exact for one in found[2]] == [one.exact for one in archived[2]]
    expected = {
        **{(source, 0, one.offset): (f"into-{source}", 0, at) for at, one in enumerate(archived[0])},
        **{(source, 1, one.offset): (f"into-{source}", 0, len(archived[0]) + at) for at, one in enumerate(archived[1])},
        **{(source, 2, one.offset): (f"into-{source}", 2, at) for at, one in enumerate(archived[2])},
    }
    assert mapped(kafka, tmp_path, report["restore_id"]) == expected
    fill(kafka, source, 300, first=1500)
    back_up(kafka, tmp_path, source)
    again = restore(kafka, tmp_path, *moves, "--merge")
    # the partition that goes alone goes on, the others stay with what they began with
    assert again["totals"]["records"] == len(kafka.read_all(source)[2]) - len(archived[2]) > 0
    assert any("has more of" in warning for warning in again["warnings"])
    assert [one.exact for one in kafka.read_all(f"into-{source}")[0]] == [one.exact for one in found[0]]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("partitioner", ["murmur2", "round-robin"])
def test_a_group_loses_nothing_by_a_repartitioned_restore(kafka: KafkaHarness, tmp_path: Path, partitioner: str) -> None:
    source = kafka.create_topic(kafka.topic_name("read"), 4)
    fill(kafka, source, 2000)
    archived = kafka.read_all(source)
    whole, half = f"whole-{source}", f"half-{source}"
    committed = {number: len(records) * share // 4 for (number, records), share in zip(enumerate(archived), (0, 1, 3, 4), strict=True)}
    kafka.commit(whole, {(source, number): offset for number, offset in committed.items()})
    kafka.commit(half, {(source, number): offset for number, offset in committed.items() if number in (2, 3)})
    run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "-t", source,
        "--group", whole, "--group", half,
    )  # fmt: skip
    target = f"{source}-3"
    report = restore(
        kafka, tmp_path, f"--topic-map={source}={target}", f"--partitioner={partitioner}", "--target-partitions=3", "--groups"
    )
    assert report["groups"]["status"] == "complete", report["groups"]
    lanes = expected_lanes(archived, partitioner, 3)
    assert_lanes(kafka.read_all(target), lanes)
    for group, known in ((whole, committed), (half, {number: committed[number] for number in (2, 3)})):
        places = {number: offset for (topic, number), offset in kafka.committed(group).items() if topic == target}
        assert set(places) == {0, 1, 2}
        for number, lane in enumerate(lanes):
            unread = [at for at, (part, record) in enumerate(lane) if record.offset >= known.get(part, 0)]
            # the first one that it has not read, and never further
            assert places[number] == min(unread, default=len(lane))


def test_keys_lie_where_the_java_client_puts_them(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("java"), 2)
    fill(kafka, source, 500)
    back_up(kafka, tmp_path, source)
    restore(kafka, tmp_path, "--topic-suffix=-7", "--partitioner=murmur2", "--target-partitions=7")
    by_java = kafka.create_topic(kafka.topic_name("by-java"), 7)
    lines = "".join(f"key-{n}:x\n" for n in range(KEY_COUNT))
    kafka.java(
        "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", kafka.bootstrap, "--topic", by_java,
        "--property", "parse.key=true", "--property", "key.separator=:", given=lines,
    )  # fmt: skip
    places = {one.key: one.partition for records in kafka.read_all(by_java) for one in records}
    assert len(places) == KEY_COUNT
    restored = [one for records in kafka.read_all(f"{source}-7") for one in records if one.key is not None]
    assert len({one.key for one in restored}) > 50
    assert all(places[one.key] == one.partition for one in restored)


def test_existing_topics_are_compared_changed_or_refused(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("there"), 3, {"max.message.bytes": "2000000", "cleanup.policy": "compact,delete"})
    fill(kafka, source, 300, keyless=False)  # a compacted topic takes no others
    back_up(kafka, tmp_path, source)
    target = kafka.create_topic(f"{source}-old", 1, {"segment.bytes": "5000000", "cleanup.policy": "delete"})
    words = ("--topic-suffix=-old", "--partitioner=consistent", "--target-partitions=4")

    def refused(choice: str, *more: str) -> str:
        done = run_kbr(*restore_words(kafka, tmp_path, *words, f"--existing-topics={choice}", *more))
        assert done.returncode == 13, done.stderr
        return done.stderr

    assert f"{target} exists already" in refused("fail", "--dry-run")
    assert "has 1 partitions, the restore needs 4" in refused("keep")
    assert kafka.count(target) == 0
    planned = restore(kafka, tmp_path, *words, "--existing-topics=apply", "--topic-config=max.message.bytes=3000000", "--dry-run")
    assert f"{target}: gets 3 partitions more" in planned["warnings"]
    assert f"{target}: segment.bytes is 5000000, and is put back to its default" in planned["warnings"]
    assert kafka.topic_configs(target)["max.message.bytes"] != "3000000"
    report = restore(kafka, tmp_path, *words, "--existing-topics=apply", "--topic-config=max.message.bytes=3000000")
    assert report["totals"]["records"] == 300
    configs = kafka.topic_configs(target)
    assert (configs["max.message.bytes"], configs["cleanup.policy"]) == ("3000000", "compact,delete")
    assert configs["segment.bytes"] != "5000000"
    assert len(kafka.read_all(target)) == 4


def test_check_lists_all_that_is_different_and_takes_what_is_not(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("same"), 2, {"max.message.bytes": "2000000"})
    fill(kafka, source, 100)
    back_up(kafka, tmp_path, source)
    kafka.create_topic(f"{source}-other", 3, {"max.message.bytes": "1000000", "segment.ms": "7000000"})
    done = run_kbr(*restore_words(kafka, tmp_path, "--topic-suffix=-other", "--existing-topics=check"))
    assert done.returncode == 13
    for part in ("has 3 partitions, not 2", "max.message.bytes=1000000, not 2000000", "segment.ms=7000000, not its default"):
        assert part in done.stderr
    kafka.create_topic(f"{source}-same", 2, {"max.message.bytes": "2000000"})
    words = ("--topic-suffix=-same", "--existing-topics=check")
    assert restore(kafka, tmp_path, *words)["totals"]["records"] == 100
    # it goes on with what it has made itself, whatever is said about others
    report = restore(kafka, tmp_path, "--topic-suffix=-made", "--existing-topics=fail")
    assert report["totals"]["records"] == 100
    fill(kafka, source, 50, first=100)
    back_up(kafka, tmp_path, source)
    assert restore(kafka, tmp_path, "--topic-suffix=-made", "--existing-topics=fail")["totals"]["records"] == 50


def test_schemas_and_internal_topics_are_restored_by_name_only(kafka: KafkaHarness, tmp_path: Path) -> None:
    schemas = kafka.create_topic("_schemas", 1, {"cleanup.policy": "compact"})
    plain = kafka.create_topic(kafka.topic_name("plain"), 1)
    producer = kafka.producer()
    producer.produce(schemas, key=b"schema", value=b"{}")
    producer.produce(plain, key=b"a", value=b"b")
    assert producer.flush(30) == 0
    kafka.consume_some(plain, kafka.topic_name("reader"), 1)
    run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "-t", f"{plain},_schemas",
        "-t", "__consumer_offsets", "--set", "backup.include_internal_topics=true",
    )  # fmt: skip
    report = restore(kafka, tmp_path, "--topic-prefix=re.", "--dry-run")
    assert [one["topic"] for one in report["topics"]] == [plain]
    assert any("__consumer_offsets, _schemas: not restored" in warning for warning in report["warnings"])
    report = restore(kafka, tmp_path, "--topic-prefix=re.", "-t", "_schemas,__consumer_offsets", "--dry-run")
    assert [one["target"] for one in report["topics"]] == ["re.__consumer_offsets", "re._schemas"]
    assert any("must not run while it is restored" in warning for warning in report["warnings"])
    done = run_kbr(*restore_words(kafka, tmp_path, "-t", "__consumer_offsets", "--dry-run"))
    assert done.returncode == 13
    assert "written by its brokers alone" in done.stderr


@pytest.mark.timeout(240)
def test_a_worker_that_dies_is_stood_in_for_and_nothing_is_there_twice(kafka: KafkaHarness, tmp_path: Path) -> None:
    source = kafka.create_topic(kafka.topic_name("worker"), 3)
    fill(kafka, source, 6000)
    back_up(kafka, tmp_path, source)
    target = f"{source}-w"
    words = restore_words(
        kafka, tmp_path, "--topic-suffix=-w", "--partitioner=murmur2", "--target-partitions=5", "--workers=2",
        "--rate-limit", "200kB/s", "-o", "json",
    )  # fmt: skip
    with KbrRun(*words) as run:
        wait_until(
            lambda: kafka.topic_exists(target) and kafka.count(target) > 1500, deadline_s=60, what="a quarter of the records"
        )
        os.kill(run.pids_of("worker")[0], signal.SIGKILL)
        assert run.wait(150) == 0, run.output
    assert_lanes(kafka.read_all(target), expected_lanes(kafka.read_all(source), "murmur2", 5))
