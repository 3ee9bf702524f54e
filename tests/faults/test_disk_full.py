"""A small real filesystem that fills up while a backup is written, and then gets room."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.fault_topics import make_fault_topic
from tests.support.judge import assert_archived
from tests.support.kafka import KafkaHarness, Read
from tests.support.waiting import wait_until


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB, of which a backup of the topic needs 5."""
    folder = tmp_path / "small"
    folder.mkdir()
    _mount(folder, "size=2m")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def source(kafka: KafkaHarness) -> tuple[str, list[list[Read]]]:
    return make_fault_topic(kafka, "disk", count=6000, large=0)


def _words(kafka: KafkaHarness, topic: str, folder: Path) -> list[str]:
    return [
        "-b", kafka.bootstrap, "-t", topic, "--storage", str(folder), "--backup-id", "full",
        "--set", "backup.segment_max_bytes=100KiB",
    ]  # fmt: skip


@pytest.mark.fault("S7", "a full disk that gets room while the backup waits", promise=1)
def test_a_backup_waits_for_room_and_goes_on(
    kafka: KafkaHarness, small_disk: Path, source: tuple[str, list[list[Read]]]
) -> None:
    topic, records = source
    process = start_kbr("backup", *_words(kafka, topic, small_disk))
    lines: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        lines.extend(process.stderr)

    reader = threading.Thread(target=read)
    reader.start()

    def told() -> bool:
        assert process.poll() is None or any("No space left" in line for line in lines), lines
        return any("No space left" in line for line in lines)

    try:
        wait_until(told, deadline_s=60, what="a full disk")
        assert process.poll() is None, lines
        _mount(small_disk, "remount,size=64m")
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(60) == 0, f"{output}\n{chr(10).join(lines)}"
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
    assert_archived(records, small_disk, "full", topic)
    assert run_kbr_json("verify", "full", "--deep", "--storage", str(small_disk))["undamaged"]
    assert not [path for path in small_disk.rglob(".kbr-tmp-*")]


@pytest.mark.fault("S7", "a disk that stays full beyond the deadline; with room, the same command goes on", promise=1)
def test_a_backup_ends_when_there_is_no_room_for_too_long_and_goes_on_when_there_is(
    kafka: KafkaHarness, small_disk: Path, source: tuple[str, list[list[Read]]]
) -> None:
    topic, records = source
    words = _words(kafka, topic, small_disk)
    done = run_kbr("backup", *words, "--set", "storage.deadline_ms=2000")
    assert done.returncode in (1, 3, 5), done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in small_disk.rglob(".kbr-tmp-*")]
    _mount(small_disk, "remount,size=64m")
    again = run_kbr("backup", *words)
    assert again.returncode == 0, again.stderr
    assert_archived(records, small_disk, "full", topic)
