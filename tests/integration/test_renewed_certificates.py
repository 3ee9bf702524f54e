"""Runs that outlive the certificate that they began with, on a real broker: renewed files are taken up, and nothing is lost for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kbr.errors import AuthenticationFailed, ClusterUnavailable
from kbr.kafka.cluster import Cluster
from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import FetchedBlock, PartitionEnded, PartitionSource, SourceOptions
from kbr.model import OffsetRange, TopicPartition
from kbr_codec import decode_block
from tests.support.archive import FolderObjects
from tests.support.certificates import Pair
from tests.support.checker import check_backup, read_truth
from tests.support.kafka import KafkaHarness, send
from tests.support.process_tree import KbrRun
from tests.support.secure_kafka import Right, SecureKafka, Way
from tests.support.secure_runs import back_up
from tests.support.waiting import wait_until

MTLS = Way("MTLS")
#: How long the first certificate is good for, seconds.
LIFE_S = 15
#: A connection that is idle for so long is closed, and made again with what the client has read, ms. Between two passes the one that
#: looks for new records is; or it stays open, and only the workers' new ones are refused.
IDLE_MS = {"the one that looks": "100", "workers": "60000"}


def _stamp(at_s: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(at_s))


class Files:
    """A client's certificate and key as a run is told of them."""

    def __init__(self, secure: SecureKafka, folder: Path, name: str) -> None:
        self._secure = secure
        self._name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key = folder / "client.pem", folder / "client.key"

    def new_pair(self, *, until_s: float = 0.0) -> Pair:
        """A new certificate, until then or for two days."""
        now = time.time()
        period = {"start": _stamp(now - 3600), "end": _stamp(until_s)} if until_s else {}
        return self._secure.authority.sign(self._name, **period)

    def put(self, path: Path, content: Path) -> None:
        """As a tool that renews does it: at once."""
        new = path.with_suffix(".new")
        new.write_bytes(content.read_bytes())
        new.replace(path)

    def settings(self, secure: SecureKafka) -> ClientSettings:
        return ClientSettings(
            bootstrap_servers=(f"127.0.0.1:{secure.port('MTLS')}",),
            security_protocol="SSL",
            ssl_ca_location=str(secure.authority.certificate),
            ssl_certificate_location=str(self.certificate),
            ssl_key_location=str(self.key),
            client={"connections.max.idle.ms": "1000"},
        )


def _listed(folder: Path) -> int:
    path = folder / "b" / "manifest.json"
    if not path.exists():
        return 0
    return sum(one["record_count"] for topic in json.loads(path.read_bytes())["topics"] for one in topic["partitions"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("refused", IDLE_MS)
def test_a_continuous_backup_goes_on_with_a_certificate_that_was_renewed_after_the_old_one_had_expired(
    secure_kafka: SecureKafka, tmp_path: Path, refused: str
) -> None:
    user = secure_kafka.name("short-lived")
    topic = secure_kafka.harness.create_topic(secure_kafka.name("renewed"), 2)
    files = Files(secure_kafka, tmp_path / "tls", user)
    expires_at = time.time() + LIFE_S
    first = files.new_pair(until_s=expires_at)
    files.put(files.certificate, first.certificate)
    files.put(files.key, first.key)
    source = secure_kafka.cluster_config(
        MTLS, "reader", ssl_certificate_location=str(files.certificate), ssl_key_location=str(files.key)
    )
    config = {
        "backup_id": "b",
        "source": {**source, "client": {"connections.max.idle.ms": IDLE_MS[refused]}, "topics": {"include": [topic]}},
        "storage": {"url": str(tmp_path / "store")},
        "backup": {"workers": 1, "segment_max_interval_ms": 300, "checkpoint_interval_ms": 100, "continuous": True},
    }
    path = tmp_path / "kbr.yaml"
    path.write_text(json.dumps(config))
    sent = 0

    def add(count: int) -> None:
        nonlocal sent
        records = [{"partition": n % 2, "key": b"%d" % n, "value": b"v%d" % n} for n in range(sent, sent + count)]
        send(secure_kafka.harness.producer(), topic, records)
        sent += count

    principal = f"User:CN={user}"
    with (
        secure_kafka.rights(principal, [Right("Read", "topic", topic), Right("DescribeConfigs", "topic", topic)]),
        KbrRun("backup", "-c", str(path)) as run,
    ):

        def holds(condition: Callable[[], bool]) -> bool:
            assert not run.is_over, run.output
            return condition()

        add(100)
        wait_until(lambda: holds(lambda: _listed(tmp_path / "store") == sent), deadline_s=60, what="the first records")
        wait_until(lambda: holds(lambda: time.time() > expires_at), deadline_s=LIFE_S + 10, what="the certificate's end")
        add(100)
        said = "it was let in before" if refused == "the one that looks" else "it does not accept this client's certificate"
        wait_until(lambda: holds(lambda: said in run.output), deadline_s=60, what="a refusal")
        assert _listed(tmp_path / "store") == sent - 100
        # one after the other: the two don't fit each other for a moment
        second = files.new_pair()
        files.put(files.certificate, second.certificate)
        wait_until(lambda: holds(lambda: "can't be used yet" in run.output), deadline_s=60, what="a half renewal")
        files.put(files.key, second.key)
        wait_until(lambda: holds(lambda: _listed(tmp_path / "store") == sent), deadline_s=90, what="all records")
        assert ("connecting anew" if refused == "the one that looks" else "fetching through a new client") in run.output
        add(50)
        wait_until(lambda: holds(lambda: _listed(tmp_path / "store") == sent), deadline_s=60, what="what came then")
        run.terminate()
        assert run.wait(30) == 0, run.output
    report = check_backup(read_truth(secure_kafka.harness, [topic]), FolderObjects(tmp_path / "store"), "b")
    assert report.record_count == sent
    assert not report.anomalies, report


@pytest.mark.long  # 54 s, of which nearly all is waiting for one record a second
@pytest.mark.timeout(240)
def test_a_restore_goes_on_with_a_certificate_that_was_renewed_after_the_old_one_had_expired(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    user = secure_kafka.name("short-lived")
    topic = secure_kafka.harness.create_topic(secure_kafka.name("slow"), 1)
    target = f"{topic}-restored"
    count = LIFE_S + 10  # one a second
    send(secure_kafka.harness.producer(), topic, [{"partition": 0, "key": b"%d" % n, "value": b"v%d" % n} for n in range(count)])
    with secure_kafka.rights("User:CN=reader", [Right("Read", "topic", topic)]):
        assert back_up(secure_kafka, MTLS, "reader", tmp_path / "store", topic).exit_code == 0
    files = Files(secure_kafka, tmp_path / "tls", user)
    expires_at = time.time() + LIFE_S
    first = files.new_pair(until_s=expires_at)
    files.put(files.certificate, first.certificate)
    files.put(files.key, first.key)
    cluster = secure_kafka.cluster_config(
        MTLS, "writer", ssl_certificate_location=str(files.certificate), ssl_key_location=str(files.key)
    )
    config = {
        "backup_id": "b",
        # records are farther apart than that: each has a connection of its own
        "target": {**cluster, "client": {"connections.max.idle.ms": "50"}},
        "storage": {"url": str(tmp_path / "store")},
        "restore": {"workers": 1, "topic_mapping": {topic: target}, "rate_limit_records": 1},
    }
    path = tmp_path / "kbr.yaml"
    path.write_text(json.dumps(config))
    rights = [Right(one, "topic", target) for one in ("Read", "Write", "Create", "DescribeConfigs")]
    with secure_kafka.rights(f"User:CN={user}", rights), KbrRun("restore", "-c", str(path)) as run:

        def holds(condition: Callable[[], bool]) -> bool:
            assert not run.is_over, run.output
            return condition()

        wait_until(lambda: holds(lambda: time.time() > expires_at), deadline_s=LIFE_S + 10, what="the certificate's end")
        said = "it does not accept this client's certificate"
        wait_until(lambda: holds(lambda: said in run.output), deadline_s=60, what="a refusal")
        second = files.new_pair()
        files.put(files.certificate, second.certificate)
        files.put(files.key, second.key)
        again = "files of the login have changed since the client was made"
        wait_until(lambda: holds(lambda: again in run.output), deadline_s=60, what="another client")
        assert run.wait(150) == 0, run.output
    found, expected = ([one.exact for one in secure_kafka.harness.read_all(one)[0]] for one in (target, topic))
    assert found == expected


def test_a_cluster_that_let_us_in_before_is_away_until_the_files_are_renewed_and_a_new_run_is_refused(
    secure_kafka: SecureKafka, tmp_path: Path
) -> None:
    files = Files(secure_kafka, tmp_path, secure_kafka.name("revoked"))
    pair = files.new_pair()
    files.put(files.certificate, pair.certificate)
    files.put(files.key, pair.key)
    strange = secure_kafka.other_authority.sign("strange")
    with Cluster(files.settings(secure_kafka), deadline_s=20) as cluster:
        cluster.info()
        # a certificate that the broker does not know: taken up, as the connection has to be lost for it to be looked at
        files.put(files.certificate, strange.certificate)
        files.put(files.key, strange.key)
        cluster._session._client = cluster._session._new_client(cluster._session._log)
        with pytest.raises(ClusterUnavailable, match="it was let in before") as caught:
            cluster.info()
        assert "renewed files" in caught.value.hint
        files.put(files.certificate, pair.certificate)
        files.put(files.key, pair.key)
        cluster.info()
    files.put(files.certificate, strange.certificate)
    files.put(files.key, strange.key)
    with Cluster(files.settings(secure_kafka), deadline_s=20) as cluster, pytest.raises(AuthenticationFailed):
        cluster.info()


def test_a_source_that_is_refused_goes_on_from_where_it_was_once_its_files_have_changed(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = kafka.create_topic(kafka.topic_name("renewed"), partitions=2)
    count = 600
    send(kafka.producer(), topic, [{"partition": n % 2, "value": b"%d" % n} for n in range(count)])
    path = tmp_path / "ca.pem"
    path.write_bytes(b"")
    options = SourceOptions(
        memory_bytes=16 << 20, block_bytes=1024, open_bytes=1 << 20, isolation_level="read_committed", records_per_s=1000.0
    )
    settings = replace(ClientSettings(bootstrap_servers=(kafka.bootstrap,)), client={"https.ca.location": str(path)})
    found: dict[int, list[bytes | None]] = {0: [], 1: []}
    done: dict[int, int] = {}

    def take(events: list[object]) -> None:
        for event in events:
            if isinstance(event, FetchedBlock):
                found[event.index].extend(record.value for record in decode_block(event.block))
            elif isinstance(event, PartitionEnded):
                done[event.index] = event.next_offset

    with PartitionSource(settings, options, on_client_message=lambda _message: None) as source:
        source.start(
            [(TopicPartition(topic, part), OffsetRange(start_offset=0, end_offset_exclusive=count // 2)) for part in (0, 1)]
        )
        turns = renewals = 0
        while source.open_count and turns < 3000:
            turns += 1
            take(list(source.poll(100, max_records=20)))
            client = source._source
            assert source.renew(done=done) == [], "neither refused nor renewed"
            source._was_refused = True
            assert source.renew(done=done) == [], "not renewed"
            assert source._source is client
            if turns % 5 == 0:
                path.write_bytes(b"x" * turns)
                take(list(source.renew(done=done)))
                renewals += source._source is not client
            source._was_refused = False
        assert renewals >= 3
        assert source.totals[0] == count
    assert found == {part: [b"%d" % n for n in range(part, count, 2)] for part in (0, 1)}
