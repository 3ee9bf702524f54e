"""Mistakes in a configuration: where each one stands, and one error for all of them.

Knows no YAML and no model: a place is a text and an order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from kbr.errors import ConfigError
from kbr.secrecy import redact

__all__ = ["DEFAULT_ORIGIN", "Origin", "Path", "Problem", "Rank", "as_name", "raise_problems"]

#: What comes behind a name in a step that somebody took for a name and a value.
_VALUE = re.compile(r"[:=].*", re.DOTALL)

#: Mistakes that a message lists.
_MAX_TOLD = 100
#: A key as its steps: ("source", "client", "fetch.min.bytes").
Path = tuple[str, ...]


class Rank(IntEnum):
    """Which layer wins: the higher one."""

    DEFAULT = 0
    COMMAND_CONFIG = 1
    FILE = 2
    ENVIRONMENT = 3
    FLAG = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value came from.

    Attributes:
        rank: the layer.
        where: file:line:column, a variable's name, or a flag; for messages, never with a value.
        order: position in the file, for sorting messages.
    """

    rank: Rank
    where: str
    order: tuple[int, int] = (0, 0)


DEFAULT_ORIGIN = Origin(rank=Rank.DEFAULT, where="default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake, in one line. Never holds the value of a secret."""

    path: Path
    what: str
    origin: Origin
    suggestion: str = ""
    hint: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return ".".join(self.path)

    def __str__(self) -> str:
        key = f"key {self.key}: " if self.path else ""
        asked = f". did you mean '{self.suggestion}'?" if self.suggestion else ""
        # a key may hold a line feed: every mistake has one line
        return "\\n".join(f"{self.origin.where}: {key}{self.what}{asked}".splitlines())


def as_name(step: str) -> str:
    """What may be said of a key that there is none of: ``{password:secret}`` is a key with all of that, as YAML goes."""
    return _VALUE.sub("...", step)


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one ConfigError that lists all problems, in the order of the file; nothing if there are none."""
    ordered = sorted(set(problems), key=lambda one: (one.origin.rank, one.origin.order, one.path, one.what))
    if not ordered:
        return
    lines = [redact(str(problem)) for problem in ordered[:_MAX_TOLD]]
    if len(ordered) > _MAX_TOLD:
        lines.append(f"and {len(ordered) - _MAX_TOLD} more")
    message = lines[0] if len(ordered) == 1 else f"{len(ordered)} mistakes in the configuration:\n  " + "\n  ".join(lines)
    hints = [problem.hint for problem in ordered if problem.hint]
    raise ConfigError(message, hint=hints[0] if hints else "", problems=lines)
