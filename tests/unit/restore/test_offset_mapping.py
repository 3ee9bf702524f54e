"""How a restore's offset mapping is made: what is read for it, what it refuses, what a failure leaves behind."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from kbr.errors import AccessDenied, CorruptSegment, IntegrityError, OffsetMapMissing, OffsetMapUnreadable
from kbr.format.offset_map import OffsetMapHeader, OffsetMapWriter
from kbr.format.offset_map_parser import OffsetMapFile
from kbr.format.restore_state import RestoreState, RestoreStatus
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.layout import offset_map_key
from kbr.repository.offset_maps import OffsetMap, has_offset_map, open_offset_map
from kbr.repository.restore_states import save_state
from kbr.restore.offset_mapping import MappedPartition, OffsetMapping
from kbr.restore.plan import PartitionPlan
from kbr.restore.window import TimeWindow
from kbr_codec import Record, encode_block
from tests.support.backups import RecordingStore, block_of, identity_of, write_segment

ID = "ab" * 16
SOURCE, TARGET = TopicPartition("orders", 0), TopicPartition("restored", 1)
KEY = offset_map_key("nightly", ID)


def block(*offsets: int) -> bytes:
    return encode_block([Record(offset, 1000 + offset, 1, None, b"x" * 2000, ()) for offset in offsets])


def segment(store: RecordingStore, *blocks: bytes, sequence: int = 0, next_offset: int = 1000) -> SegmentRef:
    return write_segment(store, identity_of(sequence=sequence), blocks, next_offset)


def mapped(*segments: SegmentRef, count: int, base: int = 7) -> MappedPartition:
    plan = PartitionPlan(source=SOURCE, target=TARGET, segments=segments)
    return MappedPartition(plan=plan, base=base, record_count=count)


def write(store: RecordingStore, *partitions: MappedPartition, window: TimeWindow | None = None, stop: bool = False) -> bool:
    mapping = OffsetMapping(
        store, "nightly", window or TimeWindow(), max_block_bytes=1 << 28, stopped=lambda: stop
    )
    return mapping.write(ID, "cluster", partitions, created_at_ms=5)


def ranges(store: RecordingStore) -> list[tuple[int, int, int]]:
    found = open_offset_map(store, "nightly", ID)
    return [(one.source_start, one.target_start, one.count) for one in found.ranges(SOURCE)]


def reads(store: RecordingStore) -> list[tuple[str, str]]:
    return [(operation, key) for operation, key in store.calls if operation in {"get", "read_range", "head"}]


def test_segments_without_holes_are_not_read_at_all() -> None:
    store = RecordingStore()
    one = segment(store, block_of(0, 20), block_of(20, 30), next_offset=60)
    two = segment(store, block_of(60, 10), sequence=60)
    store.calls.clear()
    assert write(store, mapped(one, two, count=60))
    assert reads(store) == []
    assert ranges(store) == [(0, 7, 50), (60, 57, 10)]


def test_of_a_segment_with_holes_only_the_blocks_that_have_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbr.restore.offset_mapping.SMALL_BYTES", 1)
    monkeypatch.setattr("kbr.repository.segment_reader.SMALL_SEGMENT_BYTES", 1)
    monkeypatch.setattr("kbr.repository.segment_reader._FIRST_TAIL_BYTES", 64)
    store = RecordingStore()
    one = segment(store, block_of(0, 2000), block(2000, 2001, 2005), block_of(2010, 2000), next_offset=5000)
    store.calls.clear()
    store.ranges.clear()
    assert write(store, mapped(one, count=4003))
    # the index, and one block
    assert ranges(store) == [(0, 7, 2002), (2005, 2009, 1), (2010, 2010, 2000)]
    assert sum(1 for _, key in reads(store) if key != KEY) - 1 <= 2
    assert min(length for _, length in store.ranges) < one.stored_bytes / 4


def test_a_block_that_the_window_cuts_is_read_and_one_within_it_is_not() -> None:
    store = RecordingStore()
    one = segment(store, block(0, 1, 2), block(3, 4, 5), block(6, 7))
    assert write(store, mapped(one, count=5), window=TimeWindow(start_ms=1002, end_ms=1006))
    assert ranges(store) == [(2, 7, 5)]


def test_the_mapping_is_named_in_the_backups_folder_and_answers() -> None:
    store = RecordingStore()
    assert not has_offset_map(store, "nightly", ID)
    with pytest.raises(OffsetMapMissing) as missing:
        open_offset_map(store, "nightly", ID)
    assert missing.value.exit_code == 10
    write(store, mapped(segment(store, block(5, 6, 9)), count=3))
    assert KEY == f"nightly/restores/{ID}/offsets.parquet"
    assert has_offset_map(store, "nightly", ID)
    found = open_offset_map(store, "nightly", ID)
    assert found.header.cluster_id == "cluster"
    assert found.target_offset(SOURCE, 9) == (TARGET, 9)
    assert [found.first_at_or_after(SOURCE, offset) for offset in (0, 7, 10)] == [
        [(TARGET, 7)], [(TARGET, 9)], [(TARGET, 10)],
    ]  # fmt: skip
    (sums,) = found.sums(SOURCE)
    assert (sums.range_count, sums.record_count, sums.source_start, sums.source_end) == (2, 3, 5, 10)
    assert (sums.target_start, sums.target_end) == (7, 10)


def test_the_end_of_a_target_is_that_of_its_last_range_where_only_row_groups_passed_over_hold_it() -> None:
    data = bytearray()
    header = OffsetMapHeader(kbr_version="1", backup_id="nightly", restore_id=ID, cluster_id="c", created_at_ms=1)
    writer = OffsetMapWriter(data.extend, header, rows_per_group=2)
    x, y = TopicPartition("x", 0), TopicPartition("y", 0)
    ends = {x: 0, y: 0}
    # row groups: x and y, x, x, y
    for number, target in enumerate([x, y, x, x, x, x, y, y]):
        start, count = array("q", [number * 10]).tobytes(), array("q", [1]).tobytes()
        ends[target] = writer.add(SOURCE, target, ends[target], start, count)
    writer.close()
    found = OffsetMap(OffsetMapFile(lambda start, size: bytes(data[start : start + size]), len(data), name="m"))
    assert found.first_at_or_after(SOURCE, 65) == [(x, 5), (y, 2)]
    assert found.first_at_or_after(SOURCE, 45) == [(x, 4), (y, 1)]
    assert found.first_at_or_after(SOURCE, 99) == [(x, 5), (y, 3)]
    assert found.first_at_or_after(SOURCE, 0) == [(x, 0), (y, 0)]


def test_a_mapping_in_another_restores_place_is_told() -> None:
    store = RecordingStore()
    write(store, mapped(segment(store, block(5)), count=1))
    store.put(offset_map_key("nightly", "cd" * 16), store.data(KEY))
    with pytest.raises(OffsetMapUnreadable, match="another restore's"):
        open_offset_map(store, "nightly", "cd" * 16)


def test_a_mapping_of_before_the_restore_was_begun_anew_is_none() -> None:
    store = RecordingStore()
    write(store, mapped(segment(store, block(5)), count=1))
    state = RestoreState(
        kbr_version="1", backup_id="nightly", restore_id=ID, cluster_id="cluster", topics=(), status=RestoreStatus.RUNNING,
        created_at_ms=5, updated_at_ms=90,
    )  # fmt: skip
    save_state(store, state)
    assert has_offset_map(store, "nightly", ID)
    save_state(store, replace(state, created_at_ms=6))
    assert not has_offset_map(store, "nightly", ID)
    with pytest.raises(OffsetMapMissing, match="older than the restore"):
        open_offset_map(store, "nightly", ID)


def test_other_counts_than_were_sent_are_refused_and_the_old_mapping_stays() -> None:
    store = RecordingStore()
    one = segment(store, block(0, 2))
    write(store, mapped(one, count=2))
    before = store.data(KEY)
    with pytest.raises(IntegrityError, match="2 records to restore, and 3 are in the target"):
        write(store, mapped(one, count=3))
    assert store.data(KEY) == before
    assert store.uploads[-1].state == "aborted"


def test_a_stop_leaves_the_old_mapping() -> None:
    store = RecordingStore()
    one = segment(store, block(0, 2))
    assert not write(store, mapped(one, count=2), stop=True)
    assert KEY not in store.stored_keys()
    write(store, mapped(one, count=2))
    assert not write(store, mapped(one, count=2, base=100), stop=True)
    assert ranges(store) == [(0, 7, 1), (2, 8, 1)]


@pytest.mark.parametrize("operation", ["open_upload", "write", "commit"])
def test_a_store_that_refuses_is_an_error_and_leaves_no_upload(operation: str) -> None:
    store = RecordingStore()
    one = segment(store, block(0, 2))
    made = len(store.uploads)
    store.fail[operation] = AccessDenied("may not")
    with pytest.raises(AccessDenied):
        write(store, mapped(one, count=2))
    assert KEY not in store.stored_keys()
    assert all(upload.state == "aborted" for upload in store.uploads[made:])


def test_damaged_blocks_are_named() -> None:
    store = RecordingStore()
    one = segment(store, block(0, 2), block(5, 9))
    store.flip(f"nightly/{one.key}", 10)
    with pytest.raises(CorruptSegment, match="CRC-32"):
        write(store, mapped(one, count=4))


def test_a_block_with_other_records_than_its_index_says_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordingStore()
    one = segment(store, block(0, 2))
    monkeypatch.setattr(
        "kbr.restore.offset_mapping.offset_ranges", lambda *_, **__: (bytes(8), (3).to_bytes(8, "little"))
    )
    with pytest.raises(CorruptSegment, match="has 3 records, the index says 2"):
        write(store, mapped(one, count=2))


def test_partitions_are_written_in_the_order_of_their_sources() -> None:
    store = RecordingStore()
    one = mapped(segment(store, block(0, 2)), count=2)
    sources = [TopicPartition("orders", 10), TopicPartition("orders", 9), TopicPartition("a", 1)]
    segments = {
        source: write_segment(
            store, identity_of(topic=source.topic, partition=source.partition), [block(0, 2)], 10
        )
        for source in sources
    }
    partitions = [
        replace(one, plan=PartitionPlan(source=source, target=source, segments=(segments[source],)), base=number)
        for number, source in enumerate(sources)
    ]
    assert write(store, *partitions)
    found = open_offset_map(store, "nightly", ID)
    assert found.partitions() == sorted(sources)
    assert [found.target_offset(source, 0) for source in sources] == [(source, n) for n, source in enumerate(sources)]
