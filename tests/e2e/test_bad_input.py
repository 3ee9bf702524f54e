"""Mistakes and mishaps: one clear line, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.kafka.native import load_library
from kbr_codec import Record, encode_block
from kbr_codec.rdkafka import Sink
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.servers import free_port
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000


@pytest.fixture(scope="module")
def topic(kafka: KafkaHarness) -> str:
    """A small topic."""
    name = kafka.create_topic("bad-input", 2)
    send(kafka.producer(), name, ({"value": b"v%d" % n, "partition": n % 2, "timestamp": BASE_MS} for n in range(200)))
    return name


def _refused(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """It failed as it should: the code, the words, no traceback, and not a novel."""
    assert done.returncode == exit_code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in:\n{done.stderr}"


def test_a_wrong_bootstrap_server_is_told_in_one_line(tmp_path: Path) -> None:
    port = free_port()
    done = run_kbr(
        "backup", "-b", f"127.0.0.1:{port}", "--backup-id", "x", "-t", "*", "--storage", str(tmp_path / "s"),
        "--set", "source.deadline_ms=3000",
    )  # fmt: skip
    _refused(done, 5, f"127.0.0.1:{port}", "refused")
    assert not (tmp_path / "s").exists()


def test_a_topic_that_does_not_exist_fails_before_anything_is_written(
    kafka: KafkaHarness, topic: str, tmp_path: Path
) -> None:
    done = run_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "x", "-t", topic, "-t", "bad-inputt",
        "--storage", str(tmp_path / "s"),
    )  # fmt: skip
    _refused(done, 1, "bad-inputt", "did you mean")
    assert not (tmp_path / "s").exists()


def test_a_wrong_bucket_is_named(kafka: KafkaHarness, topic: str, s3) -> None:
    done = run_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "x", "-t", topic, "--storage", "s3://no-such-bucket/p", env=s3.env
    )
    _refused(done, 1, "no-such-bucket", "does not exist")


@pytest.mark.parametrize("name", ["KBR_STORAGE_ACCESS_KEY", "KBR_STORAGE_SECRET_KEY"])
def test_wrong_keys_are_denied_and_never_shown(kafka: KafkaHarness, topic: str, s3, name: str) -> None:
    bucket = s3.make_bucket()
    env = {**s3.env, name: "marked-secret-value"}
    done = run_kbr("backup", "-b", kafka.bootstrap, "--backup-id", "x", "-t", topic, "--storage", f"s3://{bucket}/p", env=env)
    _refused(done, 1, "key")
    assert "marked-secret-value" not in done.stdout + done.stderr


def test_an_unreachable_store_ends_with_exit_5(kafka: KafkaHarness, topic: str, s3) -> None:
    env = {**s3.env, "KBR_STORAGE_ENDPOINT": f"http://127.0.0.1:{free_port()}", "KBR_STORAGE_DEADLINE_MS": "1000"}
    done = run_kbr("list", "--storage", "s3://bucket/p", env=env)
    _refused(done, 5, "127.0.0.1", "can be reached from here")


def test_an_unknown_config_key_names_line_and_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("backup_id: x\nsource:\n  bootstrap_servers: localhost:9092\nstorage: {url: /tmp/x}\nbackup:\n  compresion: zstd\n")
    done = run_kbr("backup", "-c", str(path))
    _refused(done, 2, f"{path}:6", "compresion", "compression")


def test_an_unset_variable_names_itself_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text(
        "backup_id: x\nsource:\n  bootstrap_servers: localhost:9092\n  security:\n    security_protocol: SASL_SSL\n"
        "    sasl_mechanism: PLAIN\n    username: me\n    password: ${NO_SUCH_VARIABLE}\nstorage: {url: /tmp/x}\n"
    )
    _refused(run_kbr("backup", "-c", str(path)), 2, "NO_SUCH_VARIABLE", f"{path}:8")


def test_secrets_on_the_command_line_are_refused(tmp_path: Path) -> None:
    done = run_kbr("backup", "-b", "localhost:9092", "--backup-id", "x", "--storage", str(tmp_path), "-X", "sasl.password=hush")
    _refused(done, 2, "sasl.password")
    assert "hush" not in done.stderr


def test_a_missing_backup_ends_with_exit_10(kafka: KafkaHarness, tmp_path: Path) -> None:
    for words in (["describe", "nothing"], ["verify", "nothing"], ["restore", "-b", kafka.bootstrap, "--backup-id", "nothing"]):
        _refused(run_kbr(*words, "--storage", str(tmp_path)), 10, "nothing")


@pytest.mark.fault("D2", "cut in half, the whole command", promise=4)
def test_a_manifest_cut_in_half_is_damage_and_not_an_absent_backup(
    kafka: KafkaHarness, topic: str, tmp_path: Path
) -> None:
    store = ["--storage", str(tmp_path)]
    run_kbr_json("backup", "-b", kafka.bootstrap, "--backup-id", "cut", "-t", topic, *store)
    manifest = tmp_path / "cut" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    for words in (["describe", "cut"], ["verify", "cut"], ["restore", "-b", kafka.bootstrap, "--backup-id", "cut"]):
        _refused(run_kbr(*words, *store), 4, "manifest.json")
    listed = run_kbr_json("list", *store)["backups"]
    assert [(one["backup_id"], one["status"]) for one in listed] == [("cut", "unreadable")]
    again = run_kbr("backup", "-b", kafka.bootstrap, "--backup-id", "cut", "-t", topic, *store)
    _refused(again, 4, "manifest.json")


def test_a_backup_that_was_taken_in_another_way_is_not_gone_on_with_and_nothing_is_changed(
    kafka: KafkaHarness, topic: str, tmp_path: Path
) -> None:
    words = ["backup", "-b", kafka.bootstrap, "--backup-id", "taken", "-t", topic, "--storage", str(tmp_path)]
    assert run_kbr(*words).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _refused(run_kbr(*words, "--set", "backup.compression=lz4"), 13, "compression zstd, not lz4")
    _refused(run_kbr(*words, "--set", "backup.isolation_level=read_uncommitted"), 13, "isolation_level read_committed")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts}
    assert after == {path: data for path, data in before.items() if "locks" not in path.parts}


@pytest.mark.fault("D1", "verify and restore, the whole command", promise=9)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swap"])
def test_damaged_segments_are_found_and_nothing_of_them_is_restored(
    kafka: KafkaHarness, topic: str, tmp_path: Path, damage: str
) -> None:
    store = ["--storage", str(tmp_path)]
    run_kbr_json("backup", "-b", kafka.bootstrap, "--backup-id", "d", "-t", topic, *store)
    first, second = sorted((tmp_path / "d" / "topics").rglob("segment-*"))
    data = bytearray(first.read_bytes())
    if damage == "flip":
        data[len(data) // 3] ^= 1
        first.write_bytes(data)
    elif damage == "cut":
        first.write_bytes(data[:-7])
    elif damage == "gone":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes())
    verified = run_kbr_json("verify", "d", *store, exit_code=4)
    assert any(first.name in error["object"] for error in verified["errors"])
    target = f"damaged-{damage}"
    done = run_kbr("restore", "-b", kafka.bootstrap, "--backup-id", "d", *store, "--topic-map", f"{topic}={target}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    restored = kafka.read_all(target) if kafka.topic_exists(target) else [[]]
    assert restored[0] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault("S7", "a full disk, the whole run", promise=4)
def test_a_full_disk_is_told_and_what_was_committed_is_kept(kafka: KafkaHarness, small_disk: Path) -> None:
    name = kafka.create_topic(kafka.topic_name("full-disk"))
    send(kafka.producer(), name, ({"value": os.urandom(1000), "timestamp": BASE_MS} for _ in range(4000)))
    done = run_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "full", "-t", name, "--storage", str(small_disk),
        "--set", "backup.segment_max_bytes=100KiB", "--set", "backup.memory_limit=128MiB",
        "--set", "storage.deadline_ms=3000",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # nothing at all could be written
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in small_disk.rglob(".kbr-tmp-*")]


def test_ctrl_c_keeps_what_is_committed_and_exits_130(kafka: KafkaHarness, tmp_path: Path) -> None:
    name = kafka.create_topic(kafka.topic_name("interrupted"))
    send(kafka.producer(), name, ({"value": os.urandom(1000), "timestamp": BASE_MS} for _ in range(60_000)))
    process = start_kbr(
        "backup", "-b", kafka.bootstrap, "--backup-id", "stopped", "-t", name, "--storage", str(tmp_path),
        "--set", "backup.segment_max_bytes=256KiB", "--rate-limit", "3MB/s", "-o", "json",
    )  # fmt: skip
    wait_until(lambda: list(tmp_path.rglob("segment-*")), deadline_s=30, what="a first segment")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert '"interrupted"' in output
    verified = run_kbr_json("verify", "stopped", "--deep", "--storage", str(tmp_path))
    assert verified["undamaged"]
    assert 0 < verified["records"] < 60_000
    assert verified["objects"] == len(list(tmp_path.rglob("segment-*")))


@pytest.mark.fault("R6", "a header name with NUL, the whole command", promise=4)
def test_a_partition_that_cannot_be_read_on_is_said_and_the_rest_is_kept(kafka: KafkaHarness, tmp_path: Path) -> None:
    """A header name with a NUL can't be had exactly: its partition ends there, with all before it, and exit 3."""
    name = kafka.create_topic(kafka.topic_name("poisoned"), 2)
    load_library()
    sink = Sink([("bootstrap.servers", kafka.bootstrap)])
    records = [
        Record(n, BASE_MS + n, 1, None, b"v%d" % n, ((b"a\0b", b"x"),) if n == 700 else ()) for n in range(1000)
    ]
    window = {"offset_from": 0, "offset_to_exclusive": 2**62, "timestamp_from": 0, "timestamp_to": 2**62}
    for partition, some in ((0, records), (1, records[:500])):
        sink.produce(sink.open_topic(name), partition, encode_block(some), **window)
    while sink.open_count:
        sink.poll(100)
    sink.close()
    words = ["-t", name, "--storage", str(tmp_path), "--set", "backup.segment_max_bytes=1KiB"]
    report = run_kbr_json("backup", "-b", kafka.bootstrap, "--backup-id", "p", *words, exit_code=3)
    (topic,) = report["topics"]
    assert report["status"] == "incomplete"
    assert topic["records"] == 1200
    (failed,) = topic["failed"]
    assert failed["partition"] == 0
    assert "offset 700" in failed["error"]
    verified = run_kbr_json("verify", "p", "--deep", "--storage", str(tmp_path))
    assert verified["undamaged"]
    assert verified["records"] == 1200
    described = run_kbr_json("describe", "p", "--storage", str(tmp_path))
    assert described["topics"][0]["partitions"][0]["next_offset"] == 700


def test_help_needs_no_configuration_and_names_every_verb() -> None:
    done = run_kbr("--help")
    assert done.returncode == 0
    for verb in ("backup", "restore", "list", "describe", "verify", "config", "demo"):
        assert verb in done.stdout


def test_the_demo_compares_every_record() -> None:
    report = run_kbr_json("demo")
    assert report["status"] == "identical"
    assert all(one["verified"] and one["produced"] == one["restored"] for one in report["topics"])
