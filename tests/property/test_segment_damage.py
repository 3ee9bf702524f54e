"""Damaged segments: every truncation, flips at random, garbage: found, by promised errors."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.errors import CorruptSegment, IntegrityError, UnsupportedFormat
from kbr.format import segment_parser
from kbr.format.packed import PackedError, PackedReader
from kbr.format.segment import FOOTER_BYTES, NeedMoreTail, parse_index
from kbr.maintain.verify import verify
from kbr.model import Compression
from kbr.repository.segment_reader import SegmentReader
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    topic_of,
    write_segment,
)

EVERY_COMPRESSION = pytest.mark.parametrize("compression", list(Compression))


def backup(compression: Compression) -> tuple[RecordingStore, Any, str, list[bytes]]:
    """A store with one segment, its manifest, its key and its blocks."""
    store = RecordingStore()
    blocks = [block_of(i * 20, 20) for i in range(3)]
    reference = write_segment(store, identity_of(compression=compression), blocks, 60)
    manifest = manifest_of([topic_of("orders", [partition_of([reference])])])
    return store, manifest, f"nightly/{reference.key}", blocks


@pytest.mark.fault("D1", "every truncation", promise=9)
@EVERY_COMPRESSION
def test_every_truncation_of_a_segment_is_found(compression: Compression) -> None:
    store, manifest, key, blocks = backup(compression)
    whole = store.data(key)
    for length in range(len(whole)):
        store.put(key, whole[:length])
        report = verify(store, manifest, threads=1)
        assert [one.object for one in report.errors] == [key]
        # and without a manifest that knows the size
        with pytest.raises(CorruptSegment) as caught:
            SegmentReader(store, "nightly", key.removeprefix("nightly/")).index()
        assert caught.value.context["object"] == key
    assert len(blocks) == 3


@pytest.mark.fault("D1", "a thousand flips", promise=9)
@EVERY_COMPRESSION
def test_a_thousand_random_flips_are_found_and_nothing_damaged_is_given_out(
    compression: Compression,
) -> None:
    store, manifest, key, blocks = backup(compression)
    whole = store.data(key)
    reference = manifest.topics[0].partitions[0].segments[0]
    choice = random.Random(f"flips of {compression.value}")
    for _ in range(1000):
        position, mask = choice.randrange(len(whole)), choice.randrange(1, 256)
        store.flip(key, position, mask)
        for deep in (False, True):
            report = verify(store, manifest, deep=deep, threads=1)
            assert [one.object for one in report.errors] == [key], (position, mask)
        for segment in (reference, reference.key):
            reader = SegmentReader(store, "nightly", segment)
            given_out = []
            try:
                for entry, block in reader.read_blocks(reader.index().blocks):
                    given_out.append((entry.first_offset // 20, block))
            except (IntegrityError, UnsupportedFormat):
                pass
            else:
                pytest.fail(f"flip {mask:#x} at {position} was not found")
            assert all(blocks[number] == block for number, block in given_out)
        store.put(key, whole)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), extra=st.integers(0, 2**40))
def test_garbage_is_never_more_than_corrupt(data: bytes, extra: int) -> None:
    for size in (len(data), len(data) + extra):
        with pytest.raises((CorruptSegment, NeedMoreTail)):
            parse_index(data, object_bytes=size, name="o")


@pytest.mark.fault("D1", "garbage with a proper footer", promise=9)
@settings(max_examples=300, deadline=None)
@given(packed=st.binary(max_size=300), position=st.integers(0, 2**64 - 1), crc=st.booleans())
def test_garbage_with_a_proper_footer_is_never_more_than_corrupt(packed: bytes, position: int, crc: bool) -> None:
    checksum = zlib.crc32(packed) if crc else 0
    frame = b"".join(
        (
            struct.pack("<II", 0x184D2A5B, len(packed) + FOOTER_BYTES),
            packed,
            struct.pack("<IIQ8s", len(packed), checksum, position, b"KBRSEGv1"),
        )
    )
    with pytest.raises((CorruptSegment, UnsupportedFormat)):
        parse_index(frame, object_bytes=len(frame) + position, name="o")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 24), VALUES, min_size=1, max_size=4))
def test_an_index_with_other_values_is_read_or_refused_and_never_crashes(
    changes: dict[int, Any],
) -> None:
    store, _, key, _ = backup(Compression.ZSTD)
    data = store.data(key)
    index = parse_index(data, object_bytes=len(data), name=key)
    fields: dict[str, Any] = msgpack.unpackb(data[index.index_position + 8 : -FOOTER_BYTES])
    places = [(fields, name) for name in list(fields)]
    places += [(fields["blocks"], name) for name in list(fields["blocks"])]
    for number, value in changes.items():
        target, name = places[number]
        target[name] = value
    packed = msgpack.packb(fields)
    frame = b"".join(
        (
            data[: index.index_position],
            struct.pack("<II", 0x184D2A5B, len(packed) + FOOTER_BYTES),
            packed,
            struct.pack("<IIQ8s", len(packed), zlib.crc32(packed), index.index_position, b"KBRSEGv1"),
        )
    )
    try:
        found = parse_index(frame, object_bytes=len(frame), name=key)
    except (CorruptSegment, UnsupportedFormat) as error:
        assert error.context["object"] == key
    else:
        # what was accepted describes the same frames
        assert sum(block.stored_bytes for block in found.blocks) == index.index_position


@settings(max_examples=300, deadline=None)
@given(value=VALUES, rest=st.binary(max_size=10), cut=st.integers(0, 300))
def test_skipping_passes_over_exactly_one_value(value: Any, rest: bytes, cut: int) -> None:
    packed = msgpack.packb(value)
    reader = PackedReader(packed + rest)
    reader.skip()
    assert reader.position == len(packed)
    if cut < len(packed):
        with pytest.raises(PackedError):
            PackedReader(packed[:cut]).skip()


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=100))
def test_no_bytes_make_the_reader_do_anything_but_read_or_refuse(data: bytes) -> None:
    for read in (
        PackedReader.skip,
        PackedReader.integer,
        PackedReader.text,
        PackedReader.binary,
        PackedReader.map_size,
        lambda reader: reader.integers(1000),
    ):
        reader = PackedReader(data)
        try:
            read(reader)
        except PackedError as error:
            assert 0 <= error.position <= len(data)
        else:
            assert 0 < reader.position <= len(data)


@settings(max_examples=100, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["record_count", "next_offset", "block_count", "raw_bytes", "stored_bytes", "sequence"]),
        st.integers(0, 2**63 - 1),
        min_size=1,
    )
)
def test_a_reference_with_other_numbers_is_refused(changes: dict[str, int]) -> None:
    store, manifest, _, blocks = backup(Compression.LZ4)
    reference = manifest.topics[0].partitions[0].segments[0]
    claim = replace(reference, **changes)
    reader = SegmentReader(store, "nightly", claim)
    if claim == reference:
        assert len(list(reader.read_blocks(reader.index().blocks))) == len(blocks)
    else:
        with pytest.raises(IntegrityError):
            reader.index()


def test_an_index_as_kbr_writes_it_goes_by_the_fast_parser() -> None:
    store, _manifest, key, _blocks = backup(Compression.ZSTD)
    frame = SegmentReader(store, "nightly", key.removeprefix("nightly/")).index_frame()
    assert segment_parser._read_at_once(frame[8 : len(frame) - FOOTER_BYTES]) is not None


def test_an_index_that_claims_more_than_it_holds_is_not_given_to_the_fast_parser() -> None:
    nested = b"\xdd\x00\x00\xff\xf0" * 1000
    assert segment_parser._read_at_once(nested + b"\xc0" * (65_536 - len(nested))) is None
    keys = msgpack.packb({f"{n}": n for n in range(3000)})
    assert segment_parser._read_at_once(keys) is None


@given(st.data())
def test_the_fast_parser_of_an_index_takes_nothing_that_the_careful_one_refuses(data: st.DataObject) -> None:
    """Bytes of a good index changed, cut out or put in; or one of its values replaced by anything."""
    store, _manifest, key, _blocks = backup(Compression.ZSTD)
    reader = SegmentReader(store, "nightly", key.removeprefix("nightly/"))
    frame = reader.index_frame()
    packed = bytearray(frame[8 : len(frame) - FOOTER_BYTES])
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(packed) - 1))
            packed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    else:
        document = msgpack.unpackb(bytes(packed))
        anything = st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.binary(max_size=33),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), inner, max_size=3),
            max_leaves=6,
        )
        where = document if data.draw(st.booleans()) else document["blocks"]
        where[data.draw(st.sampled_from([*where, "new", b"bytes"]))] = data.draw(anything)
        packed = bytearray(msgpack.packb(document))
    found = segment_parser._read_at_once(bytes(packed))
    if found is not None:
        careful = segment_parser._IndexParser(b"", 0, "x")._read_map(PackedReader(bytes(packed)))
        assert found == careful
