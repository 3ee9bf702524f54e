"""The source changes while it is backed up, or between two runs: lost, deleted, made anew, grown. On a real broker.

What can't be had is said; what comes from another topic of the same name is never merged.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions

from tests.support.archive import FolderObjects
from tests.support.checker import check_backup, read_truth
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.plain_reader import read_segment
from tests.support.process_tree import KbrRun
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000
#: A continuous backup that a test does not have to wait long for.
QUICK = [
    "--set", "backup.segment_max_interval_ms=300", "--set", "backup.checkpoint_interval_ms=100",
    "--set", "backup.segment_max_bytes=128KiB",
]  # fmt: skip


def fill(kafka: KafkaHarness, topic: str, count: int, *, partitions: int = 1, size: int = 100, mark: str = "") -> None:
    """Records that all differ."""
    send(
        kafka.producer(), topic,
        (
            {"key": b"%s%d" % (mark.encode(), number), "value": os.urandom(size), "partition": number % partitions, "timestamp": BASE_MS + number}
            for number in range(count)
        ),
    )  # fmt: skip


def words(kafka: KafkaHarness, folder: Path, topic: str, *more: str) -> list[str]:
    return ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--storage", str(folder), *more]


def manifest(folder: Path) -> dict[str, Any]:
    """As it is now; empty before there is one."""
    path = folder / "b" / "manifest.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


def records(folder: Path) -> int:
    """Records that the manifest lists."""
    return sum(one["record_count"] for topic in manifest(folder).get("topics", ()) for one in topic["partitions"])


def records_of(folder: Path, name: str) -> int:
    """Those of one topic."""
    topics = [topic for topic in manifest(folder).get("topics", ()) if topic["name"] == name]
    return sum(one["record_count"] for topic in topics for one in topic["partitions"])


def delete_records(kafka: KafkaHarness, topic: str, before: int) -> None:
    """What retention does, at once."""
    for future in kafka.admin.delete_records([TopicPartition(topic, 0, before)]).values():
        future.result(30)


def delete_topic(kafka: KafkaHarness, topic: str) -> None:
    for future in kafka.admin.delete_topics([topic], operation_timeout=30).values():
        future.result(30)
    wait_until(lambda: not kafka.topic_exists(topic), deadline_s=30, what=f"{topic} is gone")


def identical(kafka: KafkaHarness, folder: Path, topic: str, *, status: str = "complete") -> None:
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(folder), "b", status=status)
    assert not report.anomalies, report


@contextmanager
def continuous(*command: str) -> Iterator[Callable[[], tuple[int, str, str]]]:
    """A continuous backup; call what is given to stop it and get its exit code, output and errors."""
    process: Popen[str] = start_kbr(*command, "--continuous", *QUICK, "-o", "json")

    def stop() -> tuple[int, str, str]:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    try:
        yield stop
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.fault("P1", "the same backup_id again, with new records and with none", promise=1)
def test_the_same_backup_again_adds_what_is_new_and_nothing_is_written_when_nothing_is(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("again"), partitions=2)
    fill(kafka, topic, 500, partitions=2)
    assert run_kbr_json(*words(kafka, tmp_path, topic))["added"]["records"] == 500
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts}
    second = run_kbr_json(*words(kafka, tmp_path, topic))
    assert (second["resumed"], second["added"]["segments"], second["status"]) == (True, 0, "complete")
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts}
    fill(kafka, topic, 300, partitions=2, mark="new")
    assert run_kbr_json(*words(kafka, tmp_path, topic))["added"]["records"] == 300
    identical(kafka, tmp_path, topic)


@pytest.mark.fault("K6", "between two runs", promise=4)
def test_what_retention_took_between_two_runs_is_a_gap_counted_once(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("lost-between"))
    fill(kafka, topic, 100)
    run_kbr_json(*words(kafka, tmp_path, topic))
    fill(kafka, topic, 100, mark="lost")
    delete_records(kafka, topic, 150)
    for added in (50, 0):
        report = run_kbr_json(*words(kafka, tmp_path, topic), exit_code=3)
        assert report["added"]["records"] == added
        (gap,) = report["topics"][0]["gaps"]
        assert (gap["start_offset"], gap["end_offset_exclusive"], gap["reason"]) == (100, 150, "retention")
    assert run_kbr("verify", "b", "--deep", "--storage", str(tmp_path)).returncode in (0, 3)
    assert [one["record_count"] for one in manifest(tmp_path)["topics"][0]["partitions"]] == [150]


@pytest.mark.fault("K6", "while it is read", promise=4)
def test_what_retention_takes_ahead_of_a_running_backup_is_a_gap_and_the_rest_is_read(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("lost-ahead"))
    fill(kafka, topic, 6000, size=1000)
    process = start_kbr(*words(kafka, tmp_path, topic, "--rate-limit", "1MB/s", *QUICK), "-o", "json")
    wait_until(lambda: list(tmp_path.rglob("segment-*")), deadline_s=60, what="a first segment")
    delete_records(kafka, topic, 5900)
    output, errors = process.communicate(timeout=110)
    assert process.returncode == 3, errors
    report = json.loads(output)
    (gap,) = report["topics"][0]["gaps"]
    assert (gap["end_offset_exclusive"], gap["reason"]) == (5900, "retention")
    assert report["totals"]["records"] == gap["start_offset"] + 100
    assert run_kbr("verify", "b", "--deep", "--storage", str(tmp_path)).returncode in (0, 3)


@pytest.mark.fault("K7", "deleted and made again between two runs, with fewer, as many and more records", promise=4)
@pytest.mark.parametrize("count", [10, 100, 250])
def test_a_topic_made_anew_is_never_merged_with_the_one_that_was(
    kafka: KafkaHarness, tmp_path: Path, count: int
) -> None:
    topic = kafka.create_topic(kafka.topic_name("anew"))
    fill(kafka, topic, 100)
    run_kbr_json(*words(kafka, tmp_path, topic))
    before = manifest(tmp_path)["topics"][0]["partitions"][0]["segments"]
    delete_topic(kafka, topic)
    kafka.create_topic(topic)
    fill(kafka, topic, count, mark="other")
    report = run_kbr_json(*words(kafka, tmp_path, topic), exit_code=3)
    assert "was deleted and made anew" in report["topics"][0]["failed"][0]["error"]
    assert manifest(tmp_path)["topics"][0]["partitions"][0]["segments"] == before
    restored = run_kbr_json(
        "restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "--topic-map", f"{topic}={topic}-old"
    )  # fmt: skip
    assert restored["totals"]["records"] == 100


@pytest.mark.fault("K7", "deleted and made again while it is read, with more records than were read", promise=4)
def test_nothing_of_a_topic_made_anew_while_it_is_read_is_in_the_backup(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("anew-meanwhile"))
    fill(kafka, topic, 3000, size=1000, mark="old")
    process = start_kbr(*words(kafka, tmp_path, topic, "--rate-limit", "500kB/s", *QUICK), "-o", "json")
    wait_until(lambda: records(tmp_path) > 0, deadline_s=60, what="a first segment in the manifest")
    delete_topic(kafka, topic)
    kafka.create_topic(topic)
    fill(kafka, topic, 6000, size=1000, mark="new")
    output, errors = process.communicate(timeout=110)
    assert process.returncode == 3, errors
    assert json.loads(output)["topics"][0]["failed"]
    keys = archived_keys(tmp_path)
    assert keys
    assert all(key.startswith(b"old") for key in keys)


def archived_keys(folder: Path) -> list[bytes]:
    """Keys of all records that the manifest lists."""
    return [
        record.key or b""
        for topic in manifest(folder)["topics"]
        for partition in topic["partitions"]
        for segment in partition["segments"]
        for record in read_segment((folder / "b" / segment["key"]).read_bytes())[1]
    ]


@pytest.mark.fault("K8", "new partitions and topics while a continuous backup runs", promise=1)
def test_new_partitions_and_topics_join_a_continuous_backup(kafka: KafkaHarness, tmp_path: Path) -> None:
    prefix = kafka.topic_name("joins")
    first = kafka.create_topic(f"{prefix}-a", partitions=1)
    with continuous(*words(kafka, tmp_path, f"{prefix}-*")) as stop:
        fill(kafka, first, 200)
        wait_until(lambda: records(tmp_path) == 200, deadline_s=60, what="200 records")
        for future in kafka.admin.create_partitions([NewPartitions(first, 3)]).values():
            future.result(30)
        kafka.wait_for_leaders(first, 3)
        fill(kafka, first, 300, partitions=3, mark="more")
        second = kafka.create_topic(f"{prefix}-b", partitions=2)
        fill(kafka, second, 100, partitions=2)
        wait_until(lambda: records(tmp_path) == 600, deadline_s=60, what="600 records")
        code, output, errors = stop()
    assert code == 0, errors
    assert json.loads(output)["status"] == "complete"
    for topic in (first, second):
        assert len(kafka.read_all(topic)) in (2, 3)
    report = check_backup(read_truth(kafka, [first, second]), FolderObjects(tmp_path), "b")
    assert not report.anomalies, report


@pytest.mark.fault("K8", "a topic deleted while a continuous backup runs", promise=4)
@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("continue", 0)])
def test_a_topic_that_is_deleted_under_a_continuous_backup_is_told_and_the_others_go_on(
    kafka: KafkaHarness, tmp_path: Path, policy: str, code: int
) -> None:
    prefix = kafka.topic_name("vanishes")
    kept, gone = kafka.create_topic(f"{prefix}-a"), kafka.create_topic(f"{prefix}-b")
    command = words(kafka, tmp_path, f"{prefix}-*", "--set", f"backup.on_missing_topic={policy}")
    with continuous(*command) as stop:
        fill(kafka, kept, 50)
        fill(kafka, gone, 50)
        wait_until(lambda: records(tmp_path) == 100, deadline_s=60, what="100 records")
        delete_topic(kafka, gone)
        fill(kafka, kept, 50, mark="more")
        wait_until(lambda: records(tmp_path) == 150, deadline_s=60, what="150 records")
        ended, _output, errors = stop()
    assert ended == code, errors
    assert f"{gone}: the topic is not in the cluster any more" in errors


def test_a_named_topic_that_is_missing_is_an_error_or_a_warning_as_it_was_asked_for(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("there"))
    fill(kafka, topic, 10)
    command = words(kafka, tmp_path, topic, "-t", "never-made")
    assert run_kbr(*command).returncode == 1
    report = run_kbr_json(*command, "--set", "backup.on_missing_topic=continue")
    assert any("never-made" in warning for warning in report["warnings"])
    assert report["totals"]["records"] == 10


def test_an_idle_continuous_backup_writes_no_segments(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("idle"), partitions=2)
    with continuous(*words(kafka, tmp_path, topic)) as stop:
        fill(kafka, topic, 10)
        wait_until(lambda: records(tmp_path) == 10, deadline_s=60, what="10 records")
        files = sorted(tmp_path.rglob("segment-*"))
        stamp = (tmp_path / "b" / "manifest.json").stat().st_mtime_ns
        fill(kafka, kafka.create_topic(kafka.topic_name("other")), 10)
        code, _output, errors = stop()
    assert code == 0, errors
    assert sorted(tmp_path.rglob("segment-*")) == files
    assert stamp


def write_config(config: Path, kafka: KafkaHarness, store: Path, topics: Sequence[str], *, more: str = "") -> None:
    """Of a continuous backup that makes a pass an hour."""
    config.write_text(
        f"backup_id: b\nsource: {{bootstrap_servers: '{kafka.bootstrap}', topics: {{include: {json.dumps(topics)}}}}}\n"
        f"storage: {{url: '{store}'}}\n"
        f"backup: {{continuous: true, segment_max_interval_ms: 3600000, checkpoint_interval_ms: 100{more}}}\n"
    )


@pytest.mark.fault("P6", "SIGHUP, with other topics, with a file that is wrong, with a topic that does not exist", promise=1)
def test_sighup_is_heeded_at_once_and_what_is_wrong_changes_nothing(kafka: KafkaHarness, tmp_path: Path) -> None:
    prefix = kafka.topic_name("hangup")
    first, second = kafka.create_topic(f"{prefix}-a"), kafka.create_topic(f"{prefix}-b")
    config = tmp_path / "kbr.yaml"
    store = tmp_path / "store"

    def configure(*topics: str) -> None:
        # the next pass is due in an hour: what comes sooner comes by the signal
        write_config(config, kafka, store, topics)

    configure(first)
    fill(kafka, first, 20)
    fill(kafka, second, 30)
    with KbrRun("backup", "-c", str(config)) as run:

        def hang_up(*, until: str) -> None:
            run.process.send_signal(signal.SIGHUP)
            wait_until(lambda: run.is_over or until in run.output, deadline_s=60, what=until)
            assert not run.is_over, run.output

        wait_until(lambda: records(store) == 20, deadline_s=60, what="20 records")
        configure(first, second)
        hang_up(until=f"source.topics.include: [{first}] -> [{first}, {second}]")
        wait_until(lambda: records(store) == 50, deadline_s=60, what="50 records")
        assert f"joined the backup: 1 topic with 1 partition ({second}: 1)" in run.output
        config.write_text("nonsense: [")
        hang_up(until="the configuration can't be read again, everything stays as it was")
        configure(first, second, f"{prefix}-mistyped")
        hang_up(until="the configuration that was read again is not followed, everything stays as it was")
        fill(kafka, first, 5, mark="more")
        configure(f"{prefix}-*")
        hang_up(until=f"-> [{prefix}-*]")
        wait_until(lambda: records(store) == 55, deadline_s=60, what="55 records")
        run.terminate()
        assert run.wait(60) == 0, run.output


@pytest.mark.fault("P6", "SIGHUP in the middle of a pass that would take long, then SIGTERM", promise=1)
def test_sighup_has_a_long_pass_give_way_and_what_it_had_is_kept(kafka: KafkaHarness, tmp_path: Path) -> None:
    prefix = kafka.topic_name("gives-way")
    large, small = kafka.create_topic(f"{prefix}-a"), kafka.create_topic(f"{prefix}-b")
    config = tmp_path / "kbr.yaml"
    store = tmp_path / "store"

    def configure(*topics: str) -> None:
        write_config(config, kafka, store, topics, more=", rate_limit: 300kB/s")

    configure(large)
    fill(kafka, large, 30_000, size=1000)  # 100 s at this rate
    fill(kafka, small, 30)
    with KbrRun("backup", "-c", str(config)) as run:
        wait_until(lambda: run.pids_of("worker") and manifest(store), deadline_s=60, what="the first pass")
        configure(large, small)
        run.process.send_signal(signal.SIGHUP)
        wait_until(lambda: f"-> [{large}, {small}]" in run.output, deadline_s=60, what="the other topics are followed")
        wait_until(lambda: records_of(store, small) == 30, deadline_s=60, what="the other topic's records")
        run.terminate()
        assert run.wait(60) == 0, run.output
    assert manifest(store)["status"] == "complete"
    report = check_backup(read_truth(kafka, [large, small]), FolderObjects(store), "b", to_now=False)
    assert not report.anomalies, report
    assert 30 <= report.record_count < 30_000
    config.write_text(config.read_text().replace("continuous: true", "continuous: false").replace(", rate_limit: 300kB/s", ""))
    assert run_kbr_json("backup", "-c", str(config))["status"] == "complete"
    report = check_backup(read_truth(kafka, [large, small]), FolderObjects(store), "b")
    assert not report.anomalies, report
