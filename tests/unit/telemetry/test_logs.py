"""Log lines that can be trusted: one a line, few, and readable by programs."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from kbr.telemetry.events import ClientMessage
from kbr.telemetry.logs import RepeatFolder, configure, get_logger, printable
from tests.support.clocks import FakeClock

REFUSED = "[thrd:127.0.0.1:9/bootstrap]: 127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)"


def _message(text: str, level: int = 3) -> ClientMessage:
    return ClientMessage(level=level, facility="FAIL", text=text, client="consumer")


def _lines(monkeypatch: pytest.MonkeyPatch, form: str, *messages: str) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure(form=form, level="info")
    for message in messages:
        get_logger("kbr.test").info(message)
    logging.getLogger("kbr").handlers.clear()
    return stream.getvalue().splitlines()


def test_a_message_cannot_begin_a_line_of_its_own_or_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = _lines(monkeypatch, "plain", "topic a\nERROR all is lost\x1b[2J")
    assert "\\x0aERROR" in line
    assert "\x1b" not in line
    assert printable("\x9b\u2028") == "\\x9b\\u2028"


def test_json_lines_are_one_object_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(monkeypatch, "json", "one", "two\nthree")
    assert [json.loads(line)["message"] for line in lines] == ["one", "two\nthree"]
    assert json.loads(lines[0])["level"] == "info"


def test_a_refused_connection_is_said_once_and_then_counted() -> None:
    clock = FakeClock()
    folder = RepeatFolder(interval_s=30, clock=clock)
    (first,) = folder.take(_message(REFUSED))
    assert "127.0.0.1:9" in first.text
    assert "connection refused" in first.text
    for _ in range(500):
        clock.advance(0.05)
        assert folder.take(_message(REFUSED)) == []
        assert folder.due() == []
    clock.advance(10)
    (again,) = folder.due()
    assert "500 more times" in again.text
    assert folder.due() == []


def test_brokers_and_reasons_are_kept_apart() -> None:
    folder = RepeatFolder(clock=FakeClock())
    assert folder.take(_message(REFUSED))
    assert folder.take(_message(REFUSED.replace("127.0.0.1:9", "127.0.0.1:8")))
    assert folder.take(_message("sasl_ssl://b:1/1: SASL authentication error: bad password"))
    assert folder.take(_message("b:1/1: Failed to resolve 'b:1': Name or service not known"))


def test_what_is_not_understood_is_passed_on_as_it_is() -> None:
    (line,) = RepeatFolder(clock=FakeClock()).take(_message("something else timed out"))
    assert line.text == "something else timed out"


def test_debug_lines_and_all_brokers_down_say_nothing() -> None:
    folder = RepeatFolder(clock=FakeClock())
    assert folder.take(_message("whatever", level=7)) == []
    assert folder.take(_message("1/1 brokers are down")) == []


def test_a_flood_of_different_lines_takes_bounded_memory() -> None:
    folder = RepeatFolder(clock=FakeClock())
    for number in range(5000):
        folder.take(_message(f"line {number}"))
    assert len(folder._seen) <= 1000


def test_json_lines_escape_what_is_beyond_16_bits_as_json_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = _lines(monkeypatch, "json", "a\U000e0041\u200bb")
    assert "\\udb40\\udc41\\u200b" in line
    assert json.loads(line)["message"] == "a\U000e0041\u200bb"
