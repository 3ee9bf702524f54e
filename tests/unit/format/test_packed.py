"""The bounded msgpack reader: what msgpack writes it reads, and it makes nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from kbr.format.packed import PackedError, PackedReader

INTEGERS = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1]
INTEGERS += [-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)]
TEXTS = ["", "a", "ä" * 20, "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 65_536]
BINARIES = [b"", b"\0", b"x" * 255, b"x" * 256, b"x" * 65_536]


@pytest.mark.parametrize("value", INTEGERS)
def test_every_integer_format_is_read(value: int) -> None:
    assert PackedReader(msgpack.packb(value)).integer() == value


def test_texts_and_binaries_of_every_format_are_read() -> None:
    for text in TEXTS:
        assert PackedReader(msgpack.packb(text)).text() == text
    for binary in BINARIES:
        assert PackedReader(msgpack.packb(binary)).binary() == binary


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_arrays_of_integers_of_every_format_are_read(count: int) -> None:
    values = [i * 7 for i in range(count)]
    reader = PackedReader(msgpack.packb(values))
    assert reader.integers(100_000) == values
    assert reader.remaining == 0


@pytest.mark.parametrize("count", [0, 15, 16, 65_536])
def test_map_sizes_of_every_format_are_read(count: int) -> None:
    assert PackedReader(msgpack.packb(dict.fromkeys(range(count), 0))).map_size() == count


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        -(2**40),
        "x" * 300,
        b"x" * 70_000,
        [1, [2, [3, {}]], {"a": [None]}],
        {"a": {"b": {"c": [1, 2, 3] * 100}}},
        msgpack.ExtType(5, b"1234"),
        msgpack.ExtType(5, b"12345"),
        msgpack.ExtType(5, b"1" * 300),
        msgpack.ExtType(5, b"1" * 70_000),
        *INTEGERS,
    ],
)
def test_anything_is_passed_over_whole(value: Any) -> None:
    reader = PackedReader(msgpack.packb(value) + msgpack.packb("next"))
    reader.skip()
    assert reader.text() == "next"


def test_single_precision_floats_are_passed_over() -> None:
    reader = PackedReader(msgpack.packb(1.5, use_single_float=True))
    reader.skip()
    assert reader.remaining == 0


def integers(reader: PackedReader) -> list[int]:
    return reader.integers(2**32)


def test_arrays_longer_than_allowed_are_an_error() -> None:
    assert PackedReader(msgpack.packb([1, 2, 3])).integers(3) == [1, 2, 3]
    with pytest.raises(PackedError, match="3 integers"):
        PackedReader(msgpack.packb([1, 2, 3])).integers(2)


READS: list[Callable[[PackedReader], object]] = [
    PackedReader.integer,
    integers,
    PackedReader.text,
    PackedReader.binary,
    PackedReader.map_size,
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xc0", b"\xc3", b"\xca\0\0\0\0", b"\xd4\0\0"])
def test_another_item_than_asked_for_is_an_error_at_its_position(
    read: Callable[[PackedReader], object], data: bytes
) -> None:
    reader = PackedReader(b"\x05" + data)
    reader.integer()
    with pytest.raises(PackedError) as caught:
        read(reader)
    assert caught.value.position == 1


@pytest.mark.parametrize("value", [*INTEGERS, *TEXTS, *BINARIES, [1] * 300, {"a": [1, "b"]}])
def test_every_truncation_is_an_error(value: Any) -> None:
    data = msgpack.packb(value)
    for length in {*range(min(len(data), 64)), len(data) - 1}:
        with pytest.raises(PackedError):
            PackedReader(data[:length]).skip()


def test_what_no_version_of_msgpack_has_is_not_passed_over() -> None:
    with pytest.raises(PackedError, match="no msgpack"):
        PackedReader(b"\xc1").skip()


def test_integers_beyond_int64_are_an_error() -> None:
    with pytest.raises(PackedError, match="int64"):
        PackedReader(msgpack.packb(2**63)).integer()


def test_texts_that_are_not_utf_8_are_an_error() -> None:
    with pytest.raises(PackedError, match="UTF-8"):
        PackedReader(b"\xa1\xff").text()
    with pytest.raises(PackedError, match="UTF-8"):
        PackedReader(b"\xa3\xed\xa0\x80").text()


@pytest.mark.parametrize("data", [b"\xdd\xff\xff\xff\xff\0", b"\xdf\xff\xff\xff\xff\0"])
def test_lengths_are_not_believed(data: bytes) -> None:
    tracemalloc.start()
    try:
        for read in (integers, PackedReader.map_size, PackedReader.skip):
            with pytest.raises(PackedError):
                read(PackedReader(data))
        for kind in (b"\xdb", b"\xc6", b"\xc9"):
            with pytest.raises(PackedError):
                PackedReader(kind + b"\xff\xff\xff\xff\0").skip()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_any_number_of_levels_is_passed_over_without_recursion_or_memory() -> None:
    data = b"\x91" * 300_000 + b"\xc0"
    tracemalloc.start()
    try:
        reader = PackedReader(data)
        reader.skip()
        assert reader.remaining == 0
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
