"""`kbr offsets`: what a restore's offset mapping says, read only from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from kbr.app.inspect import catalog_of, looked_at_restores, opened_store
from kbr.config import Config
from kbr.errors import OffsetMapMissing, UsageError
from kbr.maintain.describe import restore_document
from kbr.model import TopicPartition
from kbr.repository.offset_maps import MappedSums, OffsetMap, OffsetRangeMap, open_offset_map
from kbr.repository.restore_states import RestoreSummary
from kbr.storage import ObjectStore

__all__ = ["MAX_SHOWN", "offset_ranges", "range_document", "show_offsets"]

#: Ranges that are shown of one partition; an export has all of them.
MAX_SHOWN = 100
#: Topics or partitions that one line names.
MAX_NAMED = 10


def show_offsets(
    config: Config, backup_id: str, *, restore: str | None, topic: str | None, partition: int | None, offset: int | None
) -> dict[str, Any]:
    """Sums of a mapping, the first ranges of one partition, or one offset looked up. JSON-ready.

    Args:
        restore: its restore_id, or the beginning of it; None is the only one that has a mapping.
        topic, partition: of the source; None is all.
        offset: of that partition.

    Raises:
        BackupMissing: there is none of that id.
        OffsetMapMissing: there is no such mapping.
        OffsetMapUnreadable: it is damaged.
        UsageError: an offset without its partition; a topic or partition that there is not.
    """
    if (offset is not None or partition is not None) and (topic is None or (offset is not None and partition is None)):
        raise UsageError("an offset needs its topic and partition, and a partition its topic: -t TOPIC -p N --offset N")
    with opened_store(config) as store:
        restores = _restores(store, config, backup_id)
        chosen = _choose(restores, backup_id, restore)
        document: dict[str, Any] = {
            "backup_id": backup_id,
            "restores": [restore_document(one) for one in restores],
            "mapping": None,
        }
        if chosen is not None:
            found = open_offset_map(store, backup_id, chosen)
            sources = _sources(store, config, backup_id, found, topic, partition)
            document["mapping"] = _mapping(found, sources, topic, partition, offset)
        return document


@contextmanager
def offset_ranges(
    config: Config, backup_id: str, *, restore: str | None, topic: str | None, partition: int | None
) -> Iterator[tuple[str, Iterator[OffsetRangeMap]]]:
    """All ranges of a mapping, one at a time, and the restore_id.

    Raises:
        BackupMissing: there is none of that id.
        OffsetMapMissing: there is no such mapping.
        OffsetMapUnreadable: it is damaged.
        UsageError: several could be meant; a topic or partition that there is not.
    """
    if partition is not None and topic is None:
        raise UsageError("a partition needs its topic: -t TOPIC -p N")
    with opened_store(config) as store:
        restores = _restores(store, config, backup_id)
        chosen = _choose(restores, backup_id, restore)
        if chosen is None:
            names = ", ".join(one.restore_id for one in restores if one.has_offset_map)
            raise UsageError(
                f"backup {backup_id} has several restores: {names}",
                hint="name one with --restore; kbr offsets show tells when and where to they were",
            )
        found = open_offset_map(store, backup_id, chosen)
        sources = _sources(store, config, backup_id, found, topic, partition)
        yield chosen, (one for source in sources for one in found.ranges(source))


def range_document(one: OffsetRangeMap) -> dict[str, Any]:
    """A range, JSON-ready."""
    return {
        "source_topic": one.source.topic,
        "source_partition": one.source.partition,
        "source_start": one.source_start,
        "target_topic": one.target.topic,
        "target_partition": one.target.partition,
        "target_start": one.target_start,
        "count": one.count,
    }


def _restores(store: ObjectStore, config: Config, backup_id: str) -> list[RestoreSummary]:
    restores = looked_at_restores(store, backup_id)
    if not restores:
        # says so where there is no such backup
        catalog_of(store, config).load(backup_id)
    return restores


def _choose(restores: list[RestoreSummary], backup_id: str, name: str | None) -> str | None:
    """The restore_id that is meant; None where several could be, and none is named."""
    if name is not None:
        meant = [one for one in restores if name and one.restore_id.startswith(name)]
        if len(meant) != 1:
            known = ", ".join(one.restore_id for one in restores) or "none"
            what = "no restore" if not meant else "several restores"
            raise OffsetMapMissing(f"backup {backup_id} has {what} {name!a}", hint=f"its restores: {known}")
        return meant[0].restore_id
    mapped = [one for one in restores if one.has_offset_map]
    if not mapped:
        raise OffsetMapMissing(
            f"none of the restores of backup {backup_id} has an offset mapping"
            if restores
            else f"backup {backup_id} has no restore, so no offset mapping",
            hint="a mapping is written when a restore is complete, unless restore.offset_map is off",
        )
    return mapped[0].restore_id if len(mapped) == 1 else None


def _sources(
    store: ObjectStore, config: Config, backup_id: str, found: OffsetMap, topic: str | None, partition: int | None
) -> list[TopicPartition]:
    """The partitions that are asked for and that records were restored of.

    Raises:
        UsageError: the backup has no such topic or partition.
    """
    mapped = found.partitions()
    meant = [one for one in mapped if topic in {None, one.topic} and partition in {None, one.partition}]
    if meant or topic is None:
        return meant
    # it may be one of which no record was restored
    manifest = catalog_of(store, config).load_chosen(backup_id, lambda name: name == topic)
    numbers = {one.partition for entry in manifest.topics if entry.name == topic for one in entry.partitions}
    numbers.update(one.partition for one in mapped if one.topic == topic)
    names = sorted({entry.name for entry in manifest.topics} | {one.topic for one in mapped})
    if topic not in names:
        raise UsageError(f"backup {backup_id} has no topic {topic!a}", hint=f"its topics: {_some(names)}")
    if partition is not None and partition not in numbers:
        raise UsageError(
            f"backup {backup_id} has no partition {partition} of topic {topic}",
            hint=f"its partitions: {_some(list(map(str, sorted(numbers))))}",
        )
    return []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}" if names else "none"


def _mapping(
    found: OffsetMap, sources: list[TopicPartition], topic: str | None, partition: int | None, offset: int | None
) -> dict[str, Any]:
    header = found.header
    shown: list[OffsetRangeMap] = []
    lookup = None
    if topic is not None and partition is not None:
        source = TopicPartition(topic, partition)
        if offset is None:
            shown = list(islice(found.ranges(source), MAX_SHOWN))
        else:
            exact = found.target_offset(source, offset)
            lookup = {
                "source_offset": offset,
                "target": None if exact is None else _place(*exact),
                "first_at_or_after": [_place(*one) for one in found.first_at_or_after(source, offset)],
            }
    return {
        "restore_id": header.restore_id,
        "cluster_id": header.cluster_id,
        "created_at_ms": header.created_at_ms,
        "ranges": found.range_count,
        "records": found.record_count,
        "partitions": [_sums(one) for source in sources for one in found.sums(source)],
        "shown": [range_document(one) for one in shown],
        "lookup": lookup,
    }


def _place(target: TopicPartition, offset: int) -> dict[str, Any]:
    return {"topic": target.topic, "partition": target.partition, "offset": offset}


def _sums(one: MappedSums) -> dict[str, Any]:
    return {
        "source_topic": one.source.topic,
        "source_partition": one.source.partition,
        "target_topic": one.target.topic,
        "target_partition": one.target.partition,
        "ranges": one.range_count,
        "records": one.record_count,
        "source_start_offset": one.source_start,
        "source_end_offset_exclusive": one.source_end,
        "target_start_offset": one.target_start,
        "target_end_offset_exclusive": one.target_end,
    }
