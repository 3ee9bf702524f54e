"""Segments that no manifest lists yet, and that nobody can read: no partition stops at one, and no byte of it is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbr.format.data_keys import KeySecrets
from kbr.format.segment_layout import SIGNATURE
from kbr.model import RunStatus
from kbr.repository.backup_keys import Trust
from kbr.repository.sealing import Sealing
from kbr.storage.local import LocalStore
from tests.faults.test_enumerated import Scenario, _copy
from tests.faults.test_enumerated_signed import _aside, _killed, _unlisted
from tests.support.archive import FolderObjects, Objects
from tests.support.checker import check_backup
from tests.support.fault_store import Script
from tests.support.inline import Bench, mock_bench
from tests.support.sealed_reader import OpenedObjects

KEY = bytes(range(32))
LAYERS = {"plain": None, "encrypted": Sealing(trust=Trust(secrets=KeySecrets(key=KEY)))}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _data: b"",
    "its end alone": lambda data: data[-1:],  # as SeaweedFS leaves of an upload that was ended
    "its beginning": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "something else": lambda _data: b"not a segment" * 30,
}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with mock_bench() as found:
        yield found


@pytest.fixture(scope="module", params=list(LAYERS))
def kind(request: pytest.FixtureRequest, bench: Bench) -> str:
    bench.layer = LAYERS[request.param]
    return str(request.param)


@pytest.fixture(scope="module")
def killed(bench: Bench, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return _killed(bench, tmp_path_factory.mktemp("leftovers") / kind, f"leftovers-{kind}")


def _objects(folder: Path, kind: str) -> Objects:
    plain = FolderObjects(folder)
    return plain if kind == "plain" else OpenedObjects(plain, KEY)


@pytest.mark.fault("S3", "what a killed run has left in a segment's place is damaged", promise=1)
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_is_damaged_and_in_the_way_is_put_aside_and_its_records_are_read_again(
    bench: Bench, kind: str, killed: Scenario, tmp_path: Path, damage: str
) -> None:
    folder = _copy(killed.before, tmp_path)
    key = min(_unlisted(folder, _objects(folder, kind)))
    place = folder / "b" / key
    left = DAMAGE[damage](place.read_bytes())
    place.write_bytes(left)
    report = bench.back_up(LocalStore(str(folder)), killed.options, Script())
    assert report.manifest.status is RunStatus.COMPLETE
    assert check_backup(killed.truth, _objects(folder, kind), "b").anomalies == []
    assert _aside(folder) == {key: left}
    (told,) = [one for one in report.warnings if "aside" in one]
    assert told.startswith("put 1 segment aside that no manifest lists, as nobody can read it (")
    assert f"b/unlisted/1/{key}" in told


def test_one_of_a_newer_version_is_left_in_its_place(bench: Bench, kind: str, killed: Scenario, tmp_path: Path) -> None:
    """A newer kbr reads it: it is no damage."""
    folder = _copy(killed.before, tmp_path)
    key = min(_unlisted(folder, _objects(folder, kind)))
    place = folder / "b" / key
    data = place.read_bytes()
    signature = b"KBROBJv1" if kind == "encrypted" else SIGNATURE
    newer = data.replace(signature, signature[:-1] + b"2")
    assert newer != data
    place.write_bytes(newer)
    report = bench.back_up(LocalStore(str(folder)), killed.options, Script())
    assert report.exit_code == 3
    assert place.read_bytes() == newer
    assert not (folder / "b/unlisted").exists()
    assert any("was left alone" in one and key in one for one in report.warnings)
