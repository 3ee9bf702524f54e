"""Runs that are killed, stopped past their lock's life, or started at the same moment, as processes on real stores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kbr.errors import Locked
from kbr.repository.lock import BackupLock, LockTimes
from kbr.runtime.lease import Lease
from kbr.storage import ObjectStore, StorageOptions, open_store
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import S3Place

LIFE_S = 3.0
TIMES = LockTimes(life_s=LIFE_S)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, object]]:
    """A storage URL, and the rest of its options."""
    if request.param == "folder":
        return str(tmp_path), {}
    s3: S3Place = request.getfixturevalue("s3")
    return f"s3://{s3.make_bucket()}/p", {
        "endpoint_url": s3.endpoint_url,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "region": "us-east-1",
        "path_style": True,
    }


@pytest.fixture
def store(place: tuple[str, dict[str, object]]) -> Iterator[ObjectStore]:
    opened = open_store(StorageOptions(url=place[0], **place[1]))  # type: ignore[arg-type]
    yield opened
    opened.close()


Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(place: tuple[str, dict[str, object]]) -> Iterator[Start]:
    """Starts a run (tests/support/lock_holder.py)."""
    runs: list[subprocess.Popen[str]] = []

    def make() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.lock_holder", place[0], json.dumps(place[1]), "nightly", str(LIFE_S)]
        runs.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()
        run.communicate()


@pytest.fixture
def lock(store: ObjectStore) -> Iterator[BackupLock]:
    """The test's own run."""
    lease = Lease.create()
    with BackupLock(store, "nightly", verb="backup", lease=lease, times=TIMES) as made:
        yield made
    lease.close()
    lease.remove()


def _line(run: subprocess.Popen[str]) -> str:
    assert run.stdout is not None
    return run.stdout.readline().strip()


def _written(store: ObjectStore) -> int:
    return len(list(store.list("nightly/written/")))


def _end(run: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = run.communicate(timeout=60)
    return run.returncode, output


@pytest.mark.fault("P1", "the lock of a killed run", promise=1)
def test_a_run_that_was_killed_leaves_the_backup_to_the_next_at_once(start: Start, lock: BackupLock) -> None:
    run = start()
    assert _line(run) == "held"
    with pytest.raises(Locked, match=rf"\(pid {run.pid}, user "):
        lock.acquire()
    run.kill()
    run.wait()
    begun = time.monotonic()
    lock.acquire()
    assert time.monotonic() - begun < LIFE_S / 2
    lock.check(0)


@pytest.mark.fault("P3", "the lock alone, the successor there or gone", promise=1)
@pytest.mark.parametrize("successor", ["holds", "released"])
def test_a_run_that_was_stopped_past_its_lock_s_life_ends_with_11_and_writes_nothing(
    start: Start, store: ObjectStore, lock: BackupLock, successor: str
) -> None:
    run = start()
    assert _line(run) == "held"
    wait_until(lambda: _written(store) > 2, deadline_s=20, what="something written")
    run.send_signal(signal.SIGSTOP)
    lock.acquire(wait_s=60)
    written = _written(store)
    if successor == "released":
        lock.release()
    run.send_signal(signal.SIGCONT)
    code, output = _end(run)
    assert code == 11
    assert "it was taken over by kbr backup on" in output
    # what was on its way when it was stopped may land
    assert _written(store) - written <= 1
    if successor == "holds":
        lock.check(0)


def test_a_run_that_was_stopped_and_that_nobody_followed_goes_on(start: Start, store: ObjectStore) -> None:
    run = start()
    assert _line(run) == "held"
    run.send_signal(signal.SIGSTOP)
    time.sleep(LIFE_S * 1.5)  # the fault itself
    run.send_signal(signal.SIGCONT)
    before = _written(store)
    wait_until(lambda: _written(store) > before + 3, deadline_s=30, what="something written")
    assert _end(run) == (0, "")


@pytest.mark.fault("P4", "the lock alone, on a folder and on S3", promise=1)
def test_of_runs_started_at_the_same_moment_one_goes_on(start: Start) -> None:
    runs = [start() for _ in range(4)]
    lines = [_line(run) for run in runs]
    assert lines.count("held") == 1
    assert all("nightly is being written by kbr backup on" in line for line in lines if line != "held")
    ends = [_end(run)[0] for run in runs]
    assert sorted(ends) == [0, 11, 11, 11]
