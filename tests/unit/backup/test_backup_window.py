"""A backup of a window of time: where its partitions begin, and what a later run may make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import BackupExists, ClusterUnavailable
from kbr.model import TopicPartition
from tests.support.backup_bench import CONTINUOUS, OPTIONS, Bench, Topics

ZERO, ONE, TWO = (TopicPartition("t", number) for number in range(3))
WINDOW = replace(OPTIONS, time_window_start_ms=1000)


def starts(bench: Bench) -> list[int]:
    return [partition.start_offset for topic in bench.stored().topics for partition in topic.partitions]


def test_a_partition_begins_at_its_first_record_of_the_window_and_holds_nothing_where_there_is_none() -> None:
    bench = Bench(Topics(t=[100, 100, 0]))
    bench.topics.first = {ZERO: 60, ONE: -1, TWO: -1}
    report = bench.run(WINDOW)
    assert report.exit_code == 0
    assert starts(bench) == [60, 100, 0]
    assert [partition.record_count for partition in bench.stored().topics[0].partitions] == [40, 0, 0]
    assert (bench.stored().source.time_window_start_ms, bench.stored().source.time_window_end_ms) == (1000, None)


def test_a_record_that_came_after_the_end_was_fixed_does_not_move_the_beginning_behind_it() -> None:
    bench = Bench(Topics(t=[100]))
    bench.topics.first = {ZERO: 130}
    assert bench.run(WINDOW).exit_code == 0
    assert starts(bench) == [100]


def test_the_window_is_looked_up_once_for_each_partition_and_later_records_are_all_read() -> None:
    bench = Bench(Topics(t=[100, 100]))
    bench.topics.first = {ZERO: 60, ONE: -1}
    bench.run(WINDOW)
    bench.topics.ends["t"] = [150, 150, 30]
    bench.topics.first = {TWO: 10}
    assert bench.run(WINDOW).exit_code == 0
    assert bench.topics.looked_up == [ZERO, ONE, TWO]
    assert starts(bench) == [60, 100, 10]
    assert [partition.record_count for partition in bench.stored().topics[0].partitions] == [90, 50, 20]


def test_a_partition_of_which_nobody_can_say_it_is_failed_and_asked_again() -> None:
    bench = Bench(Topics(t=[100]))
    bench.topics.first = {ZERO: ClusterUnavailable("no leader", hint="wait")}
    assert bench.run(WINDOW).exit_code == 3
    bench.topics.first = {ZERO: 70}
    assert bench.run(WINDOW).exit_code == 0
    assert starts(bench) == [70]


def test_without_a_window_nobody_is_asked() -> None:
    bench = Bench(Topics(t=[100]))
    assert bench.run(replace(OPTIONS, time_window_end_ms=5)).exit_code == 0
    assert bench.topics.looked_up == []


@pytest.mark.parametrize(
    ("first", "other", "hint"),
    [
        ((1000, None), (None, None), "give --from-timestamp 1000 to go on"),
        ((1000, None), (1001, None), "give --from-timestamp 1000 to go on"),
        ((1000, 5000), (1000, 4000), "give --from-timestamp 1000 --to-timestamp 5000 to go on"),
        ((None, 5000), (1000, 5000), "give --to-timestamp 5000 to go on"),
        ((None, None), (1000, None), "leave the time window out to go on"),
    ],
)
def test_a_backup_goes_on_with_its_own_window_only(
    first: tuple[int | None, int | None], other: tuple[int | None, int | None], hint: str
) -> None:
    bench = Bench(Topics(t=[100]))
    bench.topics.first = {ZERO: 0}
    bench.run(replace(OPTIONS, time_window_start_ms=first[0], time_window_end_ms=first[1]))
    before = bench.stored()
    with pytest.raises(BackupExists, match="was taken of the time window") as caught:
        bench.run(replace(OPTIONS, time_window_start_ms=other[0], time_window_end_ms=other[1]))
    assert hint in caught.value.hint
    assert bench.stored() == before


def test_a_continuous_backup_takes_what_is_new_of_a_window_that_is_open_at_its_end() -> None:
    bench = Bench(Topics(t=[100]))
    bench.topics.first = {ZERO: 60, ONE: 5}

    def at_wait(count: int) -> bool:
        bench.topics.ends["t"] = [120, 10]
        return count > 60

    bench.wish.at_wait = at_wait
    assert bench.run(replace(CONTINUOUS, time_window_start_ms=1000)).exit_code == 0
    assert starts(bench) == [60, 5]
    assert bench.topics.looked_up == [ZERO, ONE]
