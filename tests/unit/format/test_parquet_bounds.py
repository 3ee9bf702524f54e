"""A Parquet footer is looked at before Arrow makes room for what it claims."""

from __future__ import annotations

import io
import struct
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kbr.format.parquet_bounds import BadFooter, Footer
from tests.support.hostile import thrift_list_bomb, varint

ROWS = 5


def written(**options: Any) -> tuple[bytes, int, int]:
    """A file of one row group of two columns; where that begins and ends."""
    out = io.BytesIO()
    table = pa.table({"a": pa.array(range(ROWS), pa.int64()), "b": pa.array(["x"] * ROWS).dictionary_encode()})
    pq.write_table(table, out, version="2.6", **{"compression": "none", "use_dictionary": ["b"], **options})
    data = out.getvalue()
    return data, 4, len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def of_footer(footer: bytes) -> bytes:
    return footer + struct.pack("<I", len(footer)) + b"PAR1"


def test_a_good_row_group_passes() -> None:
    data, start, end = written()
    Footer(data).check_row_group(0, rows=ROWS, start=start, end=end)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rows": ROWS + 1}, "rows"), ({"start": 60}, "a column at byte"), ({"end": 60}, "a column at byte"), ({"number": 1}, "1 row groups")],
)
def test_a_row_group_that_is_not_as_told_is_refused(change: dict[str, int], words: str) -> None:
    data, start, end = written()
    facts = {"number": 0, "rows": ROWS, "start": start, "end": end, **change}
    with pytest.raises(BadFooter, match=words):
        Footer(data).check_row_group(facts.pop("number"), **facts)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"compression": "gzip"}, {"column_encoding": {"a": "BYTE_STREAM_SPLIT"}}])
def test_pages_that_may_grow_are_refused(options: dict[str, Any]) -> None:
    data, start, end = written(**options)
    with pytest.raises(BadFooter, match="compressed, or in an encoding"):
        Footer(data).check_row_group(0, rows=ROWS, start=start, end=end)


@pytest.mark.parametrize("field", [2, 4, 5, 7])
@pytest.mark.parametrize("count", [1000, 16_000_000, 2**31 - 1])
def test_a_list_that_claims_more_than_there_is_is_refused(field: int, count: int) -> None:
    with pytest.raises(BadFooter, match=f"a list of {count} entries"):
        Footer(thrift_list_bomb(field, count))


def test_many_small_entries_that_would_take_a_thousand_times_as_much_are_refused() -> None:
    """Each is there, in three bytes; Arrow would make a kilobyte of each."""
    column = b"\x26\x00\x00"
    columns = b"\x19\xfc" + varint(200_000) + column * 200_000 + b"\x00"
    with pytest.raises(BadFooter, match="a list of 200000 entries"):
        Footer(of_footer(b"\x15\x04\x39\x1c" + columns + b"\x00"))


@pytest.mark.parametrize("kind", [b"\xf5", b"\xf8", b"\xf1"])
def test_a_list_that_lies_about_what_it_has_is_refused(kind: bytes) -> None:
    """Arrow believes the number, and makes as many structs, whatever type the list says."""
    columns = b"\x19" + kind + varint(200_000) + b"\x00" * 200_000 + b"\x00"
    with pytest.raises(BadFooter, match="200000 entries that are no structs"):
        Footer(of_footer(b"\x15\x04\x39\x1c" + columns + b"\x00" + b"\x00" * 100_000))


@pytest.mark.parametrize(
    ("footer", "words"),
    [
        # field 65540, which 16 bits take for 4: the row groups
        (b"\x15\x04" + b"\x09" + varint(2 * 65_540) + b"\x0c\x00", "take for another"),
        (b"\x15\x04\x10\x00", "take for another"),
        (b"\x15", "ends too early"),
        (b"\x1c" * 1000 + b"\0" * 1001, "nested too deep"),
        (b"\x18\xff\xff\xff\xff\x07", "ends too early"),
        (b"\x15" + b"\xff" * 12 + b"\x00", "does not end|too early"),
        (b"\x1b\x00", "type 11"),
        (b"\x49\x0c\x09\x08\x0c\x00", "two"),
    ],
)
def test_what_is_no_footer_is_refused(footer: bytes, words: str) -> None:
    with pytest.raises(BadFooter, match=words):
        Footer(of_footer(footer))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\x00" * 20, b"\xff\xff\xff\xffPAR1", b"\0\0\0\0PAR1"])
def test_an_end_that_is_not_parquets_is_refused(data: bytes) -> None:
    with pytest.raises(BadFooter, match="its end"):
        Footer(data)
