"""What is wrong with bytes that should be a block."""

from __future__ import annotations

__all__ = ["CodecError", "Corrupt", "Truncated"]


class CodecError(ValueError):
    """A block can't be decoded.

    Args:
        reason: what is wrong, lower case.
        position: byte position in the block where it was seen.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason, position)
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        return f"{self.reason} at byte {self.position} of the block"


class Truncated(CodecError):
    """The data ends before the block does."""


class Corrupt(CodecError):
    """The data is no block of this version."""
