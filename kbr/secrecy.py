"""Which values of this process are secret, and how they stay out of every text that people may see.

Messages are made without secrets where they are made. This is the second line, for what nobody foresaw: words of
libraries, an exception's text, a traceback. What was hidden once is masked in every error of kbr (kbr.errors), in workers'
log lines (kbr.telemetry.logs), and in all that Python writes to standard error (`guard_stderr`). Data is never changed:
results and records don't pass here.

State of the process, as logging's is: whoever prints a traceback knows no configuration. The lowest layer; knows no keys
of the configuration.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

__all__ = [
    "MASK",
    "MIN_CHARS",
    "cut",
    "forget",
    "guard_stderr",
    "hide",
    "holds_secret",
    "is_likely_secret",
    "is_secret_option",
    "is_secret_property",
    "is_secret_variable",
    "redact",
    "secrets_of",
    "secrets_of_environment",
]

#: What stands in a text in a secret's place.
MASK = "***"
#: A shorter one is not looked for: it would be found in half of all words, which would then tell it.
MIN_CHARS = 6
#: Values that are never looked for, though a secret's place may hold one: the words that kbr, Kafka and their libraries' options are
#: made of (in lower case). Masked, they would be missing in half of all messages, and that would tell which one it is.
_WORDS = frozenset(
    {
        "plaintext", "sasl_plaintext", "sasl_ssl", "gssapi", "oauthbearer", "scram-sha-256", "scram-sha-512",
        "aws_msk_iam", "kerberos", "bearer", "digest", "read_committed", "read_uncommitted", "latest", "earliest",
        "beginning", "largest", "smallest", "snappy", "filesystem", "consistent", "consistent_random", "murmur2",
        "murmur2_random", "fnv1a_random", "random", "required", "requisite", "sufficient", "optional", "default",
        "enabled", "disabled", "anonymous", "managed", "always", "prompt", "interactive", "browser", "system",
        "service", "standard", "virtual", "public", "private", "global", "localhost", "internal", "external",
        "google_default", "external_account", "authorized_user", "service_account", "client_credentials", "aes128",
        "aes256", "aws:kms", "aws:kms:dsse", "sha256", "sha512", "backup", "restore", "source", "target", "storage",
        "topics", "topic", "partition", "partitions", "offset", "offsets", "record", "records", "segment", "segments",
        "manifest", "message", "logger", "traceback", "warning", "critical", "status", "running", "complete",
        "incomplete", "interrupted", "failed", "passed", "recover", "forget", "compare", "compliance", "continue",
        "governance", "original", "round-robin",
    }
)  # fmt: skip
#: us-east-1, us-gov-west-1: AWS's regions, and zones in them.
_REGION = re.compile(r"[a-z]{2,9}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}[a-z]?")
#: Where only a guess calls a value a secret, it has to look like one: not like words of one case, or a short number.
_LIKE_WORDS = re.compile(r"[A-Z]?[a-z]+(?:[ ._-][A-Z]?[a-z]+)*|[A-Z]+(?:[ ._-][A-Z]+)*|[0-9]{1,11}|[0-9]{1,5}\.[0-9]{1,5}")
_LONGEST_WORDS = 24
#: Parts of names that leave nothing to guess.
_SURE = re.compile(r"pass(?:w|phrase|$)|(?:^|_)pwd$|secret|connection_?string", re.IGNORECASE)
#: A text in JSON, and whether it is a name.
_JSON_TEXT = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?')
#: Lines of a longer text, such as a key in PEM, are looked for one by one; those that say only what it is are not.
_MIN_LINE_CHARS = 16
#: So much of a value is quoted in a message about it (kbr.config.values.shown).
_QUOTED_CHARS = 57
#: Parts of librdkafka's and Kafka's property names whose values are secrets: what librdkafka marks so (_RK_SENSITIVE in
#: rdkafka_conf.c) but for user names and paths, and Java's sasl.jaas.config.
_SECRET_PARTS = ("password", "secret", "passphrase", "key.pem", "ssl_key", "private.key", "oauthbearer.config", "jaas", "token.value")
#: Parts of names of filesystems' options whose values are secrets, or may hold one.
_SECRET_OPTIONS = ("pass", "pwd", "cookie", "headers", "secret", "token", "key", "cred", "sas", "connection_string", "auth", "private", "session")
#: Names among them that only say where something is.
_PLACES = (".location", ".url", ".file", "_file", "_location")
_SECRET_VARIABLE = re.compile(
    r"PASS|_PWD$|SECRET|TOKEN|CREDENTIAL|PRIVATE|(?:API|ACCESS|ACCOUNT)_?KEY|CONNECTION_?STRING", re.IGNORECASE
)
#: Variables by which the stores' libraries, and AWS's signer, are given credentials: kbr's configuration never sees them.
_CREDENTIALS = re.compile(
    r"AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|CONTAINER_AUTHORIZATION_TOKEN)"
    r"|AZURE_(?:STORAGE_)?(?:CONNECTION_STRING|ACCOUNT_KEY|KEY|SAS_TOKEN|CLIENT_SECRET|CLIENT_CERTIFICATE_PASSWORD|PASSWORD)"
)
#: Proxies' URLs, which may have a password: http://user:password@host:port, or without the scheme.
_PROXY_VARIABLE = re.compile(r"(?:https?|all|ftp)_proxy", re.IGNORECASE)
#: What is between a = and the next ; or & of a connection string or a shared access signature, by names of secrets.
_SECRET_PAIR = re.compile(r"(?:^|[;&?])\s*[^=;&?]*(?:key|secret|sig|signature|token|password|pwd)\s*=([^;&]+)", re.IGNORECASE)


def is_secret_property(name: str) -> bool:
    """Whether the value of a client property of that name has to stay hidden."""
    lowered = name.lower()
    return any(part in lowered for part in _SECRET_PARTS) and not lowered.endswith(_PLACES)


def is_secret_option(name: str) -> bool:
    """Whether the value of a filesystem's option of that name has to stay hidden."""
    lowered = name.lower()
    return any(part in lowered for part in _SECRET_OPTIONS)


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable is named as one that holds a secret."""
    return _SECRET_VARIABLE.search(name) is not None


class _Mask:
    """The secrets that are known so far, in all the forms in which a text may show them."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        #: The longest first: a form may be a part of another. Looked for one by one, as that is what str is fast at: 28
        #: forms in 5 kB took 70 us on a busy machine, one expression of all of them 390.
        self._forms: tuple[str, ...] = ()

    def add(self, values: Iterable[str]) -> None:
        new = {value for value in values if len(value) >= MIN_CHARS and not _is_word(value)} - self._known
        if not new:
            return
        self._known |= new
        forms = {form for value in new for form in _forms(value) if len(form) >= MIN_CHARS and not _is_word(form)}
        self._forms = tuple(sorted(forms.union(self._forms), key=lambda form: (-len(form), form)))

    def sub(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def finds(self, text: str) -> bool:
        return any(form in text for form in self._forms)

    def clear(self) -> None:
        self._known, self._forms = set(), ()


_mask = _Mask()


def hide(values: Iterable[str | None]) -> None:
    """These are secrets from now on, in this process."""
    _mask.add(value for value in values if value)


def redact(text: str) -> str:
    """``text`` with `MASK` in place of every secret that is known: as it is, escaped, in percent or base64 encoding."""
    return _mask.sub(text)


def cut(text: str, most: int) -> str:
    """The first ``most`` characters of ``text`` as it may be shown: masked first, as what is left of a secret is not known as one."""
    return redact(text)[:most]


def holds_secret(text: str) -> bool:
    """Whether a secret that is known shows in ``text``."""
    return _mask.finds(text)


def forget() -> None:
    """Nothing is secret any more: for tests, whose secrets are other tests' words."""
    _mask.clear()


def secrets_of(value: object) -> Iterator[str]:
    """The secrets in a value that travels to a worker: texts and keys in those fields of its dataclasses that no repr shows.

    Of a mapping in such a field, the entries whose names are those of secrets.
    """
    if not is_dataclass(value) or isinstance(value, type):
        return
    for one in fields(value):
        inner: Any = getattr(value, one.name)
        if is_dataclass(inner):
            yield from secrets_of(inner)
        elif not one.repr and isinstance(inner, str):
            yield inner
        elif not one.repr and isinstance(inner, bytes):
            yield inner.hex()
            yield repr(inner)[2:-1]
            yield from _in_base64(inner)
        elif not one.repr and isinstance(inner, Mapping):
            for name, entry in inner.items():
                if isinstance(entry, str) and _is_secret_entry(str(name)) and is_likely_secret(str(name), entry):
                    yield entry


def secrets_of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """The secrets in variables that libraries read by themselves: credentials for stores, passwords of proxies."""
    for name, value in environ.items():
        if _CREDENTIALS.fullmatch(name):
            yield value
        elif _PROXY_VARIABLE.fullmatch(name):
            yield from _proxy_password(value)


def _proxy_password(url: str) -> Iterator[str]:
    """A proxy's password, as it is and decoded. One with / ? or # in it, which should be in percent, is torn there by who parses it."""
    password = url.partition("://")[2] or url
    password = password.rpartition("@")[0].partition(":")[2]
    if password:
        from urllib.parse import unquote

        yield password
        yield unquote(password)
        yield from (piece for piece in re.split("[/?#]", password) if not _looks_like_words(piece))


def is_likely_secret(name: str, value: str) -> bool:
    """Whether the value of a filesystem's option or a variable that is named like a secret is one to look for in all texts.

    A guess by the name alone takes ``token_mode: managed`` and ``session_timeout: 120000`` for secrets, too.
    """
    return is_secret_property(name) or _SURE.search(name) is not None or not _looks_like_words(value)


def _looks_like_words(value: str) -> bool:
    return len(value) <= _LONGEST_WORDS and _LIKE_WORDS.fullmatch(value) is not None


def _is_word(value: str) -> bool:
    lowered = value.strip().lower()
    return lowered in _WORDS or _REGION.fullmatch(lowered) is not None


def _is_secret_entry(name: str) -> bool:
    """A client property's name has dots; an argument of a filesystem is named like a variable."""
    return is_secret_property(name) or ("." not in name and (is_secret_variable(name) or is_secret_option(name)))


def _forms(secret: str) -> Iterator[str]:
    """How a text may show a secret."""
    import json
    from html import escape
    from urllib.parse import quote, quote_plus

    yield from _plain_forms(secret)
    data = secret.encode("utf-8", "surrogatepass")
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield ascii(secret)[1:-1]
    yield repr(data)[2:-1]
    yield escape(secret)
    # the others as yarl writes a user's password, a path and a query: what each may hold as it is, it leaves
    for quoted in (
        quote(data, safe=""),
        quote(data),
        quote_plus(data),
        quote(data, safe="!$&'()*+,;="),
        quote(data, safe="!$&'()*+,;=:@/"),
        quote_plus(data, safe="!$'()*,;:@/?"),
    ):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), quoted)
    yield data.hex()
    yield data.hex().upper()
    yield from _in_base64(data)


def _plain_forms(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()
    if len(secret) > _QUOTED_CHARS:
        yield secret[:_QUOTED_CHARS]
        yield ascii(secret[:_QUOTED_CHARS])[1:-1]
    if "\n" in secret:
        for line in map(str.strip, secret.splitlines()):
            if len(line) >= _MIN_LINE_CHARS and not line.startswith("-----"):
                yield line
    if "=" in secret and " " in secret:
        # name=value pairs of sasl.oauthbearer.config or a JAAS line: librdkafka quotes from the middle of them
        for pair in secret.split():
            value = pair.partition("=")[2].strip("\"';,")
            if not _looks_like_words(value):  # scope=default, principal=admin
                yield value
    # what a library quotes of a connection string is its key alone
    yield from (value.strip() for value in _SECRET_PAIR.findall(secret))


def _in_base64(data: bytes) -> Iterator[str]:
    """What of it stands in the base64 of a longer text, wherever it begins there."""
    import base64

    for lead in range(3):
        encoded = base64.b64encode(bytes(lead) + data).decode("ascii")
        core = encoded[-(-8 * lead // 6) : 8 * (lead + len(data)) // 6]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _masked_lines(text: str) -> str:
    """``text`` without secrets; its lines of JSON stay JSON, with the same names and numbers."""
    import io

    if not (holds_secret(text) or "\\" in text):
        return text
    out: list[str] = []
    plain: list[str] = []
    for line in io.StringIO(text, newline="\n"):
        if (masked := _masked_json(line)) is None:
            plain.append(line)
            continue
        # together: a secret may go over several lines
        out += [redact("".join(plain)), masked]
        plain.clear()
    return "".join([*out, redact("".join(plain))])


def _masked_json(line: str) -> str | None:
    """An object on one line, with only its texts masked; None for any other line."""
    import json

    if not (line.startswith("{") and line.rstrip().endswith("}")):
        return None
    try:
        json.loads(line)
    except ValueError:
        return None

    def mask(match: re.Match[str]) -> str:
        if match.group(2):
            return match.group()  # a name is kbr's own word
        text = json.loads(match.group(1))
        masked = redact(text)
        return match.group() if masked == text else json.dumps(masked)

    return _JSON_TEXT.sub(mask, line)


class _MaskedStream:
    """A text stream on which no secret is written; in all else it is the stream that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_masked_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)


def guard_stderr() -> None:
    """From now on, what Python writes to standard error in this process shows no secret: logs, tracebacks, warnings.

    Nor one of those that libraries find in this process's environment.
    """
    hide(secrets_of_environment(os.environ))
    if sys.stderr is not None and not isinstance(sys.stderr, _MaskedStream):  # None when the descriptor is closed
        sys.stderr = cast("TextIO", _MaskedStream(sys.stderr))
