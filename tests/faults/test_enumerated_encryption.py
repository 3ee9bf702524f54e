"""Every fault at operations of an encrypted backup: the same as of a plain one (test_enumerated.py), read past kbr with the key.

What is new is what must not be lost or made twice: the keys, and that the manifest and what it lists open with them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.format.data_keys import KeySecrets
from kbr.format.open_part import load_open_part
from kbr.repository.backup_keys import Trust
from kbr.repository.sealing import Sealing
from kbr.storage.local import LocalStore
from tests.faults.test_enumerated import Scenario, Shelf, _copy, _options, _produce, _record, _truth, _try, place
from tests.support.archive import FolderObjects
from tests.support.fault_store import Fault, Script, chosen
from tests.support.inline import Bench, mock_bench
from tests.support.sealed_reader import OpenedObjects, open_part

__all__ = ["place"]

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        found.layer = Sealing(trust=Trust(secrets=KeySecrets(key=KEY)))
        yield found


@pytest.fixture(scope="module")
def scenarios(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """A backup that is begun, and one that goes on with what is new and has lost its keys.json."""
    folder = tmp_path_factory.mktemp("sealed") / "grown"
    first, grown = _options("sealed"), _options("sealed-grown")
    _produce(bench, "sealed")
    _produce(bench, "sealed-grown")
    bench.back_up(LocalStore(str(folder)), grown, Script())
    (folder / "b" / "keys.json").unlink()
    _produce(bench, "sealed-grown", make=False, count=60)
    return {
        "first": Scenario(first, None, _truth(bench, first), _record(bench, first, None)),
        "keys lost": Scenario(grown, folder, _truth(bench, grown), _record(bench, grown, folder)),
    }


@pytest.mark.fault("P1", "all processes killed before, in and after each storage operation of an encrypted backup", promise=1)
@pytest.mark.fault("S2", "of each storage operation of an encrypted backup", promise=1)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("name", ["first", "keys lost"])
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_encrypted_backup(
    bench: Bench, scenarios: dict[str, Scenario], place: Path, pytestconfig: pytest.Config, name: str, fault: Fault
) -> None:
    scenario, everything = scenarios[name], pytestconfig.getoption("--long")
    operations = chosen(scenario.trace, fault, everything=everything, shift=3, every=5)
    assert operations
    failures = []
    for number, operation in operations:
        folder = _copy(scenario.before, place / str(number))
        shelf = Shelf(LocalStore(str(folder)), OpenedObjects(FolderObjects(folder), KEY))
        wrong = _try(bench, scenario.options, scenario.truth, shelf, Script(at=operation, fault=fault))
        if wrong is None:
            wrong = _unlike(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if wrong is not None:
            failures.append(f"{number} {fault.value}: {operation}: {wrong}")
    assert not failures, f"{len(failures)} of {len(scenario.trace)}:\n" + "\n".join(failures[:20])


def _unlike(folder: Path) -> str | None:
    """What of the open part is not as what lies there."""
    manifest, keys = ((folder / "b" / name).read_bytes() for name in ("manifest.json", "keys.json"))
    part = load_open_part(manifest[64 : 64 + int.from_bytes(manifest[24:28], "little")], name="m", backup_id="b")
    there = {
        path.relative_to(folder / "b").as_posix(): path.stat().st_size for path in (folder / "b" / "topics").rglob("segment-*")
    }
    if part.segments != there:
        return f"the open part lists {len(part.segments)} segments, and {len(there)} are there"
    if part.keys != keys or open_part(manifest)["keys"] != keys:
        return "the manifest's copy of the keys is another"
    return None if json.loads(keys)["backup_id"] == "b" else "the keys are another backup's"
