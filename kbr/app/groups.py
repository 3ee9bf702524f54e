"""`kbr groups`: a backup's consumer groups, their places in a restore's target, and the way there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kbr import __version__
from kbr.app.group_places import Restored, find_restore, places_of
from kbr.app.inspect import catalog_of, opened_store
from kbr.app.rollback_file import read_rollback, write_new_file
from kbr.app.wiring import client_settings, required_backup_id
from kbr.config import Config
from kbr.errors import (
    AuthorizationFailed,
    GroupsMissing,
    GroupsUnreadable,
    Incomplete,
    KbrError,
    PreflightRefused,
    StorageError,
    UnsupportedFormat,
)
from kbr.format.documents import MAX_MANIFEST_BYTES
from kbr.format.group_rollback import GroupRollback, dump_rollback
from kbr.format.groups import GroupSnapshot
from kbr.format.restore_state import RestoreStatus
from kbr.kafka.cluster import Cluster
from kbr.model import CommittedOffset
from kbr.repository.catalog import Catalog
from kbr.repository.groups import list_rollbacks, load_group_rollback, load_snapshot, save_group_rollback
from kbr.restore.group_apply import (
    RollbackPlan,
    before_of,
    commit_offsets,
    plan_rollback,
    refuse_active,
    refuse_rewinds,
    roll_back,
)
from kbr.restore.groups import (
    GroupFacts,
    GroupPlan,
    GroupRow,
    Reason,
    choose_groups,
    plan_groups,
)
from kbr.storage import ObjectStore
from kbr.timing import SYSTEM_CLOCK

__all__ = [
    "GroupList",
    "GroupReport",
    "GroupRun",
    "RollbackReport",
    "check_groups",
    "list_groups",
    "move_groups",
    "move_groups_of",
    "refuse_foreign_groups",
    "roll_groups_back",
]


#: It has 13 digits in a rollback file's name.
MAX_CREATED_AT_MS = 10**13 - 1


# -- list ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupList:
    """The groups of a backup."""

    snapshot: GroupSnapshot

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        snapshot = self.snapshot
        return {
            "backup_id": snapshot.backup_id,
            "cluster_id": snapshot.cluster_id,
            "captured_at_ms": snapshot.captured_at_ms,
            "other_offsets": snapshot.other_offsets,
            "unread": dict(snapshot.unread),
            "groups": [
                {
                    "group": one.group,
                    "type": one.kind,
                    "state": one.state,
                    "topics": sorted({key.topic for key in one.offsets}),
                    "offsets": [
                        {
                            "topic": key.topic,
                            "partition": key.partition,
                            "offset": committed.offset,
                            "lag": snapshot.lag(key, committed.offset),
                        }
                        for key, committed in sorted(one.offsets.items())
                    ],
                }
                for one in snapshot.groups
            ],
        }


def list_groups(config: Config, backup_id: str) -> GroupList:
    """What the groups had committed when the backup was taken.

    Raises:
        BackupMissing, GroupsMissing: there is no such backup, or it holds no groups.
        GroupsUnreadable: they are damaged.
    """
    with opened_store(config) as store:
        catalog_of(store, config).load(backup_id)
        return GroupList(snapshot=load_snapshot(store, backup_id))


# -- plan, apply --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """A plan, or what came of it.

    Attributes:
        executed: offsets were committed; else nothing was changed.
        rollback: where the former offsets are kept; empty where nothing was changed.
        failures: why groups are not where they are to be, by group of the target.
    """

    backup_id: str
    restore_id: str
    storage_url: str
    cluster_id: str
    captured_at_ms: int
    plan: GroupPlan
    executed: bool
    rollback: str
    failures: Mapping[str, KbrError]
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 done, 3 not all of it; 1 where rights are missing for all of it."""
        if not self.executed or not (self.failures or self._unplaced):
            return 0
        refused = [group for group, why in self.failures.items() if isinstance(why, AuthorizationFailed)]
        if refused and set(refused) == {*self.failures, *(change.group for change in self.plan.rows)}:
            return AuthorizationFailed.exit_code
        return Incomplete.exit_code

    @property
    def status(self) -> str:
        """planned, complete or incomplete."""
        if not self.executed:
            return "planned"
        return "incomplete" if self.exit_code else "complete"

    @property
    def _unplaced(self) -> bool:
        return any(row.reason is Reason.UNKNOWN for row in self.plan.rows)

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        plan = self.plan
        return {
            "backup_id": self.backup_id,
            "restore_id": self.restore_id,
            "storage": self.storage_url,
            "cluster_id": self.cluster_id,
            "captured_at_ms": self.captured_at_ms,
            "status": self.status,
            "rollback": self.rollback or None,
            "rows": [_row(row) for row in plan.rows],
            "states": dict(plan.states),
            "active": list(plan.active),
            "totals": {
                "groups": len(plan.states) + len(plan.failures),
                "offsets": sum(row.new is not None for row in plan.rows),
                "changes": sum(row.changes for row in plan.rows),
                "rewinds": len(plan.rewinds),
            },
            "failures": {group: _described(error) for group, error in self.failures.items()},
            "warnings": list(self.warnings),
        }


def _row(row: GroupRow) -> dict[str, Any]:
    return {
        "group": row.group,
        "source_group": row.source_group,
        "topic": row.partition.topic,
        "partition": row.partition.partition,
        "old_offset": _offset(row.old),
        "new_offset": _offset(row.new),
        "reason": row.reason.value,
        "rewinds": row.rewinds,
        "why": row.why,
    }


def _offset(one: CommittedOffset | None) -> int | None:
    return None if one is None else one.offset


def _described(error: KbrError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRun:
    """What is to be done to which groups.

    Attributes:
        patterns: names and globs of groups of the backup.
        group_mapping: group of the backup to group of the target.
        execute: commit; else only plan.
        rollback_file: where to keep the former offsets, instead of the store.
        allow_rewind: also commit offsets that are smaller than what the target's group has committed.
    """

    patterns: tuple[str, ...] = ("*",)
    group_mapping: Mapping[str, str] = field(default_factory=dict)
    execute: bool = False
    rollback_file: Path | None = None
    allow_rewind: bool = False


def refuse_foreign_groups(made_by: str) -> None:
    """Groups are placed by the offset mapping that a restore writes into the backup: into another tool's it writes none.

    Args:
        made_by: the tool; empty for kbr.

    Raises:
        PreflightRefused: it is another tool's.
    """
    if made_by:
        raise PreflightRefused(
            f"consumer groups of a backup that was made by {made_by} can be listed, and not put into a cluster: nothing is "
            "written to such a backup, the offset mapping that they are placed by neither",
            hint="restore without them; restore.include_original_offset_header: true adds each record's source offset to it",
        )


def check_groups(store: ObjectStore, backup_id: str, run: GroupRun) -> None:
    """See that there are the groups that are asked for, before a restore begins.

    Raises:
        GroupsMissing, GroupsUnreadable: the backup has none, or they are damaged.
        UsageError: a name or a mapping means no group.
    """
    choose_groups(load_snapshot(store, backup_id).groups, run.patterns, run.group_mapping)


def move_groups(config: Config, run: GroupRun, *, restore_id: str | None) -> GroupReport:
    """Put groups of the target where they have read to, or plan it.

    Args:
        restore_id: which restore; None for the only one into the target.

    Raises:
        OffsetMapMissing, GroupsMissing: there is no such restore, or the backup holds no groups.
        GroupActive: a group that is to be changed has members; nothing was changed.
        GroupRewind: a group would move back, and is not allowed to; nothing was changed.
        PreflightRefused: the restore is not complete, or the former offsets can't be kept; nothing was changed.
    """
    backup_id = required_backup_id(config)
    with (
        opened_store(config) as store,
        Cluster(client_settings(config.target), deadline_s=config.target.deadline_ms / 1000) as cluster,
    ):
        return move_groups_of(
            store,
            cluster,
            backup_id,
            run,
            restore_id=restore_id,
            max_manifest_bytes=config.limits.max_manifest_bytes,
        )


def move_groups_of(
    store: ObjectStore,
    cluster: Cluster,
    backup_id: str,
    run: GroupRun,
    *,
    restore_id: str | None,
    is_complete: bool = False,
    max_manifest_bytes: int = MAX_MANIFEST_BYTES,
) -> GroupReport:
    """As move_groups(), with what is open already.

    Args:
        is_complete: all records of the restore are there, whatever its notes say yet.
    """
    manifest = Catalog(store, max_manifest_bytes=max_manifest_bytes).load(backup_id)
    refuse_foreign_groups(manifest.made_by)
    snapshot = load_snapshot(store, backup_id)
    restored = find_restore(store, cluster, backup_id, restore_id)
    if is_complete:
        restored = replace(restored, state=replace(restored.state, status=RestoreStatus.COMPLETE))
    if run.execute and not restored.is_complete:
        raise PreflightRefused(
            f"restore {restored.restore_id} is not complete: groups would be put where records are still missing",
            hint="run the same kbr restore again, and this command then",
        )
    chosen = choose_groups(snapshot.groups, run.patterns, run.group_mapping)
    places = places_of(store, cluster, manifest, restored, chosen.values())
    groups = cluster.groups
    facts = GroupFacts(
        offsets=places.offsets, committed=groups.committed(list(chosen)), standings=groups.describe(list(chosen))
    )
    plan = plan_groups(chosen, places.offset_map, facts, places.archive_ends, places.record_ends)
    rollback = ""
    failures = dict(plan.failures)
    if run.execute and plan.changes:
        refuse_active(plan.active)
        if not run.allow_rewind:
            refuse_rewinds(plan.rewinds)
        rollback = _keep_former(store, plan, facts, restored, run.rollback_file)
        failures.update(commit_offsets(groups, plan.changes))
    return GroupReport(
        backup_id=backup_id,
        restore_id=restored.restore_id,
        storage_url=store.url,
        cluster_id=restored.cluster_id,
        captured_at_ms=snapshot.captured_at_ms,
        plan=plan,
        executed=run.execute,
        rollback=rollback,
        failures=failures,
        warnings=(
            *places.warnings,
            *(f"group {group} could not be read when the backup was taken: {why}" for group, why in snapshot.unread.items()),
        ),
    )


def _keep_former(
    store: ObjectStore, plan: GroupPlan, facts: GroupFacts, restored: Restored, file: Path | None
) -> str:
    """Write what the groups have now, before anything of it is changed; where it lies."""
    last = _last_kept(store, restored)
    former = GroupRollback(
        kbr_version=__version__,
        backup_id=restored.backup_id,
        restore_id=restored.restore_id,
        cluster_id=restored.cluster_id,
        # the newest is found by it, also where a clock was set back
        created_at_ms=max(SYSTEM_CLOCK.now_ms(), 0 if last is None else min(last.created_at_ms + 1, MAX_CREATED_AT_MS)),
        groups=before_of(plan, facts.committed, facts.standings, last),
    )
    if file is not None:
        write_new_file(file, dump_rollback(former))
        return str(file)
    try:
        return save_group_rollback(store, former)
    except StorageError as error:
        if error.retriable:
            raise
        raise PreflightRefused(
            f"what the groups have committed can't be kept in the backup ({error}); nothing was committed",
            hint="give a file for it with --rollback-file",
        ) from error


def _last_kept(store: ObjectStore, restored: Restored) -> GroupRollback | None:
    keys = list_rollbacks(store, restored.backup_id, restored.restore_id)
    try:
        return load_group_rollback(store, keys[-1]) if keys else None
    except (GroupsUnreadable, UnsupportedFormat):
        return None  # a way back of its own is written all the same


# -- rollback -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackReport:
    """A way back, or what came of it."""

    backup_id: str
    restore_id: str
    source: str
    created_at_ms: int
    plan: RollbackPlan
    executed: bool
    failures: Mapping[str, KbrError]

    @property
    def exit_code(self) -> int:
        """0 done, 3 not all of it."""
        return Incomplete.exit_code if self.executed and (self.failures or self.plan.staying) else 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        status = "incomplete" if self.exit_code else "complete"
        return {
            "backup_id": self.backup_id,
            "restore_id": self.restore_id,
            "rollback": self.source,
            "created_at_ms": self.created_at_ms,
            "status": status if self.executed else "planned",
            "rows": [
                {
                    "group": row.group,
                    "topic": row.partition.topic,
                    "partition": row.partition.partition,
                    "old_offset": _offset(row.now),
                    "new_offset": _offset(row.now if row.stays else row.before),
                    "why": row.why,
                }
                for row in self.plan.rows
            ],
            "deleted": list(self.plan.deleted),
            "active": list(self.plan.active),
            "staying": self.plan.staying,
            "failures": {group: _described(error) for group, error in self.failures.items()},
        }


def roll_groups_back(
    config: Config,
    *,
    restore_id: str | None,
    file: Path | None,
    patterns: Sequence[str],
    execute: bool,
) -> RollbackReport:
    """Give groups of the target back what they had before the last apply, or plan it.

    Args:
        restore_id: which restore; None for the only one into the target.
        file: the rollback file, where it is not in the store.
        patterns: names and globs of groups of the target.

    Raises:
        GroupsMissing: nothing was applied.
        GroupActive: a group that is to be changed has members; nothing was changed.
        PreflightRefused: the file is of another cluster.
    """
    backup_id = required_backup_id(config)
    with (
        opened_store(config) as store,
        Cluster(client_settings(config.target), deadline_s=config.target.deadline_ms / 1000) as cluster,
    ):
        former, source = _former(store, cluster, backup_id, restore_id, file, patterns)
        if former.cluster_id != cluster.info().cluster_id:
            raise PreflightRefused(
                f"{source}: these are offsets of cluster {former.cluster_id:.100}, not of the target",
                hint="check target.bootstrap_servers",
            )
        names = _named(former, patterns)
        groups = cluster.groups
        plan = plan_rollback(former, names, groups.committed(names), groups.describe(names))
        failures = roll_back(groups, plan) if execute else dict(plan.failures)
    return RollbackReport(
        backup_id=former.backup_id,
        restore_id=former.restore_id,
        source=source,
        created_at_ms=former.created_at_ms,
        plan=plan,
        executed=execute,
        failures=failures,
    )


def _named(former: GroupRollback, patterns: Sequence[str]) -> list[str]:
    return [one.group for one in former.groups if any(fnmatchcase(one.group, pattern) for pattern in patterns)]


def _former(
    store: ObjectStore,
    cluster: Cluster,
    backup_id: str,
    restore_id: str | None,
    file: Path | None,
    patterns: Sequence[str],
) -> tuple[GroupRollback, str]:
    """The newest that has any of the groups, and where it lies."""
    if file is not None:
        try:
            return read_rollback(file), str(file)
        except OSError as error:
            raise GroupsMissing(f"can't read {file}: {error.strerror}", hint="check its name") from error
    restored = find_restore(store, cluster, backup_id, restore_id)
    for key in reversed(list_rollbacks(store, backup_id, restored.restore_id)):
        former = load_group_rollback(store, key)
        if _named(former, patterns):
            return former, key
    raise GroupsMissing(
        f"no such groups were put after restore {restored.restore_id}: there is nothing to go back to",
        hint="if apply was told to keep the former offsets in a file, name it with --file",
    )
