"""The block index on a real Kafka, by the command line: kept up by backups, the same plans and restores with it and without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness
from tests.support.mixed_topics import BASE_MS, CLEANER_OFF, make_mixed_topics

CLEANER_OFF_SETS = [
    word for key, value in CLEANER_OFF.items() for word in ("--set", f"restore.topic_configs.{key}={value}")
]
WINDOWS = [(BASE_MS, BASE_MS + 5_000), (BASE_MS + 1_000, BASE_MS + 300_000_000), (0, 1)]


@pytest.fixture(scope="module")
def mixed(kafka: KafkaHarness) -> list[str]:
    """The twenty topics."""
    return make_mixed_topics(kafka, "indexed")


def back_up(kafka: KafkaHarness, folder: Path, *more: str) -> Any:
    return run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *more,
        "--set", "backup.segment_max_bytes=100KiB", "--set", "backup.index=true",
    )  # fmt: skip


def restore(kafka: KafkaHarness, folder: Path, window: tuple[int, int], *more: str) -> Any:
    ends = ["--from-timestamp", str(window[0]), "--to-timestamp", str(window[1])]
    return run_kbr_json(
        "restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *ends, *more, *CLEANER_OFF_SETS
    )


def plan_of(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in ("plan", "totals", "topics", "counts") if key in report}


@pytest.mark.timeout(300)
def test_a_backup_keeps_its_index_up_and_windows_have_the_same_plan_with_it_as_without_it(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    back_up(kafka, tmp_path, "-t", "indexed.a*", "-t", "indexed.p*", "-t", "indexed.t*")
    first = run_kbr_json("index", "show", "b", "--storage", str(tmp_path))
    assert first["state"] == "current"
    assert first["segments"] > 0
    # the same backup with more topics: only what is new is added
    back_up(kafka, tmp_path, "-t", "indexed.*")
    shown = run_kbr_json("index", "show", "b", "--storage", str(tmp_path))
    assert shown["state"] == "current"
    assert shown["segments"] > first["segments"]
    assert shown["runs"] > 1
    verified = run_kbr_json("verify", "b", "--storage", str(tmp_path), "--deep")
    assert verified["errors"] == []
    assert verified["blocks"] == shown["blocks"]
    # any Parquet library reads it
    tables = [pq.read_table(path) for path in (tmp_path / "b" / "index").glob("*.parquet")]
    assert sum(len(table) for table in tables) == shown["blocks"]
    assert sum(sum(table["record_count"].to_pylist()) for table in tables) == verified["records"]

    names = [word for topic in mixed for word in ("--topic-map", f"{topic}=planned-{topic}")]
    with_index = [restore(kafka, tmp_path, window, "--dry-run", *names) for window in WINDOWS]
    built = run_kbr_json("index", "build", "b", "--storage", str(tmp_path))
    assert (built["segments"], built["blocks"]) == (shown["segments"], shown["blocks"])
    rebuilt = [restore(kafka, tmp_path, window, "--dry-run", *names) for window in WINDOWS]
    shutil.rmtree(tmp_path / "b" / "index")
    without = [restore(kafka, tmp_path, window, "--dry-run", *names) for window in WINDOWS]
    plans = [[plan_of(report) for report in some] for some in (with_index, rebuilt, without)]
    assert plans[0] == plans[2]
    assert plans[1] == plans[2]
    assert all(plans[0])


@pytest.mark.timeout(300)
def test_a_window_is_restored_to_the_record_with_an_index_that_is_current_stale_or_damaged(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    topic = "indexed.late"
    window = (BASE_MS + 1_000, BASE_MS + 300_000_000)
    back_up(kafka, tmp_path, "-t", topic)
    wanted = [
        [one.exact for one in records if window[0] <= one.timestamp <= window[1]] for records in kafka.read_all(topic)
    ]
    assert any(wanted)
    head = tmp_path / "b" / "index" / "head.json"
    whole = head.read_bytes()
    damages = {"current": whole, "damaged": whole[:-9] + b"x" + whole[-8:], "gone": b""}
    for name, data in damages.items():
        head.write_bytes(data)
        restore(kafka, tmp_path, window, "--topic-map", f"{topic}=to-{name}")
        found = [[one.exact for one in records] for records in kafka.read_all(f"to-{name}")]
        assert found == wanted, name
    assert run_kbr("index", "show", "b", "--storage", str(tmp_path)).returncode == 4


@pytest.mark.timeout(300)
def test_the_same_holds_on_s3(kafka: KafkaHarness, mixed: list[str], s3) -> None:
    place, env = ["--storage", f"s3://{s3.make_bucket()}/some/prefix"], s3.env
    topic = "indexed.late"
    for _ in range(2):  # the second run finds the index, and has nothing to add
        run_kbr_json(
            "backup", "-b", kafka.bootstrap, "--backup-id", "b", *place, "-t", topic,
            "--set", "backup.segment_max_bytes=100KiB", "--set", "backup.index=true", env=env,
        )  # fmt: skip
        assert run_kbr_json("index", "show", "b", *place, env=env)["state"] == "current"
    window = ["--from-timestamp", str(BASE_MS + 1_000), "--to-timestamp", str(BASE_MS + 300_000_000)]
    target = ["--topic-map", f"{topic}=s3-{topic}", "--dry-run"]
    restored = ["restore", "-b", kafka.bootstrap, "--backup-id", "b", *place, *window, *target]
    with_index = run_kbr_json(*restored, env=env)
    assert run_kbr_json("index", "build", "b", *place, env=env)["segments_left"] == 0
    assert plan_of(run_kbr_json(*restored, env=env)) == plan_of(with_index)
    assert run_kbr_json("verify", "b", "--deep", *place, env=env)["errors"] == []
