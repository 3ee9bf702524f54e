"""One-shot backups and restores through a bad network: slower, and otherwise as if it were a good one.

Each run is judged by readers that share no code with kbr: source, archive and target are identical, or the run failed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.support.cli import run_kbr_json
from tests.support.fault_topics import make_fault_topic
from tests.support.judge import assert_archived, assert_identical
from tests.support.kafka import KafkaHarness, Read
from tests.support.process_tree import KbrRun
from tests.support.proxy import TO_CLIENT, TO_SERVER, Direction, FaultProxy
from tests.support.waiting import wait_until

#: How much passes before a fault begins: metadata are a few kB, the data 5 MB.
BEFORE_BYTES = 600_000
#: Records wait in the kernel once this much does: a request without any is a few hundred bytes.
STUCK_BYTES = 8_000
#: Clients that notice a silent peer soon: librdkafka waits for 60 s by default.
IMPATIENT = ("-X", "socket.timeout.ms=3000")


class Source(NamedTuple):
    """What is backed up, and a backup of it that was made through a good network."""

    topic: str
    records: list[list[Read]]
    store: Path


@pytest.fixture(scope="module")
def source(kafka: KafkaHarness, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return _backed_up(kafka, tmp_path_factory.mktemp("good"), *make_fault_topic(kafka, "network"))


def _backed_up(kafka: KafkaHarness, store: Path, topic: str, records: list[list[Read]]) -> Source:
    run_kbr_json("backup", "-b", kafka.bootstrap, "-t", topic, "--storage", str(store), "--backup-id", "good")
    assert_archived(records, store, "good", topic)
    return Source(topic, records, store)


def back_up(kafka: KafkaHarness, source: Source, folder: Path, *more: str) -> dict:
    """A backup through the network; it has to be complete and identical."""
    report = run_kbr_json(
        "backup", "-b", kafka.proxied_bootstrap, "-t", source.topic, "--storage", str(folder), "--backup-id", "b", *more
    )
    assert report["status"] == "complete"
    assert report["totals"]["records"] == sum(map(len, source.records))
    assert_archived(source.records, folder, "b", source.topic)
    return report


def restore(kafka: KafkaHarness, source: Source, *more: str) -> dict:
    """A restore of the good backup through the network; it has to be complete and identical."""
    target = kafka.topic_name(f"{source.topic}-back")
    report = run_kbr_json(
        "restore", "-b", kafka.proxied_bootstrap, "--storage", str(source.store), "--backup-id", "good",
        "--topic-map", f"{source.topic}={target}", *more,
    )  # fmt: skip
    assert report["status"] == "complete"
    assert report["totals"]["records"] == sum(map(len, source.records))
    assert_identical(source.records, kafka.read_all(target), target)
    return report


# -- faults: each is armed at ``direction``, where the data go, and gives a check that it has bitten ------------------

Check = Callable[[], bool]


def far_away(network: FaultProxy, direction: Direction) -> Check:
    """300 ms round trip."""
    network.slow(latency_s=0.15)
    return lambda: True


def thin(network: FaultProxy, direction: Direction) -> Check:
    """64 kB/s for five seconds."""
    began: list[bool] = []

    def begin() -> None:
        began.append(True)
        network.slow(bytes_per_s=64_000)
        network.after_s(5, network.heal)

    network.when_passed(direction, BEFORE_BYTES, begin)
    return lambda: bool(began)


def outage(network: FaultProxy, direction: Direction) -> Check:
    """Nothing passes for four seconds; then all of it does."""
    began: list[bool] = []

    def begin() -> None:
        began.append(True)
        network.hold()
        network.after_s(4, network.heal)

    network.when_passed(direction, BEFORE_BYTES, begin)
    return lambda: bool(began)


def black_hole(network: FaultProxy, direction: Direction) -> Check:
    """Everything is lost for four seconds, and its connections never speak again."""

    def begin() -> None:
        network.swallow()
        network.after_s(4, network.heal)

    network.when_passed(direction, BEFORE_BYTES, begin)
    return lambda: network.swallowed(direction) > 0


def resets(network: FaultProxy, direction: Direction) -> Check:
    """A reset after each 350 kB, eight times: in the middle of requests and answers."""
    network.cut_after(direction, 350_000, times=8)
    return lambda: network.cuts >= 8


def resets_by_the_clock(network: FaultProxy, direction: Direction) -> Check:
    """From some moment on all connections are reset four times a second, for three seconds."""
    network.slow(direction, bytes_per_s=1_500_000)

    def begin() -> None:
        for number in range(12):
            network.after_s(number / 4, network.cut)

    network.when_passed(direction, BEFORE_BYTES, begin)
    return lambda: network.cuts >= 3


def lost_answers(network: FaultProxy, direction: Direction) -> Check:
    """Five times, answers are lost while what was asked for is done; then the connections are reset."""

    def begin(left: int) -> None:
        network.swallow(TO_CLIENT)
        network.after_s(0.4, lambda: end(left))

    def end(left: int) -> None:
        network.cut()
        network.heal()
        if left:
            network.when_passed(direction, BEFORE_BYTES, lambda: begin(left - 1))

    network.when_passed(direction, BEFORE_BYTES, lambda: begin(4))
    return lambda: network.swallowed(TO_CLIENT) > 0 and network.cuts >= 5


def refused(network: FaultProxy, direction: Direction) -> Check:
    """Connections are reset, and new ones refused for four seconds."""

    def begin() -> None:
        network.refuse()
        network.cut()
        network.after_s(4, network.accept)

    network.when_passed(direction, BEFORE_BYTES, begin)
    return lambda: network.cuts > 0


def refused_at_first(network: FaultProxy, direction: Direction) -> Check:
    """Nobody listens in the first three seconds."""
    network.refuse()
    network.after_s(3, network.accept)
    return lambda: True


def lossy(network: FaultProxy, direction: Direction) -> Check:
    """Every tenth packet comes 200 ms late, as one that was lost and sent again."""
    network.stall(chance=0.1, seconds=0.2)
    return lambda: True


FAULTS = [
    far_away, thin, outage, black_hole, resets, resets_by_the_clock, lost_answers, refused, refused_at_first, lossy,
]  # fmt: skip
#: Each of them is in one of these at least; the others are long.
IN_A_BACKUP = [far_away, outage, black_hole, resets, lost_answers, refused_at_first]
IN_A_RESTORE = [thin, black_hole, resets_by_the_clock, lost_answers, refused, lossy]


def _faults(usual: Collection[Callable[..., Check]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "fault", [pytest.param(one, marks=() if one in usual else pytest.mark.long) for one in FAULTS]
    )


@pytest.mark.fault("K2", "a backup: 300 ms, 64 kB/s, outage, black hole, resets, lost answers, refusal, loss", promise=1)
@_faults(IN_A_BACKUP)
def test_a_backup_through_it_is_identical(
    kafka: KafkaHarness, network: FaultProxy, source: Source, tmp_path: Path, fault: Callable[..., Check]
) -> None:
    bitten = fault(network, TO_CLIENT)
    back_up(kafka, source, tmp_path, *(IMPATIENT if fault is black_hole else ()))
    assert bitten()


@pytest.mark.fault("K2", "a restore: 300 ms, 64 kB/s, outage, black hole, resets, refusal, loss", promise=5)
@pytest.mark.fault("R1", "acknowledgements lost, five times in a restore", promise=5)
@_faults(IN_A_RESTORE)
def test_a_restore_through_it_is_identical(
    kafka: KafkaHarness, network: FaultProxy, source: Source, fault: Callable[..., Check]
) -> None:
    bitten = fault(network, TO_SERVER)
    restore(kafka, source, *(IMPATIENT if fault is black_hole else ()))
    assert bitten()


@pytest.fixture
def quota(kafka: KafkaHarness, source: Source) -> Iterator[None]:
    """What the client id of kbr may read, 800 kB/s; nobody else's. It is in force, and used up."""

    def alter(*words: str) -> None:
        kafka.java(
            "kafka.admin.ConfigCommand", "--bootstrap-server", kafka.bootstrap, "--alter",
            "--entity-type", "clients", "--entity-name", "kbr", *words,
        )  # fmt: skip

    alter("--add-config", "consumer_byte_rate=800000")
    throttled: list[object] = []
    reader = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "client.id": "kbr",
            "group.id": "quota",
            "throttle_cb": throttled.append,
            "receive.message.max.bytes": 200_000_000,
        }
    )
    partitions = range(len(source.records))

    def read_again() -> bool:
        reader.assign([TopicPartition(source.topic, number, OFFSET_BEGINNING) for number in partitions])
        reader.consume(1000, timeout=0.5)
        return bool(throttled)

    wait_until(read_again, deadline_s=30, what="the quota")
    reader.close()
    yield
    alter("--delete-config", "consumer_byte_rate")


@pytest.mark.fault("K3", "a quota on the client id", promise=2)
@pytest.mark.usefixtures("quota")
def test_a_quota_only_slows_a_backup(kafka: KafkaHarness, network: FaultProxy, source: Source, tmp_path: Path) -> None:
    """Answers under a quota come late, and may be empty: no end of anything."""
    assert back_up(kafka, source, tmp_path)["duration_s"] > 3  # without a quota, half a second


@pytest.mark.timeout(300)
@pytest.mark.fault("K2", "a restore: a reset at each of its first requests", promise=5)
def test_a_reset_at_any_of_the_first_requests_of_a_restore_is_survived(
    kafka: KafkaHarness, network: FaultProxy, source: Source, pytestconfig: pytest.Config
) -> None:
    for count in range(60, 1500, 180 if pytestconfig.getoption("--long") else 540):
        network.cut_after(TO_SERVER, count)
        restore(kafka, source)
        network.heal()


def _unsent(port: int) -> int:
    """What the kernel still has to send to a port of this machine, bytes; processes that have ended included."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(int(row[4].partition(":")[0], 16) for row in rows if int(row[2].partition(":")[2], 16) == port)


@pytest.mark.fault("K2", "a restore is killed in an outage: the kernel sends nothing of it once the network is back", promise=5)
def test_what_a_killed_restore_had_not_sent_is_never_sent(
    kafka: KafkaHarness, network: FaultProxy, tmp_path: Path
) -> None:
    # 2 MB a record: more is sent ahead of its answers than the proxy takes in while it holds.
    source = _backed_up(kafka, tmp_path, *make_fault_topic(kafka, "stuck", count=40, large=20))
    target = kafka.topic_name(f"{source.topic}-back")
    command = [
        "restore", "-b", kafka.proxied_bootstrap, "--storage", str(source.store), "--backup-id", "good",
        "--topic-map", f"{source.topic}={target}",
    ]  # fmt: skip
    port = int(kafka.proxied_bootstrap.rpartition(":")[2])
    network.when_passed(TO_SERVER, BEFORE_BYTES, lambda: network.hold(TO_SERVER))
    with KbrRun(*command) as run:
        wait_until(lambda: _unsent(port) > STUCK_BYTES, deadline_s=60, what="data that can't be sent")
        for pid in run.pids_of("tree"):
            with suppress(ProcessLookupError):  # workers end with their supervisor
                os.kill(pid, signal.SIGKILL)
        run.process.wait(10)
        wait_until(lambda: not run.pids(), deadline_s=10, what="the end of all its processes")
        # A last request of another client of its is acknowledged soon; what is stuck would stay for as long as the outage.
        wait_until(lambda: _unsent(port) == 0, deadline_s=10, what="kernel buffers without its data")
    network.heal()
    assert run_kbr_json(*command)["status"] == "complete"
    assert_identical(source.records, kafka.read_all(target), target)
