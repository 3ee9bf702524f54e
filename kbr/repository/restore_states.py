"""Where a restore's notes about its target lie: in the backup's own folder, so that any machine can go on."""

from __future__ import annotations

from dataclasses import dataclass

from kbr.errors import (
    AccessDenied,
    NotEncrypted,
    ObjectMissing,
    RepositoryError,
    RestoreStateUnreadable,
    StorageError,
    WrongKey,
)
from kbr.format.restore_state import MAX_STATE_BYTES, RestoreState, dump_restore_state, load_restore_state
from kbr.repository.layout import offset_map_key, restore_id_of_key, restore_state_key, restores_prefix
from kbr.storage.base import ObjectStore

__all__ = ["UNREADABLE", "RestoreSummary", "list_restores", "load_state", "save_state"]

#: Status of a restore whose notes can't be read.
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSummary:
    """One line about one restore of a backup.

    Attributes:
        status: running (or it ended before its end), complete, or unreadable.
        error: why it is unreadable, else empty.
        cluster_id: of the target.
        created_at_ms, updated_at_ms: None where the notes can't be read.
        target_topics: in name order.
        has_offset_map: its offset mapping is there.
        lock_held: of one that says it is running: whether a run holds its lock; None where nobody has looked.
    """

    restore_id: str
    status: str
    error: str = ""
    cluster_id: str = ""
    created_at_ms: int | None = None
    updated_at_ms: int | None = None
    target_topics: tuple[str, ...] = ()
    has_offset_map: bool = False
    lock_held: bool | None = None


def list_restores(store: ObjectStore, backup_id: str) -> list[RestoreSummary]:
    """All restores of a backup that have noted something, the oldest first; those that can't be read are among them.

    Raises:
        StorageError: the store failed.
    """
    keys = {info.key for info in store.list(restores_prefix(backup_id))}
    found: list[RestoreSummary] = []
    for restore_id in filter(None, (restore_id_of_key(backup_id, key) for key in sorted(keys))):
        has_map = offset_map_key(backup_id, restore_id) in keys
        try:
            state = load_state(store, backup_id, restore_id)
        except (WrongKey, NotEncrypted):
            raise  # of the backup, not of this one
        except RepositoryError as error:
            found.append(
                RestoreSummary(restore_id=restore_id, status=UNREADABLE, error=str(error), has_offset_map=has_map)
            )
            continue
        if state is None:  # gone since it was listed
            continue
        found.append(
            RestoreSummary(
                restore_id=restore_id,
                status=state.status.value,
                cluster_id=state.cluster_id,
                created_at_ms=state.created_at_ms,
                updated_at_ms=state.updated_at_ms,
                target_topics=tuple(topic.name for topic in state.topics),
                has_offset_map=has_map,
            )
        )
    return sorted(found, key=lambda one: (one.created_at_ms or 0, one.restore_id))


def load_state(store: ObjectStore, backup_id: str, restore_id: str) -> RestoreState | None:
    """What an earlier run noted; None when there was none.

    Raises:
        RestoreStateUnreadable: there is something, but not a state that can be read, or another restore's.
        UnsupportedFormat: it is of another version, or another program's.
        StorageError: the store failed.
    """
    key = restore_state_key(backup_id, restore_id)
    try:
        data = store.get(key, max_bytes=MAX_STATE_BYTES)
    except ObjectMissing:
        return None
    except StorageError as error:
        if error.retriable or isinstance(error, AccessDenied):
            raise
        raise RestoreStateUnreadable(
            f"the restore's state can't be read: {error.message}",
            hint="put back an intact copy of it; or delete it: then everything in the target is compared",
            object=key,
        ) from error
    state = load_restore_state(data, name=key)
    if (state.backup_id, state.restore_id) != (backup_id, restore_id):
        raise RestoreStateUnreadable(
            f"{key}: the restore's state is another restore's: it is in the wrong place",
            hint="move it back to where it belongs",
            object=key,
        )
    return state


def save_state(store: ObjectStore, state: RestoreState) -> None:
    """Replace a restore's state, whole or not at all.

    Raises:
        StorageError: the store failed; an older state is still there.
    """
    store.put(restore_state_key(state.backup_id, state.restore_id), dump_restore_state(state))
