"""Where each archived partition goes: which partitions, to which numbers, and what is wrong with a mapping. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from kbr.errors import UsageError
from kbr.format.documents import TopicEntry
from kbr.model import TopicPartition

__all__ = ["chosen_partitions", "place_partitions", "wanted_count"]

_T = TypeVar("_T")


def place_partitions(
    topics: Sequence[TopicEntry],
    targets: Mapping[str, str],
    partition_mapping: Mapping[str, Mapping[int, int]],
    *,
    chosen: Mapping[str, Collection[int]],
    merge: bool,
) -> dict[TopicPartition, TopicPartition]:
    """Source partition to target partition, for every chosen partition of ``topics``.

    Args:
        targets: from kbr.restore.names.target_names().
        chosen: from chosen_partitions().
        merge: several sources may go to one target.

    Raises:
        UsageError: a mapping names what is not in the backup, or two sources meet on one target.
    """
    unknown = sorted(set(partition_mapping) - set(targets))
    if unknown:
        raise UsageError(
            f"the partition mapping names {', '.join(unknown)}, which is not among the topics to restore",
            hint=f"topics to restore: {', '.join(sorted(targets)[:20])}",
        )
    placed: dict[TopicPartition, TopicPartition] = {}
    taken: dict[TopicPartition, TopicPartition] = {}
    for topic in topics:
        moves = partition_mapping.get(topic.name, {})
        numbers = sorted(chosen[topic.name])
        absent = sorted(number for number in moves if not 0 <= number < topic.partition_count)
        if absent:
            raise UsageError(
                f"the partition mapping of {topic.name} names partition {absent[0]}, "
                f"the backup has 0 to {topic.partition_count - 1}"
            )
        left_out = sorted(number for number in moves if number not in chosen[topic.name])
        if left_out:
            raise UsageError(
                f"the partition mapping of {topic.name} names partition {left_out[0]}, which is not among those to restore",
                hint="choose it with --source-partitions, too, or take it out of the mapping",
            )
        for number in numbers:
            source = TopicPartition(topic.name, number)
            target = TopicPartition(targets[topic.name], moves.get(number, number))
            other = taken.get(target)
            if other is not None and not merge:
                raise UsageError(
                    f"{other} and {source} would both be restored to {target}",
                    hint="map one of them elsewhere, as records of two partitions in one have no order; or say with --merge "
                    "that one is to come behind the other",
                )
            taken[target] = source
            placed[source] = target
    return placed


def chosen_partitions(topics: Sequence[TopicEntry], wanted: Mapping[str, Sequence[int]]) -> dict[str, Collection[int]]:
    """The partitions to restore, by topic: all of them where nothing was said.

    Args:
        wanted: by name or glob of the backup's topics; a topic's own name wins.

    Raises:
        UsageError: it names a topic or a partition that is not there.
    """
    found: dict[str, Collection[int]] = {}
    counts = {one.name: one.partition_count for one in topics}
    for topic, numbers in _by_topic([one.name for one in topics], wanted, "choice of partitions").items():
        count = counts[topic]
        absent = sorted(number for number in numbers if not 0 <= number < count)
        if absent or not numbers:
            which = f"names partition {absent[0]}" if absent else "names no partition"
            raise UsageError(f"the choice of partitions of {topic} {which}, the backup has 0 to {count - 1}")
        found[topic] = frozenset(numbers)
    return {one.name: found.get(one.name, range(one.partition_count)) for one in topics}


def wanted_count(topics: Sequence[TopicEntry], target_partitions: Mapping[str, int]) -> dict[str, int]:
    """The number of partitions that was asked for, by source topic, where one was.

    Raises:
        UsageError: it names a topic that is not there.
    """
    return _by_topic([one.name for one in topics], target_partitions, "number of target partitions")


def _by_topic(names: Sequence[str], values: Mapping[str, _T], what: str) -> dict[str, _T]:
    unknown = sorted(pattern for pattern in values if not any(fnmatchcase(name, pattern) for name in names))
    if unknown:
        raise UsageError(
            f"the {what} names {', '.join(unknown)}, which is not among the topics to restore",
            hint=f"topics to restore: {', '.join(sorted(names)[:20])}",
        )
    found: dict[str, _T] = {}
    for name in names:
        pattern = name if name in values else next((one for one in values if fnmatchcase(name, one)), None)
        if pattern is not None:
            found[name] = values[pattern]
    return found
