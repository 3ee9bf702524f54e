"""Commits beside the writing: batches where the store gains by them, and an error for each that failed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from kbr.backup.committer import Committer
from kbr.errors import KbrError, StoreFull
from kbr.model import SegmentRef
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage import ObjectStore
from kbr.storage.base import ObjectInfo, Upload
from kbr.storage.local import LocalStore
from kbr.storage.memory import MemoryStore
from kbr_codec import scan_block
from tests.support.backups import block_of, identity_of


class _CountingStore(LocalStore):
    """A folder that notes its batches, and holds the first one up."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.batches: list[int] = []
        self.go_on = threading.Event()

    def commit_together(self, uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        self.batches.append(len(uploads))
        assert self.go_on.wait(30)
        return super().commit_together(uploads)


def _writer(store: ObjectStore, partition: int) -> SegmentWriter:
    writer = SegmentWriter(store, identity_of(partition=partition))
    block = block_of(0, 20)
    writer.append(block, len(block), scan_block(block))
    return writer


def test_what_comes_while_a_batch_is_committed_is_the_next_batch(tmp_path: Path) -> None:
    store = _CountingStore(str(tmp_path))
    committer = Committer(store, lanes=300)
    committed: list[SegmentRef] = []
    waits = [committer.submit(_writer(store, number), 20, committed.append) for number in range(300)]
    store.go_on.set()
    for one in waits:
        one.result(30)
    committer.close()
    assert sum(store.batches) == 300
    assert max(store.batches) == 128
    assert [ref.key for ref in committed] == [info.key.removeprefix("nightly/") for info in sorted(
        store.list(""), key=lambda info: int(info.key.split("=")[1].split("/")[0])
    )]


@pytest.mark.parametrize("lanes", [1, 20])
def test_all_that_was_submitted_is_committed_when_it_is_closed(tmp_path: Path, lanes: int) -> None:
    for store in (LocalStore(str(tmp_path)), MemoryStore("memory://committer")):
        committer = Committer(store, lanes=lanes)
        waits = [committer.submit(_writer(store, number), 20, lambda _ref: None) for number in range(lanes)]
        committer.close()
        committer.close()
        assert all(one.done() and one.exception() is None for one in waits)
        assert len(list(store.list(""))) == lanes


def test_one_that_can_not_be_committed_has_its_error_and_the_others_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    whole = store.commit_together

    def full(uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        return [StoreFull("full") if number == 2 else info for number, info in enumerate(whole(uploads))]

    monkeypatch.setattr(store, "commit_together", full)
    committer = Committer(store, lanes=20)
    writers = [_writer(store, number) for number in range(9)]
    writers[5].abort()

    def broken(_ref: SegmentRef) -> None:
        raise RuntimeError("who is told fails")

    waits = [
        committer.submit(writer, 20, broken if number == 7 else lambda _ref: None) for number, writer in enumerate(writers)
    ]
    committer.close()
    errors = {number: one.exception() for number, one in enumerate(waits) if one.exception() is not None}
    assert set(errors) == {2, 5, 7}
    assert isinstance(errors[2], StoreFull)
    assert "aborted" in str(errors[5])
    assert "who is told fails" in str(errors[7])
