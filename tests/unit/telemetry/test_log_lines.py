"""Log lines: one record is one line, and nothing in it moves the cursor."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys

import pytest

from kbr.telemetry import logs
from kbr.telemetry.events import LogLine


@pytest.fixture
def stream(request):
    """What a configured log writes; put back afterwards."""
    ours, libraries = logging.getLogger("kbr"), logging.getLogger()
    before = (ours.handlers[:], ours.level, ours.propagate, libraries.handlers[:], libraries.level)
    found = io.StringIO()
    yield found
    ours.handlers[:], ours.level, ours.propagate, libraries.handlers[:], _ = before
    ours.setLevel(before[1])
    libraries.setLevel(before[4])


def _fixed(record: logging.LogRecord) -> logging.LogRecord:
    record.created = 1795568523.456
    return record


def _handle(name: str, level: int, text: str, **fields) -> None:
    record = logging.getLogger(name).makeRecord(name, level, "f", 1, text, (), None, extra=logs.fields(**fields))
    logging.getLogger(name).handle(_fixed(record))


def test_a_plain_line_is_stamp_level_message_and_fields(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    _handle("kbr.x", logging.INFO, "segment committed", topic="orders", partition=3, size=None, whole=True)
    _handle("kbr.x", logging.WARNING, "odd", key='a "b" \\ c', empty="")
    assert stream.getvalue().splitlines() == [
        "2026-11-25T01:02:03.456Z INFO  segment committed topic=orders partition=3 size=none whole=true",
        r'2026-11-25T01:02:03.456Z WARN  odd key="a \"b\" \\ c" empty=""',
    ]


def test_a_json_line_is_one_object(stream: io.StringIO) -> None:
    logs.configure(form="json", stream=stream)
    _handle("kbr.x", logging.INFO, "segment committed", topic="orders", partition=3, message="mine", big=2**70)
    found = json.loads(stream.getvalue())
    assert found.pop("pid") > 0
    assert found == {
        "ts": "2026-11-25T01:02:03.456Z",
        "level": "info",
        "logger": "kbr.x",
        "message": "segment committed",
        "topic": "orders",
        "partition": 3,
        "message_": "mine",
        "big": str(2**70),
    }


NASTY = "a\nb\r\x1b[2J\x07\x9b31m\u2028\u202eevil\udcff\x00"


@pytest.mark.parametrize("form", ["plain", "json"])
def test_text_from_outside_begins_no_line_and_moves_no_cursor(form: str, stream: io.StringIO) -> None:
    logs.configure(form=form, stream=stream)
    _handle("kbr.x", logging.INFO, "topic " + NASTY, where=NASTY, **{"k\n": "v"})
    try:
        raise ValueError(NASTY)
    except ValueError:
        logging.getLogger("kbr.x").exception("failed")
    text = stream.getvalue()
    assert all(character == "\n" or character.isprintable() for character in text)
    text.encode("utf-8")
    starts = ("2026-", "20") if form == "plain" else ("{",)
    assert all(line.startswith((*starts, "  ")) for line in text.splitlines())


def test_nothing_of_what_was_said_is_lost_in_json(stream: io.StringIO) -> None:
    logs.configure(form="json", stream=stream)
    said = "a\nb\x1b[2J\x9b\u2028\u202e"
    _handle("kbr.x", logging.INFO, said)
    assert json.loads(stream.getvalue())["message"] == said


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.configure(level="warning", stream=stream)
    logging.getLogger("kbr.x").info("no")
    logging.getLogger("kbr.x").warning("yes")
    assert len(stream.getvalue().splitlines()) == 1


def test_libraries_warnings_look_like_ours_and_their_chatter_is_left_out(stream: io.StringIO) -> None:
    logs.configure(level="debug", stream=stream)
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("careful")
    assert [line.partition("Z ")[2] for line in stream.getvalue().splitlines()] == ["WARN  careful"]


def test_configuring_again_replaces_and_does_not_double(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logs.configure(stream=stream)
    logging.getLogger("kbr.x").warning("once")
    logging.getLogger("library").warning("once")
    assert len(stream.getvalue().splitlines()) == 2


def test_lines_go_where_standard_error_is_at_that_moment(stream: io.StringIO, monkeypatch) -> None:
    logs.configure()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.getLogger("kbr.x").warning("a progress display has taken over")
    assert "taken over" in stream.getvalue()


def test_each_line_is_written_in_one_piece(stream: io.StringIO) -> None:
    pieces: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    logs.configure(stream=Stream())
    logging.getLogger("kbr.x").warning("one\ntwo")
    assert len(pieces) == 1
    assert pieces[0].endswith("\n")


# -- from workers -------------------------------------------------------------------------


def test_a_workers_line_arrives_as_it_was_said(stream: io.StringIO) -> None:
    sent: list[bytes] = []
    logs.forward_to(lambda line: sent.append(pickle.dumps(line)), level=logging.INFO)
    logging.getLogger("kbr").handlers.clear()
    logging.getLogger("kbr").propagate = True
    log = logging.getLogger("kbr.worker")
    log.debug("too little")
    log.info("50%% of %s", "it", extra=logs.fields(topic="t", odd=object()))
    assert len(sent) == 1
    line = pickle.loads(sent[0])
    assert isinstance(line, LogLine)
    logs.configure(form="json", stream=stream)
    logs.replay(line)
    found = json.loads(stream.getvalue())
    assert (found["message"], found["logger"], found["level"]) == ("50% of it", "kbr.worker", "info")
    assert (found["topic"], found["pid"]) == ("t", line.pid)
    assert "object" in found["odd"]


def test_a_replayed_line_below_the_level_is_left_out(stream: io.StringIO) -> None:
    logs.configure(level="warning", stream=stream)
    logs.replay(LogLine(level=logging.INFO, logger="kbr.x", text="no", created_s=0.0, pid=1))
    assert stream.getvalue() == ""


def test_a_replayed_line_has_the_time_when_it_was_said(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logs.replay(
        LogLine(level=logging.ERROR, logger="kbr.x", text="50% %s", created_s=1.5, pid=1, traceback="Trace\n  back")
    )
    assert stream.getvalue() == "1970-01-01T00:00:01.500Z ERROR 50% %s\n  Trace\n    back\n"
