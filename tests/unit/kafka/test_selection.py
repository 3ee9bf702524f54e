"""Which topics names and globs mean."""

from __future__ import annotations

import pytest

from kbr.errors import TopicMissing, UsageError
from kbr.kafka.selection import select_topics

TOPICS = [
    ("orders", False, 1), ("orders-eu", False, 1), ("Orders", False, 1), ("payments", False, 1),
    ("__consumer_offsets", True, 50), ("_schemas", False, 1), ("audit.events", False, 1), ("audit-events", False, 1),
]  # fmt: skip


def _select(*include: str, exclude: tuple[str, ...] = (), internal: bool = False) -> list[str]:
    return select_topics(TOPICS, include, exclude, include_internal=internal)


def test_globs_match_whole_names_and_case() -> None:
    assert _select("orders*") == ["orders", "orders-eu"]
    assert _select("order?") == ["orders"]
    assert _select("[Oo]rders") == ["Orders", "orders"]


def test_a_dot_is_a_dot() -> None:
    assert _select("audit.events") == ["audit.events"]


def test_internal_topics_only_when_asked_for_or_named() -> None:
    assert "__consumer_offsets" not in _select("*")
    assert "__consumer_offsets" in _select("*", internal=True)
    assert _select("__consumer_offsets") == ["__consumer_offsets"]
    assert "_schemas" in _select("*")


def test_exclusion_wins() -> None:
    assert _select("orders*", exclude=("*-eu",)) == ["orders"]
    assert _select("orders", "payments", exclude=("orders",)) == ["payments"]


def test_every_missing_name_is_told_with_what_is_near() -> None:
    with pytest.raises(TopicMissing, match="nope, ordres") as caught:
        _select("ordres", "nope", "payments")
    assert "orders" in caught.value.hint


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(UsageError, match="no topic matches"):
        _select("x*")
    with pytest.raises(UsageError, match="no topic matches"):
        _select("orders", exclude=("*",))
