"""Every fault at operations of a plain backup that is signed: the same as of one that is not (test_enumerated.py).

What is other: segments that no manifest lists prove nothing, so they are put aside and read again. And somebody may have
put them there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbr.errors import AccessDenied
from kbr.format import crypto
from kbr.format.data_keys import KeySecrets
from kbr.format.segment import SegmentIdentity
from kbr.maintain.verify import verify
from kbr.model import Compression, RunStatus
from kbr.repository.backup_keys import Trust
from kbr.repository.catalog import Catalog
from kbr.repository.sealed_store import seal_over
from kbr.repository.sealing import Sealing
from kbr.restore.options import RestoreOptions
from kbr.storage.local import LocalStore
from tests.faults.test_enumerated import (
    TOPICS,
    Scenario,
    Shelf,
    _copy,
    _kill,
    _options,
    _produce,
    _record,
    _truth,
    _try,
    place,
)
from tests.support.archive import FolderObjects, Objects
from tests.support.backups import block_of, write_segment
from tests.support.checker import check_backup
from tests.support.fault_store import Fault, Script, chosen
from tests.support.inline import Bench, mock_bench

__all__ = ["place"]

SIGNER = hashlib.sha256(b"signer").digest()
TRUST = Trust(signing_key=SIGNER, public_keys=(crypto.signer_of(SIGNER),))
SEALED = Trust(signing_key=SIGNER, public_keys=(crypto.signer_of(SIGNER),), secrets=KeySecrets(key=bytes(range(32))))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        found.layer = Sealing(trust=TRUST)
        yield found


def _killed(bench: Bench, folder: Path, prefix: str) -> Scenario:
    """With segments that no manifest lists yet: see _after_a_kill() of test_enumerated.py."""
    options = _options(prefix)
    _produce(bench, prefix)
    _kill(bench, folder, options)
    return Scenario(options, folder, _truth(bench, options), _record(bench, options, folder))


@pytest.fixture(scope="module")
def scenarios(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """A backup that is begun, and one that goes on after a kill."""
    folder = tmp_path_factory.mktemp("signed")
    first = _options("signed")
    _produce(bench, "signed")
    killed = _killed(bench, folder / "killed", "signed-killed")
    assert _unlisted(folder / "killed")
    return {
        "first": Scenario(first, None, _truth(bench, first), _record(bench, first, None)),
        "after a kill": killed,
    }


def _listed(objects: Objects) -> set[str]:
    manifest = json.loads(objects.get("b/manifest.json") or b"")
    return {one["key"] for topic in manifest["topics"] for part in topic["partitions"] for one in part["segments"]}


def _unlisted(folder: Path, objects: Objects | None = None) -> dict[str, bytes]:
    """Segments in their places that the manifest does not list.

    Args:
        objects: the folder's, opened; without, they are plain.
    """
    listed = _listed(objects or FolderObjects(folder))
    there = {path.relative_to(folder / "b").as_posix(): path for path in (folder / "b" / "topics").rglob("segment-*.zst")}
    return {key: path.read_bytes() for key, path in there.items() if key not in listed}


def _aside(folder: Path) -> dict[str, bytes]:
    """What was put aside, by where it lay."""
    return {path.relative_to(folder / "b/unlisted/1").as_posix(): path.read_bytes() for path in (folder / "b/unlisted").rglob("*.zst")}


@pytest.mark.fault("P1", "all processes killed before, in and after each storage operation of a signed backup", promise=1)
@pytest.mark.fault("S2", "of each storage operation of a signed backup", promise=1)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("name", ["first", "after a kill"])
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_signed_backup(
    bench: Bench, scenarios: dict[str, Scenario], place: Path, pytestconfig: pytest.Config, name: str, fault: Fault
) -> None:
    scenario, everything = scenarios[name], pytestconfig.getoption("--long")
    operations = chosen(scenario.trace, fault, everything=everything, shift=2, every=5)
    assert operations
    failures = []
    for number, operation in operations:
        folder = _copy(scenario.before, place / str(number))
        wrong = _try(bench, scenario.options, scenario.truth, Shelf.in_folder(folder), Script(at=operation, fault=fault))
        shutil.rmtree(folder, ignore_errors=True)
        if wrong is not None:
            failures.append(f"{number} {fault.value}: {operation}: {wrong}")
    assert not failures, f"{len(failures)} of {len(scenario.trace)}:\n" + "\n".join(failures[:20])


def test_what_a_killed_run_has_not_listed_is_put_aside_whole_and_told_and_its_records_are_read_again(
    bench: Bench, scenarios: dict[str, Scenario], tmp_path: Path
) -> None:
    scenario = scenarios["after a kill"]
    folder = _copy(scenario.before, tmp_path)
    left = _unlisted(folder)
    report = bench.back_up(LocalStore(str(folder)), scenario.options, Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert check_backup(scenario.truth, FolderObjects(folder), "b").anomalies == []
    assert _aside(folder) == left
    (told,) = [one for one in report.warnings if "aside" in one]
    assert f"put {len(left)} segment" in told
    store = seal_over(LocalStore(str(folder)), TRUST)
    verified = verify(store, Catalog(store).load("b"))
    assert verified.errors == ()
    assert len([note for note in verified.notes if note.startswith("b/unlisted/1/topics/") and "put it aside" in note]) == len(left)


class _NoDelete(LocalStore):
    """Its user may write, and delete nothing of a backup."""

    def delete(self, key: str) -> None:
        if key.startswith("b/topics/"):
            raise AccessDenied(f"delete of {key}: denied", hint="ask for the right")
        super().delete(key)


def test_without_the_right_to_delete_new_segments_take_the_places_of_what_was_copied_aside(
    bench: Bench, scenarios: dict[str, Scenario], tmp_path: Path
) -> None:
    scenario = scenarios["after a kill"]
    folder = _copy(scenario.before, tmp_path)
    left = _unlisted(folder)
    key = min(left)
    (folder / "b" / key).write_bytes(_forged(key))
    left[key] = _forged(key)
    report = bench.back_up(_NoDelete(str(folder)), scenario.options, Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert check_backup(scenario.truth, FolderObjects(folder), "b").anomalies == []
    assert _aside(folder) == left
    assert any("could not be removed from their places" in one for one in report.warnings)


def _forged(key: str) -> bytes:
    """A segment for that place with other records, which agrees with itself and its name."""
    with tempfile.TemporaryDirectory() as name:
        store = LocalStore(name)
        _topics, topic, partition, file = key.split("/")
        sequence = int(file[len("segment-") : -len(".zst")])
        identity = SegmentIdentity(
            backup_id="b", topic=topic, topic_id="", partition=int(partition.removeprefix("partition=")), sequence=sequence,
            compression=Compression.ZSTD, writer="0" * 32, created_at_ms=1_714_564_800_000,
        )  # fmt: skip
        write_segment(store, identity, [block_of(sequence, 5)], sequence + 5)  # type: ignore[arg-type]
        return (Path(name) / "b" / key).read_bytes()


@pytest.mark.parametrize("layer", [None, Sealing(trust=TRUST)], ids=["unsigned", "signed"])
def test_a_segment_that_somebody_has_put_where_a_killed_run_ended_is_taken_over_by_who_signs_nothing_only(
    bench: Bench, scenarios: dict[str, Scenario], tmp_path: Path, layer: Any
) -> None:
    """The one without keys shows that the attack is one."""
    scenario = scenarios["after a kill"]
    folder = _copy(scenario.before, tmp_path)
    key, _data = min(_unlisted(folder).items())
    forged = _forged(key)
    (folder / "b" / key).write_bytes(forged)
    before, bench.layer = bench.layer, layer
    try:
        bench.back_up(LocalStore(str(folder)), scenario.options, Script())
    finally:
        bench.layer = before
    stored = (folder / "b" / key).read_bytes()
    assert (stored == forged) == (layer is None)
    if layer is not None:
        assert check_backup(scenario.truth, FolderObjects(folder), "b").anomalies == []
        assert _aside(folder)[key] == forged


class _Quick(LocalStore):
    """Somebody puts an object where one is about to be committed, once for each of some keys."""

    def __init__(self, folder: str, forge: Callable[[str], bytes | None]) -> None:
        super().__init__(folder)
        self._forge = forge
        self.planted: dict[str, bytes] = {}

    def open_upload(self, key: str, **how: Any) -> Any:
        upload = super().open_upload(key, **how)
        forged = None if key in self.planted else self._forge(key)
        if forged is not None:
            self.planted[key] = forged
            self.put(key, forged)
        return upload


class _QuickNoDelete(_NoDelete, _Quick):
    """Both."""


@pytest.mark.parametrize("kind", [_Quick, _QuickNoDelete])
def test_a_segment_that_somebody_puts_in_a_running_backups_way_is_not_taken_over_either(
    bench: Bench, scenarios: dict[str, Scenario], tmp_path: Path, kind: type[_Quick]
) -> None:
    scenario = scenarios["first"]
    store = kind(
        str(tmp_path / "store"),
        lambda key: _forged(key.removeprefix("b/")) if f"{0:020d}.zst" in key else None,
    )
    report = bench.back_up(store, scenario.options, Script())
    assert store.planted
    if report.manifest.status is not RunStatus.COMPLETE:
        report = bench.back_up(store, scenario.options, Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert check_backup(scenario.truth, FolderObjects(tmp_path / "store"), "b").anomalies == []
    assert {f"b/{key}": data for key, data in _aside(tmp_path / "store").items()} == store.planted


# -- restores of a backup whose run was killed --------------------------------------------


@pytest.mark.parametrize("trust", [Trust(), TRUST], ids=["unsigned", "signed"])
def test_a_restore_of_a_killed_run_has_what_is_signed_only_where_that_is_asked_for_and_says_so_once(
    bench: Bench, scenarios: dict[str, Scenario], tmp_path: Path, trust: Trust
) -> None:
    scenario = scenarios["after a kill"]
    folder = _copy(scenario.before, tmp_path)
    manifest = json.loads((folder / "b" / "manifest.json").read_bytes())
    assert manifest["status"] == "running"
    listed = sum(part["record_count"] for topic in manifest["topics"] for part in topic["partitions"])
    unlisted = len(_unlisted(folder))
    target = f"back-{'signed' if trust.public_keys else 'any'}"
    names = {topic: f"{target}.{topic}" for topic in scenario.options.include}
    for topic, name in names.items():
        bench.create_topic(name, TOPICS[topic.partition(".")[2]])
    before, bench.layer = bench.layer, Sealing(trust=trust)
    try:
        report = bench.restore(LocalStore(str(folder)), RestoreOptions(backup_id="b", topic_mapping=names), Script())
    finally:
        bench.layer = before
    found = sum(map(len, bench.read({name: TOPICS[topic.partition(".")[2]] for topic, name in names.items()}).values()))
    notes = [one for one in report.warnings if "only what is signed is used" in one]
    if trust.public_keys:
        assert found == listed
        assert len(notes) == 1
        assert f"(segments: {unlisted}, " in notes[0]
    else:
        assert found > listed
        assert notes == []


def test_segments_of_an_encrypted_backup_prove_themselves_and_are_taken_over(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before, bench.layer = bench.layer, Sealing(trust=SEALED)
    try:
        folder = tmp_path_factory.mktemp("sealed") / "killed"
        options = _options("sealed-and-signed")
        _produce(bench, "sealed-and-signed")
        _kill(bench, folder, options)
        segments = {path: path.read_bytes() for path in (folder / "b" / "topics").rglob("segment-*.zst")}
        assert bench.back_up(LocalStore(str(folder)), options, Script()).manifest.status is RunStatus.COMPLETE
        assert {path: path.read_bytes() for path in segments} == segments
        assert not (folder / "b" / "unlisted").exists()
    finally:
        bench.layer = before
