"""Consumer groups by a client that is only played: what is asked again, what is told how."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaError, KafkaException

from kbr.errors import AuthorizationFailed, ClusterUnavailable, GroupActive
from kbr.kafka.admin import AdminSession
from kbr.kafka.groups import AT_ONCE, ConsumerGroups, GroupListing, GroupStanding
from kbr.kafka.settings import ClientSettings
from kbr.model import CommittedOffset, TopicPartition
from tests.support.clocks import FakeClock

PLACE = TopicPartition("t", 0)


class Client:
    """Answers one question after the other, as told; a code is an error."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.asked: list[str] = []
        self.open = self.most_open = 0
        self.given: list[Any] = []

    def poll(self, _timeout: float) -> int:
        return 0

    def _answer(self, group: str) -> Future[Any]:
        self.asked.append(group)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        answer = self.answers[group].pop(0) if len(self.answers[group]) > 1 else self.answers[group][0]
        client = self

        class Answer(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                client.open -= 1
                if isinstance(answer, int):
                    raise KafkaException(KafkaError(answer))
                return answer

        return Answer()

    def list_consumer_groups(self, **_more: object) -> Future[Any]:
        return self._answer("")

    def list_consumer_group_offsets(self, request: list[Any], **_more: object) -> dict[str, Future[Any]]:
        return {request[0].group_id: self._answer(request[0].group_id)}

    def describe_consumer_groups(self, names: list[str], **_more: object) -> dict[str, Future[Any]]:
        return {names[0]: self._answer(names[0])}

    def alter_consumer_group_offsets(self, request: list[Any], **_more: object) -> dict[str, Future[Any]]:
        self.given += request
        return {request[0].group_id: self._answer(request[0].group_id)}

    def delete_consumer_groups(self, names: list[str], **_more: object) -> dict[str, Future[Any]]:
        return {names[0]: self._answer(names[0])}


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def groups(client: Client) -> ConsumerGroups:
    clock = FakeClock()
    session = AdminSession(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=60, clock=clock)
    session._client = client
    return ConsumerGroups(session, clock=clock)


def partition(offset: int, error: int | None = None, metadata: str | None = None) -> Any:
    return SimpleNamespace(
        topic="t", partition=0, offset=offset, leader_epoch=None, metadata=metadata,
        error=None if error is None else KafkaError(error),
    )  # fmt: skip


def answered(*rows: Any) -> Any:
    return SimpleNamespace(topic_partitions=list(rows))


def test_groups_of_every_kind_are_listed_in_order(client: Client, groups: ConsumerGroups) -> None:
    def one(name: str, kind: ConsumerGroupType, state: ConsumerGroupState) -> Any:
        return SimpleNamespace(group_id=name, type=kind, state=state)

    found = [
        one("b", ConsumerGroupType.CONSUMER, ConsumerGroupState.STABLE),
        one("a", ConsumerGroupType.CLASSIC, ConsumerGroupState.EMPTY),
        one("c", ConsumerGroupType.UNKNOWN, ConsumerGroupState.UNKNOWN),
    ]
    client.answers[""] = [SimpleNamespace(valid=found, errors=[])]
    assert groups.listed() == [
        GroupListing(group="a", kind="classic", state="Empty"),
        GroupListing(group="b", kind="consumer", state="Stable"),
        GroupListing(group="c", kind="unknown", state="Unknown"),
    ]


def test_a_listing_without_one_broker_is_no_listing(client: Client, groups: ConsumerGroups) -> None:
    whole = SimpleNamespace(valid=[], errors=[])
    lost = SimpleNamespace(valid=[], errors=[KafkaError(KafkaError._TRANSPORT)])  # as the client has them
    client.answers[""] = [lost, SimpleNamespace(valid=[], errors=[KafkaException(*lost.errors)]), whole]
    assert groups.listed() == []
    assert len(client.asked) == 3
    client.answers[""] = [lost]
    with pytest.raises(ClusterUnavailable):
        groups.listed()


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (KafkaError._TIMED_OUT, ClusterUnavailable),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, AuthorizationFailed),
    ],
)
def test_what_a_listing_says_of_one_broker_is_an_error_of_kbr(
    client: Client, groups: ConsumerGroups, code: int, raised: type[Exception]
) -> None:
    client.answers[""] = [SimpleNamespace(valid=[], errors=[KafkaError(code)])]
    with pytest.raises(raised):
        groups.listed()


@pytest.mark.parametrize(
    "code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError._TRANSPORT]
)
def test_what_a_falling_coordinator_spoils_is_asked_again(client: Client, groups: ConsumerGroups, code: int) -> None:
    client.answers = {"a": [code, code, answered(partition(5))], "b": [answered(partition(6, metadata="m"))]}
    assert groups.committed(["a", "b"]) == {
        "a": {PLACE: CommittedOffset(offset=5)},
        "b": {PLACE: CommittedOffset(offset=6, metadata="m")},
    }
    assert client.asked == ["a", "b", "a", "a"]


def test_a_coordinator_that_stays_away_is_given_up_at_the_deadline(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {"a": [KafkaError.NOT_COORDINATOR]}
    (answer,) = groups.committed(["a"]).values()
    assert isinstance(answer, ClusterUnavailable)
    assert answer.retriable


def test_one_groups_refusal_is_its_own(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {"a": [KafkaError.GROUP_AUTHORIZATION_FAILED], "b": [answered()]}
    found, unread = groups.offsets(
        [GroupListing(group=name, kind="classic", state="Empty") for name in ("a", "b")]
    )
    assert [one.group for one in found] == ["b"]
    assert isinstance(unread["a"], AuthorizationFailed)
    assert "missing right: Describe on group a" in str(unread["a"])
    assert client.asked == ["a", "b"]


def test_partitions_without_an_offset_have_none(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {"a": [answered(partition(-1001))], "b": [answered(partition(3, KafkaError.UNSTABLE_OFFSET_COMMIT)), answered(partition(3))]}
    assert groups.committed(["a", "b"]) == {"a": {}, "b": {PLACE: CommittedOffset(offset=3)}}


def test_no_more_than_so_many_requests_are_under_way(client: Client, groups: ConsumerGroups) -> None:
    names = [f"g{number}" for number in range(5 * AT_ONCE)]
    client.answers = {name: [answered()] for name in names}
    assert list(groups.committed(names)) == names
    assert client.most_open == AT_ONCE


def test_a_commit_gives_the_offset_with_what_was_kept_beside_it(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {"a": [answered(partition(5))]}
    wanted = CommittedOffset(offset=5, leader_epoch=2, metadata="m")
    assert groups.commit({"a": {PLACE: wanted}, "b": {}}) == {"a": None}
    (given,) = client.given[0].topic_partitions
    assert (given.topic, given.partition, given.offset, given.leader_epoch, given.metadata) == ("t", 0, 5, 2, "m")


@pytest.mark.parametrize("code", [KafkaError.UNKNOWN_MEMBER_ID, KafkaError.STALE_MEMBER_EPOCH])
def test_a_group_that_got_members_meanwhile_is_told_so(client: Client, groups: ConsumerGroups, code: int) -> None:
    client.answers = {"a": [answered(partition(5, code))]}
    (answer,) = groups.commit({"a": {PLACE: CommittedOffset(offset=5)}}).values()
    assert isinstance(answer, GroupActive)
    assert answer.exit_code == 13


def test_a_group_that_is_gone_needs_no_deleting(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {"a": [KafkaError.GROUP_ID_NOT_FOUND], "b": [KafkaError.NON_EMPTY_GROUP], "c": [None]}
    answers = groups.delete(["a", "b", "c"])
    assert answers["a"] is None
    assert isinstance(answers["b"], GroupActive)
    assert answers["c"] is None


def test_a_group_that_does_not_exist_is_dead_and_has_nobody(client: Client, groups: ConsumerGroups) -> None:
    client.answers = {
        "a": [SimpleNamespace(state=ConsumerGroupState.DEAD, members=[])],
        "b": [SimpleNamespace(state=ConsumerGroupState.STABLE, members=[1, 2])],
    }
    assert groups.describe(["a", "b"]) == {
        "a": GroupStanding(state="Dead", member_count=0),
        "b": GroupStanding(state="Stable", member_count=2),
    }
    assert not GroupStanding(state="Dead", member_count=0).exists
