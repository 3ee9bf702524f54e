"""Three real brokers that fall and come back while kbr backs up and restores: identical, exit 0, nobody has to help."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import KafkaException

from tests.support.cli import run_kbr_json, start_kbr
from tests.support.fault_topics import make_fault_topic
from tests.support.judge import assert_archived, assert_identical
from tests.support.kafka import KafkaHarness, Read
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

#: 3 MB would take five minutes: whatever happens falls inside. When it has, the limit is taken off.
RATE = "10kB/s"


class Source(NamedTuple):
    """A topic with three copies, and a backup of it that was made in quiet."""

    topic: str
    records: list[list[Read]]
    store: Path


@pytest.fixture(scope="module")
def source(three_kafka: KafkaHarness, tmp_path_factory: pytest.TempPathFactory) -> Source:
    store = tmp_path_factory.mktemp("good3")
    topic, records = make_fault_topic(three_kafka, "three", count=3000, partitions=6, replication_factor=3, large=0)
    run_kbr_json("backup", "-b", three_kafka.bootstrap, "-t", topic, "--storage", str(store), "--backup-id", "good")
    assert_archived(records, store, "good", topic)
    return Source(topic, records, store)


@pytest.fixture(autouse=True)
def whole(three_kafka: KafkaHarness) -> Iterator[None]:
    """Before and after each test all brokers run, and each leads what it should."""
    _wait_until_whole(three_kafka)
    yield
    _wait_until_whole(three_kafka)


def _wait_until_whole(kafka: KafkaHarness) -> None:
    kafka.server.start()

    def in_sync() -> bool:
        try:
            topics = kafka.admin.list_topics(timeout=10)
        except KafkaException:  # it asks a broker that fell
            return False
        return len(topics.brokers) == 3 and all(
            len(one.isrs) == len(one.replicas) and one.leader >= 0
            for topic in topics.topics.values()
            for one in topic.partitions.values()
        )

    wait_until(in_sync, deadline_s=60, what="all copies in sync")


class Run:
    """kbr at work, and how far it is."""

    def __init__(self, folder: Path, verb: str, *words: str) -> None:
        self._env = {"XDG_RUNTIME_DIR": str(folder)}
        self._process = start_kbr(verb, *words, "--rate-limit", RATE, "-o", "json", env=self._env)

    def wait_for_bytes(self, count: int) -> None:
        """Until it has read or sent that much."""

        def so_far() -> bool:
            assert self._process.poll() is None, self._process.communicate()
            runs = run_kbr_json("status", env=self._env)["runs"]
            return bool(runs) and runs[0]["limited_bytes"] >= count

        wait_until(so_far, deadline_s=60, what=f"{count} bytes")

    @property
    def goes_on(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> dict:
        """Let it go at full speed; its report, after exit 0."""
        assert self.goes_on, self._process.communicate()
        run_kbr_json("status", str(self._process.pid), "--rate-limit", "none", env=self._env)
        output, errors = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, errors
        # at most a line for each broker's going and coming, not one for each try
        assert len(errors.splitlines()) <= 40, errors
        return json.loads(output)

    def kill(self) -> None:
        if self.goes_on:
            self._process.kill()
            self._process.communicate()


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Run] = []

    def new(verb: str, *words: str) -> Run:
        started.append(Run(tmp_path, verb, *words))
        return started[-1]

    yield new
    for run in started:
        run.kill()


# -- what happens to the brokers ----------------------------------------------------------------


def _leader(kafka: KafkaHarness, topic: str) -> int:
    """Of partition 0; -1 while nobody is, or nobody knows."""
    try:
        return kafka.admin.list_topics(topic, timeout=10).topics[topic].partitions[0].leader
    except KafkaException:  # it asks a broker that fell
        return -1


def _controller(kafka: KafkaHarness) -> int:
    """The active one; in KRaft, metadata name any broker."""
    status = kafka.java(
        "org.apache.kafka.tools.MetadataQuorumCommand", "--bootstrap-server", kafka.bootstrap, "describe", "--status"
    )
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("LeaderId")))


def kill_a_leader(kafka: KafkaHarness, topic: str) -> None:
    """kill -9 of a partition's leader, which comes back after the others have taken over."""
    number = _leader(kafka, topic)
    kafka.server.processes[number - 1].signal(signal.SIGKILL)
    wait_until(lambda: _leader(kafka, topic) not in (-1, number), deadline_s=60, what="another leader")
    kafka.server.start_broker(number)


def restart_all(kafka: KafkaHarness, topic: str) -> None:
    """One after the other, each only when all copies are in sync again."""
    for number in (1, 2, 3):
        kafka.server.processes[number - 1].stop()
        _wait_until_whole(kafka)


def change_the_controller(kafka: KafkaHarness, topic: str) -> None:
    """kill -9 of the active controller."""
    number = _controller(kafka)
    kafka.server.processes[number - 1].signal(signal.SIGKILL)
    wait_until(lambda: _controller(kafka) != number, deadline_s=60, what="another controller")
    kafka.server.start_broker(number)


FAULTS = [kill_a_leader, restart_all, change_the_controller]


@pytest.mark.fault("K1", "a backup: kill -9 of a leader, rolling restart, kill -9 of the active controller", promise=1)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_backup_goes_on(
    three_kafka: KafkaHarness, source: Source, start: Start, tmp_path: Path, fault: Callable[..., None]
) -> None:
    store = tmp_path / "store"
    run = start(
        "backup", "-b", three_kafka.bootstrap, "-t", source.topic, "--storage", str(store), "--backup-id", "b"
    )
    run.wait_for_bytes(20_000)
    fault(three_kafka, source.topic)
    report = run.finish()
    assert report["status"] == "complete"
    assert_archived(source.records, store, "b", source.topic)


@pytest.mark.fault("K1", "a restore: the same", promise=5)
# the others take a minute and a half each
@pytest.mark.parametrize("fault", [kill_a_leader, *[pytest.param(one, marks=pytest.mark.long) for one in FAULTS[1:]]])
def test_a_restore_goes_on(
    three_kafka: KafkaHarness, source: Source, start: Start, fault: Callable[..., None]
) -> None:
    target = three_kafka.topic_name("three-back")
    run = start(
        "restore", "-b", three_kafka.bootstrap, "--storage", str(source.store), "--backup-id", "good",
        "--topic-map", f"{source.topic}={target}",
    )  # fmt: skip
    run.wait_for_bytes(20_000)
    fault(three_kafka, target)
    report = run.finish()
    assert report["status"] == "complete"
    assert_identical(source.records, three_kafka.read_all(target), target)
