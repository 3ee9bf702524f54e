"""What the control group says of kills for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbr.runtime.oom import OomKills, memory_events_file

EVENTS = "low 0\nhigh 12\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"


def test_a_kill_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "memory.events"
    path.write_text(EVENTS.format(4))
    kills = OomKills(path)
    assert not kills.take(), "those were before this run"
    path.write_text(EVENTS.format(6))
    assert [kills.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("content", ["", "oom_kill\n", "oom_kill many\n", "low 0\n"])
def test_a_file_that_says_nothing_of_kills_proves_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "memory.events"
    path.write_text(content)
    assert not OomKills(path).take()


def test_where_nobody_counts_nothing_is_claimed(tmp_path: Path) -> None:
    assert not OomKills(None).take()
    assert not OomKills(tmp_path / "none").take()


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ("0::/\n", "memory.events"),
        ("0::/user.slice/kbr.service\n", "user.slice/kbr.service/memory.events"),
        ("4:memory:/x\n1:cpu:/\n0::/y\n", "y/memory.events"),
    ],
)
def test_the_groups_own_file_is_read(tmp_path: Path, own: str, found: str) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(own)
    assert memory_events_file(cgroup, tmp_path) == tmp_path / found


def test_without_version_two_there_is_no_file(tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("4:memory:/x\n")
    assert memory_events_file(cgroup, tmp_path) is None
    assert memory_events_file(tmp_path / "missing", tmp_path) is None
