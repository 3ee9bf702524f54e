"""Groups' offsets, of a backup and of before: read back as they were written, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import GroupsUnreadable, KbrError, UnsupportedFormat
from kbr.format.group_rollback import GroupBefore, GroupRollback, dump_rollback, load_rollback
from kbr.format.groups import GroupSnapshot, dump_groups, load_groups
from kbr.model import CommittedOffset, GroupOffsets, TopicPartition

SNAPSHOT = GroupSnapshot(
    kbr_version="0.1.0",
    backup_id="nightly",
    cluster_id="Q2x1c3Rlci1pZA",
    captured_at_ms=1,
    groups=(
        GroupOffsets(
            group='a, "b"\n…',
            kind="classic",
            state="Empty",
            offsets={
                TopicPartition("t", 0): CommittedOffset(offset=0),
                TopicPartition("t", 7): CommittedOffset(offset=2**63 - 1, leader_epoch=3, metadata="kept"),
                TopicPartition("u", 1): CommittedOffset(offset=5),
            },
        ),
        GroupOffsets(
            group="b", kind="consumer", state="Stable", offsets={TopicPartition("t", 1): CommittedOffset(offset=9)}
        ),
    ),
    log_ends={"t": (10, 4, -1), "u": (0, 7)},
    other_offsets=4,
    unread={"c": "not allowed"},
)
DATA = dump_groups(SNAPSHOT)
ROLLBACK = GroupRollback(
    kbr_version="0.1.0",
    backup_id="nightly",
    restore_id="0" * 32,
    cluster_id="c",
    created_at_ms=5,
    groups=(
        GroupBefore(
            group="g",
            existed=True,
            before={TopicPartition("t", 0): CommittedOffset(offset=4, leader_epoch=1), TopicPartition("t", 1): None},
            applied={
                TopicPartition("t", 0): CommittedOffset(offset=7),
                TopicPartition("t", 1): CommittedOffset(offset=0, metadata="m"),
            },
        ),
    ),
)


def _sealed(document: dict[str, object]) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return b'%b,"sha256":"%b"}' % (body, hashlib.sha256(body).hexdigest().encode())


def test_groups_read_as_they_were_written() -> None:
    assert load_groups(DATA, name="g") == SNAPSHOT
    assert load_rollback(dump_rollback(ROLLBACK), name="r") == ROLLBACK


def test_the_lag_is_known_where_the_end_was() -> None:
    lags = [
        SNAPSHOT.lag(TopicPartition(topic, partition), 3)
        for topic, partition in (("t", 0), ("t", 1), ("t", 2), ("t", 3), ("u", 0), ("x", 0))
    ]
    assert lags == [7, 1, None, None, 0, None]
    assert SNAPSHOT.group("b") is SNAPSHOT.groups[1]
    assert SNAPSHOT.group("x") is None


def test_groups_cut_anywhere_are_never_read() -> None:
    for length in range(len(DATA)):
        with pytest.raises(GroupsUnreadable):
            load_groups(DATA[:length], name="g")


@given(position=st.integers(0, len(DATA) - 1), mask=st.integers(1, 255))
def test_groups_with_a_changed_byte_are_never_read(position: int, mask: int) -> None:
    data = bytearray(DATA)
    data[position] ^= mask
    with pytest.raises(KbrError) as caught:
        load_groups(bytes(data), name="place/groups.json")
    assert "place/groups.json" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backup_id": "../up"}, "backup_id"),
        ({"captured_at": -1}, "captured_at"),
        ({"other_offsets": True}, "other_offsets"),
        ({"unread": {"a": 1}}, "unread"),
        ({"log_ends": {"t": [-2]}}, "log_ends"),
        ({"log_ends": {"../t": []}}, "log_ends"),
        ({"log_ends": {"t": 1}}, "log_ends"),
        ({"groups": {}}, "groups"),
        ({"groups": [7]}, r"groups\[0\]"),
        ({"groups": [{}] * 10_001}, "more than 10000"),
    ],
)
def test_a_sealed_file_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    document = {**json.loads(DATA), **change}
    del document["sha256"]
    with pytest.raises(GroupsUnreadable, match=words):
        load_groups(_sealed(document), name="g")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group": ""}, "group"),
        ({"group": "x" * 32_768}, "group"),
        ({"group": "c"}, "twice"),
        ({"type": None}, "type"),
        ({"state": 1}, "state"),
        ({"topics": []}, "no offset"),
        ({"topics": [3]}, r"topics\[0\]"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    document = json.loads(DATA)
    del document["sha256"]
    document["groups"][0].update(change)
    with pytest.raises(GroupsUnreadable, match=words):
        load_groups(_sealed(document), name="g")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topic": "../x"}, "topic"),
        ({"topic": "u"}, "twice"),
        ({"partitions": [0]}, "lengths"),
        ({"partitions": [7, 0]}, "out of order"),
        ({"partitions": [0, 2**31]}, "partitions"),
        ({"offsets": [0, -1]}, "below 0"),
        ({"offsets": [0, -2]}, "offsets"),
        ({"offsets": [0, 2**63]}, "offsets"),
        ({"offsets": [0, 0.5]}, "offsets"),
        ({"leader_epochs": [0, 2**31]}, "leader_epochs"),
        ({"metadata": {"0": 1}}, "metadata"),
        ({"metadata": {"3": "x"}}, "metadata"),
        ({"metadata": {"0": "ä" * 2**14}}, "metadata has more than the 32767 bytes"),
    ],
)
def test_offsets_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    document = json.loads(DATA)
    del document["sha256"]
    document["groups"][0]["topics"][0].update(change)
    with pytest.raises(GroupsUnreadable, match=words):
        load_groups(_sealed(document), name="g")


def test_a_rollback_that_does_not_fit_itself_is_refused() -> None:
    for change, words in (
        ({"applied": {"topics": []}}, "other partitions"),
        ({"group": ""}, "group"),
        ({"existed": 1}, "existed"),
        ({"before": []}, "before"),
    ):
        document = json.loads(dump_rollback(ROLLBACK))
        del document["sha256"]
        document["groups"][0].update(change)
        with pytest.raises(GroupsUnreadable, match=words):
            load_rollback(_sealed(document), name="r")
    document = json.loads(dump_rollback(ROLLBACK))
    del document["sha256"]
    with pytest.raises(GroupsUnreadable, match="twice"):
        load_rollback(_sealed({**document, "groups": document["groups"] * 2}), name="r")
    with pytest.raises(GroupsUnreadable, match="backup_id"):
        load_rollback(_sealed({**document, "backup_id": "/"}), name="r")


def test_another_version_and_another_program_are_told_apart_from_damage() -> None:
    with pytest.raises(UnsupportedFormat, match="version 2"):
        load_groups(_sealed({"format": "kbr-groups", "format_version": 2}), name="g")
    with pytest.raises(UnsupportedFormat, match="not a file of consumer group offsets"):
        load_groups(dump_rollback(ROLLBACK), name="g")
    with pytest.raises(UnsupportedFormat, match="not a file of consumer groups' former offsets"):
        load_rollback(DATA, name="g")
