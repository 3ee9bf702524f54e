"""A cluster's facts, and the few changes a restore makes: topics, ids, configs, offsets.

Every call is batched in requests of bounded size and has a deadline; how the client is opened and its failures
explained is kbr.kafka.admin's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, TopicCollection
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ re-exports without __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ListOffsetsResultInfo,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)

from kbr.errors import (
    ClusterError,
    ClusterUnavailable,
    KbrError,
    TopicMissing,
)
from kbr.kafka.admin import AdminSession, CallDeadline
from kbr.kafka.groups import ConsumerGroups
from kbr.kafka.new_topics import TOPICS_PER_REQUEST, create_topics, read_topic_defaults
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicPartition, TopicSpec
from kbr.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

__all__ = ["Cluster", "ClusterInfo", "PartitionOffsets"]

_T = TypeVar("_T")

#: Partitions in one ListOffsets. librdkafka merges its answers in quadratic time (rdkafka_admin.c,
#: rd_kafka_ListOffsets_response_merge): 6,000 partitions took 0.13 s in requests of 1,000, 0.75 s in two of 5,000.
PARTITIONS_PER_REQUEST = 1000
#: How long the leaders of a request's partitions may take to tell offsets before others are asked for, seconds.
#: Longer than it takes a cluster to notice that a broker hangs (broker.session.timeout.ms, 9 s).
OFFSETS_TIMEOUT_S = 10.0

#: How long it takes to see that no broker answers when no leader has, seconds.
ANYBODY_S = 3.0

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent_kafka has no types there
#: What a leader says of a time behind all of its records; one that says nothing is -1001.
_NO_SUCH_RECORD = -1
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the same

_RETRIED = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        # broker and client have not heard of the same election yet
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,
        # "No leaders found": none of the partitions that were asked for has one
        KafkaError._NOENT,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
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
        first_wanted: no record before it lies in a window of time that somebody asked for.
    """

    log_start: int
    high_watermark: int
    end_offset: int
    first_wanted: int = 0


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
                if error.context.get("kafka_code") not in _UNSUPPORTED:
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
        """Configs by topic; sensitive ones are left out. A topic is absent where the cluster can't tell."""
        session = self._session
        found: dict[str, dict[str, str]] = {}
        if session.is_mock():
            return found
        for part in _chunks(_once(names), TOPICS_PER_REQUEST):
            try:
                answers = session.steadily(partial(self._configs, part))
            except ClusterError as error:
                if error.context.get("kafka_code") not in _UNSUPPORTED:
                    raise
                return {}
            for name, entries in answers.items():
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
        return {
            resource.name: session.result(
                future, f"reading configs of topic {resource.name}", right=f"DescribeConfigs on topic {resource.name}"
            )
            for resource, future in futures.items()
        }

    def new_topic_configs(self) -> dict[str, str]:
        """What a topic that is made without configs gets, as far as the brokers say; empty where they don't."""
        return read_topic_defaults(self._session)

    def offsets(
        self, partitions: Sequence[TopicPartition], isolation_level: str
    ) -> dict[TopicPartition, PartitionOffsets | KbrError]:
        """Offsets of every partition, or why they can't be had (after retries, within the deadline).

        The last stable offset is asked for before the high watermark, so it is never above it by chance.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        committed = isolation_level == "read_committed"
        deadline = self._session.deadline()
        starts = self._list_offsets(partitions, _EARLIEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        # what failed until the deadline is not asked for again
        there = [key for key in partitions if isinstance(starts[key], int)]
        ends = self._list_offsets(there, _LATEST, IsolationLevel.READ_COMMITTED, deadline) if committed else None
        marks = self._list_offsets(there, _LATEST, IsolationLevel.READ_UNCOMMITTED, deadline)
        found: dict[TopicPartition, PartitionOffsets | KbrError] = {}
        for key in partitions:
            start = starts[key]
            if isinstance(start, KbrError):
                found[key] = start
                continue
            mark = marks[key]
            end = mark if ends is None else ends[key]
            if isinstance(mark, KbrError):
                found[key] = mark
            elif isinstance(end, KbrError):
                found[key] = end
            else:
                found[key] = PartitionOffsets(log_start=start, high_watermark=mark, end_offset=end)
        if found and all(isinstance(answer, ClusterUnavailable) for answer in found.values()):
            # no leader has answered: are they gone, or is the whole cluster?
            self._session.metadata(self._session.deadline(at_most_s=ANYBODY_S))
        return found

    def high_watermarks(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | KbrError]:
        """One past the last replicated record of every partition, or why it can't be had; by one request a leader.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        deadline = self._session.deadline()
        return self._list_offsets(partitions, _LATEST, IsolationLevel.READ_UNCOMMITTED, deadline)

    def first_at(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int | KbrError]:
        """Of every partition the first offset whose record has this timestamp or a later one, -1 for none; or why not.

        No record before it has such a timestamp; records behind it may have earlier ones.

        Raises:
            ClusterUnavailable: no broker answers at all.
        """
        spec = OffsetSpec.for_timestamp(timestamp_ms)
        deadline = self._session.deadline()
        return self._list_offsets(partitions, spec, IsolationLevel.READ_UNCOMMITTED, deadline, at_ms=timestamp_ms)

    def _list_offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        level: IsolationLevel,
        deadline: CallDeadline,
        *,
        at_ms: int | None = None,
    ) -> dict[TopicPartition, int | KbrError]:
        found: dict[TopicPartition, int | KbrError] = {}
        wanted: Sequence[TopicPartition] = partitions
        for delay in Backoff(base_s=0.1, cap_s=2.0).delays():
            again: list[TopicPartition] = []
            for part in _chunks(wanted, PARTITIONS_PER_REQUEST):
                answers = self._ask_offsets(part, spec, level, deadline, at_ms)
                found.update(answers)
                again += [key for key, answer in answers.items() if _may_pass(answer)]
            wanted = again
            if not wanted or deadline.passed:
                return found
            self._clock.sleep(min(delay, deadline.remaining_s()))
            # The client goes on asking the leader that it knows, by the epoch that it knows: of one that hangs, or of
            # an election, it notices nothing by itself (seen: still the old leader 40 s after the election; still the
            # old epoch, 'Leader epoch is older than broker epoch', a minute after the brokers were restarted).
            try:
                self._session.metadata(deadline)
            except ClusterUnavailable:
                if deadline.remaining_s() > 0:
                    raise  # nobody answers any more
                return found  # with the partitions' own errors
        raise AssertionError("the delays are endless")

    def _ask_offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        level: IsolationLevel,
        deadline: CallDeadline,
        at_ms: int | None,
    ) -> dict[TopicPartition, int | KbrError]:
        session = self._session
        timeout_s = min(self._deadline_s, OFFSETS_TIMEOUT_S)
        request = {ClientTopicPartition(key.topic, key.partition): spec for key in partitions}
        futures = session.call(
            partial(session.client.list_offsets, request, isolation_level=level, request_timeout=timeout_s),
            "reading offsets",
        )
        found: dict[TopicPartition, int | KbrError] = {}
        for partition, future in futures.items():
            key = TopicPartition(partition.topic, partition.partition)
            try:
                answer = session.result(
                    future, f"reading offsets of {key}", right=f"Describe on topic {key.topic}", deadline=deadline
                )
            except KbrError as error:
                found[key] = error
                continue
            # A leader that does not answer leaves its partitions as they were asked for, without an error
            # (rd_kafka_ListOffsets_leaders_queried_cb: RD_KAFKA_OFFSET_INVALID). Taken for offsets, such
            # partitions would look empty.
            found[key] = (
                answer.offset
                if _is_answered(answer, at_ms)
                else ClusterUnavailable(
                    f"reading offsets of {key}: the partition's leader did not answer within {timeout_s:.0f} s",
                    hint="check the cluster's brokers, then run the same command again",
                    kafka_code=KafkaError._TIMED_OUT,
                )
            )
        return found

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


def _may_pass(answer: int | KbrError) -> bool:
    return isinstance(answer, KbrError) and answer.context.get("kafka_code") in _RETRIED


def _once(names: Sequence[str]) -> Sequence[str]:
    """Without repeats, which librdkafka refuses."""
    return list(dict.fromkeys(names))


def _chunks(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_answered(answer: ListOffsetsResultInfo, at_ms: int | None) -> bool:
    """Whether that is a leader's word: of a time it is a record's of that time or later, or -1 for none."""
    if at_ms is None or answer.offset < 0:
        return bool(answer.offset >= 0 or (at_ms is not None and answer.offset == _NO_SUCH_RECORD))
    return bool(answer.timestamp >= at_ms)
