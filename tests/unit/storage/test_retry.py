"""What is tried again, for how long, and what is not."""

from __future__ import annotations

import random

import pytest

from kbr.errors import AccessDenied, StorageError, StoreUnavailable
from kbr.storage.retry import Retry
from tests.support.clocks import FakeClock


def _retry(clock: FakeClock) -> Retry:
    def translate(error: Exception, operation: str, target: str) -> StorageError:
        kind = StoreUnavailable if isinstance(error, ConnectionError) else StorageError
        return kind(f"{operation} of {target}: {error}")

    return Retry(deadline_s=100, translate=translate, clock=clock, rng=random.Random(1))


def test_a_temporary_error_is_tried_again_until_it_works() -> None:
    clock, tries = FakeClock(), []

    def sometimes() -> str:
        tries.append(clock.monotonic())
        if len(tries) < 6:
            raise ConnectionError("reset")
        return "done"

    assert _retry(clock).call(sometimes, "put", "key") == "done"
    assert len(tries) == 6


def test_a_temporary_error_is_given_up_at_the_deadline_with_the_count() -> None:
    clock, tries = FakeClock(), []

    def never() -> None:
        tries.append(1)
        raise ConnectionError("reset")

    with pytest.raises(StoreUnavailable, match=r"put of key: reset \(\d+ tries in \d+ s\)"):
        _retry(clock).call(never, "put", "key")
    assert 5 < len(tries) < 200
    assert clock.monotonic() <= 100


@pytest.mark.parametrize("error", [ValueError("bad"), AccessDenied("no")])
def test_what_cannot_get_better_is_tried_once(error: Exception) -> None:
    clock, tries = FakeClock(), []

    def refused() -> None:
        tries.append(1)
        raise error

    with pytest.raises(StorageError):
        _retry(clock).call(refused, "put", "key")
    assert tries == [1]
    assert clock.monotonic() == 0
