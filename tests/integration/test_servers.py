"""The servers that the other tests lean on: they answer, they keep what they are told, and they end when asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import s3fs

from tests.conftest import S3Place
from tests.support.cli import run_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.servers import KafkaServer, S3Server, ServerError, free_port

pytestmark = pytest.mark.servers


def test_records_are_read_back_as_they_were_sent(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"), partitions=3)
    send(
        kafka.producer(),
        topic,
        [
            {"partition": 0, "key": b"k", "value": b"v", "headers": [("h", b"1"), ("h", None)], "timestamp": 1_000},
            {"partition": 2, "key": None, "value": None, "timestamp": 2_000},
        ],
    )
    first, second, third = kafka.read_all(topic)
    assert [one.exact for one in first] == [(b"k", b"v", (("h", b"1"), ("h", None)), 1, 1_000)]
    assert second == []
    assert [one.exact for one in third] == [(None, None, (), 1, 2_000)]


def test_records_of_an_aborted_transaction_are_read_only_when_uncommitted_is_asked_for(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"))
    producer = kafka.producer(transactional_id=topic)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, value=b"aborted")
    producer.flush(30)
    producer.abort_transaction(30)
    assert kafka.read_all(topic) == [[]]
    assert [one.value for one in kafka.read_all(topic, isolation_level="read_uncommitted")[0]] == [b"aborted"]


def test_the_tools_of_the_same_kafka_run(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"))
    listing = kafka.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", kafka.bootstrap, "--list")
    assert topic in listing.split()


def test_three_brokers_share_a_topic_and_survive_the_loss_of_one(three_kafka: KafkaHarness) -> None:
    topic = three_kafka.create_topic(three_kafka.topic_name("servers"), partitions=3, replication_factor=3)
    leaders = {one.leader for one in three_kafka.admin.list_topics(topic, timeout=10).topics[topic].partitions.values()}
    assert leaders == {1, 2, 3}
    send(three_kafka.producer(), topic, [{"partition": number, "value": b"before"} for number in range(3)])
    three_kafka.server.processes[0].stop()
    try:
        assert not three_kafka.server.running()
        send(three_kafka.producer(), topic, [{"partition": number, "value": b"after"} for number in range(3)])
        values = [[one.value for one in partition] for partition in three_kafka.read_all(topic)]
        assert values == [[b"before", b"after"]] * 3
    finally:
        three_kafka.server.start()
    assert three_kafka.server.running()


def test_an_object_is_written_once_and_read_back(s3: S3Place) -> None:
    bucket = s3.make_bucket()
    store = s3fs.S3FileSystem(
        key=s3.access_key, secret=s3.secret_key, endpoint_url=s3.endpoint_url, skip_instance_cache=True
    )
    store.pipe_file(f"{bucket}/a/b", b"first", mode="create")
    with pytest.raises(FileExistsError):
        store.pipe_file(f"{bucket}/a/b", b"second", mode="create")
    assert store.cat_file(f"{bucket}/a/b") == b"first"
    assert s3.storage_url(bucket, "a") == f"s3://{bucket}/a"


def test_wrong_keys_are_refused(s3: S3Place) -> None:
    store = s3fs.S3FileSystem(key=s3.access_key, secret="wrong", endpoint_url=s3.endpoint_url, skip_instance_cache=True)
    with pytest.raises(PermissionError):
        store.pipe_file(f"{s3.make_bucket()}/a", b"x")


def test_a_server_is_found_again_by_its_folder_and_then_stopped(tmp_path: Path) -> None:
    port = free_port()
    S3Server(tmp_path, port=port).start()
    again = S3Server(tmp_path, port=port)
    try:
        assert again.running()
    finally:
        again.stop()
    assert not again.running()


def test_a_process_that_only_took_over_the_pid_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "versitygw.pid").write_text(f"{bystander.pid} 1\n")
        server = S3Server(tmp_path, port=free_port())
        assert not server.running()
        server.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_port_that_is_taken_is_an_error_not_a_strangers_server(
    s3: S3Place, kafka: KafkaHarness, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="somebody else listens"):
        S3Server(tmp_path, port=int(s3.endpoint_url.rpartition(":")[2])).start()
    with pytest.raises(ServerError, match="somebody else listens"):
        KafkaServer(tmp_path, port=kafka.server.port).start()


@pytest.mark.parametrize("script", ["kafka", "s3"])
def test_each_script_says_what_it_does(script: str) -> None:
    path = Path(__file__).resolve().parents[2] / "scripts" / script
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=True)
    assert "start" in done.stdout
    assert "--port" in done.stdout


def test_kbr_runs_as_a_process_of_its_own() -> None:
    assert run_kbr("--version").returncode == 0
