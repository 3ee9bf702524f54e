"""Reads a partition's records of a window: only the pieces that can hold some, and no more than are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kbr.model import Record, TopicPartition
from kbr.reading.archive import Archive, Piece
from kbr.repository.window import Window

__all__ = ["read_window"]


def read_window(
    archive: Archive, key: TopicPartition, window: Window, *, most: int | None = None
) -> Iterator[Sequence[Record]]:
    """The records of a partition that are in a window, in the order of their offsets, a piece's at a time.

    One piece is held at a time, and the bytes of one request. Pieces without such a record give nothing.

    Args:
        most: how many records are wanted at most; None for all. Hardly more than those are fetched.

    Raises:
        IntegrityError: the backup is damaged there.
        StorageError: it can't be read.
    """
    left = most
    for number, segment in enumerate(archive.partition(key).segments):
        if not window.touches(segment):
            continue
        if left is not None and left <= 0:
            return
        opened = archive.open(key, number)
        pieces = [piece for piece in opened.pieces() if window.touches(piece)]
        while pieces:
            count = len(pieces) if left is None else _enough(pieces, window, left)
            some, pieces = pieces[:count], pieces[count:]
            for piece, records in zip(some, opened.read(some), strict=True):
                found = records if window.covers(piece) else window.records(records)
                if left is not None:
                    found = found[:left]
                    left -= len(found)
                if found:
                    yield found
                if left is not None and left <= 0:
                    return


def _enough(pieces: Sequence[Piece], window: Window, records: int) -> int:
    """How many of the first pieces hold so many records, as far as that is known: at least one.

    Of one that the window cuts it is not, so that nothing behind it is fetched before it was looked at.
    """
    known = 0
    for number, piece in enumerate(pieces):
        if not window.covers(piece):
            return number + 1
        known += piece.record_count
        if known >= records:
            return number + 1
    return len(pieces)
