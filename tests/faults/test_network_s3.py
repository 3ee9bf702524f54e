"""One-shot backups and restores while a real S3 server, or what lies before it, fails: identical, or a clear error.

In one run each request of an operation fails once: each operation and each fault at least so. With --long each operation
meets each fault, and its first, middle and last request fail in a run of their own, too.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest

from tests.conftest import S3Place
from tests.support.cli import run_kbr
from tests.support.engine import backup_here, restore_here
from tests.support.fault_topics import make_fault_topic
from tests.support.judge import archived, assert_archived, assert_identical
from tests.support.kafka import KafkaHarness, Read, send
from tests.support.mixed_topics import BASE_MS
from tests.support.s3_proxy import OPERATIONS, SLOW_S, S3Proxy

#: What can get better.
FAULTS = ("500", "503", "429", "reset before", "reset after")
#: Small parts, so that 6 MB need two; and a deadline that ends a test rather than its patience.
SETS = ("backup.segment_max_bytes=64MiB", "backup.memory_limit=208MiB", "backup.workers=1", "storage.deadline_ms=60000")
_ids = itertools.count(1)
#: Requests by operation.
Counts = dict[str, int]


class Source(NamedTuple):
    """A topic and an independent reading of it."""

    topic: str
    records: list[list[Read]]


@pytest.fixture(scope="module")
def small(kafka: KafkaHarness) -> Source:
    """Segments that are single PUTs."""
    return Source(*make_fault_topic(kafka, "s3", count=300, partitions=4, large=0))


@pytest.fixture(scope="module")
def large(kafka: KafkaHarness) -> Source:
    """Three segments of two parts each: 6 MB that don't compress."""
    name = kafka.create_topic(kafka.topic_name("s3-large"), 3)
    records = (
        {"partition": number % 3, "key": b"%d" % number, "value": os.urandom(100_000), "timestamp": BASE_MS + number}
        for number in range(180)
    )
    send(kafka.producer(), name, records)
    return Source(name, kafka.read_all(name))


@pytest.fixture(scope="module")
def bucket(s3: S3Place) -> str:
    return s3.make_bucket()


class Good(NamedTuple):
    """Runs without faults: a backup_id, and how many requests of each operation they made."""

    backup_id: str
    backup: Counts
    large_backup: Counts
    restore: Counts


class Runs:
    """Backups and restores through the S3 proxy."""

    def __init__(self, kafka: KafkaHarness, s3: S3Place, network: S3Proxy, bucket: str) -> None:
        self.kafka = kafka
        self.network = network
        self.url = s3.storage_url(bucket, "p")
        self.folder = s3.folder(bucket) / "p"
        self.env = s3.env_through(network.endpoint_url)

    def back_up(self, source: Source) -> str:
        """The backup_id; what is stored is identical."""
        backup_id = f"b{next(_ids)}"
        report = backup_here(
            {
                "source.bootstrap_servers": self.kafka.bootstrap,
                "source.topics.include": [source.topic],
                "storage.url": self.url,
                "backup_id": backup_id,
            },
            sets=SETS,
            env=self.env,
        )
        assert report["status"] == "complete"
        assert_archived(source.records, self.folder, backup_id, source.topic)
        return backup_id

    def restore(self, source: Source, backup_id: str) -> str:
        """The target topic; what is in it is identical."""
        target = self.kafka.topic_name(f"{source.topic}-back")
        report = restore_here(
            {
                "target.bootstrap_servers": self.kafka.bootstrap,
                "restore.topic_mapping": {source.topic: target},
                "storage.url": self.url,
                "storage.deadline_ms": 60_000,
                "backup_id": backup_id,
            },
            env=self.env,
        )
        assert report["status"] == "complete"
        assert_identical(source.records, self.kafka.read_all(target), target)
        return target

    def with_faults(self, run: Callable[[], object], usual: Counts, operation: str, kind: str, place: str) -> None:
        """Run with faults at requests chosen by how many there usually are; at least one strikes."""
        count = usual[operation]
        at = {"each": 1, "first": 1, "middle": (count + 1) // 2, "last": count}[place]
        self.network.reset()
        fault = self.network.fail(operation, kind, at=at, times=10_000 if place == "each" else 1, spares_retries=True)
        run()
        assert fault.done >= (count if place == "each" else 1)


@pytest.fixture(scope="module")
def good(kafka: KafkaHarness, s3: S3Place, bucket: str, small: Source, large: Source) -> Good:
    """Backups and a restore without faults, and how many requests of each operation they make."""
    with S3Proxy(s3.port) as network:
        runs = Runs(kafka, s3, network, bucket)

        def counted(run: Callable[[], str]) -> tuple[str, Counts]:
            network.reset()
            made = run()
            return made, {operation: network.count(operation) for operation in OPERATIONS}

        backup_id, backup = counted(lambda: runs.back_up(small))
        _, large_backup = counted(lambda: runs.back_up(large))
        _, restore = counted(lambda: runs.restore(small, backup_id))
    assert large_backup["create"] == large_backup["complete"] == 3
    return Good(backup_id, backup, large_backup, restore)


@pytest.fixture
def runs(kafka: KafkaHarness, s3: S3Place, s3_network: S3Proxy, bucket: str) -> Runs:
    return Runs(kafka, s3, s3_network, bucket)


def _matrix(operations: Sequence[str], faults: Sequence[str], sample: Mapping[str, Sequence[str]]) -> pytest.MarkDecorator:
    """Every operation with every fault at every place; all but each request of the sample (faults by operation) are long."""
    return pytest.mark.parametrize(
        ("operation", "fault", "place"),
        [
            pytest.param(
                operation, fault, place, marks=() if place == "each" and fault in sample[operation] else pytest.mark.long
            )
            for operation in operations
            for fault in faults
            for place in ("each", "first", "middle", "last")
        ],
    )


@pytest.mark.fault("S1", "a real server: 500, 503, 429, reset, at each request of each operation of a backup", promise=1)
@pytest.mark.fault("S2", "a real server: each reply of each operation of a backup", promise=1)
@_matrix(
    ["LIST", "PUT", "HEAD", "GET"], FAULTS,
    {"LIST": ["500"], "PUT": ["503", "reset after"], "HEAD": ["reset before"], "GET": ["429"]},
)  # fmt: skip
def test_a_backup_survives_what_can_get_better(
    runs: Runs, small: Source, good: Good, operation: str, fault: str, place: str
) -> None:
    runs.with_faults(lambda: runs.back_up(small), good.backup, operation, fault, place)


@pytest.mark.fault("S1", "a real server: the same for uploads in parts", promise=1)
@pytest.mark.fault("S2", "a real server: the same for uploads in parts", promise=1)
@_matrix(
    ["create", "part", "complete"], FAULTS,
    {"create": ["429"], "part": ["reset before"], "complete": ["500", "reset after"]},
)  # fmt: skip
def test_a_backup_in_parts_survives_what_can_get_better(
    runs: Runs, large: Source, good: Good, operation: str, fault: str, place: str
) -> None:
    runs.with_faults(lambda: runs.back_up(large), good.large_backup, operation, fault, place)


@pytest.mark.fault("S1", "a real server: the same for a restore", promise=5)
@pytest.mark.fault("S3", "a real server: short bodies in a restore", promise=5)
@_matrix(["LIST", "GET"], [*FAULTS, "short"], {"LIST": ["503"], "GET": ["reset before", "short"]})
def test_a_restore_survives_what_can_get_better(
    runs: Runs, small: Source, good: Good, operation: str, fault: str, place: str
) -> None:
    runs.with_faults(lambda: runs.restore(small, good.backup_id), good.restore, operation, fault, place)


@pytest.mark.fault("S3", "a real server: a completion with 200 and an error inside, done and not done", promise=1)
@pytest.mark.parametrize("kind", ["error in 200", "error in 200 after"])
def test_a_completion_that_says_200_and_failed_is_not_taken_for_one(
    runs: Runs, large: Source, good: Good, kind: str
) -> None:
    """The status goes out before the server has put the parts together; what comes after it may be an error."""
    runs.with_faults(lambda: runs.back_up(large), good.large_backup, "complete", kind, "each")


def test_slow_answers_only_slow_a_run(runs: Runs, small: Source, good: Good) -> None:
    begun = time.monotonic()
    runs.with_faults(lambda: runs.back_up(small), good.backup, "PUT", "slow", "middle")
    runs.with_faults(lambda: runs.restore(small, good.backup_id), good.restore, "GET", "slow", "last")
    assert time.monotonic() - begun >= 2 * SLOW_S


@pytest.mark.parametrize("kind", [pytest.param("503", marks=pytest.mark.long), "reset before"])
def test_an_outage_of_the_store_that_ends_in_time_leaves_no_trace(runs: Runs, small: Source, kind: str) -> None:
    """Every request fails twenty times over, whatever it is."""
    runs.network.reset()
    armed = [runs.network.fail(operation, kind, at=2, times=6) for operation in ("PUT", "HEAD")]
    runs.back_up(small)
    assert [one.done for one in armed] == [6, 6]


@pytest.mark.fault("S1", "a real server: an outage beyond the deadline; the same command goes on", promise=1)
@pytest.mark.parametrize("after", [2, pytest.param(4, marks=pytest.mark.long)])
def test_the_same_command_goes_on_after_an_outage_beyond_the_deadline(runs: Runs, small: Source, after: int) -> None:
    """Behind some segments nothing is answered but 503, for longer than kbr is told to try."""
    runs.network.reset()
    limits = {"/topics/": after, "manifest.json": 2, "/locks/": 3}
    armed = [runs.network.fail("PUT", "503", key=key, at=at, times=10_000) for key, at in limits.items()]
    backup_id = f"b{next(_ids)}"
    words = (
        "-t", small.topic, "--backup-id", backup_id, "--set", "backup.workers=1", "--set", "storage.deadline_ms=1500",
    )  # fmt: skip
    done = _cli(runs, "backup", *words)
    assert armed[0].done
    assert done.returncode in (1, 3, 5), done.stderr
    assert "Traceback" not in done.stderr
    assert "503" in done.stderr or "SlowDown" in done.stderr or "reduce your request rate" in done.stderr
    assert _stored(runs, small, backup_id) > 0
    runs.network.reset()
    again = _cli(runs, "backup", *words[:-2])
    assert again.returncode == 0, again.stderr
    assert_archived(small.records, runs.folder, backup_id, small.topic)


# -- what can't get better ----------------------------------------------------------------------


def _stored(runs: Runs, source: Source, backup_id: str) -> int:
    """Records in committed segments: each a beginning of its partition, without a hole."""
    count = 0
    for number, found in enumerate(archived(runs.folder, backup_id, source.topic, len(source.records))):
        assert [one.offset for one in found] == [one.offset for one in source.records[number][: len(found)]]
        assert [one.value for one in found] == [one.value for one in source.records[number][: len(found)]]
        count += len(found)
    return count


def _cli(runs: Runs, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_kbr(verb, "-b", runs.kafka.bootstrap, "--storage", runs.url, *words, env=runs.env)


def _says_why(done: subprocess.CompletedProcess[str]) -> None:
    """As the server says it, and what to do."""
    assert "Traceback" not in done.stderr
    words = done.stdout + done.stderr
    assert "Access Denied." in words
    assert "check the credentials, and their rights on the bucket" in words, words


@pytest.mark.fault("S6", "segments may not be written any more: what was finished is restored, the rest by the same command", promise=1)
def test_segments_that_were_finished_before_rights_were_lost_can_be_restored(
    runs: Runs, kafka: KafkaHarness, small: Source
) -> None:
    """Behind the first segment no other may be written, only manifests."""
    runs.network.reset()
    refused = runs.network.fail("PUT", "403", at=2, times=10_000, key="/topics/")
    backup_id = f"b{next(_ids)}"
    words = ("-t", small.topic, "--backup-id", backup_id, "--set", "backup.workers=1")
    done = _cli(runs, "backup", *words)
    assert refused.done >= 3
    assert done.returncode == 3, done.stderr
    _says_why(done)
    finished = _stored(runs, small, backup_id)
    assert 0 < finished < sum(map(len, small.records))
    target = kafka.topic_name(f"{small.topic}-finished")
    restored = _cli(runs, "restore", "--topic-map", f"{small.topic}={target}", "--backup-id", backup_id)
    assert restored.returncode in (0, 3), restored.stderr
    assert sum(map(len, kafka.read_all(target))) == finished
    runs.network.reset()
    assert _cli(runs, "backup", *words).returncode == 0
    assert_archived(small.records, runs.folder, backup_id, small.topic)


@pytest.mark.fault("S6", "nothing may be written any more: exit 1, and the same command goes on when it may be again", promise=1)
def test_a_backup_without_any_rights_from_some_moment_on_fails_and_goes_on_when_they_are_back(
    runs: Runs, small: Source
) -> None:
    """Not even a manifest can be written any more: what was finished is taken over by the next run."""
    runs.network.reset()
    limits = {"/topics/": 2, "manifest.json": 2, "/locks/": 3}
    refused = [runs.network.fail("PUT", "403", key=key, at=at, times=10_000) for key, at in limits.items()]
    backup_id = f"b{next(_ids)}"
    words = ("-t", small.topic, "--backup-id", backup_id, "--set", "backup.workers=1")
    done = _cli(runs, "backup", *words)
    assert all(one.done for one in refused)
    assert done.returncode == 1, done.stderr
    _says_why(done)
    assert _stored(runs, small, backup_id) > 0
    runs.network.reset()
    again = _cli(runs, "backup", *words)
    assert again.returncode == 0, again.stderr
    assert_archived(small.records, runs.folder, backup_id, small.topic)


@pytest.mark.fault("S6", "a restore that may not read", promise=4)
@pytest.mark.parametrize("operation", ["LIST", "GET"])
def test_a_restore_without_rights_says_so_and_writes_nothing_wrong(
    runs: Runs, kafka: KafkaHarness, small: Source, good: Good, operation: str
) -> None:
    runs.network.reset()
    refused = runs.network.fail(operation, "403", at=1 if operation == "LIST" else 4, times=10_000)
    target = kafka.topic_name(f"{small.topic}-denied")
    done = _cli(runs, "restore", "--topic-map", f"{small.topic}={target}", "--backup-id", good.backup_id)
    assert refused.done
    assert done.returncode in (1, 3), done.stderr
    _says_why(done)
    if kafka.topic_exists(target):
        for before, after in zip(small.records, kafka.read_all(target)):
            assert [one.exact for one in after] == [one.exact for one in before[: len(after)]]
