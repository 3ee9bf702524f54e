"""Decodes frames again before they are stored: what a bug or a flipped bit made of a block must not be the only copy.

Every block, as long as that takes a small share of the CPU time; else as many as that share pays for. Beyond the
frame's own checksum, which is of what the compressor was given, the block that comes out is compared with the one that
went in, and read through by the codec.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NoReturn

from kbr.errors import CorruptSegment, IntegrityError
from kbr.format.blocks import scan_block
from kbr.format.compression import decompress_frame
from kbr.model import Compression
from kbr_codec import BlockStats, RawBlock

__all__ = ["CPU_SHARE", "ExtraVerify"]

#: Of the worker's CPU time. Decoding a block of words takes a sixth of the time that zstd 3 needs to compress it
#: (kbr.format.compression), so there it is about every second block.
CPU_SHARE = 0.05
#: What is compared at once: two of them stay in a core's cache.
_PIECE_BYTES = 64 * 1024


class ExtraVerify:
    """The extra look at one task's frames; used by several threads.

    Args:
        compression: of the frames.
        share: of the CPU time of this process, from now on, that may go into it. A first block is always looked at.
        process_cpu_s: CPU seconds of this process.
        thread_cpu_s: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        compression: Compression,
        *,
        share: float = CPU_SHARE,
        process_cpu_s: Callable[[], float] = time.process_time,
        thread_cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._compression = compression
        self._share = share
        self._process_cpu_s = process_cpu_s
        self._thread_cpu_s = thread_cpu_s
        self._begun_cpu_s = process_cpu_s()
        self._lock = threading.Lock()
        #: Blocks that were decoded again.
        self.block_count = 0
        #: What that took.
        self.cpu_s = 0.0

    def look(self, block: RawBlock, frame: bytes) -> None:
        """Decode a frame again and compare it with its block, if the share of CPU time allows it.

        Raises:
            IntegrityError: the frame does not give the block back, or the block is none.
        """
        with self._lock:
            if self.block_count and self.cpu_s > self._share * (self._process_cpu_s() - self._begun_cpu_s):
                return
            self.block_count += 1
        begun = self._thread_cpu_s()
        try:
            self._compare(block, frame)
        finally:
            spent = self._thread_cpu_s() - begun
            with self._lock:
                self.cpu_s += spent

    def _compare(self, block: RawBlock, frame: bytes) -> None:
        size, stats = len(block), block.stats
        try:
            decoded = decompress_frame(
                frame, self._compression, raw_bytes=size, limit=size, name="the new segment", position=0
            )
            if not _same(decoded, memoryview(block)):
                _refuse(stats, "it reads otherwise than it was compressed")
            if scan_block(decoded, name="the new segment", position=0) != stats:
                _refuse(stats, "its records are not those that were counted")
        except CorruptSegment as error:
            _refuse(stats, str(error), error)


def _same(decoded: bytes, block: memoryview) -> bool:
    """Piece by piece, so that no second copy of a large block is made; as bytes, as views are compared item by item."""
    pieces = range(0, len(block), _PIECE_BYTES)
    return len(decoded) == len(block) and all(
        decoded[at : at + _PIECE_BYTES] == bytes(block[at : at + _PIECE_BYTES]) for at in pieces
    )


def _refuse(stats: BlockStats, why: str, cause: CorruptSegment | None = None) -> NoReturn:
    raise IntegrityError(
        f"the block of offsets {stats.first_offset} to {stats.last_offset} was decoded again before it was stored: {why}",
        hint="the machine's memory may be failing, or it is a bug in kbr; nothing of the block was stored, and it is read again",
        offset=stats.first_offset,
    ) from cause
