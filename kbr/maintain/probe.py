"""What a probe finds: one line for each thing that a run will need. Plain values; knows neither stores nor clusters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kbr.errors import AccessDenied, AuthenticationFailed, AuthorizationFailed, KbrError

__all__ = ["Outcome", "ProbeLine", "first_exit_code", "of_error"]


class Outcome(Enum):
    """How one thing came out."""

    OK = "ok"
    #: A right is missing.
    DENIED = "denied"
    FAILED = "failed"
    #: Nothing good or bad: how the server is.
    NOTE = "note"
    #: Not looked at, because of what failed before.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLine:
    """One thing that was tried.

    Attributes:
        place: ``storage``, ``source`` or ``target``.
        check: what was tried.
        outcome: how it came out.
        needed_for: the verbs that can't do without it; empty for none.
        right: the right that it takes, where that has a name.
        detail: what was found, or what went wrong.
        hint: what to do about it.
        exit_code: of the error.
    """

    place: str
    check: str
    outcome: Outcome
    needed_for: tuple[str, ...] = ()
    right: str = ""
    detail: str = ""
    hint: str = ""
    exit_code: int = 0

    def is_missed(self, verbs: Iterable[str]) -> bool:
        """Whether one of these verbs can't do its work for this."""
        return self.outcome in (Outcome.DENIED, Outcome.FAILED) and not set(verbs).isdisjoint(self.needed_for)

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "place": self.place,
            "check": self.check,
            "outcome": self.outcome.value,
            "needed_for": list(self.needed_for),
            "right": self.right,
            "detail": self.detail,
            "hint": self.hint,
        }


def of_error(error: KbrError, *, place: str, check: str, needed_for: tuple[str, ...], right: str = "") -> ProbeLine:
    """The line of something that went wrong."""
    denied = isinstance(error, (AccessDenied, AuthenticationFailed, AuthorizationFailed))
    return ProbeLine(
        place=place,
        check=check,
        outcome=Outcome.DENIED if denied else Outcome.FAILED,
        needed_for=needed_for,
        right=right,
        detail=error.message,
        hint=error.hint,
        exit_code=error.exit_code,
    )


def first_exit_code(lines: Iterable[ProbeLine], verbs: Iterable[str]) -> int:
    """The exit code of the first thing that one of these verbs misses; 0 if they miss nothing."""
    wanted = tuple(verbs)
    return next((line.exit_code or 1 for line in lines if line.is_missed(wanted)), 0)
