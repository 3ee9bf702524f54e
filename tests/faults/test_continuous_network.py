"""Continuous backups through a bad network, while records come; and stops while the cluster is away.

Judged by readers that share no code with kbr: what was produced is in the archive, record by record.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.archive import FolderObjects
from tests.support.checker import LiveChecker, Watch, check_backup, read_truth
from tests.support.kafka import KafkaHarness, send
from tests.support.process_tree import KbrRun
from tests.support.proxy import TO_CLIENT, TO_SERVER, FaultProxy
from tests.support.waiting import wait_until

#: Passes and checkpoints come often; segments are small. Clients notice a silent peer soon (librdkafka: after 60 s).
QUICK = (
    "--set", "backup.segment_max_interval_ms=300", "--set", "backup.checkpoint_interval_ms=100",
    "--set", "backup.segment_max_bytes=64KiB", "-X", "socket.timeout.ms=3000",
)  # fmt: skip
#: From SIGTERM to the end, seconds; a stop that waits for the cluster takes source.deadline_ms, 60 s, or 15 s twice.
STOP_DEADLINE_S = 14.0
PARTITIONS = 3
#: Records of a backup that is stopped.
COUNT = 6000


class Writer:
    """Sends records that all differ, past the bad network, in a thread; a context manager."""

    def __init__(self, kafka: KafkaHarness, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self.count = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join(60)
        if self._error is not None and exc_info[0] is None:
            raise self._error

    def _work(self) -> None:
        try:
            producer = self._kafka.producer()
            while not self._over.wait(0.02):
                send(producer, self._topic, _records(self.count, 20))
                self.count += 20
        except BaseException as error:  # raised again where it ends
            self._error = error


def _records(first: int, count: int, *, size: int = 1000) -> Iterator[dict[str, object]]:
    for number in range(first, first + count):
        yield {"key": b"%d" % number, "value": os.urandom(size), "partition": number % PARTITIONS}


def _words(kafka: KafkaHarness, folder: Path, topic: str, *more: str) -> list[str]:
    return [
        "backup", "-b", kafka.proxied_bootstrap, "--backup-id", "b", "-t", topic, "--storage", str(folder), *QUICK, *more,
    ]  # fmt: skip


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "b" / "manifest.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


def _listed(folder: Path) -> int:
    return sum(one["record_count"] for topic in _manifest(folder).get("topics", ()) for one in topic["partitions"])


# -- what goes wrong with the network ---------------------------------------------------------

Check = Callable[[], bool]


def latency(network: FaultProxy) -> Check:
    """200 ms round trip, for two seconds: a pass of many requests takes as long."""
    network.slow(latency_s=0.1)
    network.after_s(2, network.heal)
    return lambda: True


def resets(network: FaultProxy) -> Check:
    """A reset after each 30 kB of answers, six times: of fetches, offsets and metadata."""
    network.cut_after(TO_CLIENT, 30_000, times=6)
    return lambda: network.cuts >= 6


def black_hole(network: FaultProxy) -> Check:
    """Everything is lost for three seconds, and its connections never speak again."""
    network.swallow()
    network.after_s(3, network.heal)
    # clients that all wait for answers send nothing more in that time
    return lambda: network.swallowed(TO_SERVER) + network.swallowed(TO_CLIENT) > 0


def thin(network: FaultProxy) -> Check:
    """32 kB/s for twenty seconds: less than what comes."""
    network.slow(bytes_per_s=32_000)
    network.after_s(20, network.heal)
    return lambda: True


def refused(network: FaultProxy) -> Check:
    """Connections are reset, and new ones refused, for longer than the cluster is asked before it counts as away."""
    network.refuse()
    network.cut()
    network.after_s(20, network.accept)
    return lambda: network.cuts > 0


def long_hole(network: FaultProxy) -> Check:
    """Nothing passes for 40 s."""
    network.swallow()
    network.after_s(40, network.heal)
    return lambda: network.swallowed(TO_SERVER) > 0


@pytest.mark.fault("K2", "a continuous backup under load: 200 ms, resets, black hole; 32 kB/s, long outages", promise=1)
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "fault",
    [latency, resets, black_hole, *(pytest.param(one, marks=pytest.mark.long) for one in (thin, refused, long_hole))],
)
def test_a_continuous_backup_under_load_through_it_is_identical(
    kafka: KafkaHarness, network: FaultProxy, tmp_path: Path, fault: Callable[[FaultProxy], Check]
) -> None:
    topic = kafka.create_topic(kafka.topic_name("through"), PARTITIONS)
    with (
        Watch(LiveChecker(FolderObjects(tmp_path), "b"), interval_s=0.5) as watch,
        KbrRun(*_words(kafka, tmp_path, topic, "--continuous")) as run,
    ):

        def has(count: int) -> bool:
            assert not run.is_over, run.output
            return _listed(tmp_path) >= count

        with Writer(kafka, topic) as writer:
            wait_until(lambda: has(200), deadline_s=60, what="200 records in the manifest")
            bitten = fault(network)
            wait_until(bitten, deadline_s=60, what=f"{fault.__name__} has bitten")
            before = writer.count
            wait_until(lambda: has(before + 200), deadline_s=120, what="records that came after it in the manifest")
        wait_until(lambda: has(writer.count), deadline_s=60, what="all records in the manifest")
        run.terminate()
        assert run.wait(STOP_DEADLINE_S) == 0, run.output
    assert not watch.anomalies, watch.anomalies[0]
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(tmp_path), "b")
    assert not report.anomalies, report


# -- stops while the cluster is away -----------------------------------------------------------


@contextmanager
def _half_way(kafka: KafkaHarness, folder: Path, topic: str, *more: str) -> Iterator[KbrRun]:
    """A backup of 12 MB in the middle of its first pass, with some segments committed."""
    send(kafka.producer(), topic, _records(0, COUNT, size=2000))
    with KbrRun(*_words(kafka, folder, topic, "--rate-limit", "2MB/s", *more)) as run:
        wait_until(lambda: len(list(folder.rglob("segment-*"))) >= 3, deadline_s=60, what="three segments")
        yield run


def _vanish(network: FaultProxy) -> None:
    """The cluster is away, and somebody has noticed."""
    network.swallow()
    wait_until(lambda: network.swallowed(TO_SERVER) > 0, deadline_s=30, what="a request is lost")


def _heal(network: FaultProxy) -> None:
    network.heal()
    network.cut()


@pytest.mark.fault("K2", "a continuous backup that is stopped while the cluster is away, in a pass and between two", promise=4)
@pytest.mark.parametrize("when", ["in a pass", "between passes"])
def test_a_continuous_backup_that_is_stopped_while_the_cluster_is_away_ends_soon_with_all_that_it_had(
    kafka: KafkaHarness, network: FaultProxy, tmp_path: Path, when: str
) -> None:
    topic = kafka.create_topic(kafka.topic_name("away"), PARTITIONS)
    rate = () if when == "in a pass" else ("--rate-limit", "none")
    with _half_way(kafka, tmp_path, topic, "--continuous", "--groups", "-o", "json", *rate) as run:
        if when == "between passes":
            wait_until(lambda: _listed(tmp_path) == COUNT, deadline_s=60, what="all records")
        _vanish(network)
        run.terminate()
        assert run.wait(STOP_DEADLINE_S) == 0, run.output
        assert "the cluster was out of reach when the run was stopped; it was last heard of at 20" in run.output
    manifest = _manifest(tmp_path)
    assert manifest["status"] == "complete"
    assert {(one["status"], one["error"]) for one in manifest["topics"][0]["partitions"]} == {("complete", None)}
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(tmp_path), "b", to_now=False)
    assert not report.anomalies, report
    assert (report.record_count < COUNT) is (when == "in a pass")
    _heal(network)
    with KbrRun(*_words(kafka, tmp_path, topic)) as again:
        assert again.wait(60) == 0, again.output
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(tmp_path), "b")
    assert not report.anomalies, report


@pytest.mark.fault("K2", "a one-shot backup that is stopped while the cluster is away", promise=1)
def test_a_backup_that_is_stopped_while_the_cluster_is_away_is_interrupted_soon_and_goes_on(
    kafka: KafkaHarness, network: FaultProxy, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("away-once"), PARTITIONS)
    with _half_way(kafka, tmp_path, topic) as run:
        _vanish(network)
        run.terminate()
        assert run.wait(STOP_DEADLINE_S) == 130, run.output
    assert _manifest(tmp_path)["status"] == "interrupted"
    assert _listed(tmp_path) > 0
    _heal(network)
    with KbrRun(*_words(kafka, tmp_path, topic)) as again:
        assert again.wait(60) == 0, again.output
    report = check_backup(read_truth(kafka, [topic]), FolderObjects(tmp_path), "b")
    assert not report.anomalies, report
