"""Segments that are not there, cut or archived are found before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import IntegrityError
from kbr.model import SegmentRef, TopicPartition
from kbr.restore import presence
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.restore.presence import check_presence
from kbr.restore.window import TimeWindow
from kbr.storage.base import ObjectInfo
from kbr.storage.memory import MemoryStore
from tests.support.backups import block_of, identity_of, write_segment


class Store(MemoryStore):
    """Some of its objects are archived: head() and list() say so, or only list() does."""

    def __init__(self) -> None:
        super().__init__("memory://presence")
        self.archived: set[str] = set()
        self.got_back: set[str] = set()
        self.heads = 0

    def head(self, key: str) -> ObjectInfo:
        self.heads += 1
        return replace(super().head(key), is_archived=key in self.archived - self.got_back)

    def list(self, prefix: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
        for info in super().list(prefix):
            yield replace(info, is_archived=info.key in self.archived)


def _backup(partitions: int = 2, segments: int = 3) -> tuple[Store, RestorePlan]:
    store = Store()
    plans = []
    for number in range(partitions):
        refs: list[SegmentRef] = []
        for sequence in range(0, segments * 10, 10):
            identity = identity_of(partition=number, sequence=sequence)
            refs.append(write_segment(store, identity, [block_of(sequence, 10)], sequence + 10))
        source = TopicPartition(identity.topic, number)
        plans.append(PartitionPlan(source=source, target=TopicPartition("back", number), segments=tuple(refs)))
    return store, RestorePlan(
        backup_id=identity.backup_id, window=TimeWindow(), topics=(), partitions=tuple(plans), warnings=()
    )


@pytest.fixture(params=["asked one by one", "listed"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "listed":
        monkeypatch.setattr(presence, "MAX_ASKED", 0)


def _key(plan: RestorePlan, partition: int, number: int) -> str:
    return f"{plan.backup_id}/{plan.partitions[partition].segments[number].key}"


def test_a_backup_that_is_whole_is_restored_whole() -> None:
    store, plan = _backup()
    assert check_presence(store, plan, allow_incomplete=False) == (plan, {})


@pytest.mark.parametrize("what", ["missing", "cut", "archived"])
def test_what_cannot_be_read_is_named_before_anything_is_sent(what: str) -> None:
    store, plan = _backup()
    key = _key(plan, 1, 1)
    if what == "missing":
        store.delete(key)
    elif what == "cut":
        store.put(key, store.get(key, max_bytes=10**6)[:-1])
    else:
        store.archived.add(key)
    with pytest.raises(IntegrityError, match="1 of 6 segments .* can't be read") as caught:
        check_presence(store, plan, allow_incomplete=False)
    assert caught.value.exit_code == 4
    assert key in str(caught.value)
    left, errors = check_presence(store, plan, allow_incomplete=True)
    assert [len(one.segments) for one in left.partitions] == [3, 1]
    (source,) = errors
    assert source == plan.partitions[1].source
    assert key in str(errors[source])


def test_what_was_got_back_from_an_archive_can_be_read() -> None:
    store, plan = _backup()
    store.archived = {_key(plan, 0, 0), _key(plan, 1, 2)}
    store.got_back = set(store.archived)
    assert check_presence(store, plan, allow_incomplete=False) == (plan, {})


def test_many_are_counted_and_few_named() -> None:
    store, plan = _backup(partitions=5)
    for number in range(5):
        for segment in range(3):
            store.delete(_key(plan, number, segment))
    with pytest.raises(IntegrityError, match="15 of 15 segments .* and 10 more") as caught:
        check_presence(store, plan, allow_incomplete=False)
    assert len(str(caught.value)) < 1500
    left, errors = check_presence(store, plan, allow_incomplete=True)
    assert len(errors) == 5
    assert not left.segments
