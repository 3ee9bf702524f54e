"""Texts to numbers, sizes and instants."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.config.values import parse_bool, parse_duration, parse_instant, parse_int, parse_offsets, parse_size, shown


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is in a zone with an offset."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("134217728", 134_217_728),
        ("64MiB", 64 * 2**20),
        ("50MB", 50_000_000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1 KiB", 1024),
        ("1.5GiB", 3 * 2**29),
        ("0.1kB", 100),
        ("2TB", 2 * 10**12),
        ("7B", 7),
        (4096, 4096),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64M", "write 64MB .* or 64MiB"),
        ("64mib", "write 64MiB"),
        ("64Mb", "write 64MB"),
        ("64 bananas", "use B, kB, MB"),
        ("-1", "must be a size"),
        ("", "must be a size"),
        ("1.5", "whole number of bytes"),
        ("0.0001kB", "whole number of bytes"),
        ("٣MB", "must be a size"),
        (True, "must be a size"),
        (None, "must be a size"),
    ],
)
def test_what_is_no_size_says_what_would_be(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1714564800000", 1_714_564_800_000),
        (1_714_564_800_000, 1_714_564_800_000),
        ("0", 0),
        ("86400000", 86_400_000),
        ("1970-01-01T00:00:00Z", 0),
        ("2024-05-01T12:00:00Z", 1_714_564_800_000),
        ("2024-05-01T14:00:00+02:00", 1_714_564_800_000),
        ("2024-05-01T14:00:00+0200", 1_714_564_800_000),
        ("2024-05-01T14:00+02", 1_714_564_800_000),
        ("2024-05-01 07:30:00.000-04:30", 1_714_564_800_000),
        ("2024-05-01t12:00:00.25z", 1_714_564_800_250),
        ("2024-05-01T12:00:00,007Z", 1_714_564_800_007),
        ("2024-05-01T12:00:00.123000Z", 1_714_564_800_123),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_instants(text: object, milliseconds: int) -> None:
    assert parse_instant(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1714564800", "looks like seconds; did you mean 1714564800000"),
        (1_714_564_800, "looks like seconds"),
        ("1714564800000000", "looks like microseconds; did you mean 1714564800000 "),
        ("1714564800000000000", "looks like nanoseconds"),
        ("999999999999999", "out of range"),
        (-1, "out of range"),
        ("yesterday", "must be epoch milliseconds"),
        ("2024-13-01T00:00:00Z", "not a time"),
        ("2024-02-30T00:00:00Z", "not a time"),
        ("2024-05-01T12:00:60Z", "not a time"),
        ("2024-05-01T12:00:00+24:00", "offset .* out of range"),
        ("2024-05-01T12:00:00.0001Z", "finer than a millisecond"),
        ("1969-12-31T23:59:59Z", "out of range"),
        ("0001-01-01T00:00:00+14:00", "not a time|out of range"),
        (True, "must be epoch milliseconds"),
    ],
)
def test_what_is_no_instant_says_what_would_be(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_instant(text)


@pytest.mark.usefixtures("berlin")
def test_a_time_without_a_zone_is_refused_with_both_candidates() -> None:
    with pytest.raises(ValueError, match="no time zone") as caught:
        parse_instant("2024-05-01T12:00:00")
    assert "2024-05-01T12:00:00Z" in str(caught.value)
    assert "2024-05-01T12:00:00+02:00" in str(caught.value)


@pytest.mark.usefixtures("berlin")
def test_a_date_alone_is_refused_with_both_candidates() -> None:
    with pytest.raises(ValueError, match=r"2024-12-01T00:00:00Z for UTC, or 2024-12-01T00:00:00\+01:00"):
        parse_instant("2024-12-01")


def test_a_time_without_a_zone_at_the_edge_of_the_calendar_is_refused_too() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        parse_instant("0001-01-01T00:00:00")


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("-3", -3), ("134_217_728", 134_217_728), ("007", 7), (5, 5)])
def test_whole_numbers(text: object, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "0x10", "²", "1__0", True, 1.5, None, "9" * 30])
def test_what_is_no_whole_number_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_int(text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("ON", True), ("off", False), (True, True)])
def test_switches(text: object, value: bool) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize("text", ["1", "0", "", "ja", 1, None])
def test_what_is_no_switch_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="true or false"):
        parse_bool(text)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_any_value_is_parsed_or_a_value_error(value: object) -> None:
    for parse in (parse_int, parse_bool, parse_size, parse_instant):
        try:
            assert isinstance(parse(value), int)
        except ValueError as error:
            assert str(error).isprintable()


def test_quoted_values_stay_short_and_on_one_line() -> None:
    assert shown("a\nb\x1b") == "'a\\nb\\x1b'"
    assert len(shown("x" * 1000)) < 70


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", 86_400_000), ("90m", 5_400_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("1w", 604_800_000), ("500ms", 500),
        ("1.5h", 5_400_000), ("2m30s", 150_000), ("P1DT2H", 93_600_000), ("PT0.5S", 500), ("P2W", 1_209_600_000), ("1s1ms", 1001),
    ],
)  # fmt: skip
def test_durations_are_milliseconds(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "value", ["", "24", 24, None, "24x", "h", "-1h", "1h1h", "0s", "0.1ms", "P", "PT", "P1", "T1H", "1 h", "99999999w", "1e3s"]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="duration|finer|out of range"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100-200", (100, 200)), ("100-", (100, None)), ("-200", (0, 200)), ("7", (7, 7)), (7, (7, 7)), ("0-0", (0, 0))],
)
def test_offsets_are_both_included_and_may_be_open(text: object, expected: tuple[int, int | None]) -> None:
    assert parse_offsets(text) == expected


@pytest.mark.parametrize("value", ["", "-", "5-4", "a-b", "1-2-3", "1 - 2", True, None, 1.5, "1" * 19, "1-" + "1" * 19])
def test_what_are_no_offsets_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be offsets|ends before"):
        parse_offsets(value)
