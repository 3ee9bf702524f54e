"""Pieces of the block index: whole segments in row groups, in order, and no bytes that end anything but in an error."""

from __future__ import annotations

import hashlib
import random
import zlib
from array import array
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from kbr.errors import KbrError
from kbr.format import block_index_parser
from kbr.format.block_index import NUMBERS, BlockIndexWriter
from kbr.format.block_index_head import Coverage, PieceEntry, piece_name
from kbr.format.block_index_parser import BlockIndexPiece
from kbr.model import TopicPartition

RUN = "0" * 32


def rows(sequence: int, blocks: int, *, mark: int = -1) -> dict[str, array[int]]:
    """A segment's blocks, of ten records each."""
    columns: dict[str, array[int]] = {name: array("q") for name in NUMBERS}
    for n in range(blocks):
        first = sequence + 10 * n
        values = (sequence, mark, 100 * n, 100, 400, 10, first, first + 9, first, first + 50)
        for name, value in zip(NUMBERS, values, strict=True):
            columns[name].append(value)
    return columns


def joined(*some: dict[str, array[int]]) -> dict[str, array[int]]:
    return {name: array("q", [value for one in some for value in one[name]]) for name in NUMBERS}


def new_writer(out: bytearray, rows_per_group: int = 8) -> BlockIndexWriter:
    return BlockIndexWriter(out.extend, backup_id="b", kbr_version="0", rows_per_group=rows_per_group)


def closed(writer: BlockIndexWriter) -> PieceEntry:
    return writer.close(run=RUN, level=0, name=piece_name(RUN))


def opened(data: bytes | bytearray, entry: PieceEntry, backup_id: str = "b") -> BlockIndexPiece:
    return BlockIndexPiece(
        lambda start, length: bytes(data[start : start + length]), entry, backup_id=backup_id, name="piece"
    )


def small_piece() -> tuple[bytearray, PieceEntry]:
    out = bytearray()
    writer = new_writer(out, 40)
    for topic in ("a", "b"):
        for partition in range(2):
            writer.add_rows(TopicPartition(topic, partition), 0, joined(*(rows(70 * n, 7, mark=n + 5) for n in range(5))))
            writer.cover(TopicPartition(topic, partition), Coverage(5, 35))
    return out, closed(writer)


def test_row_groups_have_whole_segments_and_one_that_is_too_large_is_a_group_of_its_own() -> None:
    out = bytearray()
    writer = new_writer(out)
    key = TopicPartition("t", 0)
    sizes = [3, 4, 3, 20, 8, 1, 1, 7, 9]
    sequences = [1000 * number for number in range(len(sizes))]
    writer.add_rows(key, 0, joined(*(rows(*one) for one in zip(sequences, sizes, strict=True))))
    writer.cover(key, Coverage(len(sizes), 0))
    piece = opened(out, closed(writer))
    assert [one.row_count for one in piece.groups] == [7, 3, 20, 8, 2, 7, 9]
    found = []
    for number in range(len(piece.groups)):
        group = piece.group(number)
        for run in group.runs:
            found += [(group.numbers["segment"][part.start], len(part)) for part in group.segments_of(run)]
    assert found == list(zip(sequences, sizes, strict=True))


def test_marks_of_64_bits_come_back_as_they_were() -> None:
    out = bytearray()
    writer = new_writer(out)
    writer.add_rows(TopicPartition("t", 0), 0, rows(0, 2, mark=-(2**63)))
    writer.cover(TopicPartition("t", 0), Coverage(1, 2**63))
    piece = opened(out, closed(writer))
    assert piece.group(0).mark(0) == 2**63
    assert piece.coverage == {TopicPartition("t", 0): Coverage(1, 2**63)}


@pytest.mark.parametrize(
    ("key", "sequence"), [(("t", 1), 0), (("t", 1), 5), (("t", 0), 100), (("s", 9), 100)]
)
def test_segments_that_do_not_lie_behind_those_before_are_refused(key, sequence) -> None:
    writer = new_writer(bytearray())
    writer.add_rows(TopicPartition("t", 1), 0, rows(5, 1))
    with pytest.raises(ValueError, match="does not lie behind"):
        writer.add_rows(TopicPartition(*key), 0, rows(sequence, 1))


def test_a_piece_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        closed(new_writer(bytearray()))


def test_any_parquet_library_reads_a_piece_and_its_statistics_prune(tmp_path) -> None:
    out, _entry = small_piece()
    (tmp_path / "x.parquet").write_bytes(out)
    table = pq.read_table(tmp_path / "x.parquet", filters=[("topic", "==", "b"), ("min_timestamp", ">=", 300)])
    assert set(table["topic"].to_pylist()) == {"b"}
    assert min(table["min_timestamp"].to_pylist()) == 300
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    names = [metadata.schema.column(number).name for number in range(metadata.num_columns)]
    for group in range(metadata.num_row_groups):
        for name in ("topic", "partition", "first_offset", "min_timestamp", "max_timestamp"):
            assert metadata.row_group(group).column(names.index(name)).statistics.has_min_max


def test_a_piece_of_another_backup_or_that_the_head_tells_otherwise_of_is_refused() -> None:
    out, entry = small_piece()
    assert opened(out, entry).coverage[TopicPartition("b", 1)] == Coverage(5, 35)
    with pytest.raises(KbrError, match="backup"):
        opened(out, entry, backup_id="c")
    for wrong in (
        replace(entry, row_count=entry.row_count + 1),
        replace(entry, segment_count=entry.segment_count - 1),
        replace(entry, max_timestamp=entry.max_timestamp + 1),
        replace(entry, last=entry.first),
        replace(entry, footer_bytes=entry.footer_bytes - 1),
        replace(entry, footer_sha256="0" * 64),
        replace(entry, footer_bytes=0),
    ):
        with pytest.raises(KbrError):
            opened(out, wrong)


def test_bytes_that_were_changed_and_sealed_again_are_rows_or_an_error_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What who can write to the store could do: kbr's own checksums fit, and a Parquet library sees it."""
    out, entry = small_piece()
    source = random.Random(11)
    kinds: set[str] = set()

    class _Fits:
        crc32 = staticmethod(lambda _data: expected)

    for _ in range(300):
        data = bytearray(out)
        for _ in range(source.choice((1, 1, 2, 5))):
            data[source.randrange(len(data))] = source.randrange(256)
        sealed = replace(entry, footer_sha256=hashlib.sha256(data[-entry.footer_bytes :]).hexdigest())
        try:
            monkeypatch.setattr(block_index_parser, "zlib", zlib)
            piece = opened(data, sealed)
            for number, one in enumerate(piece.groups):
                expected = one.crc32
                monkeypatch.setattr(block_index_parser, "zlib", _Fits)
                group = piece.group(number)
                assert sum(run.end - run.start for run in group.runs) == one.row_count
            kinds.add("rows")
        except KbrError:
            kinds.add("error")
    assert kinds == {"rows", "error"}
