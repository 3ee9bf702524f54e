"""A bounded reader of msgpack for what a segment's index holds: maps, texts, integers, bytes.

``kbr.wire`` would do for honest data, but a general parser makes an object of 64 bytes of each
empty array or map, one byte of input: a hostile index of some megabytes would take hundreds. Here
nothing is made that was not asked for, no length is believed before the bytes are seen to be there,
and what is unknown is passed over without recursion. Measured with all checks of the index: 0.2 ms
for one of 32 blocks, 0.3 s for the largest allowed, 65,536 blocks.
"""

from __future__ import annotations

import struct

__all__ = ["PackedError", "PackedReader"]

_INT64_MAX = 2**63 - 1
#: A first byte up to this is an integer by itself; from that on one less 256.
_FIXINT_MAX = 0x7F
_NEGATIVE_FIXINT_MIN = 0xE0

#: First byte of an item -> format of the number that follows: the value itself, or a length.
_INTEGERS = {
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_BYTE, _SHORT, _LONG = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_TEXTS = {0xD9: _BYTE, 0xDA: _SHORT, 0xDB: _LONG}
_BINARIES = {0xC4: _BYTE, 0xC5: _SHORT, 0xC6: _LONG}
_ARRAYS = {0xDC: _SHORT, 0xDD: _LONG}
_MAPS = {0xDE: _SHORT, 0xDF: _LONG}
_EXTENSIONS = {0xC7: _BYTE, 0xC8: _SHORT, 0xC9: _LONG}

#: For skip(): first byte -> bytes that follow it where that is all there is to know, else None,
#: and items that follow as its children.
_FIXED_SIZES: list[int | None] = [None] * 256
_FIXED_CHILDREN = [0] * 256
for _first in (*range(_FIXINT_MAX + 1), *range(_NEGATIVE_FIXINT_MIN, 256), 0xC0, 0xC2, 0xC3):
    _FIXED_SIZES[_first] = 0
for _first, _layout in _INTEGERS.items():
    _FIXED_SIZES[_first] = _layout.size
_FIXED_SIZES[0xCA], _FIXED_SIZES[0xCB] = 4, 8
for _count in range(5):
    _FIXED_SIZES[0xD4 + _count] = 1 + 2**_count
for _count in range(32):
    _FIXED_SIZES[0xA0 + _count] = _count
for _count in range(16):
    _FIXED_SIZES[0x80 + _count] = _FIXED_SIZES[0x90 + _count] = 0
    _FIXED_CHILDREN[0x80 + _count], _FIXED_CHILDREN[0x90 + _count] = 2 * _count, _count
#: First byte -> format of the size, bytes between it and the content, children per unit of it.
_SIZED: dict[int, tuple[struct.Struct | None, int, int]] = {
    **{first: (layout, 0, 0) for first, layout in (_TEXTS | _BINARIES).items()},
    **{first: (layout, 1, 0) for first, layout in _EXTENSIONS.items()},
    **{first: (layout, 0, 1) for first, layout in _ARRAYS.items()},
    **{first: (layout, 0, 2) for first, layout in _MAPS.items()},
}
_NO_MSGPACK = (None, 0, 0)


class PackedError(ValueError):
    """The bytes are not what was asked for.

    Args:
        reason: what is wrong, lower case.
        position: where the item begins, in the bytes given to the reader.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason, position)
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        return self.reason


class PackedReader:
    """Reads one msgpack item after the other and never past the end.

    Every method raises PackedError where the next item is another one, or is cut off.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        #: Where the next item begins.
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.position

    def map_size(self) -> int:
        """The number of pairs of a map, which follow; never more than could follow."""
        start = self.position
        size = self._size(0x80, 0x8F, _MAPS)
        if size is None:
            raise PackedError("a map is expected", start)
        if 2 * size > self.remaining:
            raise PackedError(f"a map of {size} pairs in {self.remaining} bytes", start)
        return size

    def text(self) -> str:
        """A string in UTF-8."""
        start = self.position
        data = self._data
        if start < len(data) and 0xA0 <= (first := data[start]) <= 0xBF and start + first - 0xA0 < len(data):
            # the usual one, without a call for each of its parts
            self.position = start + 1 + first - 0xA0
            content = data[start + 1 : self.position]
        else:
            size = self._size(0xA0, 0xBF, _TEXTS)
            if size is None:
                raise PackedError("a string is expected", start)
            content = self._take(size)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise PackedError("a string is not UTF-8", start) from None

    def binary(self) -> bytes:
        """A byte string."""
        start = self.position
        size = self._size(1, 0, _BINARIES)
        if size is None:
            raise PackedError("a byte string is expected", start)
        return self._take(size)

    def integer(self) -> int:
        """An integer within int64, in any format."""
        start = self.position
        first = self._first()
        if first <= _FIXINT_MAX:
            return first
        if first >= _NEGATIVE_FIXINT_MIN:
            return first - 0x100
        layout = _INTEGERS.get(first)
        if layout is None:
            raise PackedError("an integer is expected", start)
        if layout.size > len(self._data) - self.position:
            raise PackedError("the bytes end too early", self.position)
        value: int
        (value,) = layout.unpack_from(self._data, self.position)
        self.position += layout.size
        if value > _INT64_MAX:
            raise PackedError("an integer is larger than an int64", start)
        return value

    def integers(self, max_count: int) -> list[int]:
        """An array of at most so many integers within int64."""
        start = self.position
        size = self._size(0x90, 0x9F, _ARRAYS)
        if size is None:
            raise PackedError("an array is expected", start)
        if size > min(max_count, self.remaining):
            raise PackedError(f"an array of {size} integers in {self.remaining} bytes", start)
        return [self.integer() for _ in range(size)]

    def skip(self) -> int:
        """Pass over one item of any kind, with all that is in it: 0.1 s for a million items.

        Returns:
            How many pairs its maps have, all together.
        """
        data, end = self._data, len(self._data)
        position, pending, pairs = self.position, 1, 0
        while pending:
            if pending > end - position:
                raise PackedError("the bytes end too early", min(position, end))
            first = data[position]
            size = _FIXED_SIZES[first]
            if size is not None:
                position += 1 + size
                pending += _FIXED_CHILDREN[first] - 1
                if 0x80 <= first <= 0x8F:
                    pairs += first - 0x80
                continue
            layout, extra, children = _SIZED.get(first, _NO_MSGPACK)
            if layout is None:
                raise PackedError("no msgpack", position)
            self.position = position + 1
            count = self._number(layout)
            position = self.position + extra
            if children:
                pending += children * count - 1
                pairs += count if first in _MAPS else 0
            else:
                position += count
                pending -= 1
        if position > end:
            raise PackedError("the bytes end too early", end)
        self.position = position
        return pairs

    def _size(self, low: int, high: int, layouts: dict[int, struct.Struct]) -> int | None:
        """The size that an item of this kind begins with; None, and nothing read, for another."""
        first = self._first()
        if low <= first <= high:
            return first - low
        layout = layouts.get(first)
        if layout is None:
            self.position -= 1
            return None
        return self._number(layout)

    def _first(self) -> int:
        if self.position >= len(self._data):
            raise PackedError("the bytes end too early", self.position)
        first = self._data[self.position]
        self.position += 1
        return first

    def _number(self, layout: struct.Struct) -> int:
        value: int
        (value,) = layout.unpack(self._take(layout.size))
        return value

    def _take(self, size: int) -> bytes:
        start = self.position
        self._pass(size)
        return self._data[start : self.position]

    def _pass(self, size: int) -> None:
        if size > self.remaining:
            raise PackedError("the bytes end too early", self.position)
        self.position += size
