"""Progress in numbers: totals, rates over a window, and an ETA that does not guess."""

from __future__ import annotations

import pytest

from kbr.telemetry.events import ProgressEvent
from kbr.telemetry.progress import ETA_AFTER_S, RATE_WINDOW_S, ProgressModel
from tests.support.clocks import FakeClock


def _event(topic: str, records: int, raw_bytes: int = 0) -> ProgressEvent:
    return ProgressEvent(topic=topic, records=records, raw_bytes=raw_bytes)


def _model(**totals: int) -> tuple[ProgressModel, FakeClock]:
    clock = FakeClock()
    return ProgressModel(verb="backup", totals=totals, clock=clock), clock


def _steady(model: ProgressModel, clock: FakeClock, seconds: float, records_per_s: int, topic: str = "a") -> None:
    for _ in range(int(seconds * 10)):
        clock.advance(0.1)
        model.add(_event(topic, records_per_s // 10, records_per_s * 10))
        model.snapshot()


def test_events_add_up_per_topic_and_overall() -> None:
    model, _ = _model(a=100, b=50)
    model.add(_event("a", 10, 1000))
    model.add(_event("a", 5, 500))
    model.add(_event("b", 1, 7))
    snapshot = model.snapshot()
    rows = {row.topic: row for row in snapshot.topics}
    assert (rows["a"].records, rows["a"].raw_bytes, rows["a"].total) == (15, 1500, 100)
    assert (rows["b"].records, rows["b"].total) == (1, 50)
    assert (snapshot.overall.records, snapshot.overall.raw_bytes, snapshot.overall.total) == (16, 1507, 150)


def test_there_is_no_eta_at_the_start() -> None:
    model, clock = _model(a=1000)
    assert model.snapshot().overall.eta_s is None
    clock.advance(20)
    assert model.snapshot().overall.eta_s is None, "nothing has come"
    model.add(_event("a", 500))
    assert model.snapshot().overall.eta_s is None, "a first burst says nothing"
    clock.advance(ETA_AFTER_S - 0.1)
    assert model.snapshot().overall.eta_s is None


def test_at_a_steady_rate_the_eta_is_right() -> None:
    model, clock = _model(a=100_000)
    _steady(model, clock, 20, 1000)
    row = model.snapshot().overall
    assert row.records_per_s == pytest.approx(1000, rel=0.05)
    assert row.bytes_per_s == pytest.approx(100_000, rel=0.05)
    assert row.eta_s == pytest.approx(80, rel=0.05)


def test_rates_are_those_of_the_last_seconds() -> None:
    model, clock = _model(a=10_000_000)
    _steady(model, clock, 30, 10_000)
    _steady(model, clock, RATE_WINDOW_S + 1, 100)
    assert model.snapshot().overall.records_per_s == pytest.approx(100, rel=0.1)


def test_a_run_that_stalls_has_no_rate_and_no_eta() -> None:
    model, clock = _model(a=100_000)
    _steady(model, clock, 20, 1000)
    _steady(model, clock, RATE_WINDOW_S + 1, 0)
    row = model.snapshot().overall
    assert (row.records_per_s, row.eta_s) == (0.0, None)


def test_what_is_done_has_an_eta_of_zero() -> None:
    model, _ = _model(a=10, empty=0)
    model.add(_event("a", 10))
    rows = {row.topic: row for row in model.snapshot().topics}
    assert (rows["a"].eta_s, rows["a"].fraction) == (0.0, 1.0)
    assert (rows["empty"].eta_s, rows["empty"].fraction) == (0.0, 1.0)


def test_more_than_expected_is_never_more_than_whole() -> None:
    model, _ = _model(a=10)
    model.add(_event("a", 25))
    model.add(_event("unplanned", 1))
    rows = {row.topic: row for row in model.snapshot().topics}
    assert rows["a"].fraction == 1.0
    assert rows["unplanned"].records == 1


def test_memory_does_not_grow_with_time_or_snapshots() -> None:
    model, clock = _model(a=1)
    for _ in range(5000):
        clock.advance(0.01)
        model.snapshot()
    assert len(model._all.history) <= RATE_WINDOW_S / 0.5 + 3
