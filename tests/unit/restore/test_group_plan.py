"""Where groups are put: a table of every case, and the way back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbr.errors import AuthorizationFailed, ClusterUnavailable, GroupActive, GroupRewind, UsageError
from kbr.format.group_rollback import GroupBefore, GroupRollback
from kbr.kafka.cluster import PartitionOffsets
from kbr.kafka.groups import GroupStanding
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.repository.offset_maps import OffsetRangeMap
from kbr.restore.group_apply import before_of, commit_offsets, plan_rollback, refuse_active, refuse_rewinds, roll_back
from kbr.restore.groups import (
    GroupFacts,
    GroupPlan,
    Reason,
    WithEmptyPartitions,
    choose_groups,
    infer_empty,
    place_groups,
    plan_groups,
)
from tests.support.range_map import RangeMap

SOURCE = TopicPartition("t", 0)
TARGET = TopicPartition("r", 0)
EMPTY = GroupStanding(state="Empty", member_count=0)
NEW = GroupStanding(state="Dead", member_count=0)


def ranges(*rows: tuple[int, int, int], source: TopicPartition = SOURCE, target: TopicPartition = TARGET) -> RangeMap:
    """(source_start, target_start, count) of one partition."""
    return RangeMap(
        [
            OffsetRangeMap(source=source, target=target, source_start=start, target_start=place, count=count)
            for start, place, count in rows
        ]
    )


def group_of(name: str = "g", metadata: str = "", **offsets: int) -> GroupOffsets:
    """Offsets by partition of topic t: p0=5."""
    return GroupOffsets(
        group=name,
        kind="classic",
        state="Empty",
        offsets={
            TopicPartition("t", int(key[1:])): CommittedOffset(offset=offset, leader_epoch=3, metadata=metadata)
            for key, offset in offsets.items()
        },
    )


#: Source offsets 100 to 109 and 120 to 129 are restored to 0 to 19; the backup ends at 130.
HOLE = ranges((100, 0, 10), (120, 10, 10))
#: The same behind 50 other records (--append).
APPENDED = ranges((100, 50, 10), (120, 60, 10))


@pytest.mark.fault("R5", "offset in a hole, before the archive, at and past its end, with --append", promise=7)
@pytest.mark.parametrize(
    ("offset_map", "committed", "expected", "reason"),
    [
        (HOLE, 100, 0, Reason.SAME),
        (HOLE, 105, 5, Reason.SAME),
        (HOLE, 109, 9, Reason.SAME),
        (HOLE, 110, 10, Reason.NEXT),
        (HOLE, 119, 10, Reason.NEXT),
        (HOLE, 120, 10, Reason.SAME),
        (HOLE, 129, 19, Reason.SAME),
        (HOLE, 130, 20, Reason.END),
        (HOLE, 131, 20, Reason.BEYOND_BACKUP),
        (HOLE, 2**63 - 1, 20, Reason.BEYOND_BACKUP),
        (HOLE, 0, 0, Reason.FIRST),
        (HOLE, 99, 0, Reason.FIRST),
        (APPENDED, 0, 50, Reason.FIRST),
        (APPENDED, 115, 60, Reason.NEXT),
        (APPENDED, 130, 70, Reason.END),
        (APPENDED, 500, 70, Reason.BEYOND_BACKUP),
        # a time window that ends before the committed offset, of a backup that goes on to 130
        (ranges((100, 0, 10)), 115, 10, Reason.END),
        # one that begins behind it
        (ranges((120, 0, 10)), 105, 0, Reason.FIRST),
    ],
)
def test_a_group_is_put_on_the_first_restored_record_at_or_after_its_offset(
    offset_map: RangeMap, committed: int, expected: int, reason: Reason
) -> None:
    placed = place_groups({"g": group_of(p0=committed)}, offset_map, {SOURCE: 130})["g"]
    assert {key: (place.offset, place.reason) for key, place in placed.items()} == {TARGET: (expected, reason)}


@pytest.mark.parametrize(
    ("committed", "record_end", "words"),
    [
        (130, 140, "committed 130: all that was restored has been read; the backup has records up to offset 139 that are not restored"),
        (130, 131, "committed 130: all that was restored has been read; the backup has records up to offset 130 that are not restored"),
        # behind its last record are transaction markers only
        (130, 130, "committed 130: all that was restored has been read"),
        (135, 130, "committed 135: all that was restored has been read"),
        (129, 140, "committed 129: that record"),
    ],
)
def test_what_the_backup_has_behind_all_that_was_restored_is_told(committed: int, record_end: int, words: str) -> None:
    placed = place_groups({"g": group_of(p0=committed)}, HOLE, {SOURCE: 145}, {SOURCE: record_end})["g"]
    assert placed[TARGET].why == words


def test_what_another_partition_of_the_target_has_is_restored() -> None:
    spread = ranges((0, 0, 5))._ranges + ranges((5, 0, 5), target=TopicPartition("r", 1))._ranges
    placed = place_groups({"g": group_of(p0=7)}, RangeMap(spread), {SOURCE: 10}, {SOURCE: 10})["g"]
    assert placed[TARGET].why == "committed 7: all that was restored has been read"
    assert placed[TopicPartition("r", 1)].offset == 2


def test_a_partition_that_was_not_restored_is_told_and_not_put_anywhere() -> None:
    placed = place_groups({"g": group_of(p0=5, p7=5)}, HOLE, {})["g"]
    assert placed[TopicPartition("t", 7)].reason is Reason.NOT_RESTORED
    assert placed[TopicPartition("t", 7)].offset is None
    assert placed[TARGET].offset == 0


def test_where_several_partitions_feed_one_the_smallest_offset_counts() -> None:
    def fed(*, source: int, target: int, start: int, place: int) -> OffsetRangeMap:
        return OffsetRangeMap(
            source=TopicPartition("t", source), target=TopicPartition("r", target),
            source_start=start, target_start=place, count=5,
        )  # fmt: skip

    offset_map = RangeMap(
        [
            fed(source=0, target=0, start=0, place=0),
            fed(source=0, target=1, start=5, place=0),
            fed(source=1, target=0, start=0, place=5),
            fed(source=1, target=1, start=5, place=5),
        ]
    )
    placed = place_groups({"g": group_of(p0=7, p1=2, metadata="m")}, offset_map, {})["g"]
    # of t[0] all in r[0] is read (its end there is 5), of t[1] the third of r[0]'s second half is next
    assert {key: place.offset for key, place in placed.items()} == {
        TopicPartition("r", 0): 5,
        TopicPartition("r", 1): 2,
    }
    assert all(place.metadata == "" for place in placed.values())
    assert "of 2 partitions" in placed[TopicPartition("r", 0)].why


def test_an_empty_partition_is_put_on_its_beginning() -> None:
    bases = {TARGET: 0, TopicPartition("r", 1): 40}
    empty = infer_empty([SOURCE, TopicPartition("t", 1), TopicPartition("t", 2)], HOLE, bases)
    assert empty == {TopicPartition("t", 1): (TopicPartition("r", 1), 40)}
    placed = place_groups({"g": group_of(p1=0)}, WithEmptyPartitions(HOLE, empty), {TopicPartition("t", 1): 0})["g"]
    assert placed[TopicPartition("r", 1)].offset == 40
    assert placed[TopicPartition("r", 1)].reason is Reason.END


def test_an_empty_partition_is_not_taken_for_one_that_another_feeds() -> None:
    moved = ranges((0, 0, 5), target=TopicPartition("r", 1))
    assert infer_empty([SOURCE, TopicPartition("t", 1)], moved, {TopicPartition("r", 1): 0}) == {}
    assert infer_empty([TopicPartition("t", 0)], RangeMap([]), {SOURCE: 7}) == {SOURCE: (SOURCE, 7)}


def facts(
    *,
    log: object = PartitionOffsets(log_start=0, high_watermark=20, end_offset=20),
    committed: object = None,
    standing: object = EMPTY,
) -> GroupFacts:
    return GroupFacts(
        offsets={} if log is None else {TARGET: log},  # type: ignore[dict-item]
        committed={"g": {} if committed is None else committed},  # type: ignore[dict-item]
        standings={"g": standing},  # type: ignore[dict-item]
    )


def plan_of(**more: object) -> GroupPlan:
    return plan_groups({"g": group_of(p0=105, metadata="m")}, HOLE, facts(**more), {SOURCE: 130})  # type: ignore[arg-type]


def test_a_plan_says_what_the_target_has_now_and_what_it_gets() -> None:
    (row,) = plan_of(committed={TARGET: CommittedOffset(offset=2)}).rows
    assert (row.old, row.new) == (CommittedOffset(offset=2), CommittedOffset(offset=5, metadata="m"))
    assert row.changes


def test_a_plan_says_what_moves_back() -> None:
    for old, rewinds in ((4, False), (5, False), (6, True)):
        plan = plan_of(committed={TARGET: CommittedOffset(offset=old)})
        (row,) = plan.rows
        assert (row.rewinds, plan.rewinds, "moves back" in row.why) == (rewinds, (row,) if rewinds else (), rewinds)
    # nothing is to be committed where the target can't tell
    assert plan_of(committed={TARGET: CommittedOffset(offset=6)}, log=None).rewinds == ()


def test_a_refusal_names_some_of_what_would_move_back() -> None:
    (row,) = plan_of(committed={TARGET: CommittedOffset(offset=6)}).rows
    refuse_rewinds(())
    with pytest.raises(GroupRewind, match=r"group g in r\[0\] from 6 to 5 and 1995 more; nothing was committed") as caught:
        refuse_rewinds([row] * 5 + [replace(row, group="h")] * 1995)
    assert caught.value.context["groups"] == ["g", "h"]


def test_what_is_there_already_is_not_committed_again() -> None:
    plan = plan_groups(
        {"g": group_of(p0=105)},
        HOLE,
        facts(
            committed={TARGET: CommittedOffset(offset=5, leader_epoch=9)},
            standing=GroupStanding(state="Stable", member_count=1),
        ),
        {},
    )
    assert plan.changes == {}
    assert plan.active == ()  # it may read on


@pytest.mark.parametrize(
    ("log", "expected", "reason"),
    [
        (PartitionOffsets(log_start=8, high_watermark=20, end_offset=20), 8, Reason.GONE),
        (PartitionOffsets(log_start=0, high_watermark=3, end_offset=3), 3, Reason.GONE),
        (PartitionOffsets(log_start=5, high_watermark=5, end_offset=5), 5, Reason.SAME),
        (ClusterUnavailable("no leader"), None, Reason.UNKNOWN),
        (None, None, Reason.UNKNOWN),
    ],
)
def test_an_offset_is_never_outside_of_the_target_as_it_is_now(
    log: object, expected: int | None, reason: Reason
) -> None:
    (row,) = plan_of(log=log).rows
    assert (None if row.new is None else row.new.offset) == expected
    assert row.reason is reason


@pytest.mark.fault("R5", "a group with members", promise=7)
@pytest.mark.parametrize(
    ("standing", "active"),
    [
        (EMPTY, False),
        (NEW, False),
        (GroupStanding(state="Stable", member_count=1), True),
        (GroupStanding(state="PreparingRebalance", member_count=0), True),
        (GroupStanding(state="Unknown", member_count=0), True),
    ],
)
def test_a_group_with_members_is_refused(standing: GroupStanding, active: bool) -> None:
    plan = plan_of(standing=standing)
    assert plan.active == (("g",) if active else ())
    if active:
        with pytest.raises(GroupActive, match="nothing was committed") as caught:
            refuse_active(plan.active)
        assert caught.value.exit_code == 13
    else:
        refuse_active(plan.active)


def test_a_group_that_the_target_does_not_tell_of_is_a_failure_of_its_own() -> None:
    refused = AuthorizationFailed("no")
    plan = plan_groups(
        {"g": group_of(p0=1), "h": group_of("h", p0=1)},
        HOLE,
        GroupFacts(
            offsets=facts().offsets, committed={"g": refused, "h": {}}, standings={"g": EMPTY, "h": NEW}
        ),
        {},
    )
    assert plan.failures == {"g": refused}
    assert list(plan.changes) == ["h"]
    assert plan.states == {"h": "none"}


# -- which groups -------------------------------------------------------------------------


def test_groups_are_chosen_by_name_and_glob_and_get_other_names() -> None:
    groups = [group_of(name, p0=1) for name in ("billing", "bills", "search")]
    assert list(choose_groups(groups, ["*"], {})) == ["billing", "bills", "search"]
    assert list(choose_groups(groups, ["bill*"], {"billing": "new"})) == ["bills", "new"]
    assert choose_groups(groups, ["billing"], {"billing": "new"})["new"].group == "billing"
    assert choose_groups([], ["*"], {}) == {}


@pytest.mark.parametrize(
    ("patterns", "mapping", "words"),
    [
        (["x*"], {}, r"x\*"),
        (["*"], {"x": "y"}, "x"),
        (["*"], {"a": "b"}, "both become b"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(patterns: list[str], mapping: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_groups([group_of("a", p0=1), group_of("b", p0=1)], patterns, mapping)


# -- committing, and the way back -----------------------------------------------------------


class Coordinator:
    """Groups in memory."""

    def __init__(self, committed: dict[str, dict[TopicPartition, CommittedOffset]]) -> None:
        self.now = committed
        self.deleted: list[str] = []
        self.refuse: dict[str, Exception] = {}
        self.ignore: set[TopicPartition] = set()

    def committed(self, groups):
        return {group: dict(self.now.get(group, {})) for group in groups}

    def describe(self, groups):
        return {group: EMPTY if group in self.now else NEW for group in groups}

    def commit(self, offsets):
        for group, wanted in offsets.items():
            if group not in self.refuse:
                kept = {key: one for key, one in wanted.items() if key not in self.ignore}
                self.now.setdefault(group, {}).update(kept)
        return {group: self.refuse.get(group) for group in offsets}

    def delete(self, groups):
        self.deleted += groups
        for group in groups:
            self.now.pop(group, None)
        return dict.fromkeys(groups)


OTHER = TopicPartition("r", 1)


def test_what_was_committed_is_read_back() -> None:
    client = Coordinator({})
    wanted = {"g": {TARGET: CommittedOffset(offset=5), OTHER: CommittedOffset(offset=6)}}
    assert commit_offsets(client, wanted) == {}
    client = Coordinator({"g": {OTHER: CommittedOffset(offset=1)}})
    client.ignore = {OTHER}
    failures = commit_offsets(client, wanted)
    assert "1 of 2 offsets" in str(failures["g"])
    assert "is at 1, not 6" in str(failures["g"])
    client.refuse = {"g": GroupActive("it woke up")}
    assert str(commit_offsets(client, wanted)["g"]) == "it woke up"


def _rollback(*groups: GroupBefore) -> GroupRollback:
    return GroupRollback(
        kbr_version="1", backup_id="b", restore_id="0" * 32, cluster_id="c", created_at_ms=1, groups=groups
    )


def test_a_rollback_puts_back_what_was_there() -> None:
    before = {"g": {TARGET: CommittedOffset(offset=2, leader_epoch=1, metadata="m")}}
    client = Coordinator({name: dict(rows) for name, rows in before.items()})
    chosen = {"g": group_of(p0=105)}
    found = GroupFacts(
        offsets=facts().offsets, committed=client.committed(["g"]), standings=client.describe(["g"])
    )
    plan = plan_groups(chosen, HOLE, found, {})
    former = before_of(plan, found.committed, found.standings)
    assert commit_offsets(client, plan.changes) == {}
    assert client.now["g"][TARGET].offset == 5
    back = plan_rollback(_rollback(*former), ["g"], client.committed(["g"]), client.describe(["g"]))
    assert [row.why for row in back.rows] == [""]
    assert roll_back(client, back) == {}
    assert client.now == before
    again = plan_rollback(_rollback(*former), ["g"], client.committed(["g"]), client.describe(["g"]))
    assert again.commits == {}
    assert again.rows[0].why == "nothing to do"


def test_a_group_that_did_not_exist_is_deleted_by_the_rollback() -> None:
    client = Coordinator({})
    found = GroupFacts(offsets=facts().offsets, committed={"g": {}}, standings={"g": NEW})
    plan = plan_groups({"g": group_of(p0=105)}, HOLE, found, {})
    former = before_of(plan, found.committed, found.standings)
    assert former[0].existed is False
    commit_offsets(client, plan.changes)
    back = plan_rollback(_rollback(*former), ["g"], client.committed(["g"]), client.describe(["g"]))
    assert "is deleted" in back.rows[0].why
    assert roll_back(client, back) == {}
    assert client.deleted == ["g"]
    assert client.now == {}


@pytest.mark.parametrize("existed", [True, False])
def test_an_offset_that_was_not_there_stays_where_the_group_has_others(existed: bool) -> None:
    applied = CommittedOffset(offset=5)
    former = GroupBefore(group="g", existed=existed, before={TARGET: None}, applied={TARGET: applied})
    client = Coordinator({"g": {TARGET: applied, OTHER: CommittedOffset(offset=1)}})
    back = plan_rollback(_rollback(former), ["g"], client.committed(["g"]), client.describe(["g"]))
    assert back.staying == 1
    assert "it stays" in back.rows[0].why
    assert roll_back(client, back) == {}
    assert client.deleted == []
    assert client.now["g"][TARGET] == applied


def test_a_rollback_says_when_a_group_has_moved_since() -> None:
    former = GroupBefore(
        group="g", existed=True, before={TARGET: CommittedOffset(offset=1)}, applied={TARGET: CommittedOffset(offset=5)}
    )
    now = {"g": {TARGET: CommittedOffset(offset=8)}}
    back = plan_rollback(_rollback(former), ["g"], now, {"g": EMPTY})
    assert back.rows[0].why == "it was put on 5, and has moved since"
    busy = plan_rollback(_rollback(former), ["g"], now, {"g": replace(EMPTY, member_count=1)})
    with pytest.raises(GroupActive):
        roll_back(Coordinator(now), busy)
    assert plan_rollback(_rollback(former), [], now, {"g": EMPTY}).rows == ()


def test_a_partition_that_a_group_has_committed_nothing_for_counts_as_unread_where_it_shares_a_target() -> None:
    # t[1] comes before t[2] in the target, and t[0] goes elsewhere
    spread = RangeMap(
        [
            OffsetRangeMap(source=TopicPartition("t", 0), target=TopicPartition("r", 1), source_start=0, target_start=0, count=9),
            OffsetRangeMap(source=TopicPartition("t", 1), target=TARGET, source_start=3, target_start=5, count=10),
            OffsetRangeMap(source=TopicPartition("t", 2), target=TARGET, source_start=0, target_start=15, count=10),
        ]
    )
    ends = {TopicPartition("t", number): 30 for number in range(3)}
    placed = place_groups({"g": group_of(p2=4)}, spread, ends)["g"]
    assert {target: place.offset for target, place in placed.items()} == {TARGET: 5}
    assert "t[1] decides, of 2 partitions" in placed[TARGET].why
    both = place_groups({"g": group_of(p1=30, p2=4)}, spread, ends)["g"]
    assert both[TARGET].offset == 15
    # a topic that the group never read has no say
    other = {TopicPartition("u", 1): 30, TopicPartition("t", 2): 30}
    assert place_groups({"g": group_of(p2=4)}, spread, other)["g"][TARGET].offset == 19


def test_a_record_that_went_to_another_partition_is_not_said_to_be_missing() -> None:
    source, other = TopicPartition("t", 0), TopicPartition("r", 9)
    spread = RangeMap(
        [
            OffsetRangeMap(source=source, target=TARGET, source_start=0, target_start=0, count=3),
            OffsetRangeMap(source=source, target=other, source_start=3, target_start=0, count=1),
            OffsetRangeMap(source=source, target=TARGET, source_start=4, target_start=3, count=3),
        ]
    )
    placed = place_groups({"g": group_of(p0=3)}, spread, {source: 7})["g"]
    assert placed[TARGET].offset == 3
    assert placed[TARGET].why == "committed 3, which was not restored to this partition: the next record"
    assert placed[other].why == "committed 3: that record"
