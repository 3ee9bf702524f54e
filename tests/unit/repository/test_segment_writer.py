"""SegmentWriter: a segment is there whole or not at all, and what it says of itself is right."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbr.errors import IntegrityError, KbrError, Locked, PreconditionFailed, StorageError, StoreFull, UsageError
from kbr.format import segment as segment_module
from kbr.format.compression import BlockCompressor
from kbr.format.segment import MAX_BLOCKS, parse_index
from kbr.model import Compression, SegmentRef
from kbr.repository import segment_writer
from kbr.repository.segment_writer import SegmentWriter, commit_segments
from kbr.storage.base import ObjectInfo
from kbr.storage.local import LocalStore
from kbr_codec import scan_block
from tests.support import plain_reader
from tests.support.backups import RecordingStore, block_of, identity_of

KEY = "nightly/topics/orders/partition=0/segment-00000000000000000100.zst"


def writer_of(store: RecordingStore) -> SegmentWriter:
    return SegmentWriter(store, identity_of(sequence=100))


def append(writer: SegmentWriter, first_offset: int, count: int = 10) -> None:
    block = block_of(first_offset, count)
    frame = BlockCompressor(Compression.ZSTD).compress(block)
    writer.append(frame, len(block), scan_block(block))


def test_a_committed_segment_is_what_its_reference_says() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 103)
    append(writer, 120)
    assert writer.record_count == 20
    assert writer.key == KEY
    assert not store.stored_keys()
    reference = writer.commit(140)
    data = store.data(KEY)
    assert store.stored_keys() == [KEY]
    assert reference.key == KEY.removeprefix("nightly/")
    assert reference.sha256 == hashlib.sha256(data).hexdigest()
    assert reference.stored_bytes == writer.stored_bytes == len(data)
    assert (reference.sequence, reference.next_offset) == (100, 140)
    assert (reference.start_offset, reference.end_offset) == (103, 129)
    assert (reference.record_count, reference.block_count) == (20, 2)
    index, records = plain_reader.read_segment(data)
    assert len(records) == 20
    assert index["max_record_bytes"] == reference.max_record_bytes
    assert index["raw_bytes"] == reference.raw_bytes


def test_the_object_says_who_wrote_it() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    writer.commit(110)
    assert store.head(KEY).metadata == {"kbr-writer": "writer-1", "kbr-format": "1"}


def test_nothing_is_asked_of_the_store_before_the_first_block() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    writer.abort()
    with pytest.raises(ValueError, match="at least one block"):
        writer_of(store).commit(110)
    assert store.calls == []


def test_an_aborted_segment_leaves_nothing() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    writer.abort()
    writer.abort()
    assert not store.stored_keys()
    assert [upload.state for upload in store.uploads] == ["aborted"]
    with pytest.raises(StorageError, match="aborted"):
        append(writer, 110)
    with pytest.raises(StorageError, match="aborted"):
        writer.commit(120)


def test_an_abort_after_the_commit_changes_nothing() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    writer.commit(110)
    writer.abort()
    assert store.stored_keys() == [KEY]
    assert [upload.state for upload in store.uploads] == ["committed"]
    with pytest.raises(StorageError, match="committed"):
        append(writer, 110)


@pytest.mark.parametrize("operation", ["open_upload", "write"])
def test_a_writer_is_of_no_use_after_its_first_error(operation: str) -> None:
    store = RecordingStore()
    writer = writer_of(store)
    store.fail[operation] = StoreFull("no space")
    with pytest.raises(StoreFull):
        append(writer, 100)
    del store.fail[operation]
    with pytest.raises(StorageError, match="earlier error \\(StoreFull\\)") as caught:
        append(writer, 100)
    assert caught.value.context["object"] == KEY
    with pytest.raises(StorageError, match="earlier error"):
        writer.commit(110)
    writer.abort()
    assert not store.stored_keys()
    assert all(upload.state == "aborted" for upload in store.uploads)


@pytest.mark.parametrize("together", [False, True])
def test_a_segment_never_takes_the_place_of_another_writer_s(together: bool) -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    store.put(KEY, b"another's")
    if together:
        upload, reference = writer.complete(110)
        try:
            stored: ObjectInfo | KbrError = upload.commit()
        except KbrError as error:
            stored = error
        with pytest.raises(PreconditionFailed, match="another writer's segment") as caught:
            writer.completed(stored, reference)
    else:
        with pytest.raises(PreconditionFailed, match="another writer's segment") as caught:
            writer.commit(110)
    assert caught.value.context["object"] == KEY
    assert KEY in caught.value.message
    assert "run the same command again" in caught.value.hint
    assert store.data(KEY) == b"another's"
    assert [upload.state for upload in store.uploads] == ["aborted"]


def test_what_is_asked_before_the_commit_is_asked_last_and_may_refuse_it() -> None:
    store = RecordingStore()
    asked: list[list[tuple[str, str]]] = []
    writer = SegmentWriter(
        store, identity_of(sequence=100), before_commit=lambda: asked.append(list(store.calls))
    )
    append(writer, 100)
    assert asked == []
    writer.commit(110)
    assert [calls[-1][0] for calls in asked] == ["write"]  # of the index
    assert store.calls[len(asked[0])][0] == "commit"

    def refuse() -> None:
        raise Locked("the backup is another's")

    refused = SegmentWriter(store, identity_of(sequence=200), before_commit=refuse)
    append(refused, 200)
    with pytest.raises(Locked):
        refused.commit(210)
    assert store.stored_keys() == [KEY]
    assert [upload.state for upload in store.uploads] == ["committed", "aborted"]
    with pytest.raises(StorageError, match=r"earlier error \(Locked\)"):
        refused.commit(210)


def test_of_segments_committed_together_those_that_are_refused_leave_the_others_alone(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    asked: list[int] = []

    def ask(number: int) -> None:
        asked.append(number)
        assert len(list(tmp_path.rglob(".kbr-tmp-*"))) == 3 - asked[:-1].count(1)
        if number == 1:
            raise Locked("the backup is another's")

    jobs = []
    for number in range(3):
        writer = SegmentWriter(
            store, identity_of(partition=number, sequence=100), before_commit=lambda number=number: ask(number)
        )
        append(writer, 100)
        jobs.append((writer, 110))
    results = commit_segments(store, jobs)
    assert asked == [0, 1, 2]
    assert [type(result) for result in results] == [SegmentRef, Locked, SegmentRef]
    assert len(list(store.list(""))) == 2
    assert not list(tmp_path.rglob(".kbr-tmp-*"))


@pytest.mark.parametrize("operation", ["write", "commit"])
def test_a_failed_commit_leaves_nothing(operation: str) -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    store.fail[operation] = StoreFull("no space")
    with pytest.raises(StoreFull):
        writer.commit(110)
    store.fail.clear()
    assert not store.stored_keys()
    assert [upload.state for upload in store.uploads] == ["aborted"]
    with pytest.raises(StorageError, match="earlier error"):
        writer.commit(110)


def test_the_first_error_is_told_even_if_the_abort_fails_too() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    store.fail = {"commit": StoreFull("no space"), "abort": StorageError("and no abort")}
    with pytest.raises(StoreFull):
        writer.commit(110)


def test_a_block_out_of_order_ends_the_segment() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 110)
    with pytest.raises(ValueError, match="offset 110 where 120"):
        append(writer, 110)
    assert [upload.state for upload in store.uploads] == ["aborted"]
    with pytest.raises(StorageError, match="earlier error"):
        writer.commit(200)


def test_a_next_offset_within_the_records_is_refused() -> None:
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)
    with pytest.raises(ValueError, match="next offset"):
        writer.commit(109)
    assert not store.stored_keys()


def test_a_store_that_changes_what_it_is_given_is_found_out() -> None:
    class Framing(RecordingStore):
        def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
            return super().put(key, b"1000;chunk-signature" + data, **options)

    store = Framing()
    writer = writer_of(store)
    append(writer, 100)
    with pytest.raises(IntegrityError, match="the store has"):
        writer.commit(110)


@pytest.mark.fault("D4", "an index that reads otherwise than it was written", promise=1)
def test_an_index_that_reads_otherwise_is_never_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit in the machine's memory between the numbers and their bytes."""
    store = RecordingStore()
    writer = writer_of(store)
    append(writer, 100)

    def misread(*args: Any, **options: Any) -> Any:
        index = parse_index(*args, **options)
        return replace(index, blocks=(replace(index.blocks[0], crc32=1),))

    monkeypatch.setattr(segment_writer, "parse_index", misread)
    with pytest.raises(IntegrityError, match="otherwise"):
        writer.commit(110)
    assert not store.stored_keys()

    writer = writer_of(store)
    append(writer, 100)

    def damage(packed: object) -> bytes:
        raise KbrError("unreadable")

    monkeypatch.setattr(segment_module, "dump_msgpack", damage)
    with pytest.raises(KbrError, match="unreadable"):
        writer.commit(110)
    assert not store.stored_keys()


def test_names_that_cannot_be_in_a_key_are_refused_before_anything_is_written() -> None:
    store = RecordingStore()
    every: tuple[dict[str, Any], ...] = ({"topic": ".."}, {"backup_id": "a/b"})
    for changes in every:
        with pytest.raises(UsageError):
            SegmentWriter(store, replace(identity_of(), **changes))
    assert store.calls == []


def test_a_full_segment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BLOCKS == 65_536
    monkeypatch.setattr(segment_writer, "MAX_BLOCKS", 2)
    writer = writer_of(RecordingStore())
    append(writer, 100)
    assert not writer.is_full
    append(writer, 110)
    assert writer.is_full
