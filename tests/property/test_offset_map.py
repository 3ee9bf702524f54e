"""A restore's offset mapping says of every record what a reading record by record says, and nothing of any other."""

from __future__ import annotations

from array import array
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.format.offset_map import OffsetMapHeader, OffsetMapWriter
from kbr.format.offset_map_parser import OffsetMapFile
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.offset_maps import OffsetMap, open_offset_map
from kbr.restore import offset_mapping
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.plan import PartitionPlan
from kbr.restore.window import TimeWindow
from kbr_codec import Record, encode_block
from tests.support.backups import RecordingStore, identity_of, write_segment

RESTORE_ID = "0123456789abcdef" * 2
HEADER = OffsetMapHeader(kbr_version="1", backup_id="nightly", restore_id=RESTORE_ID, cluster_id="c", created_at_ms=1)
#: Source offset to (target, target offset), by source partition.
Naive = dict[TopicPartition, dict[int, tuple[TopicPartition, int]]]

SOURCES = [TopicPartition(topic, number) for topic in ("a", "a-b", "a.b", "b") for number in (0, 1, 10)]
TARGETS = [TopicPartition(topic, number) for topic in ("x", "y") for number in (0, 2)]
#: Steps from one record's offset to the next: mostly without a hole.
STEPS = st.sampled_from([1, 1, 1, 1, 1, 2, 3, 50])
STAMPS = st.integers(-1, 6)
#: A partition: segments of blocks of records, each record an offset step and a timestamp.
PARTITIONS = st.lists(
    st.lists(st.lists(st.tuples(STEPS, STAMPS), min_size=1, max_size=12), min_size=1, max_size=4), max_size=3
)


def check(found: OffsetMap, naive: Naive) -> None:
    """All that a mapping answers."""
    assert found.partitions() == sorted(source for source, records in naive.items() if records)
    assert found.record_count == sum(map(len, naive.values()))
    range_count = 0
    for source, records in naive.items():
        ranges = list(found.ranges(source))
        range_count += len(ranges)
        assert [
            (one.source_start + n, (one.target, one.target_start + n)) for one in ranges for n in range(one.count)
        ] == sorted(records.items())
        for one, after in zip(ranges, ranges[1:], strict=False):
            joined = (one.target, one.source_start + one.count, one.target_start + one.count)
            assert joined != (after.target, after.source_start, after.target_start)
        for offset in range(max(records, default=0) + 3):
            assert found.target_offset(source, offset) == records.get(offset)
            assert found.first_at_or_after(source, offset) == first_of_each(records, offset)
    assert found.range_count == range_count
    assert list(found.ranges(TopicPartition("a", 5))) == found.first_at_or_after(TopicPartition("a", 5), 0) == []
    assert found.target_offset(TopicPartition("zz", 0), 0) is None


def first_of_each(records: dict[int, tuple[TopicPartition, int]], offset: int) -> list[tuple[TopicPartition, int]]:
    """By target: the first record at or after an offset, or one past the last."""
    answers = {}
    for target in {target for target, _ in records.values()}:
        later = [place for at, (one, place) in records.items() if one == target and at >= offset]
        answers[target] = min(later) if later else 1 + max(place for one, place in records.values() if one == target)
    return sorted(answers.items())


# each example writes and reads a whole backup
@settings(max_examples=max(1, settings().max_examples // 2))
@given(
    st.lists(PARTITIONS, max_size=5),
    st.permutations(SOURCES),
    st.lists(st.integers(0, 100), min_size=5, max_size=5),
    st.none() | st.tuples(STAMPS, STAMPS).map(sorted),
    st.sampled_from([1, 2, 5, 65_536]),
    st.booleans(),
)
def test_the_mapping_of_a_plan_is_that_of_its_records(
    partitions: list[list[list[list[tuple[int, int]]]]],
    sources: list[TopicPartition],
    bases: list[int],
    window: list[int] | None,
    rows_per_group: int,
    small: bool,
) -> None:
    store = RecordingStore()
    within = TimeWindow() if window is None else TimeWindow(start_ms=window[0], end_ms=window[1])
    mapped, naive = [], {}
    for segments, source, base in zip(partitions, sources, bases, strict=False):
        target = TopicPartition(f"to-{source.topic}", source.partition + 1)
        references, records = stored(store, source, segments)
        kept = [one for one in records if within.start_ms <= one.timestamp <= within.end_ms]
        naive[source] = {one.offset: (target, base + n) for n, one in enumerate(kept)}
        plan = PartitionPlan(source=source, target=target, segments=tuple(filter(within.touches, references)))
        mapped.append(MappedPartition(plan=plan, base=base, record_count=len(kept)))
    mapping = OffsetMapping(store, "nightly", within, max_block_bytes=1 << 20, stopped=lambda: False)
    with (
        patch("kbr.format.offset_map.OffsetMapWriter.__init__.__kwdefaults__", {"rows_per_group": rows_per_group}),
        patch.object(offset_mapping, "SMALL_BYTES", 1 << 20 if small else 1),
    ):
        assert mapping.write(RESTORE_ID, "c", mapped, created_at_ms=1)
    check(open_offset_map(store, "nightly", RESTORE_ID), naive)


def stored(
    store: RecordingStore, source: TopicPartition, segments: list[list[list[tuple[int, int]]]]
) -> tuple[list[SegmentRef], list[Record]]:
    """Segments in the store, and the records in them."""
    references, everything = [], []
    offset = -1
    for blocks in segments:
        sequence = offset + 1
        encoded = []
        for steps in blocks:
            records = []
            for step, stamp in steps:
                offset += step
                records.append(Record(offset, stamp, 1, None, b"v", ()))
            encoded.append(encode_block(records))
            everything.extend(records)
        identity = identity_of(topic=source.topic, partition=source.partition, sequence=sequence)
        references.append(write_segment(store, identity, encoded, offset + 1))
    return references, everything


@given(
    st.dictionaries(
        st.sampled_from(SOURCES),
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from(TARGETS)), min_size=1, max_size=30),
    ),
    st.integers(1, 9),
)
def test_ranges_of_one_source_may_go_to_several_targets(
    drawn: dict[TopicPartition, list[tuple[int, int, TopicPartition]]], rows_per_group: int
) -> None:
    data = bytearray()
    writer = OffsetMapWriter(data.extend, HEADER, rows_per_group=rows_per_group)
    ends = dict.fromkeys(TARGETS, 7)
    naive: Naive = {}
    for source in sorted(drawn):
        offset = 0
        naive[source] = {}
        for hole, count, target in drawn[source]:
            offset += hole
            begin = ends[target]
            ends[target] = writer.add(source, target, begin, array("q", [offset]).tobytes(), array("q", [count]).tobytes())
            assert ends[target] == begin + count
            naive[source].update({offset + n: (target, begin + n) for n in range(count)})
            offset += count
    writer.close()
    check(OffsetMap(OffsetMapFile(lambda start, size: bytes(data[start : start + size]), len(data), name="m")), naive)
