"""Which restore is meant, what it put where, and what the target says of it now: what plans for groups are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kbr.errors import KbrError, OffsetMapMissing, PreflightRefused, TopicMissing, UsageError
from kbr.format.documents import Manifest
from kbr.format.restore_state import RestoreState, RestoreStatus
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.model import GroupOffsets, TopicPartition
from kbr.repository.offset_maps import open_offset_map
from kbr.repository.restore_states import list_restores, load_state
from kbr.restore.groups import OffsetMap, WithEmptyPartitions, infer_empty
from kbr.storage import ObjectStore

__all__ = ["Places", "Restored", "find_restore", "places_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A restore, as it noted itself."""

    state: RestoreState

    @property
    def backup_id(self) -> str:
        return self.state.backup_id

    @property
    def restore_id(self) -> str:
        return self.state.restore_id

    @property
    def cluster_id(self) -> str:
        return self.state.cluster_id

    @property
    def is_complete(self) -> bool:
        return self.state.status is RestoreStatus.COMPLETE

    @property
    def bases(self) -> dict[TopicPartition, int]:
        """By target partition, its end before the restore."""
        return {
            TopicPartition(topic.name, number): base
            for topic in self.state.topics
            for number, base in enumerate(topic.bases)
            if base is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where records of groups' partitions are.

    Attributes:
        archive_ends: by source partition, one past the last offset that the backup answers for.
        record_ends: by source partition, one past the backup's last record.
        offsets: of the logs of the target partitions that the groups are put in.
    """

    offset_map: OffsetMap
    archive_ends: Mapping[TopicPartition, int]
    record_ends: Mapping[TopicPartition, int]
    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError]
    warnings: tuple[str, ...]


def find_restore(store: ObjectStore, cluster: Cluster, backup_id: str, name: str | None) -> Restored:
    """The restore that was named, or the only one into the target.

    Args:
        name: its id, or the beginning of it.

    Raises:
        OffsetMapMissing: there is none.
        UsageError: there are several.
        PreflightRefused: it went into another cluster.
        RestoreStateUnreadable: its notes are damaged.
    """
    cluster_id = cluster.info().cluster_id
    restores = list_restores(store, backup_id)
    meant = [
        one
        for one in restores
        if (one.cluster_id == cluster_id if name is None else name and one.restore_id.startswith(name))
    ]
    if not meant:
        known = ", ".join(one.restore_id for one in restores) or "none"
        raise OffsetMapMissing(
            f"backup {backup_id} knows no restore into this cluster"
            if name is None
            else f"backup {backup_id} has no restore {name!a}",
            hint=f"its restores: {known}; a restore notes itself in the backup, where it may write there",
        )
    if len(meant) > 1:
        names = "; ".join(f"{one.restore_id} ({_topics_text(one.target_topics)})" for one in meant)
        raise UsageError(
            f"backup {backup_id} has several such restores", hint=f"name one with --restore: {names}"
        )
    state = load_state(store, backup_id, meant[0].restore_id)
    if state is None:
        raise OffsetMapMissing(f"restore {meant[0].restore_id} of backup {backup_id} is gone", hint="restore again")
    if state.cluster_id != cluster_id:
        raise PreflightRefused(
            f"restore {state.restore_id} went into cluster {state.cluster_id:.100}, the target is {cluster_id}",
            hint="check target.bootstrap_servers",
        )
    return Restored(state=state)


def _topics_text(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def places_of(
    store: ObjectStore,
    cluster: Cluster,
    manifest: Manifest,
    restored: Restored,
    groups: Iterable[GroupOffsets],
) -> Places:
    """All that is to be known to place these groups.

    Raises:
        OffsetMapMissing: the restore has kept no offset map.
    """
    warnings: list[str] = []
    if not restored.is_complete:
        warnings.append(f"restore {restored.restore_id} is not complete: these are the places as far as it has come")
    sources = {
        TopicPartition(topic.name, one.partition): one.next_offset
        for topic in manifest.topics
        for one in topic.partitions
    }
    offset_map = open_offset_map(store, restored.backup_id, restored.restore_id)
    whole = WithEmptyPartitions(offset_map, infer_empty(sources, offset_map, restored.bases))
    used = sorted({source for group in groups for source in group.offsets})
    wanted = {target for source in used for target, _ in whole.first_at_or_after(source, 0)}
    same = _still_the_same(cluster, restored.state, {one.topic for one in wanted}, warnings)
    there = sorted(one for one in wanted if one.partition < same.get(one.topic, 0))
    return Places(
        offset_map=whole,
        archive_ends=sources,
        record_ends={
            TopicPartition(topic.name, one.partition): one.segments[-1].end_offset + 1
            for topic in manifest.topics
            for one in topic.partitions
            if one.segments
        },
        offsets=cluster.offsets(there, "read_uncommitted") if there else {},
        warnings=tuple(warnings),
    )


def _still_the_same(
    cluster: Cluster, state: RestoreState, names: Iterable[str], warnings: list[str]
) -> dict[str, int]:
    """Partition counts of the target topics that are the ones that were restored to."""
    there = {name for name, _internal, _count in cluster.topics()}
    present = sorted(set(names) & there)
    try:
        specs = cluster.describe_topics(present) if present else {}
    except TopicMissing:
        specs = {}
    hidden = cluster.topics_without(sorted(set(names) - there), "Describe")
    found: dict[str, int] = {}
    for name in sorted(names):
        noted, spec = state.topic(name), specs.get(name)
        if spec is None and name in hidden:
            raise cluster.right_error([name], "Describe", "looking for the restored topics")
        if spec is None:
            warnings.append(f"{name}: there is no such topic any more")
        elif noted is not None and noted.topic_id and spec.topic_id != noted.topic_id:
            warnings.append(f"{name}: the topic was deleted and made again since the restore: its offsets are others")
        else:
            found[name] = spec.partition_count
    return found
