"""Where topics and partitions go: names, choices, numbers of partitions, conflicts; all refused in the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kbr.errors import PreflightRefused, UsageError
from kbr.model import SegmentRef, TopicPartition, TopicSpec
from kbr.restore.choice import choose_topics, refuse_brokers_own
from kbr.restore.existing import changed_facts, changes_of, check_existing
from kbr.restore.identity import restore_id_of
from kbr.restore.names import target_names
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, group_partitions, plan_restore
from kbr.restore.preflight import TargetFacts, check_places
from kbr.restore.spreading import grown_since
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    topic_of,
    write_segment,
)


def segments(topic: str, partition: int, count: int = 2) -> list[SegmentRef]:
    store = RecordingStore()
    return [
        write_segment(
            store, identity_of(topic=topic, partition=partition, sequence=number * 10), [block_of(number * 10, 10)],
            number * 10 + 10,
        )
        for number in range(count)
    ]  # fmt: skip


def topic(name: str = "orders", partitions: int = 3, **changes: Any) -> Any:
    found = topic_of(name, [partition_of(segments(name, number), partition=number) for number in range(partitions)])
    return replace(found, **changes)


def plan(*topics: Any, existing: dict[str, TopicSpec] | None = None, bounds: Any = None, **options: Any) -> RestorePlan:
    return plan_restore(
        manifest_of(topics), topics, RestoreOptions(backup_id="nightly", **options), existing or {}, bounds
    )


def spec(name: str, partitions: int = 3, **changes: Any) -> TopicSpec:
    return TopicSpec(name=name, partition_count=partitions, replication_factor=3, **changes)


# -- names --------------------------------------------------------------------------------


def test_a_star_stands_for_what_the_star_at_its_place_has_taken() -> None:
    mapping = {"eu-*-orders": "new.*", "eu-*": "old-*", "*-*": "*_*", "eu-x": "alone"}
    assert target_names(["eu-a-orders", "eu-b", "us-c", "eu-x", "other"], mapping, prefix="p.", suffix=".s") == {
        "eu-a-orders": "new.a",
        "eu-b": "old-b",
        "us-c": "us_c",
        "eu-x": "alone",
        "other": "p.other.s",
    }
    # a dot is a dot
    assert target_names(["a.b", "axb"], {"a.*": "c.*"}) == {"a.b": "c.b", "axb": "axb"}


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"orders": "a-*"}, "more \\* on its right side"),
        ({"nope-*": "a-*"}, "names nope-\\*"),
        ({"orders": "x" * 250}, "can't be a topic's name"),
        ({"*": "*" * 1 + "y" * 244}, "can't be a topic's name"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(mapping: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target_names(["orders", "orders2"], mapping)


# -- partitions ---------------------------------------------------------------------------


def test_only_chosen_partitions_are_restored_and_the_topic_is_made_whole() -> None:
    found = plan(topic(), topic("other", 1), source_partitions={"ord*": (2, 0)})
    assert [one.target for one in found.partitions] == [("orders", 0), ("orders", 2), ("other", 0)]
    assert [one.target.partition_count for one in found.topics] == [3, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source_partitions": {"orders": (3,)}}, "names partition 3, the backup has 0 to 2"),
        ({"source_partitions": {"nope": (0,)}}, "names nope"),
        ({"source_partitions": {"orders": (0,)}, "partition_mapping": {"orders": {1: 5}}}, "not among those to restore"),
        ({"target_partitions": {"nope": 3}}, "names nope"),
        ({"target_partitions": {"orders": 2}}, "keep their numbers need 3"),
        ({"partitioner": "murmur2", "partition_mapping": {"orders": {0: 1}}}, "and so does the partitioner murmur2"),
        ({"partitioner": "crc"}, "no such partitioner: crc"),
    ],
)
def test_what_can_not_be_placed_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(topic(), **options)


def test_two_topics_meet_in_one_only_where_it_was_said() -> None:
    both = (topic("a"), topic("b", 2))
    for options in ({}, {"partitioner": "murmur2"}):
        with pytest.raises(UsageError, match="would both be restored to"):
            plan(*both, topic_mapping={"*": "c"}, **options)
    merged = plan(*both, topic_mapping={"*": "c"}, merge=True)
    assert [(one.target.partition, one.sources) for one in merged.partitions] == [
        (0, (("a", 0), ("b", 0))),
        (1, (("a", 1), ("b", 1))),
        (2, ()),
    ]
    spread = plan(*both, topic_mapping={"*": "c"}, merge=True, partitioner="murmur2", target_partitions={"a": 4})
    assert [one.target for one in spread.partitions] == [("c", number) for number in range(4)]
    assert spread.partitions[0].sources == (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1))
    with pytest.raises(UsageError, match="different numbers of target partitions: 4 and 5"):
        plan(*both, topic_mapping={"*": "c"}, merge=True, partitioner="murmur2", target_partitions={"a": 4, "b": 5})


def test_more_partitions_may_be_had_without_moving_records() -> None:
    assert plan(topic(), target_partitions={"*": 8}).topics[0].target.partition_count == 8


def test_lanes_share_their_segments_and_a_worker_gets_its_lanes_together() -> None:
    found = plan(topic(), topic("other", 1), partitioner="consistent", target_partitions={"orders": 5})
    lanes = [one for one in found.partitions if one.target.topic == "orders"]
    assert len({id(one.segments) for one in lanes}) == 1
    assert len(found.segments) == 3 * 2 + 2
    assert str(lanes[4].source) == "orders for target partition 4"
    tasks = group_partitions(found.partitions, {}, workers=2)
    assert sorted([one.target.partition for one in task] for task in tasks if task[0].target.topic == "orders") == [
        [0, 2, 4],
        [1, 3],
    ]
    # positions go on over segments, and begin with the partition's number
    routing = lanes[0].routing
    assert routing is not None
    assert sorted(routing.positions.values()) == [0, 1, 2, 10, 11, 12]


def test_records_are_spread_over_what_the_existing_topic_has() -> None:
    found = plan(topic(), partitioner="murmur2", existing={"orders": spec("orders", 7)})
    assert len(found.partitions) == 7
    facts = TargetFacts(offsets={}, configs={}, now_ms=0)
    options = RestoreOptions(backup_id="nightly")
    check_places(found, options, facts)
    for count, words in ((9, "the restore needs 9"), (5, "to be spread over 5")):
        other = plan(topic(), partitioner="murmur2", target_partitions={"*": count}, existing={"orders": spec("orders", 7)})
        with pytest.raises(PreflightRefused, match=words):
            check_places(other, options, facts)


def test_what_an_earlier_run_began_with_bounds_what_is_mixed_and_nothing_else() -> None:
    bounds = {"orders": {TopicPartition("orders", 0): 10, TopicPartition("orders", 1): 20}}
    spread = plan(topic(), partitioner="murmur2", bounds=bounds)
    # orders[2] is new since
    assert [(ref.key.split("/")[2], ref.sequence) for ref in spread.partitions[0].segments] == [
        ("partition=0", 0), ("partition=1", 0), ("partition=1", 10),
    ]  # fmt: skip
    assert spread.partitions[0].source_ends == (10, 20, 0)
    merged = plan(topic(), partition_mapping={"orders": {1: 0}}, merge=True, bounds=bounds)
    assert [len(one.segments) for one in merged.partitions] == [3, 2]
    # of a partition that goes alone nothing is left out
    for found, words in ((spread, "more of orders[0], orders[2] than"), (merged, "more of orders[0] than")):
        (note,) = grown_since(manifest_of([topic()]), found.partitions)
        assert words in note


def test_a_topic_that_came_since_does_not_come_between_those_that_met_in_a_target() -> None:
    bounds = {"all": {TopicPartition("a", 0): 20, TopicPartition("c", 0): 10}}
    some = topic("a", 1), topic("b", 1), topic("c", 1)
    (found,) = plan(*some, topic_mapping={"*": "all"}, merge=True, bounds=bounds).partitions
    assert [(ref.key.split("/")[1], ref.sequence) for ref in found.segments] == [("a", 0), ("a", 10), ("c", 0)]
    assert dict(zip(found.sources, found.source_ends, strict=True)) == {
        TopicPartition("a", 0): 20, TopicPartition("b", 0): 0, TopicPartition("c", 0): 10,
    }  # fmt: skip
    (note,) = grown_since(manifest_of(some), [found])
    assert "more of b[0], c[0] than" in note


def test_the_id_is_what_it_was_without_placement_and_another_with_any_of_it() -> None:
    plain = RestoreOptions(backup_id="b")
    # a restore that an older kbr has begun is found again
    assert restore_id_of(plain, "c") == "4f916faebfe80105ac09aa7090e68dab"
    others = [
        replace(plain, topic_prefix="a"),
        replace(plain, topic_suffix="a"),
        replace(plain, partitioner="murmur2"),
        replace(plain, target_partitions={"*": 3}),
        replace(plain, source_partitions={"*": (1,)}),
        replace(plain, merge=True),
        replace(plain, topic_mapping={"a*": "b*", "*": "c*"}),
        replace(plain, topic_mapping={"*": "c*", "a*": "b*"}),
    ]
    assert len({restore_id_of(one, "c") for one in (plain, *others)}) == 9
    # a topic that is mapped to itself keeps its name, whatever the others get
    for one in (others[0], others[1], others[6]):
        kept = replace(one, topic_mapping={"orders": "orders", **one.topic_mapping})
        assert restore_id_of(kept, "c") != restore_id_of(one, "c")
    assert restore_id_of(replace(plain, topic_mapping={"orders": "orders"}), "c") == restore_id_of(plain, "c")
    assert restore_id_of(replace(plain, existing_topics="fail"), "c") == restore_id_of(plain, "c")


# -- topics that are there ----------------------------------------------------------------


def existing_plan(choice: str, there: TopicSpec, **options: Any) -> tuple[RestorePlan, RestoreOptions]:
    chosen = RestoreOptions(backup_id="nightly", existing_topics=choice, **options)
    archived = topic(configs={"retention.ms": "5", "message.timestamp.type": "LogAppendTime"})
    return plan_restore(manifest_of([archived]), [archived], chosen, {"orders": there}), chosen


def test_check_tells_all_differences_at_once_and_nothing_of_own_topics() -> None:
    there = spec("orders", 4, configs={"segment.ms": "7"})
    found, options = existing_plan("check", replace(there, replication_factor=1))
    facts = TargetFacts(
        offsets={}, configs={"orders": {"retention.ms": "6", "segment.ms": "7", "message.timestamp.type": "LogAppendTime"}},
        now_ms=0,
    )  # fmt: skip
    with pytest.raises(PreflightRefused) as refused:
        check_existing(found, options, facts, own=(), broker_count=2)
    assert refused.value.context["findings"] == [
        "orders has 4 partitions, not 3",
        "orders has replication factor 1, not 2",
        "orders has retention.ms=6, not 5",
        "orders has segment.ms=7, not its default",
    ]
    check_existing(found, options, facts, own={"orders"}, broker_count=2)


def test_fail_refuses_others_topics_only() -> None:
    found, options = existing_plan("fail", spec("orders"))
    facts = TargetFacts(offsets={}, configs={}, now_ms=0)
    with pytest.raises(PreflightRefused, match="orders exists already"):
        check_existing(found, options, facts, own=(), broker_count=1)
    check_existing(found, options, facts, own={"orders"}, broker_count=1)
    kept, options = existing_plan("keep", spec("orders", 9))
    check_existing(kept, options, facts, own=(), broker_count=1)
    assert changes_of(kept, options, facts, broker_count=1) == []


def test_apply_sets_configs_adds_partitions_and_takes_none_away() -> None:
    facts = TargetFacts(
        offsets={}, configs={"orders": {"retention.ms": "6", "segment.ms": "7"}}, defaults={"segment.ms": "600"}, now_ms=0
    )
    there = spec("orders", 2, configs={"segment.ms": "7"})
    found, options = existing_plan("apply", there)
    (change,) = changes_of(found, options, facts, broker_count=3)
    assert change.configs == {"retention.ms": "5", "segment.ms": None, "message.timestamp.type": "CreateTime"}
    assert change.partition_count == 3
    assert found.topics[0].target.partition_count == 3
    # so that no timestamp is replaced while records come
    assert found.topics[0].configs_afterwards == {"message.timestamp.type": "LogAppendTime"}
    assert changed_facts(facts, [change]).configs["orders"] == {
        "retention.ms": "5", "segment.ms": "600", "message.timestamp.type": "CreateTime",
    }  # fmt: skip
    larger, options = existing_plan("apply", replace(there, partition_count=8))
    (change,) = changes_of(larger, options, facts, broker_count=3)
    assert change.partition_count == 0
    assert larger.topics[0].target.partition_count == 8
    assert "orders: has 8 partitions, not 3, and keeps them" in change.notes


# -- what clusters keep for themselves ----------------------------------------------------


def test_topics_of_clusters_and_registries_are_chosen_by_name_only() -> None:
    topics = [topic("orders"), topic("_schemas", 1), topic("__consumer_offsets", 1, is_internal=True), topic("__mine", 1)]
    names, notes = choose_topics(topics, ["*"], [])
    assert names == {"orders"}
    assert "__consumer_offsets, __mine, _schemas: not restored" in notes[0]
    names, notes = choose_topics(topics, ["*", "_schemas", "__mine"], [])
    assert names == {"orders", "_schemas", "__mine"}
    assert any("must not run while it is restored" in note for note in notes)
    with pytest.raises(UsageError, match="only _schemas matches"):
        choose_topics([topic("_schemas", 1)], ["*"], [])
    with pytest.raises(UsageError, match="not in the backup: ordres") as caught:
        choose_topics([topic("orders", 1)], ["ordres"], [])
    assert caught.value.hint == "did you mean orders?"


def test_nothing_is_written_where_brokers_write() -> None:
    refuse_brokers_own(["__consumer_offsets.old", "_schemas"])
    with pytest.raises(PreflightRefused, match="written by its brokers alone"):
        refuse_brokers_own(["orders", "__transaction_state"])
