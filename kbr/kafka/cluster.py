"""A cluster's facts, and the few changes a restore makes: topics, ids, configs, offsets.

Every call is batched in requests of bounded size and has a deadline; how the client is opened and its failures
explained is kbr.kafka.admin's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ re-exports without __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    ResourceType,
)

from kbr.errors import (
    AuthorizationFailed,
    ClusterError,
    ClusterUnavailable,
    KbrError,
    TopicMissing,
)
from kbr.kafka.admin import AdminSession
from kbr.kafka.groups import ConsumerGroups
from kbr.kafka.new_topics import TOPICS_PER_REQUEST, create_topics, read_topic_defaults
from kbr.kafka.offsets import OffsetReader, PartitionOffsets
from kbr.kafka.rights import cluster_operations, topic_operations, topics_without, topics_without_error
from kbr.kafka.settings import ClientSettings
from kbr.kafka.translate import UNSUPPORTED
from kbr.model import TopicPartition, TopicSpec
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["Cluster", "ClusterInfo", "PartitionOffsets"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """Who the cluster is."""

    cluster_id: str
    brokers: tuple[str, ...]


class Cluster:
    """One cluster; a context manager.

    Args:
        settings: how to reach it.
        deadline_s: for each call, seconds.
        is_stopped: whether the run is to end: a call that waits for an answer then gives up with ClusterUnavailable.

    Raises:
        ConfigError: librdkafka refused a property.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        deadline_s: float,
        is_stopped: Callable[[], bool] = lambda: False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._deadline_s = deadline_s
        self._clock = clock
        self._session = AdminSession(settings, deadline_s=deadline_s, clock=clock, is_stopped=is_stopped)
        self._offsets = OffsetReader(self._session, deadline_s=deadline_s, clock=clock)

    def __enter__(self) -> Cluster:
        self._session.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session.close()

    @property
    def groups(self) -> ConsumerGroups:
        """Its consumer groups."""
        return ConsumerGroups(self._session, clock=self._clock)

    # -- looking --------------------------------------------------------------------------

    def info(self) -> ClusterInfo:
        """Cluster id and brokers."""
        metadata = self._session.metadata()
        brokers = sorted(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
        return ClusterInfo(cluster_id=metadata.cluster_id or "", brokers=tuple(brokers))

    def answers(self, *, stop_grace_s: float) -> bool:
        """Whether a broker answers.

        Args:
            stop_grace_s: how long it may take once the run was stopped, seconds.
        """
        try:
            self._session.metadata(self._session.deadline(stop_grace_s=stop_grace_s))
        except ClusterUnavailable:
            return False
        return True

    def topics(self) -> list[tuple[str, bool, int]]:
        """(name, is internal, partition count) of every topic that the user may see."""
        found = self._session.metadata().topics
        return sorted((name, name.startswith("__"), len(topic.partitions)) for name, topic in found.items())

    def topics_without(self, names: Sequence[str], operation: str) -> list[str]:
        """Topics that the user may not do something with: see kbr.kafka.rights."""
        return topics_without(self._session, names, operation)

    def right_error(self, names: Sequence[str], operation: str, doing: str) -> AuthorizationFailed:
        """The error about topics that topics_without() found."""
        return topics_without_error(self._session, names, operation, doing)

    def describe_topics(self, names: Sequence[str]) -> dict[str, TopicSpec]:
        """Topics with id, counts and non-default configs.

        ``configs`` is None and ``topic_id`` empty where the cluster doesn't answer that.

        Raises:
            TopicMissing: one is gone.
        """
        session = self._session
        if session.is_mock():
            return self._specs_from_metadata(names, {})
        configs = self.topic_configs(names, include_defaults=False)
        specs: dict[str, TopicSpec] = {}
        for part in _chunks(_once(names), TOPICS_PER_REQUEST):
            try:
                described = session.steadily(partial(self._described, part))
            except ClusterError as error:
                if error.context.get("kafka_code") not in UNSUPPORTED:
                    raise
                specs.update(self._specs_from_metadata(part, configs))
                continue
            for name, topic in described.items():
                replicas = [len(partition.replicas) for partition in topic.partitions]
                specs[name] = TopicSpec(
                    name=name,
                    partition_count=len(topic.partitions),
                    replication_factor=max(replicas, default=1),
                    topic_id="" if topic.topic_id is None else str(topic.topic_id),
                    configs=configs.get(name),
                    is_internal=bool(topic.is_internal),
                )
        return specs

    def _described(self, names: Sequence[str]) -> dict[str, Any]:
        session = self._session
        futures = session.call(
            partial(
                session.client.describe_topics, TopicCollection(list(names)), request_timeout=session.request_timeout_s
            ),
            "describing topics",
        )
        return {
            name: session.result(future, f"describing topic {name}", right=f"Describe on topic {name}")
            for name, future in futures.items()
        }

    def allowed_operations(self) -> frozenset[str] | None:
        """As kbr.kafka.rights.cluster_operations()."""
        return cluster_operations(self._session)

    def allowed_topic_operations(self, names: Sequence[str]) -> Mapping[str, frozenset[str] | KbrError | None]:
        """As kbr.kafka.rights.topic_operations()."""
        return topic_operations(self._session, names)

    def topic_ids(self, names: Sequence[str], *, stop_grace_s: float = 0.0) -> dict[str, str | None]:
        """Ids of topics as they are now: None where there is no such topic, absent where the cluster tells no ids.

        Args:
            stop_grace_s: how long it may take once the run was stopped, seconds.
        """
        session = self._session
        deadline = session.deadline(stop_grace_s=stop_grace_s)
        found: dict[str, str | None] = {}
        if session.is_mock():
            return found
        for part in _chunks(_once(names), TOPICS_PER_REQUEST):
            try:
                found.update(session.steadily(partial(self._ids, part, deadline), deadline))
            except ClusterError as error:
                if error.context.get("kafka_code") not in UNSUPPORTED:
                    raise
                return {}
        return found

    def _ids(self, names: Sequence[str], deadline: Deadline) -> dict[str, str | None]:
        session = self._session
        futures = session.call(
            partial(
                session.client.describe_topics, TopicCollection(list(names)), request_timeout=session.request_timeout_s
            ),
            "describing topics",
        )
        found: dict[str, str | None] = {}
        for name, future in futures.items():
            try:
                topic = session.result(future, f"describing topic {name}", right=f"Describe on topic {name}", deadline=deadline)
            except TopicMissing:
                found[name] = None
            else:
                if topic.topic_id is not None:
                    found[name] = str(topic.topic_id)
        return found

    def _specs_from_metadata(
        self, names: Iterable[str], configs: Mapping[str, Mapping[str, str]]
    ) -> dict[str, TopicSpec]:
        topics = self._session.metadata().topics
        specs = {}
        for name in names:
            topic = topics.get(name)
            if topic is None or not topic.partitions:
                raise TopicMissing(f"describing topic {name}: there is no such topic", hint="check the topic's name")
            specs[name] = TopicSpec(
                name=name,
                partition_count=len(topic.partitions),
                replication_factor=max(len(one.replicas) for one in topic.partitions.values()),
                configs=configs.get(name),
                is_internal=name.startswith("__"),
            )
        return specs

    def topic_configs(self, names: Sequence[str], *, include_defaults: bool) -> dict[str, dict[str, str]]:
        """Configs by topic; sensitive ones are left out.

        A topic is absent where the cluster can't tell, or its configs are not for this user (DescribeConfigs on the topic):
        no record depends on that right.
        """
        session = self._session
        found: dict[str, dict[str, str]] = {}
        if session.is_mock():
            return found
        for part in _chunks(_once(names), TOPICS_PER_REQUEST):
            try:
                answers = session.steadily(partial(self._configs, part))
            except ClusterError as error:
                if error.context.get("kafka_code") not in UNSUPPORTED:
                    raise
                return {}
            for name, entries in answers.items():
                if entries is None:
                    continue
                found[name] = {
                    entry.name: entry.value
                    for entry in entries.values()
                    if entry.value is not None
                    and not entry.is_sensitive
                    and (include_defaults or entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value)
                }
        return found

    def _configs(self, names: Sequence[str]) -> dict[str, Any]:
        session = self._session
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = session.call(
            partial(session.client.describe_configs, resources, request_timeout=session.request_timeout_s),
            "reading topic configs",
        )
        found: dict[str, Any] = {}
        for resource, future in futures.items():
            name = resource.name
            try:
                found[name] = session.result(
                    future, f"reading configs of topic {name}", right=f"DescribeConfigs on topic {name}"
                )
            except AuthorizationFailed:
                found[name] = None
        return found

    def new_topic_configs(self) -> dict[str, str]:
        """What a topic that is made without configs gets, as far as the brokers say; empty where they don't."""
        return read_topic_defaults(self._session)

    def offsets(
        self, partitions: Sequence[TopicPartition], isolation_level: str
    ) -> dict[TopicPartition, PartitionOffsets | KbrError]:
        """As OffsetReader's."""
        return self._offsets.offsets(partitions, isolation_level)

    def high_watermarks(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | KbrError]:
        """As OffsetReader's."""
        return self._offsets.high_watermarks(partitions)

    def first_at(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int | KbrError]:
        """As OffsetReader's."""
        return self._offsets.first_at(partitions, timestamp_ms)

    def leaders(self, names: Collection[str]) -> dict[TopicPartition, int]:
        """Broker ids of the partitions' leaders, as the cluster's metadata has them now; those without one are absent."""
        topics = self._session.metadata().topics
        return {
            TopicPartition(name, number): partition.leader
            for name in names
            if name in topics
            for number, partition in topics[name].partitions.items()
            if partition.leader >= 0
        }

    # -- changing -------------------------------------------------------------------------

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Make topics: see kbr.kafka.new_topics.create_topics()."""
        return create_topics(self._session, specs, Deadline(self._deadline_s, clock=self._clock))

    def check_new_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """What create_topics() would say and raise, without making any."""
        deadline = Deadline(self._deadline_s, clock=self._clock)
        return create_topics(self._session, specs, deadline, only_check=True)

    def set_topic_configs(self, name: str, configs: Mapping[str, str | None]) -> None:
        """Set single configs of a topic, or with None put them back to the default; the others stay."""
        session = self._session
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            if value is not None
            else ConfigEntry(key, "", incremental_operation=AlterConfigOpType.DELETE)
            for key, value in configs.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        doing = f"setting configs of topic {name}"

        def ask() -> None:
            futures = session.call(
                partial(
                    session.client.incremental_alter_configs, [resource], request_timeout=session.request_timeout_s
                ),
                doing,
            )
            for future in futures.values():
                session.result(future, doing, right=f"AlterConfigs on topic {name}")

        session.steadily(ask)

    def add_partitions(self, name: str, partition_count: int) -> None:
        """Give a topic partitions until it has so many, and wait until all have leaders.

        Raises:
            ClusterUnavailable: not within the deadline.
        """
        session = self._session
        doing = f"adding partitions to topic {name}"

        def ask() -> None:
            futures = session.call(
                partial(
                    session.client.create_partitions,
                    [NewPartitions(name, partition_count)],
                    request_timeout=session.request_timeout_s,
                ),
                doing,
            )
            for future in futures.values():
                session.result(future, doing, right=f"Alter on topic {name}")

        session.steadily(ask)
        deadline = Deadline(self._deadline_s, clock=self._clock)
        for delay in Backoff(base_s=0.05, cap_s=1.0).delays():
            topic = session.metadata(deadline).topics.get(name)
            if topic is not None and len(topic.partitions) >= partition_count:
                break
            if deadline.passed:
                raise ClusterUnavailable(
                    f"topic {name} has not got its {partition_count} partitions after {self._deadline_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                )
            self._clock.sleep(min(delay, deadline.remaining_s()))
        self.wait_for_leaders([name])

    def wait_for_leaders(self, names: Sequence[str]) -> None:
        """Wait until every partition of these topics has a leader.

        Raises:
            ClusterUnavailable: not within the deadline.
        """
        deadline = Deadline(self._deadline_s, clock=self._clock)
        for delay in Backoff(base_s=0.05, cap_s=1.0).delays():
            topics = self._session.metadata(deadline).topics
            waiting = [
                name
                for name in names
                if name not in topics
                or not topics[name].partitions
                or any(partition.leader < 0 for partition in topics[name].partitions.values())
            ]
            if not waiting:
                return
            if deadline.passed:
                more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
                raise ClusterUnavailable(
                    f"topics {', '.join(waiting[:5])}{more} have partitions without a leader after {self._deadline_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                )
            self._clock.sleep(min(delay, deadline.remaining_s()))


def _once(names: Sequence[str]) -> Sequence[str]:
    """Without repeats, which librdkafka refuses."""
    return list(dict.fromkeys(names))


def _chunks(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
