"""A flipped bit or a bug between the records and the store is seen before it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kbr.backup.extra_verify import ExtraVerify
from kbr.backup.options import BackupOptions
from kbr.format.compression import BlockCompressor
from kbr.model import PartitionStatus, Record, RunStatus, TopicPartition
from kbr.storage.local import LocalStore
from tests.support.archive import FolderObjects
from tests.support.checker import Truth, check_backup
from tests.support.cli import run_kbr_json
from tests.support.fault_store import Script
from tests.support.inline import Bench, mock_bench
from tests.support.kafka import KafkaHarness, send

TOPIC = "flipped"
OPTIONS = BackupOptions(backup_id="b", include=(TOPIC,), segment_max_bytes=8000)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        found.create_topic(TOPIC, 2)
        found.produce(
            {
                TopicPartition(TOPIC, number): [
                    Record(offset, 1_714_564_800_000 + offset, 1, b"k", b"value %d " % offset * 20, ())
                    for offset in range(300)
                ]
                for number in range(2)
            }
        )
        yield found


@pytest.fixture
def truth(bench: Bench) -> Truth:
    return Truth(bench.read({TOPIC: 2}))


class _Flips:
    """Makes whole frames of blocks in which one bit of a value has flipped, some calls long."""

    def __init__(self, calls: range) -> None:
        self._calls = calls
        self._count = 0
        self._compress = BlockCompressor.compress

    def compress(self, compressor: BlockCompressor, data: bytes | memoryview) -> bytes:
        number, self._count = self._count, self._count + 1
        block = bytes(data)
        if number in self._calls:
            place = block.index(b"value ") + 2
            block = block[:place] + bytes([block[place] ^ 0x20]) + block[place + 1 :]
        return self._compress(compressor, block)


def _flip(monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
    flips = _Flips(calls)
    monkeypatch.setattr(BlockCompressor, "compress", lambda self, data: flips.compress(self, data))
    # all of them: which ones a share of the CPU time pays for is not this test's matter
    monkeypatch.setattr("kbr.backup.task.ExtraVerify", partial(ExtraVerify, share=1e9))


@pytest.mark.fault("D4", "a bit of a block flips once before it is stored", promise=1)
def test_a_bit_that_flips_once_costs_one_more_read_and_nothing_else(
    bench: Bench, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flip(monkeypatch, range(3, 4))
    report = bench.back_up(LocalStore(str(tmp_path)), OPTIONS, Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert report.extra_verify.decoded == report.extra_verify.blocks > 4
    assert check_backup(truth, FolderObjects(tmp_path), "b").anomalies == []


@pytest.mark.fault("D4", "blocks are compressed wrong each time", promise=1)
def test_a_bug_that_comes_each_time_fails_the_partition_and_stores_nothing_wrong(
    bench: Bench, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flip(monkeypatch, range(3, 1_000_000))
    report = bench.back_up(LocalStore(str(tmp_path)), OPTIONS, Script())
    assert report.exit_code == 3
    failed = [one for one in report.manifest.topics[0].partitions if one.status is PartitionStatus.FAILED]
    assert failed
    assert all("decoded again before it was stored" in str(one.error) for one in failed)
    monkeypatch.undo()
    healed = bench.back_up(LocalStore(str(tmp_path)), OPTIONS, Script())
    assert healed.manifest.status is RunStatus.COMPLETE
    assert check_backup(truth, FolderObjects(tmp_path), "b").anomalies == []


def test_without_the_extra_look_the_flipped_bit_is_stored(
    bench: Bench, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the look is for: nothing else sees it."""
    _flip(monkeypatch, range(3, 4))
    report = bench.back_up(LocalStore(str(tmp_path)), replace(OPTIONS, extra_verify=False), Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert report.extra_verify.decoded == 0
    assert len(check_backup(truth, FolderObjects(tmp_path), "b").anomalies) == 1


def test_a_backup_tells_how_many_blocks_it_has_decoded_again_and_leaves_it_on_request(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("verified"))
    send(kafka.producer(), topic, ({"value": b"x" * 1000} for _ in range(3000)))
    command = ["backup", "-b", kafka.bootstrap, "--storage", str(tmp_path), "-t", topic]
    looked = run_kbr_json(*command, "--backup-id", "looked")["extra_verify"]
    assert looked["blocks"] == 3
    assert 1 <= looked["decoded"] <= 3
    assert looked["cpu_s"] >= 0
    assert run_kbr_json(*command, "--backup-id", "not", "--no-extra-verify")["extra_verify"] == {
        "blocks": 3,
        "decoded": 0,
        "cpu_s": 0,
    }
