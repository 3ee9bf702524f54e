"""What kbr's Parquet files share: how bytes reach pyarrow and leave it. Knows no store, and nothing of what is in a file."""

from __future__ import annotations

import io
import zlib
from array import array
from collections.abc import Callable
from typing import Any

import pyarrow as pa

__all__ = ["PieceSink", "PieceWindow", "int_column", "int_view", "whole_column"]


class PieceSink(io.RawIOBase):
    """What pyarrow takes for a file that is written from its beginning to its end."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write
        self._position = 0
        #: Of what was written since it was set to 0.
        self.crc32 = 0

    def discard(self) -> None:
        """Pass nothing on from here."""
        self._write = len

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._write(bytes(data))
        self.crc32 = zlib.crc32(data, self.crc32)
        self._position += len(data)
        return len(data)


class PieceWindow(io.RawIOBase):
    """What pyarrow takes for a file, and reads only where it was filled before: it never waits for a store."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._size = size_bytes
        self._start = 0
        self._data = b""
        self._position = 0

    def fill(self, start: int, data: bytes) -> None:
        """Have these bytes, and no others."""
        self._start, self._data = start, data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        begin = self._position - self._start
        end = len(self._data) if size < 0 else begin + size
        if not 0 <= begin <= end <= len(self._data):
            raise OSError(f"{size} bytes at {self._position} are not where the footer says that something is")
        self._position += end - begin
        return self._data[begin:end]


def int_column(values: array[int]) -> Any:
    """An array's own memory as a column of int64 or int32, without a null."""
    kind = pa.int64() if values.typecode == "q" else pa.int32()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def whole_column(column: Any) -> Any:
    """A column in one piece."""
    chunks = column.combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def int_view(values: Any) -> memoryview[int]:
    """The integers of a column without nulls, where they are."""
    data = memoryview(values.buffers()[1]).cast("B")
    numbers = data.cast("q") if values.type.bit_width == 64 else data.cast("i")
    return numbers[values.offset : values.offset + len(values)]
