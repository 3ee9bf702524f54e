"""Segments that no manifest lists: found, checked, and never taken for something that they are not."""

from __future__ import annotations

import hashlib

import pytest

from kbr.errors import ObjectMissing, StoreUnavailable
from kbr.format.documents import Manifest, dump_manifest, load_manifest
from kbr.model import PartitionStatus, RunStatus, SegmentRef, TopicPartition
from kbr.repository.adopt import unlisted_segments, with_unlisted
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    topic_of,
    write_segment,
)

KEY = TopicPartition("orders", 0)
TOPIC_ID = identity_of().topic_id


def three_segments(store: RecordingStore) -> list[SegmentRef]:
    return [
        write_segment(store, identity_of(sequence=first), [block_of(first, 5), block_of(first + 5, 5)], first + 10)
        for first in (0, 10, 20)
    ]


def test_what_the_manifest_would_have_said_is_found_again() -> None:
    store = RecordingStore()
    references = three_segments(store)
    found = unlisted_segments(store, "nightly", {KEY: 10}, {"orders": TOPIC_ID})
    assert found.segments == {KEY: references[1:]}
    assert found.damaged == {}
    for reference in found.segments[KEY]:
        assert hashlib.sha256(store.data(f"nightly/{reference.key}")).hexdigest() == reference.sha256


@pytest.mark.parametrize("positions", [{KEY: 30}, {}, {TopicPartition("orders", 1): 0}])
def test_nothing_behind_the_last_listed_segment_is_nothing(positions: dict[TopicPartition, int]) -> None:
    store = RecordingStore()
    three_segments(store)
    found = unlisted_segments(store, "nightly", positions, {"orders": TOPIC_ID})
    assert found.segments == {}
    assert found.damaged == {}


def test_every_flipped_byte_keeps_a_segment_out() -> None:
    pristine = RecordingStore()
    reference = write_segment(pristine, identity_of(), [block_of(0, 3)], 3)
    key = f"nightly/{reference.key}"
    for position in range(reference.stored_bytes):
        store = RecordingStore()
        store.put(key, pristine.data(key))
        store.flip(key, position)
        found = unlisted_segments(store, "nightly", {KEY: 0}, {"orders": TOPIC_ID})
        assert found.segments == {}, f"byte {position}"
        assert list(found.damaged) == [reference.key]


def test_a_truncated_segment_is_kept_out() -> None:
    store = RecordingStore()
    reference = write_segment(store, identity_of(), [block_of(0, 3)], 3)
    key = f"nightly/{reference.key}"
    whole = store.data(key)
    for length in range(0, len(whole), 7):
        store.put(key, whole[:length])
        assert unlisted_segments(store, "nightly", {KEY: 0}, {"orders": TOPIC_ID}).segments == {}


def test_a_segment_of_another_topic_of_that_name_is_kept_out() -> None:
    store = RecordingStore()
    (reference, *_) = three_segments(store)
    found = unlisted_segments(store, "nightly", {KEY: 0}, {"orders": "another"})
    assert found.segments == {}
    assert "another topic of that name" in found.others[reference.key]


def test_a_segment_in_the_wrong_place_is_kept_out() -> None:
    store = RecordingStore()
    reference = write_segment(store, identity_of(), [block_of(0, 3)], 3)
    data = store.data(f"nightly/{reference.key}")
    store.put("nightly/topics/orders/partition=1/segment-00000000000000000000.zst", data)
    found = unlisted_segments(store, "nightly", {TopicPartition("orders", 1): 0}, {"orders": TOPIC_ID})
    assert found.segments == {}
    assert len(found.damaged) == 1


def test_one_that_is_gone_when_it_is_read_is_passed_over() -> None:
    store = RecordingStore()
    three_segments(store)
    store.fail["head"] = ObjectMissing("gone")
    found = unlisted_segments(store, "nightly", {KEY: 0}, {"orders": TOPIC_ID})
    assert found.segments == {}
    assert found.damaged == {}


def test_a_store_that_fails_is_an_error_and_not_an_empty_answer() -> None:
    for operation in ("list", "head", "read_range"):
        store = RecordingStore()
        three_segments(store)
        store.fail[operation] = StoreUnavailable("down")
        with pytest.raises(StoreUnavailable):
            unlisted_segments(store, "nightly", {KEY: 0}, {"orders": TOPIC_ID})


def test_many_partitions_are_found_by_one_listing() -> None:
    store = RecordingStore()
    for number in range(40):
        write_segment(store, identity_of(partition=number), [block_of(0, 2)], 2)
    store.calls.clear()
    positions = {TopicPartition("orders", number): 0 for number in range(40)}
    found = unlisted_segments(store, "nightly", positions, {"orders": TOPIC_ID})
    assert len(found.segments) == 40
    assert sum(operation == "list" for operation, _key in store.calls) == 1


def running(segments: list[SegmentRef], status: RunStatus = RunStatus.RUNNING) -> Manifest:
    partition = partition_of(
        segments, status=PartitionStatus.PARTIAL, start_offset=0, end_offset_exclusive=35, high_watermark=35,
        next_offset=segments[-1].next_offset if segments else 0,
    )  # fmt: skip
    return manifest_of([topic_of("orders", [partition])], status=status)


def test_what_a_run_that_did_not_end_has_committed_is_restored_too() -> None:
    store = RecordingStore()
    references = three_segments(store)
    for listed in range(4):
        whole, notes = with_unlisted(store, running(references[:listed]))
        assert whole.topics[0].partitions[0].segments == tuple(references)
        assert whole.topics[0].partitions[0].record_count == 30
        assert notes == []
        assert load_manifest(dump_manifest(whole), name="m") == whole


def test_a_run_that_has_ended_is_believed_without_a_look() -> None:
    store = RecordingStore()
    references = three_segments(store)
    manifest = running(references[:1], RunStatus.INTERRUPTED)
    store.calls.clear()
    assert with_unlisted(store, manifest) == (manifest, [])
    assert store.calls == []


def test_what_does_not_follow_or_is_damaged_is_left_out_and_told() -> None:
    store = RecordingStore()
    references = three_segments(store)
    store.flip(f"nightly/{references[1].key}", 30)
    whole, notes = with_unlisted(store, running(references[:1]))
    assert whole.topics[0].partitions[0].segments == (references[0],)
    assert references[1].key in notes[0]
