"""JSON that would become many times as much memory is refused before anything is made of it."""

from __future__ import annotations

import pytest

from kbr.wire import load_json

_LARGE = 200_000


@pytest.mark.parametrize("item", [b"[],", b'{"a":1},', b"[[]],"])
def test_dense_json_is_refused_when_it_is_large(item: bytes) -> None:
    assert len(load_json(b"[" + item * 1000 + b"0]")) == 1001
    with pytest.raises(ValueError, match="more values in"):
        load_json(b"[" + item * _LARGE + b"0]")


def test_what_a_document_has_is_read_whatever_its_size() -> None:
    assert load_json(b"[" + b"1234567," * _LARGE + b"0]")[-1] == 0
    assert len(load_json(b'{"a":[' + b'["orders",1,12345678],' * 50_000 + b"0]}")["a"]) == 50_001


def test_a_document_says_how_dense_it_may_be() -> None:
    data = b"[" + b'{"key":"value","n":1},' * 50_000 + b"0]"
    assert len(load_json(data)) == 50_001
    with pytest.raises(ValueError, match="more values in"):
        load_json(data, bytes_per_object=40)
