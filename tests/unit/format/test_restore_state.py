"""What a restore notes: read back as it was written, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import KbrError, RestoreStateUnreadable, UnsupportedFormat
from kbr.format.restore_state import (
    RestoredTopic,
    RestoreState,
    RestoreStatus,
    dump_restore_state,
    load_restore_state,
)
from kbr.model import TopicPartition

STATE = RestoreState(
    kbr_version="0.1.0",
    backup_id="nightly",
    restore_id="0" * 32,
    cluster_id="Q2x1c3Rlci1pZA",
    status=RestoreStatus.RUNNING,
    created_at_ms=1,
    updated_at_ms=2,
    topics=(
        RestoredTopic(name="a", topic_id="", made=True, configs_afterwards={}, bases=(None, None)),
        RestoredTopic(
            name="b",
            topic_id="pXkV0b1dQ1u6Pq3v7g0aYQ",
            made=False,
            configs_afterwards={"message.timestamp.type": "LogAppendTime", "retention.ms": None},
            bases=(0, None, 2**63 - 1),
        ),
    ),
)
DATA = dump_restore_state(STATE)


def _sealed(document: dict[str, object]) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return b'%b,"sha256":"%b"}' % (body, hashlib.sha256(body).hexdigest().encode())


def test_a_state_reads_as_it_was_written() -> None:
    assert load_restore_state(DATA, name="s") == STATE
    assert b"source_ends" not in DATA
    assert STATE.topic("b") == STATE.topics[1]
    assert STATE.topic("c") is None
    assert [STATE.topics[1].base(number) for number in (-1, 0, 1, 2, 3)] == [None, 0, None, 2**63 - 1, None]


def test_the_ends_of_sources_that_share_partitions_are_kept() -> None:
    ends = {TopicPartition("orders", 0): 0, TopicPartition("orders", 7): 2**63 - 1}
    state = replace(STATE, topics=(replace(STATE.topics[0], source_ends=ends), STATE.topics[1]))
    assert load_restore_state(dump_restore_state(state), name="s") == state
    document = json.loads(dump_restore_state(state))
    del document["sha256"]
    for bad in (5, [["orders", 0]], [["o/", 0, 1]], [["orders", -1, 1]], [["orders", 0, True]], ["x"], [["orders", 0, 2**63]]):
        document["topics"][0]["source_ends"] = bad
        with pytest.raises(RestoreStateUnreadable, match="source_ends"):
            load_restore_state(_sealed(document), name="s")


def test_a_state_cut_anywhere_is_never_read() -> None:
    for length in range(len(DATA)):
        with pytest.raises(RestoreStateUnreadable):
            load_restore_state(DATA[:length], name="s")


@given(position=st.integers(0, len(DATA) - 1), mask=st.integers(1, 255))
def test_a_state_with_a_changed_byte_is_never_read(position: int, mask: int) -> None:
    data = bytearray(DATA)
    data[position] ^= mask
    with pytest.raises(KbrError) as caught:
        load_restore_state(bytes(data), name="place/state.json")
    assert "place/state.json" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backup_id": "../up"}, "backup_id"),
        ({"status": "done"}, "status"),
        ({"created_at": True}, "created_at"),
        ({"updated_at": -1}, "updated_at"),
        ({"topics": {}}, "topics"),
        ({"topics": [7]}, r"topics\[0\]"),
        ({"topics": [{"name": "../x"}]}, r"topics\[0\]\.name"),
    ],
)
def test_a_sealed_state_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    document = {**json.loads(DATA), **change}
    del document["sha256"]
    with pytest.raises(RestoreStateUnreadable, match=words):
        load_restore_state(_sealed(document), name="s")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "b"}, "twice"),
        ({"made": 1}, "made"),
        ({"topic_id": None}, "topic_id"),
        ({"bases": [-2]}, "bases"),
        ({"bases": [2**63]}, "bases"),
        ({"bases": [0.5]}, "bases"),
        ({"configs_afterwards": {"x": 1}}, "configs_afterwards"),
    ],
)
def test_a_topic_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    document = json.loads(DATA)
    del document["sha256"]
    document["topics"][0].update(change)
    with pytest.raises(RestoreStateUnreadable, match=words):
        load_restore_state(_sealed(document), name="s")


def test_another_version_and_another_program_are_told_apart_from_damage() -> None:
    with pytest.raises(UnsupportedFormat, match="version 2"):
        load_restore_state(_sealed({"format": "kbr-restore-state", "format_version": 2}), name="s")
    with pytest.raises(UnsupportedFormat, match="no state of a kbr restore"):
        load_restore_state(b"[]", name="s")
