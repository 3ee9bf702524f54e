"""Writes the golden segments of format version 1: only those that are not there, never over one that is.

    python tests/golden/make_golden.py

What is in the repository was written by the release that introduced it and stays as it is for ever: a file that
can't be read any more is a broken format, not an old file. A new kind of segment gets a new name.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kbr.format.compression import BlockCompressor
from kbr.format.segment import SegmentAssembler, SegmentIdentity
from kbr.model import Compression
from kbr_codec import Record, encode_block, scan_block

FOLDER = Path(__file__).parent / "v1"
FILES = {Compression.ZSTD: "zstd.zst", Compression.LZ4: "lz4.lz4", Compression.NONE: "none.mpk"}
FOOTER = struct.Struct("<IIQ8s")
BLOCKS = [
    [
        Record(40, 1_700_000_000_000, 1, b"key", b"value", ()),
        Record(41, 1_700_000_000_001, 1, None, b"no key", ((b"trace", b"\x00\xff"), (b"trace", None), (b"", b""))),
        Record(43, 1_699_999_999_000, 2, b"", None, ((b"\xff\xfe not UTF-8", b"x"),)),
        Record(44, -1, 0, b"key", b"", ()),
    ],
    [
        Record(2**40, 2**63 - 1, 1, b"\x00" * 300, b"v" * 3000, ()),
        Record(2**40 + 70_000, -(2**63), 1, None, None, ((b"last", b"y" * 70),)),
    ],
]
NEXT_OFFSET = 2**41


def segment(compression: Compression) -> tuple[bytes, int]:
    """A whole segment, and the position of its index frame."""
    identity = SegmentIdentity(
        backup_id="golden",
        topic="golden.topic_1",
        topic_id="c9pYvQ2vTgGzqE0zv1m7Bw",
        partition=3,
        sequence=40,
        compression=compression,
        writer="golden-writer",
        created_at_ms=1_700_000_100_000,
    )
    assembler = SegmentAssembler(identity)
    compressor = BlockCompressor(compression)
    frames = []
    for records in BLOCKS:
        raw = encode_block(records)
        frames.append(compressor.compress(raw))
        assembler.add(frames[-1], len(raw), scan_block(raw))
    body = b"".join(frames)
    return body + assembler.finish(NEXT_OFFSET), len(body)


def corrupt_frame() -> bytes:
    """One bit of the second block is another."""
    data, position = segment(Compression.ZSTD)
    changed = bytearray(data)
    changed[position - 20] ^= 0x10
    return bytes(changed)


def corrupt_index() -> bytes:
    """One bit of the index is another."""
    data, position = segment(Compression.ZSTD)
    changed = bytearray(data)
    changed[position + 60] ^= 0x10
    return bytes(changed)


def future_index() -> bytes:
    """An index of version 2 that is whole otherwise."""
    data, position = segment(Compression.ZSTD)
    size, _crc, _position, signature = FOOTER.unpack(data[-FOOTER.size :])
    packed = data[position + 8 : position + 8 + size].replace(b"\xa7version\x01", b"\xa7version\x02", 1)
    footer = FOOTER.pack(size, zlib.crc32(packed), position, signature)
    return data[: position + 8] + packed + footer


def future_signature() -> bytes:
    """A segment whose last bytes say another version."""
    data, _position = segment(Compression.ZSTD)
    return data[:-1] + b"2"


def records_json() -> bytes:
    """The records of all whole segments, bytes in hex."""

    def hexed(data: bytes | None) -> str | None:
        return None if data is None else data.hex()

    rows = [
        {
            "offset": record.offset,
            "timestamp": record.timestamp,
            "timestamp_type": record.timestamp_type,
            "key": hexed(record.key),
            "value": hexed(record.value),
            "headers": [[hexed(name), hexed(value)] for name, value in record.headers],
        }
        for records in BLOCKS
        for record in records
    ]
    return (json.dumps(rows, indent=1) + "\n").encode()


def main() -> int:
    """Add what is missing."""
    FOLDER.mkdir(exist_ok=True)
    makers = {file: lambda kind=kind: segment(kind)[0] for kind, file in FILES.items()}
    makers |= {
        "corrupt-frame.zst": corrupt_frame,
        "corrupt-index.zst": corrupt_index,
        "future-index.zst": future_index,
        "future-signature.zst": future_signature,
        "records.json": records_json,
    }
    for name, make in makers.items():
        path = FOLDER / name
        try:
            with path.open("xb") as file:
                file.write(make())
        except FileExistsError:
            print(f"{path.name}: is there, left as it is")
        else:
            print(f"{path.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
