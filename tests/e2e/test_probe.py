"""`kbr config check --probe` as a process: what it finds on real servers, and on one that does as it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kbr.storage import StorageOptions
from kbr.storage.fsspec_store import S3fsClient
from tests.support.cli import kbr_environment, run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness
from tests.support.s3_proxy import S3Proxy
from tests.support.scripted_s3 import ScriptedS3
from tests.support.secure_kafka import Right, SecureHarness, SecureKafka, Way
from tests.support.servers import free_port

if TYPE_CHECKING:
    from tests.conftest import S3Place

Probe = Callable[..., dict[str, Any]]


def _write(tmp_path: Path, storage: dict[str, Any], **sections: Any) -> str:
    path = tmp_path / "kbr.yaml"
    path.write_text(yaml.safe_dump({"backup_id": "probed", "storage": storage, **sections}))
    return str(path)


def _by_check(document: dict[str, Any], place: str = "storage") -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in document["probe"] if one["place"] == place}


@pytest.fixture
def scripted() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


def _scripted_storage(server: ScriptedS3, **more: Any) -> dict[str, Any]:
    return {
        "url": "s3://bucket/p", "endpoint": server.endpoint_url, "region": "us-east-1", "access_key": "a",
        "secret_key": "b", **more,
    }  # fmt: skip


def test_a_bucket_where_everything_works_is_left_as_it_was(s3: S3Place, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    config = _write(tmp_path, {"url": s3.storage_url(bucket, "p")})
    document = run_kbr_json("config", "check", config, "--probe", env=s3.env)
    found = _by_check(document)
    assert document["ok"]
    assert document["probed_for"] == ["backup"]
    assert {check: one["outcome"] for check, one in found.items()} == {
        "list": "ok", "write": "ok", "look at": "ok", "read back": "ok", "read a range": "ok", "write in parts": "ok",
        "write only if absent": "note", "delete": "ok",
    }  # fmt: skip
    assert found["write only if absent"]["detail"] == "honoured"
    assert found["delete"]["needed_for"] == ["prune"]
    assert found["write"]["right"] == "s3:PutObject"
    assert [path for path in s3.folder(bucket).rglob("*") if path.is_file()] == []
    table = run_kbr("config", "check", config, "--probe", env=s3.env)
    assert table.returncode == 0
    assert "Nothing is missing for: kbr backup." in table.stdout


@pytest.mark.parametrize(
    ("operations", "outcome", "exit_code"),
    [
        (["PUT", "create"], {"write": "denied", "read back": "ok", "write in parts": "denied"}, 1),
        (["GET"], {"write": "ok", "read back": "denied", "read a range": "denied", "look at": "ok"}, 1),
        (["HEAD"], {"write": "ok", "look at": "denied"}, 1),
        (["LIST"], {"list": "denied", "write": "ok", "read back": "ok"}, 1),
        (["create"], {"write": "ok", "write in parts": "denied", "delete": "ok"}, 1),
        (["DELETE"], {"write": "ok", "read back": "ok", "delete": "denied"}, 0),
    ],
    ids=["write", "get", "head", "list", "parts", "delete"],
)
def test_a_missing_right_is_named_and_the_others_are_found(
    s3: S3Place,
    s3_network: S3Proxy,
    tmp_path: Path,
    operations: list[str],
    outcome: dict[str, str],
    exit_code: int,
) -> None:
    """A real server, in front of which requests of some kinds are answered with 403."""
    bucket = s3.make_bucket()
    for operation in operations:
        s3_network.fail(operation, "403", times=1000)
    config = _write(tmp_path, {"url": s3.storage_url(bucket)})
    env = s3.env_through(s3_network.endpoint_url)
    done = run_kbr("config", "check", config, "--probe", "-o", "json", env=env)
    document = json.loads(done.stdout)
    found = _by_check(document)
    assert {check: found[check]["outcome"] for check in outcome} == outcome
    assert (done.returncode, document["exit_code"], document["ok"]) == (exit_code, exit_code, exit_code == 0)
    assert "Traceback" not in done.stderr
    left = [path.name for path in s3.folder(bucket).rglob("*") if path.is_file()]
    if operations == ["DELETE"]:
        assert len(left) == 2
        assert "left behind: " in found["delete"]["detail"]
        s3_network.heal()
        assert run_kbr_json("list", "-c", config, env=s3.env)["backups"] == []  # what is left is no backup
        again = _by_check(run_kbr_json("config", "check", config, "--probe", env=s3.env))
        assert "2 objects of earlier checks are left" in again["list"]["detail"]
    else:
        assert left == []


def test_a_credential_that_may_only_read_is_enough_for_a_restore_and_not_for_a_backup(
    s3: S3Place, tmp_path: Path
) -> None:
    """Nobody in particular, by a bucket's policy: a real server's own rights."""
    bucket = s3.make_bucket()
    client = S3fsClient(
        StorageOptions(
            url=f"s3://{bucket}", endpoint_url=s3.endpoint_url, access_key=s3.access_key, secret_key=s3.secret_key,
            region="us-east-1", path_style=True,
        )
    )  # fmt: skip
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:ListBucket", "s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    client.call("put_bucket_policy", timeout_s=10, Bucket=bucket, Policy=json.dumps(policy))
    client.close()
    storage = {"url": s3.storage_url(bucket), "endpoint": s3.endpoint_url, "region": "us-east-1", "anonymous": True}
    config = _write(tmp_path, storage)
    document = run_kbr_json("config", "check", config, "--probe", exit_code=1)
    found = _by_check(document)
    assert {check: found[check]["outcome"] for check in ("list", "write", "look at", "read back")} == {
        "list": "ok", "write": "denied", "look at": "ok", "read back": "ok",
    }  # fmt: skip
    assert found["write"]["missed"]
    table = run_kbr("config", "check", config, "--probe")
    assert table.returncode == 1
    assert "Missing for kbr backup: storage: write (s3:PutObject)" in table.stdout
    port = free_port()
    target = {"target": {"bootstrap_servers": f"127.0.0.1:{port}", "deadline_ms": 1000}}
    away = run_kbr_json("config", "check", _write(tmp_path, storage, **target), "--probe", "--mode", "restore", exit_code=5)
    assert not any(one["missed"] for one in away["probe"] if one["place"] == "storage")


@pytest.mark.fault("S4", "config check --probe finds aws-chunked framing that is stored as content", promise=1)
@pytest.mark.parametrize("tells_its_size", [True, False])
def test_a_server_that_stores_other_bytes_is_found(
    scripted: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells_its_size: bool
) -> None:
    """It stores more than it was given; one that gives the size of what was meant is found by reading back."""
    if tells_its_size:
        scripted.fail("put", "frame", times=1)
    else:
        scripted.mangles = True
    document = run_kbr_json("config", "check", _write(tmp_path, _scripted_storage(scripted)), "--probe", exit_code=1)
    found = _by_check(document)
    failed = found["write"] if tells_its_size else found["read back"]
    assert failed["outcome"] == "failed"
    assert "aws-chunked" in failed["hint"]
    assert not document["ok"]
    assert scripted.objects == {}


@pytest.mark.parametrize(("conditions", "words"), [("ignore", "ignored"), ("refuse", "refused"), ("honour", "honoured")])
def test_what_becomes_of_conditional_writes_is_told_and_is_no_fault(
    scripted: ScriptedS3, tmp_path: Path, conditions: str, words: str
) -> None:
    scripted.conditions = conditions
    document = run_kbr_json("config", "check", _write(tmp_path, _scripted_storage(scripted)), "--probe")
    line = _by_check(document)["write only if absent"]
    assert line["outcome"] == "note"
    assert line["detail"].startswith(words)
    assert scripted.objects == {}


def test_storage_options_are_tried_and_what_the_server_shows_of_them_is_told(
    scripted: ScriptedS3, tmp_path: Path
) -> None:
    storage = _scripted_storage(
        scripted, sse="AES256", storage_class="STANDARD_IA", tags={"team": "data"}, object_lock_mode="governance",
        object_lock_retain_days=1,
    )  # fmt: skip
    found = _by_check(run_kbr_json("config", "check", _write(tmp_path, storage), "--probe"))
    options = {check: one["detail"] for check, one in found.items() if check.startswith("storage.")}
    assert options == dict.fromkeys(
        ("storage.sse", "storage.storage_class", "storage.tags", "storage.object_lock_mode"), "followed"
    )
    scripted.reset()
    scripted.refused_headers["x-amz-object-lock"] = ("InvalidRequest", 400, "Bucket is missing Object Lock Configuration")
    document = run_kbr_json("config", "check", _write(tmp_path, storage), "--probe", exit_code=2)
    assert "refuses storage.object_lock_mode" in _by_check(document)["write"]["detail"]


def test_encryption_that_the_server_ignores_is_a_failed_write_and_no_missing_right(scripted: ScriptedS3, tmp_path: Path) -> None:
    scripted.ignores_options = True
    config = _write(tmp_path, _scripted_storage(scripted, sse="AES256", storage_class="STANDARD_IA"))
    document = run_kbr_json("config", "check", config, "--probe", exit_code=2)
    found = _by_check(document)
    assert found["write"]["outcome"] == "failed"
    assert "not encrypted as storage.sse says" in found["write"]["detail"]
    assert "storage.sse" not in found
    assert found["storage.storage_class"]["detail"] == "taken, and the server does not show that it follows it"
    table = run_kbr("config", "check", config, "--probe").stdout
    assert "Missing for kbr backup: storage: write, storage: write in parts." in table


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    folder.chmod(0o555)
    # root may write everywhere, unless that is taken from it (util-linux)
    without = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*without, sys.executable, "-m", "kbr", "config", "check", "--probe", "--storage", str(folder), "-o", "json"],
        capture_output=True, text=True, check=False, timeout=60, env=kbr_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = _by_check(json.loads(done.stdout))
    assert {check: found[check]["outcome"] for check in ("list", "write")} == {"list": "ok", "write": "denied"}
    assert str(folder) in found["write"]["detail"]
    assert list(folder.iterdir()) == []


def test_a_backup_s_own_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """The folder above it may be: the probe said that nothing was missing, and the backup then failed."""
    inner = tmp_path / "backups" / "nightly"
    (inner / "locks").mkdir(parents=True)
    (inner / "manifest.json").write_text("{}")
    call = [sys.executable, "-m", "kbr", "config", "check", "--probe", "--storage", str(inner.parent), "--set", "backup_id=nightly", "-o", "json"]
    without = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    for mode, outcome in ((0o755, "ok"), (0o555, "denied")):
        inner.chmod(mode)
        done = subprocess.run(
            [*without, *call], capture_output=True, text=True, check=False, timeout=60, env=kbr_environment(), stdin=subprocess.DEVNULL
        )
        found = _by_check(json.loads(done.stdout))
        assert (found["write"]["outcome"], found["write into the backup"]["outcome"]) == ("ok", outcome), done.stderr
        assert done.returncode == (0 if outcome == "ok" else 1)
        assert sorted(one.name for one in inner.iterdir()) == ["locks", "manifest.json"]
        assert [one.name for one in inner.parent.iterdir()] == ["nightly"]
    assert str(inner) in found["write into the backup"]["detail"]


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    document = run_kbr_json("config", "check", "--probe", "--storage", str(folder))
    assert document["ok"]
    assert list(folder.iterdir()) == []


def test_kafka_s_side_of_a_backup_and_of_a_restore(kafka: KafkaHarness, tmp_path: Path) -> None:
    name = kafka.create_topic("probe-topic", 2)
    cluster = {"bootstrap_servers": kafka.bootstrap}
    config = _write(
        tmp_path,
        {"url": str(tmp_path / "backups")},
        source={**cluster, "topics": {"include": [name]}},
        target=dict(cluster),
        restore={"topic_mapping": {"a": name}},
    )
    document = run_kbr_json("config", "check", config, "--probe")
    assert document["probed_for"] == ["backup", "restore"]
    source, target = _by_check(document, "source"), _by_check(document, "target")
    assert {check: one["outcome"] for check, one in source.items()} == dict.fromkeys(
        ("connect", "topics", "read topics", "keep topic configs", "end offsets"), "ok"
    )
    assert {check: one["outcome"] for check, one in target.items()} == dict.fromkeys(
        ("connect", "topics", "create topics", "write topics", "go on after an interruption", "compare topic configs"), "ok"
    )
    assert source["topics"]["detail"] == "1 are chosen"
    assert source["end offsets"]["detail"] == "of 2 partitions"
    missing = _write(
        tmp_path, {"url": str(tmp_path / "backups")}, source={**cluster, "topics": {"include": ["probe-topci"]}}
    )
    document = run_kbr_json("config", "check", missing, "--probe", exit_code=1)
    line = _by_check(document, "source")["topics"]
    assert "no such topic: probe-topci" in line["detail"]
    assert "probe-topic" in line["hint"]
    assert "without Describe a topic can't be seen" in line["hint"]


def test_rights_that_kafka_does_not_give_are_named(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    """Describe alone is too little, Read alone enough; a restore's Write likewise."""
    way = Way("SASL_SSL", "SCRAM-SHA-512")
    topic, dark = SecureHarness(secure_kafka).create_topic(secure_kafka.name("probed")), secure_kafka.name("dark")
    storage = {"url": str(tmp_path / "backups")}
    reader, writer = (secure_kafka.principal(way, name) for name in ("reader", "writer"))
    source = {**secure_kafka.cluster_config(way, "reader"), "topics": {"include": [topic]}}
    config = _write(tmp_path, storage, source=source)
    with secure_kafka.rights(reader, [Right("Describe", "topic", topic)]):
        document = run_kbr_json("config", "check", config, "--probe", exit_code=1)
        line = _by_check(document, "source")["read topics"]
        assert (line["outcome"], line["missed"]) == ("denied", True)
        assert line["hint"] == f"the user needs Read on topic {topic}"
        assert _by_check(document, "source")["end offsets"]["outcome"] == "ok"
    with secure_kafka.rights(reader, [Right("Read", "topic", topic)]):
        found = _by_check(run_kbr_json("config", "check", config, "--probe"), "source")
        assert found["read topics"]["outcome"] == "ok"
        assert (found["keep topic configs"]["outcome"], found["keep topic configs"]["missed"]) == ("denied", False)
    with secure_kafka.rights(reader, []):
        document = run_kbr_json("config", "check", config, "--probe", exit_code=1)
        line = _by_check(document, "source")["topics"]
        assert line["outcome"] == "denied"
        assert f"missing right: Read on topic {topic}" in line["detail"]
        assert f"--operation Read --topic {topic}" in line["hint"]
    target = secure_kafka.cluster_config(way, "writer")
    config = _write(tmp_path, storage, target=target, restore={"topic_mapping": {"a": topic, "b": dark}})
    with secure_kafka.rights(writer, [Right("Describe", "topic", topic)]):
        found = _by_check(run_kbr_json("config", "check", config, "--probe", exit_code=1), "target")
        assert found["write topics"]["hint"] == f"the user needs Write on topic {topic}"
        assert found["create topics"]["outcome"] == "note"
    with secure_kafka.rights(writer, [Right("Write", "topic", topic), Right("Create", "topic", dark)]):
        found = _by_check(run_kbr_json("config", "check", config, "--probe"), "target")
        assert found["write topics"]["outcome"] == "ok"


def test_a_group_that_a_backup_would_miss_is_named(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    """The backup ends with exit code 3 for a named group that the user may not see, and the probe said that nothing was missing."""
    way = Way("SASL_SSL", "SCRAM-SHA-512")
    topic, group = SecureHarness(secure_kafka).create_topic(secure_kafka.name("grouped")), secure_kafka.name("readers")
    source = {**secure_kafka.cluster_config(way, "reader"), "topics": {"include": [topic]}}
    reader = secure_kafka.principal(way, "reader")
    config = _write(tmp_path, {"url": str(tmp_path / "backups")}, source=source, backup={"consumer_groups": [group, "other-*"]})
    with secure_kafka.rights(reader, [Right("Read", "topic", topic)]):
        line = _by_check(run_kbr_json("config", "check", config, "--probe", exit_code=1), "source")["read groups"]
        assert (line["outcome"], line["missed"]) == ("denied", True)
        assert f"Describe on group {group}" in line["detail"]
    with secure_kafka.rights(reader, [Right("Read", "topic", topic), Right("Describe", "group", group)]):
        found = _by_check(run_kbr_json("config", "check", config, "--probe"), "source")
        assert found["read groups"]["outcome"] == "ok"


def test_a_cluster_that_is_away_is_one_of_the_lines(tmp_path: Path) -> None:
    port = free_port()
    source = {"bootstrap_servers": f"127.0.0.1:{port}", "deadline_ms": 1000}
    config = _write(tmp_path, {"url": str(tmp_path / "backups")}, source=source)
    document = run_kbr_json("config", "check", config, "--probe", exit_code=5)
    assert _by_check(document)["write"]["outcome"] == "ok"
    line = _by_check(document, "source")["connect"]
    assert (line["outcome"], line["missed"]) == ("failed", True)
    assert f"127.0.0.1:{port}" in line["detail"]


def test_plain_http_to_another_machine_is_warned_of(tmp_path: Path) -> None:
    """Nobody is asked: the name can't be resolved."""
    storage = {"url": "s3://bucket", "endpoint": "http://s3.kbr.invalid", "access_key": "a", "secret_key": "b", "deadline_ms": 100}
    done = run_kbr("config", "check", _write(tmp_path, storage), "--probe")
    assert done.returncode == 5
    assert "http://s3.kbr.invalid is plain HTTP" in done.stderr
    loopback = {**storage, "endpoint": f"http://127.0.0.1:{free_port()}"}
    assert "plain HTTP" not in run_kbr("config", "check", _write(tmp_path, loopback), "--probe").stderr
