"""Messages as bytes on a stream: an eight-byte length, then the message. Pure; knows no pipe and no pickle.

Our own framing rather than `multiprocessing.connection.Connection`'s, because that one can only be read by
blocking until a whole message is there: a worker that is frozen in the middle of one would freeze its supervisor.
"""

from __future__ import annotations

import struct

__all__ = ["MAX_FRAME_BYTES", "FrameReader", "frame"]

_LENGTH = struct.Struct("!Q")
#: Control messages are small, data never travels here; beyond this a stream is out of step, not large.
MAX_FRAME_BYTES = 1 << 30


def frame(message: bytes) -> bytes:
    """``message`` as it stands on the stream."""
    return _LENGTH.pack(len(message)) + message


class FrameReader:
    """Puts messages together from whatever pieces a stream gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now, in order.

        Raises:
            ValueError: a length that no message has.
        """
        self._buffer += data
        found: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a message of {length} bytes")
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            found.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return found
