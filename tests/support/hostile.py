"""Hostile backups, written as an attacker would who can write to the store: every checksum fits. And kbr run within limits."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from kbr.format.compression import BlockCompressor
from kbr.format.documents import dump_manifest
from kbr.format.offset_map import COLUMNS, METADATA_KEY, SCHEMA, TOPIC_COLUMNS
from kbr.format.segment import SegmentAssembler
from kbr.model import Compression, SegmentRef
from kbr_codec import BlockStats, Record, encode_block, scan_block

from .backups import RecordingStore, identity_of, manifest_of, partition_of, store_backup, topic_of
from .cli import kbr_environment

__all__ = [
    "BACKUP_ID",
    "Limited",
    "Lie",
    "edit_document",
    "lz4_frame",
    "lz4_without_size",
    "offset_map_file",
    "one_record",
    "packed_nils",
    "reseal",
    "run_limited",
    "sealed",
    "thrift_list_bomb",
    "varint",
    "with_index_entry",
    "write_backup",
    "write_index_of",
    "write_segment_of",
    "zstd_frame",
]

BACKUP_ID = "nightly"
#: Starts kbr from a process that is small itself: the kernel counts the memory that a process has before exec() as its
#: own (ru_maxrss), which would be the tests'. Writes its exit code and its peak, KiB.
_LAUNCHER = """
import resource, subprocess, sys
facts, limit, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
code = subprocess.call(command)
open(facts, "w").write(f"{code} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
"""
#: Nothing here needs more; a run that goes wrong must not take the machine with it.
_ADDRESS_SPACE_BYTES = 12 * 2**30


@dataclass(frozen=True)
class Limited:
    """A run of kbr that has ended.

    Attributes:
        peak_bytes: the largest resident size of any of its processes.
        timed_out: it was killed at its deadline.
    """

    returncode: int
    stdout: str
    stderr: str
    peak_bytes: int
    timed_out: bool


def run_limited(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, deadline_s: float = 60
) -> Limited:
    """Run ``kbr ARGUMENTS`` to its end or to its deadline; its output goes through files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err, facts = folder / "stdout", folder / "stderr", folder / "facts"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(facts), str(_ADDRESS_SPACE_BYTES), sys.executable, "-m", "kbr", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=kbr_environment(env),
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    returncode, peak_kib = (-signal.SIGKILL, 0) if timed_out else map(int, facts.read_text().split())
    return Limited(
        returncode=returncode,
        stdout=out.read_text(errors="replace"),
        stderr=err.read_text(errors="replace"),
        peak_bytes=peak_kib * 1024,
        timed_out=timed_out,
    )


# -- documents ------------------------------------------------------------------------------


def reseal(body: bytes) -> bytes:
    """The bytes of a JSON object with kbr's seal at their end, whatever else they are."""
    return body[:-1] + b',"sha256":"%b"}' % hashlib.sha256(body[:-1]).hexdigest().encode()


def sealed(document: Mapping[str, Any]) -> bytes:
    """A document as kbr writes it."""
    return reseal(json.dumps(document, separators=(",", ":")).encode())


def edit_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a sealed document, and seal it again."""
    document = json.loads(path.read_bytes())
    del document["sha256"]
    change(document)
    path.write_bytes(sealed(document))


def write_backup(folder: Path) -> Path:
    """The good backup of `store_backup` as files; its folder."""
    store = RecordingStore()
    store_backup(store)
    for key in store.stored_keys():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.data(key))
    return folder / BACKUP_ID


# -- segments -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lie:
    """A frame, and what the index says of it where that is not what is in it."""

    frame: bytes
    raw_bytes: int
    stats: BlockStats | None = None


def write_segment_of(
    folder: Path, lies: Iterable[Lie], compression: Compression = Compression.ZSTD, *, tail: Callable[[bytes], bytes] = bytes
) -> Path:
    """A backup of one segment that consists of these frames, and a manifest that agrees with its index.

    Args:
        tail: changes the segment's index frame.
    """
    identity = identity_of(compression=compression)
    assembler = SegmentAssembler(identity)
    offset = 0
    frames = []
    stats = one_record(offset)
    for lie in lies:
        stats = lie.stats or one_record(offset)
        assembler.add(lie.frame, lie.raw_bytes, stats)
        frames.append(lie.frame)
        offset = stats.last_offset + 1
    index = tail(assembler.finish(offset))
    data = b"".join((*frames, index))
    blocks = assembler.blocks
    reference = SegmentRef(
        key=f"topics/orders/partition=0/segment-{0:020d}{compression.extension}",
        sequence=0,
        next_offset=offset,
        start_offset=blocks[0].first_offset,
        end_offset=blocks[-1].last_offset,
        start_timestamp=blocks[0].min_timestamp,
        end_timestamp=stats.last_timestamp,
        min_timestamp=min(block.min_timestamp for block in blocks),
        max_timestamp=max(block.max_timestamp for block in blocks),
        record_count=assembler.record_count,
        block_count=len(blocks),
        raw_bytes=sum(block.raw_bytes for block in blocks),
        stored_bytes=len(data),
        max_record_bytes=max((lie.stats or one_record(0)).max_record_bytes for lie in lies),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    path = folder / BACKUP_ID / reference.key
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    manifest = manifest_of([topic_of("orders", [partition_of([reference])])])
    (folder / BACKUP_ID / "manifest.json").write_bytes(dump_manifest(manifest))
    return folder / BACKUP_ID


def one_record(offset: int) -> BlockStats:
    """What an index says of a block of one small record."""
    return scan_block(encode_block([Record(offset, 1_700_000_000_000, 1, None, b"v", ())]))


def zstd_frame(content: bytes, *, declared: int | None = None, window_log: int = 0) -> bytes:
    """A zstd frame with a checksum.

    Args:
        declared: the content size in its header; 0 for none. Else what is true.
        window_log: of a header that wants a window of that size.
    """
    if window_log:
        # magic; a header with a window, a checksum and 8 bytes of content size; then one raw block
        head = struct.pack("<IBBQ", 0xFD2FB528, 0b11000100, (window_log - 10) << 3, declared or len(content))
        block = struct.pack("<I", len(content) << 3 | 1)[:3] + content
        return head + block + b"\0\0\0\0"
    size = len(content) if declared is None else declared
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=declared != 0)
    frame = compressor.compress(content)
    if declared:
        frame = frame.replace(struct.pack("<I", len(content)), struct.pack("<I", size & 0xFFFFFFFF), 1)
    return frame


def lz4_frame(content: bytes) -> bytes:
    """An LZ4 frame as kbr writes it."""
    return BlockCompressor(Compression.LZ4).compress(content)


def lz4_without_size(content: bytes) -> bytes:
    """One that does not say its size."""
    frame: bytes = lz4.frame.compress(content, content_checksum=True, store_size=False)
    return frame


def packed_nils(records: int) -> bytes:
    """A block of so many records without anything, 4 bytes each: as dense as it gets."""

    def array(item: bytes, first: bytes = b"") -> bytes:
        return b"\xdd" + struct.pack(">I", records) + (first or item) + item * (records - 1)

    def key(name: str) -> bytes:
        return bytes([0xA0 | len(name)]) + name.encode()

    def number(value: int) -> bytes:
        return b"\xd3" + struct.pack(">q", value)

    return b"".join(
        (
            b"\x8a",
            key("v") + b"\x01",
            key("count") + number(records),
            key("offset") + number(0),
            key("offsets") + array(b"\x01", b"\x00"),
            key("timestamp") + number(1_700_000_000_000),
            key("timestamps") + array(b"\x00"),
            key("timestamp_types") + b"\x01",
            key("keys") + array(b"\xc0"),
            key("values") + array(b"\xc0"),
            key("headers") + b"\xc0",
        )
    )


def with_index_entry(frame: bytes, value: bytes) -> bytes:
    """A segment's index frame with one entry more, ``x``, well framed.

    Args:
        value: msgpack, or not.
    """
    size, _, position, signature = struct.unpack("<IIQ8s", frame[-24:])
    packed = frame[8 : 8 + size]
    assert packed[0] == 0xDE  # a map of more than 15 pairs
    count = int.from_bytes(packed[1:3], "big") + 1
    packed = b"\xde" + struct.pack(">H", count) + packed[3:] + b"\xa1x" + value
    footer = struct.pack("<IIQ8s", len(packed), zlib.crc32(packed), position, signature)
    return struct.pack("<II", 0x184D2A5B, len(packed) + len(footer)) + packed + footer


# -- Parquet --------------------------------------------------------------------------------


def varint(number: int, width: int = 0) -> bytes:
    """A number as Thrift's compact protocol has it; in so many bytes, if that is more than it needs."""
    out = bytearray()
    while number >= 0x80 or len(out) + 1 < width:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def thrift_list_bomb(field: int, count: int) -> bytes:
    """A Parquet file whose footer has nothing but a list of so many structs in a field of FileMetaData."""
    footer = b"\x15\x04" + bytes([(field - 1) << 4 | 9, 0xFC]) + varint(count)
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def offset_map_file(rows: int, *, told: int = 0, compression: str = "none") -> bytes:
    """An offset mapping by a plain Parquet writer, all of whose checksums fit.

    Args:
        told: rows that the directory and the file's own count tell of; 0 is all there are.
    """
    told = told or rows
    numbers = pa.array(range(rows), pa.int64())
    zeros = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))])
    ones = pa.array([1] * rows, pa.int64())
    topics = pa.DictionaryArray.from_arrays(zeros, pa.array(["t"]))
    table = pa.Table.from_arrays([topics, zeros, numbers, topics, zeros, numbers, ones], schema=SCHEMA)
    encodings = {name: "DELTA_BINARY_PACKED" for name in COLUMNS if name not in TOPIC_COLUMNS}

    def write(about: Mapping[str, Any]) -> tuple[bytes, int]:
        out = io.BytesIO()
        writer = pq.ParquetWriter(
            out,
            SCHEMA,
            version="2.6",
            compression=compression,
            use_dictionary=list(TOPIC_COLUMNS),
            column_encoding=encodings,
            store_schema=False,
        )
        writer.write_table(table, row_group_size=rows)
        end = out.tell()
        writer.add_key_value_metadata({METADATA_KEY: sealed(about)})
        writer.close()
        return out.getvalue(), end

    data, end = write({})
    about = {
        "format": "kbr-offset-map",
        "format_version": 1,
        "kbr_version": "1",
        "backup_id": BACKUP_ID,
        "restore_id": "0" * 32,
        "cluster_id": "c",
        "created_at": 5,
        "ranges": told,
        "records": told,
        "groups": [[4, end - 4, zlib.crc32(data[4:end]), told, "t", 0, 0, "t", 0, told - 1, ["t", 0]]],
    }
    data, end = write(about)
    if told == rows:
        return data
    # FileMetaData: num_rows (field 3, i64), then row_groups (field 4, a list)
    is_now = b"\x16" + varint(2 * rows)
    at = data.index(is_now + b"\x19", end)
    return data[:at] + b"\x16" + varint(2 * told, len(is_now) - 1) + data[at + len(is_now) :]


def write_index_of(folder: Path, piece: bytes) -> None:
    """A good backup with a block index of one piece; its head agrees with it."""
    index = write_backup(folder) / "index"
    index.mkdir()
    name = f"blocks-{'0' * 32}.parquet"
    (index / name).write_bytes(piece)
    footer_bytes = int.from_bytes(piece[-8:-4], "little") + 8
    head = {
        "format": "kbr-block-index",
        "format_version": 1,
        "kbr_version": "1",
        "backup_id": BACKUP_ID,
        "updated_at": 1,
        "blocks": 10,
        "segments": 1,
        "pieces": [
            {
                "name": name,
                "run": "0" * 32,
                "level": 0,
                "bytes": len(piece),
                "footer_bytes": footer_bytes,
                "footer_sha256": hashlib.sha256(piece[-footer_bytes:]).hexdigest(),
                "blocks": 10,
                "segments": 1,
                "first": ["orders", 0, 0],
                "last": ["orders", 0, 9],
                "min_timestamp": 0,
                "max_timestamp": 1,
            }
        ],
    }
    (index / "head.json").write_bytes(sealed(head))
