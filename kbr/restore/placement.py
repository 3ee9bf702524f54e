"""Where each archived partition goes: topic and partition mapping, and what is wrong with one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kbr.errors import UsageError
from kbr.format.documents import TopicEntry
from kbr.model import TopicPartition

__all__ = ["place_partitions"]


def place_partitions(
    topics: Sequence[TopicEntry],
    topic_mapping: Mapping[str, str],
    partition_mapping: Mapping[str, Mapping[int, int]],
) -> dict[TopicPartition, TopicPartition]:
    """Source partition to target partition, for every partition of ``topics``.

    Raises:
        UsageError: a mapping names what is not in the backup, or two sources meet on one target.
    """
    names = {topic.name for topic in topics}
    for what, mapping in (("topic", topic_mapping), ("partition", partition_mapping)):
        unknown = sorted(set(mapping) - names)
        if unknown:
            raise UsageError(
                f"the {what} mapping names {', '.join(unknown)}, which is not among the topics to restore",
                hint=f"topics to restore: {', '.join(sorted(names)[:20])}",
            )
    placed: dict[TopicPartition, TopicPartition] = {}
    taken: dict[TopicPartition, TopicPartition] = {}
    for topic in topics:
        moves = partition_mapping.get(topic.name, {})
        absent = sorted(number for number in moves if not 0 <= number < topic.partition_count)
        if absent:
            raise UsageError(
                f"the partition mapping of {topic.name} names partition {absent[0]}, "
                f"the backup has 0 to {topic.partition_count - 1}"
            )
        target_topic = topic_mapping.get(topic.name, topic.name)
        for number in range(topic.partition_count):
            source = TopicPartition(topic.name, number)
            target = TopicPartition(target_topic, moves.get(number, number))
            other = taken.get(target)
            if other is not None:
                raise UsageError(
                    f"{other} and {source} would both be restored to {target}",
                    hint="map one of them elsewhere: records of two partitions in one have no order",
                )
            taken[target] = source
            placed[source] = target
    return placed
