"""``${VAR}``, ``${VAR:-default}``, ``${file:/path}`` and ``$$`` in the texts of a configuration file.

What comes out of an expansion is a text: it is not expanded again and never read as YAML. Knows no keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["MAX_FILE_BYTES", "expand"]

MAX_FILE_BYTES = 64 * 1024
_REFERENCE = re.compile(r"\$\$|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, environ: Mapping[str, str], *, note: Callable[[str, str], None] = lambda _name, _value: None) -> str:
    """Replace every reference in ``text``.

    Args:
        note: is told of each reference, a variable's name or ``file:/path``, and what it stands for.

    Raises:
        ValueError: an unset variable, an unreadable file, or a reference of another shape.
    """

    def replace(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        body = match.group(1)
        if body is None:
            raise ValueError("'${' without its '}', or one reference inside another (write $${ for a plain '${')")
        if body.startswith("file:"):
            content = _read_file(body[len("file:") :])
            note(body, content)
            return content
        name, separator, default = body.partition(":-")
        if not _NAME.fullmatch(name):
            raise ValueError(
                "an unknown reference: use ${VAR}, ${VAR:-default} or ${file:/path}, or $${ for a plain '${'"
            )
        value = environ.get(name, "")
        if value:
            note(name, value)
            return value
        if separator:
            return default
        if name in environ:
            return ""
        raise ValueError(f"environment variable {name} is not set (${{{name}:-}} allows that)")

    return _REFERENCE.sub(replace, text)


def _read_file(path: str) -> str:
    if not path:
        raise ValueError("${file:} names no file")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise ValueError(f"can't read the file {path!r}: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the file {path!r} is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file {path!r} is not UTF-8 text") from error
    return strip_newline(text)


def strip_newline(text: str) -> str:
    """``text`` without one newline at its end, as editors and ``echo`` leave one."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
