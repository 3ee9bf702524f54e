"""A large manifest is read for the sake of the chosen topics only, and a restore is the same as by the whole one."""

from __future__ import annotations

import random

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import BackupMissing, ManifestUnreadable, UnsupportedFormat, UsageError
from kbr.kafka.selection import may_choose, select_topics
from kbr.model import Record, TopicPartition
from kbr.repository import catalog
from kbr.repository.catalog import Catalog
from kbr.repository.layout import manifest_key
from kbr.restore.options import RestoreOptions
from kbr.storage.memory import MemoryStore
from tests.support.backups import RecordingStore, store_backup
from tests.support.fault_store import Script
from tests.support.inline import mock_bench


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every manifest counts as large."""
    monkeypatch.setattr(catalog, "SMALL_MANIFEST_BYTES", 0)


def test_chosen_topics_are_as_in_the_whole_manifest_which_is_not_read_at_once() -> None:
    store = RecordingStore()
    manifest = store_backup(store)
    store.calls.clear()
    found = Catalog(store).load_chosen("nightly", lambda name: name == "orders")
    assert found.topics[1] == manifest.topics[1]
    assert (found.topics[0].name, found.topics[0].partition_count, found.topics[0].partitions) == ("empty", 1, ())
    assert ("get", manifest_key("nightly")) not in store.calls
    assert Catalog(store).load_chosen("nightly", lambda _name: True) == manifest


def test_a_small_manifest_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "SMALL_MANIFEST_BYTES", 2**20)
    store = RecordingStore()
    manifest = store_backup(store)
    assert Catalog(store).load_chosen("nightly", lambda _name: False) == manifest


def test_what_is_wrong_with_a_manifest_is_told_as_if_it_was_read_whole() -> None:
    store = RecordingStore()
    store_backup(store)
    key = manifest_key("nightly")
    whole = store.data(key)

    def load() -> object:
        return Catalog(store).load_chosen("nightly", lambda name: name == "orders")

    for data, error in (
        (whole[:-1], ManifestUnreadable),
        (whole.replace(b'"raw_bytes"', b'"row_bytes"', 1), ManifestUnreadable),
        (whole.replace(b"nightly", b"nightlx"), ManifestUnreadable),
        (whole.replace(b'"format_version":1', b'"format_version":7'), UnsupportedFormat),
        (b"{}", UnsupportedFormat),
        (b"", ManifestUnreadable),
    ):
        store.put(key, data)
        with pytest.raises(error):
            load()
    store.delete(key)
    with pytest.raises(ManifestUnreadable, match="other objects"):
        load()
    with pytest.raises(BackupMissing):
        Catalog(store).load_chosen("other", lambda _name: True)


def test_topics_that_may_be_chosen_are_those_that_are() -> None:
    source = random.Random(5)
    names = ["a", "a1", "ab", "b", "b.c", "orders", "orders-dlq", "__consumer_offsets", "x[y]", "x"]
    patterns = ["*", "a*", "a", "b", "?", "[ab]", "[!a]*", "orders*", "*-dlq", "__*", "x[y]", "x"]
    for _ in range(500):
        include = source.sample(patterns, source.randint(1, 3))
        exclude = source.sample(patterns, source.randint(0, 2))
        chosen = [name for name in names if may_choose(name, include, exclude)]
        try:
            found = select_topics([(name, False, 1) for name in names], include, exclude, include_internal=True)
        except UsageError:
            found = []
        assert sorted(chosen) == found, (include, exclude)


def test_a_restore_of_one_topic_out_of_a_large_manifest_is_the_same_record_by_record() -> None:
    with mock_bench() as bench:
        topics = {"orders": 2, "payments": 1, "refunds": 1}
        for name, count in topics.items():
            bench.create_topic(name, count)
            bench.create_topic(f"to-{name}", count)
        bench.produce(
            {
                TopicPartition(name, number): [Record(n, 1_714_564_800_000 + n, 1, b"%d" % n, b"v" * 50, ()) for n in range(90)]
                for name, count in topics.items()
                for number in range(count)
            }
        )
        store = MemoryStore("memory://chosen")
        bench.back_up(store, BackupOptions(backup_id="b", include=tuple(topics), segment_max_bytes=2000), Script())
        mapping = {"payments": "to-payments"}
        report = bench.restore(store, RestoreOptions(backup_id="b", include=("pay*",), topic_mapping=mapping), Script())
        assert report.exit_code == 0
        assert [topic.source for topic in report.plan.topics] == ["payments"]
        found = bench.read({"payments": 1, "to-payments": 1, "to-orders": 2})
        assert found["to-payments", 0] == found["payments", 0]
        assert len(found["to-payments", 0]) == 90
        assert found["to-orders", 0] == found["to-orders", 1] == []
