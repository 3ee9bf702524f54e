"""Every fault at every operation of a restore: those of the store, and each block that is sent to the target.

As tests/faults/test_enumerated.py, but that a fault at a block means: it is not sent; it has arrived and nobody knows;
the process is gone before, or after it has arrived; or half of its records have arrived. Without --long each operation meets one of the faults.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import KbrError
from kbr.model import Record, TopicPartition
from kbr.repository.layout import offset_map_key
from kbr.repository.offset_maps import open_offset_map
from kbr.repository.restore_states import list_restores
from kbr.restore.options import RestoreOptions
from kbr.storage.local import LocalStore
from kbr.storage.options import StoreLayer
from tests.support.checker import Truth, check_target
from tests.support.fault_store import Fault, Killed, Operation, Script, chosen
from tests.support.inline import Bench, mock_bench

BASE_MS = 1_714_564_800_000
RECORDS = 130
TOPICS = {"orders": 2, "payments": 1}


@dataclass(frozen=True)
class Place:
    """A backup on a broker, and targets that nobody has used yet."""

    bench: Bench
    backup: Path
    truth: Truth
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_target(self) -> RestoreOptions:
        """Empty topics, and a restore into them."""
        prefix = f"r{next(self.numbers)}"
        for name, partitions in TOPICS.items():
            self.bench.create_topic(f"{prefix}.{name}", partitions)
        return RestoreOptions(backup_id="b", topic_mapping={f"source.{name}": f"{prefix}.{name}" for name in TOPICS})

    def targets(self, options: RestoreOptions) -> list[TopicPartition]:
        """The target partitions."""
        return [
            TopicPartition(options.topic_mapping[f"source.{name}"], number)
            for name, partitions in TOPICS.items()
            for number in range(partitions)
        ]


@pytest.fixture
def place() -> Iterator[Place]:
    """One of its own for each test: a broker that has thousands of topics is slow."""
    with new_place() as found:
        yield found


@contextmanager
def new_place(layer: StoreLayer | None = None) -> Iterator[Place]:
    """A backup as the layer makes it."""
    memory = Path("/dev/shm")
    with (
        mock_bench() as bench,
        tempfile.TemporaryDirectory(prefix="kbr-faults-", dir=memory if memory.is_dir() else None) as folder,
    ):
        bench.layer = layer
        source = random.Random(3)
        records = {}
        for name, partitions in TOPICS.items():
            bench.create_topic(f"source.{name}", partitions)
            for number in range(partitions):
                records[TopicPartition(f"source.{name}", number)] = [
                    Record(
                        offset, BASE_MS + offset, 1, None if offset % 9 == 0 else b"key %d" % offset,
                        None if offset % 13 == 0 else source.randbytes(100),
                        ((b"h", None), (b"h", b"")) if offset % 5 == 0 else (),
                    )
                    for offset in range(RECORDS)
                ]  # fmt: skip
        bench.produce(records)
        topics = tuple(f"source.{name}" for name in TOPICS)
        backup = Path(folder, "backup")
        options = BackupOptions(backup_id="b", include=topics, segment_max_bytes=8000)
        bench.back_up(LocalStore(str(backup)), options, Script())
        yield Place(bench, backup, Truth(bench.read({f"source.{name}": count for name, count in TOPICS.items()})))


def _record(place: Place, folder: Path) -> list[Operation]:
    """The operations of a restore without faults."""
    shutil.copytree(place.backup, folder)
    script = Script()
    options = place.new_target()
    assert place.bench.restore(LocalStore(str(folder)), options, script).exit_code == 0
    shutil.rmtree(folder)
    return script.trace


def _anomalies(place: Place, options: RestoreOptions) -> str:
    """What is wrong with the target; empty if nothing is."""
    found = place.bench.read({options.topic_mapping[f"source.{name}"]: count for name, count in TOPICS.items()})
    places = {(topic, number): (options.topic_mapping[topic], number) for topic, number in place.truth.committed}
    report = check_target(place.truth, found, places)
    return str(report) if report.anomalies else ""


def _mapping_anomalies(place: Place, store: LocalStore, options: RestoreOptions, key: str | None) -> str:
    """What is wrong with the offset mapping: record by record, it has to be where the source's n-th one is."""
    seen = store if place.bench.layer is None else place.bench.layer.over(store)
    (restore,) = list_restores(seen, "b")
    if key != offset_map_key("b", restore.restore_id):
        return f"the offset mapping is said to be {key}"
    mapping = open_offset_map(seen, "b", restore.restore_id)
    for (topic, number), records in place.truth.committed.items():
        source, target = TopicPartition(topic, number), TopicPartition(options.topic_mapping[topic], number)
        for position, record in enumerate(records):
            if mapping.target_offset(source, record.offset) != (target, position):
                return f"the offset mapping is wrong at {source} offset {record.offset}"
    return ""


def _try(place: Place, folder: Path, script: Script) -> str:
    """One fault and what heals it; what is wrong with the outcome, if anything."""
    shutil.copytree(place.backup, folder)
    store = LocalStore(str(folder))
    options = place.new_target()
    try:
        outcome = f"exit {place.bench.restore(store, options, script).exit_code}"
    except Killed:
        outcome = "killed"
    except KbrError as error:
        outcome = type(error).__name__
    place.bench.wait_for_rest(place.targets(options))
    wrong = _anomalies(place, options) if outcome == "exit 0" else ""
    if not wrong:
        healed = place.bench.restore(store, options, Script())
        wrong = f"the next run: exit {healed.exit_code}" if healed.exit_code else _anomalies(place, options)
        wrong = wrong or _mapping_anomalies(place, store, options, healed.offset_map)
    shutil.rmtree(folder)
    if not script.fired:
        return f"{outcome}; the operation did not come again"
    return f"{outcome}; {wrong}" if wrong else ""


@pytest.mark.fault("R1", "fails, is killed, or loses its acknowledgements at each storage operation and each block", promise=5)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("fault", "whole_tree"),
    [*((fault, True) for fault in Fault), *((fault, False) for fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.PARTLY))],
)
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_target(
    place: Place, pytestconfig: pytest.Config, fault: Fault, whole_tree: bool
) -> None:
    trace = _record(place, place.backup.parent / "recorded")
    failures = []
    for number, operation in chosen(trace, fault, everything=pytestconfig.getoption("--long"), shift=not whole_tree, every=5):
        script = Script(at=operation, fault=fault, whole_tree=whole_tree)
        try:
            wrong = _try(place, place.backup.parent / str(number), script)
        except KbrError as error:
            wrong = f"the next run ended with {type(error).__name__}: {error}"
        if wrong:
            failures.append(f"{number} {fault.value}: {operation}: {wrong}")
    assert not failures, f"{len(failures)} of {len(trace)}:\n" + "\n".join(failures[:20])
