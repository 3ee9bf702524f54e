"""Whole runs with storage options: they reach every process, and hold on a real server as far as it has them."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kbr.repository.layout import RETAINED_KEYS, SEGMENT_KEYS
from kbr.storage import StorageOptions
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3_errors import S3Failure
from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, send
from tests.support.s3_proxy import S3Proxy
from tests.support.scripted_s3 import ScriptedS3
from tests.support.servers import Process, S3Server, free_port, versitygw_binary
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import S3Place

Record = Callable[[str, object], None]
SUPPORT = Path(__file__).parents[1] / "support"
BASE_MS = 1_714_564_800_000


@pytest.fixture(scope="module")
def topic(kafka: KafkaHarness) -> str:
    """200 records in two partitions, and one of 17 MB, whose segment goes in parts."""
    name = kafka.create_topic("storage-options", 2, {"max.message.bytes": "18000000"})
    records = [{"value": b"v%d" % n, "partition": n % 2, "timestamp": BASE_MS + n} for n in range(200)]
    records.append({"value": os.urandom(17_000_000), "partition": 0, "timestamp": BASE_MS + 200})
    producer = kafka.producer(message_max_bytes=18_000_000)
    send(producer, name, records)
    return name


@pytest.fixture(scope="module")
def locking_s3(servers_folder: Path) -> Iterator[S3Server]:
    """A real server whose buckets may have object lock."""
    server = S3Server(servers_folder / "s3-lock", port=free_port(), keeps_versions=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _config(tmp_path: Path, kafka: KafkaHarness, storage: dict[str, Any]) -> str:
    path = tmp_path / "kbr.yaml"
    whole = {
        "backup_id": "kept",
        "source": {"bootstrap_servers": kafka.bootstrap},
        "target": {"bootstrap_servers": kafka.bootstrap},
        "storage": {"region": "us-east-1", "access_key": "testkey", "secret_key": "testsecret", **storage},
        "backup": {"consumer_groups": True, "memory_limit": "512MiB"},
    }
    path.write_text(yaml.safe_dump(whole))
    return str(path)


def _round_trip(kafka: KafkaHarness, config: str, topic: str, back: str) -> None:
    """Back up, prove, restore, compare."""
    report = run_kbr_json("backup", "-c", config, "-t", topic)
    assert (report["status"], report["totals"]["records"]) == ("complete", 201)
    assert run_kbr_json("verify", "kept", "-c", config, "--deep")["undamaged"]
    restored = run_kbr_json("restore", "-c", config, "--topic-map", f"{topic}={back}")
    assert restored["totals"]["records"] == 201
    for before, after in zip(kafka.read_all(topic), kafka.read_all(back), strict=True):
        assert [one.exact for one in before] == [one.exact for one in after]


@pytest.mark.timeout(180)
def test_all_options_reach_all_processes(
    kafka: KafkaHarness, topic: str, tmp_path: Path, record_property: Record
) -> None:
    """Workers, the lock's process and the supervisor write; a server that shows how each object was made tells."""
    record_property("compatibility", {"table": "storage options", "row": "SSE-C", "column": "backup, verify, restore"})
    key = os.urandom(32)
    secret = tmp_path / "key"
    secret.write_text(base64.b64encode(key).decode() + "\n")
    with ScriptedS3() as server:
        server.wants_md5 = True
        storage = {
            "url": "s3://bucket/deep", "endpoint": server.endpoint_url, "sse_customer_key_command": ["cat", str(secret)],
            "storage_class": "STANDARD_IA", "tags": {"team": "data"}, "object_lock_mode": "compliance",
            "object_lock_retain_days": 1,
        }  # fmt: skip
        config = _config(tmp_path, kafka, storage)
        _round_trip(kafka, config, topic, f"{topic}-all")
        assert server.count("upload_part") > 0
        by_kind = {"segments": 0, "groups": 0, "others": 0}
        for name, found in server.objects.items():
            below = name.removeprefix("deep/")
            is_segment = re.fullmatch(SEGMENT_KEYS, below) is not None
            is_retained = re.fullmatch(RETAINED_KEYS, below) is not None
            by_kind["segments" if is_segment else "groups" if is_retained else "others"] += 1
            options = found.options
            assert options["x-amz-server-side-encryption-customer-algorithm"] == "AES256", name
            assert options["x-amz-tagging-count"] == "1", name
            assert options.get("x-amz-storage-class") == ("STANDARD_IA" if is_segment else None), name
            assert options.get("x-amz-object-lock-mode") == ("COMPLIANCE" if is_retained else None), name
        assert by_kind["segments"] >= 2
        assert by_kind["groups"] == 1
        assert by_kind["others"] >= 3  # manifest, locks, a restore's notes
        text = "\n".join(str(one) for one in (run_kbr("config", "show", config).stdout, *server.objects))
        assert base64.b64encode(key).decode() not in text
        blind = _config(tmp_path, kafka, {"url": "s3://bucket/deep", "endpoint": server.endpoint_url})
        done = run_kbr("describe", "kept", "-c", blind)
        assert done.returncode == 1
        assert "storage.sse_customer_key" in done.stderr


@pytest.mark.timeout(180)
@pytest.mark.fault("S5", "a bucket with object lock: a run, its manifests' versions, its retained segments", promise=1)
def test_segments_are_retained_by_a_real_server_and_manifests_are_not(
    kafka: KafkaHarness, topic: str, locking_s3: S3Server, tmp_path: Path, record_property: Record
) -> None:
    record_property("compatibility", {"table": "storage options", "row": "object lock, governance", "column": "versitygw"})
    client = S3fsClient(
        StorageOptions(
            url="s3://x", endpoint_url=locking_s3.endpoint_url, access_key=locking_s3.access_key,
            secret_key=locking_s3.secret_key, region="us-east-1", path_style=True,
        )
    )  # fmt: skip

    def call(operation: str, **arguments: Any) -> Any:
        return client.call(operation, timeout_s=20, Bucket="locked", **arguments)

    call("create_bucket", ObjectLockEnabledForBucket=True)
    storage = {
        "url": "s3://locked/p", "endpoint": locking_s3.endpoint_url, "object_lock_mode": "governance",
        "object_lock_retain_days": 1,
    }  # fmt: skip
    config = _config(tmp_path, kafka, storage)
    _round_trip(kafka, config, topic, f"{topic}-locked")
    modes: dict[str, str | None] = {}
    for entry in call("list_objects_v2")["Contents"]:
        modes[entry["Key"]] = call("head_object", Key=entry["Key"]).get("ObjectLockMode")
    retained = {name for name, mode in modes.items() if mode == "GOVERNANCE"}
    assert retained == {name for name in modes if re.fullmatch(RETAINED_KEYS, name.removeprefix("p/"))}
    assert len(retained) >= 3
    segment = next(name for name in sorted(retained) if "segment" in name)
    version = call("head_object", Key=segment)["VersionId"]
    with pytest.raises(S3Failure) as caught:
        call("delete_object", Key=segment, VersionId=version)
    assert caught.value.status == 403
    client.close()


@pytest.mark.timeout(180)
def test_a_run_over_tls_with_a_ca_of_one_s_own(
    kafka: KafkaHarness, topic: str, s3: S3Place, s3_network: S3Proxy, tmp_path: Path, record_property: Record
) -> None:
    record_property("compatibility", {"table": "storage options", "row": "own CA", "column": "versitygw"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SUPPORT / "self-signed.pem")
    s3_network.speak_tls(context)
    bucket = s3.make_bucket()
    storage = {
        "url": s3.storage_url(bucket), "endpoint": s3_network.endpoint_url.replace("http:", "https:"),
        "ca_bundle": str(SUPPORT / "self-signed.pem"), "access_key": s3.access_key, "secret_key": s3.secret_key,
    }  # fmt: skip
    _round_trip(kafka, _config(tmp_path, kafka, storage), topic, f"{topic}-tls")
    del storage["ca_bundle"]
    done = run_kbr("list", "-c", _config(tmp_path, kafka, storage))
    assert done.returncode == 1
    assert "storage.ca_bundle" in done.stderr


@pytest.mark.timeout(180)
def test_a_run_finds_its_credentials_in_a_profile(
    kafka: KafkaHarness, topic: str, s3: S3Place, tmp_path: Path, record_property: Record
) -> None:
    record_property("compatibility", {"table": "storage options", "row": "credentials: shared file, profile", "column": "versitygw"})
    files = tmp_path / "credentials"
    files.write_text(
        f"[backup]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\nregion = us-east-1\n"
    )
    bucket = s3.make_bucket()
    config = tmp_path / "kbr.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "backup_id": "kept",
                "source": {"bootstrap_servers": kafka.bootstrap},
                "storage": {"url": s3.storage_url(bucket), "endpoint": s3.endpoint_url, "profile": "backup"},
            }
        )
    )
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(files), "AWS_EC2_METADATA_DISABLED": "true"}
    report = run_kbr_json("backup", "-c", str(config), "-t", topic, env=env)
    assert report["status"] == "complete"
    assert run_kbr_json("verify", "kept", "-c", str(config), env=env)["undamaged"]
    without = run_kbr("list", "-c", str(config), env={**env, "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"})
    assert without.returncode == 1
    assert "storage.profile" in without.stderr


@pytest.fixture(scope="module")
def least_user(servers_folder: Path) -> Iterator[tuple[str, Callable[[list[str], list[str]], None]]]:
    """A real server with users; gives its endpoint, and what sets the rights of one on ``backups`` and its objects."""
    folder = servers_folder / "s3-iam"
    for name in ("data", "users"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "backups").mkdir()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    binary = str(versitygw_binary())
    process = Process("versitygw-iam", folder)
    process.start(
        [binary, "--port", f"127.0.0.1:{port}", "--iam-dir", str(folder / "users"), "posix", str(folder / "data")],
        port=port,
        env={"ROOT_ACCESS_KEY": "rootkey", "ROOT_SECRET_KEY": "rootsecret"},
    )
    root = S3fsClient(
        StorageOptions(
            url="s3://backups", endpoint_url=endpoint, access_key="rootkey", secret_key="rootsecret",
            region="us-east-1", path_style=True,
        )
    )  # fmt: skip
    try:
        wait_until(lambda: _listens(port), deadline_s=20, what="versitygw listens")
        made = subprocess.run(
            [
                binary, "admin", "--access", "rootkey", "--secret", "rootsecret", "--endpoint-url", endpoint,
                "create-user", "--access", "least", "--secret", "leastsecret", "--role", "user",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

        def allow(on_bucket: list[str], on_objects: list[str]) -> None:
            statements = [
                {"Effect": "Allow", "Principal": {"AWS": ["least"]}, "Action": actions, "Resource": f"arn:aws:s3:::{place}"}
                for actions, place in ((on_bucket, "backups"), (on_objects, "backups/production/*"))
            ]
            policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
            root.call("put_bucket_policy", timeout_s=10, Bucket="backups", Policy=policy)

        yield endpoint, allow
    finally:
        root.close()
        process.stop()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.timeout(180)
def test_the_documented_least_rights_are_enough_and_no_more(
    kafka: KafkaHarness,
    topic: str,
    least_user: tuple[str, Callable[[list[str], list[str]], None]],
    tmp_path: Path,
    record_property: Record,
) -> None:
    """The policies of docs/how-to/storage.md, for a user of a server that keeps to them."""
    record_property("compatibility", {"table": "storage options", "row": "least rights", "column": "versitygw"})
    endpoint, allow = least_user
    storage = {"url": "s3://backups/production", "endpoint": endpoint, "access_key": "least", "secret_key": "leastsecret"}
    config = _config(tmp_path, kafka, storage)
    on_bucket, on_objects, read_bucket, read_objects = (one["Action"] for one in _documented_statements())
    allow(on_bucket, on_objects)
    assert run_kbr_json("backup", "-c", config, "-t", topic)["status"] == "complete"
    again = run_kbr_json("backup", "-c", config, "-t", topic)  # its lock could not be deleted, and disturbs nobody
    assert again["totals"]["records"] == 201
    allow([read_bucket], [read_objects])
    denied = run_kbr("backup", "-c", config, "-t", topic)
    assert denied.returncode == 1
    assert "rights on the bucket" in denied.stderr
    assert run_kbr_json("verify", "kept", "-c", config, "--deep")["undamaged"]
    restored = run_kbr_json("restore", "-c", config, "--topic-map", f"{topic}={topic}-least")
    assert restored["totals"]["records"] == 201
    allow([read_bucket], ["s3:PutObject"])
    blind = run_kbr("verify", "kept", "-c", config)
    assert blind.returncode == 1
    assert "rights on the bucket" in blind.stderr


def _documented_statements() -> list[dict[str, Any]]:
    """Of the page's two policies, in order."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "storage.md").read_text(encoding="utf-8")
    blocks = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    return [statement for block in blocks if "Statement" in block for statement in block["Statement"]]
