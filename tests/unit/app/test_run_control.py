"""What a run answers to who asks: a bounded document, with what it knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.app.run_control import MAX_TOPICS, RunControl
from kbr.app.worker_events import RunDisplay
from kbr.backup.watching import BackupNow, Doing, TopicNow
from kbr.runtime.control import ask, find_runs
from kbr.runtime.pacing import RateLimit


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunControl]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with RunControl("backup", "b", RateLimit(), RunDisplay(None)) as made:
        yield made


def _topic(name: str, lag: int) -> TopicNow:
    return TopicNow(topic=name, partitions=1, next_offset=5, high_watermark=5 + lag, lag=lag)


def test_a_backup_tells_what_it_does_and_those_behind_come_first(control: RunControl) -> None:
    assert ask(find_runs()[0], {})["doing"] is None
    now = BackupNow(doing=Doing.BETWEEN_PASSES, topics=(_topic("a", 0), _topic("b", 7), _topic("c", 2)))
    control.tell_of(lambda: now)
    answer = ask(find_runs()[0], {})
    assert (answer["doing"], answer["lag_records"], answer["topic_count"]) == ("waiting for the next pass", 9, 3)
    assert [one["topic"] for one in answer["topics"]] == ["b", "c", "a"]
    assert answer["topics"][0] == {
        "topic": "b", "partitions": 1, "next_offset": 5, "high_watermark": 12, "lag_records": 7
    }  # fmt: skip


def test_the_answer_of_many_topics_with_the_longest_names_arrives(control: RunControl) -> None:
    topics = tuple(_topic(f"{number:05d}" + "t" * 244, 2**62) for number in range(MAX_TOPICS + 5))
    control.tell_of(lambda: BackupNow(doing=Doing.FETCHING, topics=topics))
    answer = ask(find_runs()[0], {})
    assert (len(answer["topics"]), answer["topic_count"]) == (MAX_TOPICS, MAX_TOPICS + 5)
    assert len(json.dumps(answer)) < 1024 * 1024
