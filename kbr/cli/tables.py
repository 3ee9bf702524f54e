"""Pieces that several table views share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kbr.cli.render import Block, Column, Table

__all__ = ["LEFT_RUNNING", "LEFT_UNDONE", "listed", "number", "table", "text", "warning_lines"]

#: Of a backup whose manifest says that it is running, and whose lock nobody holds.
LEFT_RUNNING = "running, but nobody holds its lock: it ended without saying so; run it again to go on"
#: The same of a restore: also one that was stopped, or whose groups are yet to be put, goes on saying it.
LEFT_UNDONE = "running, but nobody holds its lock: it has not come to its end; run it again to go on"
#: Warnings that a table shows; JSON has all of them.
_MAX_WARNINGS = 20


def text(title: str) -> Column:
    """A column of texts, cut on a narrow terminal."""
    return Column(title=title, flexible=True)


def number(title: str) -> Column:
    """A column of numbers, on the right."""
    return Column(title=title, right=True)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> Table:
    """A table, with a last row of sums if there is more than one row to sum."""
    if total is None or len(rows) < 2:
        return Table(columns=columns, rows=rows)
    return Table(columns=columns, rows=[*rows, total], totals=1)


def warning_lines(warnings: Sequence[str]) -> list[Block]:
    """One line a warning; many are counted."""
    lines: list[Block] = [f"Warning: {warning}" for warning in warnings[:_MAX_WARNINGS]]
    if len(warnings) > _MAX_WARNINGS:
        lines.append(f"Warning: and {len(warnings) - _MAX_WARNINGS} more (all of them with -o json)")
    return lines


def listed(parts: Iterable[str]) -> str:
    """Texts with commas; a dash for none."""
    return ", ".join(parts) or "-"
