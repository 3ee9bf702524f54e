"""How far a run is, honestly."""

from __future__ import annotations

from kbr.telemetry.events import ProgressEvent
from kbr.telemetry.progress import ProgressModel
from tests.support.clocks import FakeClock


def _event(topic: str, records: int, raw_bytes: int) -> ProgressEvent:
    return ProgressEvent(topic=topic, records=records, raw_bytes=raw_bytes)


def test_there_is_no_eta_before_there_is_a_rate() -> None:
    model = ProgressModel(verb="backup", totals={"t": 100}, clock=FakeClock())
    assert model.snapshot().overall.eta_s is None


def test_rates_and_eta_come_from_the_last_seconds() -> None:
    clock = FakeClock()
    model = ProgressModel(verb="backup", totals={"t": 10_000, "u": 0}, clock=clock)
    for _ in range(40):
        clock.advance(1)
        model.add(_event("t", 100, 5000))
        row = model.snapshot().overall
    assert round(row.records_per_s) == 100
    assert round(row.bytes_per_s) == 5000
    assert row.eta_s is not None
    assert round(row.eta_s) == 60
    for _ in range(15):
        clock.advance(1)
        stalled = model.snapshot().overall
    assert stalled.records_per_s == 0
    assert stalled.eta_s is None


def test_topics_add_up_and_an_empty_one_is_done() -> None:
    model = ProgressModel(verb="backup", totals={"t": 10, "u": 0}, clock=FakeClock())
    model.add(_event("t", 10, 99))
    snapshot = model.snapshot()
    assert {row.topic: row.fraction for row in snapshot.topics} == {"t": 1.0, "u": 1.0}
    assert (snapshot.overall.records, snapshot.overall.raw_bytes, snapshot.overall.eta_s) == (10, 99, 0.0)
