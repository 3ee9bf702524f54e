"""The offset mapping's file: what it holds comes back, and what is damaged or hostile is an error that names it."""

from __future__ import annotations

import hashlib
import json
import threading
import tracemalloc
import zlib
from array import array
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kbr.errors import KbrError, OffsetMapUnreadable, UnsupportedFormat
from kbr.format import offset_map_parser
from kbr.format.offset_map import SCHEMA, OffsetMapHeader, OffsetMapWriter
from kbr.format.offset_map_parser import OffsetMapFile
from kbr.model import TopicPartition

HEADER = OffsetMapHeader(
    kbr_version="1.2", backup_id="nightly", restore_id="0123456789abcdef" * 2, cluster_id="cluster", created_at_ms=77
)
A, B = TopicPartition("a", 0), TopicPartition("b", 3)


def numbers(*values: int) -> bytes:
    return array("q", values).tobytes()


def written(rows_per_group: int = 4) -> bytes:
    """Nine ranges of two partitions in three row groups."""
    data = bytearray()
    writer = OffsetMapWriter(data.extend, HEADER, rows_per_group=rows_per_group)
    end = writer.add(A, B, 100, numbers(0, 10, 12, 20, 30), numbers(5, 1, 3, 2, 1))
    writer.add(A, B, end, numbers(31, 40), numbers(4, 1))
    writer.add(B, A, 7, numbers(2, 2**40, 2**62), numbers(1, 2**40, 5))
    writer.close()
    return bytes(data)


ROWS = [
    ("a", 0, 0, "b", 3, 100, 5),
    ("a", 0, 10, "b", 3, 105, 1),
    ("a", 0, 12, "b", 3, 106, 3),
    ("a", 0, 20, "b", 3, 109, 2),
    ("a", 0, 30, "b", 3, 111, 5),
    ("a", 0, 40, "b", 3, 116, 1),
    ("b", 3, 2, "a", 0, 7, 1),
    ("b", 3, 2**40, "a", 0, 8, 2**40),
    ("b", 3, 2**62, "a", 0, 8 + 2**40, 5),
]


def opened(data: bytes) -> OffsetMapFile:
    def read(start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(data)
        return data[start : start + length]

    return OffsetMapFile(read, len(data), name="nightly/offsets.parquet")


def rows(data: bytes) -> list[tuple[Any, ...]]:
    file = opened(data)
    return [
        (*group.source(row), group.starts[row], *group.target(row), group.target_starts[row], group.counts[row])
        for group in map(file.group, range(len(file.groups)))
        for row in range(len(group))
    ]


def test_what_is_written_is_read() -> None:
    file = opened(written())
    assert file.header == HEADER
    assert (len(file.groups), file.range_count, file.record_count) == (3, len(ROWS), sum(row[-1] for row in ROWS))
    assert rows(written()) == ROWS
    assert rows(written(rows_per_group=1)) == ROWS
    assert rows(written(rows_per_group=1000)) == ROWS


def test_no_thread_but_the_callers_touches_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    read = offset_map_parser.PieceWindow.read

    def noted(window: Any, size: int = -1) -> bytes:
        threads.append(threading.current_thread().name)
        return read(window, size)

    monkeypatch.setattr(offset_map_parser.PieceWindow, "read", noted)
    assert rows(written())
    assert set(threads) == {threading.current_thread().name}


def test_any_parquet_library_reads_it_as_plain_columns() -> None:
    table = pq.read_table(pa.BufferReader(written()))
    assert [(one.name, str(one.type), one.nullable) for one in table.schema] == [
        ("source_topic", "string", False),
        ("source_partition", "int32", False),
        ("source_start", "int64", False),
        ("target_topic", "string", False),
        ("target_partition", "int32", False),
        ("target_start", "int64", False),
        ("count", "int64", False),
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS


def test_an_empty_mapping_is_one() -> None:
    data = bytearray()
    OffsetMapWriter(data.extend, HEADER).close()
    file = opened(bytes(data))
    assert (len(file.groups), file.range_count, file.record_count) == (0, 0, 0)


def test_ranges_that_go_back_are_refused() -> None:
    writer = OffsetMapWriter(lambda _: None, HEADER)
    writer.add(B, A, 0, numbers(5), numbers(5))
    for source, start in ((B, 9), (A, 20)):
        with pytest.raises(ValueError, match="lie behind"):
            writer.add(source, A, 5, numbers(start), numbers(1))


def outcome(data: bytes) -> Any:
    try:
        return rows(data)
    except (OffsetMapUnreadable, UnsupportedFormat) as error:
        assert "nightly/offsets.parquet" in error.message
        assert error.context["object"] == "nightly/offsets.parquet"
        return None


def test_a_flipped_bit_anywhere_is_told_or_changes_nothing() -> None:
    data = written()
    assert outcome(data) == ROWS
    told = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        found = outcome(bytes(changed))
        assert found in (None, ROWS), position
        told += found is None
    # the rest are names and versions that nothing depends on
    assert told > len(data) / 2


def test_a_file_that_is_cut_off_anywhere_is_told() -> None:
    data = written()
    for size in range(len(data)):
        assert outcome(data[:size]) is None


def about_of(data: bytes) -> dict[str, Any]:
    about = json.loads(pq.ParquetFile(pa.BufferReader(data)).metadata.metadata[b"kbr"])
    del about["sha256"]
    return about


def sealed(about: dict[str, Any]) -> bytes:
    """As docs/format.md says it."""
    body = json.dumps(about, separators=(",", ":")).encode()[:-1]
    return body + b',"sha256":"%b"}' % hashlib.sha256(body).hexdigest().encode()


def hostile(
    some: list[tuple[Any, ...]] = ROWS,
    *,
    change: Any = lambda about: about,
    schema: Any = None,
    seal: Any = sealed,
    **options: Any,
) -> bytes:
    """A file by a plain Parquet writer, all of whose checksums fit: one row group, and whatever is to be in it."""
    plain = [pa.field(one.name, pa.string() if "topic" in one.name else one.type, nullable=False) for one in SCHEMA]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*some, strict=True), plain, strict=True)]
    table = pa.Table.from_arrays(columns, schema=pa.schema(plain))
    if schema is not None:
        table = schema(table)
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, table.schema, store_schema=False, **{"compression": "none", **options}) as writer:
        writer.write_table(table)
        size = out.tell()
        writer.add_key_value_metadata({"kbr": "{}"})
    first = bytes(out.getvalue())[4:size]
    line = [4, len(first), zlib.crc32(first), len(some), *some[0][:3], *some[-1][:3], None]
    about = change({**about_of(written()), "ranges": len(some), "groups": [line]})
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, table.schema, store_schema=False, **{"compression": "none", **options}) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"kbr": seal(about)})
    return bytes(out.getvalue())


def with_line(**values: Any) -> Any:
    """Something else in the directory's only line."""
    names = ["position", "bytes", "crc32", "rows", "topic", "partition", "start", "last", "last_partition", "last_start", "target"]

    def change(about: dict[str, Any]) -> dict[str, Any]:
        line = [values.get(name, was) for name, was in zip(names, about["groups"][0], strict=True)]
        return {**about, "groups": [line]}

    return change


def test_a_plain_writers_file_is_read_when_nothing_else_is_in_it() -> None:
    assert rows(hostile()) == ROWS
    assert rows(hostile(change=with_line(target=None))) == ROWS


def row(**values: Any) -> tuple[Any, ...]:
    return tuple(values.get(name, was) for name, was in zip(SCHEMA.names, ROWS[0], strict=True))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: hostile(seal=lambda about: json.dumps({**about, "sha256": "0" * 64}).encode()), "checksum of its directory"),
        (lambda: hostile(change=lambda about: {**about, "records": -1}), "records is no number"),
        (lambda: hostile(change=lambda about: {**about, "ranges": True}), "ranges is no number"),
        (lambda: hostile(change=lambda about: {**about, "backup_id": 7}), "backup_id is no str"),
        (lambda: hostile(change=lambda about: {**about, "groups": []}), "another file's"),
        (lambda: hostile(change=lambda about: {**about, "groups": [[1, 2]]}), "line of row group 0"),
        (lambda: hostile(change=lambda about: {**about, "groups": {}}), "groups is no list"),
        (lambda: hostile(change=lambda about: {**about, "groups": about["groups"] * 2}), "another file's"),
        (lambda: hostile(change=with_line(position=-1)), "line of row group 0"),
        (lambda: hostile(change=with_line(bytes=2**40)), "at byte 4"),
        (lambda: hostile(change=with_line(rows=2**40)), "rows, at byte"),
        (lambda: hostile(change=with_line(crc32=1)), "checksum does not fit"),
        (lambda: hostile(change=with_line(position=5)), "checksum does not fit"),
        (lambda: hostile(change=with_line(topic="../x")), "line of row group 0"),
        (lambda: hostile(change=with_line(start=1)), "directory tells of"),
        (lambda: hostile(change=with_line(last_start=2**62 + 1)), "directory tells of"),
        (lambda: hostile(change=with_line(target=["b", 3])), "directory tells of"),
        (lambda: hostile(schema=lambda table: table.drop_columns(["count"])), "other columns"),
        (lambda: hostile(schema=lambda table: table.cast(pa.schema([f.with_nullable(True) for f in table.schema]))), "columns"),
        (lambda: hostile([row(count=0)]), "no record"),
        (lambda: hostile([row(count=11), ROWS[1]]), "overlap"),
        (lambda: hostile([row(count=2**63 - 101), row(source_start=2**62)]), "overlap"),
        (lambda: hostile([row(source_start=2, count=2**63 - 1)]), "overflow"),
        (lambda: hostile([row(target_start=2**63 - 1)]), "overflow"),
        (lambda: hostile([row(target_start=-1)]), "target_start below 0"),
        (lambda: hostile([row(target_partition=-1)]), "target_partition below 0"),
        (lambda: hostile([ROWS[0], row(source_start=-5), ROWS[1]]), "source_start below 0"),
        (lambda: hostile([ROWS[0], row(source_partition=-5), ROWS[1]]), "source_partition below 0"),
        (lambda: hostile([ROWS[1], ROWS[0]]), "out of order"),
        (lambda: hostile([ROWS[6], ROWS[0]]), "out of order"),
        (lambda: hostile([row(source_partition=1), ROWS[0]]), "out of order"),
        (lambda: hostile([ROWS[0], row(source_topic="a/../etc"), ROWS[8]]), "can't be a topic"),
        (lambda: hostile([row(target_topic="=1+1")]), "can't be a topic"),
    ],
)
def test_what_makes_no_sense_is_told(data: Any, says: str) -> None:
    with pytest.raises(OffsetMapUnreadable, match=says) as caught:
        rows(data())
    assert caught.value.exit_code == 4
    assert "delete it" in caught.value.hint


def test_something_else_is_not_taken_for_a_mapping() -> None:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), out)
    with pytest.raises(UnsupportedFormat, match="no offset mapping of kbr"):
        opened(out.getvalue().to_pybytes())
    with pytest.raises(UnsupportedFormat, match="version 2"):
        opened(hostile(change=lambda about: {**about, "format_version": 2}))
    with pytest.raises(OffsetMapUnreadable, match="no Parquet file"):
        opened(b"{}" * 50)


def test_a_footer_that_claims_gigabytes_is_not_read() -> None:
    data = written()
    asked: list[int] = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        return (data[:-8] + b"\xff\xff\xff\x7fPAR1").rjust(length)[-length:]

    with pytest.raises(OffsetMapUnreadable, match="makes no sense"):
        OffsetMapFile(read, 2**40, name="m")
    assert sum(asked) <= 65_536


def test_row_groups_that_are_too_large_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offset_map_parser, "MAX_ROWS_PER_GROUP", 3)
    with pytest.raises(OffsetMapUnreadable, match="has 4 rows"):
        opened(written())
    monkeypatch.undo()
    monkeypatch.setattr(offset_map_parser, "MAX_GROUP_BYTES", 100)
    with pytest.raises(OffsetMapUnreadable, match="rows, at byte 4"):
        opened(written())


def test_an_error_of_the_store_stays_what_it_is() -> None:
    data = written()
    file = opened(data)

    def fail(_start: int, _length: int) -> bytes:
        raise KbrError("the store is away")

    file._read = fail
    with pytest.raises(KbrError, match="the store is away"):
        file.group(0)


def test_writing_holds_a_row_group_and_no_more() -> None:
    """Three million ranges: as many again would take 72 MB."""
    block_starts, block_counts = array("q", range(0, 200_000, 2)), array("q", [1]) * 100_000
    written_bytes = 0

    def count(data: bytes) -> None:
        nonlocal written_bytes
        written_bytes += len(data)

    tracemalloc.start()
    usual, pool = pa.default_memory_pool(), pa.system_memory_pool()  # one whose peak is no other test's
    pa.set_memory_pool(pool)
    try:
        writer = OffsetMapWriter(count, HEADER)
        end = 0
        for _ in range(30):
            end = writer.add(A, B, end, block_starts.tobytes(), block_counts.tobytes())
            block_starts = array("q", [start + 200_000 for start in block_starts])
        writer.close()
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert 0 < pool.max_memory() < 24_000_000
    assert (writer.range_count, writer.record_count) == (3_000_000, 3_000_000)
    # ranges that follow a pattern take next to nothing
    assert written_bytes < 3_000_000
