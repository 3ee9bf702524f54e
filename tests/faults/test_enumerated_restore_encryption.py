"""A fault at every operation of a restore from an encrypted backup: the same as from a plain one (test_enumerated_restore.py).

What is new is that its notes and its offset mapping are encrypted, too, and have to open again. Each operation meets one
fault, the next one the next; with --long each meets all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pytest

from kbr.errors import KbrError
from kbr.format.data_keys import KeySecrets
from kbr.repository.backup_keys import Trust
from kbr.repository.sealing import Sealing
from tests.faults.test_enumerated_restore import Place, _record, _try, new_place
from tests.support.fault_store import Fault, Script

KEY = bytes(range(32))


@pytest.fixture
def place() -> Iterator[Place]:
    with new_place(Sealing(trust=Trust(secrets=KeySecrets(key=KEY)))) as found:
        yield found


@pytest.mark.fault("R1", "the same of an encrypted backup, one fault at each operation", promise=5)
@pytest.mark.timeout(400)
def test_after_any_fault_at_any_operation_the_same_command_gives_an_identical_target_of_an_encrypted_backup(
    place: Place, pytestconfig: pytest.Config
) -> None:
    trace = _record(place, place.backup.parent / "recorded")
    assert any(path.name == "keys.json" for path in place.backup.rglob("*"))
    everything = pytestconfig.getoption("--long")
    turn = cycle(Fault)
    failures = []
    for number, operation in enumerate(trace):
        for fault in Fault if everything else [next(turn)]:
            script = Script(at=operation, fault=fault, whole_tree=True)
            try:
                wrong = _try(place, place.backup.parent / f"{number}-{fault.name}", script)
            except KbrError as error:
                wrong = f"the next run ended with {type(error).__name__}: {error}"
            if wrong:
                failures.append(f"{number} {fault.value}: {operation}: {wrong}")
    assert not failures, f"{len(failures)} of {len(trace)}:\n" + "\n".join(failures[:20])
