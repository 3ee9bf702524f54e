"""Java's ``sasl.jaas.config``: a login module, and its options. Pure; knows no keys.

Read as Kafka reads it (org.apache.kafka.common.security.JaasConfig: a StreamTokenizer with both kinds of quotes and
both kinds of comments). No message shows an option's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["JaasEntry", "parse_jaas"]

_TOKEN = re.compile(
    r"""\s+ | //[^\n]* | /\*.*?\*/ | (?P<quoted>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*') | (?P<mark>[=;]) | (?P<word>[^\s=;"']+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([0-3]?[0-7]{1,2}|.)", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FLAGS = frozenset({"required", "requisite", "sufficient", "optional"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JaasEntry:
    """One login module. Its options may hold secrets."""

    module: str
    options: Mapping[str, str]

    def __repr__(self) -> str:
        return f"JaasEntry({self.module})"


def parse_jaas(text: str) -> JaasEntry:
    """The one login module of a ``sasl.jaas.config``.

    Raises:
        ValueError: it is none, or there are several.
    """
    tokens = list(_tokens(text))
    if len(tokens) < 2 or any(is_mark for _word, is_mark in tokens[:2]) or tokens[1][0].lower() not in _FLAGS:
        raise ValueError("must be 'LoginModule required option=\"value\" ...;'")
    options: dict[str, str] = {}
    rest = tokens[2:]
    while rest and rest[0] != (";", True):
        if len(rest) < 3 or rest[0][1] or rest[1] != ("=", True) or rest[2][1]:
            raise ValueError('has something that is not option="value"; values with other signs than letters and digits need quotes')
        options[rest[0][0]] = rest[2][0]
        rest = rest[3:]
    if not rest:
        raise ValueError("has no ';' at its end")
    if len(rest) > 1:
        raise ValueError("has more than one login module, and a client takes one")
    return JaasEntry(module=tokens[0][0], options=options)


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is = or ;) each."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError("has a quote that is not closed")
        at = match.end()
        quoted, mark, word = match.group("quoted", "mark", "word")
        if quoted is not None:
            yield _ESCAPE.sub(_unescaped, quoted[1:-1]), False
        elif mark is not None:
            yield mark, True
        elif word is not None:
            yield word, False


def _unescaped(match: re.Match[str]) -> str:
    body = match.group(1)
    if body[0] in "01234567":
        return chr(int(body, 8))
    return _ESCAPES.get(body, body)
