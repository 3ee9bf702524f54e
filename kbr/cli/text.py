"""Text that is safe on a terminal. Pure."""

from __future__ import annotations

import re

__all__ = ["neutralise", "neutralise_lines"]

#: Control characters (C0, DEL, C1), line and paragraph separators, marks that turn the direction of text, and halves
#: of surrogate pairs: a topic or an error text that holds them could move the cursor or show something else.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def neutralise(text: str) -> str:
    """``text`` on one line, with every unsafe character written out: an escape becomes ``\\x1b``."""
    return _UNSAFE.sub(_escape, text)


def neutralise_lines(text: str) -> str:
    """As `neutralise`, but line feeds stay."""
    return "\n".join(neutralise(line) for line in text.split("\n"))
