"""The last look at a target: what is gone, what is lost, what only takes a moment, what nobody can tell."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kbr.errors import ClusterUnavailable, KbrError, TargetChanged
from kbr.kafka.cluster import PartitionOffsets
from kbr.model import TopicPartition, TopicSpec
from kbr.restore.final_look import ELECTION_S, Expected, FinalLook, look_at_the_end, other_topic
from kbr.restore.waiting import StopFlag
from tests.support.clocks import FakeClock

ZERO, ONE = TopicPartition("back", 0), TopicPartition("back", 1)
SPEC = TopicSpec(name="back", partition_count=2, replication_factor=1, topic_id="id-1")
Answer = dict[TopicPartition, PartitionOffsets | KbrError]


def _offsets(start: int, end: int) -> PartitionOffsets:
    return PartitionOffsets(log_start=start, high_watermark=end, end_offset=end)


class Target:
    """Answers in turn; the last one for ever."""

    def __init__(self, *answers: Answer, topic: TopicSpec | None = SPEC) -> None:
        self._answers = list(answers)
        self._topic = topic
        self.asked: list[list[TopicPartition]] = []

    def topics(self) -> list[tuple[str, bool, int]]:
        return [] if self._topic is None else [(self._topic.name, False, self._topic.partition_count)]

    def describe_topics(self, names: Sequence[str]) -> dict[str, TopicSpec]:
        assert self._topic is not None
        return {name: self._topic for name in names}

    def offsets(self, partitions: Sequence[TopicPartition], _level: str) -> Answer:
        self.asked.append(list(partitions))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return {one: answer[one] for one in partitions}


def _look(target: Target, *, stop: StopFlag | None = None, clock: FakeClock | None = None) -> FinalLook:
    return look_at_the_end(
        target,  # type: ignore[arg-type]
        [Expected(target=ZERO, base=0, end=10), Expected(target=ONE, base=100, end=110)],
        {"back": SPEC},
        stop=stop or StopFlag(),
        clock=clock or FakeClock(),
        deadline_s=60.0,
    )


def test_nothing_is_said_where_all_is_there() -> None:
    target = Target({ZERO: _offsets(0, 10), ONE: _offsets(40, 110)})
    assert _look(target) == FinalLook()
    assert target.asked == [[ZERO, ONE]]


def test_records_behind_the_restored_ones_are_told() -> None:
    look = _look(Target({ZERO: _offsets(0, 10), ONE: _offsets(100, 111)}))
    assert list(look.failures) == [ONE]
    assert "its restored records end at offset 109, and it goes on to offset 110" in str(look.failures[ONE])


@pytest.mark.parametrize(("start", "gone"), [(100, 0), (101, 1), (109, 9), (110, 10)])
def test_what_was_removed_from_the_beginning_is_counted(start: int, gone: int) -> None:
    look = _look(Target({ZERO: _offsets(0, 10), ONE: _offsets(start, 110)}))
    assert look.gone == ({ONE: gone} if gone else {})
    assert not look.failures


def test_a_leader_that_was_just_elected_is_waited_for() -> None:
    target = Target({ZERO: _offsets(0, 7), ONE: _offsets(100, 110)}, {ZERO: _offsets(0, 10)})
    assert _look(target) == FinalLook()
    assert target.asked == [[ZERO, ONE], [ZERO]]


def test_acknowledged_records_that_a_leader_does_not_have_are_lost() -> None:
    clock = FakeClock()
    look = _look(Target({ZERO: _offsets(0, 7), ONE: _offsets(100, 110)}), clock=clock)
    error = look.failures[ZERO]
    assert list(look.failures) == [ZERO]
    assert isinstance(error, TargetChanged)
    assert "up to offset 9, and its high watermark is 7: 3 records are lost" in str(error)
    assert clock.monotonic() == pytest.approx(ELECTION_S, abs=1)


def test_a_wish_to_stop_ends_the_wait() -> None:
    stop, clock = StopFlag(), FakeClock()
    stop.set()
    assert list(_look(Target({ZERO: _offsets(0, 7), ONE: _offsets(100, 110)}), stop=stop, clock=clock).failures) == [ZERO]
    assert clock.monotonic() == 0


def test_a_partition_that_can_not_be_looked_at_is_no_failure() -> None:
    error = ClusterUnavailable("no leader")
    look = _look(Target({ZERO: error, ONE: _offsets(100, 110)}))
    assert look == FinalLook(unseen={ZERO: error})


def test_a_topic_that_is_gone_or_another_one_is_a_failure_of_its_partitions() -> None:
    look = _look(Target({}, topic=None))
    assert "the topic was deleted while" in str(look.failures[ONE])
    other = TopicSpec(name="back", partition_count=2, replication_factor=1, topic_id="id-2")
    look = _look(Target({}, topic=other))
    assert list(look.failures) == [ZERO, ONE]
    assert "deleted and made again" in str(look.failures[ZERO])
    assert other_topic(ZERO, SPEC, SPEC) is None
