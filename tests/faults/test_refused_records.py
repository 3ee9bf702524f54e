"""Records that a restore's target refuses for good, and those that are larger than a client's queue: never a hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import run_kbr_json
from tests.support.kafka import KafkaHarness, send

ACCEPT = ("--set", "restore.accept_cleanup=true")


def _backed_up(kafka: KafkaHarness, folder: Path, records: list[dict], **configs: str) -> str:
    topic = kafka.create_topic(kafka.topic_name("refused"), 1, configs)
    send(kafka.producer(message_max_bytes=100_000_000), topic, records)
    run_kbr_json("backup", "-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b", "-t", topic)
    return topic


def _command(kafka: KafkaHarness, folder: Path, topic: str, target: str, *more: str) -> list[str]:
    return [
        "restore", "-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b",
        "--topic-map", f"{topic}={target}", *more,
    ]  # fmt: skip


@pytest.mark.fault("R2", "a compacted target takes no record without a key: told at once, never tried again", promise=5)
def test_a_record_that_a_broker_refuses_for_good_is_named_at_once_with_what_to_do(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    records = [{"partition": 0, "key": None if number == 57 else b"k", "value": b"v"} for number in range(100)]
    topic = _backed_up(kafka, tmp_path, records)
    target = kafka.create_topic(kafka.topic_name("compacted"), 1, {"cleanup.policy": "compact"})
    report = run_kbr_json(*_command(kafka, tmp_path, topic, target, *ACCEPT), exit_code=3)
    assert report["retries"] == 0
    (message,) = report["failures"].values()
    assert f"{target}[0]: Broker: Broker failed to validate record" in message
    assert "a null key in a compacted topic" in message


LARGE = {"max.message.bytes": "50000000"}
#: Leaves a worker 16 MiB for records, and so 8 MiB for its client's queue.
LITTLE = ("--set", "restore.memory_limit=176MiB")


@pytest.mark.fault("R2", "a record larger than the share of memory that its client's queue has", promise=5)
def test_a_record_larger_than_the_clients_share_of_memory_is_restored(kafka: KafkaHarness, tmp_path: Path) -> None:
    records = [{"partition": 0, "key": b"k", "value": b"%d" % number * size} for number, size in enumerate((1, 12_000_000, 1))]
    topic = _backed_up(kafka, tmp_path, records, **LARGE)
    target = kafka.topic_name("large")
    report = run_kbr_json(*_command(kafka, tmp_path, topic, target, *LITTLE))
    assert report["status"] == "complete"
    ((before,), (after,)) = kafka.read_all(topic), kafka.read_all(target)
    assert [one.exact for one in after] == [one.exact for one in before]

    small = ("--set", "target.client.queue.buffering.max.kbytes=2000")
    report = run_kbr_json(*_command(kafka, tmp_path, topic, kafka.topic_name("small"), *small), exit_code=3)
    assert report["retries"] == 0
    (message,) = report["failures"].values()
    assert "offset 1 is larger than all that the client may hold" in message
