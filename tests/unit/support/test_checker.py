"""The checker of the fault bench: it finds every kind of damage, says where, and finds none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kbr.format.documents import Manifest
from kbr.model import Gap, GapReason, RunStatus
from kbr.repository.publish import publish_manifest
from tests.support.archive import StoreObjects
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    store_backup,
    topic_of,
    write_segment,
)
from tests.support.checker import (
    Anomaly,
    Kind,
    LiveChecker,
    Truth,
    Watch,
    check_backup,
    check_target,
    compare_contents,
    compare_offsets,
)
from tests.support.plain_reader import PlainRecord, read_block
from tests.support.waiting import wait_until

PLACE = ("orders", 0)


def _record(offset: int, *, value: bytes | None = None, timestamp: int | None = None) -> PlainRecord:
    stamp = 1_700_000_000_000 + offset if timestamp is None else timestamp
    return PlainRecord(offset, stamp, 1, b"k%d" % offset, value or b"v%d" % offset, ((b"h", None), (b"h", b"")))


RECORDS = [_record(offset) for offset in (0, 1, 2, 5, 6, 7)]
ABORTED = [_record(offset) for offset in (3, 4)]


def _told(anomalies: list[Anomaly]) -> list[tuple[Kind, int, int]]:
    return [(one.kind, one.offset, one.count) for one in anomalies]


def _swap(records: list[PlainRecord], left: int, right: int) -> list[PlainRecord]:
    changed = list(records)
    changed[left], changed[right] = changed[right], changed[left]
    return changed


def _with(position: int, record: PlainRecord) -> list[PlainRecord]:
    return [*RECORDS[:position], record, *RECORDS[position + 1 :]]


FAULTS: dict[str, tuple[list[PlainRecord], list[tuple[Kind, int, int]]]] = {
    "nothing": (list(RECORDS), []),
    "the first is lost": (RECORDS[1:], [(Kind.LOST, 0, 1)]),
    "two in the middle are lost": (RECORDS[:2] + RECORDS[4:], [(Kind.LOST, 2, 2)]),
    "the last is lost": (RECORDS[:-1], [(Kind.LOST, 7, 1)]),
    "all are lost": ([], [(Kind.LOST, 0, 6)]),
    "two change places": (_swap(RECORDS, 2, 3), [(Kind.REORDERED, 2, 1)]),
    "a record of an aborted transaction": (RECORDS[:3] + ABORTED[:1] + RECORDS[3:], [(Kind.ABORTED_READ, 3, 1)]),
    "another value": (_with(3, RECORDS[3]._replace(value=b"other")), [(Kind.TORN, 5, 1)]),
    "null for empty in a header": (_with(3, RECORDS[3]._replace(headers=((b"h", b""), (b"h", b"")))), [(Kind.TORN, 5, 1)]),
    "another key": (_with(0, RECORDS[0]._replace(key=None)), [(Kind.TORN, 0, 1)]),
    "another timestamp": (_with(5, RECORDS[5]._replace(timestamp=0)), [(Kind.TORN, 7, 1)]),
    "another kind of timestamp": (_with(5, RECORDS[5]._replace(timestamp_type=2)), [(Kind.TORN, 7, 1)]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_in_an_archive_is_named_with_its_first_offset(fault: str) -> None:
    found, told = FAULTS[fault]
    assert _told(compare_offsets(PLACE, RECORDS, found, others=ABORTED)) == told


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_in_a_target_is_named_though_its_offsets_are_new(fault: str) -> None:
    found, told = FAULTS[fault]
    renumbered = [record._replace(offset=number + 100) for number, record in enumerate(found)]
    names = [(kind, 103, count) if kind is Kind.ABORTED_READ else (kind, offset, count) for kind, offset, count in told]
    assert _told(compare_contents(PLACE, RECORDS, renumbered, others=ABORTED)) == names


def test_a_second_copy_is_a_duplicate_wherever_it_stands() -> None:
    for position in range(4, len(RECORDS) + 1):
        found = [*RECORDS[:position], RECORDS[3], *RECORDS[position:]]
        assert _told(compare_offsets(PLACE, RECORDS, found)) == [(Kind.DUPLICATED, 5, 1)]
        renumbered = [record._replace(offset=number) for number, record in enumerate(found)]
        assert _told(compare_contents(PLACE, RECORDS, renumbered)) == [(Kind.DUPLICATED, position, 1)]


def test_a_record_that_the_source_never_had_is_a_phantom() -> None:
    stranger = PlainRecord(8, 5, 1, None, b"stranger", ())
    assert _told(compare_offsets(PLACE, RECORDS, [*RECORDS, stranger])) == [(Kind.PHANTOM, 8, 1)]
    assert _told(compare_contents(PLACE, RECORDS, [*RECORDS, stranger])) == [(Kind.PHANTOM, 8, 1)]


def test_equal_records_of_a_source_are_no_duplicates_in_the_target() -> None:
    same = [PlainRecord(offset, -1, 0, None, None, ()) for offset in range(5)]
    assert compare_contents(PLACE, same, same) == []
    assert _told(compare_contents(PLACE, same, [*same, same[0]])) == [(Kind.DUPLICATED, 0, 1)]
    assert _told(compare_contents(PLACE, same, same[:3])) == [(Kind.LOST, 3, 2)]


def test_offsets_in_a_recorded_gap_are_not_lost() -> None:
    assert compare_offsets(PLACE, RECORDS, RECORDS[2:], is_gap=lambda offset: offset < 2) == []


# -- whole backups ------------------------------------------------------------------------


def _truth() -> Truth:
    records = [PlainRecord(*record) for start in (100, 160) for i in range(3) for record in read_block(block_of(start + i * 20, 20))]
    return Truth({("orders", 0): records, ("orders", 1): list(records), ("empty", 0): []})


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def manifest(store: RecordingStore) -> Manifest:
    return store_backup(store)


def _check(store: RecordingStore, truth: Truth | None = None) -> list[Anomaly]:
    return check_backup(truth or _truth(), StoreObjects(store), "nightly").anomalies


def test_a_good_backup_is_identical_to_its_source(store: RecordingStore, manifest: Manifest) -> None:
    report = check_backup(_truth(), StoreObjects(store), "nightly")
    assert str(report) == "identical: 240 records"


def _change_first_partition(store: RecordingStore, manifest: Manifest, **changes: object) -> None:
    empty, orders = manifest.topics
    first = replace(orders.partitions[0], **changes)
    publish_manifest(store, replace(manifest, topics=(empty, replace(orders, partitions=(first, *orders.partitions[1:])))))


def test_a_segment_that_is_not_listed_is_told(store: RecordingStore, manifest: Manifest) -> None:
    write_segment(store, identity_of(sequence=220), [block_of(220, 5)], 225)
    assert [one.detail for one in _check(store)] == [
        "nightly/topics/orders/partition=0/segment-00000000000000000220.zst is not listed"
    ]


def test_a_listed_segment_that_is_gone_is_told(store: RecordingStore, manifest: Manifest) -> None:
    store.delete("nightly/topics/orders/partition=0/segment-00000000000000000160.zst")
    found = _check(store)
    assert found[0].kind is Kind.BROKEN
    assert "is listed and not there" in found[0].detail
    assert (Kind.LOST, 160, 60) in _told(found)


def test_a_changed_byte_of_a_segment_is_told(store: RecordingStore, manifest: Manifest) -> None:
    store.flip("nightly/topics/orders/partition=0/segment-00000000000000000160.zst", 40)
    assert "is not the object that the manifest lists" in _check(store)[0].detail


def test_a_changed_byte_of_the_manifest_is_told(store: RecordingStore, manifest: Manifest) -> None:
    store.flip("nightly/manifest.json", 200, 1)
    assert _check(store)[0].detail in {"the manifest's seal is not its digest", "the manifest has no seal at its end"}


def test_no_manifest_is_told(store: RecordingStore) -> None:
    assert _check(store)[0].detail == "there is no manifest"


def test_a_missing_segment_in_the_chain_is_told(store: RecordingStore) -> None:
    second = write_segment(store, identity_of(sequence=160), [block_of(160 + i * 20, 20) for i in range(3)], 220)
    good = [write_segment(store, identity_of(partition=1, sequence=at), [block_of(at + i * 20, 20) for i in range(3)], at + 60) for at in (100, 160)]
    first = partition_of([second], start_offset=160)
    publish_manifest(store, manifest_of([topic_of("empty", [partition_of()]), topic_of("orders", [first, partition_of(good, partition=1)])]))
    assert _told(_check(store)) == [(Kind.LOST, 100, 60)]
    said = Gap(start_offset=100, end_offset_exclusive=160, reason=GapReason.RETENTION, detected_at_ms=0)
    first = replace(first, start_offset=100, gaps=(said,))
    publish_manifest(store, manifest_of([topic_of("empty", [partition_of()]), topic_of("orders", [first, partition_of(good, partition=1)])]))
    assert _check(store) == []


def test_an_unfinished_backup_is_not_a_complete_one(store: RecordingStore, manifest: Manifest) -> None:
    publish_manifest(store, replace(manifest, status=RunStatus.INTERRUPTED))
    assert [one.detail for one in _check(store)] == ["the status is interrupted"]


def test_records_below_the_position_count_when_the_source_has_gone_on(store: RecordingStore, manifest: Manifest) -> None:
    truth = _truth()
    truth.committed["orders", 0].append(PlainRecord(220, 1, 1, None, b"later", ()))
    assert _told(_check(store, truth)) == [(Kind.LOST, 220, 1)]
    assert check_backup(truth, StoreObjects(store), "nightly", to_now=False).anomalies == []


def test_a_targets_partitions_are_compared_with_those_they_come_from() -> None:
    truth = _truth()
    places = {("orders", 0): ("back", 1), ("orders", 1): ("back", 0)}
    target = {("back", 1): truth.committed["orders", 0], ("back", 0): truth.committed["orders", 1][1:]}
    assert _told(check_target(truth, target, places).anomalies) == [(Kind.LOST, 100, 1)]


# -- while it runs ------------------------------------------------------------------------


def _growing(store: RecordingStore, sequences: list[int]) -> Manifest:
    for at in sequences:  # made again below, the same: a segment never takes the place of another
        store.delete(f"nightly/topics/orders/partition=0/segment-{at:020d}.zst")
    references = [write_segment(store, identity_of(sequence=at), [block_of(at, 10)], at + 10) for at in sequences]
    manifest = manifest_of([topic_of("orders", [partition_of(references)])], status=RunStatus.RUNNING)
    publish_manifest(store, manifest)
    return manifest


def _live(store: RecordingStore, end: int = 1000) -> LiveChecker:
    return LiveChecker(StoreObjects(store), "nightly", lambda _place: end)


def test_a_growing_backup_holds_the_invariants_at_every_look(store: RecordingStore) -> None:
    checker = _live(store)
    assert checker.look() == []
    for count in range(1, 5):
        _growing(store, [10 * number for number in range(count)])
        assert checker.look() == []
        assert checker.look() == []
    assert checker.looks == 9


def test_a_record_at_or_past_the_sources_end_is_told(store: RecordingStore) -> None:
    _growing(store, [0, 10])
    assert _told(_live(store, 20).look()) == []
    assert _told(_live(store, 19).look()) == [(Kind.PHANTOM, 19, 1)]


def _forget(store: RecordingStore) -> None:
    _growing(store, [0])


def _rewrite(store: RecordingStore) -> None:
    store.put("nightly/topics/orders/partition=0/segment-00000000000000000010.zst", b"")


def _drop(store: RecordingStore) -> None:
    store.delete("nightly/topics/orders/partition=0/segment-00000000000000000010.zst")


def _drop_manifest(store: RecordingStore) -> None:
    store.delete("nightly/manifest.json")


@pytest.mark.parametrize("harm", [_forget, _rewrite, _drop, _drop_manifest])
def test_what_was_committed_once_may_not_go_or_change(store: RecordingStore, harm: Callable[[RecordingStore], None]) -> None:
    _growing(store, [0, 10, 20])
    checker = _live(store)
    assert checker.look() == []
    harm(store)
    assert {one.kind for one in checker.look()} == {Kind.CHANGED}


def test_a_manifest_ahead_of_its_segments_is_told(store: RecordingStore) -> None:
    checker = _live(store)
    manifest = _growing(store, [0, 10])
    _drop(store)
    assert manifest.topics[0].partitions[0].next_offset == 20
    assert any("is listed and not there" in one.detail for one in checker.look())


def test_a_watch_collects_what_its_looks_see(store: RecordingStore) -> None:
    checker = _live(store)
    with Watch(checker, interval_s=0.01) as watch:
        _growing(store, [0, 10])
        wait_until(lambda: checker.looks > 2, deadline_s=10, what="some looks")
        _drop(store)
        wait_until(lambda: watch.anomalies, deadline_s=10, what="the watch's find")
    assert watch.anomalies[0].kind in {Kind.CHANGED, Kind.BROKEN}


def test_a_watch_that_breaks_says_so(store: RecordingStore) -> None:
    checker = _live(store)
    _growing(store, [0])
    store.fail["list"] = RuntimeError("broken checker")
    with pytest.raises(RuntimeError, match="broken checker"), Watch(checker, interval_s=0.01) as watch:
        wait_until(lambda: watch.error, deadline_s=10, what="the watch's end")
