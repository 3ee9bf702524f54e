"""What stands against a restore, found before the first record is sent. Pure: from plan and facts.

A refusal means that the restore would fail half-way, or that what it wrote would not stay as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kbr.errors import KbrError, PreflightRefused, TopicMissing, TopicNotEmpty
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import TopicPartition
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, TopicPlan

__all__ = ["TargetFacts", "check_restore"]

#: Kafka's default for max.message.bytes (org.apache.kafka.common.config.TopicConfig, broker default).
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
#: A record batch's own header and a record's fields around key, value and headers, generously.
BATCH_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """What the target cluster said.

    Attributes:
        offsets: of the partitions of existing target topics.
        configs: effective configs of existing target topics; a topic is absent where the broker can't tell.
        now_ms: its time, for retention.
    """

    offsets: Mapping[TopicPartition, PartitionOffsets | KbrError]
    configs: Mapping[str, Mapping[str, str]]
    now_ms: int


def check_restore(plan: RestorePlan, options: RestoreOptions, facts: TargetFacts) -> tuple[str, ...]:
    """Refuse, or return warnings.

    Raises:
        TopicNotEmpty: a target partition holds records and ``append`` was not asked for.
        TopicMissing: a target topic is missing and ``create_topics`` is off.
        PreflightRefused: anything else that would not end well; all findings in one message.
    """
    findings: list[str] = []
    warnings: list[str] = []
    for topic in plan.topics:
        if not topic.exists and not options.create_topics:
            raise TopicMissing(
                f"target topic {topic.target.name} does not exist",
                hint="create it, or set restore.create_topics: true",
                topic=topic.target.name,
            )
        if topic.exists:
            findings.extend(_partition_findings(plan, topic, facts))
        configs = facts.configs.get(topic.target.name, {}) if topic.exists else (topic.target.configs or {})
        findings.extend(_size_findings(plan, topic, configs))
        if topic.exists and configs.get("message.timestamp.type") == "LogAppendTime":
            findings.append(
                f"{topic.target.name} has message.timestamp.type=LogAppendTime: every timestamp would become the time "
                "of the restore; set it to CreateTime while you restore"
            )
        warnings.extend(_retention_warnings(plan, topic, configs, facts.now_ms))
    if not options.append:
        _refuse_records(plan, facts)
    if findings:
        raise PreflightRefused("the restore would not end well: " + "; ".join(findings), findings=findings)
    return tuple(warnings)


def _partition_findings(plan: RestorePlan, topic: TopicPlan, facts: TargetFacts) -> list[str]:
    targets = [partition.target for partition in plan.partitions if partition.target.topic == topic.target.name]
    highest = max(target.partition for target in targets)
    if highest >= topic.target.partition_count:
        return [
            f"{topic.target.name} has {topic.target.partition_count} partitions, the restore needs {highest + 1}: add "
            "partitions to it, or map partitions with --partition-map"
        ]
    return [str(found) for target in targets if isinstance(found := facts.offsets.get(target), KbrError)]


def _refuse_records(plan: RestorePlan, facts: TargetFacts) -> None:
    for partition in plan.partitions:
        found = facts.offsets.get(partition.target)
        if isinstance(found, PartitionOffsets) and found.high_watermark > found.log_start:
            raise TopicNotEmpty(
                f"target {partition.target} holds records already (offsets {found.log_start} to "
                f"{found.high_watermark - 1})",
                hint="restore to another topic with --topic-map, or add to it with --append",
                topic=partition.target.topic,
                partition=partition.target.partition,
            )


def _size_findings(plan: RestorePlan, topic: TopicPlan, configs: Mapping[str, str]) -> list[str]:
    largest = max(
        (
            ref.max_record_bytes
            for partition in plan.partitions
            if partition.target.topic == topic.target.name
            for ref in partition.segments
        ),
        default=0,
    )
    try:
        limit = int(configs.get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))
    except ValueError:
        return []
    # The limit counts the compressed batch, so a large record may still fit; only a target that says
    # its limit itself and is clearly below refuses. An unknown broker default is left to the broker.
    if "max.message.bytes" in configs and largest + BATCH_OVERHEAD_BYTES > limit:
        return [
            f"{topic.target.name} takes batches of up to {limit} bytes (max.message.bytes), the largest record of the "
            f"backup has {largest}: set max.message.bytes to at least {largest + BATCH_OVERHEAD_BYTES}"
        ]
    return []


def _retention_warnings(plan: RestorePlan, topic: TopicPlan, configs: Mapping[str, str], now_ms: int) -> list[str]:
    policy = configs.get("cleanup.policy", "delete")
    retention = configs.get("retention.ms", "604800000" if not topic.exists else "-1")
    try:
        retention_ms = int(retention)
    except ValueError:
        return []
    if retention_ms < 0 or "delete" not in policy:
        return []
    oldest = min(
        (
            ref.min_timestamp
            for partition in plan.partitions
            if partition.target.topic == topic.target.name
            for ref in partition.segments
            if ref.min_timestamp >= 0
        ),
        default=now_ms,
    )
    if oldest >= now_ms - retention_ms:
        return []
    return [
        f"{topic.target.name}: retention.ms={retention_ms} is shorter than the age of the oldest record: the target "
        "will delete restored records (set --set restore.topic_configs.retention.ms=-1, or change the topic)"
    ]
