"""One look at a lock: whose run is alive, as far as that can be told without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from kbr.errors import AccessDenied
from kbr.repository.layout import lock_key
from kbr.repository.lock_claim import LockClaim, LockTimes
from kbr.repository.lock_look import is_lock_held
from kbr.repository.lock_process import LockProcess, this_process
from kbr.storage.base import ObjectInfo
from kbr.storage.memory import MemoryStore
from tests.support.clocks import FakeClock

SOMEBODY = LockProcess(host="other", boot_id="b", pid=7, pid_namespace="n", started="1", user="ann")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock=clock)


def _claim(store: MemoryStore, clock: FakeClock, process: LockProcess = SOMEBODY) -> LockClaim:
    claim = LockClaim(store, "nightly", verb="backup", times=LockTimes(life_s=60), clock=clock, process=process)
    assert claim.attempt() is None
    return claim


def test_a_lock_is_held_until_it_is_released_or_no_heartbeat_came_for_two_lives(
    store: MemoryStore, clock: FakeClock
) -> None:
    assert is_lock_held(store, "nightly", clock=clock) is False
    claim = _claim(store, clock)
    assert is_lock_held(store, "nightly", clock=clock) is True
    clock.advance(25)
    assert claim.renew()
    clock.advance(119)
    assert is_lock_held(store, "nightly", clock=clock) is True
    clock.advance(2)
    assert is_lock_held(store, "nightly", clock=clock) is False
    assert is_lock_held(store, "another", clock=clock) is False


def test_a_released_lock_is_nobodys(store: MemoryStore, clock: FakeClock) -> None:
    claim = _claim(store, clock)
    claim.release()
    assert is_lock_held(store, "nightly", clock=clock) is False


def test_a_process_of_this_machine_that_is_gone_holds_nothing_at_once(store: MemoryStore, clock: FakeClock) -> None:
    own = this_process()
    _claim(store, clock, replace(own, started="1"))
    assert is_lock_held(store, "nightly", clock=clock) is False
    _claim(store, clock, own)
    assert is_lock_held(store, "nightly", clock=clock) is True


def test_a_lock_that_can_not_be_read_counts_while_it_is_young(store: MemoryStore, clock: FakeClock) -> None:
    store.put(lock_key("nightly", f"{clock.now_ms():013d}-{'0' * 16}"), b"of a newer kbr")
    assert is_lock_held(store, "nightly", clock=clock) is True
    clock.advance(121)
    assert is_lock_held(store, "nightly", clock=clock) is False


def test_old_locks_are_not_read(clock: FakeClock) -> None:
    class Unread(MemoryStore):
        def get(self, key: str, *, max_bytes: int) -> bytes:
            raise AssertionError(f"{key} was read")

    store = Unread(clock=clock)
    for number in range(3):
        store.put(lock_key("nightly", f"{clock.now_ms() + number:013d}-{'0' * 16}"), b"x")
    clock.advance(2 * 3600 + 1)
    assert is_lock_held(store, "nightly", clock=clock) is False


def test_who_may_not_look_says_nothing(clock: FakeClock) -> None:
    class Closed(MemoryStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise AccessDenied("no right to list")

    assert is_lock_held(Closed(clock=clock), "nightly", clock=clock) is None
