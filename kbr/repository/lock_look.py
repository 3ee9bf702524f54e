"""Whether anybody holds the lock on a backup or a restore, for who only wants to say so: one look, which writes and waits for nothing.

What it finds decides nothing: a run that wants the backup looks for longer (kbr.repository.lock_claim).
"""

from __future__ import annotations

from kbr.errors import AccessDenied, ObjectMissing, StorageError
from kbr.repository.layout import LockPlace, is_lock_key, locks_prefix
from kbr.repository.lock_claim import MAX_LIFE_S, LockTimes
from kbr.repository.lock_file import MAX_LOCK_BYTES, LockState, parse_lock
from kbr.repository.lock_process import LockProcess, is_gone, this_process
from kbr.storage.base import ObjectInfo, ObjectStore
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["is_lock_held"]

#: In lives: a heartbeat comes six times in one; the rest is for clocks, as this machine's is compared with the store's.
STALE = 2.0


def is_lock_held(
    store: ObjectStore, place: LockPlace | str, *, clock: Clock = SYSTEM_CLOCK, process: LockProcess | None = None
) -> bool | None:
    """Whether a run holds, or wants, the backup, or the restore: one that is alive as far as one look can tell.

    Args:
        place: a backup's id is the backup itself.
        process: who asks; this process.

    Returns:
        None where the locks may not be read.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    asks = process or this_process()
    try:
        infos = [info for info in store.list(locks_prefix(place)) if is_lock_key(place, info.key)]
        # the newest is the likeliest, and its name begins with when its run began
        for info in sorted(infos, key=lambda one: one.key, reverse=True):
            if _is_alive(store, info, clock.now_ms(), asks):
                return True
    except AccessDenied:
        return None
    return False


def _is_alive(store: ObjectStore, info: ObjectInfo, now_ms: int, asks: LockProcess) -> bool:
    age_s = None if info.modified_at_ms is None else (now_ms - info.modified_at_ms) / 1000
    if age_s is not None and age_s > MAX_LIFE_S * STALE:
        return False  # not even read: where nothing may be deleted there are many
    try:
        lock = parse_lock(store.get(info.key, max_bytes=MAX_LOCK_BYTES))
    except ObjectMissing:
        return False
    except StorageError as error:
        if error.retriable or isinstance(error, AccessDenied):
            raise
        lock = None  # some lock, and not known whose
    if lock is not None and (lock.state is LockState.RELEASED or is_gone(lock.process, asks)):
        return False
    life_s = LockTimes().life_s if lock is None else min(lock.life_ms / 1000, MAX_LIFE_S)
    return age_s is None or age_s <= life_s * STALE
