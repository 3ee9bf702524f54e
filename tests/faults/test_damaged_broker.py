"""A broker whose disk has damaged a batch: its partition ends there, with the offset, and nothing behind it is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, send
from tests.support.plain_reader import read_segment

BASE_MS = 1_714_564_800_000
RECORDS, PER_BATCH = 400, 20


def _make_topic(kafka: KafkaHarness) -> str:
    """Two partitions, each of many batches."""
    topic = kafka.create_topic(kafka.topic_name("damaged"), partitions=2)
    producer = kafka.producer(linger_ms=0)
    for first in range(0, RECORDS, PER_BATCH):
        send(
            producer, topic,
            (
                {"key": b"%d" % number, "value": b"value-%05d-" % number + os.urandom(200).hex().encode(), "partition": part, "timestamp": BASE_MS + number}
                for number in range(first, first + PER_BATCH)
                for part in (0, 1)
            ),
        )  # fmt: skip
    return topic


def _flip(kafka: KafkaHarness, topic: str, partition: int, marker: bytes) -> None:
    """Change one byte of a record where the broker keeps it."""
    (log,) = kafka.server.folder.glob(f"data-1/{topic}-{partition}/*.log")
    data = log.read_bytes()
    place = data.index(marker) + len(marker) + 5
    with log.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes([data[place] ^ 1]), place)


@pytest.mark.fault("K10", "one of many batches of a partition", promise=4)
def test_a_damaged_batch_ends_its_partition_with_its_offset_and_nothing_behind_it_is_taken(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = _make_topic(kafka)
    _flip(kafka, topic, 0, b"value-00200-")
    command = ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--storage", str(tmp_path)]
    for _ in range(2):  # going on finds the same
        report = run_kbr_json(*command, exit_code=3)
        (failed,) = report["topics"][0]["failed"]
        assert failed["partition"] == 0
        assert "damaged" in failed["error"]
        assert "offset" in failed["error"]
    archived = {0: [], 1: []}
    for path in sorted(tmp_path.rglob("segment-*")):
        index, records = read_segment(path.read_bytes())
        archived[index["partition"]] += [record.offset for record in records]
    assert archived[1] == list(range(RECORDS))
    assert archived[0] == list(range(len(archived[0])))
    assert 0 < len(archived[0]) <= 200
    assert run_kbr("verify", "b", "--deep", "--storage", str(tmp_path)).returncode in (0, 3)
