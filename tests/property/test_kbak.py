"""Backups of OSO kafka-backup, any records and any damage: what went in comes out, or a promised error does."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import CorruptSegment, KbrError, ManifestUnreadable, UnsupportedFormat
from kbr.format.oso_manifest import oso_document, parse_oso_manifest
from kbr.model import SegmentRef
from kbr.repository import kbak_reader
from kbr.repository.foreign import load_any_manifest
from kbr.repository.kbak_reader import KbakReader
from kbr_codec import Record, decode_block
from tests.support.backups import RecordingStore
from tests.support.kbak import OsoBackup, Row, compressed, header_bytes, record_bytes, rows_of, sealed

COMPRESSIONS = st.sampled_from(["zstd", "lz4", "none"])
NAMES = st.one_of(
    st.sampled_from(["x-original-offset", "x-original-timestamp", "x-source-cluster", "", "a"]), st.text(max_size=8)
).map(lambda name: name.encode())
BYTES = st.one_of(st.none(), st.binary(max_size=40))


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    steps = draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=12))
    offset = draw(st.integers(-1, 2**60))
    found = []
    for step in steps:
        offset += step
        headers = draw(st.lists(st.tuples(NAMES, BYTES), max_size=5))
        timestamp = draw(st.integers(-(2**63), 2**63 - 1))
        found.append(Row(offset, timestamp, draw(BYTES), draw(BYTES), tuple(headers)))
    return found


def one_segment(some: list[Row], compression: str, **options: Any) -> tuple[RecordingStore, SegmentRef]:
    store = RecordingStore()
    one = OsoBackup(store.put, compression=compression, **options)
    one.topic("t", None)
    one.partition("t", 0, [some])
    one.finish()
    document = oso_document(store.data("daily/manifest.json"))
    assert document is not None
    return store, parse_oso_manifest(document, name="m").topics[0].partitions[0].segments[0]


def read(store: RecordingStore, reference: SegmentRef) -> list[Record]:
    reader = KbakReader(store, "daily", reference, max_block_bytes=1 << 20)
    return [record for _, block in reader.stream(lambda _: True) for record in decode_block(block)]


@given(rows(), COMPRESSIONS, st.sampled_from([None, "east"]), st.integers(1, 300))
def test_any_records_come_back_as_they_were(
    some: list[Row], compression: str, cluster: str | None, block_bytes: int
) -> None:
    store, reference = one_segment(some, compression, cluster=cluster)
    expected = [Record(r.offset, r.timestamp, 0 if r.timestamp == -1 else 1, r.key, r.value, r.headers) for r in some]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kbak_reader, "BLOCK_BYTES", block_bytes)
        assert read(store, reference) == expected
        reader = KbakReader(store, "daily", reference)
        entries = list(reader.index().blocks)
        random.Random(0).shuffle(entries)
        found = {record for _, block in reader.read_blocks(entries) for record in decode_block(block)}
        assert sorted(found) == sorted(set(expected))


def damaged(data: bytes, draw: st.DataObject) -> bytes:
    """Some bytes changed, removed, put in between, or all behind a place gone."""
    out = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(out) - 1)) if out else 0
        match draw.draw(st.sampled_from(["flip", "insert", "remove", "cut"])):
            case "flip" if out:
                out[at] ^= draw.draw(st.integers(1, 255))
            case "insert":
                out[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del out[at : at + draw.draw(st.integers(1, 8))]
            case "cut":
                del out[at:]
    return bytes(out)


@given(st.data(), rows(), COMPRESSIONS)
def test_any_damage_is_an_error(draw: st.DataObject, some: list[Row], compression: str) -> None:
    store, reference = one_segment(some, compression)
    key = f"daily/{reference.key}"
    whole = store.data(key)
    other = damaged(whole, draw)
    if other == whole:
        return
    store.put(key, other)
    with pytest.raises((CorruptSegment, UnsupportedFormat)):
        read(store, reference)


@given(st.data(), rows(), COMPRESSIONS, st.booleans())
def test_a_body_that_was_forged_is_an_error_or_records(
    draw: st.DataObject, some: list[Row], compression: str, is_before: bool
) -> None:
    body = b"".join(record_bytes(row) for row in some)
    stored = damaged(body, draw) if is_before else body
    stored = compressed(stored, compression)
    stored = stored if is_before else damaged(stored, draw)
    data = sealed(header_bytes(len(some), some[0].offset, some[-1].offset, compression), stored)
    store, reference = one_segment(some, compression)
    store.put(f"daily/{reference.key}", data)
    from dataclasses import replace

    raw = draw.draw(st.sampled_from([reference.raw_bytes, len(body) + 8, 2**32 - 1]))
    forged = replace(reference, stored_bytes=len(data), raw_bytes=raw)
    try:
        found = read(store, forged)
    except KbrError as error:
        assert forged.key in str(error)
    else:
        assert (found[0].offset, found[-1].offset, len(found)) == (some[0].offset, some[-1].offset, len(some))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_manifest_is_read_or_a_promised_error(draw: st.DataObject) -> None:
    store = RecordingStore()
    one = OsoBackup(store.put)
    one.topic("t", 3, source_replication_factor=2, configurations={"a": "b"})
    one.partition("t", 1, [rows_of(0, 3), rows_of(5, 3)], gaps=[{"start_offset": 3, "end_offset": 5, "reason": "x"}])
    document = one.document()
    for _ in range(draw.draw(st.integers(1, 3))):
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = draw.draw(JSON)
            break
    try:
        data = json.dumps(document).encode()
        manifest = load_any_manifest(data, name="m")
    except (ManifestUnreadable, UnsupportedFormat) as error:
        assert len(str(error)) < 2000
    else:
        assert manifest.made_by
        for topic in manifest.topics:
            assert [one.partition for one in topic.partitions] == list(range(topic.partition_count))
