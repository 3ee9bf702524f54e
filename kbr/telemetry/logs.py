"""Log lines: how they look, and how a worker's get to the one process that writes.

Lines go to standard error, written by the supervisor's process alone, each in one piece; so they never
interleave, and a progress display can make room for them. Text from outside (topic names, brokers'
words) can't move the cursor or begin a line of its own: control characters are written as escapes.

On the standard library's logging: structlog would be one more import in every worker, for what the two
formatters below do.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from kbr.secrecy import redact
from kbr.telemetry.client_messages import CERTIFICATE_REFUSED, FoldedLine, RepeatFolder, explain
from kbr.telemetry.events import LogLine
from kbr.wire import dump_json

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # can't be subscripted before Python 3.11

__all__ = [
    "CERTIFICATE_REFUSED",
    "FoldedLine",
    "RepeatFolder",
    "configure",
    "explain",
    "fields",
    "forward_to",
    "get_logger",
    "printable",
    "replay",
]

Field = str | int | float | bool | None

#: Control characters, line separators, marks that turn the direction of text and characters that nobody sees (a line could
#: be shown as something else than what it is). kbr.cli.text has the same.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_PLAIN_WORD = re.compile(r"[^\s\"=\\]+")
_LEVEL_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR"}
#: Where fields stand on a record.
_FIELDS = "kbr_fields"


def printable(text: str) -> str:
    r"""``text`` with control characters as escapes such as ``\x1b`` and ``\u2028``."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    """JSON has escapes of 16 bits only."""
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def fields(**values: Field) -> dict[str, Any]:
    """Facts beside a message: ``log.info("committed", extra=fields(topic=topic, partition=3))``."""
    return {_FIELDS: values}


def get_logger(name: str) -> logging.Logger:
    """A logger; names begin with ``kbr.``."""
    return logging.getLogger(name)


# -- how lines look -----------------------------------------------------------------------


class _Formatter(logging.Formatter):
    @staticmethod
    def stamp(record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{stamp}.{int(record.created * 1000) % 1000:03d}Z"

    def traceback(self, record: logging.LogRecord) -> str:
        if record.exc_text:
            return record.exc_text
        return "" if record.exc_info is None else self.formatException(record.exc_info)


class _PlainFormatter(_Formatter):
    """``2026-11-24T01:02:03.456Z INFO  message key=value``; a traceback's lines follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_NAMES.get(record.levelname, record.levelname)
        # masked before characters are written out as escapes, by which a secret that has some would not be known
        words = [f"{self.stamp(record)} {level:<5} {printable(redact(record.getMessage()))}"]
        words += [f"{printable(name)}={_quoted(value)}" for name, value in _fields_of(record).items()]
        lines = [" ".join(words), *(f"  {printable(line)}" for line in redact(self.traceback(record)).splitlines())]
        return "\n".join(lines)


class _JsonFormatter(_Formatter):
    """One object a line: ts, level, logger, message, the fields, pid, and traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Field] = {
            "ts": self.stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        own = {*content, "pid", "traceback"}
        for name, value in _fields_of(record).items():
            content[f"{name}_" if name in own else name] = value
        content["pid"] = record.process
        traceback = self.traceback(record)
        if traceback:
            content["traceback"] = traceback
        text = dump_json({_utf8(name): _json_value(value) for name, value in content.items()}).decode("utf-8")
        # JSON lets some control characters stand as they are
        return _UNPRINTABLE.sub(_json_escape, text)


def _fields_of(record: logging.LogRecord) -> Mapping[str, Field]:
    found: Mapping[str, Field] = getattr(record, _FIELDS, {})
    return found


def _quoted(value: Field) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return str(value).lower()
    text = redact(str(value))
    if _PLAIN_WORD.fullmatch(text):
        return printable(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def _json_value(value: Field) -> Field:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _utf8(str(value))


def _masked(value: Field) -> Field:
    return redact(value) if isinstance(value, str) else value


def _utf8(text: str) -> str:
    """``text`` without the lone surrogates that stand for bytes of other encodings."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# -- where lines go -----------------------------------------------------------------------


class _LineHandler(_StreamHandler):
    """Writes to a stream, or to whatever sys.stderr is at that moment: a progress display may stand in for it."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream or sys.stderr)
        self._fixed = stream is not None

    def emit(self, record: logging.LogRecord) -> None:
        if not self._fixed:
            self.stream = sys.stderr
        super().emit(record)


def configure(*, form: str = "plain", level: str = "info", stream: TextIO | None = None) -> None:
    """Choose how this process writes log lines; the last call counts.

    kbr's lines go out from ``level`` on, those of libraries from warnings on.

    Args:
        form: ``plain`` or ``json``.
        level: debug, info, warning or error.
        stream: default: standard error, also when it is replaced later.
    """
    handler = _LineHandler(stream)
    handler.setFormatter(_JsonFormatter() if form == "json" else _PlainFormatter())
    ours = logging.getLogger("kbr")
    ours.handlers[:] = [handler]
    ours.setLevel(level.upper())
    ours.propagate = False
    libraries = logging.getLogger()
    libraries.handlers[:] = [
        *(other for other in libraries.handlers if not isinstance(other, _LineHandler)),
        handler,
    ]


# -- from workers to the supervisor -------------------------------------------------------


class _ForwardHandler(logging.Handler):
    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:  # a log call with the wrong arguments is no reason to fail a task: logging tells of it
            self.handleError(record)
            return
        self._send(line)

    def _line(self, record: logging.LogRecord) -> LogLine:
        traceback = record.exc_text or ""
        if not traceback and record.exc_info is not None and self.formatter is not None:
            traceback = self.formatter.formatException(record.exc_info)
        return LogLine(
            level=record.levelno,
            logger=record.name,
            text=redact(record.getMessage()),
            created_s=record.created,
            pid=record.process or 0,
            fields={name: _masked(_json_value(value)) for name, value in _fields_of(record).items()},
            traceback=redact(traceback),
        )


def forward_to(send: Callable[[LogLine], None], *, level: int) -> None:
    """In a worker: give every line to ``send`` instead of writing it.

    Args:
        send: from any thread; must not log.
        level: of kbr's lines that are worth sending, as `logging` numbers them; libraries' go from warnings on.
    """
    libraries = logging.getLogger()
    libraries.handlers[:] = [_ForwardHandler(send)]
    libraries.setLevel(logging.WARNING)
    logging.getLogger("kbr").setLevel(level)


def replay(line: LogLine) -> None:
    """In the supervisor's process: log a worker's line as if it had been said here."""
    logger = logging.getLogger(line.logger)
    if not logger.isEnabledFor(line.level):
        return
    logger.handle(
        logging.makeLogRecord(
            {
                "name": line.logger,
                "levelno": line.level,
                "levelname": logging.getLevelName(line.level),
                "msg": line.text,
                "args": (),
                "created": line.created_s,
                "msecs": line.created_s * 1000 % 1000,
                "process": line.pid,
                "exc_text": line.traceback,
                _FIELDS: line.fields,
            }
        )
    )
