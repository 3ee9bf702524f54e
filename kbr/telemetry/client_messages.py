r"""What librdkafka says about its connections, understood and folded: pure.

librdkafka logs a broker's failure as ``[thrd:N]: N: text (after 3ms in state S)`` and gives the application
``N: text (after 3ms in state S)``, where N is ``protocol://host:port/id`` (rdkafka_broker.c:
rd_kafka_broker_set_error, rd_kafka_mk_brokername; rdkafka.c: rd_kafka_log0). The texts below are those of
rdkafka_broker.c, rdkafka_transport.c, rdkafka_ssl.c, rdkafka_request.c and rdkafka_sasl*.c in 2.x.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from kbr.secrecy import redact
from kbr.telemetry.events import ClientMessage
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["CERTIFICATE_REFUSED", "ClientFailure", "FoldedLine", "RepeatFolder", "explain", "parse"]

#: Why a broker is not believed, where librdkafka does not say what is wrong with its certificate.
CERTIFICATE_REFUSED = "its certificate can't be verified"

_HOST = r"(?:[A-Za-z0-9_.\-]+|\[[0-9a-fA-F:.%]+\]):\d+"
_THREAD = re.compile(r"^\[thrd:[^\]]*(?:\][^\]]*)?\]: ")
_NAME = re.compile(rf"^(?:[a-z_]+://)?({_HOST})/(?:bootstrap|internal|-?\d+): ")
#: Logical brokers' names stand without an address; the address follows when there is one.
_LOGICAL = re.compile(rf"^(?:GroupCoordinator|TxnCoordinator|ShareCoordinator)[^:]*: (?:({_HOST}): )?")
_PROTOCOL = re.compile(r"^[a-z_]+://")
_QUOTED_HOST = re.compile(rf"'({_HOST})'")
_SUFFIX = re.compile(r" \(after \d+ms in state (?P<state>[A-Z_\-]+)(?:, \d+ identical error\(s\) suppressed)?\)$")
_NUMBER = re.compile(r"\d+")
_ALL_DOWN = re.compile(r"^\d+/\d+ brokers are down$")

#: So much of a token server's answer is told.
_WHY_CHARS = 300
_CLOSED = "the connection was closed"
_CLOSED_AT_ONCE = (
    "it closed the connection at the first request",
    "a TLS listener does that to a plain client: check security_protocol and the port",
)
#: First match counts: what is more exact stands before what is more general.
_CAUSES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"Failed to resolve|Name or service not known|name resolution|No address associated"),
        "its name can't be resolved",
        "check the host name and DNS; brokers are used by the names in their advertised.listeners",
    ),
    (re.compile(r"Connection refused"), "connection refused", "is the broker running, and is this its address?"),
    (
        re.compile(r"No route to host|Network is unreachable|Host is unreachable|Network is down"),
        "no network path leads to it",
        "check the address, routes and firewalls",
    ),
    (
        re.compile(r"certificate has expired|certificate is not yet valid"),
        "its certificate is not valid at this time",
        "renew it, or set this machine's clock",
    ),
    (
        re.compile(r"[Hh]ostname mismatch|IP address mismatch|subject name does not match"),
        "its certificate is for another name",
        "use a name that the certificate has in bootstrap_servers and advertised.listeners",
    ),
    (
        re.compile(
            r"certificate verify failed|certificate could not be verified|Failed to verify broker certificate"
            r"|unable to get (?:local )?issuer|self.signed certificate"
        ),
        CERTIFICATE_REFUSED,
        "set security.ssl_ca_location to the CA that signed it",
    ),
    (
        re.compile(
            r"client SSL authentication might be required|alert (?:bad certificate|certificate required|unknown ca"
            r"|certificate unknown|unsupported certificate|handshake failure)"
        ),
        "it does not accept this client's certificate",
        "set security.ssl_certificate_location and ssl_key_location to a pair that it trusts",
    ),
    (
        re.compile(r"connecting to a PLAINTEXT broker listener|wrong version number|packet length too long"),
        "it does not speak TLS on this port",
        "check security_protocol and the port",
    ),
    (
        re.compile(r"connecting to a SSL listener|probably due to broker version"),
        *_CLOSED_AT_ONCE,
    ),
    (
        re.compile(r"might require SASL authentication"),
        "it closed the connection soon after it was made",
        "it may require SASL: check security_protocol and sasl_mechanism",
    ),
    (
        re.compile(r"mechanism handshake failed.*Unsupported SASL mechanism.*broker's supported mechanisms: *(?P<detail>.*)"),
        "it does not offer this SASL mechanism",
        "set security.sasl_mechanism to one that it offers",
    ),
    (
        re.compile(r"Failed to (?:acquire SASL OAUTHBEARER token|retrieve OIDC token from \"[^\"]*\"): (?P<why>.+)"),
        "no token could be had",
        "check the token's source and its settings",
    ),
    (
        re.compile(r"OAUTHBEARER token|OIDC"),
        "no token could be had for it",
        "check the token's source and its settings",
    ),
    (
        re.compile(r"SASL|[Aa]uthenticat"),
        "authentication failed",
        "check sasl_mechanism, username and password",
    ),
    (
        re.compile(r"SSL handshake failed|SSL routines|SSL_"),
        "the TLS handshake failed",
        "check security_protocol and the port; the broker's log tells more",
    ),
    (
        re.compile(r"timed out|[Tt]imeout|Timed out"),
        "it does not answer in time",
        "check the network and the broker's load",
    ),
    (
        re.compile(r"Disconnected|Connection reset|Broken pipe|hung up|closed by peer|[Cc]onnection closed"),
        _CLOSED,
        "a TLS or SASL listener does that to plain clients; else the broker went away",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFailure:
    """A librdkafka line in parts.

    Attributes:
        broker: host:port, or empty.
        reason: what is wrong with that broker, for people; empty where the line is not about that.
        check: what to look at.
        text: the line without its frame: thread, broker and the time in a state.
    """

    broker: str
    reason: str
    check: str
    text: str


def parse(text: str, *, mask: Callable[[str], str] = redact) -> ClientFailure:
    """Understand a librdkafka line, as logged or as given with an error.

    Args:
        mask: for what is quoted of it; the line is understood as it is.
    """
    rest = _THREAD.sub("", text.strip())
    suffix = _SUFFIX.search(rest)
    if suffix is not None:
        rest = rest[: suffix.start()]
    # a plain client's broker has no protocol before its name
    is_at_once = suffix is not None and suffix.group("state") == "APIVERSION_QUERY" and not _PROTOCOL.match(rest)
    # the name stands before the text, and is matched apart: sasl_ssl:// is no failure of SASL or TLS
    name = _NAME.match(rest) or _LOGICAL.match(rest)
    broker = ""
    if name is not None:
        broker = name.group(1) or ""
        rest = rest[name.end() :]
    if not broker:
        quoted = _QUOTED_HOST.search(rest)
        broker = quoted.group(1) if quoted is not None else ""
    for pattern, reason, check in _CAUSES:
        match = pattern.search(rest)
        if match is not None:
            detail, why = match.groupdict().get("detail"), match.groupdict().get("why")
            if reason == _CLOSED and is_at_once:
                return ClientFailure(broker=broker, reason=_CLOSED_AT_ONCE[0], check=_CLOSED_AT_ONCE[1], text=rest)
            return ClientFailure(
                broker=broker,
                reason=f"{reason}: {mask(why)[:_WHY_CHARS]}" if why else reason,
                check=f"{check}: {mask(detail)}" if detail else check,
                text=rest,
            )
    return ClientFailure(broker=broker, reason="", check="", text=rest)


def explain(text: str, *, mask: Callable[[str], str] = redact) -> tuple[str, str, str]:
    """(broker, reason, what to check) of a librdkafka line; empty strings where it doesn't tell. ``mask``: see parse()."""
    failure = parse(text, mask=mask)
    return failure.broker, failure.reason, failure.check


@dataclass(frozen=True, slots=True)
class FoldedLine:
    """A line worth writing; ``level`` as `logging` numbers it."""

    level: int
    text: str


@dataclass(slots=True)
class _Seen:
    line: str
    level: int
    said_at: float
    unsaid: int = 0


class RepeatFolder:
    """Lets the first line of a kind through, then at most one per interval, with the count.

    A kind is a broker and a reason: all workers' and all connections' refusals by one broker are one line. Where
    there is no reason, it is the text without its numbers.

    Args:
        interval_s: seconds between two lines of a kind.
    """

    #: More kinds than this are not remembered; the one that was said longest ago is forgotten.
    MAX_KINDS = 1000

    def __init__(self, *, interval_s: float = 30.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}

    def take(self, message: ClientMessage) -> list[FoldedLine]:
        """Lines to write now: one or none."""
        failure = parse(message.text)
        if message.level > 6 or _ALL_DOWN.match(failure.text):
            return []  # that all are down says nothing that the lines about each of them don't
        if failure.broker and failure.reason:
            kind = (failure.broker, failure.reason)
            line = f"broker {failure.broker}: {failure.reason}; {failure.check}"
        else:
            kind = (failure.broker, _NUMBER.sub("#", failure.text))
            line = f"broker {failure.broker}: {failure.text}" if failure.broker else failure.text
        level = logging.ERROR if message.level <= 2 else logging.WARNING if message.level <= 4 else logging.INFO
        return self._fold(kind, line, level)

    def due(self) -> list[FoldedLine]:
        """Repeats that have waited long enough."""
        now = self._clock.monotonic()
        return [line for seen in self._seen.values() if seen.unsaid for line in self._say(seen, now)]

    def _fold(self, kind: tuple[str, str], line: str, level: int) -> list[FoldedLine]:
        now = self._clock.monotonic()
        seen = self._seen.get(kind)
        if seen is not None:
            seen.unsaid += 1
            return self._say(seen, now)
        if len(self._seen) >= self.MAX_KINDS:
            del self._seen[min(self._seen, key=lambda one: self._seen[one].said_at)]
        self._seen[kind] = _Seen(line, level, now)
        return [FoldedLine(level, line)]

    def _say(self, seen: _Seen, now: float) -> list[FoldedLine]:
        if now - seen.said_at < self._interval_s:
            return []
        times = "once more" if seen.unsaid == 1 else f"{seen.unsaid} more times"
        line = FoldedLine(seen.level, f"{seen.line} ({times} in {now - seen.said_at:.0f} s)")
        seen.said_at = now
        seen.unsaid = 0
        return [line]
