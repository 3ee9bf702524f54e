"""A log that was cut and has grown again, past where the backup had come: told by leader epochs, and never merged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.format.documents import load_manifest
from kbr.model import PartitionStatus
from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, send
from tests.support.plain_reader import read_segment
from tests.support.servers import KafkaServer, free_port

BASE_MS = 1_714_564_800_000


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaHarness]:
    """A Kafka of its own, to be stopped."""
    server = KafkaServer(tmp_path / "kafka", brokers=1, port=free_port(2), light=True)
    try:
        server.start()
        yield KafkaHarness(server)
    finally:
        server.stop()


def _send(kafka: KafkaHarness, topic: str, what: bytes, count: int) -> None:
    """Records that differ in nothing but their values from those of another call."""
    send(
        kafka.producer(), topic,
        ({"partition": part, "key": b"%d" % n, "value": b"%b-%d" % (what, n), "timestamp": BASE_MS + n} for n in range(count) for part in (0, 1)),
    )  # fmt: skip


def _empty_the_log(kafka: KafkaHarness, topic: str, partition: int) -> None:
    """As a disk that was lost, under a broker that is elected all the same: the topic and its id stay."""
    folder = kafka.server.folder / "data-1" / f"{topic}-{partition}"
    for path in folder.iterdir():
        if path.name != "partition.metadata":
            path.unlink()
    (kafka.server.folder / "data-1" / ".kafka_cleanshutdown").unlink(missing_ok=True)


def _values(folder: Path) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    for path in sorted(folder.rglob("segment-*")):
        index, records = read_segment(path.read_bytes())
        found.setdefault(index["partition"], []).extend(record.value for record in records)
    return found


@pytest.mark.servers
@pytest.mark.fault("K9", "cut and grown again past the position, between two runs, with equal timestamps", promise=4)
def test_a_log_that_was_cut_and_has_grown_again_is_never_merged(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic("replaced", 2)
    _send(kafka, topic, b"before", 500)
    archive = tmp_path / "archive"
    command = ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--storage", str(archive)]
    run_kbr_json(*command)
    shutil.copytree(archive, tmp_path / "copy")
    kafka.server.stop()
    _empty_the_log(kafka, topic, 0)
    kafka.server.start()
    kafka.wait_for_leaders(topic, 2)
    _send(kafka, topic, b"after", 700)
    for _ in range(2):  # and so it stays
        report = run_kbr_json(*command, exit_code=3)
        (failed,) = report["topics"][0]["failed"]
        assert failed["partition"] == 0
        assert "the log holds another record at offset 499 than the one that was read there" in failed["error"]
        assert "take what is there now under another backup_id" in failed["error"]
    before, after = [b"before-%d" % n for n in range(500)], [b"after-%d" % n for n in range(700)]
    assert _values(archive) == {0: before, 1: before + after}
    (entry,) = load_manifest((archive / "b" / "manifest.json").read_bytes(), name="manifest").topics
    assert [one.status for one in entry.partitions] == [PartitionStatus.FAILED, PartitionStatus.COMPLETE]
    assert run_kbr("verify", "b", "--deep", "--storage", str(archive)).returncode == 0  # what it has is whole
    assert _values(tmp_path / "copy") == {0: before, 1: before}
