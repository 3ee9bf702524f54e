"""A cluster's facts, and the few changes a restore makes: topics, ids, configs, offsets.

Every call is batched in requests of bounded size and has a deadline. What librdkafka says about its
connections is kept and used to explain a time-out; it prints nothing itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ re-exports without __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from kbr.errors import AuthenticationFailed, ClusterError, ClusterUnavailable, ConfigError, KbrError
from kbr.kafka.settings import ClientSettings, admin_properties
from kbr.kafka.translate import translate
from kbr.model import TopicPartition, TopicSpec
from kbr.telemetry.logs import explain
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["Cluster", "ClusterInfo", "PartitionOffsets"]

_T = TypeVar("_T")

#: Topics in one describe request, partitions in one offsets request: keeps requests and answers of
#: a cluster with 200,000 partitions at a few MB.
TOPICS_PER_REQUEST = 500
PARTITIONS_PER_REQUEST = 5000
#: How long a cluster of which no broker answers is tried, seconds: a wrong address is told soon.
CONNECT_DEADLINE_S = 15.0
#: What librdkafka's mock cluster calls itself (rdkafka_mock.c, rd_kafka_mock_cluster_new).
MOCK_CLUSTER_PREFIX = "mockCluster"
#: How long a call may take that only looks, seconds, when the whole deadline is longer.
REQUEST_TIMEOUT_S = 30.0

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent_kafka has no types there
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the same

_RETRIED = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.OFFSET_NOT_AVAILABLE,
        # broker and client have not heard of the same election yet
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,
        # "No leaders found": none of the partitions that were asked for has one
        KafkaError._NOENT,
    }
)
_UNREACHABLE = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE})
_UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._NOT_IMPLEMENTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """Who the cluster is."""

    cluster_id: str
    brokers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOffsets:
    """A partition's offsets at one moment.

    Attributes:
        log_start: the first offset that exists.
        high_watermark: one past the last replicated record.
        end_offset: one past what may be read: the last stable offset for read_committed.
    """

    log_start: int
    high_watermark: int
    end_offset: int


class _ClientLog(logging.Handler):
    """Keeps what the client said about its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.cause = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage())

    def note(self, text: str) -> None:
        broker, reason, check = explain(text)
        if reason and (not self.cause or broker):
            self.cause = f"{reason} ({broker}; {check})" if broker else f"{reason} ({check})"


class Cluster:
    """One cluster; a context manager.

    Args:
        settings: how to reach it.
        deadline_s: for each call, seconds.

    Raises:
        ConfigError: librdkafka refused a property.
    """

    def __init__(self, settings: ClientSettings, *, deadline_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._servers = ",".join(settings.bootstrap_servers)
        self._deadline_s = deadline_s
        self._clock = clock
        self._properties = admin_properties(settings)
        self._log = _ClientLog()
        self._admin: AdminClient | None = None

    def __enter__(self) -> Cluster:
        logger = logging.Logger("kbr.kafka.client")  # noqa: LOG001  (private to this client, never shown)
        logger.addHandler(self._log)
        properties: dict[str, Any] = {**self._properties, "error_cb": lambda error: self._log.note(error.str())}
        try:
            self._admin = AdminClient(properties, logger=logger)
        except KafkaException as error:
            raise ConfigError(
                f"librdkafka refused the client settings: {error.args[0].str()}",
                hint="check security and client in the configuration",
            ) from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._admin = None

    # -- looking --------------------------------------------------------------------------

    def info(self) -> ClusterInfo:
        """Cluster id and brokers."""
        metadata = self._metadata()
        brokers = sorted(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
        return ClusterInfo(cluster_id=metadata.cluster_id or "", brokers=tuple(brokers))

    def topics(self) -> list[tuple[str, bool, int]]:
        """(name, is internal, partition count) of every topic that the user may see."""
        found = self._metadata().topics
        return sorted((name, name.startswith("__"), len(topic.partitions)) for name, topic in found.items())

    def describe_topics(self, names: Sequence[str]) -> dict[str, TopicSpec]:
        """Topics with id, counts and non-default configs.

        ``configs`` is None and ``topic_id`` empty where the cluster doesn't answer that.

        Raises:
            TopicMissing: one is gone.
        """
        configs = self.topic_configs(names, include_defaults=False)
        specs: dict[str, TopicSpec] = {}
        if self._is_mock():
            return self._specs_from_metadata(names, configs)
        for part in _chunks(names, TOPICS_PER_REQUEST):
            try:
                futures = self._client.describe_topics(
                    TopicCollection(list(part)), request_timeout=self._request_timeout
                )
                described = {name: self._result(future, f"describing topic {name}") for name, future in futures.items()}
            except ClusterError as error:
                if error.context.get("kafka_code") not in _UNSUPPORTED:
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

    def _specs_from_metadata(
        self, names: Iterable[str], configs: Mapping[str, Mapping[str, str]]
    ) -> dict[str, TopicSpec]:
        topics = self._metadata().topics
        return {
            name: TopicSpec(
                name=name,
                partition_count=len(topics[name].partitions),
                replication_factor=max((len(one.replicas) for one in topics[name].partitions.values()), default=1),
                configs=configs.get(name),
                is_internal=name.startswith("__"),
            )
            for name in names
        }

    def topic_configs(self, names: Sequence[str], *, include_defaults: bool) -> dict[str, dict[str, str]]:
        """Configs by topic; sensitive ones are left out. A topic is absent where the cluster can't tell."""
        found: dict[str, dict[str, str]] = {}
        if self._is_mock():
            return found
        for part in _chunks(names, TOPICS_PER_REQUEST):
            resources = [ConfigResource(ResourceType.TOPIC, name) for name in part]
            futures = self._client.describe_configs(resources, request_timeout=self._request_timeout)
            for resource, future in futures.items():
                try:
                    entries = self._result(
                        future, f"reading configs of topic {resource.name}", right=f"DescribeConfigs on topic {resource.name}"
                    )
                except ClusterError as error:
                    if error.context.get("kafka_code") not in _UNSUPPORTED:
                        raise
                    return {}
                found[resource.name] = {
                    entry.name: entry.value
                    for entry in entries.values()
                    if entry.value is not None
                    and not entry.is_sensitive
                    and (include_defaults or entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value)
                }
        return found

    def offsets(
        self, partitions: Sequence[TopicPartition], isolation_level: str
    ) -> dict[TopicPartition, PartitionOffsets | KbrError]:
        """Offsets of every partition, or why they can't be had (after retries, within the deadline).

        The last stable offset is asked for before the high watermark, so it is never above it by chance.
        """
        committed = isolation_level == "read_committed"
        deadline = Deadline(self._deadline_s, clock=self._clock)
        starts = self._list_offsets(partitions, _EARLIEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        ends = (
            self._list_offsets(partitions, _LATEST, IsolationLevel.READ_COMMITTED, deadline) if committed else None
        )
        marks = self._list_offsets(partitions, _LATEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        found: dict[TopicPartition, PartitionOffsets | KbrError] = {}
        for key in partitions:
            start, mark = starts[key], marks[key]
            end = mark if ends is None else ends[key]
            if isinstance(start, KbrError):
                found[key] = start
            elif isinstance(mark, KbrError):
                found[key] = mark
            elif isinstance(end, KbrError):
                found[key] = end
            else:
                found[key] = PartitionOffsets(log_start=start, high_watermark=mark, end_offset=end)
        return found

    def _list_offsets(
        self, partitions: Sequence[TopicPartition], spec: OffsetSpec, level: IsolationLevel, deadline: Deadline
    ) -> dict[TopicPartition, int | KbrError]:
        found: dict[TopicPartition, int | KbrError] = {}
        wanted = list(partitions)
        for delay in Backoff(base_s=0.1, cap_s=2.0).delays():
            again: list[TopicPartition] = []
            for part in _chunks(wanted, PARTITIONS_PER_REQUEST):
                request = {ClientTopicPartition(key.topic, key.partition): spec for key in part}
                futures = self._client.list_offsets(
                    request, isolation_level=level, request_timeout=self._request_timeout
                )
                for partition, future in futures.items():
                    key = TopicPartition(partition.topic, partition.partition)
                    try:
                        found[key] = self._result(
                            future, f"reading offsets of {key}", right=f"Describe on topic {key.topic}"
                        ).offset
                    except KbrError as error:
                        found[key] = error
                        if error.context.get("kafka_code") in _RETRIED:
                            again.append(key)
                        elif isinstance(error, (ClusterUnavailable, AuthenticationFailed)):
                            raise
            wanted = again
            if not wanted or deadline.passed:
                return found
            self._clock.sleep(min(delay, deadline.remaining_s()))
        raise AssertionError("the delays are endless")

    # -- changing -------------------------------------------------------------------------

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Make topics.

        Returns:
            Sentences about what had to be done otherwise than asked: a replication factor above the
            number of brokers becomes that number.

        Raises:
            ClusterError: one could not be made; the message says which and why.
        """
        notes: list[str] = []
        broker_count = max(1, len(self._metadata().brokers))
        wanted = []
        for spec in specs:
            factor = spec.replication_factor
            if factor > broker_count:
                notes.append(
                    f"{spec.name}: made with replication factor {broker_count}, not {factor}: the cluster has "
                    f"{broker_count} broker{'s' if broker_count > 1 else ''}"
                )
                factor = broker_count
            wanted.append(NewTopic(spec.name, spec.partition_count, factor, config=dict(spec.configs or {})))
        for part in _chunks(wanted, TOPICS_PER_REQUEST):
            futures = self._client.create_topics(
                list(part), operation_timeout=self._request_timeout, request_timeout=self._request_timeout
            )
            for name, future in futures.items():
                self._result(future, f"making topic {name}", right="Create on the cluster or the topic")
        return notes

    def set_topic_configs(self, name: str, configs: Mapping[str, str]) -> None:
        """Set single configs of a topic; the others stay."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in configs.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        for future in self._client.incremental_alter_configs(
            [resource], request_timeout=self._request_timeout
        ).values():
            self._result(future, f"setting configs of topic {name}", right=f"AlterConfigs on topic {name}")

    def wait_for_leaders(self, names: Sequence[str]) -> None:
        """Wait until every partition of these topics has a leader.

        Raises:
            ClusterUnavailable: not within the deadline.
        """
        deadline = Deadline(self._deadline_s, clock=self._clock)
        for delay in Backoff(base_s=0.05, cap_s=1.0).delays():
            topics = self._metadata().topics
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
                raise ClusterUnavailable(
                    f"topics {', '.join(waiting[:5])} have partitions without a leader after {self._deadline_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                )
            self._clock.sleep(min(delay, deadline.remaining_s()))

    # -- inner ----------------------------------------------------------------------------

    @property
    def _client(self) -> AdminClient:
        if self._admin is None:
            raise RuntimeError("the cluster is not open")
        return self._admin

    def _is_mock(self) -> bool:
        """Whether it is librdkafka's mock cluster.

        It answers neither DescribeTopics nor DescribeConfigs: the client would wait for a controller in vain.
        """
        return str(self._metadata().cluster_id or "").startswith(MOCK_CLUSTER_PREFIX)

    @property
    def _request_timeout(self) -> float:
        return min(self._deadline_s, REQUEST_TIMEOUT_S)

    def _metadata(self) -> Any:
        """Brokers and topics; a first connection that fails is tried again for a while, as a broker may be starting."""
        deadline = Deadline(min(self._deadline_s, CONNECT_DEADLINE_S), clock=self._clock)
        for delay in Backoff(base_s=0.2, cap_s=2.0).delays():
            timeout = max(0.1, deadline.remaining_s())
            try:
                return self._call(partial(self._client.list_topics, timeout=timeout), "reading metadata")
            except ClusterUnavailable:
                if deadline.remaining_s() <= delay:
                    raise
                self._clock.sleep(delay)
        raise AssertionError("the delays are endless")

    def _call(self, function: Callable[[], _T], doing: str, *, right: str = "") -> _T:
        try:
            return function()
        except KafkaException as error:
            if error.args[0].code() in _UNREACHABLE:
                self._client.poll(0.1)  # what the client said about its connections comes through here
            raise self._translated(error.args[0], doing, right) from error

    def _result(self, future: Future[Any], doing: str, *, right: str = "") -> Any:
        return self._call(lambda: future.result(timeout=self._request_timeout + 5), doing, right=right)

    def _translated(self, error: KafkaError, doing: str, right: str) -> KbrError:
        translated = translate(error, doing, servers=self._servers, cause=self._log.cause, right=right)
        translated.context.setdefault("kafka_code", error.code())
        return translated


def _chunks(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
