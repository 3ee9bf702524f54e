"""Numbers for people."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.cli.units import (
    bytes_text,
    count_text,
    counted,
    duration_text,
    instant_text,
    local_instant_text,
    mean_rate_text,
    rate_text,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (128 * 2**20, "128.0 MiB"),
        (5 * 2**40, "5.0 TiB"),
        (3000 * 2**50, "3000.0 PiB"),
    ],
)
def test_bytes(number: int, text: str) -> None:
    assert bytes_text(number) == text


def test_counts_have_separators() -> None:
    assert count_text(1_234_567) == "1,234,567"


def test_rates_need_time() -> None:
    assert rate_text(2**21) == "2.0 MiB/s"
    assert mean_rate_text(2**20, 0.5) == "2.0 MiB/s"
    assert mean_rate_text(2**20, 0) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (3.21, "3.2 s"),
        (59.96, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3720, "1 h 2 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_714_564_800_007, "2024-05-01T12:00:00.007Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "253402300800000"),
        (-1, "-"),
        (None, "-"),
    ],
)
def test_instants(milliseconds: int | None, text: str) -> None:
    assert instant_text(milliseconds) == text


def test_local_instants_carry_their_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    try:
        assert local_instant_text(1_714_564_800_007) == "2024-05-01T17:30:00.007+05:30"
        assert local_instant_text(None) == "-"
        assert local_instant_text(253_402_300_799_999)
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_any_number_has_a_text(number: int) -> None:
    assert bytes_text(number)
    assert instant_text(number)
    assert local_instant_text(number)


@pytest.mark.parametrize(("number", "text"), [(0, "0 records"), (1, "1 record"), (2, "2 records"), (1234, "1,234 records")])
def test_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "record") == text
