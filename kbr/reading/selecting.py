"""Which partitions of a backup are meant, and what is not there of them. Pure but for the archive's own look-ups."""

from __future__ import annotations

from collections.abc import Sequence

from kbr.errors import UsageError
from kbr.kafka.selection import missing_topics, select_topics
from kbr.model import TopicPartition
from kbr.reading.archive import Archive, ArchivedPartition
from kbr.repository.window import Window

__all__ = ["gap_notes", "select_partitions"]

#: Names that a message lists.
_SHOWN = 20


def select_partitions(
    archive: Archive, topics: Sequence[str] = (), partitions: Sequence[int] = ()
) -> list[TopicPartition]:
    """The partitions that are meant, in the order in which they are read: by topic, then by number.

    Args:
        topics: names and globs; none are all.
        partitions: numbers, of each of the topics; none are all. A topic that a glob found, or none was named, is passed
            over where it has no such partition, if another one has it.

    Raises:
        UsageError: the backup has no such topic or partition.
    """
    names = archive.topics()
    chosen = list(names)
    if topics:
        missing = missing_topics(names, topics, ())
        if missing:
            raise UsageError(
                f"backup {archive.backup_id} has no topic {', '.join(missing[:_SHOWN])}", hint=_topics_hint(names)
            )
        # one that is named or matched is wanted, whatever it is for Kafka
        chosen = select_topics([(name, False, 0) for name in names], topics, (), include_internal=True)
    counts = {name: archive.partition_count(name) for name in chosen}
    for number in sorted(set(partitions)):
        for name, count in counts.items():
            if not 0 <= number < count and (name in topics or number < 0 or number >= max(counts.values())):
                raise UsageError(f"topic {name} of backup {archive.backup_id} has no partition {number}: it has {count}")
    return [
        TopicPartition(name, number)
        for name, count in counts.items()
        for number in (sorted(set(partitions)) if partitions else range(count))
        if number < count
    ]


def gap_notes(partition: ArchivedPartition, window: Window) -> list[str]:
    """What the window asks for and the backup says that it has not, a sentence for each gap."""
    return [
        f"{partition.key}: offsets {gap.start_offset} to {gap.end_offset_exclusive - 1} are not in the backup "
        f"({gap.reason.value})"
        for gap in partition.gaps
        if gap.start_offset < window.end_offset_exclusive and gap.end_offset_exclusive > window.start_offset
    ]


def _topics_hint(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"its topics: {', '.join(names[:_SHOWN])}{more}" if names else "it has no topic at all"
