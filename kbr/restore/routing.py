"""How the records of some source partitions are spread over the partitions of a target topic. Pure.

What a target partition gets is a fixed sequence: source partitions in order, of each the records that the partitioner
gives to it, in their order. So it is always told again which record comes n-th, and a restore that was interrupted can
go on. Records with one key stay in order as far as they came from one source partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kbr.errors import CorruptSegment, UsageError
from kbr.format.oso_names import segment_partition
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.layout import parse_segment_key
from kbr.secrecy import cut
from kbr_codec import Partitioner

__all__ = ["PARTITIONERS", "LaneName", "Routing", "partitioner_of", "source_of"]

#: As users name them.
PARTITIONERS: Mapping[str, Partitioner] = {
    "original": Partitioner.ORIGINAL,
    "murmur2": Partitioner.MURMUR2,
    "consistent": Partitioner.CONSISTENT,
    "round-robin": Partitioner.ROUND_ROBIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """One target topic's.

    Attributes:
        partitioner: not ORIGINAL.
        partition_count: of the target topic.
        positions: by the key of a segment, the position of its first record: it counts all records of the source
            partition in the backup, whatever the time window, from the partition's number on.
    """

    partitioner: Partitioner
    partition_count: int
    positions: Mapping[str, int]


class LaneName(TopicPartition):
    """Names what goes to one target partition from all partitions of a source topic; ``partition`` is the target's."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.topic} for target partition {self.partition}"


def partitioner_of(word: str) -> Partitioner:
    """A partitioner by its name.

    Raises:
        UsageError: there is none of that name.
    """
    found = PARTITIONERS.get(word)
    if found is None:
        raise UsageError(f"no such partitioner: {word}", hint=f"there are {', '.join(PARTITIONERS)}")
    return found


def source_of(reference: SegmentRef) -> TopicPartition:
    """The partition that a segment is of.

    Raises:
        CorruptSegment: its key is none.
    """
    if reference.is_foreign:
        found = segment_partition(reference.key)
    else:
        name = parse_segment_key(reference.key)
        found = None if name is None else TopicPartition(name.topic, name.partition)
    if found is None:
        raise CorruptSegment(f"{cut(reference.key, 400)!a} is not the key of a segment", object=reference.key, position=0)
    return found
