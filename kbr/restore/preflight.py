"""What stands against a restore, found before the first record is sent. Pure: from plan and facts.

A refusal means that the restore would fail half-way, or that what it wrote would not stay as it was. All findings come
in one message, each with what helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kbr.errors import KbrError, PreflightRefused, TopicMissing
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import SegmentRef, TopicPartition
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, TopicPlan
from kbr.restore.window import TimeWindow

__all__ = ["TargetFacts", "check_places", "check_restore", "effective_configs"]

#: A record batch's own header and a record's fields around key, value and headers, generously.
BATCH_OVERHEAD_BYTES = 512
#: Configs that keep a broker from taking timestamps that lie too far from its own time; the last one is that of brokers
#: before 3.6 (KIP-937), for both sides.
_BEFORE = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms")
_AFTER = ("message.timestamp.after.max.ms", "message.timestamp.difference.max.ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """What the target cluster said.

    Attributes:
        offsets: of the partitions of existing target topics.
        configs: effective configs of existing target topics; a topic is absent where the broker can't tell.
        defaults: what a new topic gets without configs of its own, as far as the brokers say.
        restored_before: topics that an earlier run of this restore has made, and whose configs it may change.
        now_ms: its time, for retention.
    """

    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError]
    configs: Mapping[str, Mapping[str, str]]
    defaults: Mapping[str, str] = field(default_factory=dict)
    restored_before: frozenset[str] = frozenset()
    now_ms: int


def effective_configs(topic: TopicPlan, facts: TargetFacts) -> Mapping[str, str]:
    """A target topic's configs, or those that it will have; what nobody says is absent."""
    if topic.exists:
        return facts.configs.get(topic.target.name, {})
    return {**facts.defaults, **(topic.target.configs or {})}


def check_places(plan: RestorePlan, options: RestoreOptions, facts: TargetFacts) -> None:
    """Refuse where partitions have no place to go to.

    Raises:
        TopicMissing: a target topic is missing and ``create_topics`` is off.
        PreflightRefused: a topic has too few partitions, or one whose offsets can't be had.
    """
    findings: list[str] = []
    for topic in plan.topics:
        if not topic.exists and not options.create_topics:
            raise TopicMissing(
                f"target topic {topic.target.name} does not exist",
                hint="create it, or set restore.create_topics: true",
                topic=topic.target.name,
            )
        if topic.exists:
            findings.extend(_partition_findings(plan, topic, facts))
    _refuse(findings)


def check_restore(plan: RestorePlan, options: RestoreOptions, facts: TargetFacts) -> tuple[str, ...]:
    """Refuse, or return warnings. Topics that get no records are not looked at.

    Args:
        plan: what is left to send.

    Raises:
        PreflightRefused: the target would refuse, change or delete records; all findings in one message.
    """
    findings: list[str] = []
    warnings: list[str] = []
    for topic in plan.topics:
        load = _Load.of(plan, topic)
        if not load.segments:
            continue
        configs = effective_configs(topic, facts)
        findings.extend(_size_findings(topic, configs, load))
        findings.extend(_timestamp_findings(topic, configs, load, facts))
        findings.extend(_replica_findings(topic, configs))
        cleanup = [*_retention_findings(topic, configs, load, facts.now_ms), *_compaction_findings(topic, configs)]
        (warnings if options.accept_cleanup else findings).extend(cleanup)
        warnings.extend(_size_warnings(topic, configs, load))
    _refuse(findings)
    return tuple(warnings)


def _refuse(findings: list[str]) -> None:
    if findings:
        raise PreflightRefused("the restore would not end well: " + "; ".join(findings), findings=findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What a topic gets.

    ``oldest`` and ``newest`` are timestamps of records, as far as the manifest tells them; None where no record has one.
    """

    segments: tuple[SegmentRef, ...]
    largest_record: int
    oldest: int | None
    newest: int | None
    #: Of the partition that gets most: stored bytes of segments that lie in the window whole, and raw bytes of all.
    least_bytes: int
    most_bytes: int

    @classmethod
    def of(cls, plan: RestorePlan, topic: TopicPlan) -> _Load:
        partitions = [one for one in plan.partitions if one.target.topic == topic.target.name]
        # partitions that a topic's records are spread over share their segments: each has about the same part of them
        lanes = [one for one in partitions if one.routing is not None]
        longest = max(lanes, key=lambda one: len(one.segments), default=None)
        partitions = [one for one in partitions if one.routing is None]
        segments = tuple(ref for one in partitions for ref in one.segments)
        window = plan.window
        windows = [(one, one.window(window)) for one in partitions]
        spread = () if longest is None else longest.segments
        part = 1 if longest is None or longest.routing is None else longest.routing.partition_count
        segments += spread
        stamps = [_clip(stamp, window) for ref in segments for stamp in _stamps(ref)]
        return cls(
            segments=segments,
            largest_record=max((ref.max_record_bytes for ref in segments), default=0),
            oldest=min(stamps, default=None),
            newest=max(stamps, default=None),
            # the fullest has at least the mean, and at most all
            least_bytes=max(
                *(sum(ref.stored_bytes for ref in one.segments if wanted.covers(ref)) for one, wanted in windows),
                sum(ref.stored_bytes for ref in spread if window.covers(ref)) // part,
                0,
            ),
            most_bytes=max(
                *(sum(ref.raw_bytes for ref in one.segments) for one in partitions),
                sum(ref.raw_bytes for ref in spread),
                0,
            ),
        )


def _stamps(ref: SegmentRef) -> Iterable[int]:
    """A segment's extreme timestamps; records without one (-1) have no say, and the first and last stand in."""
    if ref.is_foreign:
        return tuple(one for one in (ref.start_timestamp, ref.end_timestamp) if one >= 0)
    if ref.min_timestamp >= 0:
        return (ref.min_timestamp, ref.max_timestamp)
    return tuple(one for one in (ref.start_timestamp, ref.end_timestamp, ref.max_timestamp) if one >= 0)


def _clip(stamp: int, window: TimeWindow) -> int:
    return min(max(stamp, window.start_ms), window.end_ms)


def _number(configs: Mapping[str, str], name: str) -> int | None:
    try:
        return int(configs[name])
    except (KeyError, ValueError):
        return None


def _change(topic: TopicPlan, name: str, value: object) -> str:
    """How to give a target topic another config."""
    if topic.exists:
        return f"set {name}={value} on {topic.target.name}"
    return f"add --topic-config {name}={value}"


def _partition_findings(plan: RestorePlan, topic: TopicPlan, facts: TargetFacts) -> list[str]:
    targets = [partition.target for partition in plan.partitions if partition.target.topic == topic.target.name]
    highest = max(target.partition for target in targets)
    if highest >= topic.target.partition_count:
        return [
            f"{topic.target.name} has {topic.target.partition_count} partitions, the restore needs {highest + 1}: add "
            "partitions to it (--existing-topics apply does), or map partitions with --partition-map"
        ]
    spread = next((one.routing for one in plan.partitions if one.routing and one.target.topic == topic.target.name), None)
    if spread is not None and spread.partition_count != topic.target.partition_count:
        return [
            f"{topic.target.name} has {topic.target.partition_count} partitions, and the records are to be spread over "
            f"{spread.partition_count}: their keys would not lie where clients look for them; give it that many partitions, "
            "or leave --target-partitions out"
        ]
    return [str(found) for target in targets if isinstance(found := facts.offsets.get(target), KbrError)]


def _size_findings(topic: TopicPlan, configs: Mapping[str, str], load: _Load) -> list[str]:
    limit = _number(configs, "max.message.bytes")
    needed = load.largest_record + BATCH_OVERHEAD_BYTES
    # The limit counts the compressed batch, so a large record may still fit; nobody knows before it is sent.
    if limit is None or needed <= limit:
        return []
    return [
        f"{topic.target.name} takes batches of up to {limit} bytes (max.message.bytes), the largest record of the "
        f"backup has {load.largest_record}: {_change(topic, 'max.message.bytes', needed)}"
    ]


def _timestamp_findings(topic: TopicPlan, configs: Mapping[str, str], load: _Load, facts: TargetFacts) -> list[str]:
    name = topic.target.name
    if configs.get("message.timestamp.type") == "LogAppendTime" and name not in facts.restored_before:
        return [
            f"{name} has message.timestamp.type=LogAppendTime, every timestamp would become the time of the restore: "
            f"{_change(topic, 'message.timestamp.type', 'CreateTime')}{' while you restore' if topic.exists else ''}"
        ]
    found = []
    for keys, distance, which in (
        (_BEFORE, None if load.oldest is None else facts.now_ms - load.oldest, "oldest"),
        (_AFTER, None if load.newest is None else load.newest - facts.now_ms, "newest"),
    ):
        for key in keys:
            limit = _number(configs, key)
            if distance is not None and limit is not None and distance > limit:
                side = "before" if which == "oldest" else "after"
                found.append(
                    f"{name} takes no timestamps of more than {limit} ms {side} its own time ({key}), the {which} "
                    f"record is {distance} ms {side} it: {_change(topic, key, 2**63 - 1)}"
                )
    return found


def _replica_findings(topic: TopicPlan, configs: Mapping[str, str]) -> list[str]:
    wanted = _number(configs, "min.insync.replicas")
    # of a new topic, the note about a smaller replication factor tells
    if not topic.exists or wanted is None or wanted <= topic.target.replication_factor:
        return []
    return [
        f"{topic.target.name} has {topic.target.replication_factor} replicas of each partition and takes writes with "
        f"{wanted} in sync only: {_change(topic, 'min.insync.replicas', topic.target.replication_factor)}"
    ]


_ACCEPT = "or accept it with --set restore.accept_cleanup=true"


def _retention_findings(topic: TopicPlan, configs: Mapping[str, str], load: _Load, now_ms: int) -> list[str]:
    if "delete" not in configs.get("cleanup.policy", "delete"):
        return []
    name = topic.target.name
    found = []
    retention_ms = _number(configs, "retention.ms")
    if retention_ms is not None and retention_ms >= 0 and load.oldest is not None and load.oldest < now_ms - retention_ms:
        found.append(
            f"{name} keeps records for {retention_ms} ms (retention.ms), the oldest one is {now_ms - load.oldest} ms "
            f"old and would be deleted soon: {_change(topic, 'retention.ms', -1)}, {_ACCEPT}"
        )
    retention_bytes = _number(configs, "retention.bytes")
    if retention_bytes is not None and 0 <= retention_bytes < load.least_bytes:
        found.append(
            f"{name} keeps {retention_bytes} bytes of a partition (retention.bytes), the backup has {load.least_bytes} "
            f"of one, compressed; the oldest would be deleted soon: {_change(topic, 'retention.bytes', -1)}, {_ACCEPT}"
        )
    return found


def _compaction_findings(topic: TopicPlan, configs: Mapping[str, str]) -> list[str]:
    if "compact" not in configs.get("cleanup.policy", "") or "compact" in topic.source_cleanup:
        return []
    return [
        f"{topic.target.name} is compacted (cleanup.policy), {topic.source} was not: records whose key comes again would "
        f"be removed, and those without a key are refused: {_change(topic, 'cleanup.policy', 'delete')}, {_ACCEPT}"
    ]


def _size_warnings(topic: TopicPlan, configs: Mapping[str, str], load: _Load) -> list[str]:
    limit = _number(configs, "retention.bytes")
    if "delete" not in configs.get("cleanup.policy", "delete") or limit is None:
        return []
    if not 0 <= load.least_bytes <= limit < load.most_bytes:
        return []
    return [
        f"{topic.target.name} keeps {limit} bytes of a partition (retention.bytes); the backup has up to "
        f"{load.most_bytes} of one, uncompressed: if they take more than that in the target, the oldest are deleted"
    ]
