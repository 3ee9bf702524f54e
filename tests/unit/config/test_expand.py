"""References in a file's texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.config.expand import MAX_FILE_BYTES, expand

ENVIRON = {"USER": "kbr", "EMPTY": "", "TRICKY": "${USER} $$ ${file:/etc/passwd}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${USER}", "kbr"),
        ("a-${USER}-${USER}", "a-kbr-kbr"),
        ("${NOT_SET:-x y}", "x y"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("${NOT_SET:-}", ""),
        ("${USER:-x}", "kbr"),
        ("${NOT_SET:-a:-b}", "a:-b"),
        ("$$", "$"),
        ("$${USER}", "${USER}"),
        ("$$$${USER}", "$${USER}"),
        ("$USER costs 5$", "$USER costs 5$"),
    ],
)
def test_references_are_replaced(text: str, expected: str) -> None:
    assert expand(text, ENVIRON) == expected


def test_what_comes_out_is_not_expanded_again() -> None:
    assert expand("${TRICKY}", ENVIRON) == ENVIRON["TRICKY"]


def test_an_unset_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="environment variable NOT_SET is not set"):
        expand("a ${NOT_SET}", ENVIRON)


@pytest.mark.parametrize("text", ["${", "${USER", "${A:-${USER}}", "${}", "${a b}", "${USER-x}", "${USER:?x}", "${9}"])
def test_a_reference_of_another_shape_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="reference|'}'"):
        expand(text, ENVIRON)


def test_a_file_is_read_without_the_newline_at_its_end(tmp_path: Path) -> None:
    for content, expected in (
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        (" a\n\n", " a\n"),
        ("${USER}", "${USER}"),
    ):
        path = tmp_path / "secret"
        path.write_bytes(content.encode())
        assert expand(f"${{file:{path}}}", ENVIRON) == expected


def test_a_file_that_can_not_be_used_is_an_error_without_its_content(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        expand(f"${{file:{tmp_path}/missing}}", ENVIRON)
    with pytest.raises(ValueError, match="names no file"):
        expand("${file:}", ENVIRON)
    with pytest.raises(ValueError, match="not a usable path"):
        expand("${file:a\x00b}", ENVIRON)
    big = tmp_path / "big"
    big.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ValueError, match="larger than"):
        expand(f"${{file:{big}}}", ENVIRON)
    binary = tmp_path / "binary"
    binary.write_bytes(b"s\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        expand(f"${{file:{binary}}}", ENVIRON)


@given(st.text(max_size=40))
def test_a_doubled_dollar_gives_any_text_back(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == text
