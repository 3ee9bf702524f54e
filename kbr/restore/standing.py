"""Where a restore stands in its target: from an earlier run's notes and from the target's offsets. Pure.

A restored partition holds the plan's records from its base on and nothing else, without holes: so the number of records
that are claimed to be there is its high watermark less its base. Whether they are the plan's, kbr.restore.check tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kbr.errors import KbrError, TopicNotEmpty
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import TopicPartition, TopicSpec
from kbr.restore.plan import PartitionPlan, RestorePlan

__all__ = ["Standing", "known_topics", "stand", "way_out"]

_ELSEWHERE = "restore to another topic with --topic-map, or delete the target topic and run the same command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One target partition.

    Attributes:
        base: target offset of the plan's first record.
        claimed: records from the base on that are there; negative where the target ends before its base.
        log_start: the first offset that is still there.
        noted: the base is from an earlier run's notes; else all that is there has to be compared.
    """

    base: int
    claimed: int
    log_start: int
    noted: bool


def known_topics(
    state: RestoreState | None,
    existing: Mapping[str, TopicSpec],
    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError],
) -> dict[str, RestoredTopic]:
    """What the notes say of target topics that are still the ones they were.

    A topic that was deleted and made again (another topic id, or without ids an end below its base) is another one. One
    that was about to be made when the run ended was made by it: nobody else had one of that name.
    """
    found: dict[str, RestoredTopic] = {}
    for topic in () if state is None else state.topics:
        spec = existing.get(topic.name)
        about_to_be_made = topic.made and not any(base is not None for base in topic.bases)
        if spec is None or (topic.topic_id != spec.topic_id and not about_to_be_made):
            continue
        ends = [
            (known.high_watermark, base)
            for number, base in enumerate(topic.bases)
            if base is not None and isinstance(known := offsets.get(TopicPartition(topic.name, number)), PartitionOffsets)
        ]
        if topic.topic_id or all(end >= base for end, base in ends):
            found[topic.name] = topic
    return found


def stand(
    plan: RestorePlan,
    known: Mapping[str, RestoredTopic],
    status: RestoreStatus | None,
    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError],
    *,
    append: bool,
) -> dict[TopicPartition, Standing]:
    """The standing of every target partition that has offsets; others are left out.

    Args:
        known: from known_topics().
        status: of the earlier run, None when there was none.
        append: to records that are there; after a run that has done all, once more.

    Raises:
        TopicNotEmpty: records are there that can't be compared with the backup, as the first ones are gone.
    """
    found: dict[TopicPartition, Standing] = {}
    again = append and status is RestoreStatus.COMPLETE
    for partition in plan.partitions:
        target = partition.target
        there = offsets.get(target)
        if not isinstance(there, PartitionOffsets):
            continue
        topic = known.get(target.topic)
        base = None if again or topic is None else topic.base(target.partition)
        if base is not None and there.high_watermark < base and not append:
            base = None  # what was there before has lost records: what is there now is compared
        noted = base is not None
        if base is None:
            base = _first_base(partition, there, append=append)
        found[target] = Standing(
            base=base, claimed=there.high_watermark - base, log_start=there.log_start, noted=noted
        )
    return found


def way_out(*, noted: bool, compared: int) -> str:
    """The hint for records that stand in a restore's way: ``--append`` only where it doubles nothing.

    Args:
        noted: an earlier run of this restore has sent them, or some of them.
        compared: how many of the backup's records were found there before the difference.
    """
    if noted:
        return (
            f"{_ELSEWHERE}; --append does not help, as an earlier run of this restore has written into it: it goes on with the "
            "same records, or adds all of them once more"
        )
    if compared:
        return (
            f"{_ELSEWHERE}; it begins with {compared} of the backup's records, from another restore or its source: with "
            "--append they would be there twice"
        )
    return (
        f"{_ELSEWHERE}; or, if what it holds is to stay, add to it with --append: all of the backup's records come behind "
        "what is there, also those that it may hold already"
    )


def _first_base(partition: PartitionPlan, there: PartitionOffsets, *, append: bool) -> int:
    if append or there.log_start == there.high_watermark:
        return there.high_watermark
    if there.log_start == 0:
        return 0
    raise TopicNotEmpty(
        f"target {partition.target} holds records already (offsets {there.log_start} to {there.high_watermark - 1}), and "
        f"those before offset {there.log_start} are gone: they can't be compared with the backup",
        hint=f"{_ELSEWHERE}; only if it has none of the backup's records, add to it with --append: all of them come behind "
        "what is there, and those that are there already would be there twice",
        topic=partition.target.topic,
        partition=partition.target.partition,
    )
