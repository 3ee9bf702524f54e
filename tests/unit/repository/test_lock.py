"""The lock with its heartbeats and its lease, by real threads and a real clock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbr.errors import Locked, StoreUnavailable
from kbr.repository.catalog import Catalog
from kbr.repository.layout import backup_id_of, lock_key
from kbr.repository.lock import BackupLock, LockTimes, lock_storage
from kbr.repository.lock_claim import LockClaim
from kbr.repository.lock_file import MAX_LOCK_BYTES, parse_lock
from kbr.runtime.lease import Lease
from kbr.storage import StorageOptions
from kbr.storage.local import LocalStore
from kbr.storage.memory import MemoryStore
from tests.support.backups import RecordingStore
from tests.support.waiting import wait_until

TIMES = LockTimes(life_s=1.5, outage_s=5)


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def lease() -> Iterator[Lease]:
    made = Lease.create()
    yield made
    made.close()
    made.remove()


@pytest.fixture
def new_lock(store: RecordingStore, lease: Lease) -> Iterator[Callable[[], BackupLock]]:
    made: list[BackupLock] = []
    leases: list[Lease] = []

    def make() -> BackupLock:
        leases.append(Lease.create() if made else lease)
        made.append(BackupLock(store, "nightly", verb="backup", lease=leases[-1], times=TIMES))
        return made[-1]

    yield make
    store.fail.clear()
    for lock in made:
        lock.release()
    for one in leases[1:]:
        one.close()
        one.remove()
    assert not [thread for thread in threading.enumerate() if thread.name == "lock-heartbeat"]


def beats(store: MemoryStore) -> int:
    (info,) = MemoryStore.list(store, "nightly/locks/")
    lock = parse_lock(MemoryStore.get(store, info.key, max_bytes=MAX_LOCK_BYTES))
    assert lock is not None
    return lock.beat


def test_a_held_lock_beats_and_keeps_the_lease_valid(
    store: RecordingStore, lease: Lease, new_lock: Callable[[], BackupLock]
) -> None:
    with new_lock() as lock:
        with pytest.raises(StoreUnavailable):
            lease.check(0)
        lock.acquire()
        lock.check(0)
        begun = beats(store)
        wait_until(lambda: beats(store) > begun + 6, deadline_s=20, what="heartbeats over more than a lease")
        lock.check(0)
        assert lease.remaining_s > 0
    with pytest.raises(Locked, match="given backup nightly up"):
        lease.check(0)
    lock.release()


def test_the_second_run_is_refused_and_gets_the_backup_when_the_first_has_released_it(
    store: RecordingStore, new_lock: Callable[[], BackupLock]
) -> None:
    first, second, third = new_lock(), new_lock(), new_lock()
    first.acquire()
    with pytest.raises(Locked, match="being written by kbr backup on"):
        second.acquire()
    second.release()  # of nothing
    first.check(0)
    waiting = threading.Thread(target=third.acquire, args=(30,))
    waiting.start()
    first.release()
    waiting.join(20)
    assert not waiting.is_alive()
    third.check(0)


def test_a_lock_is_acquired_once_and_not_there_for_who_never_did(new_lock: Callable[[], BackupLock]) -> None:
    lock = new_lock()
    lock.acquire()
    with pytest.raises(ValueError, match="once"):
        lock.acquire()
    other = new_lock()
    with pytest.raises(Locked, match="does not hold"):
        other.check(0)


def test_after_an_outage_longer_than_the_lease_the_run_goes_on(
    store: RecordingStore, lease: Lease, new_lock: Callable[[], BackupLock], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kbr.lock")
    lock = new_lock()
    lock.acquire()
    for operation in ("put", "list", "get"):
        store.fail[operation] = StoreUnavailable("the store is down")
    wait_until(lambda: lease.remaining_s == 0, deadline_s=20, what="the end of the lease")
    with pytest.raises(StoreUnavailable, match="could not be renewed"):
        lock.check(0)
    store.fail.clear()
    lock.check(20)
    assert [record.message for record in caplog.records] == [
        "the lock on backup nightly: no heartbeat: the store is down",
        "the lock on backup nightly: it is kept again",
    ]


def test_an_outage_at_the_start_is_waited_for_and_has_an_end(
    store: RecordingStore, new_lock: Callable[[], BackupLock]
) -> None:
    store.fail["put"] = StoreUnavailable("the store is down")
    lock = new_lock()
    with pytest.raises(StoreUnavailable, match="down"):
        lock.acquire()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    wait_until(lambda: store.calls.count(("put", store.calls[-1][1])), deadline_s=10, what="a try")
    store.fail.clear()
    thread.join(20)
    lock.check(0)


def test_a_run_that_lost_the_backup_says_to_whom_and_stops_beating(
    store: RecordingStore, lease: Lease, new_lock: Callable[[], BackupLock]
) -> None:
    lock = new_lock()
    lock.acquire()
    store.fail["put"] = StoreUnavailable("cut off")  # for this run only
    wait_until(lambda: lease.remaining_s == 0, deadline_s=20, what="the end of the lease")
    # somebody who knows nothing of it
    (info,) = MemoryStore.list(store, "nightly/locks/")
    data = MemoryStore.get(store, info.key, max_bytes=MAX_LOCK_BYTES).replace(b"backup", b"prune")
    MemoryStore.put(store, lock_key("nightly", "0000000000001-0123456789abcdef"), data.replace(b"held", b"released", 1))
    store.fail.clear()
    with pytest.raises(Locked, match="it was taken over by kbr prune on") as caught:
        lock.check(20)
    assert caught.value.exit_code == 11
    wait_until(
        lambda: "lock-heartbeat" not in [thread.name for thread in threading.enumerate()],
        deadline_s=10,
        what="the end of the heartbeats",
    )
    with pytest.raises(Locked, match="taken over"):
        lock.check(0)


def test_a_heartbeat_that_crashes_is_a_lost_lock_and_not_silence(
    lease: Lease, new_lock: Callable[[], BackupLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_self: LockClaim) -> bool:
        raise RuntimeError("a bug")

    lock = new_lock()
    lock.acquire()
    monkeypatch.setattr(LockClaim, "renew", crash)
    wait_until(lambda: lease.lost, deadline_s=10, what="the crash")
    with pytest.raises(Locked, match=r"not kept any more: RuntimeError: a bug"):
        lock.check()


def test_a_lock_that_can_not_be_released_is_told_and_raises_nothing(
    store: RecordingStore, new_lock: Callable[[], BackupLock], caplog: pytest.LogCaptureFixture
) -> None:
    lock = new_lock()
    lock.acquire()
    store.fail["put"] = StoreUnavailable("down")
    lock.release()
    assert "could not be released" in caplog.text


def test_locks_alone_are_no_backup(store: RecordingStore, new_lock: Callable[[], BackupLock]) -> None:
    lock = new_lock()
    lock.acquire()
    catalog = Catalog(store)
    assert catalog.backup_ids() == []
    assert not catalog.has_objects("nightly")
    store.put("nightly/topics/x", b"")
    assert catalog.has_objects("nightly")
    assert backup_id_of(lock_key("nightly", "0000000000001-0123456789abcdef")) is None


def test_clearing_up_never_disturbs_a_lock_in_the_same_folder(tmp_path: Path, lease: Lease) -> None:
    """Temp files of locks lie where those of a dead writer do."""
    store = LocalStore(str(tmp_path))
    with BackupLock(store, "nightly", verb="backup", lease=lease, times=LockTimes(life_s=1)) as lock:
        lock.acquire()
        for _ in range(300):
            store.remove_leftovers("nightly")
        lock.check(0)
        with BackupLock(store, "nightly", verb="backup", lease=lease, times=LockTimes(life_s=1)) as other, pytest.raises(Locked):
            other.acquire()


def test_a_lock_s_store_gives_up_in_time() -> None:
    options = lock_storage(StorageOptions(url="s3://bucket"), LockTimes(life_s=60))
    assert (options.deadline_s, options.read_timeout_s, options.connect_timeout_s) == (10, 10, 10)
    assert lock_storage(StorageOptions(url="s3://bucket", deadline_s=3), LockTimes(life_s=60)).deadline_s == 3
