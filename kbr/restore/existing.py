"""What a restore does about target topics that exist: leave them as they are, compare them, change them, or refuse. Pure.

``keep``: write into them as they are. ``check``: refuse where one is not as the restore would make it. ``apply``: make it
so, as far as that takes nothing away. ``fail``: refuse. Topics that an earlier run of the same restore has made are its
own, whatever was chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from kbr.errors import PreflightRefused
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, TopicPlan
from kbr.restore.preflight import TargetFacts

__all__ = ["TopicChange", "changed_facts", "changes_of", "check_existing"]

#: Set to something else while records are written, and put back afterwards.
_TIMESTAMP_TYPE = "message.timestamp.type"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicChange:
    """What is to be done to an existing topic.

    Attributes:
        configs: to set; None puts one back to its default.
        partition_count: to have at least so many; 0 leaves them as they are.
        notes: the same in sentences, and what is left as it is.
    """

    topic: str
    configs: Mapping[str, str | None]
    partition_count: int
    notes: tuple[str, ...]


def check_existing(
    plan: RestorePlan, options: RestoreOptions, facts: TargetFacts, *, own: Collection[str], broker_count: int
) -> None:
    """Refuse target topics that are there, as ``options.existing_topics`` says.

    Args:
        own: topics that an earlier run of this restore has made.
        broker_count: no topic has more replicas.

    Raises:
        PreflightRefused: one should not be there, or is not as it should be; all findings in one message.
    """
    there = [topic for topic in _once(plan) if topic.exists]
    if options.existing_topics == "fail":
        findings = [f"{topic.target.name} exists already" for topic in there if topic.target.name not in own]
        hint = "restore to another name with --topic-map, --topic-prefix or --topic-suffix, or delete it"
    elif options.existing_topics == "check":
        findings = [
            finding
            for topic in there
            if topic.target.name not in own
            for finding in _differences(topic, facts, broker_count)
        ]
        hint = "make it so with --existing-topics apply, accept it with --existing-topics keep, or change what is wanted with "
        hint += "--topic-config, --replication-factor and --target-partitions"
    else:
        return
    if findings:
        raise PreflightRefused(
            f"{len(findings)} findings about existing target topics (--existing-topics {options.existing_topics}): "
            + "; ".join(findings),
            hint=hint,
            findings=findings,
        )


def changes_of(plan: RestorePlan, options: RestoreOptions, facts: TargetFacts, *, broker_count: int) -> list[TopicChange]:
    """What ``apply`` has to change; nothing by another choice."""
    if options.existing_topics != "apply":
        return []
    found = []
    for topic in _once(plan):
        if not topic.exists or topic.wanted is None or topic.there is None:
            continue
        name, there, wanted = topic.target.name, topic.there, topic.wanted
        configs = {key: new for key, _, new in _config_differences(topic, facts)}
        notes = [
            f"{name}: {key} is {old}, and is {'put back to its default' if new is None else f'set to {new}'}"
            for key, old, new in _config_differences(topic, facts)
        ]
        grows = there.partition_count < wanted.partition_count
        if grows:
            notes.append(f"{name}: gets {wanted.partition_count - there.partition_count} partitions more")
        elif there.partition_count > wanted.partition_count:
            notes.append(f"{name}: has {there.partition_count} partitions, not {wanted.partition_count}, and keeps them")
        if there.replication_factor != min(wanted.replication_factor, broker_count):
            notes.append(f"{name}: keeps its replication factor of {there.replication_factor}")
        if configs or grows or notes:
            found.append(
                TopicChange(
                    topic=name,
                    configs=configs,
                    partition_count=wanted.partition_count if grows else 0,
                    notes=tuple(notes),
                )
            )
    return found


def changed_facts(facts: TargetFacts, changes: Iterable[TopicChange]) -> TargetFacts:
    """The target as it will be."""
    configs = dict(facts.configs)
    for change in changes:
        known = dict(configs.get(change.topic, {}))
        for key, value in change.configs.items():
            default = facts.defaults.get(key) if value is None else value
            known.pop(key, None)
            if default is not None:
                known[key] = default
        configs[change.topic] = known
    return replace(facts, configs=configs)


def _once(plan: RestorePlan) -> list[TopicPlan]:
    """Each target topic once: several sources may go to one."""
    return list({topic.target.name: topic for topic in reversed(plan.topics)}.values())[::-1]


def _differences(topic: TopicPlan, facts: TargetFacts, broker_count: int) -> list[str]:
    if topic.wanted is None or topic.there is None:
        return []
    name, there, wanted = topic.target.name, topic.there, topic.wanted
    found = []
    if there.partition_count != wanted.partition_count:
        found.append(f"{name} has {there.partition_count} partitions, not {wanted.partition_count}")
    replicas = min(wanted.replication_factor, broker_count)
    if there.replication_factor != replicas:
        found.append(f"{name} has replication factor {there.replication_factor}, not {replicas}")
    for key, old, new in _config_differences(topic, facts):
        # a restore into LogAppendTime is refused, but it is what was wanted
        if key == _TIMESTAMP_TYPE and topic.wanted_afterwards.get(key) == old:
            continue
        found.append(f"{name} has {key}={old}, not {'its default' if new is None else new}")
    return found


def _config_differences(topic: TopicPlan, facts: TargetFacts) -> list[tuple[str, str, str | None]]:
    """Config, what it is, and what it should be; None is its default. Nothing where nobody tells its configs."""
    effective = facts.configs.get(topic.target.name)
    if topic.wanted is None or topic.there is None or effective is None:
        return []
    wanted = topic.wanted.configs or {}
    own = topic.there.configs or {}
    found: list[tuple[str, str, str | None]] = [
        (key, effective.get(key, "its default"), value) for key, value in sorted(wanted.items()) if effective.get(key) != value
    ]
    if topic.knows_configs:
        found.extend((key, value, None) for key, value in sorted(own.items()) if key not in wanted)
    return found
