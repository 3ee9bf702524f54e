"""The YAML subset: what is read, what is refused, and that nothing else can happen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.config.document import MAX_BYTES, DocumentError, Mapping, Mark, Scalar, Sequence, parse_document


def _plain(node: object) -> object:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    assert isinstance(node, Mapping)
    return {key: _plain(child) for key, (_, child) in node.entries.items()}


def test_scalars_stay_the_texts_that_they_are() -> None:
    text = b"a: 0123\nb: on\nc: 2024-01-01\nd: 1:30:00\ne: 'x'\nf: \"\"\ng: '~'\nh: 1e3\n"
    assert _plain(parse_document(text)) == {
        "a": "0123",
        "b": "on",
        "c": "2024-01-01",
        "d": "1:30:00",
        "e": "x",
        "f": "",
        "g": "~",
        "h": "1e3",
    }


@pytest.mark.parametrize("null", ["", "~", "null", "Null", "NULL"])
def test_plain_nulls_are_nothing(null: str) -> None:
    assert _plain(parse_document(f"a: {null}\n".encode())) == {"a": None}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "---\n...\n", "\ufeff"])
def test_an_empty_document_is_an_empty_mapping(text: str) -> None:
    assert _plain(parse_document(text.encode())) == {}


def test_a_byte_order_mark_is_no_content() -> None:
    assert _plain(parse_document(b"\xef\xbb\xbfa: b")) == {"a": "b"}


def test_every_key_has_its_position() -> None:
    root = parse_document(b"a:\n  b: 1\n  c: 2\n")
    assert isinstance(root, Mapping)
    inner = root.entries["a"][1]
    assert isinstance(inner, Mapping)
    assert inner.entries["c"][0] == Mark(3, 3)


@pytest.mark.parametrize(
    ("text", "what", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' is given twice, first in line 1", 3, 1),
        ("x:\n  - &one 1\n", "anchors", 2, 5),
        ("x: 1\ny: *one\n", "aliases", 2, 4),
        ("a:\n  <<: {b: 1}\n", "merge keys", 2, 3),
        ("a: !!python/object/apply:os.system ['true']\n", "tags", 1, 4),
        ("a: !!str 5\n", "tags", 1, 4),
        ("? [a, b]\n: 1\n", "a key has to be a text", 1, 3),
        ("? \n: 1\n", "a key has to be a text", 1, 2),
        ("a: 1\n---\nb: 2\n", "a second document", 2, 1),
        ("a: [1\n", "not valid YAML", 2, 1),
        ("a:\n\tb: 1\n", "not valid YAML", 2, 1),
        ("a: 1\nb: \x01\n", "control character", 2, 4),
        ('a: "\\ud800"\n', "half of a surrogate pair", 1, 4),
    ],
)
def test_what_is_not_read_is_refused_with_its_place(text: str, what: str, line: int, column: int) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_document(text.encode())
    assert what in caught.value.what
    assert caught.value.mark == Mark(line, column)


def test_an_escape_beyond_unicode_is_refused() -> None:
    with pytest.raises(DocumentError, match="out of range"):
        parse_document(b'a: "\\UFFFFFFFF"')


def test_text_that_is_not_utf8_is_refused_with_its_place() -> None:
    with pytest.raises(DocumentError, match="not UTF-8") as caught:
        parse_document(b"a: 1\nb: \xff\n")
    assert caught.value.mark == Mark(2, 4)


def test_depth_is_bounded_before_memory_is() -> None:
    with pytest.raises(DocumentError, match="nested deeper than 20 levels"):
        parse_document(b"[" * 500_000)


def test_size_is_bounded() -> None:
    assert _plain(parse_document(b"a: 1\n#".ljust(MAX_BYTES, b"x"))) == {"a": "1"}
    with pytest.raises(DocumentError, match="larger than"):
        parse_document(b"a: 1\n#".ljust(MAX_BYTES + 1, b"x"))


_YAML_PIECES = st.text(
    alphabet=st.sampled_from(list("ab:-?[]{}&*!|>'\"%@`#,\n \t\\xuU0129~<=.\r\x85\u2028é💥")), max_size=80
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        _YAML_PIECES.map(str.encode),
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_are_a_document_or_a_document_error(data: bytes) -> None:
    try:
        node = parse_document(data)
    except DocumentError as error:
        assert error.mark.line >= 1
        assert error.mark.column >= 1
    else:
        _plain(node)
