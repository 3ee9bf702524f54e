"""Whole backups on a real server: verified, restored, killed and gone on with, and two at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.archive import Objects, S3Objects
from tests.support.checker import check_backup, read_truth
from tests.support.cli import run_kbr_json, start_kbr
from tests.support.fault_topics import make_fault_topic
from tests.support.judge import assert_identical
from tests.support.kafka import KafkaHarness, Read
from tests.support.process_tree import KbrRun
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import S3Place

#: By the harness's address: a topic with its records, which all classes read.
_topics: dict[str, tuple[str, list[list[Read]]]] = {}


class BackupJobs:
    """A subclass has a fixture ``place``, and ``objects()`` where that is no S3 server."""

    @staticmethod
    def objects(place: Any, bucket: str) -> Objects:
        """What lies there, seen past kbr."""
        return S3Objects(place, bucket, "p")

    @pytest.fixture
    def source(self, kafka: KafkaHarness) -> tuple[str, list[list[Read]]]:
        """A topic of some MB and its records: segments of one PUT and of several parts."""
        if kafka.bootstrap not in _topics:
            _topics[kafka.bootstrap] = make_fault_topic(kafka, "jobs", count=1500, large=4)
        return _topics[kafka.bootstrap]

    @pytest.fixture
    def bucket(self, place: S3Place) -> str:
        return place.make_bucket()

    @pytest.fixture
    def words(self, kafka: KafkaHarness, place: S3Place, bucket: str, source: tuple[str, list[list[Read]]]) -> list[str]:
        """Of a backup command, without its verb."""
        return [
            "-b", kafka.bootstrap, "--storage", place.storage_url(bucket, "p"), "--backup-id", "b", "-t", source[0],
            "--set", "backup.memory_limit=208MiB", "--set", "backup.segment_max_interval_ms=500",
            "--set", "backup.lock_life_ms=3000",
        ]  # fmt: skip

    @pytest.mark.compatibility(column="SIGKILL and resume")
    @pytest.mark.compatibility(column="backup, verify --deep, restore")
    def test_a_backup_that_was_killed_goes_on_is_verified_and_restored_identically(
        self,
        kafka: KafkaHarness,
        place: S3Place,
        bucket: str,
        source: tuple[str, list[list[Read]]],
        words: list[str],
        tmp_path: Path,
    ) -> None:
        topic, records = source
        objects = self.objects(place, bucket)
        with KbrRun("backup", *words, "--rate-limit", "3MB/s", env=place.env) as run:
            wait_until(
                lambda: run.is_over or sum("/segment-" in key for key in objects.sizes()) >= 2,
                deadline_s=60, what="two segments",
            )  # fmt: skip
            assert not run.is_over, run.output
        found = run_kbr_json("backup", *words, env=place.env)
        assert found["status"] == "complete"
        assert found["resumed"]
        report = check_backup(read_truth(kafka, [topic]), objects, "b")
        assert not report.anomalies, report
        storage = place.storage_url(bucket, "p")
        verified = run_kbr_json("verify", "b", "--deep", "--storage", storage, env=place.env)
        assert verified["undamaged"], verified
        target = kafka.topic_name(f"{topic}-back")
        run_kbr_json(
            "restore", "-b", kafka.bootstrap, "--storage", storage, "--backup-id", "b", "--topic-map", f"{topic}={target}",
            env=place.env,
        )  # fmt: skip
        assert_identical(records, kafka.read_all(target), target)

    @pytest.mark.compatibility(column="two writers")
    def test_of_commands_started_at_the_same_moment_one_goes_on_and_the_other_names_it(
        self, kafka: KafkaHarness, place: S3Place, bucket: str, source: tuple[str, list[list[Read]]], words: list[str]
    ) -> None:
        processes = [start_kbr("backup", *words, "--rate-limit", "3MB/s", env=place.env) for _ in range(2)]
        ended = [(process.communicate(timeout=100)[1], process.returncode) for process in processes]
        assert sorted(code for _errors, code in ended) == [0, 11], ended
        (winner,) = (process.pid for process in processes if process.returncode == 0)
        for errors, code in ended:
            if code == 11:
                assert "is being written by kbr backup on" in errors
                assert f"pid {winner}" in errors
        report = check_backup(read_truth(kafka, [source[0]]), self.objects(place, bucket), "b")
        assert not report.anomalies, report
