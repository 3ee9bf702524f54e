"""Stores with rules of their own: objects that nobody may remove, that somebody removed or archived, names that collide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import botocore.session
import pytest

from kbr.backup.options import BackupOptions
from kbr.model import Record, RunStatus, TopicPartition
from kbr.storage.base import NO_METADATA, ObjectInfo, Upload
from kbr.storage.local import LocalStore
from tests.conftest import S3Place
from tests.support.archive import S3Objects
from tests.support.checker import check_backup, read_truth
from tests.support.cli import run_kbr, run_kbr_json
from tests.support.fault_store import Script
from tests.support.fault_topics import fault_records, make_fault_topic
from tests.support.inline import mock_bench
from tests.support.judge import assert_archived, assert_identical
from tests.support.kafka import KafkaHarness, send
from tests.support.plain_reader import read_segment
from tests.support.s3_proxy import S3Proxy
from tests.support.servers import S3Server, free_port

# -- object lock --------------------------------------------------------------------------


@pytest.fixture
def locking(tmp_path: Path) -> Iterator[S3Place]:
    """A real S3 server that keeps versions, as object lock needs."""
    server = S3Server(tmp_path / "s3", port=free_port(), keeps_versions=True)
    try:
        server.start()
        yield S3Place(server)
    finally:
        server.stop()


@pytest.mark.servers
@pytest.mark.fault("S5", "a bucket that keeps every object for a day: backups go on, nothing that was written can be removed", promise=1)
def test_a_backup_goes_on_and_is_restored_where_no_version_can_be_removed(kafka: KafkaHarness, locking: S3Place) -> None:
    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=locking.endpoint_url, aws_access_key_id=locking.access_key,
        aws_secret_access_key=locking.secret_key, region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    topic, _ = make_fault_topic(kafka, "locked", count=200, large=0)
    place = ["-b", kafka.bootstrap, "--storage", locking.storage_url("locked"), "--backup-id", "b"]
    run_kbr_json("backup", *place, "-t", topic, env=locking.env)
    send(kafka.producer(), topic, fault_records(100, 4, seed=6, large=0))
    run_kbr_json("backup", *place, "-t", topic, env=locking.env)
    report = check_backup(read_truth(kafka, [topic]), S3Objects(locking, "locked"), "b")
    assert not report.anomalies, report
    target = kafka.topic_name("locked-back")
    run_kbr_json("restore", *place, "--topic-map", f"{topic}={target}", env=locking.env)
    assert_identical(kafka.read_all(topic), kafka.read_all(target), target)
    versions = client.list_object_versions(Bucket="locked")["Versions"]
    assert sum(one["Key"] == "b/manifest.json" for one in versions) > 1, "the bucket keeps what was replaced"
    for one in versions:
        if "/locks/" in one["Key"]:
            continue  # as all others, and there are many
        with pytest.raises(client.exceptions.ClientError, match="object lock"):
            client.delete_object(Bucket="locked", Key=one["Key"], VersionId=one["VersionId"])


# -- lifecycle rules ----------------------------------------------------------------------


class Kept:
    """A backup in a real S3 server, and what it was made of."""

    def __init__(self, kafka: KafkaHarness, s3: S3Place) -> None:
        self.kafka = kafka
        self.topic, self.records = make_fault_topic(kafka, "ruled", count=400, large=0)
        self.bucket = s3.make_bucket()
        self.words = ["--storage", s3.storage_url(self.bucket)]
        run_kbr_json(
            "backup", "-b", kafka.bootstrap, *self.words, "--backup-id", "b", "-t", self.topic, env=s3.env
        )
        self.segments = sorted(s3.folder(self.bucket).rglob("segment-*"))

    def restore(self, target: str) -> list[str]:
        return [
            "restore", "-b", self.kafka.bootstrap, *self.words, "--backup-id", "b", "--topic-map", f"{self.topic}={target}"
        ]  # fmt: skip


@pytest.fixture
def kept(kafka: KafkaHarness, s3: S3Place) -> Kept:
    return Kept(kafka, s3)


@pytest.mark.fault("S9", "a segment that a rule removed: named by verify, and by a restore before its first record", promise=4)
def test_a_segment_that_a_rule_removed_is_named_before_anything_is_sent_and_the_rest_is_restored_if_wanted(kept: Kept, s3: S3Place) -> None:
    gone = kept.segments[-1]
    gone.unlink()
    verified = run_kbr("verify", "b", *kept.words, env=s3.env)
    assert verified.returncode == 4, verified.stderr
    assert gone.name in verified.stdout + verified.stderr
    target = kept.kafka.topic_name("ruled-back")
    for more in ((), ("--dry-run",)):
        refused = run_kbr(*kept.restore(target), *more, env=s3.env)
        assert refused.returncode == 4, refused.stderr
        assert f"{gone.name} (missing). Nothing was sent" in refused.stderr
    assert target not in kept.kafka.admin.list_topics(timeout=10).topics
    report = run_kbr_json(*kept.restore(target), "--allow-incomplete", exit_code=3, env=s3.env)
    assert report["status"] == "incomplete"
    ((partition, message),) = report["failures"].items()
    assert partition == f"{kept.topic}[{len(kept.records) - 1}]"
    assert gone.name in message
    assert_identical([*kept.records[:-1], []], kept.kafka.read_all(target), target)


@pytest.mark.fault("S9", "a segment that a rule archived: named with its state and what to do, by verify and by a restore", promise=4)
def test_a_segment_that_a_rule_archived_is_named_and_what_to_do_is_told(
    kept: Kept, s3: S3Place, s3_network: S3Proxy
) -> None:
    archived = kept.segments[-1]
    env = s3.env_through(s3_network.endpoint_url)
    s3_network.fail("GET", "archived", key=archived.name, times=10_000)
    target = kept.kafka.topic_name("ruled-back")
    for command in (["verify", "b", "--deep", *kept.words], kept.restore(target)):
        failed = run_kbr(*command, env=env)
        assert failed.returncode not in (0, 2), failed.stdout
        words = failed.stdout + failed.stderr
        assert "Traceback" not in words
        assert archived.name in words
        assert "the object lies in an archive" in words
    # once it is back from there, the same command does it all
    s3_network.heal()
    run_kbr_json(*kept.restore(target), env=env)
    assert_identical(kept.records, kept.kafka.read_all(target), target)


# -- names --------------------------------------------------------------------------------


@pytest.mark.fault("S10", "a topic's name of 249 characters, the longest that Kafka takes, on a folder and on S3", promise=1)
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_the_longest_name_is_backed_up_and_restored(
    kafka: KafkaHarness, s3: S3Place, tmp_path: Path, where: str
) -> None:
    topic = kafka.create_topic(kafka.topic_name("long.").ljust(249, "x"), 2)
    send(kafka.producer(), topic, fault_records(100, 2, large=0))
    records = kafka.read_all(topic)
    bucket = s3.make_bucket()
    url, folder = (str(tmp_path), tmp_path) if where == "folder" else (s3.storage_url(bucket), s3.folder(bucket))
    place = ["-b", kafka.bootstrap, "--storage", url, "--backup-id", "b"]
    run_kbr_json("backup", *place, "-t", topic, env=s3.env)
    assert_archived(records, folder, "b", topic)
    target = kafka.topic_name("back.").ljust(249, "y")
    run_kbr_json("restore", *place, "--topic-map", f"{topic}={target}", env=s3.env)
    assert_identical(records, kafka.read_all(target), target)


class _CaselessStore(LocalStore):
    """A folder on a filesystem for which `Orders` and `orders` are one name."""

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        return super().put(key.lower(), data, if_absent=if_absent, metadata=metadata)

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        return super().open_upload(key.lower(), if_absent=if_absent, metadata=metadata)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return super().get(key.lower(), max_bytes=max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return super().read_range(key.lower(), start, length)

    def head(self, key: str) -> ObjectInfo:
        return super().head(key.lower())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return super().list(prefix.lower())

    def delete(self, key: str) -> None:
        super().delete(key.lower())


@pytest.mark.fault("S10", "topics that differ by case alone, on a folder that ignores it: never complete with one of them only", promise=4)
def test_names_that_are_one_to_the_filesystem_never_make_a_backup_that_says_it_is_complete(tmp_path: Path) -> None:
    topics = ("shop.Orders", "shop.orders")
    with mock_bench() as bench:
        for topic in topics:
            bench.create_topic(topic, 1)
        bench.produce(
            {
                TopicPartition(topic, 0): [Record(offset, 1_714_564_800_000, 1, topic.encode(), b"v", ()) for offset in range(50)]
                for topic in topics
            }
        )
        store = _CaselessStore(str(tmp_path))
        manifest = bench.back_up(store, BackupOptions(backup_id="b", include=topics), Script()).manifest
    assert manifest.status is RunStatus.INCOMPLETE
    listed = {topic.name: sum(len(one.segments) for one in topic.partitions) for topic in manifest.topics}
    assert sorted(listed.values()) == [0, 1]
    (path,) = tmp_path.rglob("segment-*")
    index, records = read_segment(path.read_bytes())
    assert listed[index["topic"]] == 1
    assert [(one.offset, one.key) for one in records] == [(offset, index["topic"].encode()) for offset in range(50)]
