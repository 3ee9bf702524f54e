"""What a restore finds out before it writes, and what keeps two of them apart: on a real Kafka."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.judge import assert_identical
from tests.support.kafka import KafkaHarness, send
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000


class Backup:
    """Two small topics and an empty one, backed up."""

    def __init__(self, kafka: KafkaHarness, folder: Path) -> None:
        self.kafka = kafka
        self.names = [kafka.create_topic(kafka.topic_name("guard"), 2) for _ in range(3)]
        for name in self.names[:2]:
            send(
                kafka.producer(), name,
                ({"partition": n % 2, "key": b"%d" % n, "value": b"%s-%d-" % (name.encode(), n) + b"v" * 900, "timestamp": BASE_MS + n} for n in range(3000)),
            )  # fmt: skip
        self.words = ["-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b"]
        run_kbr_json("backup", *self.words, *(word for name in self.names for word in ("-t", name)))
        self.records = {name: kafka.read_all(name) for name in self.names}

    def restore(self, source: str, target: str, *more: str) -> list[str]:
        return ["restore", *self.words, "-t", source, "--topic-map", f"{source}={target}", *more]

    def target(self) -> str:
        return self.kafka.topic_name("guarded")


@pytest.fixture(scope="module")
def backup(kafka: KafkaHarness, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    return Backup(kafka, tmp_path_factory.mktemp("guards"))


def _start_slowly(backup: Backup, command: list[str], target: str) -> subprocess.Popen[str]:
    process = start_kbr(*command, "--rate-limit", "200kB/s")
    try:
        wait_until(lambda: backup.kafka.count(target) > 50, deadline_s=60, what="the first records")
        assert process.poll() is None
    except BaseException:
        _kill(process)
        raise
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


@pytest.mark.fault("R1", "a second run of the same restore while the first one runs", promise=5)
def test_a_second_run_of_the_same_restore_is_kept_out_and_names_the_first(backup: Backup) -> None:
    source, target = backup.names[0], backup.target()
    first = _start_slowly(backup, backup.restore(source, target), target)
    try:
        second = run_kbr(*backup.restore(source, target))
        assert second.returncode == 11, second.stderr
        assert "being done by kbr restore on" in second.stderr
        assert f"pid {first.pid}" in second.stderr
        planned = run_kbr_json(*backup.restore(source, target), "--dry-run")
        assert planned["status"] == "planned"
    finally:
        _kill(first)
    # one that was killed keeps nobody out
    run_kbr_json(*backup.restore(source, target))
    assert_identical(backup.records[source], backup.kafka.read_all(target), target)


@pytest.mark.fault("R1", "two topics into one, killed and run again", promise=5)
def test_two_topics_go_into_one_and_go_on_after_a_kill(backup: Backup) -> None:
    (a, b), target = backup.names[:2], backup.target()
    command = [
        "restore", *backup.words, "-t", a, "-t", b, "--topic-map", f"{a}={target}", "--topic-map", f"{b}={target}",
        "--partition-map", f"{a}:0=2", "--partition-map", f"{a}:1=3",
    ]  # fmt: skip
    _kill(_start_slowly(backup, command, target))
    report = run_kbr_json(*command)
    assert report["totals"]["already_there"] > 0
    assert_identical(backup.records[b] + backup.records[a], backup.kafka.read_all(target), target)
    again = run_kbr_json(*command)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, 6000)


@pytest.mark.fault("R4", "records in partitions that the backup does not have", promise=5)
def test_records_in_other_partitions_of_the_target_are_refused(backup: Backup) -> None:
    source = backup.names[0]
    target = backup.kafka.create_topic(backup.target(), 5)
    planned = run_kbr_json(*backup.restore(source, target), "--dry-run")
    assert any("has 5 partitions, and the restore has records for 2" in one for one in planned["warnings"])
    send(backup.kafka.producer(), target, [{"partition": 4, "value": b"somebody else's"}])
    for more in ((), ("--dry-run",)):
        refused = run_kbr(*backup.restore(source, target), *more)
        assert refused.returncode == 13
        assert f"target {target}[4] holds records (offsets 0 to 0)" in refused.stderr
    run_kbr_json(*backup.restore(source, target, "--append"))
    found = backup.kafka.read_all(target)
    assert_identical(backup.records[source], found[:2], target)
    assert [one.value for one in found[4]] == [b"somebody else's"]


@pytest.mark.fault("R1", "an empty topic that was deleted after the restore was complete", promise=5)
def test_an_empty_topic_that_is_not_there_any_more_is_made_again(backup: Backup) -> None:
    source, target = backup.names[2], backup.target()
    run_kbr_json(*backup.restore(source, target))
    for future in backup.kafka.admin.delete_topics([target]).values():
        future.result(30)
    wait_until(
        lambda: target not in backup.kafka.admin.list_topics(timeout=10).topics, deadline_s=30, what="its deletion"
    )
    run_kbr_json(*backup.restore(source, target))
    assert len(backup.kafka.admin.list_topics(timeout=10).topics[target].partitions) == 2


@pytest.mark.long
@pytest.mark.fault("R1", "the target topic is deleted while it is restored to", promise=5)
def test_a_topic_that_is_deleted_in_mid_restore_is_named_soon(backup: Backup) -> None:
    source, target = backup.names[0], backup.target()
    process = _start_slowly(backup, backup.restore(source, target), target)
    for future in backup.kafka.admin.delete_topics([target]).values():
        future.result(30)
    _output, errors = process.communicate(timeout=110)
    assert process.returncode == 3, errors
    assert f"target {target}[" in errors + _output
    assert "the topic was deleted" in errors + _output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "restore.topic_configs.no.such.config=1"), "no.such.config"),
        (("--set", "restore.topic_configs.retention.ms=never"), "retention.ms"),
    ],
)
def test_topics_that_the_target_would_not_make_are_told_before_any_is_made(
    backup: Backup, more: tuple[str, ...], words: str
) -> None:
    source, target = backup.names[0], backup.target()
    for dry in ((), ("--dry-run",)):
        refused = run_kbr(*backup.restore(source, target), *more, *dry)
        assert refused.returncode == 13, refused.stderr
        assert "the target would not make the topics" in refused.stderr
        assert words in refused.stderr
    assert target not in backup.kafka.admin.list_topics(timeout=10).topics

