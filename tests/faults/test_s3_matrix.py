"""The matrix: each operation of S3 × each answer that can get better × its first, middle and last request.

Real Kafka, a real S3 server and the fault proxy before it; the runs go on in this process (tests/support/inline.py), so
that each of the hundred cells is one backup, and one restore where the fault lies there. Every cell ends with identical
records, told by readers that share nothing with kbr. With the outages beyond the deadline at the end: an error that names
operation and key, and nothing half that is listed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import KbrError, StoreUnavailable
from kbr.model import Compression, Record, RunStatus, TopicPartition
from kbr.restore.options import RestoreOptions
from kbr.storage import ObjectStore, StorageOptions
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3 import S3Store
from kbr.timing import Backoff
from tests.conftest import S3Place
from tests.support.archive import S3Objects
from tests.support.checker import Truth, check_backup, check_target
from tests.support.fault_store import Script
from tests.support.inline import Bench, real_bench
from tests.support.kafka import KafkaHarness
from tests.support.s3_proxy import OPERATIONS, S3Proxy

BASE_MS = 1_714_564_800_000
PART_BYTES = 5 * 1024 * 1024
FAULTS = ("429", "500", "503", "reset before")
PLACES = ("first", "middle", "last")
SMALL, LARGE, RESTORE, DELETE = "backup", "backup in parts", "restore", "delete"
#: Where each operation is disturbed.
PHASES: dict[str, tuple[str, ...]] = {
    "create": (LARGE,),
    "part": (LARGE,),
    "complete": (LARGE,),
    "PUT": (SMALL, RESTORE),
    "GET": (SMALL, RESTORE),
    "HEAD": (SMALL, RESTORE),
    "LIST": (SMALL, RESTORE),
    "DELETE": (DELETE,),
}
#: Those that write, by what kbr calls them.
WRITES = {"PUT": "put", "create": "create_multipart_upload", "part": "upload_part", "complete": "complete"}
NAMES = {"reset before": "reset", "PUT": "put", "GET": "get", "HEAD": "head", "LIST": "list", "DELETE": "delete"}


@dataclass
class Desk:
    """A source, a store behind the proxy, and runs.

    Attributes:
        truths: by phase: what the source holds.
        usual: by phase: how many requests of an operation it makes.
    """

    bench: Bench
    kafka: KafkaHarness
    place: S3Place
    bucket: str
    network: S3Proxy
    client: S3fsClient
    truths: dict[str, Truth] = field(default_factory=dict)
    usual: dict[str, dict[str, int]] = field(default_factory=dict)
    good_backup: str = ""
    targets: Iterator[str] = field(default_factory=lambda: iter(()))
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def store(self, *, deadline_s: float = 30.0, through_proxy: bool = True) -> ObjectStore:
        """The store; its back-off is short, so that a cell costs little."""
        options = StorageOptions(
            url=f"s3://{self.bucket}/p",
            endpoint_url=self.network.endpoint_url if through_proxy else self.place.endpoint_url,
            part_bytes=PART_BYTES,
            deadline_s=deadline_s,
        )
        return S3Store(options, client=self.client, backoff=Backoff(base_s=0.005, cap_s=0.02), rng=random.Random(1))

    def objects(self) -> S3Objects:
        """The same as others see it, past the proxy."""
        return S3Objects(self.place, self.bucket, "p")

    def back_up(self, phase: str, store: ObjectStore) -> str:
        """The backup_id of a backup that is identical."""
        backup_id = f"b{next(self._ids)}"
        report = self.bench.back_up(store, self.options(phase, backup_id), Script())
        assert report.manifest.status is RunStatus.COMPLETE, report.failure
        found = check_backup(self.truths[phase], self.objects(), backup_id)
        assert not found.anomalies, found
        return backup_id

    def options(self, phase: str, backup_id: str) -> BackupOptions:
        return BackupOptions(
            backup_id=backup_id,
            include=(next(iter(self.truths[phase].committed))[0],),
            segment_max_bytes=16_000 if phase == SMALL else 64 << 20,
            compression=Compression.NONE,
            compression_level=None,
        )

    def restore(self, store: ObjectStore) -> None:
        """A restore of the good backup into a new topic, which is identical then."""
        truth, target = self.truths[SMALL], next(self.targets)
        (source,) = {topic for topic, _number in truth.committed}
        options = RestoreOptions(backup_id=self.good_backup, topic_mapping={source: target})
        report = self.bench.restore(store, options, Script())
        assert report.exit_code == 0, report
        places = {(topic, number): (target, number) for topic, number in truth.committed}
        found = check_target(truth, self.bench.read({target: len(places)}), places)
        assert not found.anomalies, found

    def delete(self, store: ObjectStore) -> None:
        """Removing some objects of many leaves the others, and the backup beside them."""
        for number in range(6):
            store.put(f"waste/{number}", b"x")
        for number in range(5):
            store.delete(f"waste/{number}")
        assert [info.key for info in store.list("waste/")] == ["waste/5"]
        found = check_backup(self.truths[SMALL], self.objects(), self.good_backup)
        assert not found.anomalies, found

    def run(self, phase: str, store: ObjectStore) -> None:
        """One run; what comes out is identical."""
        if phase == RESTORE:
            self.restore(store)
        elif phase == DELETE:
            self.delete(store)
        else:
            self.back_up(phase, store)

    def count(self, phase: str) -> None:
        """Note how many requests a phase makes when nothing fails."""
        self.network.reset()
        self.run(phase, self.store())
        self.usual[phase] = {operation: self.network.count(operation) for operation in OPERATIONS}


@pytest.fixture(scope="module")
def desk(kafka: KafkaHarness, s3: S3Place, pytestconfig: pytest.Config) -> Iterator[Desk]:
    with real_bench(kafka) as bench, S3Proxy(s3.port) as network:
        client = S3fsClient(
            StorageOptions(
                url="s3://bucket",
                endpoint_url=network.endpoint_url,
                access_key=s3.access_key,
                secret_key=s3.secret_key,
                region="us-east-1",
                path_style=True,
            )
        )
        made = Desk(bench, kafka, s3, s3.make_bucket(), network, client)
        source = random.Random(7)
        made.truths[SMALL] = _fill(made, partitions=2, records=lambda number: _small(source, 120 + number))
        made.truths[LARGE] = _fill(made, partitions=3, records=_large)
        made.good_backup = made.back_up(SMALL, made.store())
        made.targets = _new_topics(kafka, 60 if pytestconfig.getoption("--long") else 20, partitions=2)
        for phase in (SMALL, LARGE, RESTORE, DELETE):
            made.count(phase)
        yield made
        client.close()


def _fill(desk: Desk, *, partitions: int, records: Callable[[int], Sequence[Record]]) -> Truth:
    topic = desk.kafka.topic_name("matrix")
    desk.bench.create_topic(topic, partitions)
    desk.bench.produce({TopicPartition(topic, number): list(records(number)) for number in range(partitions)})
    return Truth(desk.bench.read({topic: partitions}))


def _small(source: random.Random, count: int) -> list[Record]:
    return [
        Record(
            offset, BASE_MS + offset, 1, None if offset % 9 == 0 else b"key %d" % offset,
            None if offset % 13 == 0 else source.randbytes(300), ((b"h", None), (b"h", b"")) if offset % 5 == 0 else (),
        )
        for offset in range(count)
    ]  # fmt: skip


def _large(number: int) -> list[Record]:
    """6 MB: two parts."""
    return [Record(offset, BASE_MS + offset, 1, b"%d" % number, bytes([offset]) * 750_000, ()) for offset in range(8)]


def _new_topics(kafka: KafkaHarness, count: int, *, partitions: int) -> Iterator[str]:
    """Empty topics, made at once: one after the other takes a tenth of a second each."""
    return iter(kafka.create_topics([kafka.topic_name("matrix-back") for _ in range(count)], partitions))


CELLS = [
    pytest.param(
        operation,
        fault,
        marks=pytest.mark.compatibility(
            table="faults", row=NAMES.get(operation, operation), column=NAMES.get(fault, fault)
        ),
        id=f"{operation}-{fault}",
    )
    for operation in PHASES
    for fault in FAULTS
]


@pytest.mark.fault("S1", "a real server: each operation × 429, 500, 503, reset × its first, middle and last request", promise=1)
@pytest.mark.parametrize(("operation", "fault"), CELLS)
def test_a_request_that_fails_once_changes_nothing(
    desk: Desk, pytestconfig: pytest.Config, operation: str, fault: str
) -> None:
    """The three places in one run, as a fault counts the requests that no other has struck; with --long in three."""
    for phase in PHASES[operation]:
        count = desk.usual[phase][operation]
        if not count:
            continue
        places = sorted({1, (count + 1) // 2, count})
        for together in [[at] for at in places] if pytestconfig.getoption("--long") else [places]:
            desk.network.reset()
            armed = [desk.network.fail(operation, fault, at=at) for at in together]
            desk.run(phase, desk.store())
            assert [one.done for one in armed] == [1] * len(armed), f"{phase}: requests {together} of {count}"


def test_each_operation_occurs_at_three_places(desk: Desk) -> None:
    """So that the cells are not empty."""
    for operation, phases in PHASES.items():
        assert max(desk.usual[phase][operation] for phase in phases) >= len(PLACES), operation


@pytest.mark.fault("S1", "a real server: each operation, an outage beyond the deadline", promise=4)
@pytest.mark.parametrize("operation", PHASES)
def test_an_outage_beyond_the_deadline_names_operation_and_key_and_leaves_nothing_half(
    desk: Desk, operation: str
) -> None:
    """In a backup where it writes; by itself where it reads, as a backup that can't read never gets as far as a segment."""
    desk.network.reset()
    armed = desk.network.fail(operation, "503", key="segment-" if operation in WRITES else "", times=10_000)
    before = desk.objects().sizes()
    error, exit_code = _told(desk, operation, desk.store(deadline_s=0.4), f"outage-{operation}")
    assert armed.done >= 2
    assert exit_code in (1, 5), error
    assert f"{WRITES.get(operation, operation.lower())} of " in error, error
    assert f"s3://{desk.bucket}/p/" in error or operation == "LIST", error
    desk.network.reset()
    after = desk.objects().sizes()
    assert not [one for one in after if "segment-" in one and one not in before]
    assert {one: size for one, size in after.items() if one in before} == before


def _told(desk: Desk, operation: str, store: ObjectStore, backup_id: str) -> tuple[str, int]:
    """How it ends: words and exit code."""
    reads: dict[str, Callable[[], object]] = {
        "GET": lambda: store.get("waste/5", max_bytes=10),
        "HEAD": lambda: store.head("waste/5"),
        "LIST": lambda: list(store.list("")),
        "DELETE": lambda: store.delete("waste/5"),
    }
    try:
        if operation in reads:
            reads[operation]()
        report = desk.bench.back_up(store, desk.options(PHASES[operation][0], backup_id), Script())
    except KbrError as error:
        return f"{error}", error.exit_code
    assert isinstance(report.failure, StoreUnavailable), report.failure
    return f"{report.failure}", report.exit_code
