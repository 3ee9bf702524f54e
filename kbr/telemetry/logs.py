"""Log lines: how they look, and how librdkafka's many become few clear ones.

Lines go to standard error. Text from outside (topic names, brokers' words) can't move the cursor or
begin a line of its own: control characters are written as escapes.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TextIO

from kbr.telemetry.events import ClientMessage
from kbr.timing import SYSTEM_CLOCK, Clock
from kbr.wire import dump_json

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # can't be subscripted before Python 3.11

__all__ = ["FoldedLine", "RepeatFolder", "configure", "get_logger", "printable"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    r"""``text`` with control characters as ``\x1b``-like escapes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname:<7} {printable(record.getMessage())}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        fields: dict[str, object] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info is not None:
            fields["traceback"] = self.formatException(record.exc_info)
        return dump_json(fields).decode("utf-8")


class _StderrHandler(_StreamHandler):
    """Writes to whatever sys.stderr is at that moment: a progress display may stand in for it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(*, form: str = "plain", level: str = "info") -> None:
    """Send kbr's log lines to standard error, once for the process.

    Args:
        form: ``plain`` or ``json``.
        level: debug, info, warning or error.
    """
    root = logging.getLogger("kbr")
    root.handlers.clear()
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if form == "json" else _PlainFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False


def get_logger(name: str) -> logging.Logger:
    """A logger below ``kbr``."""
    return logging.getLogger(name)


@dataclass(frozen=True, slots=True)
class FoldedLine:
    """A line worth writing."""

    level: int
    text: str


#: What librdkafka says (rdkafka_broker.c, rdkafka_transport.c, rdkafka_ssl.c, rdkafka_sasl*.c) → what it means.
_CAUSES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"Connection refused", re.IGNORECASE),
        "connection refused",
        "is the broker running, and is this its address?",
    ),
    (
        re.compile(r"Failed to resolve|Name or service not known|Temporary failure in name resolution", re.IGNORECASE),
        "its name can't be resolved",
        "check the host name and DNS; brokers are used by the names in advertised.listeners",
    ),
    (
        re.compile(r"certificate verify failed|unable to get local issuer|self.signed", re.IGNORECASE),
        "its certificate can't be verified",
        "set security.ssl_ca_location to the CA that signed it",
    ),
    (re.compile(r"SSL handshake failed|ssl3?_|wrong version number", re.IGNORECASE), "TLS handshake failed",
     "check security_protocol and the port"),
    (
        re.compile(r"SASL|authentication", re.IGNORECASE),
        "authentication failed",
        "check sasl_mechanism, username and password",
    ),
    (
        re.compile(r"timed out|timeout", re.IGNORECASE),
        "it does not answer in time",
        "check the network and the broker's load",
    ),
    (
        re.compile(r"Disconnected|Connection reset|Broken pipe|closed by peer", re.IGNORECASE),
        "the connection was closed",
        "a TLS or SASL listener closes plain connections; else the broker went away",
    ),
)
#: librdkafka names the thread first, often after the broker as well.
_THREAD = re.compile(r"^\[thrd:[^\]]*\]: ")
_BROKER = re.compile(r"(?:[a-z_]+://)?([A-Za-z0-9_.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+)(?:/(?:bootstrap|-?\d+))?")


def explain(text: str) -> tuple[str, str, str]:
    """(broker, reason, what to check) of a librdkafka line; empty strings where it doesn't tell."""
    broker = _BROKER.search(_THREAD.sub("", text))
    for pattern, reason, check in _CAUSES:
        if pattern.search(text):
            return (broker.group(1) if broker else "", reason, check)
    return (broker.group(1) if broker else "", "", "")


@dataclass(slots=True)
class _Seen:
    line: str
    level: int
    said_at: float
    unsaid: int = 0


class RepeatFolder:
    """Lets the first line of a kind through, then at most one per interval, with the count.

    A kind is (broker, reason), so that a hundred connections' refusals are one line.

    Args:
        interval_s: seconds between two lines of a kind.
    """

    def __init__(self, *, interval_s: float = 30.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}

    def take(self, message: ClientMessage) -> list[FoldedLine]:
        """Lines to write now: one or none."""
        if message.level > 6:
            return []
        broker, reason, check = explain(message.text)
        if not reason and "brokers are down" in message.text:
            return []  # says nothing that the lines about each broker don't
        told = bool(broker and reason)
        kind = (broker, reason) if told else ("", message.text)
        line = f"broker {broker}: {reason}; {check}" if told else message.text
        level = logging.WARNING if message.level <= 4 else logging.INFO
        now = self._clock.monotonic()
        seen = self._seen.get(kind)
        if seen is None:
            if len(self._seen) >= 1000:
                self._seen.clear()
            self._seen[kind] = _Seen(line, level, now)
            return [FoldedLine(level, line)]
        seen.unsaid += 1
        return self._say(seen, now)

    def due(self) -> list[FoldedLine]:
        """Repeats that have waited long enough."""
        now = self._clock.monotonic()
        return [line for seen in self._seen.values() if seen.unsaid for line in self._say(seen, now)]

    def _say(self, seen: _Seen, now: float) -> list[FoldedLine]:
        if now - seen.said_at < self._interval_s:
            return []
        line = FoldedLine(seen.level, f"{seen.line} ({seen.unsaid} more times in {now - seen.said_at:.0f} s)")
        seen.said_at = now
        seen.unsaid = 0
        return [line]
