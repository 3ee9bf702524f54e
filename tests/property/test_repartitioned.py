"""A repartitioned restore in memory: what each target partition gets, found again from any place where it was cut."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from kbr.model import Record, TopicPartition
from kbr.repository.offset_maps import open_offset_map
from kbr.restore.feeds import feeds_of
from kbr.restore.lane_counts import AllLaneCounts
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import PartitionPlan, RestorePlan, plan_restore
from kbr.restore.routed_stream import RoutedStream
from kbr.restore.routing import partitioner_of, source_of
from kbr_codec import decode_block, encode_block
from tests.support.backups import RecordingStore, identity_of, manifest_of, partition_of, topic_of, write_segment
from tests.support.plain_routes import plain_routes

LIMIT = 1 << 28
ID = "ab" * 16
KEYS = st.none() | st.sampled_from([b"", b"a", b"b", b"c", b"d" * 40])
#: Steps between offsets, timestamps, keys.
ROWS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), KEYS), max_size=25)


@st.composite
def _backups(draw: st.DrawFn) -> tuple[RecordingStore, RestorePlan, list[list[Record]], tuple[int, int]]:
    """A store, a plan, the source's records, and the time window."""
    store = RecordingStore()
    sources, partitions = [], []
    for number in range(draw(st.integers(1, 3))):
        records, offset = [], -1
        for step, timestamp, key in draw(ROWS):
            offset += step
            records.append(Record(offset, timestamp, 1, key, b"%d" % offset, ()))
        segments, at = [], 0
        while at < len(records):
            sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
            blocks, first = [], at
            for size in sizes:
                if at < len(records):
                    blocks.append(encode_block(records[at : at + size]))
                    at += size
            after = records[min(at, len(records)) - 1].offset + 1
            before = 0 if first == 0 else records[first - 1].offset + 1
            segments.append(write_segment(store, identity_of(partition=number, sequence=before), blocks, after))
        sources.append(records)
        partitions.append(partition_of(segments, partition=number))
    window = draw(st.sampled_from([(-(2**63), 2**63 - 1), (5, 15)]))
    topic = topic_of("orders", partitions)
    options = RestoreOptions(
        backup_id="nightly", partitioner=draw(st.sampled_from(["murmur2", "consistent", "round-robin"])),
        target_partitions={"*": draw(st.integers(1, 5))}, topic_mapping={"orders": "new"},
        time_window_start_ms=window[0], time_window_end_ms=window[1],
    )  # fmt: skip
    return store, plan_restore(manifest_of([topic]), [topic], options, {}), sources, window


def _lane(plan: RestorePlan, one: PartitionPlan, sources: list[list[Record]], window: tuple[int, int]) -> list[tuple[int, int]]:
    """(source partition, offset) of what goes to a target partition, told without kbr."""
    assert one.routing is not None
    return [
        (number, offset)
        for number, records in enumerate(sources)
        for offset, place in plain_routes(records, one.routing.partitioner, one.routing.partition_count, number, window)
        if place == one.target.partition
    ]


def _stream(store: RecordingStore, plan: RestorePlan, one: PartitionPlan, counts: AllLaneCounts) -> RoutedStream:
    return RoutedStream(store, "nightly", one, plan.window, counts.of(plan, one), max_block_bytes=LIMIT)


def _left(store: RecordingStore, plan: RestorePlan, tasks: list[PartitionPlan]) -> dict[int, list[tuple[int, int]]]:
    """What a task of these partitions sends: its feeds, and each block's records by the same filter as a sink's."""
    from kbr.repository.segment_reader import SegmentReader

    found: dict[int, list[tuple[int, int]]] = {one.target.partition: [] for one in tasks}
    for feed in feeds_of(tasks):
        for reference, indexes in feed.segments():
            reader = SegmentReader(store, "nightly", reference, max_block_bytes=LIMIT)
            number = source_of(reference).partition
            routing = tasks[indexes[0]].routing
            assert routing is not None
            position = routing.positions[reference.key]
            for entry, data in reader.read_blocks(reader.index().blocks):
                records = decode_block(data)
                for offset, place in plain_routes(
                    records, routing.partitioner, routing.partition_count, position, (plan.window.start_ms, plan.window.end_ms)
                ):
                    for index in indexes:
                        one = tasks[index]
                        if place == one.target.partition and offset >= one.begins_at(reference):
                            found[place].append((number, offset))
                position += entry.record_count
    return found


@settings(max_examples=60, deadline=None)
@given(backup=_backups(), data=st.data())
def test_each_record_goes_to_one_place_and_what_is_left_is_found_again_wherever_it_was_cut(
    backup: tuple[RecordingStore, RestorePlan, list[list[Record]], tuple[int, int]], data: st.DataObject
) -> None:
    store, plan, sources, window = backup
    lanes = {one.target.partition: _lane(plan, one, sources, window) for one in plan.partitions}
    wanted = [(n, r.offset) for n, some in enumerate(sources) for r in some if window[0] <= r.timestamp <= window[1]]
    assert sorted(place for lane in lanes.values() for place in lane) == wanted
    counts = AllLaneCounts(store, max_block_bytes=LIMIT, stopped=lambda: False)
    rest = []
    for one in plan.partitions:
        lane = lanes[one.target.partition]
        stream = _stream(store, plan, one, counts)
        assert [record.offset for _, record in stream.records()] == [offset for _, offset in lane]
        start = data.draw(st.integers(0, len(lane)))
        assert [(at, record.offset) for at, record in stream.records(start)] == [
            (at, offset) for at, (_, offset) in enumerate(lane) if at >= start
        ]
        if not start:
            rest.append(one.going_on(offset_from=0, target_offset=0))
            continue
        tail = stream.tail(start, max_records=data.draw(st.integers(1, 4)), max_bytes=1 << 20)
        assert tail.total == start
        assert [record.offset for record in tail.records] == [offset for _, offset in lane[tail.first_position : start]]
        assert tail.source == TopicPartition("orders", lane[start - 1][0])
        assert tail.is_all == (start == len(lane))
        rest.append(
            one.going_on(
                offset_from=tail.records[-1].offset + 1, target_offset=start, source=tail.source, is_all=tail.is_all
            )
        )
        lanes[one.target.partition] = lane[start:]
    tasks = [one for one in rest if one.segments]
    found = _left(store, plan, tasks)
    assert {number: lane for number, lane in lanes.items() if lane} == {n: some for n, some in found.items() if some}


@settings(max_examples=60, deadline=None)
@given(backup=_backups())
def test_records_with_one_key_keep_their_order_within_their_source_partition(
    backup: tuple[RecordingStore, RestorePlan, list[list[Record]], tuple[int, int]],
) -> None:
    store, plan, sources, _window = backup
    counts = AllLaneCounts(store, max_block_bytes=LIMIT, stopped=lambda: False)
    places: dict[bytes, set[int]] = defaultdict(set)
    for one in plan.partitions:
        stream = _stream(store, plan, one, counts)
        last: dict[tuple[bytes | None, int], int] = {}
        before = -1
        for _, record in stream.records():
            assert stream.source is not None
            part = stream.source.partition
            # source partitions come one behind the other
            assert part >= before
            before = part
            assert last.get((record.key, part), -1) < record.offset
            last[record.key, part] = record.offset
            if record.key is not None:
                places[record.key].add(one.target.partition)
    if plan.partitions[0].routing is not None and plan.partitions[0].routing.partitioner != partitioner_of("round-robin"):
        assert all(len(found) == 1 for found in places.values())


@settings(max_examples=40, deadline=None)
@given(backup=_backups(), missing=st.integers(0, 5))
def test_the_offset_mapping_is_exact_also_where_a_target_partition_has_failed(
    backup: tuple[RecordingStore, RestorePlan, list[list[Record]], tuple[int, int]], missing: int
) -> None:
    store, plan, sources, window = backup
    done, expected = [], {}
    for one in plan.partitions:
        if one.target.partition == missing:
            continue
        lane = _lane(plan, one, sources, window)
        base = 10 * one.target.partition
        done.append(MappedPartition(plan=one, base=base, record_count=len(lane)))
        expected.update(
            ((number, offset), (one.target.partition, base + at)) for at, (number, offset) in enumerate(lane)
        )
    mapping = OffsetMapping(store, "nightly", plan.window, max_block_bytes=LIMIT, stopped=lambda: False)
    assert mapping.write(ID, "cluster", done, created_at_ms=5)
    kept = open_offset_map(store, "nightly", ID)
    found = {
        (source.partition, one.source_start + n): (one.target.partition, one.target_start + n)
        for source in kept.partitions()
        for one in kept.ranges(source)
        for n in range(one.count)
    }
    assert found == expected
    for (number, offset), (place, at) in expected.items():
        assert kept.target_offset(TopicPartition("orders", number), offset) == (TopicPartition("new", place), at)
