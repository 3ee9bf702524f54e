"""A backup keeps its block index up, and never fails for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.backup import index_keeping
from kbr.backup.index_keeping import IndexKeeper
from kbr.errors import AccessDenied, Locked
from kbr.format.documents import Manifest
from kbr.repository.indexes import open_index
from kbr.repository.layout import index_head_key, index_prefix
from tests.support.backup_bench import OPTIONS, Bench, Topics
from tests.support.backups import RecordingStore, partition_of, store_backup
from tests.support.clocks import FakeClock


class _Run:
    """One run's keeper, and what it says."""

    def __init__(self, store: RecordingStore) -> None:
        self.clock = FakeClock()
        self.warnings: list[str] = []
        self.is_stopped = False
        self.lock_error: Exception | None = None
        self.keeper = IndexKeeper(
            store, "nightly", kbr_version="0", check_lock=self._check, is_stopped=lambda: self.is_stopped,
            warn=self.warnings.append, clock=self.clock,
        )  # fmt: skip

    def _check(self) -> None:
        if self.lock_error is not None:
            raise self.lock_error


def _fewer(manifest: Manifest) -> Manifest:
    topic = manifest.topics[1]
    partitions = tuple(partition_of(one.segments[:1], partition=one.partition) for one in topic.partitions)
    return replace(manifest, topics=(manifest.topics[0], replace(topic, partitions=partitions)))


def test_each_checkpoint_adds_what_it_lists_and_the_end_adds_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_keeping, "MOST_SEGMENTS", 1)
    store = RecordingStore()
    manifest = store_backup(store)
    run = _Run(store)
    for count in (1, 2, 2):
        run.keeper.checkpoint(_fewer(manifest))
        assert open_index(store, "nightly").head.segment_count == count
    run.keeper.finish(manifest)
    assert open_index(store, "nightly").standing(manifest).name == "current"
    assert run.warnings == []


def test_a_store_that_refuses_the_index_is_one_warning_and_the_next_checkpoint_tries_again() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    run = _Run(store)
    store.fail["open_upload"] = AccessDenied("may not write", hint="ask")
    run.keeper.checkpoint(_fewer(manifest))
    run.keeper.checkpoint(_fewer(manifest))
    assert len(run.warnings) == 1
    assert "may not write" in run.warnings[0]
    del store.fail["open_upload"]
    run.keeper.finish(manifest)
    assert open_index(store, "nightly").standing(manifest).name == "current"


def test_a_segment_that_can_not_be_indexed_is_told_once() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    victim = manifest.topics[1].partitions[0].segments[1]
    store.flip(f"nightly/{victim.key}", victim.stored_bytes - 40)
    run = _Run(store)
    run.keeper.checkpoint(manifest)
    run.keeper.finish(manifest)
    assert len(run.warnings) == 1
    assert victim.key in run.warnings[0]
    assert open_index(store, "nightly").standing(manifest).covered == 3


def test_a_run_that_lost_its_lock_writes_no_head() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    run = _Run(store)
    run.lock_error = Locked("another run has it")
    with pytest.raises(Locked):
        run.keeper.checkpoint(manifest)
    assert index_head_key("nightly") not in store.stored_keys()
    run.lock_error = None
    run.keeper.finish(manifest)
    # what was written in vain is removed by who has the lock
    assert len(list(store.list(index_prefix("nightly")))) == 2


def test_a_stop_leaves_the_index_behind_after_a_while_and_the_next_run_adds_the_rest() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    run = _Run(store)
    run.is_stopped = True
    run.keeper.checkpoint(_fewer(manifest))  # there is patience
    run.clock.advance(60)
    run.keeper.finish(manifest)
    assert open_index(store, "nightly").standing(manifest).covered == 2
    assert run.warnings == []
    _Run(store).keeper.finish(manifest)
    assert open_index(store, "nightly").standing(manifest).name == "current"


def test_a_backup_with_the_index_on_asks_for_it_and_one_without_leaves_it_alone() -> None:
    bench = Bench(Topics(t=[10]))
    bench.run(OPTIONS)
    assert [info.key for info in bench.store.list("b/index/")] == []
    report = bench.run(replace(OPTIONS, index=True))
    # the bench's segments are not there: that is told, and the backup is as complete as it was
    assert report.exit_code == 0
    assert any("block index ends before it" in one for one in report.warnings)
    assert [info.key for info in bench.store.list("b/index/")] == [index_head_key("b")]
