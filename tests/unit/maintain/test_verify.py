"""verify: an intact backup passes, every damage is named, and damage never stops the rest."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from kbr.errors import AccessDenied, StoreUnavailable
from kbr.format.compression import BlockCompressor
from kbr.format.documents import Manifest
from kbr.format.groups import MAX_GROUPS_BYTES
from kbr.format.segment import SegmentAssembler, SegmentIndex, parse_index
from kbr.maintain.verify import VerifyProgress, VerifyReport, verify
from kbr.model import Compression, PartitionStatus, RunStatus, SegmentRef
from kbr.repository.catalog import Catalog
from kbr.repository.groups import save_snapshot
from kbr.storage.local import LocalStore
from kbr_codec import BlockStats, Record, encode_block, scan_block
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    partition_of,
    store_backup,
    write_segment,
)
from tests.unit.format.test_groups import SNAPSHOT

KEY = "nightly/topics/orders/partition=1/segment-00000000000000000160.zst"
BOTH = pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
EVERY_COMPRESSION = pytest.mark.parametrize("compression", list(Compression))


def damage(report: VerifyReport) -> list[tuple[str, int | None]]:
    return [(one.object, one.position) for one in report.errors]


def index_of(store: RecordingStore, key: str = KEY) -> SegmentIndex:
    data = store.data(key)
    return parse_index(data, object_bytes=len(data), name=key)


@BOTH
@EVERY_COMPRESSION
def test_an_intact_backup_passes(deep: bool, compression: Compression) -> None:
    store = RecordingStore()
    report = verify(store, store_backup(store, compression=compression), deep=deep)
    assert report.errors == ()
    assert report.notes == ()
    assert report.exit_code == 0
    assert report.objects == 4
    assert report.bytes == sum(len(store.data(key)) for key in store.stored_keys() if "segment" in key)
    assert (report.blocks, report.records) == ((12, 240) if deep else (0, 0))


def test_damaged_group_offsets_are_named() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    save_snapshot(store, replace(SNAPSHOT, backup_id=manifest.backup_id))
    assert verify(store, manifest).errors == ()
    key = f"{manifest.backup_id}/groups.json"
    store.put(key, store.data(key).replace(b"kept", b"lost"))
    report = verify(store, manifest)
    assert damage(report) == [(key, None)]
    assert report.exit_code == 4


@BOTH
def test_an_empty_backup_passes(deep: bool) -> None:
    store = RecordingStore()
    manifest = replace(store_backup(store), topics=())
    report = verify(store, manifest, deep=deep)
    assert report.exit_code == 0
    assert report.objects == 0


@pytest.mark.fault("D3", "a segment, in verify", promise=4)
@BOTH
def test_a_missing_object_is_named_and_the_others_are_checked(deep: bool) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store.delete(KEY)
    report = verify(store, manifest, deep=deep)
    assert damage(report) == [(KEY, None)]
    assert report.objects == 3
    assert report.exit_code == 4


@BOTH
@pytest.mark.parametrize("change", [-1, -40, 1])
def test_another_size_is_named(deep: bool, change: int) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    data = store.data(KEY)
    store.put(KEY, data[:change] if change < 0 else data + b"\0")
    report = verify(store, manifest, deep=deep)
    assert damage(report) == [(KEY, len(data) + min(change, 0))]
    assert str(len(data) + change) in report.errors[0].what


@pytest.mark.fault("S3", "a stale listing, in verify", promise=4)
def test_a_listing_that_lags_behind_is_no_damage() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store.unlisted.add(KEY)
    assert verify(store, manifest).errors == ()
    assert ("head", KEY) in store.calls


@EVERY_COMPRESSION
def test_every_flip_is_found_by_both_kinds(compression: Compression) -> None:
    """Each byte of a small object once."""
    store = RecordingStore()
    manifest = store_backup(store, compression=compression)
    key = KEY.replace(".zst", compression.extension)
    reference = manifest.topics[1].partitions[1].segments[1]
    for position in range(0, reference.stored_bytes, 3):
        store.flip(key, position)
        for deep in (False, True):
            report = verify(store, manifest, deep=deep, threads=1)
            assert [one.object for one in report.errors] == [key], position
        store.flip(key, position)
    assert verify(store, manifest, deep=True).errors == ()


def test_deep_says_where_a_block_is_damaged_and_goes_on() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    blocks = index_of(store).blocks
    store.flip(KEY, blocks[0].position + 30)
    store.flip(KEY, blocks[2].position + 30)
    report = verify(store, manifest, deep=True)
    assert damage(report) == [(KEY, blocks[0].position), (KEY, blocks[2].position)]
    assert (report.blocks, report.records) == (10, 200)
    assert report.objects == 4


def test_an_object_damaged_all_over_does_not_flood_the_report() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    reference = write_segment(
        store,
        identity_of(sequence=0),
        [block_of(i, 1) for i in range(50)],
        50,
    )
    key = f"nightly/{reference.key}"
    for block in index_of(store, key).blocks:
        store.flip(key, block.position + 20)
    topic = replace(manifest.topics[1], partitions=(partition_of([reference]),), partition_count=1)
    report = verify(store, replace(manifest, topics=(topic,)), deep=True)
    assert len(report.errors) == 21
    assert report.errors[-1].what == "30 more blocks are damaged"


@pytest.mark.fault("D1", "two segments exchanged", promise=9)
def test_two_segments_that_changed_places_are_found() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    other = KEY.replace("partition=1", "partition=0")
    first, second = store.data(KEY), store.data(other)
    assert len(first) == len(second)
    store.put(KEY, second)
    store.put(other, first)
    for deep in (False, True):
        assert {key for key, _ in damage(verify(store, manifest, deep=deep))} == {KEY, other}


# -- deep: an object that agrees with itself, and not with what is said of it ---------------


def forged(
    store: RecordingStore,
    manifest: Manifest,
    *,
    blocks: list[bytes],
    stats: Callable[[BlockStats], BlockStats] = lambda one: one,
    change: Callable[[SegmentRef], SegmentRef] = lambda one: one,
) -> Manifest:
    """Put a segment in the place of KEY, and what the manifest says of it likewise."""
    identity = identity_of(partition=1, sequence=160)
    assembler = SegmentAssembler(identity)
    compressor = BlockCompressor(Compression.ZSTD)
    frames = []
    for block in blocks:
        frame = compressor.compress(block)
        frames.append(frame)
        assembler.add(frame, len(block), stats(scan_block(block)))
    data = b"".join((*frames, assembler.finish(220)))
    store.put(KEY, data)
    index = parse_index(data, object_bytes=len(data), name=KEY)
    old = manifest.topics[1].partitions[1].segments
    reference = index.segment_ref(key=old[1].key, stored_bytes=len(data), sha256=assembler.sha256_hex())
    partition = replace(
        manifest.topics[1].partitions[1],
        segments=(old[0], change(reference)),
        record_count=old[0].record_count + reference.record_count,
    )
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    return replace(manifest, topics=(manifest.topics[0], topic))


BLOCKS = [block_of(160, 30), block_of(190, 30)]


@pytest.mark.parametrize(
    ("field", "by"),
    [
        ("record_count", -1),
        ("first_offset", 1),
        ("last_offset", -1),
        ("min_timestamp", -1),
        ("max_timestamp", 1),
        ("first_timestamp", 1),
        ("last_timestamp", -1),
        ("max_record_bytes", 1),
    ],
)
def test_an_index_that_says_another_thing_than_the_blocks_is_found(field: str, by: int) -> None:
    sparse = [
        encode_block(Record(first + 3 * i, 1000 + i, 1, b"k", b"v", ()) for i in range(10)) for first in (160, 190)
    ]

    def lie(one: BlockStats) -> BlockStats:
        return one._replace(**{field: getattr(one, field) + by})

    store = RecordingStore()
    manifest = forged(store, store_backup(store), blocks=sparse, stats=lie)
    assert verify(store, manifest).errors == ()
    report = verify(store, manifest, deep=True)
    assert {one.object for one in report.errors} == {KEY}
    assert all(field in one.what or "largest record" in one.what for one in report.errors)
    assert report.exit_code == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"record_count": 59},
        {"block_count": 3},
        {"raw_bytes": 1},
        {"max_record_bytes": 1},
        {"end_offset": 218},
        {"next_offset": 221},
        {"min_timestamp": 5},
        {"max_timestamp": 2_000_000_000_000},
    ],
)
def test_a_manifest_that_says_another_thing_than_the_index_is_found(
    changes: dict[str, Any],
) -> None:
    store = RecordingStore()
    manifest = forged(store, store_backup(store), blocks=BLOCKS, change=lambda one: replace(one, **changes))
    report = verify(store, manifest, deep=True)
    assert KEY in {one.object for one in report.errors}


def test_a_frame_that_holds_no_block_is_found() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    junk = b"\x8a" + b"junk" * 100
    stats = iter([scan_block(BLOCKS[0]), scan_block(BLOCKS[1])])

    identity = identity_of(partition=1, sequence=160)
    assembler = SegmentAssembler(identity)
    frame = BlockCompressor(Compression.ZSTD).compress(junk)
    assembler.add(frame, len(junk), next(stats))
    data = frame + assembler.finish(220)
    store.put(KEY, data)
    index = parse_index(data, object_bytes=len(data), name=KEY)
    old = manifest.topics[1].partitions[1]
    reference = index.segment_ref(key=old.segments[1].key, stored_bytes=len(data), sha256=assembler.sha256_hex())
    partition = replace(old, segments=(old.segments[0], reference))
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    report = verify(store, replace(manifest, topics=(topic,)), deep=True)
    assert damage(report) == [(KEY, 0)]
    assert "damaged" in report.errors[0].what


def test_a_wrong_sha256_in_the_index_is_found() -> None:
    """All blocks are right, and so is the object: only what it says of its blocks together."""
    store = RecordingStore()
    manifest = store_backup(store)
    old = manifest.topics[1].partitions[1]
    data = store.data(KEY)
    index = index_of(store)
    packed = data[index.index_position + 8 : -24].replace(index.content_sha256, b"\0" * 32)
    data = b"".join(
        (
            data[: index.index_position + 8],
            packed,
            struct.pack("<IIQ8s", len(packed), crc32(packed), index.index_position, b"KBRSEGv1"),
        )
    )
    store.put(KEY, data)
    reference = replace(old.segments[1], sha256=sha256(data).hexdigest())
    partition = replace(old, segments=(old.segments[0], reference))
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    report = verify(store, replace(manifest, topics=(topic,)), deep=True)
    assert damage(report) == [(KEY, 0)]
    assert "SHA-256 of its blocks" in report.errors[0].what


def test_a_key_that_is_no_segments_is_damage_of_the_manifest() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    partition = manifest.topics[1].partitions[1]
    hostile = replace(partition.segments[0], key="../../../etc/passwd")
    partition = replace(partition, segments=(hostile, partition.segments[1]))
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    store.calls.clear()
    report = verify(store, replace(manifest, topics=(topic,)))
    assert damage(report) == [("nightly/manifest.json", None)]
    assert not any("passwd" in key for _, key in store.calls)


def test_a_block_over_the_limit_is_damage() -> None:
    store = RecordingStore()
    report = verify(store, store_backup(store), deep=True, max_block_bytes=100)
    assert len(report.errors) == 4
    assert all("allowed" in one.what for one in report.errors)


# -- coverage, notes, progress ------------------------------------------------------------


@BOTH
def test_a_segment_that_the_manifest_forgot_is_a_hole_and_a_note(deep: bool) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    partition = manifest.topics[1].partitions[1]
    partition = replace(partition, segments=partition.segments[1:], record_count=60)
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    report = verify(store, replace(manifest, topics=(manifest.topics[0], topic)), deep=deep)
    assert damage(report) == [("nightly/manifest.json", None)]
    assert "orders[1]: offsets 100 to 159" in report.errors[0].what
    assert report.notes == (f"{KEY.replace('0160', '0100')} is there, but the manifest does not list it",)


def test_an_incomplete_backup_that_is_undamaged_is_exit_0_with_notes() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    partition = replace(
        manifest.topics[1].partitions[1],
        status=PartitionStatus.FAILED,
        error="no leader",
        end_offset_exclusive=500,
    )
    topic = replace(manifest.topics[1], partitions=(manifest.topics[1].partitions[0], partition))
    manifest = replace(manifest, status=RunStatus.INCOMPLETE, topics=(topic,))
    report = verify(store, manifest, deep=True)
    assert report.exit_code == 0
    assert len(report.notes) == 2


def test_objects_that_nobody_listed_are_notes() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    for key in ("index.parquet", "groups.json", "locks/a", "restores/x/state.json"):
        store.put(f"nightly/{key}", b"")
    store.put("nightly/topics/orders/partition=0/segments.json", b"")
    assert verify(store, manifest).notes == ()
    store.put("nightly/topics/orders/partition=0/.segment.tmp", b"")
    assert verify(store, manifest).notes == (
        "nightly/topics/orders/partition=0/.segment.tmp is there, but it is no object of kbr's",
    )
    for number in range(150):
        store.put(f"nightly/junk-{number:03}", b"")
    notes = verify(store, manifest).notes
    assert len(notes) == 101
    assert notes[-1] == "and 51 more objects like these"


def test_another_backup_beside_it_is_not_its_business() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store_backup(store, backup_id="nightly-2")
    assert verify(store, manifest).notes == ()


@BOTH
def test_progress_reaches_its_end(deep: bool) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store.flip(KEY, 5)
    seen: list[VerifyProgress] = []
    verify(store, manifest, deep=deep, on_progress=seen.append)
    assert [one.objects_done for one in seen] == [1, 2, 3, 4]
    assert seen[-1].objects_total == 4
    assert seen[-1].bytes_done == seen[-1].bytes_total > 0


@BOTH
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_any_number_of_threads_finds_the_same(deep: bool, threads: int) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    for key in store.stored_keys():
        if "segment" in key:
            store.flip(key, 40)
    expected = [key for key in store.stored_keys() if "segment" in key]
    report = verify(store, manifest, deep=deep, threads=threads)
    assert [one.object for one in report.errors] == expected


@BOTH
def test_large_objects_are_hashed_piece_by_piece(deep: bool) -> None:
    store = RecordingStore()
    blocks = [block_of(i * 200_000, 200_000) for i in range(2)]
    reference = write_segment(store, identity_of(compression=Compression.NONE), blocks, 400_000)
    assert reference.stored_bytes > 16_000_000
    manifest = replace(
        store_backup(RecordingStore()),
        topics=(
            replace(
                store_backup(RecordingStore()).topics[1],
                partitions=(partition_of([reference]),),
                partition_count=1,
            ),
        ),
    )
    store.ranges.clear()
    assert verify(store, manifest, deep=deep).errors == ()
    assert len(store.ranges) > 1
    assert all(length <= 16 * 2**20 for _, length in store.ranges)


def test_an_object_that_may_not_be_read_is_named_and_the_others_are_checked() -> None:
    class Archived(RecordingStore):
        def read_range(self, key: str, start: int, length: int) -> bytes:
            if key == KEY:
                raise AccessDenied(f"{key} is archived", object=key)
            return super().read_range(key, start, length)

    store = Archived()
    manifest = store_backup(store)
    for deep in (False, True):
        report = verify(store, manifest, deep=deep)
        assert damage(report) == [(KEY, None)]
        assert "archived" in report.errors[0].what
        assert report.objects == 3


@BOTH
def test_a_store_that_does_not_answer_ends_the_run(deep: bool) -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store.fail["read_range"] = StoreUnavailable("no answer for 15 minutes")
    with pytest.raises(StoreUnavailable) as caught:
        verify(store, manifest, deep=deep)
    assert caught.value.exit_code == 5


def test_the_report_is_a_document() -> None:
    store = RecordingStore()
    store_backup(store)
    store.flip(KEY, 40)
    report = verify(store, Catalog(store).load("nightly"), deep=True)
    document: dict[str, Any] = json.loads(json.dumps(report.to_document()))
    assert document["undamaged"] is False
    assert document["exit_code"] == 4
    assert document["errors"][0]["object"] == KEY
    assert not document["errors"][0]["what"].startswith(KEY)
    assert document["objects"] == 4
    assert verify(store, Catalog(store).load("nightly")).to_document()["blocks"] is None


def test_what_is_no_file_is_damage_and_the_rest_is_checked(tmp_path: Path) -> None:
    source = RecordingStore()
    manifest = store_backup(source)
    for key in source.stored_keys():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(source.data(key))
    first, second, *_ = sorted(tmp_path.rglob("segment-*"))
    first.unlink()
    first.symlink_to(second)
    second.unlink()
    os.mkfifo(second)
    (tmp_path / "nightly" / "groups.json").write_bytes(bytes(MAX_GROUPS_BYTES + 1))
    report = verify(LocalStore(str(tmp_path)), manifest)
    found = {one.object: one.what for one in report.errors}
    assert "symbolic link" in found[first.relative_to(tmp_path).as_posix()]
    assert "a pipe" in found[second.relative_to(tmp_path).as_posix()]
    assert "bytes" in found["nightly/groups.json"]
    assert len(found) == 3
    assert report.objects == 2
