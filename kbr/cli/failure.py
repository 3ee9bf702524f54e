"""The one place that turns an exception into what a user sees: lines on standard error and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from kbr.cli.text import neutralise, neutralise_lines, shortened
from kbr.errors import ConfigError, Interrupted, KbrError, UsageError
from kbr.secrecy import redact

__all__ = ["report_failure"]

#: How click answers a command without arguments since 8.2; before, it printed the help itself.
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
_BUG_HINT = "this is a bug in kbr; run with --debug for the traceback"


def report_failure(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what went wrong and return the exit code.

    Args:
        error: what ended the command.
        arguments: the command line, to know what was asked for even if it could not be parsed.
    """
    if isinstance(error, _NO_ARGUMENTS):
        _write(f"{error.format_message()}\n")  # nothing is wrong with what was asked: nothing was
        return UsageError.exit_code
    if isinstance(error, click.ClickException):
        error = _from_click(error)
    elif isinstance(error, (KeyboardInterrupt, click.Abort)) or (
        # what becomes of Ctrl-C within librdkafka's client, which returns a result all the same
        isinstance(error, SystemError) and isinstance(error.__cause__, KeyboardInterrupt)
    ):
        error = Interrupted("interrupted")
    if isinstance(error, KbrError):
        code, name, message, hint = error.exit_code, error.id, error.message, error.hint
    else:
        code, name, hint = 1, "UnexpectedError", _BUG_HINT
        message = f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
    # before it is cut and its characters are written out: what is left of a secret then is not known as one
    message, hint = redact(message), redact(hint)
    if _asked(arguments, "--debug"):
        _print_traceback(error)
    lines = [f"Error: {_on_lines(error, message)}"]
    if hint:
        lines.append(f"Hint: {shortened(neutralise(hint))}")
    if wants_json(arguments):
        lines.append(_json_line(code, name, message, hint))
    _write("\n".join(lines) + "\n")
    return code


def _on_lines(error: BaseException, message: str) -> str:
    """Only mistakes in a command or a configuration are lists: a name from outside can't begin a line of its own."""
    has_lines = isinstance(error, (ConfigError, UsageError))
    return shortened(neutralise_lines(message) if has_lines else neutralise(message))


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON; works on one that can't be parsed."""
    spelled = [f"{one}={two}" for one, two in zip(arguments, [*arguments, ""][1:], strict=True)]
    return any(one in ("-ojson", "--output=json") for one in arguments) or any(
        pair in ("-o=json", "--output=json") for pair in spelled
    )


def _asked(arguments: Sequence[str], flag: str) -> bool:
    return flag in arguments


def _from_click(error: click.ClickException) -> UsageError:
    hint = ""
    context = getattr(error, "ctx", None)
    if context is not None:
        hint = f"{context.command_path} --help lists what it takes"
    return UsageError(error.format_message(), hint=hint)


def _json_line(code: int, name: str, message: str, hint: str) -> str:
    import json

    return json.dumps({"message_type": "exit_error", "code": code, "id": name, "message": message, "hint": hint})


def _print_traceback(error: BaseException) -> None:
    import traceback

    _write(neutralise_lines(redact("".join(traceback.format_exception(type(error), error, error.__traceback__)))))


def _write(text: str) -> None:
    try:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # nobody reads it: the exit code still tells
