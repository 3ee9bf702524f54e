"""The only writer to standard output: a document as a table, as JSON or as YAML.

A document is plain data with ints and strings. Tables are for people: every text in them is neutralised, they are
plain when the output is no terminal. JSON and YAML are for programs: one document with ``schema_version``, times as
``*_ms`` ints with an RFC 3339 twin. Knows no command.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kbr.cli.text import neutralise
from kbr.cli.units import instant_text
from kbr.errors import KbrError

__all__ = ["SCHEMA_VERSION", "Block", "Column", "Output", "Table", "emit", "emit_blocks", "emit_bytes", "emit_text", "is_terminal", "with_envelope"]

#: Raised when a field changes its meaning or goes away; new fields don't change it.
SCHEMA_VERSION = 1

#: ``csv`` only of verbs that export.
Output = Literal["table", "json", "yaml", "csv"]
#: Names of ints that are instants; durations and intervals end in _ms too and have no twin.
_INSTANT = re.compile(r"(?:.*_at|.*timestamp|time_window_(?:start|end))_ms")
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_GAP = "  "
_NARROWEST = 12
#: No cell is wider, as every row is as wide as the widest: names and reasons from a hostile file may be of any length.
_WIDEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        right: numbers stand on the right.
        flexible: may be cut with an ellipsis to fit a terminal; what a file or a pipe gets is cut at 1,000 characters only.
    """

    title: str
    right: bool = False
    flexible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of texts; ``totals`` are the last ``totals`` rows, set off by a rule."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    totals: int = 0


#: A line of text (a line feed in it is written out, so that no text from outside begins one), or a table.
Block = str | Table


def emit(document: Mapping[str, Any], output: Output, table: Callable[[Any], Iterable[Block]]) -> None:
    """Write one document to standard output.

    Args:
        document: JSON-ready.
        output: how.
        table: makes the blocks for people.

    Raises:
        KbrError: standard output can't be written; a reader that has gone away is not an error.
    """
    if output == "table":
        emit_blocks(table(document))
    elif output == "json":
        _write(_json(with_envelope(document)).encode("ascii", "backslashreplace"))
    else:
        import yaml

        text = yaml.safe_dump(with_envelope(document), sort_keys=False, allow_unicode=False, width=120)
        _write(text.encode("ascii", "backslashreplace"))


def emit_text(text: str) -> bool:
    """Write a text whose pieces are neutralised already; False when nobody reads any more."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return _write(text.encode(encoding, "backslashreplace"))


def emit_bytes(data: bytes) -> bool:
    """Write bytes as they are: records, which nobody neutralises; False when nobody reads any more."""
    return _write(data)


def emit_blocks(blocks: Iterable[Block]) -> bool:
    """Write a part of what people see; False when nobody reads any more."""
    return emit_text(_render_blocks(blocks))


def with_envelope(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with schema_version in front and a twin beside each instant."""
    return {"schema_version": SCHEMA_VERSION, **_with_twins(document)}


def _with_twins(value: Any) -> Any:
    if isinstance(value, Mapping):
        twins: dict[str, Any] = {}
        for name, entry in value.items():
            text = str(name)
            twin = text.removesuffix("_ms")
            if twin not in value and _INSTANT.fullmatch(text) and (entry is None or type(entry) is int):
                twins[twin] = None if entry is None or entry < 0 else instant_text(entry)
            twins[text] = _with_twins(entry)
        return twins
    if isinstance(value, (list, tuple)):
        return [_with_twins(item) for item in value]
    if isinstance(value, str):
        # half of a surrogate pair (from an odd file name) is no Unicode text: strict JSON readers refuse it
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _json(document: Mapping[str, Any]) -> str:
    import json  # the standard one: it writes ASCII, so that nothing in it can act on a terminal

    # DEL is the only ASCII control that JSON leaves as it is; it can stand in strings only
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


# -- tables -----------------------------------------------------------------------------------


def _render_blocks(blocks: Iterable[Block]) -> str:
    terminal = is_terminal()
    width = shutil.get_terminal_size().columns if terminal else 0
    bold = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    parts = [
        _render_table(block, width, bold=bold) if isinstance(block, Table) else neutralise(block) + "\n"
        for block in blocks
    ]
    return "".join(parts)


def _render_table(table: Table, width: int, *, bold: bool) -> str:
    rows = [[_cut(neutralise(cell[: _WIDEST + 1])) for cell in row] for row in table.rows]
    widths = [
        max([len(column.title), *(len(row[number]) for row in rows)]) for number, column in enumerate(table.columns)
    ]
    if width:
        _shrink(widths, table.columns, width)
    head = _line([column.title for column in table.columns], widths, table.columns)
    lines = [f"{_BOLD}{head}{_PLAIN}" if bold else head]
    for number, row in enumerate(rows):
        if table.totals and number == len(rows) - table.totals:
            lines.append(_line(["-" * one for one in widths], widths, table.columns))
        lines.append(_line(row, widths, table.columns))
    return "".join(f"{line}\n" for line in lines)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _shrink(widths: list[int], columns: Sequence[Column], width: int) -> None:
    """Take what is too wide from the widest flexible columns, never below what still says something."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    flexible = [number for number, column in enumerate(columns) if column.flexible]
    while excess > 0 and flexible:
        widest = max(flexible, key=lambda number: widths[number])
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1
        excess -= 1


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = []
    for cell, width, column in zip(cells, widths, columns, strict=True):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        parts.append(text.rjust(width) if column.right else text.ljust(width))
    return _GAP.join(parts).rstrip()


# -- standard output --------------------------------------------------------------------------


def is_terminal() -> bool:
    """Whether somebody looks at standard output; a closed one is no terminal."""
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False


def _write(data: bytes) -> bool:
    if sys.stdout is None:  # the descriptor was closed when the program began
        raise KbrError("can't write the result to standard output: it is closed")
    try:
        sys.stdout.flush()
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(data.decode("utf-8", "backslashreplace"))
        else:
            stream.write(data)
            stream.flush()
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()  # the reader had enough; the command's own exit code stands
        return False
    except OSError as error:
        _silence()
        if error.errno == errno.EPIPE:
            return False
        raise KbrError(f"can't write the result to standard output: {error.strerror}") from error
    return True


def _silence() -> None:
    """Send the rest nowhere, so that the interpreter's own flush at exit doesn't fail once more."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError, AttributeError):
        return  # a stand-in without a descriptor: nothing will be flushed to it at exit
