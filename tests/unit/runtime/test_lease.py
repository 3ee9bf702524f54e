"""A lease that all processes of a run look at: valid, expired, renewed, lost; and never read half-written."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.errors import Locked, StoreUnavailable, WorkerError
from kbr.runtime.lease import Lease, shared_lease
from kbr.timing import SYSTEM_CLOCK
from tests.support.clocks import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lease(clock: FakeClock) -> Iterator[Lease]:
    made = Lease.create(clock=clock)
    yield made
    made.close()
    made.remove()
    made.remove()


def test_a_new_lease_has_expired_until_it_is_renewed(lease: Lease, clock: FakeClock) -> None:
    with pytest.raises(StoreUnavailable, match="could not be renewed for 3 s"):
        lease.check(3)
    assert clock.monotonic() == pytest.approx(3, abs=0.2)
    lease.renew(clock.boot_ns() + 10_000_000_000)
    assert lease.remaining_s == 10
    lease.check(0)
    assert clock.monotonic() == pytest.approx(3, abs=0.2)  # at once


def test_a_lease_ends_with_the_last_moment_it_was_renewed_for(lease: Lease, clock: FakeClock) -> None:
    lease.renew(clock.boot_ns() + 10_000_000_000)
    clock.advance(9.9)
    lease.check(0)
    clock.advance(0.1)
    with pytest.raises(StoreUnavailable):
        lease.check(0)
    assert lease.remaining_s == 0


def test_who_is_about_to_take_long_asks_for_as_much(lease: Lease, clock: FakeClock) -> None:
    lease.renew(clock.boot_ns() + 10_000_000_000)
    lease.check(0, left_s=9)
    with pytest.raises(StoreUnavailable):
        lease.check(0, left_s=10)


def test_a_renewal_frees_who_waits_for_it(clock: FakeClock, lease: Lease) -> None:
    waiting = Lease(lease.path)  # by the real clock
    caught: list[BaseException] = []

    def check() -> None:
        try:
            waiting.check(30)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    lease.renew(SYSTEM_CLOCK.boot_ns() + 3_600_000_000_000)
    thread.join(10)
    assert not thread.is_alive()
    assert caught == []
    waiting.close()


def test_a_lost_lease_stays_lost_with_its_first_reason_however_often_it_is_renewed(
    lease: Lease, clock: FakeClock
) -> None:
    lease.renew(clock.boot_ns() + 10_000_000_000)
    lease.lose("backup nightly was taken over by ünïcode " + "x" * 2000)
    lease.lose("another reason")
    lease.renew(clock.boot_ns() + 10_000_000_000)
    other = Lease(lease.path, clock=clock)
    for one in (lease, other):
        with pytest.raises(Locked, match="taken over by ünïcode") as caught:
            one.check()
        assert caught.value.exit_code == 11
        assert one.remaining_s == 0
        assert one.lost.startswith("backup nightly")
    other.close()


def test_who_waits_is_told_that_it_is_lost(lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        lease.lose("gone")

    monkeypatch.setattr(clock, "sleep", sleep)
    with pytest.raises(Locked, match="gone"):
        lease.check(900)


def test_what_is_no_lease_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="can't be read"):
        Lease(tmp_path / "none")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(WorkerError, match="can't be read"):
        Lease(tmp_path / "short")
    (tmp_path / "other").write_bytes(b"x" * 5000)
    with pytest.raises(WorkerError, match="is no lease"):
        Lease(tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(WorkerError, match="can't be read"):
        Lease(tmp_path / "link")


def test_a_closed_lease_touches_no_other_file(lease: Lease) -> None:
    lease.close()
    lease.close()
    with pytest.raises(ValueError, match="file descriptor"):
        lease.check(0)


def _write(path: Path, values: list[int], stop: object) -> None:
    lease = Lease(path)
    while not stop.is_set():  # type: ignore[attr-defined]
        for value in values:
            lease.renew(value)


def test_no_process_reads_what_another_has_written_only_half(lease: Lease) -> None:
    # each byte differs: half of one and half of the other is neither
    values = [0x0102030405060708, 0x7EFDFCFBFAF9F8F7]
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=_write, args=(lease.path, values, stop))
    writer.start()
    reader = shared_lease(lease.path)
    try:
        assert shared_lease(lease.path) is reader
        seen = set()
        for _ in range(2_000_000):
            seen.add(reader._read()[0])
            if len(seen - {0}) == 2:
                break
        for _ in range(20_000):
            seen.add(reader._read()[0])
        assert seen - {0} == set(values)
    finally:
        stop.set()
        writer.join(30)
        shared_lease.cache_clear()
        reader.close()
    assert writer.exitcode == 0
