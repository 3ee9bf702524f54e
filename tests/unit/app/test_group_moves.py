"""Groups of a target, put and put back: what is refused, and that the way back is kept before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kbr.app import group_places
from kbr.app import groups as groups_module
from kbr.app.groups import GroupRun, check_groups, move_groups_of
from kbr.errors import (
    AccessDenied,
    GroupActive,
    GroupRewind,
    GroupsMissing,
    OffsetMapMissing,
    PreflightRefused,
    StoreUnavailable,
    UsageError,
)
from kbr.format.group_rollback import load_rollback
from kbr.format.groups import GroupSnapshot
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.kafka.cluster import ClusterInfo, PartitionOffsets
from kbr.kafka.groups import GroupStanding
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition, TopicSpec
from kbr.repository.groups import load_group_rollback, load_snapshot, save_group_rollback, save_snapshot
from kbr.repository.offset_maps import OffsetRangeMap
from kbr.repository.restore_states import save_state
from kbr.storage.base import ObjectInfo
from tests.support.backups import RecordingStore, store_backup
from tests.support.clocks import FakeClock
from tests.support.range_map import RangeMap
from tests.unit.restore.test_group_plan import Coordinator

SOURCE, TARGET = TopicPartition("orders", 1), TopicPartition("back", 1)
OLD = CommittedOffset(offset=2)
RUN = GroupRun(execute=True)
RESTORE = "0" * 32


class Store(RecordingStore):
    """One that can be made read-only, or to be away."""

    error: Exception | None = None

    def put(self, key: str, data: Any, **more: Any) -> ObjectInfo:
        if self.error is not None:
            raise self.error
        return super().put(key, data, **more)


class Target:
    """A cluster with a restored topic and a group."""

    def __init__(self) -> None:
        self.cluster_id = "c"
        self.topic_id = "id-of-back"
        self.groups = Coordinator({"g": {TARGET: OLD}})

    def info(self) -> ClusterInfo:
        return ClusterInfo(cluster_id=self.cluster_id, brokers=("h:1",))

    def topics(self) -> list[tuple[str, bool, int]]:
        return [("back", False, 2)] if self.topic_id else []

    def topics_without(self, names: Sequence[str], operation: str) -> list[str]:
        return []

    def describe_topics(self, names: Sequence[str]) -> dict[str, TopicSpec]:
        return {
            name: TopicSpec(name=name, partition_count=2, replication_factor=1, topic_id=self.topic_id) for name in names
        }

    def offsets(self, keys: Sequence[TopicPartition], _level: str) -> dict[TopicPartition, PartitionOffsets]:
        return {key: PartitionOffsets(log_start=0, high_watermark=20, end_offset=20) for key in keys}


class Place:
    """A backup with groups, restored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store()
        self.backup_id = store_backup(self.store).backup_id
        self.target = Target()
        save_snapshot(
            self.store,
            GroupSnapshot(
                kbr_version="1", backup_id=self.backup_id, cluster_id="s", captured_at_ms=1, log_ends={}, other_offsets=0,
                unread={"secret": "not allowed"},
                groups=(
                    GroupOffsets(
                        group="g", kind="classic", state="Empty", offsets={SOURCE: CommittedOffset(offset=105)}
                    ),
                ),
            ),
        )  # fmt: skip
        offset_map = RangeMap(
            [OffsetRangeMap(source=SOURCE, target=TARGET, source_start=100, target_start=0, count=20)]
        )
        monkeypatch.setattr(group_places, "open_offset_map", lambda *_arguments: offset_map)

    def restored(self, restore_id: str = RESTORE, **changes: Any) -> None:
        state = RestoreState(
            kbr_version="1", backup_id=self.backup_id, restore_id=restore_id, cluster_id="c",
            status=RestoreStatus.COMPLETE, created_at_ms=1, updated_at_ms=1,
            topics=(
                RestoredTopic(name="back", topic_id="id-of-back", made=True, configs_afterwards={}, bases=(None, 0)),
            ),
        )  # fmt: skip
        save_state(self.store, replace(state, **changes))

    def move(self, run: GroupRun = RUN, restore_id: str | None = None, *, is_complete: bool = False) -> Any:
        return move_groups_of(
            self.store, cast("Any", self.target), self.backup_id, run, restore_id=restore_id, is_complete=is_complete
        )

    @property
    def offset(self) -> int:
        return self.target.groups.now["g"][TARGET].offset


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_what_groups_had_is_kept_in_the_backup_before_it_is_changed(place: Place) -> None:
    place.restored()
    report = place.move()
    assert (report.exit_code, report.status, place.offset) == (0, "complete", 5)
    kept = load_group_rollback(place.store, report.rollback)
    assert kept.groups[0].before == {TARGET: OLD}
    assert report.rollback.startswith(f"{place.backup_id}/restores/{RESTORE}/groups-rollback-")
    assert any("secret" in warning for warning in report.warnings)
    # once more there is nothing to change, and so nothing to keep
    again = place.move()
    assert (again.exit_code, again.rollback) == (0, "")


def test_of_an_apply_that_was_cut_off_and_run_again_the_way_back_is_the_whole_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.restored()
    groups = place.target.groups
    snapshot = load_snapshot(place.store, place.backup_id)
    two = tuple(replace(snapshot.groups[0], group=name) for name in ("g", "h", "new"))
    save_snapshot(place.store, replace(snapshot, groups=two))
    groups.now["h"] = {TARGET: OLD}

    def cut_off(offsets: Any) -> Any:
        Coordinator.commit(groups, {name: offsets[name] for name in ("g", "new")})
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(groups, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            place.move()
    assert {name: now[TARGET].offset for name, now in groups.now.items()} == {"g": 5, "h": 2, "new": 5}
    kept = load_group_rollback(place.store, place.move().rollback)
    assert {one.group: (one.existed, one.before) for one in kept.groups} == {
        "g": (True, {TARGET: OLD}),
        "h": (True, {TARGET: OLD}),
        "new": (False, {TARGET: None}),
    }
    # one that was not cut off is the last one, and ends with what it has changed
    groups.now["h"] = {TARGET: CommittedOffset(offset=3)}
    monkeypatch.setattr(groups_module, "SYSTEM_CLOCK", FakeClock())  # years ago
    kept = load_group_rollback(place.store, place.move().rollback)
    assert {one.group: one.before for one in kept.groups} == {"h": {TARGET: CommittedOffset(offset=3)}}
    target = cast("Any", place.target)
    assert groups_module._former(place.store, target, place.backup_id, None, None, ["*"])[0] == kept


def test_a_plan_changes_and_keeps_nothing(place: Place) -> None:
    place.restored()
    before = list(place.store.stored_keys())
    report = place.move(GroupRun())
    assert report.status == "planned"
    assert report.plan.changes == {"g": {TARGET: CommittedOffset(offset=5)}}
    assert place.offset == 2
    assert list(place.store.stored_keys()) == before


@pytest.mark.fault("R5", "a store that can't keep the former offsets", promise=7)
def test_a_store_that_may_only_be_read_is_refused_unless_there_is_a_file(place: Place, tmp_path: Path) -> None:
    place.restored()
    place.store.error = AccessDenied("no right to write")
    with pytest.raises(PreflightRefused, match="nothing was committed") as caught:
        place.move()
    assert "--rollback-file" in caught.value.hint
    assert place.offset == 2
    file = tmp_path / "before.json"
    report = place.move(replace(RUN, rollback_file=file))
    assert (report.exit_code, report.rollback, place.offset) == (0, str(file), 5)
    assert load_rollback(file.read_bytes(), name="f").groups[0].before == {TARGET: OLD}


def test_a_rollback_file_is_never_written_over(place: Place, tmp_path: Path) -> None:
    place.restored()
    file = tmp_path / "before.json"
    file.write_text("the only way back of yesterday")
    with pytest.raises(PreflightRefused, match="nothing was committed"):
        place.move(replace(RUN, rollback_file=file))
    assert place.offset == 2
    assert file.read_text() == "the only way back of yesterday"


def test_the_way_back_is_the_newest_that_has_the_group(place: Place) -> None:
    place.restored()
    target = cast("Any", place.target)
    with pytest.raises(GroupsMissing, match="nothing to go back to"):
        groups_module._former(place.store, target, place.backup_id, None, None, ["*"])
    first = place.move().rollback
    other = replace(load_group_rollback(place.store, first), created_at_ms=9_999_999_999_999)
    other = replace(other, groups=(replace(other.groups[0], group="h"),))
    second = save_group_rollback(place.store, other)

    def found(*patterns: str) -> str:
        return groups_module._former(place.store, target, place.backup_id, None, None, patterns)[1]

    assert (found("*"), found("h"), found("g"), found("[fg]")) == (second, second, first, first)


def test_a_store_that_is_away_is_an_error_that_may_pass(place: Place) -> None:
    place.restored()
    place.store.error = StoreUnavailable("no answer")
    with pytest.raises(StoreUnavailable):
        place.move()
    assert place.offset == 2


def test_a_group_with_members_keeps_everything_as_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.restored()
    busy = GroupStanding(state="Stable", member_count=2)
    monkeypatch.setattr(place.target.groups, "describe", lambda groups: dict.fromkeys(groups, busy))
    before = list(place.store.stored_keys())
    with pytest.raises(GroupActive):
        place.move()
    assert place.offset == 2
    assert list(place.store.stored_keys()) == before
    assert place.move(GroupRun()).plan.active == ("g",)


def test_a_plan_tells_of_records_that_the_backup_has_and_the_target_has_not(place: Place) -> None:
    place.restored()
    snapshot = load_snapshot(place.store, place.backup_id)
    read_all = replace(snapshot.groups[0], offsets={SOURCE: CommittedOffset(offset=120)})
    save_snapshot(place.store, replace(snapshot, groups=(read_all,)))
    (row,) = place.move(GroupRun()).plan.rows
    # 100 to 119 are restored; the backup's two segments have 100 to 219
    assert row.why == "committed 120: all that was restored has been read; the backup has records up to offset 219 that are not restored"


@pytest.mark.fault("R5", "a group of the target that has read on, or is another one of the same name", promise=7)
def test_a_group_is_not_moved_back_unless_that_is_asked_for(place: Place) -> None:
    place.restored()
    ahead = CommittedOffset(offset=17)
    place.target.groups.now["g"] = {TARGET: ahead}
    before = list(place.store.stored_keys())
    planned = place.move(GroupRun())
    assert planned.exit_code == 0
    (row,) = planned.to_document()["rows"]
    assert (row["old_offset"], row["new_offset"], row["rewinds"]) == (17, 5, True)
    assert row["why"] == "committed 105: that record; moves back: the target's group is at 17"
    with pytest.raises(GroupRewind, match=r"group g in back\[1\] from 17 to 5; nothing was committed") as caught:
        place.move()
    assert caught.value.exit_code == 13
    assert "--allow-rewind" in caught.value.hint
    assert place.offset == 17
    assert list(place.store.stored_keys()) == before
    report = place.move(replace(RUN, allow_rewind=True))
    assert (report.exit_code, place.offset) == (0, 5)
    assert load_group_rollback(place.store, report.rollback).groups[0].before == {TARGET: ahead}


def test_a_restore_that_is_not_complete_is_refused(place: Place) -> None:
    place.restored(status=RestoreStatus.RUNNING)
    with pytest.raises(PreflightRefused, match="not complete"):
        place.move()
    assert place.offset == 2
    assert place.move(GroupRun()).status == "planned"
    # by the run itself, which has just sent everything
    report = place.move(is_complete=True)
    assert (report.status, place.offset) == ("complete", 5)
    assert not any("not complete" in warning for warning in report.warnings)


def test_the_restore_is_the_only_one_or_the_one_that_is_named(place: Place) -> None:
    with pytest.raises(OffsetMapMissing, match="no restore into this cluster"):
        place.move()
    place.restored()
    place.restored("1" * 32, cluster_id="another")
    assert place.move(GroupRun()).restore_id == RESTORE
    place.restored("2" * 32)
    with pytest.raises(UsageError) as caught:
        place.move()
    assert RESTORE in caught.value.hint
    assert "2" * 32 in caught.value.hint
    assert "1" * 32 not in caught.value.hint
    assert place.move(GroupRun(), "2" * 32).restore_id == "2" * 32
    assert place.move(GroupRun(), "222").restore_id == "2" * 32
    for wrong, error in (("1" * 32, PreflightRefused), ("3" * 32, OffsetMapMissing), ("../x", OffsetMapMissing), ("", OffsetMapMissing)):
        with pytest.raises(error):
            place.move(GroupRun(), wrong)


@pytest.mark.parametrize(("topic_id", "words"), [("made-anew", "made again"), ("", "no such topic")])
def test_a_topic_that_is_not_the_restored_one_gets_no_offset(place: Place, topic_id: str, words: str) -> None:
    place.restored()
    place.target.topic_id = topic_id
    report = place.move()
    assert (report.exit_code, report.status, place.offset) == (3, "incomplete", 2)
    assert any(words in warning for warning in report.warnings)


def test_a_restore_that_is_to_put_groups_looks_for_them_first(place: Place) -> None:
    check_groups(place.store, place.backup_id, GroupRun(patterns=("g",)))
    with pytest.raises(UsageError, match="no group in the backup matches x"):
        check_groups(place.store, place.backup_id, GroupRun(patterns=("x",)))
    place.store.delete(f"{place.backup_id}/groups.json")
    with pytest.raises(GroupsMissing):
        check_groups(place.store, place.backup_id, GroupRun(patterns=("g",)))
