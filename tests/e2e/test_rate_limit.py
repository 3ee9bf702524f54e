"""Rate limits of real runs, on a real Kafka: they hold, they change under way, and no record suffers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.process_tree import KbrRun
from tests.support.waiting import wait_until

RECORDS = 3000
VALUE = b"v" * 1000


@pytest.fixture(scope="module")
def topic(kafka: KafkaHarness) -> str:
    """3 MB in three partitions."""
    name = kafka.create_topic(kafka.topic_name("limited"), partitions=3)
    send(
        kafka.producer(),
        name,
        [
            {"partition": number % 3, "key": b"%d" % number, "value": VALUE, "timestamp": 1000}
            for number in range(RECORDS)
        ],
    )
    return name


def _place(kafka: KafkaHarness, folder: Path) -> list[str]:
    return ["-b", kafka.bootstrap, "--storage", str(folder)]


@pytest.mark.parametrize("rate", ["1MB/s", "1000records/s"])
def test_a_limited_backup_and_restore_take_their_time_and_lose_nothing(
    kafka: KafkaHarness, topic: str, tmp_path: Path, rate: str
) -> None:
    place = _place(kafka, tmp_path)
    backup = run_kbr_json("backup", *place, "-t", topic, "--backup-id", "slow", "--rate-limit", rate)
    assert backup["totals"]["records"] == RECORDS
    # three seconds' worth; without a limit it takes a third of that. How exact it is, test_pacing.py shows by a clock of its own
    assert backup["phases_s"]["fetch"] >= 2
    assert backup["waited_s"]["rate_limit"] > 0
    target = f"{topic}-{rate.removesuffix('/s')}-back"
    restore = run_kbr_json(
        "restore", *place, "--backup-id", "slow", "--topic-map", f"{topic}={target}", "--rate-limit", rate
    )
    assert restore["phases_s"]["send"] >= 2
    assert restore["waited_s"]["rate_limit"] > 0
    assert [[one.exact for one in part] for part in kafka.read_all(target)] == [
        [one.exact for one in part] for part in kafka.read_all(topic)
    ]


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_run_that_would_take_an_hour_is_let_go_by_status(
    kafka: KafkaHarness, topic: str, tmp_path: Path, verb: str
) -> None:
    place = _place(kafka, tmp_path)
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    target = f"{topic}-let-go-{verb}"
    if verb == "restore":
        run_kbr_json("backup", *place, "-t", topic, "--backup-id", "b")
        more = ["--backup-id", "b", "--topic-map", f"{topic}={target}"]
    else:
        more = ["--backup-id", "b", "-t", topic]
    process = start_kbr(verb, *place, *more, "--rate-limit", "1kB/s", "-o", "json", env=env)

    def first_bytes() -> bool:
        assert process.poll() is None
        runs = run_kbr_json("status", env=env)["runs"]
        return bool(runs) and runs[0]["limited_bytes"] > 0

    wait_until(first_bytes, deadline_s=60, what="the first records")
    (run,) = run_kbr_json("status", str(process.pid), env=env)["runs"]
    assert (run["verb"], run["backup_id"], run["pid"]) == (verb, "b", process.pid)
    assert run["rate_limit"] == {"bytes_per_s": 1000.0, "records_per_s": None}
    assert run["limited_bytes"] < 1_000_000
    (run,) = run_kbr_json("status", "b", "--rate-limit", "none", env=env)["runs"]
    assert run["rate_limit"] == {"bytes_per_s": None, "records_per_s": None}
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    document = json.loads(output)
    assert document["totals"]["records"] == RECORDS
    assert "rate limit changed from 1000 bytes/s to none" in errors
    if verb == "backup":
        assert run_kbr_json("verify", "b", "--deep", "--storage", str(tmp_path))["undamaged"]
    else:
        assert [[one.exact for one in part] for part in kafka.read_all(target)] == [
            [one.exact for one in part] for part in kafka.read_all(topic)
        ]
    assert run_kbr_json("status", env=env)["runs"] == []


def test_a_limited_run_ends_at_once_when_it_is_stopped(kafka: KafkaHarness, topic: str, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    run_kbr_json("backup", *_place(kafka, tmp_path), "-t", topic, "--backup-id", "b")
    target = f"{topic}-stopped"
    process = start_kbr(
        "restore", *_place(kafka, tmp_path), "--backup-id", "b", "--topic-map", f"{topic}={target}",
        "--rate-limit", "1kB/s", "-o", "json", env=env,
    )  # fmt: skip

    def first_bytes() -> bool:
        runs = run_kbr_json("status", env=env)["runs"]
        return bool(runs) and runs[0]["limited_bytes"] > 0

    wait_until(first_bytes, deadline_s=60, what="the first records")
    process.terminate()
    output, errors = process.communicate(timeout=25)  # killed workers would take 30 s
    assert process.returncode == 130, errors
    restored = sum(len(part) for part in kafka.read_all(target))
    assert 0 < restored == json.loads(output)["totals"]["records"] < RECORDS


@pytest.mark.parametrize(
    ("rate", "what"), [("50", "needs a unit"), ("0MB/s", "at least 1B/s"), ("fast", "rate such as"), ("50Mb/s", "50MB")]
)
def test_a_rate_that_can_mean_two_things_is_refused(tmp_path: Path, rate: str, what: str) -> None:
    for verb in (["backup", "-b", "localhost:1", "--backup-id", "b", "--storage", str(tmp_path)], ["status"]):
        done = run_kbr(*verb, "--rate-limit", rate)
        assert done.returncode == 2
        assert what in done.stderr
        assert "Traceback" not in done.stderr


def test_status_names_what_is_not_there(tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert run_kbr("status", env=env).stdout.strip() == "Nothing runs."
    assert run_kbr("status", "nightly", env=env).returncode == 10
    assert run_kbr("status", "--rate-limit", "none", env=env).returncode == 10


def test_what_a_slow_backup_has_read_is_durable_in_time_and_outlives_a_kill(
    kafka: KafkaHarness, topic: str, tmp_path: Path
) -> None:
    """20 kB/s of three partitions: a minute until one of them had filled a block of 1 MiB."""
    place = _place(kafka, tmp_path)
    command = ["backup", *place, "-t", topic, "--backup-id", "slow", "--set", "backup.segment_max_interval_ms=500"]
    with KbrRun(*command, "--rate-limit", "20kB/s") as run:
        wait_until(lambda: len(list(tmp_path.rglob("segment-*"))) >= 4, deadline_s=60, what="two segments of a partition")
        for pid in run.pids_of("tree"):
            os.kill(pid, signal.SIGKILL)
        run.process.wait(10)
    durable = set(tmp_path.rglob("segment-*"))
    assert run_kbr_json(*command)["totals"]["records"] == RECORDS
    assert durable < set(tmp_path.rglob("segment-*"))  # each is kept, and the rest behind it
    target = f"{topic}-durable-back"
    run_kbr_json("restore", *place, "--backup-id", "slow", "--topic-map", f"{topic}={target}")
    assert [[one.exact for one in part] for part in kafka.read_all(target)] == [
        [one.exact for one in part] for part in kafka.read_all(topic)
    ]
