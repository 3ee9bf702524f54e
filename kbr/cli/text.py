"""Text that is safe on a terminal. Pure."""

from __future__ import annotations

import re

__all__ = ["neutralise", "neutralise_lines", "shortened"]

#: Control characters (C0, DEL, C1), line and paragraph separators, marks that turn the direction of text, characters that
#: nobody sees (of no width, fillers, selectors, tags), and halves of surrogate pairs: a topic or an error text that holds
#: them could move the cursor, show something else, or look like another. kbr.telemetry.logs has the same.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
#: Of a message from a damaged or hostile file no more is shown, characters.
_MOST = 20_000


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def neutralise(text: str) -> str:
    """``text`` on one line, with every unsafe character written out: an escape becomes ``\\x1b``."""
    return _UNSAFE.sub(_escape, text)


def neutralise_lines(text: str) -> str:
    """As `neutralise`, but line feeds stay."""
    return "\n".join(neutralise(line) for line in text.split("\n"))


def shortened(text: str) -> str:
    """``text``, or its beginning where it is longer than anybody reads."""
    return text if len(text) <= _MOST else f"{text[:_MOST]}... ({len(text)} characters)"
