"""Every fault at every operation on a block index: the backup is as it would be, and the next run's index is current.

As tests/faults/test_enumerated.py does it for a backup; each run adds to an index that is there, and merges its
runs. Without --long each operation meets one of the faults.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import KbrError
from kbr.model import Record, RunStatus, TopicPartition
from kbr.repository import index_writing
from kbr.repository.catalog import Catalog
from kbr.repository.indexes import open_index
from kbr.repository.layout import index_head_key, index_piece_key, index_prefix
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.local import LocalStore
from tests.support.archive import FolderObjects
from tests.support.checker import Truth, check_backup
from tests.support.fault_store import Fault, Killed, Operation, Script, chosen
from tests.support.inline import Bench, mock_bench

TOPIC, PARTITIONS = "indexed", 2
OPTIONS = BackupOptions(backup_id="b", include=(TOPIC,), segment_max_bytes=8000, index=True)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        yield found


def _produce(bench: Bench, first: int, count: int) -> None:
    source = random.Random(first)
    bench.produce(
        {
            TopicPartition(TOPIC, number): [
                Record(first + n, 1_714_564_800_000 + first + n, 1, b"key", source.randbytes(100), ()) for n in range(count)
            ]
            for number in range(PARTITIONS)
        }
    )


def _wrong_with_index(store: LocalStore) -> str:
    """What is wrong with an index that a run has ended well with; empty when nothing is."""
    manifest = Catalog(store).load("b")
    index = open_index(store, "b")
    if (state := index.standing(manifest).name) != "current":
        return f"the index is {state}"
    rows = [
        (one.place[1:], [(block.position, block.first_offset, block.max_timestamp) for block in one.blocks])
        for one in index.segments()
    ]
    own = [
        (
            (partition.partition, ref.sequence),
            [(one.position, one.first_offset, one.max_timestamp) for one in SegmentReader(store, "b", ref).index().blocks],
        )
        for partition in manifest.topics[0].partitions
        for ref in partition.segments
    ]
    if rows != own:
        return "its rows are not what the segments say"
    named = {index_head_key("b"), *(index_piece_key("b", one.name) for one in index.head.pieces)}
    there = {info.key for info in store.list(index_prefix("b"))}
    return "" if there == named else f"{len(there - named)} pieces were left behind, {len(named - there)} are missing"


@pytest.mark.fault("P1", "all processes killed before, in and after each operation on a block index", promise=1)
@pytest.mark.fault("S1", "each operation on a block index fails for good", promise=1)
@pytest.mark.timeout(400)
def test_after_any_fault_at_any_operation_on_the_index_the_backup_is_whole_and_the_next_index_current(
    bench: Bench, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writing, "FAN_OUT", 2)
    bench.create_topic(TOPIC, PARTITIONS)
    _produce(bench, 0, 200)
    before = tmp_path / "before"
    assert bench.back_up(LocalStore(str(before)), OPTIONS, Script()).manifest.status is RunStatus.COMPLETE
    assert _wrong_with_index(LocalStore(str(before))) == ""
    _produce(bench, 200, 120)
    truth = Truth(bench.read({TOPIC: PARTITIONS}))

    def run(folder: Path, script: Script) -> str:
        try:
            return bench.back_up(LocalStore(str(folder)), OPTIONS, script).manifest.status.value
        except Killed:
            return "killed"
        except KbrError as error:
            return type(error).__name__

    def attempt(folder: Path, at: Operation, fault: Fault) -> str:
        shutil.copytree(before, folder)
        store = LocalStore(str(folder))
        script = Script(at=at, fault=fault)
        outcome = run(folder, script)
        if not script.fired:
            return "the operation did not come again"
        if fault in {Fault.FAIL_BEFORE, Fault.LOSE_REPLY} and outcome != "complete":
            return f"the run is {outcome}: a backup must not fail for its index"
        if outcome == "complete" and (found := check_backup(truth, FolderObjects(folder), "b", leftovers=True).anomalies):
            return "; ".join(map(str, found))
        if (healed := run(folder, Script())) != "complete":
            return f"the next run is {healed}"
        found = check_backup(truth, FolderObjects(folder), "b").anomalies
        return "; ".join(map(str, found)) or _wrong_with_index(store)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        whole = Script()
        shutil.copytree(before, Path(name) / "whole")
        assert run(Path(name) / "whole", whole) == "complete"
        operations = [one for one in whole.trace if one.key.startswith(index_prefix("b"))]
        assert {one.name for one in operations} >= {"put", "open_upload", "write", "commit", "get", "read_range", "delete"}
        failures = []
        everything = pytestconfig.getoption("--long")
        for fault in Fault:
            for number, at in chosen(operations, fault, everything=everything, every=5):
                if wrong := attempt(Path(name) / f"{number} {fault.name}", at, fault):
                    failures.append(f"{number} {fault.value}: {at}: {wrong}")
                shutil.rmtree(Path(name) / f"{number} {fault.name}", ignore_errors=True)
    assert not failures, f"{len(failures)} of {len(operations)} operations:\n" + "\n".join(failures[:20])
