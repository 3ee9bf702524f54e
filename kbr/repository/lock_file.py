"""What a lock says: its bytes, read as what a stranger wrote, and its words for who is kept out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from kbr.errors import Locked
from kbr.repository.layout import LockPlace
from kbr.repository.lock_process import LockProcess
from kbr.timing import utc_text
from kbr.wire import dump_json, load_json

__all__ = ["MAX_LOCK_BYTES", "LockFile", "LockState", "dump_lock", "locked", "parse_lock"]

#: kbr writes some 450 bytes.
MAX_LOCK_BYTES = 4096
_FORMAT = "kbr-lock"
_VERSION = 1
_MAX_TEXT = 255
#: 9999-01-01, ms since the epoch: what datetime can show.
_MAX_MS = 253_370_764_800_000


class LockState(Enum):
    """Where a lock is in its life; it only goes on, or ends."""

    WANTED = "wanted"
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFile:
    """A lock.

    Attributes:
        verb: what its run does, such as ``backup``.
        since_ms: when its run began to want it, by its host's clock.
        beat: counts up with each writing.
        life_ms: how old it may be before others may doubt that its holder is there.
        was_held: whether its run has ever had the backup by it.
    """

    verb: str
    process: LockProcess
    since_ms: int
    beat: int
    life_ms: int
    state: LockState
    was_held: bool


def dump_lock(lock: LockFile) -> bytes:
    """Its bytes."""
    process = replace(lock.process, host=_shown(lock.process.host), user=_shown(lock.process.user))
    return dump_json(
        {
            "format": _FORMAT,
            "format_version": _VERSION,
            "state": lock.state.value,
            "was_held": lock.was_held,
            "verb": _shown(lock.verb),
            "beat": lock.beat,
            "life_ms": lock.life_ms,
            "since": lock.since_ms,
            "host": process.host,
            "user": process.user,
            "pid": process.pid,
            "process_start": process.started,
            "boot_id": process.boot_id,
            "pid_namespace": process.pid_namespace,
        },
        indent=True,
    )


def parse_lock(data: bytes) -> LockFile | None:
    """A lock from its bytes; None for anything that is none, or of a version that is not known here."""
    try:
        found = load_json(data)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or found.get("format_version") != _VERSION:
        return None
    try:
        return LockFile(
            verb=_text(found["verb"]),
            process=LockProcess(
                host=_text(found["host"]),
                boot_id=_text(found["boot_id"]),
                pid=_number(found["pid"], 1, 2**31 - 1),
                pid_namespace=_text(found["pid_namespace"]),
                started=_text(found["process_start"]),
                user=_text(found["user"]),
            ),
            since_ms=_number(found["since"], 0, _MAX_MS),
            beat=_number(found["beat"], 0, 2**63 - 1),
            life_ms=_number(found["life_ms"], 1, 2**63 - 1),
            state=LockState(found["state"]),
            was_held=_bool(found["was_held"]),
        )
    except (KeyError, ValueError):
        return None


def locked(place: LockPlace, key: str, lock: LockFile | None, age_s: float | None, *, life_s: float) -> Locked:
    """The error for who is kept out.

    Args:
        lock: the other one; None if it can't be read.
        age_s: of its last heartbeat; None where that isn't known.
    """
    beaten = "" if age_s is None else f", last heartbeat {max(0.0, age_s):.0f} s ago"
    if lock is None:
        return Locked(
            f"{place} is locked, and the lock {key} can't be read{beaten}",
            hint=f"it counts for {life_s:.0f} s after it was last written; a newer kbr may be writing this backup",
            backup_id=place.backup_id,
            object=key,
            heartbeat_age_s=age_s,
        )
    process = lock.process
    return Locked(
        f"{place} is being {'done' if place.restore_id else 'written'} by kbr {lock.verb} on {process.host} "
        f"(pid {process.pid}, user {process.user}) since {utc_text(lock.since_ms)}{beaten}",
        hint=f"wait until it has ended, or stop it; if it is gone, its lock ends by itself {life_s:.0f} s after its last heartbeat",
        backup_id=place.backup_id,
        object=key,
        host=process.host,
        pid=process.pid,
        user=process.user,
        verb=lock.verb,
        since_ms=lock.since_ms,
        heartbeat_age_s=age_s,
    )


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:_MAX_TEXT])


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError(value)
    return value


def _number(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(value)
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value
