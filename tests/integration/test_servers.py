"""The servers that the other tests lean on: they answer, they keep what they are told, and they end when asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import s3fs

from tests.conftest import S3Place
from tests.support.cli import run_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.s3_servers import SeaweedServer, server_in_folder
from tests.support.servers import REPOSITORY, KafkaServer, Process, S3Server, ServerError, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.servers


def test_records_are_read_back_as_they_were_sent(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"), partitions=3)
    send(
        kafka.producer(),
        topic,
        [
            {"partition": 0, "key": b"k", "value": b"v", "headers": [("h", b"1"), ("h", None)], "timestamp": 1_000},
            {"partition": 2, "key": None, "value": None, "timestamp": 2_000},
            {"partition": 2, "key": b"", "value": b"", "headers": [("", b"")], "timestamp": 1_500},
            {"partition": 2, "key": b"\xff\0", "value": b"\0" * 3, "headers": [("\u00e9", b"\xff")], "timestamp": 1},
        ],
    )
    first, second, third = kafka.read_all(topic)
    assert [one.exact for one in first] == [(b"k", b"v", (("h", b"1"), ("h", None)), 1, 1_000)]
    assert second == []
    assert [one.exact for one in third] == [
        (None, None, (), 1, 2_000),
        (b"", b"", (("", b""),), 1, 1_500),
        (b"\xff\0", b"\0\0\0", (("\u00e9", b"\xff"),), 1, 1),
    ]
    assert [one.offset for one in third] == [0, 1, 2]


def test_the_broker_stamps_records_where_a_topic_asks_for_it(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"), configs={"message.timestamp.type": "LogAppendTime"})
    send(kafka.producer(), topic, [{"value": b"v", "timestamp": 1_000}])
    ((record,),) = kafka.read_all(topic)
    assert record.timestamp_type == 2
    assert record.timestamp > 1_000


def test_a_record_of_50_mb_goes_where_a_topic_allows_it(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"), configs={"max.message.bytes": "60000000"})
    value = bytes(range(250)) * 200_000
    send(kafka.producer(message_max_bytes=60_000_000), topic, [{"value": value}])
    ((record,),) = kafka.read_all(topic)
    assert record.value == value


def test_compaction_and_retention_happen_while_a_test_waits(kafka: KafkaHarness) -> None:
    compacted = kafka.create_topic(
        kafka.topic_name("servers"),
        configs={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.ms": "100"},
    )
    short = kafka.create_topic(kafka.topic_name("servers"), configs={"retention.ms": "1000", "segment.ms": "100"})
    producer = kafka.producer()
    send(producer, short, [{"value": b"old", "timestamp": 1_000}])

    def old_values_go() -> bool:
        for topic in (compacted, short):
            send(producer, topic, [{"key": b"k", "value": b"new"}])  # a segment is closed by the next record only
        offsets = [one.offset for one in kafka.read_all(compacted)[0]]
        return kafka.log_start(short) > 0 and len(offsets) < offsets[-1] + 1

    wait_until(old_values_go, deadline_s=60, what="compaction and retention")


def test_a_transaction_that_nobody_ends_is_aborted_soon(kafka: KafkaHarness) -> None:
    topic = kafka.create_topic(kafka.topic_name("servers"))
    producer = kafka.producer(transactional_id=topic, transaction_timeout_ms=1000)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, value=b"hangs")
    assert producer.flush(30) == 0
    send(kafka.producer(), topic, [{"value": b"behind it"}])
    wait_until(lambda: kafka.read_all(topic) != [[]], deadline_s=20, what="the end of the transaction")
    assert [one.value for one in kafka.read_all(topic)[0]] == [b"behind it"]


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


def test_a_server_is_known_from_the_moment_it_was_started(tmp_path: Path) -> None:
    process = Process("tail", tmp_path)
    command = 'sleep 0.3; exec tail -f "$FILE"'  # its command line names the folder only then
    process.start(["bash", "-c", command], port=free_port(), env={"FILE": str(process.log_file)})
    known = process.running()
    assert known is not None
    process.stop()
    assert not lives(str(known))


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


def lives(pid: str) -> bool:
    """Whether a process runs; one that ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_script(name: str, *arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [REPOSITORY / "scripts" / name, *arguments], capture_output=True, text=True, check=False, timeout=110
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", ["kafka", "s3"])
def test_each_script_says_what_it_does(script: str) -> None:
    exit_code, output, _ = run_script(script, "--help")
    assert exit_code == 0
    assert "start" in output
    assert "--port" in output


@pytest.mark.parametrize(
    ("script", "options", "ports"),
    [("kafka", ["--brokers", "3"], 3), ("s3", [], 1), ("s3", ["--server", "ceph"], 8)],
    ids=["kafka", "versitygw", "ceph"],
)
def test_a_script_starts_finds_and_stops_its_server_by_the_folder_alone(
    script: str, options: list[str], ports: int, tmp_path: Path
) -> None:
    port = free_port(2 * ports)
    addresses = ",".join(f"127.0.0.1:{port + number}" for number in range(ports if script == "kafka" else 1))
    place = ["--dir", tmp_path / "server"]
    assert run_script(script, "status", *place)[:2] == (3, "not running\n")
    try:
        for _ in ("starts it", "leaves it as it is"):
            exit_code, output, errors = run_script(script, "start", *options, "--port", str(port), *place)
            assert exit_code == 0, errors
            assert addresses in output
        exit_code, output, _ = run_script(script, "status", *place)
        assert exit_code == 0
        assert addresses in output
        exit_code, _, errors = run_script(script, "start", "--port", str(free_port(2 * ports)), *place)
        assert exit_code == 1
        assert f"already, at {'http://' if script == 's3' else ''}{addresses}; stop it first" in errors
        pids = [path.read_text().split()[0] for path in (tmp_path / "server").glob("*.pid")]
        assert len(pids) == (3 if ports > 1 else 1)  # brokers; or monitor, OSD and RGW
    finally:
        exit_code, _, errors = run_script(script, "stop", *place)
    assert exit_code == 0, errors
    assert not [pid for pid in pids if lives(pid)]
    assert not list((tmp_path / "server").glob("*.pid"))
    assert run_script(script, "status", *place)[:2] == (3, "not running\n")
    assert run_script(script, "stop", *place)[0] == 0


def test_a_folder_of_another_cluster_is_refused(kafka: KafkaHarness) -> None:
    with pytest.raises(ServerError, match="runs Kafka already"):
        KafkaServer(kafka.server.folder, brokers=3, port=kafka.server.port).start()


def run_pytest(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run one module under the rules of this suite's conftest."""
    (folder / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", *options, "-p", "no:cacheprovider", folder],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


#: Texts of test files for a pytest of their own, which has to refuse each: none of them is a skip of this suite.
SKIPS = {
    "in_a_test": "def test_it():\n    pytest.skip('why')",
    "a_module": "pytest.skip('why', allow_module_level=True)",
    "by_mark": "@pytest.mark.skip(reason='why')\ndef test_it():\n    pass",
    "expected_to_fail": "@pytest.mark.xfail(reason='why')\ndef test_it():\n    raise ValueError('why')",
    "no_parameters": "@pytest.mark.parametrize('one', [])\ndef test_it(one):\n    pass",
    "in_a_fixture": "@pytest.fixture\ndef one():\n    pytest.skip('why')\n\ndef test_it(one):\n    pass",
    "import": "pytest.importorskip('no_such_module_why', exc_type=ImportError)",
}


def test_a_skip_fails_the_run(tmp_path: Path) -> None:
    for name, body in SKIPS.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n\n{body}\n")
    done = run_pytest(tmp_path, "def test_good():\n    pass\n", "--continue-on-collection-errors")
    assert done.returncode not in {0, 5}, done.stdout
    for name in SKIPS:
        assert re.search(rf"test_{name}\.py\S* was skipped, which fails the run", done.stdout), (name, done.stdout)
    last = done.stdout.splitlines()[-1]
    assert "2 failed, 1 passed, 5 errors" in last, last
    assert "skipped" not in last


def test_the_run_fails_unless_the_codec_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "use_pure.py").write_text(
        "import kbr_codec, kbr_codec.pure\nkbr_codec.encode_block = kbr_codec.pure.encode_block\n"
    )
    done = run_pytest(tmp_path, "def test_it():\n    pass\n", "-p", "use_pure")
    assert done.returncode not in {0, 5}
    assert "the compiled codec is not the one that is loaded" in done.stdout


def test_a_run_that_is_told_to_end_stops_its_servers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import threading\n"
        "from pathlib import Path\n"
        "def test_it(s3):\n"
        "    pid_file = s3.server.process.pid_file\n"
        "    Path(__file__).with_name('pid').write_text(pid_file.read_text())\n"
        "    threading.Event().wait(60)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", tmp_path],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    try:
        pid = wait_until(
            lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), deadline_s=60, what="its server"
        ).split()[0]
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == pytest.ExitCode.INTERRUPTED
        assert not lives(pid)
    finally:
        run.kill()
        run.wait()


def test_kbr_runs_as_a_process_of_its_own() -> None:
    assert run_kbr("--version").returncode == 0


def test_a_folder_of_another_s3_server_is_refused(tmp_path: Path) -> None:
    server_in_folder(tmp_path, kind="seaweedfs")
    assert isinstance(server_in_folder(tmp_path), SeaweedServer)
    with pytest.raises(ServerError, match="holds the data of seaweedfs, not of ceph"):
        server_in_folder(tmp_path, kind="ceph")
