"""Requests whose answer was lost are asked again; those that were refused are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from kbr.errors import AuthorizationFailed, ClusterError, ClusterUnavailable, KbrError
from kbr.kafka.admin import AdminSession
from kbr.kafka.new_topics import create_topics
from kbr.kafka.settings import ClientSettings
from kbr.model import TopicSpec
from kbr.timing import Deadline
from tests.support.clocks import FakeClock

LOST = ClusterUnavailable("the connection was lost", kafka_code=KafkaError._TRANSPORT)


def session_of(clock: FakeClock, deadline_s: float = 60.0) -> AdminSession:
    return AdminSession(ClientSettings(bootstrap_servers=("nowhere:1",)), deadline_s=deadline_s, clock=clock)


def test_a_lost_answer_is_asked_for_again_until_it_comes() -> None:
    clock = FakeClock()
    answers: list[KbrError | str] = [LOST, LOST, "here"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, KbrError):
            raise answer
        return answer

    assert session_of(clock).steadily(ask) == "here"
    assert clock.monotonic() > 0


def test_it_is_not_asked_for_longer_than_the_deadline() -> None:
    clock = FakeClock()
    asked = []

    def ask() -> None:
        asked.append(clock.monotonic())
        raise LOST

    with pytest.raises(ClusterUnavailable):
        session_of(clock, deadline_s=30).steadily(ask)
    assert len(asked) > 5
    assert 30 <= clock.monotonic() < 33


@pytest.mark.parametrize("error", [AuthorizationFailed("no"), ClusterError("odd", kafka_code=KafkaError.INVALID_CONFIG)])
def test_a_refusal_is_final(error: KbrError) -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        session_of(FakeClock()).steadily(ask)
    assert asked == [1]


class _Making:
    """Makes topics, and loses the first answer about one of them."""

    request_timeout_s = 1.0
    client = SimpleNamespace(create_topics=lambda new, **_more: {one.topic: one for one in new})

    def __init__(self, *, made: bool) -> None:
        self._made = made
        self.there: dict[str, SimpleNamespace] = {}
        self.asked: list[list[str]] = []
        self._inner = session_of(FakeClock())
        self.steadily = self._inner.steadily

    def is_mock(self) -> bool:
        return False

    def metadata(self, _deadline: object = None) -> SimpleNamespace:
        return SimpleNamespace(brokers={1: None}, topics=self.there)

    def call(self, function, _doing: str):  # noqa: ANN001, ANN201
        made = function()
        self.asked.append(sorted(made))
        return made

    def result(self, new, _doing: str, *, right: str) -> None:  # noqa: ANN001
        assert right
        lost = len(self.asked) == 1 and new.topic == "b"
        if new.topic in self.there:
            raise ClusterError("already exists", kafka_code=KafkaError.TOPIC_ALREADY_EXISTS)
        if not lost or self._made:
            self.there[new.topic] = SimpleNamespace(partitions=dict.fromkeys(range(new.num_partitions)))
        if lost:
            raise LOST


@pytest.mark.parametrize(("made", "asked"), [(True, [["a", "b", "c"], ["c"]]), (False, [["a", "b", "c"], ["b", "c"]])])
def test_a_topic_whose_answer_was_lost_is_made_once(made: bool, asked: list[list[str]]) -> None:
    session = _Making(made=made)
    specs = [TopicSpec(name=name, partition_count=2, replication_factor=1) for name in "abc"]
    assert create_topics(session, specs, Deadline(60, clock=FakeClock())) == []  # type: ignore[arg-type]
    assert sorted(session.there) == ["a", "b", "c"]
    assert session.asked == asked
