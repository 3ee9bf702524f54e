"""Two runs of one backup, as the command line: at the same moment, and after a pause longer than the lock's life."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.archive import FolderObjects
from tests.support.checker import check_backup, read_truth
from tests.support.cli import kbr_environment, run_kbr, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000


def make_topic(kafka: KafkaHarness, count: int) -> str:
    topic = kafka.create_topic(kafka.topic_name("two-runs"), partitions=2)
    send(
        kafka.producer(), topic,
        ({"key": b"%d" % one, "value": os.urandom(500), "partition": one % 2, "timestamp": BASE_MS + one} for one in range(count)),
    )  # fmt: skip
    return topic


def words(kafka: KafkaHarness, folder: Path, topic: str, *more: str) -> list[str]:
    return [
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--storage", str(folder),
        "--set", "backup.lock_life_ms=3000", "--set", "backup.segment_max_interval_ms=500", *more,
    ]  # fmt: skip


def identical(kafka: KafkaHarness, folder: Path, topic: str, *, leftovers: bool = False) -> None:
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(folder), "b", leftovers=leftovers)
    assert not report.anomalies, report


@pytest.mark.compatibility(row="filesystem", column="two writers")
@pytest.mark.fault("P4", "the whole command", promise=1)
def test_of_commands_started_at_the_same_moment_one_goes_on_and_the_others_name_it(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = make_topic(kafka, 2000)
    command = words(kafka, tmp_path, topic, "--rate-limit", "300kB/s")
    processes = [start_kbr(*command) for _ in range(3)]
    ended = [(process.communicate(timeout=100)[1], process.returncode) for process in processes]
    assert sorted(code for _errors, code in ended) == [0, 11, 11], ended
    for errors, code in ended:
        if code == 11:
            assert "is being written by kbr backup on" in errors
            assert any(f"pid {process.pid}" in errors for process in processes if process.returncode == 0)
    identical(kafka, tmp_path, topic)


@pytest.mark.fault("P3", "the whole command, with its workers, between writes and in the midst of one", promise=1)
@pytest.mark.parametrize("in_a_write", [False, True])
def test_a_command_that_was_frozen_past_its_locks_life_harms_nothing_and_ends_with_11(
    kafka: KafkaHarness, tmp_path: Path, in_a_write: bool
) -> None:
    topic = make_topic(kafka, 3000)
    frozen = _start_group(words(kafka, tmp_path, topic, "--rate-limit", "150kB/s"))
    try:
        wait_until(lambda: list(tmp_path.rglob("segment-*")), deadline_s=60, what="a first segment")
        _freeze(frozen, tmp_path, in_a_write=in_a_write)
        done = run_kbr(*words(kafka, tmp_path, topic, "--set", "backup.lock_wait_ms=60000"))
        assert done.returncode == 0, done.stderr
        # What the frozen worker is in the midst of writing is its own, and stays until it ends.
        identical(kafka, tmp_path, topic, leftovers=True)
        os.killpg(frozen.pid, signal.SIGCONT)
        _output, errors = frozen.communicate(timeout=60)
        assert frozen.returncode == 11, errors
        assert "it was taken over by" in errors
    finally:
        if frozen.poll() is None:
            os.killpg(frozen.pid, signal.SIGKILL)
            frozen.communicate()
    identical(kafka, tmp_path, topic, leftovers=True)
    again = run_kbr(*words(kafka, tmp_path, topic), "-o", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["added"]["segments"] == 0
    identical(kafka, tmp_path, topic)


def test_a_second_command_waits_for_the_first_if_it_is_told_to(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = make_topic(kafka, 1000)
    first = start_kbr(*words(kafka, tmp_path, topic, "--rate-limit", "150kB/s"))
    wait_until(lambda: list(tmp_path.rglob("locks/*.json")), deadline_s=60, what="the first run's lock")
    second = run_kbr(*words(kafka, tmp_path, topic), "--set", "backup.lock_wait_ms=60000", "-o", "json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["added"]["segments"] == 0
    assert first.wait(timeout=60) == 0
    first.communicate()


def _start_group(command: list[str]) -> subprocess.Popen[str]:
    """In a process group of its own, which can be frozen whole."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "kbr", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kbr_environment(),
        start_new_session=True,
    )


def _freeze(run: subprocess.Popen[str], folder: Path, *, in_a_write: bool) -> None:
    """Stop all its processes, while a temporary file of theirs is there or while none is."""

    def is_so() -> bool:
        os.killpg(run.pid, signal.SIGSTOP)
        if any(folder.rglob(".kbr-tmp-*")) == in_a_write:
            return True
        os.killpg(run.pid, signal.SIGCONT)
        assert run.poll() is None, "it ended before it was frozen"
        return False

    wait_until(is_so, deadline_s=60, what=f"a moment {'within' if in_a_write else 'outside'} a write")


@pytest.mark.fault("P3", "a segment of a run that lost the backup, behind a manifest that says complete", promise=1)
def test_a_stray_segment_behind_a_complete_backup_is_taken_over_and_not_in_the_way(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = make_topic(kafka, 1000)
    command = words(kafka, tmp_path, topic)
    assert run_kbr(*command).returncode == 0
    before = (tmp_path / "b" / "manifest.json").read_bytes()
    send(kafka.producer(), topic, ({"key": b"more", "partition": 0, "timestamp": BASE_MS} for _ in range(10)))
    assert run_kbr(*command).returncode == 0
    (tmp_path / "b" / "manifest.json").write_bytes(before)  # what was just committed is not listed any more
    send(kafka.producer(), topic, ({"key": b"again", "partition": 0, "timestamp": BASE_MS} for _ in range(10)))
    done = run_kbr(*command)
    assert done.returncode == 0, done.stderr
    identical(kafka, tmp_path, topic)
