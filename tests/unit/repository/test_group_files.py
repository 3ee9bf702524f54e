"""Where groups' offsets lie, and that one backup's are never taken for another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import GroupsMissing, GroupsUnreadable
from kbr.format.groups import dump_groups
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.repository import groups as groups_module
from kbr.repository.groups import (
    list_rollbacks,
    load_group_rollback,
    load_snapshot,
    save_group_rollback,
    save_snapshot,
)
from kbr.storage.memory import MemoryStore
from tests.unit.format.test_groups import ROLLBACK, SNAPSHOT

RESTORE = "0" * 32


def test_a_backup_without_groups_is_told_from_a_damaged_one() -> None:
    store = MemoryStore()
    with pytest.raises(GroupsMissing) as caught:
        load_snapshot(store, "nightly")
    assert caught.value.exit_code == 10
    save_snapshot(store, SNAPSHOT)
    assert load_snapshot(store, "nightly") == SNAPSHOT
    store.put("other/groups.json", dump_groups(SNAPSHOT))
    with pytest.raises(GroupsUnreadable, match="wrong place"):
        load_snapshot(store, "other")


def test_what_would_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    save_snapshot(store, SNAPSHOT)
    monkeypatch.setattr(groups_module, "MAX_GROUPS_BYTES", 1000)
    large = GroupOffsets(
        group="g", kind="classic", state="Empty",
        offsets={TopicPartition("t", number): CommittedOffset(offset=1) for number in range(500)},
    )  # fmt: skip
    with pytest.raises(GroupsUnreadable, match="more than the 1000"):
        save_snapshot(store, replace(SNAPSHOT, groups=(large,)))
    monkeypatch.undo()
    assert load_snapshot(store, "nightly") == SNAPSHOT


def test_the_newest_rollback_is_the_last_one() -> None:
    store = MemoryStore()
    for at_ms in (1_714_564_800_001, 1_714_564_799_999, 1_714_564_800_000):
        key = save_group_rollback(store, replace(ROLLBACK, created_at_ms=at_ms))
        assert load_group_rollback(store, key).created_at_ms == at_ms
    store.put(f"nightly/restores/{RESTORE}/groups-rollback-x.json", b"")
    store.put(f"nightly/restores/{RESTORE}/state.json", b"")
    keys = list_rollbacks(store, "nightly", RESTORE)
    assert [key[-18:-5] for key in keys] == ["1714564799999", "1714564800000", "1714564800001"]
