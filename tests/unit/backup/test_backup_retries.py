"""When partitions are tried again."""

from __future__ import annotations

import random

import pytest

from kbr.backup.retries import MAX_TRIES, PartitionRetries
from kbr.errors import (
    AuthorizationFailed,
    IntegrityError,
    KbrError,
    OffsetOutOfRange,
    StoreFull,
    StoreUnavailable,
    WorkerCrashed,
)
from kbr.model import TopicPartition
from tests.support.clocks import FakeClock

KEY, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


def retries_of(clock: FakeClock, *, for_ever: bool = False) -> PartitionRetries:
    return PartitionRetries(clock=clock, full_deadline_s=900, for_ever=for_ever, rng=random.Random(1))  # noqa: S311


def tries(error: KbrError, *, for_ever: bool = False, moves: bool = False, limit: int = 50) -> tuple[int, float]:
    """How often a partition is tried that fails each time, and for how long."""
    clock = FakeClock()
    retries = retries_of(clock, for_ever=for_ever)
    begun = clock.monotonic()
    for number in range(1, limit):
        retries.note([KEY], {KEY: error}, {KEY: number if moves else 0})
        wait_s = retries.wait_s()
        if wait_s is None:
            return number, clock.monotonic() - begun
        clock.sleep(wait_s)
        assert retries.due() == {KEY}
    return limit, clock.monotonic() - begun


@pytest.mark.parametrize("error", [OffsetOutOfRange("gone"), WorkerCrashed("died"), IntegrityError("a bit flipped")])
def test_a_partition_that_gets_no_further_is_given_up_after_a_few_tries(error: KbrError) -> None:
    assert tries(error)[0] == MAX_TRIES


def test_a_partition_that_gets_further_each_time_is_tried_for_as_long_as_it_takes() -> None:
    assert tries(WorkerCrashed("died"), moves=True)[0] == 50


def test_a_full_store_is_waited_for_until_the_deadline() -> None:
    number, seconds = tries(StoreFull("no space"), limit=1000)
    assert 900 <= seconds < 1000
    assert number < 100


@pytest.mark.parametrize("error", [StoreUnavailable("tried for 15 minutes"), AuthorizationFailed("not allowed")])
def test_what_was_tried_long_enough_or_can_not_get_better_is_not_tried_again(error: KbrError) -> None:
    assert tries(error)[0] == 1


def test_a_continuous_backup_gives_nothing_up() -> None:
    assert tries(AuthorizationFailed("not allowed"), for_ever=True)[0] == 50


def test_others_are_not_held_back_and_what_has_passed_is_forgotten() -> None:
    clock = FakeClock()
    retries = retries_of(clock)
    retries.note([KEY, OTHER], {KEY: WorkerCrashed("died")}, {KEY: 0})
    assert retries.held_back() == {KEY}
    retries.note([KEY], {}, {})
    assert retries.held_back() == set()
    assert retries.wait_s() is None


def test_what_is_due_and_can_not_even_be_planned_is_over() -> None:
    clock = FakeClock()
    retries = retries_of(clock)
    retries.note([KEY], {KEY: OffsetOutOfRange("gone")}, {KEY: 0})
    clock.sleep(retries.wait_s() or 0)
    retries.note({*retries.due()}, {}, {})  # its topic was deleted meanwhile
    assert retries.wait_s() is None


def test_what_becomes_due_while_others_are_tried_is_tried_next() -> None:
    clock = FakeClock()
    retries = retries_of(clock)
    retries.note([KEY], {KEY: StoreFull("no space")}, {KEY: 0})
    clock.sleep(0.1)
    retries.note([OTHER], {OTHER: StoreFull("no space")}, {OTHER: 0})
    clock.sleep(retries.wait_s() or 0)
    (first,) = retries.due()
    other = {KEY, OTHER} - {first}
    clock.sleep(60)  # the pass about the first one; meanwhile the other's time has come
    retries.note([first], {}, {})
    assert retries.due() == other


def test_what_a_pass_that_was_ended_early_left_undone_keeps_its_trouble() -> None:
    clock = FakeClock()
    retries = retries_of(clock, for_ever=True)
    retries.note([KEY, OTHER], {KEY: WorkerCrashed("died"), OTHER: WorkerCrashed("died")}, {KEY: 0, OTHER: 0})
    clock.advance(60)
    assert retries.due() == {KEY, OTHER}
    retries.note([KEY, OTHER], {}, {}, undone=[KEY])
    assert (retries.has_failed(KEY), retries.has_failed(OTHER)) == (True, False)
    assert retries.tries(KEY) == 1
    assert retries.due() == {KEY}
