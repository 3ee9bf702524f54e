"""Where consumer group offsets lie: those of a backup, and those that a restore's groups had before."""

from __future__ import annotations

from contextlib import suppress

from kbr.errors import GroupsMissing, GroupsUnreadable, ObjectMissing
from kbr.format.group_rollback import MAX_ROLLBACK_BYTES, GroupRollback, dump_rollback, load_rollback
from kbr.format.groups import MAX_GROUPS_BYTES, GroupSnapshot, dump_groups, load_groups
from kbr.format.oso_groups import load_oso_groups
from kbr.format.oso_names import GROUPS_NAME
from kbr.repository.layout import backup_folder, group_rollback_key, groups_key, is_group_rollback_key, restore_folder
from kbr.storage.base import ObjectStore

__all__ = ["list_rollbacks", "load_group_rollback", "load_snapshot", "save_group_rollback", "save_snapshot"]


def load_snapshot(store: ObjectStore, backup_id: str) -> GroupSnapshot:
    """The groups of a backup, of another tool's, too.

    Raises:
        GroupsMissing: it holds none.
        GroupsUnreadable: there is something, but not what can be read, or another backup's.
        UnsupportedFormat: it is of another version, or another program's.
        StorageError: the store failed.
    """
    key = groups_key(backup_id)
    try:
        data = store.get(key, max_bytes=MAX_GROUPS_BYTES)
    except ObjectMissing as error:
        foreign = f"{backup_folder(backup_id)}{GROUPS_NAME}"
        with suppress(ObjectMissing):
            return load_oso_groups(store.get(foreign, max_bytes=MAX_GROUPS_BYTES), backup_id=backup_id, name=foreign)
        raise GroupsMissing(
            f"backup {backup_id} holds no consumer group offsets",
            hint="back up with --groups (backup.consumer_groups: true)",
            object=key,
        ) from error
    snapshot = load_groups(data, name=key)
    if snapshot.backup_id != backup_id:
        raise GroupsUnreadable(
            f"{key}: these are the groups of backup {snapshot.backup_id}: the file is in the wrong place",
            hint="move it back to where it belongs",
            object=key,
        )
    return snapshot


def save_snapshot(store: ObjectStore, snapshot: GroupSnapshot) -> None:
    """Replace a backup's groups, whole or not at all.

    Raises:
        GroupsUnreadable: it is larger than what is read again; the one before it stays.
        StorageError: the store failed; the one before it is still there.
    """
    key = groups_key(snapshot.backup_id)
    data = dump_groups(snapshot)
    if len(data) > MAX_GROUPS_BYTES:
        raise GroupsUnreadable(
            f"{key}: the group offsets would have {len(data)} bytes, more than the {MAX_GROUPS_BYTES} that are read again",
            hint="name the groups that matter in backup.consumer_groups",
            object=key,
        )
    store.put(key, data)


def save_group_rollback(store: ObjectStore, rollback: GroupRollback) -> str:
    """Write what groups had before; its key.

    Raises:
        StorageError: the store failed.
    """
    key = group_rollback_key(rollback.backup_id, rollback.restore_id, rollback.created_at_ms)
    store.put(key, dump_rollback(rollback))
    return key


def list_rollbacks(store: ObjectStore, backup_id: str, restore_id: str) -> list[str]:
    """Keys of what the groups of a restore had before, the oldest first."""
    prefix = f"{restore_folder(backup_id, restore_id)}/"
    return sorted(
        info.key for info in store.list(prefix) if is_group_rollback_key(backup_id, restore_id, info.key)
    )


def load_group_rollback(store: ObjectStore, key: str) -> GroupRollback:
    """Read one of them.

    Raises:
        GroupsUnreadable: it is no such file, or damaged.
        StorageError: the store failed.
    """
    return load_rollback(store.get(key, max_bytes=MAX_ROLLBACK_BYTES), name=key)
