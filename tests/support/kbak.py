"""Writes backups as OSO kafka-backup does (KBAK version 1), from the facts about its format alone: knows nothing of kbr's reader.

Records are what went in; what such a backup adds to them (headers with the source's offset and timestamp) is added here,
so that a reader is compared with what was at the source.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lz4.block
import zstandard

EXTENSIONS = {"zstd": ".zst", "lz4": ".lz4", "none": ""}
CODES = {"none": 0, "zstd": 1, "lz4": 2}


class Row(NamedTuple):
    """One record of the source."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()


def nullable(data: bytes | None) -> bytes:
    return struct.pack("<i", -1) if data is None else struct.pack("<i", len(data)) + data


def record_bytes(row: Row, *, added: bool = True, cluster: str | None = None) -> bytes:
    headers = list(row.headers)
    if added:
        headers.append((b"x-original-offset", struct.pack("<q", row.offset)))
        headers.append((b"x-original-timestamp", struct.pack("<q", row.timestamp)))
        if cluster is not None:
            headers.append((b"x-source-cluster", cluster.encode()))
    body = struct.pack("<qq", row.timestamp, row.offset) + nullable(row.key) + nullable(row.value)
    body += struct.pack("<H", len(headers))
    for name, value in headers:
        body += struct.pack("<H", len(name)) + name + nullable(value)
    return struct.pack("<I", len(body)) + body


def compressed(body: bytes, compression: str) -> bytes:
    if compression == "zstd":
        stream = zstandard.ZstdCompressor(level=3, write_content_size=False, write_checksum=False).compressobj()
        return stream.compress(body) + stream.flush()
    if compression == "lz4":
        return struct.pack("<I", len(body)) + lz4.block.compress(body, store_size=False)
    return body


def sealed(head: bytes, body: bytes) -> bytes:
    whole = head + body
    return whole + struct.pack("<I", zlib.crc32(whole)) + b"BKAE"


def header_bytes(count: int, first: int, last: int, compression: str, *, version: int = 1, reserved: int = 0) -> bytes:
    return b"KBAK" + struct.pack("<BBHQqq", version, CODES[compression], reserved, count, first, last)


def segment_bytes(
    rows: Sequence[Row], compression: str = "zstd", *, added: bool = True, cluster: str | None = None
) -> tuple[bytes, int]:
    """A segment, and the size of its body before compression."""
    body = b"".join(record_bytes(row, added=added, cluster=cluster) for row in rows)
    head = header_bytes(len(rows), rows[0].offset, rows[-1].offset, compression)
    return sealed(head, compressed(body, compression)), len(body)


@dataclass
class OsoBackup:
    """A backup being written.

    Attributes:
        put: takes a key and its bytes.
        old_names: segments are numbered, as before version 0.12.
    """

    put: Callable[[str, bytes], Any]
    backup_id: str = "daily"
    compression: str = "zstd"
    added: bool = True
    cluster: str | None = None
    old_names: bool = False
    key_prefix: str = ""
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def topic(self, name: str, partition_count: int | None, **more: Any) -> None:
        self.topics[name] = {"name": name, "original_partition_count": partition_count, "partitions": [], **more}

    def partition(
        self, topic: str, number: int, segments: Iterable[Sequence[Row]], *, gaps: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        entry: dict[str, Any] = {"partition_id": number, "segments": []}
        if gaps:
            entry["gaps"] = list(gaps)
        for sequence, rows in enumerate(segments):
            data, raw = segment_bytes(rows, self.compression, added=self.added, cluster=self.cluster)
            name = f"{sequence:06d}" if self.old_names else f"{rows[0].offset:020d}"
            key = (
                f"{self.backup_id}/topics/{topic}/partition={number}/segment-{name}.bin{EXTENSIONS[self.compression]}"
            )
            self.put(key, data)
            entry["segments"].append(
                {
                    "key": self.key_prefix + key,
                    "start_offset": rows[0].offset,
                    "end_offset": rows[-1].offset,
                    "start_timestamp": rows[0].timestamp,
                    "end_timestamp": rows[-1].timestamp,
                    "record_count": len(rows),
                    "uncompressed_size": raw,
                    "compressed_size": len(data),
                }
            )
        self.topics[topic]["partitions"].append(entry)

    def document(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "created_at": 1_700_000_000_000,
            "source_cluster_id": self.cluster,
            "source_brokers": ["broker-1:9092"],
            "compression": self.compression,
            "topics": list(self.topics.values()),
            **self.more,
        }

    def finish(self) -> None:
        self.put(f"{self.backup_id}/manifest.json", json.dumps(self.document(), indent=2).encode())

    def groups(self, groups: Mapping[str, Mapping[str, Mapping[int, int]]]) -> None:
        document = {
            "snapshot_time": 1_700_000_000_500,
            "groups": [
                {
                    "group_id": group,
                    "offsets": {
                        topic: {str(number): offset for number, offset in partitions.items()}
                        for topic, partitions in topics.items()
                    },
                }
                for group, topics in groups.items()
            ],
        }
        self.put(f"{self.backup_id}/consumer-groups-snapshot.json", json.dumps(document).encode())


def put_files(folder: Path) -> Callable[[str, bytes], None]:
    """Writes objects as files."""

    def put(key: str, data: bytes) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return put


def look(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything at and below a folder: bytes, time of change and mode, the folders' too."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in [folder, *folder.rglob("*")]
    }


def rows_of(
    first: int, count: int, *, timestamp: int = 1_700_000_000_000, step: int = 1, size: int = 20
) -> list[Row]:
    """Records of many kinds: tombstones, null and empty keys, headers, holes between offsets, times that go back."""
    return [
        Row(
            first + i * step,
            timestamp + (i * 37) % 1000,
            None if i % 5 == 4 else b"" if i % 11 == 10 else b"key-%d" % i,
            None if i % 7 == 6 else (b"value %d " % (first + i)) * size,
            ((b"h", b"%d" % i), (b"x-original-offset", b"own")) if i % 3 == 0 else ((b"e", b""),) if i % 3 == 1 else (),
        )
        for i in range(count)
    ]
