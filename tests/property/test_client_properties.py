"""Whatever stands in a client.properties: keys, or mistakes with their lines, and no secret in either; never a traceback."""

from __future__ import annotations

import base64
import textwrap

from hypothesis import example, given
from hypothesis import strategies as st

from kbr.config.jaas import parse_jaas
from kbr.config.java_client import translate_client_properties
from kbr.config.java_names import DIRECT, JAVA_ONLY, NUMBERS
from kbr.kafka.properties import is_known_property, settable_names

NAMES = sorted({*DIRECT, *NUMBERS, *JAVA_ONLY, "sasl.jaas.config", "sasl.mechanism", "ssl.truststore.location", "ssl.keystore.location"})
MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"


def _translate(text: bytes):
    return translate_client_properties(text, is_librdkafkas=lambda name: name == "debug", known=lambda: ["debug"])


@given(st.binary(max_size=400))
def test_any_bytes_are_keys_or_mistakes(text: bytes) -> None:
    _translate(text)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=30)), max_size=12))
def test_any_values_are_keys_or_mistakes(entries: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}={value}" for name, value in entries)
    found = _translate(text.encode("latin-1", "replace"))
    lines = text.count("\n") + 2
    assert all(0 <= problem.line <= lines + len(text) for problem in found.problems)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_quoted_password_comes_back_as_it_was(password: str) -> None:
    for quote in "'\"":
        quoted = password.replace("\\", "\\\\").replace(quote, "\\" + quote)
        entry = parse_jaas(f"{MODULE} required username={quote}u{quote} password={quote}{quoted}{quote};")
        assert entry.options == {"username": "u", "password": password}


@given(st.text(max_size=60))
def test_any_jaas_text_is_an_entry_or_a_mistake_that_does_not_show_it(text: str) -> None:
    try:
        parse_jaas(f"{MODULE} required password={text}")
    except ValueError as error:
        assert len(text) < 8 or text not in str(error)


def _all_words(text: bytes) -> str:
    """All that is said about a file, with librdkafka's own names."""
    found = translate_client_properties(text, is_librdkafkas=is_known_property, known=settable_names)
    return "\n".join([*(f"{one.what} {one.suggestion} {one.hint}" for one in found.problems), *found.ignored])


@given(st.binary(min_size=32, max_size=700), st.sampled_from([76, 64, 16, 20]), st.sampled_from(["=", ": ", " ", "\n"]))
@example(bytes(range(200)), 64, "=")
def test_nothing_of_a_key_that_was_pasted_without_marks_at_its_lines_ends_is_shown(key: bytes, width: int, end: str) -> None:
    lines = textwrap.wrap(base64.b64encode(key).decode(), width)
    pem = "-----BEGIN PRIVATE KEY-----\n" + "".join(f"{line}{end if end != chr(10) else ''}\n" for line in lines) + "-----END PRIVATE KEY-----\n"
    said = _all_words(f"ssl.keystore.key={pem}bootstrap.servers=a:1\n".encode())
    for line in lines:
        stripped = line.rstrip("=")
        assert len(stripped) < 3 or stripped not in said, stripped


@given(
    st.sampled_from(["{}={}", "{}: {}", "{} {}", "key.{}={}", "config.providers.{}={}", "ssl.keystore.location=-----BEGIN {} {}",
                     "sasl.jaas.config={} required x={};", "sasl.login.callback.handler.class={}{}"]),
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", min_size=8, max_size=70).filter(
        lambda text: any(one in text for one in "ABCDEFGHIJKLMNOPQRSTUVWXYZ+/")
    ),
)  # fmt: skip
def test_nothing_of_what_can_be_no_name_is_shown(form: str, secret: str) -> None:
    assert secret not in _all_words(("bootstrap.servers=a:1\nconfig.providers=x\n" + form.format(secret, "${v} 9") + "\n").encode())
