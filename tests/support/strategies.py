"""Hypothesis strategies for records and blocks, and a msgpack writer that takes any format for any item."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from kbr_codec import Record

__all__ = ["INT64_MAX", "INT64_MIN", "TIMESTAMPS", "odd_record_lists", "pack_block", "pack_int", "record_columns"]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

INT64 = st.integers(INT64_MIN, INT64_MAX)
TIMESTAMPS = INT64 | st.sampled_from([-1, 0, 1, INT64_MAX, INT64_MIN, 1_714_564_800_000])
NULLABLE = st.none() | st.binary(max_size=20) | st.sampled_from([b"", b"\x00", b"x" * 31, b"x" * 32, b"y" * 255, b"y" * 256])
NAMES = st.binary(max_size=8) | st.sampled_from([b"", b"same", b"\xff\xfe", b"a\x00b", b"\x00", b"\xc3\x28"])
HEADERS = st.lists(st.tuples(NAMES, NULLABLE), max_size=9).map(tuple)
BODIES = st.tuples(TIMESTAMPS, st.sampled_from([0, 1, 2]), NULLABLE, NULLABLE, HEADERS)


@st.composite
def odd_record_lists(draw: st.DrawFn, max_size: int = 12) -> list[Record]:
    """Records whose offsets lie anywhere from 0 to 2**63 - 1, with holes of any size, both ends included."""
    bodies = draw(st.lists(BODIES, min_size=1, max_size=max_size))
    near = st.integers(0, 40)
    anywhere = st.integers(0, INT64_MAX) | near | near.map(lambda step: INT64_MAX - step)
    offsets = draw(st.lists(anywhere, min_size=len(bodies), max_size=len(bodies), unique=True).map(sorted))
    return [Record(offset, *body) for offset, body in zip(offsets, bodies, strict=True)]


# -- a block by hand, from docs/format.md -------------------------------------------------

_INTS = [
    (0xCC, ">B", 0, 2**8 - 1),
    (0xCD, ">H", 0, 2**16 - 1),
    (0xCE, ">I", 0, 2**32 - 1),
    (0xCF, ">Q", 0, 2**64 - 1),
    (0xD0, ">b", -(2**7), 2**7 - 1),
    (0xD1, ">h", -(2**15), 2**15 - 1),
    (0xD2, ">i", -(2**31), 2**31 - 1),
    (0xD3, ">q", INT64_MIN, INT64_MAX),
]


def _wrapped(value: int) -> int:
    return (value - INT64_MIN) % 2**64 + INT64_MIN


def record_columns(records: list[Record]) -> list[tuple[str, Any]]:
    """The ten entries of a block of these records, in order; headers flat."""
    offsets = [record.offset for record in records]
    stamps = [record.timestamp for record in records]
    return [
        ("v", 1),
        ("count", len(records)),
        ("offset", offsets[0]),
        ("offsets", [0, *(b - a for a, b in zip(offsets, offsets[1:], strict=False))]),
        ("timestamp", stamps[0]),
        ("timestamps", [0, *(_wrapped(b - a) for a, b in zip(stamps, stamps[1:], strict=False))]),
        ("timestamp_types", [record.timestamp_type for record in records]),
        ("keys", [record.key for record in records]),
        ("values", [record.value for record in records]),
        ("headers", [[part for pair in record.headers for part in pair] or None for record in records]),
    ]


def pack_int(value: int, choose: Any) -> bytes:
    """An integer in one of the formats that hold it; ``choose(n)`` gives a number below n."""
    formats = [struct.pack(">B" + layout[1:], code, value) for code, layout, low, high in _INTS if low <= value <= high]
    if -32 <= value <= 127:
        formats.append(struct.pack("b", value))
    return formats[choose(len(formats))]


def _pack_sized(size: int, codes: tuple[int, ...], fixed: tuple[int, int] | None, choose: Any) -> bytes:
    layouts = ((">B", 2**8), (">H", 2**16), (">I", 2**32))[-len(codes) :]
    formats = [
        struct.pack(">B" + layout[1:], code, size)
        for code, (layout, limit) in zip(codes, layouts, strict=True)
        if size < limit
    ]
    if fixed is not None and size < fixed[1]:
        formats.append(bytes([fixed[0] | size]))
    return formats[choose(len(formats))]


def pack(value: Any, choose: Any) -> bytes:
    """Any value of a block, each item in a format that ``choose`` picks."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return pack_int(value, choose)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, str):
        data = value.encode()
        return _pack_sized(len(data), (0xD9, 0xDA, 0xDB), (0xA0, 32), choose) + data
    if isinstance(value, bytes):
        return _pack_sized(len(value), (0xC4, 0xC5, 0xC6), None, choose) + value
    return _pack_sized(len(value), (0xDC, 0xDD), (0x90, 16), choose) + b"".join(pack(one, choose) for one in value)


def pack_block(entries: list[tuple[str, Any]], choose: Any, *, count: int | None = None) -> bytes:
    """A map of these entries; ``count`` where its head is to say another number."""
    size = len(entries) if count is None else count
    head = _pack_sized(size, (0xDE, 0xDF), (0x80, 16), choose)
    return head + b"".join(pack(key, choose) + pack(value, choose) for key, value in entries)
