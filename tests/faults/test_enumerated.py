"""Every fault at every operation: fail before, reply lost, killed before, killed after, done by half.

A run is recorded once, without faults, as the list of its storage operations. Then it is run again for each operation
and each fault, and healed by the same command with a healthy store; archive and source are compared record by record.
All in one process, on librdkafka's mock cluster and a folder in memory (tests/support/inline.py); a sample on a real S3
server, too. Without --long each operation meets one or two of the faults.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import KbrError
from kbr.model import Record, RunStatus, TopicPartition
from kbr.storage import StorageOptions, open_store
from kbr.storage.base import ObjectStore
from kbr.storage.local import LocalStore
from tests.conftest import S3Place
from tests.support.archive import FolderObjects, Objects, S3Objects
from tests.support.checker import LiveChecker, Truth, check_backup
from tests.support.fault_store import Fault, Killed, Operation, Script, chosen
from tests.support.inline import Bench, mock_bench

BASE_MS = 1_714_564_800_000
#: With blocks of 4 KiB and segments of two of them: three segments a partition.
RECORDS = 200
TOPICS = {"orders": 3, "payments": 2}


@dataclass(frozen=True)
class Scenario:
    """A run to disturb.

    Attributes:
        topics: what it backs up.
        before: the folder as the run finds it, or None for an empty one.
        truth: what a healed backup holds.
        trace: the operations of the run without faults.
    """

    options: BackupOptions
    before: Path | None
    truth: Truth
    trace: tuple[Operation, ...]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        yield found


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="kbr-faults-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def scenarios(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Three backups: begun anew; going on after a kill; going on with what is new."""
    folder = tmp_path_factory.mktemp("scenarios")
    return {
        "first": _first(bench),
        "after a kill": _after_a_kill(bench, folder / "killed"),
        "with new records": _with_new_records(bench, folder / "grown"),
    }


def _options(prefix: str) -> BackupOptions:
    return BackupOptions(
        backup_id="b", include=tuple(f"{prefix}.{name}" for name in TOPICS), segment_max_bytes=8000
    )


def _produce(bench: Bench, prefix: str, *, make: bool = True, count: int = RECORDS) -> None:
    source = random.Random(f"{prefix} {make}")
    records = {}
    for name, partitions in TOPICS.items():
        topic = f"{prefix}.{name}"
        if make:
            bench.create_topic(topic, partitions)
        for number in range(partitions):
            records[TopicPartition(topic, number)] = [
                Record(
                    offset, BASE_MS + offset, 1, None if offset % 9 == 0 else b"key %d" % offset,
                    None if offset % 13 == 0 else source.randbytes(100),
                    ((b"h", None), (b"h", b"")) if offset % 5 == 0 else (),
                )
                for offset in range(count)
            ]  # fmt: skip
    bench.produce(records)


def _truth(bench: Bench, options: BackupOptions) -> Truth:
    return Truth(bench.read({topic: TOPICS[topic.partition(".")[2]] for topic in options.include}))


def _record(bench: Bench, options: BackupOptions, before: Path | None) -> tuple[Operation, ...]:
    """The operations of a run without faults; twice, as a fault can only be where the run comes again."""
    traces = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            folder = _copy(before, Path(name))
            script = Script()
            assert bench.back_up(LocalStore(str(folder)), options, script).manifest.status is RunStatus.COMPLETE
            traces.append(script.trace)
    assert sorted(traces[0]) == sorted(traces[1]), "operations are to come again"
    return tuple(traces[0])


def _copy(before: Path | None, place: Path) -> Path:
    folder = place / "store"
    if before is not None:
        shutil.copytree(before, folder)
    return folder


def _first(bench: Bench) -> Scenario:
    options = _options("first")
    _produce(bench, "first")
    return Scenario(options, None, _truth(bench, options), _record(bench, options, None))


def _kill(bench: Bench, folder: Path, options: BackupOptions) -> None:
    """In the middle of a write: segments that no manifest lists yet are left, and a temp file."""
    trace = _record(bench, options, None)
    second_checkpoint = [number for number, one in enumerate(trace) if one.key.endswith("manifest.json")][2]
    commits = [one for one in trace[second_checkpoint:] if one.name == "commit"]
    at = next(one for one in trace if one.name == "write" and one.key == commits[2].key)
    with pytest.raises(Killed):
        bench.back_up(LocalStore(str(folder)), options, Script(at=at, fault=Fault.PARTLY))


def _after_a_kill(bench: Bench, folder: Path) -> Scenario:
    """Killed in the middle of a write, with segments that no manifest lists yet, and a temp file."""
    options = _options("killed")
    _produce(bench, "killed")
    _kill(bench, folder, options)
    return Scenario(options, folder, _truth(bench, options), _record(bench, options, folder))


def _with_new_records(bench: Bench, folder: Path) -> Scenario:
    options = _options("grown")
    _produce(bench, "grown")
    bench.back_up(LocalStore(str(folder)), options, Script())
    _produce(bench, "grown", make=False, count=120)
    return Scenario(options, folder, _truth(bench, options), _record(bench, options, folder))


SCENARIOS = ("first", "after a kill", "with new records")


class Shelf(NamedTuple):
    """Where one try keeps its backup, as kbr and as the checker see it."""

    store: ObjectStore
    objects: Objects

    @classmethod
    def in_folder(cls, folder: Path) -> Shelf:
        return cls(LocalStore(str(folder)), FolderObjects(folder))


def _disturbed(bench: Bench, options: BackupOptions, shelf: Shelf, script: Script) -> str:
    """One run with a fault; how it ended."""
    try:
        report = bench.back_up(shelf.store, options, script)
    except Killed:
        return "killed"
    except KbrError as error:
        return type(error).__name__
    return report.manifest.status.value


def _try(bench: Bench, options: BackupOptions, truth: Truth, shelf: Shelf, script: Script) -> str | None:
    """One fault and what heals it; what is wrong with the outcome, if anything."""
    watch = LiveChecker(shelf.objects, options.backup_id)
    found = watch.look()
    outcome = _disturbed(bench, options, shelf, script)
    if not script.fired:
        return "the operation did not come again"
    found += watch.look()
    if outcome == "complete":  # a dead worker's temp files stay until the next run
        found += check_backup(truth, shelf.objects, options.backup_id, leftovers=True).anomalies
    try:
        healed = bench.back_up(shelf.store, options, Script())
    except KbrError as error:
        return f"the next run ended with {type(error).__name__}: {error}"
    found += watch.look()
    if healed.manifest.status is not RunStatus.COMPLETE:
        return f"{outcome}; the next run is {healed.manifest.status.value}"
    found += check_backup(truth, shelf.objects, options.backup_id).anomalies
    return f"{outcome}; " + "; ".join(map(str, found)) if found else None


def _try_all(
    bench: Bench, scenario: Scenario, operations: Iterable[tuple[int, Operation]], fault: Fault, place: Path, *, whole_tree: bool = True
) -> None:
    failures = []
    for number, operation in operations:
        script = Script(at=operation, fault=fault, whole_tree=whole_tree)
        folder = _copy(scenario.before, place / str(number))
        wrong = _try(bench, scenario.options, scenario.truth, Shelf.in_folder(folder), script)
        shutil.rmtree(folder, ignore_errors=True)  # of a fault at the very first operation there is none
        if wrong is not None:
            failures.append(f"{number} {fault.value}: {operation}: {wrong}")
    assert not failures, f"{len(failures)} of {len(scenario.trace)}:\n" + "\n".join(failures[:20])


@pytest.mark.fault("P1", "all processes killed before, in and after each storage operation of a backup", promise=1)
@pytest.mark.fault("S1", "each storage operation of a backup fails for good", promise=1)
@pytest.mark.fault("S2", "of each storage operation of a backup", promise=1)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("name", SCENARIOS)
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_backup(
    bench: Bench, scenarios: dict[str, Scenario], place: Path, pytestconfig: pytest.Config, name: str, fault: Fault
) -> None:
    scenario, everything = scenarios[name], pytestconfig.getoption("--long")
    operations = chosen(scenario.trace, fault, everything=everything, shift=SCENARIOS.index(name))
    _try_all(bench, scenario, operations, fault, place)


@pytest.mark.fault("P1", "one worker killed before, in and after each storage operation of a backup", promise=1)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.PARTLY], ids=lambda fault: fault.value)
def test_after_a_workers_death_at_any_operation_the_same_command_gives_an_identical_backup(
    bench: Bench, scenarios: dict[str, Scenario], place: Path, pytestconfig: pytest.Config, fault: Fault
) -> None:
    scenario, everything = scenarios["first"], pytestconfig.getoption("--long")
    operations = chosen(scenario.trace, fault, everything=everything, shift=1)
    _try_all(bench, scenario, operations, fault, place, whole_tree=False)


@pytest.mark.fault("P1", "a real S3 server: a sample of faults at storage operations of a backup", promise=1)
@pytest.mark.fault("S2", "a real S3 server: a sample of storage operations of a backup", promise=1)
@pytest.mark.timeout(400)
def test_after_a_fault_at_some_operations_on_a_real_s3_server_the_same_command_gives_an_identical_backup(
    bench: Bench, s3: S3Place
) -> None:
    options = _options("on-s3")
    _produce(bench, "on-s3")
    truth = _truth(bench, options)
    source = random.Random(4)

    @contextmanager
    def shelf() -> Iterator[Shelf]:
        bucket = s3.make_bucket()
        store = open_store(
            StorageOptions(
                url=s3.storage_url(bucket), endpoint_url=s3.endpoint_url, access_key=s3.access_key,
                secret_key=s3.secret_key, region="us-east-1", path_style=True,
            )
        )  # fmt: skip
        try:
            yield Shelf(store, S3Objects(s3, bucket))
        finally:
            store.close()

    whole = Script()
    with shelf() as undisturbed:
        assert bench.back_up(undisturbed.store, options, whole).manifest.status is RunStatus.COMPLETE
    failures = []
    for fault in Fault:
        for operation in source.sample(whole.trace, 3):
            with shelf() as fresh:
                wrong = _try(bench, options, truth, fresh, Script(at=operation, fault=fault))
            if wrong is not None:
                failures.append(f"{fault.value}: {operation}: {wrong}")
    assert not failures, "\n".join(failures)


@pytest.mark.fault("P1", "the run that goes on after a fault has one, too", promise=1)
@pytest.mark.timeout(400)
def test_after_faults_in_two_runs_in_a_row_the_same_command_gives_an_identical_backup(
    bench: Bench, scenarios: dict[str, Scenario], place: Path, pytestconfig: pytest.Config
) -> None:
    source = random.Random(2)
    failures = []
    for number in range(60 if pytestconfig.getoption("--long") else 20):
        scenario = scenarios[source.choice(SCENARIOS)]
        folder = _copy(scenario.before, place / str(number))
        shelf = Shelf.in_folder(folder)
        story = []
        for _ in range(2):
            # in the second run not every operation comes again: then it is a run without a fault
            script = Script(at=source.choice(scenario.trace), fault=source.choice(list(Fault)))
            outcome = _disturbed(bench, scenario.options, shelf, script)
            story.append(f"{script.fault.value if script.fault else ''}: {script.at}: {outcome}")
        healed = bench.back_up(shelf.store, scenario.options, Script())
        found = check_backup(scenario.truth, shelf.objects, scenario.options.backup_id).anomalies
        if found or healed.manifest.status is not RunStatus.COMPLETE:
            failures.append(f"{'; '.join(story)}: {'; '.join(map(str, found))}")
        shutil.rmtree(folder)
    assert not failures, "\n".join(failures)


def test_a_finished_backup_with_nothing_new_changes_nothing(
    bench: Bench, scenarios: dict[str, Scenario], place: Path
) -> None:
    options = scenarios["first"].options
    store, objects = Shelf.in_folder(place / "store")
    bench.back_up(store, options, Script())
    before = {key: objects.get(key) for key in objects.sizes() if "/locks/" not in key}
    script = Script()
    assert bench.back_up(store, options, script).manifest.status is RunStatus.COMPLETE
    assert {key: objects.get(key) for key in objects.sizes() if "/locks/" not in key} == before
    assert not [one for one in script.trace if one.name in ("put", "open_upload") and "/locks/" not in one.key]
