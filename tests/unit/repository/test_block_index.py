"""The block index: the same plan with it and without it, kept up, and never believed when it is another state's."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kbr.errors import BlockIndexMissing, BlockIndexUnreadable, Interrupted, Locked, UnsupportedFormat
from kbr.format.block_index_head import SegmentPlace, dump_head, load_head
from kbr.format.documents import Manifest
from kbr.model import Compression, TopicPartition
from kbr.repository import index_writing
from kbr.repository.index_writing import IndexWriter
from kbr.repository.indexes import BlockIndex, open_index
from kbr.repository.layout import index_head_key, index_piece_key, index_prefix
from kbr.repository.segment_reader import SegmentReader
from kbr.restore.counting import count_plan
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, plan_restore
from kbr.timing import SYSTEM_CLOCK
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

HOUR_MS = 3_600_000
HEAD = index_head_key("nightly")


def backup(
    store: RecordingStore, *, topics: int = 2, partitions: int = 2, segments: int = 4, blocks: int = 3, seed: int = 1
) -> Manifest:
    """Blocks an hour apart, some of them out of order."""
    source = random.Random(seed)
    entries = []
    for topic in range(topics):
        parts = []
        for number in range(partitions):
            references = []
            for segment in range(segments):
                first = segment * blocks * 10
                compression = Compression.LZ4 if segment == 2 else Compression.ZSTD
                identity = identity_of(
                    topic=f"topic-{topic}", partition=number, sequence=first, compression=compression
                )
                times = [(segment * blocks + block + source.choice((0, 0, 0, 5))) * HOUR_MS for block in range(blocks)]
                data = [block_of(first + 10 * i, 10, timestamp=time) for i, time in enumerate(times)]
                references.append(write_segment(store, identity, data, first + blocks * 10))
            parts.append(partition_of(references, partition=number))
        entries.append(topic_of(f"topic-{topic}", parts))
    return manifest_of(entries)


def writer(store: RecordingStore, **options) -> IndexWriter:
    return IndexWriter(
        store, "nightly", kbr_version="0", clock=SYSTEM_CLOCK, **{"rows_per_group": 8, "rows_per_piece": 16, **options}
    )


def grown(manifest: Manifest, count: int) -> Manifest:
    """The manifest as it was when each partition had so many segments."""
    return replace(
        manifest,
        topics=tuple(
            replace(
                topic,
                partitions=tuple(
                    partition_of(one.segments[:count], partition=one.partition) for one in topic.partitions
                ),
            )
            for topic in manifest.topics
        ),
    )


def planned(manifest: Manifest, **options) -> RestorePlan:
    topics = [topic for topic in manifest.topics if topic.name in options.get("include", (topic.name,))]
    return plan_restore(manifest, topics, RestoreOptions(backup_id="nightly", **options), {})


def counted(store: RecordingStore, manifest: Manifest, *, index: bool, **options):
    plan = planned(manifest, **options)
    return count_plan(store, plan, max_block_bytes=2**28, manifest=manifest if index else None)


def own_reads(store: RecordingStore) -> list[str]:
    return [key for operation, key in store.calls if operation == "read_range" and "/topics/" in key]


def listed(store: RecordingStore, manifest: Manifest):
    """What the segments' own indexes say, in the order of the index."""
    return [
        (SegmentPlace(topic.name, partition.partition, ref.sequence), [
            (one.position, one.stored_bytes, one.raw_bytes, one.record_count, one.first_offset, one.last_offset,
             one.min_timestamp, one.max_timestamp)
            for one in SegmentReader(store, "nightly", ref).index().blocks
        ])
        for topic in manifest.topics
        for partition in topic.partitions
        for ref in partition.segments
    ]  # fmt: skip


def indexed(store: RecordingStore):
    return [(one.place, [tuple(block) for block in one.blocks]) for one in open_index(store, "nightly").segments()]


def test_an_index_has_one_row_for_each_block_of_each_segment_as_its_own_index_says_it() -> None:
    store = RecordingStore()
    manifest = backup(store)
    built = writer(store).build(manifest)
    assert (built.added, built.left, built.problems) == (16, 0, ())
    assert indexed(store) == listed(store, manifest)
    assert len(built.head.pieces) > 1
    assert open_index(store, "nightly").standing(manifest).name == "current"


@pytest.mark.parametrize("hours", [(0, 0), (3, 4), (5, 9), (11, 40), (90, 99), (-5, 99)])
def test_a_window_has_the_same_plan_with_the_index_as_without_it_and_no_segment_is_read(hours) -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    window = {
        "time_window_start_ms": hours[0] * HOUR_MS + 3,
        "time_window_end_ms": hours[1] * HOUR_MS + HOUR_MS // 2,
        "include": ("topic-1",),
    }
    without = counted(store, manifest, index=False, **window)
    store.calls.clear()
    assert counted(store, manifest, index=True, **window) == without
    assert own_reads(store) == []


def test_random_backups_and_windows_have_the_same_plan_with_the_index_as_without_it() -> None:
    source = random.Random(7)
    for round_ in range(12):
        store = RecordingStore()
        manifest = backup(
            store, topics=source.randint(1, 3), partitions=source.randint(1, 3), segments=source.randint(1, 6),
            blocks=source.randint(1, 5), seed=round_,
        )  # fmt: skip
        keeper = writer(store, rows_per_group=source.choice((1, 3, 8)), rows_per_piece=source.choice((1, 10, 1000)))
        for count in range(1, 7):
            keeper.follow(grown(manifest, count))
        assert indexed(store) == listed(store, manifest)
        for _ in range(10):
            start = source.randrange(-HOUR_MS, 40 * HOUR_MS)
            window = {"time_window_start_ms": start, "time_window_end_ms": start + source.randrange(9 * HOUR_MS)}
            without = counted(store, manifest, index=False, **window)
            store.calls.clear()
            assert counted(store, manifest, index=True, **window) == without
            assert own_reads(store) == []


def test_segments_that_came_after_the_index_are_planned_from_their_own_indexes() -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(grown(manifest, 2))
    standing = open_index(store, "nightly").standing(manifest)
    assert (standing.name, standing.covered, standing.segments) == ("behind", 8, 16)
    window = {"time_window_start_ms": 4 * HOUR_MS, "time_window_end_ms": 7 * HOUR_MS}
    without = counted(store, manifest, index=False, **window)
    store.calls.clear()
    assert counted(store, manifest, index=True, **window) == without
    read = own_reads(store)
    assert read
    assert all(f"segment-{sequence:020d}" not in key for key in read for sequence in (0, 30))


def test_an_index_of_segments_that_are_gone_or_others_is_never_believed(caplog) -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    other = RecordingStore()
    changed = backup(other, seed=2)
    window = {"time_window_start_ms": 4 * HOUR_MS, "time_window_end_ms": 7 * HOUR_MS}
    for info in store.list(index_prefix("nightly")):
        other.put(info.key, store.data(info.key))
    for now, where in ((grown(manifest, 3), store), (changed, other)):
        assert open_index(where, "nightly").standing(now).name == "stale"
        caplog.clear()
        without = counted(where, now, index=False, **window)
        assert counted(where, now, index=True, **window) == without
        assert "stale" in caplog.text


def test_a_topic_that_the_manifest_has_no_more_makes_the_whole_index_stale_and_others_topics_can_be_planned() -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    fewer = replace(manifest, topics=manifest.topics[1:])
    index = open_index(store, "nightly")
    assert index.standing(fewer).strange == (
        "topic-0[0]: the manifest has no such partition",
        "topic-0[1]: the manifest has no such partition",
    )
    assert index.standing(fewer, {"topic-1"}).name == "current"


@pytest.mark.parametrize("damage", ["head", "footer", "group", "gone"])
def test_a_damaged_index_is_told_and_the_segments_own_indexes_are_used(damage, caplog) -> None:
    store = RecordingStore()
    manifest = backup(store)
    built = writer(store, rows_per_piece=1000).build(manifest)
    (entry,) = built.head.pieces
    key = index_piece_key("nightly", entry.name)
    if damage == "head":
        store.flip(HEAD, 100)
    elif damage == "footer":
        store.flip(key, entry.size_bytes - 20)
    elif damage == "group":
        store.flip(key, 60)
    else:
        store.delete(key)
    window = {"time_window_start_ms": 1 * HOUR_MS, "time_window_end_ms": 7 * HOUR_MS}
    without = counted(store, manifest, index=False, **window)
    assert counted(store, manifest, index=True, **window) == without
    assert "the block index is not used" in caplog.text


def test_an_index_that_has_a_segment_twice_is_not_believed(caplog, monkeypatch) -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    find = BlockIndex.find

    def twice(*arguments):
        for one in find(*arguments):
            yield from (one, one)

    monkeypatch.setattr(BlockIndex, "find", twice)
    window = {"time_window_start_ms": 1 * HOUR_MS, "time_window_end_ms": 7 * HOUR_MS}
    without = counted(store, manifest, index=False, **window)
    assert counted(store, manifest, index=True, **window) == without
    assert "lies about segment" in caplog.text


def test_no_flipped_byte_of_an_index_changes_a_plan_or_is_shown_to_a_parquet_library() -> None:
    store = RecordingStore()
    manifest = backup(store, topics=1, partitions=1, segments=2)
    built = writer(store).build(manifest)
    right = listed(store, manifest)
    for key in (HEAD, *(index_piece_key("nightly", one.name) for one in built.head.pieces)):
        pristine = store.data(key)
        told = 0
        for position in range(0, len(pristine), 23):
            store.flip(key, position)
            try:
                assert indexed(store) == right  # the first and last bytes between row groups mean nothing
            except (BlockIndexUnreadable, UnsupportedFormat) as error:
                assert error.context["object"]
                told += 1
            store.put(key, pristine)
        assert told > len(pristine) // 23 - 2


def test_an_index_grows_by_what_is_new_and_its_runs_are_merged_as_they_become_many() -> None:
    store = RecordingStore()
    manifest = backup(store, topics=1, partitions=2, segments=70, blocks=1)
    keeper = writer(store, rows_per_group=16, rows_per_piece=64)
    written = 0
    for count in range(1, 71):
        now = grown(manifest, count)
        built = keeper.follow(now)
        written += built.bytes_written
        assert open_index(store, "nightly").standing(now).name == "current"
        assert len({one.run for one in built.head.pieces}) < 3 * index_writing.FAN_OUT
    # 64 in one run that was merged twice, and 6 that came after: each row was written three times at most
    assert {one.level for one in built.head.pieces} == {0, 2}
    assert len({one.run for one in built.head.pieces}) == 7
    assert max(one.segment_count for one in built.head.pieces if one.level == 2) > 32
    assert written < 200 * max(one.size_bytes for one in built.head.pieces)
    assert indexed(store) == listed(store, manifest)
    names = {index_piece_key("nightly", one.name) for one in built.head.pieces}
    assert {info.key for info in store.list(index_prefix("nightly"))} == {*names, HEAD}
    assert keeper.follow(manifest).bytes_written == 0


def test_a_new_run_goes_on_with_the_index_that_is_there_and_begins_anew_where_that_is_anothers() -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).follow(grown(manifest, 2))
    store.calls.clear()
    assert writer(store).follow(manifest).added == 8
    assert len(own_reads(store)) == 8
    assert writer(store).follow(grown(manifest, 1)).added == 4
    assert indexed(store) == listed(store, grown(manifest, 1))


def test_a_segment_whose_own_index_is_damaged_ends_its_partition_in_the_index_and_no_other() -> None:
    store = RecordingStore()
    manifest = backup(store)
    victim = manifest.topics[0].partitions[1].segments[1]
    store.flip(f"nightly/{victim.key}", victim.stored_bytes - 40)
    built = writer(store).build(manifest)
    assert (built.added, built.left) == (13, 3)
    assert len(built.problems) == 1
    assert victim.key in built.problems[0]
    standing = open_index(store, "nightly").standing(manifest)
    assert (standing.name, standing.covered) == ("behind", 13)
    assert open_index(store, "nightly").coverage()[TopicPartition("topic-0", 1)].segments == 1


def test_a_build_that_is_stopped_or_locked_out_leaves_the_older_index_as_it_was() -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(grown(manifest, 2))
    before = {info.key: store.data(info.key) for info in store.list(index_prefix("nightly"))}

    def locked() -> None:
        raise Locked("another run has it")

    with pytest.raises(Interrupted):
        writer(store, is_stopped=lambda: True).build(manifest)
    with pytest.raises(Locked):
        writer(store, check_lock=locked).build(manifest)
    keeper = writer(store)
    keeper.follow(grown(manifest, 2))
    after = {info.key: store.data(info.key) for info in store.list(index_prefix("nightly"))}
    assert after == before  # what the locked out one left is cleaned up by the next


def test_an_index_is_written_anew_over_one_that_is_damaged_or_of_a_newer_version() -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    for data in (b"{}", b"", store.data(HEAD)[:-3], store.data(HEAD).replace(b'"format_version":1', b'"format_version":9')):
        store.put(HEAD, data)
        with pytest.raises((BlockIndexUnreadable, UnsupportedFormat)):
            open_index(store, "nightly")
        assert writer(store).follow(manifest).added == 16
        assert indexed(store) == listed(store, manifest)


def test_an_index_in_another_backups_folder_is_told() -> None:
    store = RecordingStore()
    writer(store).build(backup(store))
    for info in store.list(index_prefix("nightly")):
        store.put(info.key.replace("nightly", "weekly"), store.data(info.key))
    with pytest.raises(BlockIndexUnreadable, match="of backup nightly"):
        open_index(store, "weekly")
    with pytest.raises(BlockIndexMissing, match="kbr index build|no block index"):
        open_index(store, "monthly")


def test_an_empty_backup_has_an_index_without_a_piece() -> None:
    store = RecordingStore()
    manifest = manifest_of([topic_of("empty", [partition_of()])])
    assert writer(store).build(manifest).head.pieces == ()
    assert open_index(store, "nightly").standing(manifest).name == "current"


def test_a_head_is_read_as_it_was_written_and_sums_that_do_not_fit_are_told() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    head = writer(store).build(manifest).head
    assert load_head(dump_head(head), name="h") == head
    (first, *rest) = head.pieces
    for wrong in (
        replace(first, level=99),
        replace(first, footer_bytes=first.size_bytes + 1),
        replace(first, segment_count=0),
        replace(first, first=SegmentPlace("..", 0, 0)),
        replace(first, name="../manifest.json"),
    ):
        with pytest.raises(BlockIndexUnreadable, match="makes no sense"):
            load_head(dump_head(replace(head, pieces=(wrong, *rest))), name="h")


@pytest.mark.parametrize(
    "placement",
    [
        {"partitioner": "murmur2", "target_partitions": {"topic-1": 3}},
        {"partition_mapping": {"topic-1": {1: 0}}, "merge": True},
        {"offset_windows": {"topic-1": {0: (13, 57)}}},
        {"source_partitions": {"topic-1": (1,)}},
    ],
)
def test_a_window_that_goes_elsewhere_has_the_same_plan_with_the_index_as_without_it(placement) -> None:
    store = RecordingStore()
    manifest = backup(store)
    writer(store).build(manifest)
    options = {
        "time_window_start_ms": 2 * HOUR_MS + 3, "time_window_end_ms": 5 * HOUR_MS, "include": ("topic-1",), **placement
    }  # fmt: skip
    without = counted(store, manifest, index=False, **options)
    store.calls.clear()
    assert counted(store, manifest, index=True, **options) == without
    assert own_reads(store) == []
    assert 0 < without.records < 200
