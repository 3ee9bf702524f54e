"""Manifests of any shape come back; damaged and hostile ones give the promised errors."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.errors import ManifestUnreadable, UnsupportedFormat
from kbr.format.documents import (
    Manifest,
    PartitionEntry,
    SourceInfo,
    TopicEntry,
    dump_manifest,
    load_manifest,
)
from kbr.format.names import segment_name
from kbr.maintain.describe import describe
from kbr.model import Compression, FailureKind, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef
from kbr.repository.catalog import summarise

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda name: name not in (".", ".."))
NATURAL = st.integers(0, 2**63 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=30)


@st.composite
def segments(draw: st.DrawFn, topic: str, partition: int, start: int) -> tuple[SegmentRef, ...]:
    found = []
    position = start
    for _ in range(draw(st.integers(0, 4))):
        sequence = position + draw(st.sampled_from([0, 0, 0, 5, 2**30]))
        first = sequence + draw(st.integers(0, 2**20))
        last = first + draw(st.integers(0, 2**20))
        position = last + draw(st.integers(1, 2**20))
        times = sorted(draw(st.lists(INT64, min_size=4, max_size=4)))
        records = draw(st.integers(1, last - first + 1))
        found.append(
            SegmentRef(
                key=segment_name(topic, partition, sequence, draw(st.sampled_from(Compression))),
                sequence=sequence,
                next_offset=position,
                start_offset=first,
                end_offset=last,
                start_timestamp=times[2],
                end_timestamp=times[1],
                min_timestamp=times[0],
                max_timestamp=times[3],
                record_count=records,
                block_count=draw(st.integers(1, records)),
                raw_bytes=draw(st.integers(1, 2**63 - 1)),
                stored_bytes=draw(st.integers(1, 2**63 - 1)),
                max_record_bytes=draw(NATURAL),
                sha256=hashlib.sha256(str(sequence).encode()).hexdigest(),
            )
        )
    return tuple(found)


@st.composite
def gaps(draw: st.DrawFn) -> Gap:
    start = draw(st.integers(0, 2**62))
    return Gap(
        start_offset=start,
        end_offset_exclusive=start + draw(st.integers(1, 2**40)),
        reason=draw(st.sampled_from(GapReason)),
        detected_at_ms=draw(NATURAL),
        detail=draw(TEXT),
    )


@st.composite
def partitions(draw: st.DrawFn, topic: str, number: int) -> PartitionEntry:
    start = draw(st.integers(0, 2**50))
    found = draw(segments(topic, number, start))
    next_offset = (found[-1].next_offset if found else start) + draw(st.integers(0, 100))
    return PartitionEntry(
        partition=number,
        status=draw(st.sampled_from(PartitionStatus)),
        log_start_offset=draw(NATURAL),
        high_watermark=draw(NATURAL),
        start_offset=start,
        end_offset_exclusive=next_offset + draw(st.integers(0, 100)),
        next_offset=next_offset,
        record_count=sum(segment.record_count for segment in found),
        error=draw(st.none() | TEXT),
        failure=draw(st.none() | st.sampled_from(FailureKind)),
        gaps=tuple(draw(st.lists(gaps(), max_size=2))),
        segments=found,
    )


@st.composite
def topics(draw: st.DrawFn, name: str) -> TopicEntry:
    count = draw(st.integers(0, 3))
    return TopicEntry(
        name=name,
        topic_id=draw(TEXT),
        partition_count=count,
        replication_factor=draw(st.integers(0, 5)),
        is_internal=draw(st.booleans()),
        configs=draw(st.none() | st.dictionaries(TEXT, TEXT, max_size=3)),
        partitions=tuple(draw(partitions(name, number)) for number in range(count)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    return Manifest(
        kbr_version=draw(TEXT),
        backup_id=draw(NAMES),
        status=draw(st.sampled_from(RunStatus)),
        created_at_ms=draw(NATURAL),
        updated_at_ms=draw(NATURAL),
        finished_at_ms=draw(st.none() | NATURAL),
        source=SourceInfo(
            cluster_id=draw(TEXT),
            brokers=tuple(draw(st.lists(TEXT, max_size=3))),
            isolation_level=draw(st.sampled_from(["read_committed", "read_uncommitted"])),
            time_window_start_ms=draw(st.none() | NATURAL),
            time_window_end_ms=draw(st.none() | NATURAL),
        ),
        compression=draw(st.sampled_from(Compression)),
        compression_level=draw(st.none() | st.integers(-50, 22)),
        retention=draw(st.none() | st.dictionaries(TEXT, st.integers(0, 9), max_size=2)),
        topics=tuple(draw(topics(name)) for name in sorted(draw(st.sets(NAMES, max_size=3)))),
    )


@settings(max_examples=150, deadline=None)
@given(manifest=manifests())
def test_any_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    data = dump_manifest(manifest)
    assert load_manifest(data, name="m") == manifest
    assert dump_manifest(load_manifest(data, name="m")) == data
    json.dumps(describe(manifest, segments=True).to_document())
    assert summarise(manifest).record_count == describe(manifest).totals.record_count


@pytest.mark.fault("D2", "any flip and truncation", promise=9)
@settings(max_examples=60, deadline=None)
@given(manifest=manifests(), data=st.data())
def test_any_flip_and_any_truncation_of_any_manifest_is_found(manifest: Manifest, data: st.DataObject) -> None:
    whole = dump_manifest(manifest)
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), whole[:position], whole + whole[:1], whole + b"\n"):
        with pytest.raises((ManifestUnreadable, UnsupportedFormat)):
            load_manifest(damaged, name="m")


@settings(max_examples=1, deadline=None)
@given(manifest=manifests().filter(lambda one: len(dump_manifest(one)) > 1500))
def test_a_thousand_random_flips_of_one_manifest_are_found(manifest: Manifest) -> None:
    whole = dump_manifest(manifest)
    choice = random.Random(len(whole))
    for _ in range(1000):
        flipped = bytearray(whole)
        flipped[choice.randrange(len(whole))] ^= choice.randrange(1, 256)
        with pytest.raises((ManifestUnreadable, UnsupportedFormat)):
            load_manifest(bytes(flipped), name="m")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_garbage_is_never_more_than_unreadable(data: bytes) -> None:
    with pytest.raises((ManifestUnreadable, UnsupportedFormat)):
        load_manifest(data, name="m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return found
    for key, child in items:
        found.append((value, key))
        found += places(child)
    return found


@settings(max_examples=300, deadline=None)
@given(manifest=manifests(), value=JSON, data=st.data())
def test_a_sealed_manifest_with_any_other_value_is_read_or_refused_and_never_crashes(
    manifest: Manifest, value: Any, data: st.DataObject
) -> None:
    document = json.loads(dump_manifest(manifest))
    del document["sha256"]
    container, key = data.draw(st.sampled_from(places(document)))
    container[key] = value
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")[:-1]
    seal = hashlib.sha256(body).hexdigest().encode()
    try:
        loaded = load_manifest(body + b',"sha256":"' + seal + b'"}', name="m")
    except (ManifestUnreadable, UnsupportedFormat) as error:
        assert error.hint
    else:
        assert load_manifest(dump_manifest(loaded), name="m") == loaded
        describe(loaded).to_document()
