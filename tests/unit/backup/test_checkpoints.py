"""When checkpoints come: by interval and by what one costs, which an outage is no part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from kbr.backup.checkpoints import COST_FACTOR, Checkpoints
from kbr.backup.state import BackupState
from kbr.errors import StoreUnavailable
from kbr.kafka.cluster import Cluster
from kbr.repository.publish import ManifestPublisher
from tests.support.clocks import FakeClock

INTERVAL_S = 30.0


class _State:
    """Always has something new."""

    is_newer = has_unconfirmed = True
    changed = property(lambda _self: True, lambda _self, _value: None)
    layout = 1
    topic_names = ("t",)

    def begin_check(self) -> None: ...

    def confirm(self, _ids: object) -> None: ...

    def topic_id(self, name: str) -> str:
        return name

    def manifest(self, _status: object, *, now_ms: int) -> object:
        return now_ms


class _Bench:
    """Cluster and store, and how long each takes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asking_s = 0.0
        self.writing_s = 0.1
        self.refuses = False
        self.checkpoints = Checkpoints(
            cast("ManifestPublisher", self),
            cast("BackupState", _State()),
            cast("Cluster", self),
            interval_s=INTERVAL_S,
            check_lock=lambda: None,
            is_stopped=lambda: False,
            clock=self.clock,
        )

    def topic_ids(self, names: list[str], *, stop_grace_s: float) -> dict[str, Any]:
        self.clock.advance(self.asking_s)
        return {name: name for name in names}

    def publish(self, _manifest: object) -> None:
        self.clock.advance(self.writing_s)
        if self.refuses:
            raise StoreUnavailable("away", hint="wait")

    def rest_after(self, what: Callable[[_Bench], None] = lambda _bench: None) -> float:
        """Seconds from the end of the next checkpoint to the beginning of the one after it."""
        self.next_end()
        what(self)
        ended_at = self.next_end()
        self.asking_s, self.writing_s, self.refuses = 0.0, 0.1, False
        return self.next_end() - self.writing_s - ended_at

    def next_end(self) -> float:
        """Wait for the next try of a checkpoint; returns when it ended, by the clock."""
        before = self.clock.monotonic()
        while True:
            began_at = self.clock.monotonic()
            self.checkpoints.tick()
            self.checkpoints.settle()
            if self.clock.monotonic() > began_at:
                return self.clock.monotonic()
            assert began_at - before < 24 * 3600, "no checkpoint within a day"
            self.clock.advance(0.5)


def _slow_cluster(bench: _Bench) -> None:
    bench.asking_s = 60.0


def _slow_write(bench: _Bench) -> None:
    bench.writing_s = 60.0


def _failed_write(bench: _Bench) -> None:
    bench.writing_s, bench.refuses = 300.0, True


@pytest.mark.parametrize("outage", [_slow_cluster, _slow_write, _failed_write])
def test_an_outage_is_no_cost_of_a_checkpoint(outage: Callable[[_Bench], None]) -> None:
    bench = _Bench()
    assert bench.rest_after() == pytest.approx(INTERVAL_S, abs=0.5)
    assert bench.rest_after(outage) == pytest.approx(INTERVAL_S, abs=0.5)
    assert bench.rest_after() == pytest.approx(INTERVAL_S, abs=0.5)


def test_the_first_manifest_of_a_run_does_not_say_what_one_costs() -> None:
    bench = _Bench()
    bench.writing_s = 60.0
    first = bench.next_end()
    bench.writing_s = 0.1
    assert bench.next_end() - first == pytest.approx(INTERVAL_S, abs=0.7)


def test_a_manifest_that_takes_long_each_time_is_written_for_two_percent_of_the_time() -> None:
    bench = _Bench()
    bench.writing_s = 4.0
    bench.next_end()
    bench.next_end()
    first = bench.clock.monotonic()
    assert bench.next_end() - first == pytest.approx((COST_FACTOR + 1) * 4.0, abs=1)
