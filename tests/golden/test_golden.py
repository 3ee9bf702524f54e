"""Segments written once stay readable for ever: by kbr, by its pure codec, by the plain reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kbr.errors import CorruptSegment, UnsupportedFormat
from kbr.model import Compression
from kbr.repository.layout import relative_segment_key, segment_key
from kbr.repository.segment_reader import SegmentReader
from kbr.storage.memory import MemoryStore
from kbr_codec import Record, decode_block, pure
from tests.support import plain_reader

FOLDER = Path(__file__).parent / "v1"
WHOLE = [("zstd.zst", Compression.ZSTD), ("lz4.lz4", Compression.LZ4), ("none.mpk", Compression.NONE)]
#: The golden files themselves: a changed one proves nothing. New ones are added, these stay.
SHA256 = {
    "corrupt-frame.zst": "d40f55ffaae8b7d687e8d0f8971e01cda814b064b03f6dc713f5a5da497ce035",
    "corrupt-index.zst": "ad3f30118c107b371600eb1ed8aa931cade1cfbd129c0a96bece8261360eb853",
    "future-index.zst": "0173c126fb151c73da929e30e4b840bb21bc86b850167d78fe611f2544faa7a3",
    "future-signature.zst": "1fa7c85b2df8f3d30c8cffd14f958054cdd1298fe9019f7e8020ef2195e818bc",
    "lz4.lz4": "18ea06602e615be36b03adc558e887d57787bb58b54bcfcf2a0fed16eee9bee8",
    "none.mpk": "97b388fdb1878be43fe324ac2ef0c7aab5a26c838060de70d9b89770ba09a3a0",
    "records.json": "326ce4c25af448b6a203b79050b90575802aa3d70a614269706070c2e01c86ef",
    "zstd.zst": "bc645d2dd91437414755eb086ab2475ef555ed06cb912bf6f5e805d717aca928",
}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _records() -> list[Record]:
    return [
        Record(
            row["offset"],
            row["timestamp"],
            row["timestamp_type"],
            _bytes(row["key"]),
            _bytes(row["value"]),
            tuple((bytes.fromhex(name), _bytes(value)) for name, value in row["headers"]),
        )
        for row in json.loads((FOLDER / "records.json").read_bytes())
    ]


def _reader(file: str, compression: Compression) -> SegmentReader:
    store = MemoryStore()
    place = ("golden.topic_1", 3, 40, compression)
    store.put(segment_key("golden", *place), (FOLDER / file).read_bytes())
    return SegmentReader(store, "golden", relative_segment_key(*place))


def test_the_golden_files_are_those_that_were_written() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.iterdir()}
    assert found == SHA256


@pytest.mark.parametrize(("file", "compression"), WHOLE)
def test_kbr_reads_it(file: str, compression: Compression) -> None:
    reader = _reader(file, compression)
    index = reader.index()
    assert (index.identity.topic_id, index.identity.writer) == ("c9pYvQ2vTgGzqE0zv1m7Bw", "golden-writer")
    assert (index.identity.created_at_ms, index.next_offset) == (1_700_000_100_000, 2**41)
    assert (index.record_count, len(index.blocks)) == (6, 2)
    blocks = [block for _, block in reader.read_blocks(index.blocks)]
    assert [record for block in blocks for record in decode_block(block)] == _records()
    assert [record for block in blocks for record in pure.decode_block(block)] == _records()


@pytest.mark.parametrize(("file", "compression"), WHOLE)
def test_the_plain_reader_reads_it(file: str, compression: Compression) -> None:
    index, records = plain_reader.read_segment((FOLDER / file).read_bytes())
    assert index["compression"] == compression.value
    assert [tuple(record) for record in records] == _records()


def test_damage_in_a_block_is_found_there_and_the_others_are_read() -> None:
    reader = _reader("corrupt-frame.zst", Compression.ZSTD)
    first, second = reader.index().blocks
    ((_, block),) = reader.read_blocks([first])
    assert decode_block(block) == _records()[:4]
    with pytest.raises(CorruptSegment, match="CRC-32") as caught:
        list(reader.read_blocks([second]))
    assert caught.value.context["position"] == second.position
    with pytest.raises(plain_reader.Unreadable):
        plain_reader.read_segment((FOLDER / "corrupt-frame.zst").read_bytes())


def test_a_damaged_index_is_found() -> None:
    with pytest.raises(CorruptSegment):
        _reader("corrupt-index.zst", Compression.ZSTD).index()
    with pytest.raises(plain_reader.Unreadable, match="index is damaged"):
        plain_reader.read_segment((FOLDER / "corrupt-index.zst").read_bytes())


@pytest.mark.parametrize("file", ["future-index.zst", "future-signature.zst"])
def test_a_later_version_is_refused_as_such(file: str) -> None:
    with pytest.raises(UnsupportedFormat, match="2"):
        _reader(file, Compression.ZSTD).index()
    with pytest.raises(plain_reader.Unreadable):
        plain_reader.read_segment((FOLDER / file).read_bytes())
