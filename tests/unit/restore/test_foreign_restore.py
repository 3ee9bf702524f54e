"""A restore from another tool's backup: exact, goes on after any fault, and never writes where the backup lies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kbr.errors import CorruptSegment, IntegrityError, KbrError, PreflightRefused
from kbr.repository import kbak_reader
from kbr.restore.options import RestoreOptions
from kbr.restore.report import RestoreReport
from kbr.storage.local import LocalStore
from tests.support.fault_store import Fault, Killed, Script, chosen
from tests.support.inline import Bench, mock_bench
from tests.support.kbak import OsoBackup, Row, look, put_files, rows_of

#: What may be asked of a store that holds another tool's backup.
READS = {"get", "read_range", "head", "list"}
BASE_MS = 1_714_564_800_000


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as bench:
        yield bench


ROWS = {
    0: [rows_of(10, 60, timestamp=BASE_MS), rows_of(70, 60, timestamp=BASE_MS + 500, step=3)],
    1: [rows_of(0, 30, timestamp=BASE_MS)],
}


def write(folder: Path, compression: str = "zstd", *, rows: dict[int, list[list[Row]]] | None = None) -> OsoBackup:
    one = OsoBackup(put_files(folder), compression=compression, cluster="east")
    one.topic("orders", 3)
    for number, segments in (rows or ROWS).items():
        one.partition("orders", number, segments)
    one.groups({"readers": {"orders": {0: 20}}})
    one.finish()
    return one


def options(bench: Bench, name: str, **more: object) -> RestoreOptions:
    bench.create_topic(name, 3)
    return replace(RestoreOptions(backup_id="daily", topic_mapping={"orders": name}), **more)


def restore(
    bench: Bench, folder: Path, told: RestoreOptions, *, script: Script | None = None, exit_code: int = 0
) -> RestoreReport:
    script = script or Script()
    before = look(folder)
    try:
        report = bench.restore(LocalStore(str(folder)), told, script)
    finally:
        assert look(folder) == before
        store_operations = {one.name for one in script.trace} - {"send"}
        assert store_operations <= READS, store_operations
    assert report.exit_code == exit_code
    return report


def found(bench: Bench, told: RestoreOptions) -> dict[int, list[tuple[object, ...]]]:
    name = told.topic_mapping["orders"]
    return {number: [one[1:] for one in records] for (_, number), records in bench.read({name: 3}).items()}


def due(start: int = -(2**63), end: int = 2**63) -> dict[int, list[tuple[object, ...]]]:
    return {
        number: [
            (row.timestamp, 1, row.key, row.value, row.headers)
            for rows in ROWS.get(number, [])
            for row in rows
            if start <= row.timestamp <= end
        ]
        for number in range(3)
    }


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_every_record_comes_back_and_the_run_says_what_it_can_not_know(
    bench: Bench, tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 3000)
    write(tmp_path, compression)
    told = options(bench, f"whole-{compression}")
    report = restore(bench, tmp_path, told)
    assert found(bench, told) == due()
    document = report.to_document()
    assert document["offset_map"] is None
    said = "\n".join(document["warnings"])
    for words in ("made by OSO kafka-backup", "null are empty", "can't be noted in the backup", "mapping is not written"):
        assert said.count(words) == 1, words


def test_a_window_is_found_by_the_records_own_times(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 1000)
    # the manifest's first and last timestamps are not the extremes, and must leave nothing out
    start, end = BASE_MS + 900, BASE_MS + 980
    for rows in ROWS.values():
        for segment in rows[:1]:
            assert not any(start <= row.timestamp <= end for row in (segment[0], segment[-1]))
    write(tmp_path)
    told = options(bench, "window", time_window_start_ms=start, time_window_end_ms=end)
    report = restore(bench, tmp_path, told)
    assert found(bench, told) == due(start, end)
    assert sum(len(one) for one in found(bench, told).values()) == report.to_document()["totals"]["records"] > 5
    assert not report.counts.exact
    assert report.counts.records == 150
    assert restore(bench, tmp_path, told).to_document()["totals"]["records"] == 0


def test_the_same_command_again_sends_nothing_twice(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path)
    told = options(bench, "again")
    restore(bench, tmp_path, told)
    again = restore(bench, tmp_path, told).to_document()
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, 150)
    assert found(bench, told) == due()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", list(Fault))
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_target(
    bench: Bench, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 3000)
    write(tmp_path)
    script = Script()
    restore(bench, tmp_path, options(bench, f"trace-{fault.name}"), script=script)
    sends = [one for one in script.trace if one.name == "send"]
    assert len(sends) > 3
    wrong = []
    for number, operation in chosen(script.trace, fault, everything=pytestconfig.getoption("--long"), every=5):
        told = options(bench, f"fault-{fault.name}-{number}")
        before = look(tmp_path)
        try:
            bench.restore(LocalStore(str(tmp_path)), told, Script(at=operation, fault=fault))
        except (Killed, KbrError):
            pass  # what the next run makes of it is the question
        assert look(tmp_path) == before
        restore(bench, tmp_path, told)
        if found(bench, told) != due():
            wrong.append(str(operation))
    assert not wrong


def test_a_record_of_another_in_the_target_is_refused(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path)
    told = options(bench, "others")
    restore(bench, tmp_path, told)
    other = tmp_path / "other"
    write(other, rows={0: [rows_of(10, 60, timestamp=BASE_MS + 1)]})
    with pytest.raises(PreflightRefused, match="not the backup's record|goes on to offset"):
        bench.restore(LocalStore(str(other)), told, Script())


def test_damage_is_an_error_and_nothing_wrong_is_sent(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path)
    path = next((tmp_path / "daily/topics/orders/partition=0").glob("*70.bin.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    told = options(bench, "damaged")
    report = restore(bench, tmp_path, told, exit_code=3)
    ((source, error),) = report.failures.items()
    assert isinstance(error, CorruptSegment)
    assert source.partition == 0
    whole, there = due(), found(bench, told)
    assert there[1] == whole[1]
    assert there[0] == whole[0][: len(there[0])]
    path.unlink()
    with pytest.raises(IntegrityError, match="can't be read"):
        restore(bench, tmp_path, told)
    shutil.rmtree(tmp_path / "daily/topics/orders/partition=1")
    report = restore(bench, tmp_path, options(bench, "partly", allow_incomplete=True), exit_code=3)
    assert report.to_document()["totals"]["records"] == 60


def test_timestamp_0_is_named_when_it_is_sent(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, rows={0: [[Row(0, 5, b"k", b"v"), Row(1, 0, b"k", b"v")]]})
    told = options(bench, "zero")
    report = restore(bench, tmp_path, told, exit_code=3)
    (error,) = report.failures.values()
    assert "timestamp 0" in str(error)
    assert error.hint is not None and "zero_timestamp_as" in error.hint
    told = options(bench, "zero-as-1", zero_timestamp_as=1)
    restore(bench, tmp_path, told)
    assert [one[0] for one in found(bench, told)[0]] == [5, 1]


def test_a_record_larger_than_the_clients_share_of_memory_is_restored(bench: Bench, tmp_path: Path) -> None:
    # the manifest does not tell how large the largest record is
    large = Row(1, BASE_MS, b"k", b"x" * 20_000_000)
    write(tmp_path, rows={0: [[Row(0, BASE_MS, None, None), large, Row(2, BASE_MS, None, b"y")]]})
    told = options(bench, "large", memory_limit=180 << 20)
    restore(bench, tmp_path, told)
    assert [len(one[3] or b"") for one in found(bench, told)[0]] == [0, 20_000_000, 1]


@pytest.mark.parametrize("partitioner", ["murmur2", "consistent", "round-robin"])
def test_its_records_are_spread_anew_and_a_second_run_sends_nothing(
    bench: Bench, tmp_path: Path, partitioner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbak_reader, "BLOCK_BYTES", 1000)
    write(tmp_path)
    name = f"spread-{partitioner}"
    bench.create_topic(name, 2)
    told = RestoreOptions(
        backup_id="daily", topic_mapping={"orders": name}, partitioner=partitioner, target_partitions={"orders": 2}
    )
    restore(bench, tmp_path, told)
    spread = {number: [one[1:] for one in records] for (_, number), records in bench.read({name: 2}).items()}
    source = [record for number in range(3) for record in due()[number]]
    assert sorted(map(repr, (one for some in spread.values() for one in some))) == sorted(map(repr, source))
    for some in spread.values():  # each in the order of the source's partitions
        left = iter(map(repr, source))
        assert all(repr(one) in left for one in some)
        assert some
    assert restore(bench, tmp_path, told).to_document()["totals"]["records"] == 0


def test_partitions_of_it_that_meet_come_one_behind_the_other(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path)
    bench.create_topic("met", 3)
    told = RestoreOptions(
        backup_id="daily", topic_mapping={"orders": "met"}, partition_mapping={"orders": {1: 0}}, merge=True
    )
    restore(bench, tmp_path, told)
    met = {number: [one[1:] for one in records] for (_, number), records in bench.read({"met": 3}).items()}
    assert met == {0: due()[0] + due()[1], 1: [], 2: due()[2]}
    assert restore(bench, tmp_path, told).to_document()["totals"]["records"] == 0
