"""One run's claim on a backup: how it is made, kept, lost and given up, by locks that everybody writes and lists.

It needs of a store what S3 promises: an object that was written is read, and listed, from then on. It needs no
conditional writes, which some servers ignore and others refuse. No threads here: kbr.repository.lock has the one that
keeps the claim.

Why there are never two holders. Each run writes a lock under a name of its own (`wanted`), and only then lists the
others. Of two runs, the one whose first writing landed later lists after that, so it sees the other's lock, and it goes
on only if that is released or stale; the earlier one may miss the later, and need not see it. A lock is stale if its
process is known to have ended, or if it was seen unchanged for OBSERVED lives, by a clock of this machine that counts
suspended time. Its owner knows that: between any two of its writings, from the beginning of one to the reply of the
next, it lets LEASED lives pass at most, which is less, or else counts itself as out: before it holds, it begins again
under a new name; while it holds, its lease has ended by then. So nobody takes from a run what that run still counts on,
and no wall clock has a say in it: the locks' ages by the store's clock only spare the watching of those that are young.

Why there is one, if all go on: of runs that want it at the same time, that with the least name waits for the others to
give up, and they do.

A holder whose lease has ended never writes to its old lock again, as another may have taken over. It makes a new claim,
and looks for traces of others: a lock that wasn't there when it got the backup, and by which somebody had it since, be
it released long ago; or that its own lock is gone. A holder's lock is therefore kept when it is released, and deleted
only by a later holder, whose own lock then is the trace.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from kbr.errors import AccessDenied, KbrError, Locked, ObjectMissing, StorageError, StoreUnavailable
from kbr.repository.layout import LockPlace, is_lock_key, lock_key, locks_prefix
from kbr.repository.lock_file import MAX_LOCK_BYTES, LockFile, LockState, dump_lock, locked, parse_lock
from kbr.repository.lock_process import LockProcess, is_gone, this_process
from kbr.storage.base import ObjectInfo, ObjectStore
from kbr.timing import SYSTEM_CLOCK, Clock, Deadline

__all__ = ["LEASED", "OBSERVED", "LockClaim", "LockTimes"]

_log = logging.getLogger("kbr.lock")

#: For how long a writing counts for its owner, and how long others have to see it unchanged, in lives. Between them
#: lies what clocks of two machines may differ in their rate, and what a request may take.
LEASED, OBSERVED = 1 / 2, 2 / 3
#: A stranger's lock can't ask for more, seconds.
MAX_LIFE_S = 3600.0
#: A lock this old by the store's clock is not even read, seconds: where nothing may be deleted there are many. It would
#: take a clock that jumps by a week to make one of a living holder.
FORGOTTEN_S = 7 * 86_400.0
#: What a holder deletes of others' ended locks, at most.
_DELETED = 100
#: Locks read at once, from so many on.
_READERS = 8
#: A listing may miss what was just written so often; then the store is not one to lock on.
_MISSING_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTimes:
    """How long things take.

    Attributes:
        life_s: for so long after its last writing a lock counts as its owner's, without a look at it; 1 to 3600.
        outage_s: how long a claim is tried while the store doesn't answer, or too slowly.

    Raises:
        ValueError: out of bounds.
    """

    life_s: float = 60.0
    outage_s: float = 900.0

    def __post_init__(self) -> None:
        if not 1 <= self.life_s <= MAX_LIFE_S:
            raise ValueError(f"a lock's life of {self.life_s} s is not between 1 and {MAX_LIFE_S:.0f}")

    @property
    def beat_s(self) -> float:
        """From one heartbeat to the next."""
        return self.life_s / 6

    @property
    def lease_s(self) -> float:
        """For how long after the beginning of a writing its owner counts on it."""
        return self.life_s * LEASED

    @property
    def request_s(self) -> float:
        """The deadline that the store's operations should have, so that one that hangs is tried again in time."""
        return max(1.0, self.life_s / 6)

    @property
    def poll_s(self) -> float:
        """From one look at others' locks to the next, for who waits."""
        return min(0.1, self.life_s / 60)


class _Slow(Enum):
    """An attempt that took so long that it may be taken for one of the dead."""

    TOO_SLOW = "too slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    """A lock of another run that is neither released nor stale.

    Attributes:
        is_live: False if that isn't sure, and is to be watched.
    """

    key: str
    lock: LockFile | None
    age_s: float | None
    life_s: float
    is_live: bool

    @property
    def is_held(self) -> bool:
        """Or may be."""
        return self.lock is None or self.lock.state is LockState.HELD


@dataclass(slots=True)
class _Watched:
    """Since when a lock is as it is."""

    fingerprint: tuple[int | None, bytes]
    since_ns: int
    has_changed: bool = False


class _TracesOfOthers(Exception):
    """Somebody else has, or has had, what this run counted on."""

    def __init__(self, error: Locked) -> None:
        super().__init__(error.message)
        self.error = error


class LockClaim:
    """See the module. Not thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        place: LockPlace | str,
        *,
        verb: str,
        times: LockTimes,
        clock: Clock = SYSTEM_CLOCK,
        process: LockProcess | None = None,
    ) -> None:
        self._store = store
        self._place = LockPlace.of(place)
        self._verb = verb
        self._times = times
        self._clock = clock
        self._process = process or this_process()
        self._since_ms = max(0, min(clock.now_ms(), 10**13 - 1))
        self._beat = 0
        self._own: set[str] = set()
        #: Others' locks that have ended: released and stale ones never come back to life.
        self._ended: set[str] = set()
        self._watched: dict[str, _Watched] = {}
        #: The store's clock (ms) at a moment of ours (boot_ns).
        self._store_time: tuple[int, int] | None = None
        self._held_key = ""
        #: All locks that were there when this run got the backup.
        self._seen: frozenset[str] = frozenset()
        #: Whether a claim is made by who had the backup already.
        self._again = False
        self._own_is_listed = True
        #: Up to this moment (boot_ns) the backup is surely ours.
        self.valid_until_ns = 0

    # -- a claim's life -------------------------------------------------------------------

    def attempt(self) -> Locked | None:
        """Try to get the backup, and wait for what isn't clear: at most some lives.

        Returns:
            None if it is ours; else who has it, or is before us.

        Raises:
            StoreUnavailable: the store doesn't answer, or not in time.
            StorageError: it lists wrongly, or anything else that a store may say.
        """
        begun = Deadline(self._times.outage_s, clock=self._clock)
        while True:
            try:
                outcome = self._attempt()
            except _TracesOfOthers as traces:
                return traces.error
            if not isinstance(outcome, _Slow):
                return outcome
            if begun.passed:
                raise StoreUnavailable(
                    f"{self._store.url} is too slow to lock {self._place}: a request has to be answered "
                    f"within {self._times.lease_s:.0f} s",
                    hint="run the same command again when the store is faster",
                )

    def wait_until_free(self, deadline: Deadline) -> Locked | None:
        """Look until nobody surely has, or wants, the backup: None; or until the deadline: who that is."""
        while True:
            self._clock.sleep(min(max(0.001, deadline.remaining_s()), self._times.beat_s / 10))
            others, _listed = self._look()
            live = [other for other in others if other.is_live]
            if not live:
                return None
            if deadline.passed:
                return self._locked(live[0])

    def renew(self) -> bool:
        """Write the lock again; False if the lease had ended, be it meanwhile: then only recover() may go on.

        Raises:
            StorageError: it could not be written.
        """
        if self._clock.boot_ns() >= self.valid_until_ns:
            return False
        begun_ns = self._put(self._held_key, LockState.HELD)
        # a writing that lands late renews nothing: others may have seen the one before it unchanged for long enough
        if self._clock.boot_ns() >= self.valid_until_ns:
            return False
        self.valid_until_ns = self._until(begun_ns)
        return True

    def recover(self) -> Locked | None:
        """Claim the backup again after the lease has ended: None if nobody had it meanwhile; else it is lost.

        Raises:
            StorageError: the store doesn't answer; to be tried again.
        """
        before = self._held_key
        self._again = True
        error = self.attempt()
        if error is None:
            self._drop(before)
        return error

    def release(self, *, is_lost: bool = False) -> None:
        """Give the backup up, and delete what is left of others' ended locks, as far as that is allowed.

        Args:
            is_lost: it is another's; nothing is deleted.

        Raises:
            StorageError: it could not be written; the lock ends by itself.
        """
        key, self._held_key = self._held_key, ""
        self.valid_until_ns = 0
        if not key or not self._own_is_listed:
            return  # who deleted it must not find it again: it would look like a holder's that came later
        self._put(key, LockState.RELEASED, was_held=True)
        if is_lost:
            return
        for one in sorted(self._ended & self._seen)[:_DELETED]:
            try:
                self._store.delete(one)
            except AccessDenied:
                return  # a backup's credential may lack the right to delete
            except KbrError as error:
                _log.info("ended locks stay: %s", error.message)
                return

    # -- one attempt ----------------------------------------------------------------------

    def _attempt(self) -> Locked | _Slow | None:
        key = lock_key(self._place, f"{self._since_ms:013d}-{secrets.token_hex(8)}")
        self._own.add(key)
        try:
            outcome = self._try(key)
        except BaseException:
            self._drop(key)
            raise
        if outcome is not None:
            self._drop(key)
        return outcome

    def _try(self, key: str) -> Locked | _Slow | None:
        put_ns = self._put(key, LockState.WANTED)
        missing = 0
        has_told = False
        while True:
            others, listed = self._look()
            if self._is_too_late(put_ns):
                return _Slow.TOO_SLOW
            if key in listed:
                blocker = next((one for one in others if one.is_live and (one.is_held or one.key < key)), None)
                if blocker is not None:
                    return self._locked(blocker)
                if not others:
                    break
                if not has_told and not all(other.is_live for other in others):
                    has_told = True
                    _log.warning("%s; waiting to see whether it still is", self._locked(others[0]).message)
            else:
                missing += 1
                if missing > _MISSING_MAX:
                    raise StorageError(
                        f"{self._store.url} does not list {key}, which was just written",
                        hint="somebody else deletes there, or the store's listings are not up to date: no lock can be kept on it",
                        object=key,
                    )
            self._clock.sleep(self._times.poll_s)
            if self._clock.boot_ns() - put_ns > self._lease_ns / 3:
                again_ns = self._put(key, LockState.WANTED)
                if self._is_too_late(put_ns):
                    return _Slow.TOO_SLOW
                put_ns = again_ns
        held_ns = self._put(key, LockState.HELD)
        if self._is_too_late(put_ns):
            return _Slow.TOO_SLOW
        self._held_key = key
        self._seen = frozenset(listed) | self._own
        self.valid_until_ns = self._until(held_ns)
        return None

    def _is_too_late(self, put_ns: int) -> bool:
        return self._clock.boot_ns() - put_ns > self._lease_ns

    def _put(self, key: str, state: LockState, *, was_held: bool = False) -> int:
        """Write an own lock; the moment (boot_ns) at which that began."""
        self._beat += 1
        lock = LockFile(
            verb=self._verb,
            process=self._process,
            since_ms=self._since_ms,
            beat=self._beat,
            life_ms=int(self._times.life_s * 1000),
            state=state,
            was_held=was_held or state is LockState.HELD,
        )
        begun_ns = self._clock.boot_ns()
        info = self._store.put(key, dump_lock(lock))
        if info.modified_at_ms is not None:
            self._store_time = (info.modified_at_ms, self._clock.boot_ns())
        return begun_ns

    def _drop(self, key: str) -> None:
        """Have an own lock by which nothing was, or is any more, held out of others' way."""
        try:
            self._store.delete(key)
        except KbrError:
            try:
                self._put(key, LockState.RELEASED)
            except KbrError as error:
                _log.info("%s stays until it is stale: %s", key, error.message)

    # -- others ---------------------------------------------------------------------------

    def _look(self) -> tuple[list[_Other], set[str]]:
        """Others' locks that have not ended, in order of their keys; and the keys of all there are."""
        begun_ns = self._clock.boot_ns()
        infos = [
            info for info in self._store.list(locks_prefix(self._place)) if is_lock_key(self._place, info.key)
        ]
        listed = {info.key for info in infos}
        unsure = [info for info in infos if info.key not in self._own and info.key not in self._ended]
        if self._again:
            self._own_is_listed = self._held_key in listed
        found = [self._judge(info, data, begun_ns) for info, data in self._read_all(unsure)]
        if self._again and not self._own_is_listed:  # a successor's trace would have told more
            raise _TracesOfOthers(
                Locked(
                    f"{self._place} is not this run's any more: its lock {self._held_key} was removed",
                    hint="let only one kbr write a backup, and leave its locks alone; then run the same command again",
                    backup_id=self._place.backup_id,
                )
            )
        return [other for other in found if other is not None], listed

    def _read_all(self, infos: Iterable[ObjectInfo]) -> list[tuple[ObjectInfo, bytes]]:
        wanted = []
        for info in infos:
            age_s = self._age_s(info.modified_at_ms)
            if age_s is not None and age_s > FORGOTTEN_S and not self._is_new(info.key):
                self._ended.add(info.key)
            else:
                wanted.append(info)
        if len(wanted) < _READERS:
            datas = [self._read(info.key) for info in wanted]
        else:
            with ThreadPoolExecutor(_READERS) as pool:
                datas = list(pool.map(lambda info: self._read(info.key), wanted))
        return [(info, data) for info, data in zip(wanted, datas, strict=True) if data is not None]

    def _read(self, key: str) -> bytes | None:
        """A lock's bytes: None if it is gone, empty if it can't be one."""
        try:
            return self._store.get(key, max_bytes=MAX_LOCK_BYTES)
        except ObjectMissing:
            return None
        except (StoreUnavailable, AccessDenied):
            raise
        except StorageError:  # too large, a folder, damaged on the disk: some lock, and not known whose
            return b""

    def _judge(self, info: ObjectInfo, data: bytes, begun_ns: int) -> _Other | None:
        """Another's lock, or None if it has ended. ``begun_ns``: of the look that found it."""
        lock = parse_lock(data)
        if self._is_new(info.key) and (lock is None or lock.was_held):
            raise _TracesOfOthers(self._taken_over(info.key, lock))
        if lock is not None and (lock.state is LockState.RELEASED or is_gone(lock.process, self._process)):
            self._ended.add(info.key)
            return None
        life_s = self._times.life_s if lock is None else max(self._times.life_s, min(lock.life_ms / 1000, MAX_LIFE_S))
        fingerprint = (info.modified_at_ms, data)
        watched = self._watched.get(info.key)
        if watched is None or watched.fingerprint != fingerprint:
            watched = _Watched(fingerprint, self._clock.boot_ns(), has_changed=watched is not None)
            self._watched[info.key] = watched
        unchanged_s = (begun_ns - watched.since_ns) / 1e9
        age_s = self._age_s(info.modified_at_ms)
        is_old = age_s is not None and age_s > life_s
        if unchanged_s >= (life_s * OBSERVED if is_old else life_s):
            self._ended.add(info.key)
            return None
        # written in the future: a clock was set back, and tells nothing of this one
        is_young = age_s is not None and -life_s <= age_s <= life_s
        return _Other(
            key=info.key, lock=lock, age_s=age_s, life_s=life_s, is_live=is_young or watched.has_changed
        )

    def _is_new(self, key: str) -> bool:
        """Whether a lock has come since this run got the backup."""
        return self._again and key not in self._seen

    def _age_s(self, modified_at_ms: int | None) -> float | None:
        """By the store's clock."""
        if modified_at_ms is None or self._store_time is None:
            return None
        then_ms, then_ns = self._store_time
        return (then_ms - modified_at_ms) / 1000 + (self._clock.boot_ns() - then_ns) / 1e9

    def _locked(self, other: _Other) -> Locked:
        return locked(self._place, other.key, other.lock, other.age_s, life_s=other.life_s)

    def _taken_over(self, key: str, lock: LockFile | None) -> Locked:
        who = (
            f"the lock {key}, which can't be read"
            if lock is None
            else f"kbr {lock.verb} on {lock.process.host} (pid {lock.process.pid}, user {lock.process.user})"
        )
        return Locked(
            f"{self._place} is not this run's any more: while it was paused or cut off from the store, "
            f"it was taken over by {who}",
            hint="what was committed is kept; run the same command again when the other run has ended",
            backup_id=self._place.backup_id,
            object=key,
        )

    @property
    def _lease_ns(self) -> int:
        return int(self._times.lease_s * 1e9)

    def _until(self, begun_ns: int) -> int:
        return begun_ns + self._lease_ns
