"""What is tried again, for how long, and what is not."""

from __future__ import annotations

import logging
import random

import pytest

from kbr.errors import AccessDenied, StorageError, StoreUnavailable
from kbr.storage.options import StorageOptions
from kbr.storage.retry import Retry
from kbr.timing import Deadline
from tests.support.clocks import FakeClock


def _retry(clock: FakeClock) -> Retry:
    def translate(error: Exception, operation: str, target: str) -> StorageError:
        kind = StoreUnavailable if isinstance(error, ConnectionError) else StorageError
        return kind(f"{operation} of {target}: {error}")

    return Retry(deadline_s=100, translate=translate, clock=clock, rng=random.Random(1))


def test_a_temporary_error_is_tried_again_until_it_works() -> None:
    clock, tries = FakeClock(), []

    def sometimes(_deadline: Deadline) -> str:
        tries.append(clock.monotonic())
        if len(tries) < 6:
            raise ConnectionError("reset")
        return "done"

    assert _retry(clock).call(sometimes, "put", "key") == "done"
    assert len(tries) == 6


@pytest.mark.fault("S1", "one deadline for each operation", promise=4)
def test_a_temporary_error_is_given_up_at_the_deadline_with_the_count() -> None:
    clock, tries = FakeClock(), []

    def never(_deadline: Deadline) -> None:
        tries.append(1)
        raise ConnectionError("reset")

    with pytest.raises(StoreUnavailable, match=r"put of key: reset \(\d+ tries in \d+ s\)"):
        _retry(clock).call(never, "put", "key")
    assert 5 < len(tries) < 200
    assert clock.monotonic() <= 100


@pytest.mark.parametrize("error", [ValueError("bad"), AccessDenied("no")])
def test_what_cannot_get_better_is_tried_once(error: Exception) -> None:
    clock, tries = FakeClock(), []

    def refused(_deadline: Deadline) -> None:
        tries.append(1)
        raise error

    with pytest.raises(StorageError):
        _retry(clock).call(refused, "put", "key")
    assert tries == [1]
    assert clock.monotonic() == 0


def test_no_wait_goes_beyond_the_deadline_of_the_call() -> None:
    clock = FakeClock()

    def never(deadline: Deadline) -> None:
        assert deadline.remaining_s() > 0
        raise ConnectionError("reset")

    with pytest.raises(StoreUnavailable):
        _retry(clock).call(never, "list", "", deadline_s=5)
    assert clock.monotonic() <= 5


def test_what_nobody_wants_any_more_ends_soon_and_with_its_error() -> None:
    clock, tries = FakeClock(), []

    def never(_deadline: Deadline) -> None:
        tries.append(1)
        raise ConnectionError("reset")

    with pytest.raises(StoreUnavailable, match="reset"):
        _retry(clock).call(never, "put", "key", is_unwanted=lambda: clock.monotonic() > 3)
    assert clock.monotonic() < 4
    assert len(tries) > 1


def test_the_log_tells_when_a_store_fails_and_when_it_is_back_and_nothing_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, tries = FakeClock(), []

    def sometimes(_deadline: Deadline) -> None:
        tries.append(1)
        if len(tries) % 8:
            raise ConnectionError("reset")

    retry = _retry(clock)
    with caplog.at_level(logging.INFO, logger="kbr.storage"):
        retry.call(sometimes, "put", "key")
        retry.call(sometimes, "get", "key")
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(";")[0] for line in told[::2]] == ["put of key: reset", "get of key: reset"]
    assert [line.split(" after")[0] for line in told[1::2]] == ["storage answers again"] * 2
    assert len(tries) == 16


def test_the_library_s_error_is_the_cause() -> None:
    def refused(_deadline: Deadline) -> None:
        raise ValueError("bad")

    with pytest.raises(StorageError) as caught:
        _retry(FakeClock()).call(refused, "put", "key")
    assert isinstance(caught.value.__cause__, ValueError)


def test_options_can_be_the_key_of_an_open_store() -> None:
    options = StorageOptions(url="/a", extra={"token": "x"})
    assert hash(options) == hash(StorageOptions(url="/a", extra={"token": "x"}))
    assert options != StorageOptions(url="/a", extra={"token": "y"})


def test_a_last_try_that_the_deadline_cut_short_does_not_hide_the_reason() -> None:
    clock, tries = FakeClock(), []

    def refused_then_slow(deadline: Deadline) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("refused")
        clock.advance(deadline.remaining_s())
        raise ConnectionError("no answer in 0 s")

    with pytest.raises(StoreUnavailable, match="refused"):
        _retry(clock).call(refused_then_slow, "put", "key")
