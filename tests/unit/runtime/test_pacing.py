"""A limit that many processes keep together: the asked rate over any ten seconds, no burst, and changes under way."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.errors import WorkerError
from kbr.runtime.pacing import UNLIMITED, Pacer, RateLimit
from tests.support.clocks import FakeClock
from tests.support.waiting import wait_until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _flow(
    pacers: list[Pacer], clock: FakeClock, seconds: float, *, record_bytes: int, naps: Iterator[float] | None = None
) -> list[tuple[float, int]]:
    """Everybody sends records as fast as allowed; (time, bytes) of each slice. ``naps`` are what each sleep adds."""
    passed = []
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        waits = []
        for pacer in pacers:
            allowance = pacer.ask()
            if allowance.wait_s:
                waits.append(allowance.wait_s)
                continue
            # the record that reaches a bound is the last one
            counts = [10**9]
            if allowance.max_bytes >= 0:
                counts.append(-(-allowance.max_bytes // record_bytes))
            if allowance.max_records >= 0:
                counts.append(allowance.max_records)
            count = max(1, min(counts))
            pacer.settle(allowance, count * record_bytes, count)
            passed.append((clock.monotonic(), count * record_bytes))
        if len(waits) == len(pacers):
            clock.sleep(min(waits) + (next(naps) if naps is not None else 0.0))
    return passed


def _windows(passed: list[tuple[float, int]], seconds: float) -> list[float]:
    first, last = passed[0][0], passed[-1][0]
    found = []
    at = first
    while at + seconds <= last:
        found.append(sum(size for when, size in passed if at <= when < at + seconds) / seconds)
        at += seconds / 7
    return found


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize(("rate", "record_bytes"), [(1_000_000, 1024), (200_000_000, 100_000), (50_000, 777)])
def test_any_ten_seconds_hold_the_asked_rate_and_no_second_a_burst(
    clock: FakeClock, workers: int, rate: int, record_bytes: int
) -> None:
    first = Pacer.create(RateLimit(bytes_per_s=rate), clock=clock)
    pacers = [first, *(Pacer(first.path, clock=clock) for _ in range(workers - 1))]
    late = random.Random(1)  # sleeping takes up to 20 ms longer than asked, as on a busy machine
    passed = _flow(
        pacers, clock, 30, record_bytes=record_bytes, naps=iter(lambda: late.uniform(0, 0.02), None)
    )
    first.remove()
    assert all(0.98 * rate <= one <= 1.02 * rate for one in _windows(passed, 10.0))
    assert max(_windows(passed, 1.0)) <= 1.2 * rate


def test_a_pause_is_not_made_up_for_by_a_burst(clock: FakeClock) -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1_000_000), clock=clock)
    _flow([pacer], clock, 5, record_bytes=1000)
    clock.advance(60)  # the source had nothing
    passed = _flow([pacer], clock, 11, record_bytes=1000)
    pacer.remove()
    assert max(_windows(passed, 1.0)) <= 1_200_000
    assert max(_windows(passed, 10.0)) <= 1_020_000


def test_of_two_limits_the_lower_one_counts(clock: FakeClock) -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1_000_000, records_per_s=100), clock=clock)
    large = _flow([pacer], clock, 20, record_bytes=50_000)
    small = _flow([pacer], clock, 20, record_bytes=100)
    pacer.remove()
    assert sum(size for _, size in large) / 20 == pytest.approx(1_000_000, rel=0.02)
    assert sum(size for _, size in small) / 100 / 20 == pytest.approx(100, rel=0.02)


def test_a_record_larger_than_a_second_goes_whole_and_is_paid_for(clock: FakeClock) -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1_000_000), clock=clock)
    passed = _flow([pacer], clock, 60, record_bytes=9_000_000)
    pacer.remove()
    assert [round(when) for when, _ in passed] == [0, 9, 18, 27, 36, 45, 54]


def test_a_change_takes_effect_at_once_and_a_debt_is_paid_at_the_new_rate(clock: FakeClock) -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1000), clock=clock)
    pacer.settle(pacer.ask(), 1_000_000, 1)  # a record of 1 MB at 1 kB/s: a debt of 1000 s
    assert pacer.ask().wait_s == pytest.approx(1000, rel=0.01)
    pacer.change(RateLimit(bytes_per_s=1_000_000))
    assert pacer.ask().wait_s == pytest.approx(1, rel=0.01)
    pacer.change(RateLimit())
    assert pacer.ask() is UNLIMITED
    pacer.change(RateLimit(bytes_per_s=500_000))
    passed = _flow([pacer], clock, 12, record_bytes=1000)
    pacer.remove()
    assert all(one == pytest.approx(500_000, rel=0.02) for one in _windows(passed, 10.0))


def test_what_has_passed_is_counted_over_all(clock: FakeClock) -> None:
    first = Pacer.create(RateLimit(records_per_s=1000), clock=clock)
    second = Pacer(first.path, clock=clock)
    passed = _flow([first, second], clock, 3, record_bytes=11)
    first.remove()
    assert first.passed == (sum(size for _, size in passed), sum(size for _, size in passed) // 11)


def _hold(path: Path, go_on: multiprocessing.synchronize.Event) -> None:
    pacer = Pacer(path)
    with pacer._locked():
        go_on.set()
        time.sleep(600)


def test_a_process_that_is_killed_with_the_lock_holds_nobody_up() -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1_000_000))
    context = multiprocessing.get_context("spawn")
    holds = context.Event()
    process = context.Process(target=_hold, args=(pacer.path, holds), daemon=True)
    process.start()
    assert holds.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    wait_until(lambda: pacer.ask().wait_s == 0, deadline_s=10, what="a slice")
    pacer.remove()


def test_a_limit_that_was_removed_or_overwritten_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="nowhere"):
        Pacer(tmp_path / "nowhere")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(WorkerError, match="short"):
        Pacer(tmp_path / "short")
    (tmp_path / "other").write_bytes(bytes(4096))
    with pytest.raises(WorkerError, match="other"):
        Pacer(tmp_path / "other")


def test_a_limit_that_was_let_go_is_not_mistaken_for_another_file(tmp_path: Path) -> None:
    pacer = Pacer.create(RateLimit(bytes_per_s=1))
    pacer.remove()
    pacer.close()
    pacer.close()
    with (tmp_path / "other").open("w") as other:
        with pytest.raises(ValueError, match="closed|negative|invalid"):
            pacer.change(RateLimit())
        assert not other.closed


def test_no_place_for_temporary_files_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(WorkerError, match="nowhere") as caught:
        Pacer.create(RateLimit())
    assert "TMPDIR" in caught.value.hint


def test_a_limit_that_is_being_written_is_waited_for_and_never_read_as_none() -> None:
    """struct writes zeros before it writes numbers; whoever read in that moment would find no limit."""
    pacer = Pacer.create(RateLimit(bytes_per_s=1000))
    writer = Pacer(pacer.path)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.extend((pacer.ask(), pacer.limit)), daemon=True)
    with writer._locked():
        whole = bytes(writer._page)
        writer._page[8:] = bytes(len(whole) - 8)
        reader.start()
        reader.join(0.2)
        assert found == []
        writer._page[:] = whole
    reader.join(30)
    allowance, limit = found
    assert allowance is not UNLIMITED
    assert limit == RateLimit(bytes_per_s=1000)
    pacer.remove()
