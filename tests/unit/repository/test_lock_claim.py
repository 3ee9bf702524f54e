"""A claim on a backup: who is kept out and by what, which locks count and which don't, and what a late answer means."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from kbr.errors import AccessDenied, KbrError, Locked, StorageError, StoreUnavailable
from kbr.repository.layout import is_lock_key, locks_prefix
from kbr.repository.lock_claim import LEASED, OBSERVED, LockClaim, LockTimes
from kbr.repository.lock_file import MAX_LOCK_BYTES, LockState, dump_lock, parse_lock
from kbr.repository.lock_process import LockProcess, is_gone, this_process
from kbr.storage.base import NO_METADATA, ObjectInfo
from kbr.storage.memory import MemoryStore
from kbr.timing import Deadline
from tests.support.clocks import FakeClock

TIMES = LockTimes(life_s=60)
SOMEBODY = LockProcess(host="other", boot_id="b", pid=7, pid_namespace="n", started="1", user="ann")


class SlowStore(MemoryStore):
    """A store whose clock is its own, and whose next writings take as long as a test says: first done, then answered."""

    def __init__(self, clock: FakeClock) -> None:
        self.time = clock
        self.off_s = 0.0
        self.delays: list[tuple[float, float]] = []
        self.on_put: list[Callable[[], None]] = []
        self.deletes = True
        self.down = False
        self.puts: list[str] = []
        super().__init__(clock=_Off(self))

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        self._up()
        before_s, after_s = self.delays.pop(0) if self.delays else (0.0, 0.0)
        self.time.advance(before_s)
        info = super().put(key, data, if_absent=if_absent, metadata=metadata)
        self.puts.append(key)
        self.time.advance(after_s)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._up()
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._up()
        if not self.deletes:
            raise AccessDenied("no right to delete")
        super().delete(key)

    def _up(self) -> None:
        if self.down:
            raise StoreUnavailable("the store is down")

    def locks(self) -> list[str]:
        """States of all locks, in order."""
        found = []
        for info in super().list(locks_prefix("nightly")):
            lock = parse_lock(super().get(info.key, max_bytes=MAX_LOCK_BYTES))
            found.append(lock.state.value if lock else "damaged")
        return found


class _Off(FakeClock):
    def __init__(self, store: SlowStore) -> None:
        super().__init__()
        self._store = store

    def now_ms(self) -> int:
        return self._store.time.now_ms() + int(self._store.off_s * 1000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> SlowStore:
    return SlowStore(clock)


def claim_of(store: SlowStore, process: LockProcess | None = None, times: LockTimes = TIMES) -> LockClaim:
    return LockClaim(
        store, "nightly", verb="backup", times=times, clock=store.time, process=process or this_process()
    )


def held_by_somebody(store: SlowStore, process: LockProcess = SOMEBODY) -> LockClaim:
    claim = claim_of(store, process)
    assert claim.attempt() is None
    return claim


# -- who is kept out --------------------------------------------------------------------------


def test_who_is_kept_out_is_told_by_whom_since_when_and_how_lively(store: SlowStore, clock: FakeClock) -> None:
    held_by_somebody(store)
    clock.advance(12)
    error = claim_of(store).attempt()
    assert error is not None
    assert str(error) == (
        "backup nightly is being written by kbr backup on other (pid 7, user ann) since 2024-05-01T12:00:00.000Z, "
        "last heartbeat 12 s ago"
    )
    assert "60 s" in error.hint
    assert error.exit_code == 11
    assert {name: error.context[name] for name in ("host", "pid", "user", "verb", "heartbeat_age_s")} == {
        "host": "other", "pid": 7, "user": "ann", "verb": "backup", "heartbeat_age_s": 12.0,
    }  # fmt: skip
    assert clock.monotonic() == 12  # told at once
    assert store.locks() == ["held"]


def test_a_released_lock_keeps_nobody_out_and_is_deleted_by_a_later_holder(store: SlowStore) -> None:
    first = held_by_somebody(store)
    first.release()
    assert store.locks() == ["released"]
    second = claim_of(store)
    assert second.attempt() is None
    assert sorted(store.locks()) == ["held", "released"]
    second.release()
    assert store.locks() == ["released"]


def test_without_the_right_to_delete_locks_are_released_and_stay(store: SlowStore) -> None:
    store.deletes = False
    for _ in range(20):
        claim = claim_of(store)
        assert claim.attempt() is None
        assert claim_of(store, SOMEBODY).attempt() is not None
        claim.release()
    assert store.locks() == ["released"] * 40


# -- which locks count ------------------------------------------------------------------------


@pytest.mark.fault("P5", "the store's clock jumps", promise=1)
@pytest.mark.parametrize("off_s", [0, 7200, -7200])
def test_the_lock_of_a_living_run_is_never_taken_however_the_store_s_clock_jumps(
    store: SlowStore, clock: FakeClock, off_s: float
) -> None:
    holder = held_by_somebody(store)
    store.off_s = off_s
    beats = 0

    def sleep(seconds: float) -> None:
        nonlocal beats
        clock.advance(seconds)
        if clock.monotonic() >= (beats + 1) * TIMES.beat_s:
            beats += 1
            assert holder.renew()

    other = claim_of(store)
    other._clock = clock_with(clock, sleep)
    assert other.attempt() is not None
    assert holder.valid_until_ns > clock.boot_ns()
    assert clock.monotonic() <= TIMES.beat_s + 1  # the first heartbeat shows that it lives


def clock_with(clock: FakeClock, sleep: Callable[[float], None]) -> FakeClock:
    """The same time, with another sleep()."""

    class Other(FakeClock):
        def monotonic(self) -> float:
            return clock.monotonic()

        def boot_ns(self) -> int:
            return clock.boot_ns()

        def now_ms(self) -> int:
            return clock.now_ms()

        def sleep(self, seconds: float) -> None:
            sleep(seconds)

    return Other()


@pytest.mark.fault("P5", "clocks two hours apart", promise=1)
@pytest.mark.parametrize("off_s", [0, 7200, -7200])
@pytest.mark.parametrize("state", ["held", "wanted"])
def test_the_lock_of_a_run_that_is_gone_is_taken_only_after_its_lease_whatever_the_clocks_say(
    store: SlowStore, clock: FakeClock, off_s: float, state: str
) -> None:
    holder = claim_of(store, SOMEBODY)
    if state == "held":
        assert holder.attempt() is None
    else:
        holder._put("nightly/locks/0000000000001-0123456789abcdef.json", LockState.WANTED)
    store.off_s = off_s
    claim = claim_of(store)
    error = claim.attempt()
    if off_s == 0:
        assert error is not None
        assert claim.wait_until_free(Deadline(200, clock=clock)) is None
        error = claim.attempt()
    assert error is None
    assert clock.boot_ns() > holder.valid_until_ns
    assert TIMES.life_s * OBSERVED <= clock.monotonic() <= TIMES.life_s + 2


def test_an_owner_counts_on_less_than_others_wait_for() -> None:
    assert LEASED + 1 / 12 < OBSERVED < 1
    assert LEASED > 2 / 6  # two heartbeats may fail


def test_waiting_ends_at_its_deadline_with_who_has_it(store: SlowStore, clock: FakeClock) -> None:
    held_by_somebody(store)
    claim = claim_of(store)
    assert claim.attempt() is not None
    error = claim.wait_until_free(Deadline(20, clock=clock))
    assert error is not None and "other" in error.message
    assert clock.monotonic() == pytest.approx(20, abs=1.1)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"not json", b"[1]", b"\xff" * 50, b"x" * (MAX_LOCK_BYTES + 1), b'{"format":"kbr-lock","format_version":2}'],
    ids=["empty", "no lock", "no JSON", "a list", "no UTF-8", "too large", "newer"],
)
def test_a_lock_that_can_not_be_read_counts_until_it_is_old(store: SlowStore, clock: FakeClock, data: bytes) -> None:
    key = "nightly/locks/0000000000001-0123456789abcdef.json"
    store.put(key, data)
    claim = claim_of(store)
    error = claim.attempt()
    assert error is not None
    assert key in error.message and "can't be read" in error.message
    assert clock.monotonic() == 0
    clock.advance(61)
    assert claim_of(store).attempt() is None
    assert clock.monotonic() == pytest.approx(61 + 40, abs=2)


def test_damage_in_any_field_makes_a_lock_one_that_can_not_be_read() -> None:
    from kbr.wire import dump_json, load_json

    store = SlowStore(FakeClock())
    held_by_somebody(store)
    data = store.get(next(iter(store.list("nightly/locks/"))).key, max_bytes=MAX_LOCK_BYTES)
    assert parse_lock(data) is not None
    whole = load_json(data)
    for name in whole:
        for value in (None, -1, 2**63, 1.5, "x" * 300, "\x1b[31m", [], {}, "nonsense\n"):
            assert parse_lock(dump_json({**whole, name: value})) is None, (name, value)
        assert parse_lock(dump_json({key: value for key, value in whole.items() if key != name})) is None


def test_what_is_no_lock_in_the_folder_of_locks_keeps_nobody_out(store: SlowStore) -> None:
    for name in ("x", ".DS_Store", "0000000000001-0123456789abcdef.json.tmp", "a/0000000000001-0123456789abcdef.json"):
        store.put(f"nightly/locks/{name}", b"x")
    claim = claim_of(store)
    assert claim.attempt() is None
    claim.release()
    assert len(list(store.list("nightly/locks/"))) == 5


def test_very_old_locks_are_not_read_and_deleted(store: SlowStore, clock: FakeClock) -> None:
    for number in range(300):
        store.put(f"nightly/locks/{number:013d}-0123456789abcdef.json", b"x")
    clock.advance(8 * 86_400)
    claim = claim_of(store)
    reads = []
    claim._read = lambda key: reads.append(key)  # type: ignore[func-returns-value,method-assign,assignment]
    assert claim.attempt() is None
    assert reads == []
    claim.release()
    assert len(store.locks()) == 201  # a hundred at once


def test_many_locks_are_read_at_once_and_right(store: SlowStore) -> None:
    store.deletes = False
    for _ in range(30):
        claim = claim_of(store, SOMEBODY)
        assert claim.attempt() is None
        claim.release()
    holder = held_by_somebody(store)
    assert claim_of(store).attempt() is not None
    holder.release()
    assert claim_of(store).attempt() is None


def test_a_strange_lock_can_not_ask_for_more_than_an_hour(store: SlowStore, clock: FakeClock) -> None:
    lock = parse_lock(_bytes_of_a_held_lock())
    assert lock is not None
    store.put("nightly/locks/0000000000001-0123456789abcdef.json", dump_lock(replace(lock, life_ms=10**15)))
    claim = claim_of(store)
    assert claim.attempt() is not None
    assert claim.wait_until_free(Deadline(10_000, clock=clock)) is None
    assert clock.monotonic() < 3700


def test_a_lock_with_a_longer_life_is_waited_for_as_long_as_that(store: SlowStore, clock: FakeClock) -> None:
    holder = claim_of(store, SOMEBODY, LockTimes(life_s=600))
    assert holder.attempt() is None
    claim = claim_of(store, times=LockTimes(life_s=6))
    assert claim.attempt() is not None
    assert claim.wait_until_free(Deadline(10_000, clock=clock)) is None
    assert clock.boot_ns() > holder.valid_until_ns


def _bytes_of_a_held_lock() -> bytes:
    store = SlowStore(FakeClock())
    held_by_somebody(store)
    return store.get(next(iter(store.list("nightly/locks/"))).key, max_bytes=MAX_LOCK_BYTES)


# -- processes of this machine ----------------------------------------------------------------


def test_the_lock_of_a_process_that_has_ended_is_taken_at_once(store: SlowStore, clock: FakeClock) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = this_process()
    started = open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[19]
    theirs = replace(own, pid=child.pid, started=started)
    held_by_somebody(store, theirs)
    assert claim_of(store).attempt() is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has asked for its end yet
    assert is_gone(theirs, own)
    child.wait()
    assert claim_of(store).attempt() is None
    assert clock.monotonic() == 0


def test_a_number_that_is_used_again_is_another_process() -> None:
    own = this_process()
    assert not is_gone(own, own)
    assert is_gone(replace(own, started="12345"), own)
    assert is_gone(replace(own, pid=2**22 + 1), own)


@pytest.mark.parametrize(
    "changes",
    [{"host": "x"}, {"boot_id": "x"}, {"pid_namespace": "x"}, {"boot_id": ""}, {"pid_namespace": ""}, {"started": ""}],
)
def test_a_process_that_may_be_elsewhere_is_never_said_to_be_gone(changes: dict[str, str]) -> None:
    own = this_process()
    gone = replace(own, pid=2**22 + 1, **changes)  # type: ignore[arg-type]
    assert not is_gone(gone, own)
    if "" in changes.values():  # nor by who can't tell where it is itself
        assert not is_gone(gone, replace(own, **changes))  # type: ignore[arg-type]


def test_a_process_of_another_user_is_there() -> None:
    own = this_process()
    assert not is_gone(replace(own, pid=1, started=open("/proc/1/stat").read().rpartition(")")[2].split()[19]), own)


# -- late answers -----------------------------------------------------------------------------


def test_a_heartbeat_whose_answer_comes_after_the_lease_renews_nothing(store: SlowStore, clock: FakeClock) -> None:
    claim = held_by_somebody(store)
    clock.advance(20)
    until = claim.valid_until_ns
    store.delays = [(0, 11)]
    assert not claim.renew()
    assert claim.valid_until_ns == until
    clock.advance(1)
    assert claim.recover() is None
    assert claim.valid_until_ns > clock.boot_ns()
    assert store.locks() == ["held"]


def test_a_lease_counts_from_the_beginning_of_a_heartbeat(store: SlowStore, clock: FakeClock) -> None:
    claim = held_by_somebody(store)
    clock.advance(10)
    begun = clock.boot_ns()
    store.delays = [(7, 7)]
    assert claim.renew()
    assert claim.valid_until_ns == begun + 30_000_000_000


def test_an_ended_lease_is_not_renewed_by_writing_the_old_lock(store: SlowStore, clock: FakeClock) -> None:
    claim = held_by_somebody(store)
    clock.advance(30)
    before = list(store.puts)
    assert not claim.renew()
    assert store.puts == before


@pytest.mark.parametrize("late", [0, 1])
def test_a_run_that_took_too_long_to_get_the_backup_begins_again_under_another_name(
    store: SlowStore, clock: FakeClock, late: int
) -> None:
    """The writing of `wanted` (0) or of `held` (1): others may have taken it for dead."""
    store.delays = [(0, 0)] * late + [(16, 16)]
    claim = claim_of(store)
    assert claim.attempt() is None
    assert len(set(store.puts)) == 2
    assert store.locks() == ["held"]
    assert claim.valid_until_ns > clock.boot_ns() + 29_000_000_000


def test_a_run_that_was_stopped_while_it_waited_begins_again_under_another_name(
    store: SlowStore, clock: FakeClock
) -> None:
    other = claim_of(store, SOMEBODY)
    other._put("nightly/locks/9999999999999-0123456789abcdef.json", LockState.WANTED)  # waits for us
    claim = claim_of(store)
    sleeps = 0

    def sleep(seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        clock.advance(31 if sleeps == 3 else seconds)
        if sleeps == 5:
            store.delete("nightly/locks/9999999999999-0123456789abcdef.json")

    claim._clock = clock_with(clock, sleep)
    assert claim.attempt() is None
    assert len(set(store.puts)) == 3
    assert store.locks() == ["held"]


def test_who_waits_for_another_that_wants_it_keeps_its_own_lock_young(store: SlowStore, clock: FakeClock) -> None:
    other = claim_of(store, SOMEBODY)
    other._put("nightly/locks/9999999999999-0123456789abcdef.json", LockState.WANTED)
    claim = claim_of(store)
    assert claim.attempt() is None  # the other is dead, which takes a life to see
    assert 60 <= clock.monotonic() < 62
    times = [key for key in store.puts if key != "nightly/locks/9999999999999-0123456789abcdef.json"]
    assert len(set(times)) == 1
    assert len(times) >= 7


def test_a_store_that_never_answers_in_time_is_told_and_nothing_is_held(store: SlowStore, clock: FakeClock) -> None:
    store.delays = [(16, 16)] * 1000
    claim = claim_of(store)
    with pytest.raises(StoreUnavailable, match="too slow"):
        claim.attempt()
    assert 900 < clock.monotonic() < 1000
    assert store.locks() == []


def test_a_store_that_does_not_list_what_was_written_is_told(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "list", lambda prefix: iter(()))
    with pytest.raises(StorageError, match="does not list"):
        claim_of(store).attempt()
    assert store.locks() == []


# -- a lease that had ended -------------------------------------------------------------------


def test_a_run_that_was_cut_off_goes_on_if_nobody_came(store: SlowStore, clock: FakeClock) -> None:
    claim = held_by_somebody(store)
    store.down = True
    for _ in range(20):
        clock.advance(10)
        with pytest.raises(StoreUnavailable):
            assert not claim.renew()
            claim.recover()
    store.down = False
    assert claim.recover() is None
    assert claim.renew()
    assert store.locks() == ["held"]
    error = claim_of(store).attempt()
    assert error is not None
    claim.release()
    assert store.locks() == ["released"]


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("after", ["holds", "released", "died", "released, and two more came and went"])
def test_a_run_that_was_stopped_is_out_if_another_came_whatever_became_of_that(
    store: SlowStore, clock: FakeClock, after: str, deletes: bool
) -> None:
    store.deletes = deletes
    paused = held_by_somebody(store)
    clock.advance(61)
    successor = claim_of(store, replace(SOMEBODY, host="successor"))
    assert successor.attempt() is None
    if after.startswith("released"):
        successor.release()
    if after == "died":
        clock.advance(1000)
    if "two more" in after:
        for _ in range(2):
            other = claim_of(store, replace(SOMEBODY, host="more"))
            assert other.attempt() is None
            other.release()
    assert not paused.renew()
    error = paused.recover()
    assert error is not None
    assert error.exit_code == 11
    before = store.locks()
    paused.release(is_lost=True)
    assert ("held" in before) == ("held" in store.locks()) or not deletes
    assert paused.valid_until_ns <= clock.boot_ns()


def test_a_run_whose_lock_was_removed_while_it_was_stopped_is_out(store: SlowStore, clock: FakeClock) -> None:
    claim = held_by_somebody(store)
    clock.advance(100)
    for info in list(store.list("nightly/")):
        store.delete(info.key)
    error = claim.recover()
    assert error is not None
    assert "was removed" in error.message
    claim.release(is_lost=True)
    assert store.locks() == []


def test_who_only_wanted_the_backup_meanwhile_is_no_trace_of_a_holder(store: SlowStore, clock: FakeClock) -> None:
    store.deletes = False
    claim = held_by_somebody(store)
    assert claim_of(store).attempt() is not None
    clock.advance(40)
    assert claim.recover() is None


def test_keys_are_those_of_locks(store: SlowStore) -> None:
    held_by_somebody(store)
    (key,) = store.puts[-1:]
    assert is_lock_key("nightly", key)
    for other in ("weekly", "nightl"):
        assert not is_lock_key(other, key)


@pytest.mark.parametrize("life_s", [0, 0.5, -1, 3601, float("nan")])
def test_a_life_out_of_bounds_is_refused(life_s: float) -> None:
    with pytest.raises(ValueError, match="life"):
        LockTimes(life_s=life_s)


def test_an_error_while_it_is_claimed_leaves_no_lock_behind(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str, **_named: object) -> bytes:
        raise AccessDenied("no right to read")

    held_by_somebody(store)
    monkeypatch.setattr(store, "get", fail)
    with pytest.raises(KbrError):
        claim_of(store).attempt()
    monkeypatch.undo()
    assert store.locks() == ["held"]
    assert isinstance(claim_of(store).attempt(), Locked)
