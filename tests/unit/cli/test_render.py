"""Standard output: tables that fit and can't act on a terminal, JSON and YAML that programs can read."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kbr.cli import render
from kbr.cli.render import Column, Table, emit, emit_bytes, with_envelope
from kbr.cli.text import neutralise, neutralise_lines
from kbr.errors import KbrError
from kbr.telemetry.logs import printable

EVIL = "a\x1b[2Jb\x9bc\u202ed\re\nf\x7f"


def no_blocks(_document: object) -> list[render.Block]:
    return []


def table_of(*rows: list[str], totals: int = 0) -> Table:
    return Table(
        columns=[Column(title="NAME", flexible=True), Column(title="COUNT", right=True)], rows=rows, totals=totals
    )


def shown(capsys: pytest.CaptureFixture[str], *blocks: render.Block) -> str:
    emit({}, "table", lambda _: blocks)
    return capsys.readouterr().out


def test_a_table_is_aligned_and_plain_when_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "Head", "", table_of(["orders", "1,000"], ["x", "5"], ["total", "1,005"], totals=1))
    assert out == "Head\n\nNAME    COUNT\norders  1,000\nx           5\n------  -----\ntotal   1,005\n"


def test_escapes_in_any_text_are_neutralised(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, f"Head {EVIL}", table_of([EVIL, EVIL]))
    for unsafe in "\x1b\x9b\u202e\r\x7f":
        assert unsafe not in out
    assert "\\x1b[2J" in out
    assert "\\u202e" in out


@given(st.text())
def test_neutralised_text_is_one_line_without_controls(text: str) -> None:
    safe = neutralise(text)
    assert len(safe.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F for char in safe)
    assert neutralise_lines(text).count("\n") == text.count("\n")


class Terminal(io.TextIOWrapper):
    """A standard output that says it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


def test_a_table_fits_a_narrow_terminal_by_cutting_flexible_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    emit({}, "table", lambda _: [table_of(["t" * 80, "1,000,000"])])
    head, row = terminal.text().splitlines()
    assert len(row) == 30
    assert "…" in row
    assert row.endswith("1,000,000")
    assert head.endswith("COUNT")


def test_a_pipe_gets_every_text_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert "t" * 80 in shown(capsys, table_of(["t" * 80, "1"]))


def test_a_terminal_gets_a_bold_head_unless_colours_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for environ, bold in (
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        emit({}, "table", lambda _: [table_of(["a", "1"])])
        assert ("\x1b[1m" in terminal.text()) is bold


DOCUMENT: dict[str, Any] = {
    "backup_id": "ä" + EVIL,
    "created_at_ms": 1_714_564_800_007,
    "finished_at_ms": None,
    "topics": [{"topic": "on", "min_timestamp_ms": -1, "max_timestamp_ms": 0, "time_window_start_ms": 1}],
    "segment_max_interval_ms": 60_000,
    "big": 2**62,
}


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_one_document_with_twins_of_instants(capsys: pytest.CaptureFixture[str], output: Any) -> None:
    emit(DOCUMENT, output, no_blocks)
    out = capsys.readouterr().out
    parsed = json.loads(out) if output == "json" else yaml.safe_load(out)
    assert parsed["schema_version"] == 1
    assert parsed["backup_id"] == DOCUMENT["backup_id"]
    assert parsed["created_at"] == "2024-05-01T12:00:00.007Z"
    assert parsed["created_at_ms"] == 1_714_564_800_007
    assert parsed["finished_at"] is None
    topic = parsed["topics"][0]
    assert topic["topic"] == "on"
    assert topic["min_timestamp"] is None
    assert topic["max_timestamp"] == "1970-01-01T00:00:00.000Z"
    assert topic["time_window_start"] == "1970-01-01T00:00:00.001Z"
    assert "segment_max_interval" not in parsed
    assert parsed["big"] == 2**62


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_a_document_for_programs_is_ascii_without_controls(capsys: pytest.CaptureFixture[str], output: Any) -> None:
    emit(DOCUMENT, output, no_blocks)
    out = capsys.readouterr().out
    assert all(char == "\n" or 32 <= ord(char) < 127 for char in out)


def test_a_twin_that_is_there_already_is_kept() -> None:
    document = with_envelope({"created_at": "x", "created_at_ms": 5})
    assert document["created_at"] == "x"


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=10,
    )
)
def test_any_plain_document_survives_json(value: Any) -> None:
    text = render._json(with_envelope({"value": value}))
    assert json.loads(text)["value"] == with_envelope({"value": value})["value"]


def test_an_ascii_terminal_gets_escapes_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    emit({}, "table", lambda _: ["Größe"])
    stream.flush()
    assert stream.buffer.getvalue() == b"Gr\\xf6\\xdfe\n"


def test_a_reader_that_has_gone_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        emit({"a": "x" * 100_000}, "json", no_blocks)
        emit({"a": "x" * 100_000}, "json", no_blocks)
        monkeypatch.undo()


def test_a_full_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(KbrError, match="can't write the result to standard output: No space left"):
            emit({"a": "x"}, "json", no_blocks)
        monkeypatch.undo()


def test_a_closed_standard_output_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    for write in (lambda: emit({}, "json", no_blocks), lambda: emit({}, "table", lambda _: ["x"]), lambda: emit_bytes(b"x")):
        with pytest.raises(KbrError, match="can't write the result to standard output: it is closed"):
            write()


def test_a_line_feed_in_a_text_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "Status: a\nError: b") == "Status: a\\x0aError: b\n"


def test_what_nobody_sees_is_written_out() -> None:
    assert neutralise("a\u200bb\ufeffc\u00add\U000e0041") == "a\\u200bb\\ufeffc\\xadd\\U000e0041"
    assert neutralise("Größe, 数量, naïve") == "Größe, 数量, naïve"


def test_no_cell_makes_every_row_endless(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, table_of(["x" * 100_000, "1"], *(["y", "2"] for _ in range(100))))
    assert len(out) < 110_000
    assert "…" in out


def test_logs_and_tables_escape_the_same() -> None:
    everything = "".join(chr(code) for code in range(0x110000) if code not in (0x0A,))
    assert neutralise(everything) == printable(everything)
