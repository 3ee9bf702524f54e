"""A cluster's consumer groups: which there are, what they have committed, and the changes that a restore makes to it.

Requests about a group go to its coordinator, one a group, several at a time; those that a falling broker spoiled are
asked again. Share groups (KIP-932) are not seen: librdkafka has no request for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientTopicPartition

from kbr.errors import ClusterError, ClusterUnavailable, GroupActive, KbrError
from kbr.kafka.admin import AdminSession
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.timing import Backoff, Clock, Deadline

__all__ = ["ConsumerGroups", "GroupListing", "GroupStanding"]

_T = TypeVar("_T")

#: Requests under way. Reading 2,000 groups of one broker took 1.7 to 4 s with 1, 1.0 s with 32, the same with 64.
AT_ONCE = 32
#: What passes: a coordinator that moves, starts, or can't be reached.
_PASSING = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._WAIT_COORD,
        KafkaError._DESTROY_BROKER,
    }
)
#: How a coordinator says that somebody else has the group (KIP-496; for KIP-848 groups the first or the last).
_ACTIVE = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
#: Kafka's own words, as kafka-consumer-groups prints them.
_STATES = {
    ConsumerGroupState.UNKNOWN: "Unknown",
    ConsumerGroupState.PREPARING_REBALANCING: "PreparingRebalance",
    ConsumerGroupState.COMPLETING_REBALANCING: "CompletingRebalance",
    ConsumerGroupState.STABLE: "Stable",
    ConsumerGroupState.DEAD: "Dead",
    ConsumerGroupState.EMPTY: "Empty",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupListing:
    """A group as a listing names it."""

    group: str
    #: ``classic``, ``consumer`` or ``unknown``.
    kind: str
    #: In Kafka's words.
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStanding:
    """A group as its coordinator describes it."""

    state: str
    member_count: int

    @property
    def is_active(self) -> bool:
        """Whether it has members, or is about to: then its offsets are theirs."""
        return self.member_count > 0 or self.state not in {"Empty", "Dead"}

    @property
    def exists(self) -> bool:
        """Whether the cluster knows it: of one that it does not know it says that it is dead."""
        return self.state != "Dead"


class ConsumerGroups:
    """The groups of one cluster.

    Args:
        session: an open one; its deadline is for each call here.
    """

    def __init__(self, session: AdminSession, *, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    def listed(self) -> list[GroupListing]:
        """All classic and consumer groups that the user may see, in the order of their names.

        Raises:
            ClusterUnavailable: not every broker tells its groups within the deadline.
            ClusterError: a broker refuses to.
        """
        return self._session.steadily(self._list)

    def _list(self) -> list[GroupListing]:
        session = self._session
        doing, right = "listing consumer groups", "Describe on the groups, or on the cluster"
        future = session.call(
            partial(session.client.list_consumer_groups, request_timeout=session.request_timeout_s), doing, right=right
        )
        answer = session.result(future, doing, right=right)
        for error in answer.errors or ():
            # those of one broker would be missing in silence
            session.call(partial(_raise, error), doing, right=right)
        return sorted(
            (
                GroupListing(group=one.group_id, kind=_kind_of(one), state=_STATES.get(one.state, "Unknown"))
                for one in answer.valid or ()
            ),
            key=lambda one: one.group,
        )

    def offsets(self, listings: Iterable[GroupListing]) -> tuple[list[GroupOffsets], dict[str, KbrError]]:
        """What groups have committed, all of it, in the order given; and of others, why it can't be had."""
        known = {one.group: one for one in listings}
        answers = self.committed(list(known))
        found = [
            GroupOffsets(group=group, kind=known[group].kind, state=known[group].state, offsets=answer)
            for group, answer in answers.items()
            if not isinstance(answer, KbrError)
        ]
        return found, {group: answer for group, answer in answers.items() if isinstance(answer, KbrError)}

    def committed(self, groups: Sequence[str]) -> dict[str, dict[TopicPartition, CommittedOffset] | KbrError]:
        """Committed offsets of each group, none of a group that does not exist; or why they can't be had."""

        def ask(group: str) -> Future[Any]:
            return self._session.client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=self._session.request_timeout_s
            )[group]

        return self._each(groups, ask, _offsets_of, "reading the offsets of group {}", "Describe on group {}")

    def describe(self, groups: Sequence[str]) -> dict[str, GroupStanding | KbrError]:
        """How each group stands now, or why that can't be had."""

        def ask(group: str) -> Future[Any]:
            return self._session.client.describe_consumer_groups(
                [group], request_timeout=self._session.request_timeout_s
            )[group]

        def read(answer: Any) -> GroupStanding:
            return GroupStanding(state=_STATES.get(answer.state, "Unknown"), member_count=len(answer.members))

        return self._each(groups, ask, read, "describing group {}", "Describe on group {}")

    def commit(
        self, offsets: Mapping[str, Mapping[TopicPartition, CommittedOffset]]
    ) -> dict[str, KbrError | None]:
        """Commit for groups without members; of each, why not all of it was done.

        One request a group: its coordinator takes it as a whole, but for partitions that don't exist. Committed again
        after a lost answer, it is the same.
        """

        def ask(group: str) -> Future[Any]:
            wanted = [
                ClientTopicPartition(
                    key.topic,
                    key.partition,
                    one.offset,
                    metadata=one.metadata,
                    leader_epoch=one.leader_epoch,
                )
                for key, one in offsets[group].items()
            ]
            return self._session.client.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=self._session.request_timeout_s
            )[group]

        return self._each(
            [group for group, wanted in offsets.items() if wanted],
            ask,
            _check_partitions,
            "committing offsets of group {}",
            "Read on group {} and on its topics",
        )

    def delete(self, groups: Sequence[str]) -> dict[str, KbrError | None]:
        """Delete groups without members, with all that they have committed; of each, why not. One that is gone is fine."""

        def ask(group: str) -> Future[Any]:
            return self._session.client.delete_consumer_groups(
                [group], request_timeout=self._session.request_timeout_s
            )[group]

        answers = self._each(groups, ask, lambda _answer: None, "deleting group {}", "Delete on group {}")
        return {
            group: None if _code_of(answer) == KafkaError.GROUP_ID_NOT_FOUND else answer
            for group, answer in answers.items()
        }

    # -- inner ----------------------------------------------------------------------------

    def _each(
        self,
        groups: Sequence[str],
        ask: Callable[[str], Future[Any]],
        read: Callable[[Any], _T],
        doing: str,
        right: str,
    ) -> dict[str, _T | KbrError]:
        """Ask for each group, several at a time, and again what may pass, until the deadline."""
        deadline = Deadline(self._session.deadline_s, clock=self._clock)
        found: dict[str, _T | KbrError] = dict.fromkeys(groups, ClusterUnavailable("not asked"))
        wanted: Sequence[str] = list(found)
        for delay in Backoff(base_s=0.1, cap_s=2.0).delays():
            found.update(self._round(wanted, ask, read, doing, right))
            wanted = [group for group in wanted if _code_of(found[group]) in _PASSING]
            if not wanted or deadline.passed:
                return found
            self._clock.sleep(min(delay, deadline.remaining_s()))
        raise AssertionError("the delays are endless")

    def _round(
        self,
        groups: Sequence[str],
        ask: Callable[[str], Future[Any]],
        read: Callable[[Any], _T],
        doing: str,
        right: str,
    ) -> dict[str, _T | KbrError]:
        session = self._session
        found: dict[str, _T | KbrError] = {}
        pending: deque[tuple[str, Future[Any]]] = deque()

        def take() -> None:
            group, future = pending.popleft()
            try:
                answer = session.result(future, doing.format(group), right=right.format(group))
                found[group] = session.call(partial(read, answer), doing.format(group), right=right.format(group))
            except KbrError as error:
                found[group] = _told(error, group)

        for group in groups:
            if len(pending) == AT_ONCE:
                take()
            try:
                pending.append((group, session.call(partial(ask, group), doing.format(group))))
            except KbrError as error:
                found[group] = error
        while pending:
            take()
        return found


def _kind_of(listing: Any) -> str:
    kind = getattr(listing, "type", None)
    name = getattr(kind, "name", "").lower()
    return name if name in {"classic", "consumer"} else "unknown"


def _raise(error: KafkaError | KafkaException) -> None:
    # a listing holds KafkaErrors: one can be raised, but no except clause catches it (its only base is object)
    raise error if isinstance(error, KafkaException) else KafkaException(error)


def _offsets_of(answer: Any) -> dict[TopicPartition, CommittedOffset]:
    found: dict[TopicPartition, CommittedOffset] = {}
    for one in answer.topic_partitions:
        if one.error is not None:
            raise KafkaException(one.error)
        if one.offset < 0:
            continue  # nothing is committed
        found[TopicPartition(one.topic, one.partition)] = CommittedOffset(
            offset=one.offset,
            leader_epoch=-1 if one.leader_epoch is None else one.leader_epoch,
            metadata=one.metadata or "",
        )
    return found


def _check_partitions(answer: Any) -> None:
    """A commit's answer holds an error for each partition."""
    for one in answer.topic_partitions:
        if one.error is not None:
            raise KafkaException(one.error)


def _code_of(answer: object) -> int | None:
    return answer.context.get("kafka_code") if isinstance(answer, KbrError) else None


def _told(error: KbrError, group: str) -> KbrError:
    """Errors that need other words than librdkafka's."""
    code = error.context.get("kafka_code")
    if code in _ACTIVE:
        return GroupActive(
            f"group {group} has members: its offsets are theirs to commit",
            hint="stop its consumers, then run the same command again",
            groups=[group],
            kafka_code=code,
        )
    if code in _PASSING and not isinstance(error, ClusterUnavailable):
        return ClusterUnavailable(error.message, hint="run the same command again", **error.context)
    if isinstance(error, ClusterError) and not error.hint:
        error.hint = "check the group, and the broker that coordinates it"
    return error
