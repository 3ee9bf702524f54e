"""Whatever stands in a client.properties: keys, or mistakes with their lines, and no secret in either; never a traceback."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbr.config.jaas import parse_jaas
from kbr.config.java_client import translate_client_properties
from kbr.config.java_names import DIRECT, JAVA_ONLY, NUMBERS

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
