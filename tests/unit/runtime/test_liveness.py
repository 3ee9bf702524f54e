"""Who is silent for too long, and which time counts."""

from __future__ import annotations

import pytest

from kbr.runtime.liveness import BEAT_S, HANG_S, LifeSigns, beat_interval_s


def _rounds(signs: LifeSigns, now_s: float, seconds: float) -> float:
    """The loop runs as usual for a while."""
    until_s = now_s + seconds
    while now_s < until_s:
        now_s += 0.1
        signs.round_ended(now_s)
    return now_s


def test_a_worker_that_is_not_heard_for_the_timeout_is_silent() -> None:
    signs = LifeSigns(60.0, 1000.0)
    signs.heard(1)
    now_s = _rounds(signs, 1000.0, 59.0)
    signs.heard(2)
    assert signs.silent() == []
    now_s = _rounds(signs, now_s, 1.1)
    assert signs.silent() == [1]
    signs.heard(1)
    assert signs.silent() == []
    signs.forget(1)
    _rounds(signs, now_s, 60.0)
    assert signs.silent() == [2]


def test_a_pause_of_the_supervisor_counts_for_one_second_at_most() -> None:
    signs = LifeSigns(60.0, 0.0)
    signs.heard(1)
    now_s = _rounds(signs, 0.0, 58.0)
    signs.round_ended(now_s + 8 * 3600)  # a night's sleep
    assert signs.silent() == []
    _rounds(signs, now_s + 8 * 3600, 1.2)
    assert signs.silent() == [1]


def test_a_pause_is_a_small_part_of_a_short_timeout_too() -> None:
    signs = LifeSigns(1.0, 0.0)
    signs.heard(1)
    signs.round_ended(50.0)
    signs.round_ended(100.0)
    assert signs.silent() == []


def test_a_clock_that_goes_back_frightens_nobody() -> None:
    signs = LifeSigns(1.0, 100.0)
    signs.heard(1)
    signs.round_ended(0.0)
    assert signs.silent() == []


def test_a_worker_beats_several_times_within_any_timeout() -> None:
    assert beat_interval_s(HANG_S) == BEAT_S
    assert beat_interval_s(1.0) == 0.25


def test_no_time_for_a_sign_of_life_is_refused() -> None:
    with pytest.raises(ValueError, match="needs time"):
        LifeSigns(0.0, 0.0)
