"""Signals: a question for the work, a callback for the supervisor, and a way out."""

from __future__ import annotations

import os
import signal

import pytest

from kbr.cli.stop import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_calls_what_was_registered_and_nothing_else(number: signal.Signals) -> None:
    calls: list[int] = []
    with StopSignals() as stop:
        stop.on_stop(lambda: calls.append(1))
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)
        assert calls == [1, 1]


def test_a_third_signal_leaves() -> None:
    with StopSignals() as stop:
        stop.on_stop(lambda: None)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_before_anything_listens_interrupts() -> None:
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_who_registers_late_is_told_at_once() -> None:
    calls: list[int] = []
    with StopSignals() as stop:
        stop.on_stop(lambda: None)
        os.kill(os.getpid(), signal.SIGINT)
        stop.on_stop(lambda: calls.append(1))
    assert calls == [1]


def test_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
