"""The judge sees what went wrong, and calls it by its name."""

from __future__ import annotations

import pytest

from tests.support.judge import anomalies, assert_identical
from tests.support.kafka import Read


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("abc", []),
        ("ab", ["1 lost, the first at place 2"]),
        ("", ["3 lost, the first at place 0"]),
        ("abcc", ["1 duplicated, the first at place 2"]),
        ("acb", ["reordered, from place 1 on"]),
        ("abxc", ["1 torn, the first at place 2"]),
        ("abb", ["1 lost, the first at place 2", "1 duplicated, the first at place 1"]),
    ],
)
def test_each_anomaly_has_its_name(found: str, words: list[str]) -> None:
    assert anomalies("abc", found) == words


def test_a_record_that_was_there_twice_may_come_twice_and_not_thrice() -> None:
    assert anomalies("aab", "aab") == []
    assert anomalies("aab", "aaab") == ["1 duplicated, the first at place 0"]


def test_topics_differ_by_any_part_of_a_record_but_the_offset() -> None:
    one = Read(0, 5, b"k", b"v", (("h", None),), 1, 1000)
    assert_identical([[one]], [[one._replace(offset=0)]], "t")
    for change in ({"key": None}, {"value": b""}, {"headers": ()}, {"timestamp": 1001}, {"timestamp_type": 2}):
        with pytest.raises(AssertionError, match=r"t: \[0\] 1 lost.*; \[0\] 1 torn"):
            assert_identical([[one]], [[one._replace(**change)]], "t")
    with pytest.raises(AssertionError, match="2 partitions instead of 1"):
        assert_identical([[one]], [[one], []], "t")
