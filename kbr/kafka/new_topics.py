"""Topics are made, in requests of bounded size; and what a cluster gives a new topic by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from confluent_kafka import KafkaError
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # no __all__

from kbr.errors import AuthenticationFailed, ClusterError, ClusterUnavailable, KbrError
from kbr.kafka.admin import AdminSession
from kbr.model import TopicSpec
from kbr.timing import Deadline

__all__ = [
    "NEW_PARTITIONS_PER_REQUEST",
    "TOPICS_PER_REQUEST",
    "create_topics",
    "read_topic_defaults",
    "topic_defaults",
]

#: Topics in one request: keeps requests and answers of a cluster with 200,000 partitions at a few MB.
TOPICS_PER_REQUEST = 500
#: Partitions in one CreateTopics; a KRaft controller refuses more than 10,000 (ReplicationControlManager).
NEW_PARTITIONS_PER_REQUEST = 5000
#: The replication factor that means the cluster's own default (KIP-464).
DEFAULT_REPLICATION = -1
#: A topic config and the broker config that it comes from (Kafka's docs, "Topic-Level Configs").
_BROKER_NAMES = {
    "cleanup.policy": "log.cleanup.policy",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
    "message.timestamp.difference.max.ms": "log.message.timestamp.difference.max.ms",
    "message.timestamp.type": "log.message.timestamp.type",
    "min.insync.replicas": "min.insync.replicas",
    "retention.bytes": "log.retention.bytes",
    "retention.ms": "log.retention.ms",
}
#: Where log.retention.ms is not set, the first of these counts.
_RETENTION_UNITS_MS = {"log.retention.minutes": 60_000, "log.retention.hours": 3_600_000}


def topic_defaults(broker_configs: Mapping[str, str | None]) -> dict[str, str]:
    """A new topic's configs by the brokers' own; those that the brokers don't say are absent."""
    found = {name: value for name, key in _BROKER_NAMES.items() if (value := broker_configs.get(key)) is not None}
    for key, unit_ms in _RETENTION_UNITS_MS.items():
        value = broker_configs.get(key) or ""
        if "retention.ms" not in found and value.lstrip("-").isdecimal():
            found["retention.ms"] = str(int(value) * unit_ms) if int(value) >= 0 else "-1"
    return found


def read_topic_defaults(session: AdminSession) -> dict[str, str]:
    """Ask a broker; empty where it doesn't say, as many managed clusters don't.

    Raises:
        ClusterUnavailable: no broker answers.
    """
    metadata = session.metadata()
    if session.is_mock() or not metadata.brokers:
        return {}
    resource = ConfigResource(ResourceType.BROKER, str(min(metadata.brokers)))
    doing = "reading the brokers' configs"

    def ask() -> dict[str, str | None]:
        futures = session.call(
            partial(session.client.describe_configs, [resource], request_timeout=session.request_timeout_s), doing
        )
        return {
            entry.name: entry.value
            for future in futures.values()
            for entry in session.result(future, doing, right="DescribeConfigs on the cluster").values()
        }

    try:
        return topic_defaults(session.steadily(ask))
    except (ClusterUnavailable, AuthenticationFailed):
        raise
    except ClusterError:
        return {}


def create_topics(
    session: AdminSession, specs: Sequence[TopicSpec], deadline: Deadline, *, only_check: bool = False
) -> list[str]:
    """Make topics that are not there.

    Args:
        only_check: ask the cluster whether it would make them (CreateTopics with validate_only), and make none.

    Returns:
        Sentences about what had to be done otherwise than asked: a replication factor above the
        number of brokers becomes that number, one that the cluster refuses becomes its default.

    Raises:
        ClusterError: some could not be made; the message says which and why. The others are made.
    """
    if session.is_mock():
        raise ClusterError(
            f"making topic {specs[0].name if specs else ''}: librdkafka's mock cluster can't make topics",
            hint="produce to it: it makes topics that are asked for",
        )
    notes: list[str] = []
    broker_count = max(1, len(session.metadata().brokers))
    factors: dict[str, int] = {}
    for spec in specs:
        factors[spec.name] = min(spec.replication_factor, broker_count)
        if spec.replication_factor > broker_count:
            brokers = f"{broker_count} broker{'s' if broker_count > 1 else ''}"
            notes.append(
                f"{spec.name}: made with replication factor {broker_count}, not {spec.replication_factor}: the "
                f"cluster has {brokers}{_in_sync_note(spec, broker_count)}"
            )
    failures = _create(session, specs, factors, deadline, only_check=only_check)
    refused = [
        spec
        for spec in specs
        if spec.name in failures
        and failures[spec.name].context.get("kafka_code") == KafkaError.INVALID_REPLICATION_FACTOR
    ]
    if refused:
        defaults = {spec.name: DEFAULT_REPLICATION for spec in refused}
        second = _create(session, refused, defaults, deadline, only_check=only_check)
        for spec in refused:
            first = failures.pop(spec.name)
            if spec.name in second:
                failures[spec.name] = second[spec.name]
            else:
                notes.append(
                    f"{spec.name}: made with the cluster's default replication factor, not {factors[spec.name]} ({first})"
                )
    if failures:
        raise _one_of(failures)
    return notes


def _create(
    session: AdminSession,
    specs: Sequence[TopicSpec],
    factors: Mapping[str, int],
    deadline: Deadline,
    *,
    only_check: bool,
) -> dict[str, KbrError]:
    """Why some could not be made."""
    failures: dict[str, KbrError] = {}
    for part in _parts_by_partitions(specs):
        waiting = {
            spec.name: NewTopic(spec.name, spec.partition_count, factors[spec.name], config=dict(spec.configs or {}))
            for spec in part
        }
        session.steadily(partial(_create_part, session, waiting, failures, deadline, only_check), deadline)
    return failures


def _create_part(
    session: AdminSession,
    waiting: dict[str, NewTopic],
    failures: dict[str, KbrError],
    deadline: Deadline,
    only_check: bool,
) -> None:
    """Make what waits; what is made, or refused, does not any more."""
    futures = session.call(
        partial(
            session.client.create_topics,
            list(waiting.values()),
            operation_timeout=session.request_timeout_s,
            validate_only=only_check,
            request_timeout=session.request_timeout_s,
        ),
        "making topics",
    )
    try:
        for name, future in futures.items():
            try:
                session.result(future, f"making topic {name}", right=f"Create on topic {name}, or on the cluster")
            except (ClusterUnavailable, AuthenticationFailed):
                raise
            except KbrError as error:
                failures[name] = error
            del waiting[name]
    except ClusterUnavailable:
        if only_check:
            raise
        # of topics that were not there, those that are there after a lost answer, as they were asked for, were made
        there = session.metadata(deadline).topics
        for name, new in list(waiting.items()):
            if name in there and len(there[name].partitions) == new.num_partitions:
                del waiting[name]
        if waiting:
            raise


def _in_sync_note(spec: TopicSpec, factor: int) -> str:
    """What a smaller replication factor does to writes; empty where nothing."""
    wanted = (spec.configs or {}).get("min.insync.replicas", "1")
    if not wanted.isdecimal() or int(wanted) <= factor:
        return ""
    return f"; its min.insync.replicas is {wanted}, with which older brokers take no writes"


def _one_of(failures: Mapping[str, KbrError]) -> KbrError:
    """The first failure; its message counts the others."""
    names = list(failures)
    first = failures[names[0]]
    if len(names) == 1:
        return first
    return type(first)(
        f"{first.message}; {len(names) - 1} more of the topics could not be made: {', '.join(names[1:6])}"
        + (", ..." if len(names) > 6 else ""),
        hint=first.hint,
        **first.context,
    )


def _parts_by_partitions(specs: Sequence[TopicSpec]) -> Iterable[list[TopicSpec]]:
    """Runs of topics, bounded by their number and by the sum of their partitions."""
    part: list[TopicSpec] = []
    partitions = 0
    for spec in specs:
        if part and (
            len(part) == TOPICS_PER_REQUEST or partitions + spec.partition_count > NEW_PARTITIONS_PER_REQUEST
        ):
            yield part
            part, partitions = [], 0
        part.append(spec)
        partitions += spec.partition_count
    if part:
        yield part
