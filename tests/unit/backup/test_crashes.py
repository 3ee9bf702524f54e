"""A worker that dies takes no partition with it but the one that it dies of."""

from __future__ import annotations

import random
from pathlib import Path

from kbr.backup.crashes import MAX_CRASHES, CrashedTasks
from kbr.backup.plan import BackupTask, PartitionTask
from kbr.kafka.settings import ClientSettings
from kbr.model import Anchor, Compression, OffsetRange, TopicPartition
from kbr.storage import StorageOptions


def task_of(count: int) -> BackupTask:
    return BackupTask(
        backup_id="b", writer="w",
        partitions=tuple(
            PartitionTask(topic="t", topic_id="", partition=number, offsets=OffsetRange(start_offset=0, end_offset_exclusive=9), sequence=0)
            for number in range(count)
        ),
        client=ClientSettings(bootstrap_servers=("nowhere:1",)), storage=StorageOptions(url="memory://crashes"),
        isolation_level="read_committed", compression=Compression.ZSTD, compression_level=3, segment_max_bytes=1 << 20,
        segment_max_interval_s=60, patience_s=300, memory_bytes=1 << 24, compress_threads=1, pace_path=Path("pace"), lease_path=Path("lease"),
    )  # fmt: skip


def run(count: int, poisoned: set[int]) -> tuple[set[int], set[int], int]:
    """Partitions that were done, that were given up, and how many workers died."""
    crashes = CrashedTasks(1, rng=random.Random(1))  # noqa: S311
    waiting, done, given_up, died = [task_of(count)], set(), set(), 0
    ids = {"0"}
    while waiting:
        task = waiting.pop(0)
        numbers = {one.partition for one in task.partitions}
        if not numbers & poisoned:
            done |= numbers
            continue
        died += 1
        made = crashes.stand_ins(task, lambda _key: 0, lambda _key: None)
        if not made:
            given_up |= numbers
        for retry in made:
            assert retry.task.task_id not in ids
            ids.add(retry.task.task_id)
            assert isinstance(retry.task.payload, BackupTask)
            assert all(one.adopts for one in retry.task.payload.partitions)
            assert 0 < retry.delay_s <= 30
            waiting.append(retry.task.payload)
    return done, given_up, died


def test_one_poisoned_partition_of_many_is_found_and_the_others_are_done() -> None:
    done, given_up, died = run(500, {123})
    assert done == set(range(500)) - {123}
    assert given_up == {123}
    assert died <= 9 + MAX_CRASHES


def test_a_partition_alone_is_given_up_after_a_few_crashes() -> None:
    assert run(1, {0}) == (set(), {0}, MAX_CRASHES)


def test_several_poisoned_ones_are_all_found() -> None:
    done, given_up, _died = run(64, {0, 1, 40})
    assert given_up == {0, 1, 40}
    assert len(done) == 61


def test_a_partition_that_gets_further_between_crashes_is_not_given_up() -> None:
    crashes = CrashedTasks(1)
    task = task_of(1)
    for position in range(4 * MAX_CRASHES):
        (retry,) = crashes.stand_ins(task, lambda _key, at=position: at, lambda _key, at=position: Anchor(at, 7, 3))
        assert isinstance(retry.task.payload, BackupTask)
        task = retry.task.payload
        assert task.partitions[0].sequence == position
        assert task.partitions[0].offsets.start_offset == position
        # where it got no further, what the plan said holds
        assert task.partitions[0].anchor == (Anchor(position, 7, 3) if position else None)


def test_what_stands_in_goes_on_behind_what_is_committed_and_not_behind_its_own_beginning() -> None:
    crashes = CrashedTasks(1)
    positions = {TopicPartition("t", 0): 4, TopicPartition("t", 1): 9}
    retries = crashes.stand_ins(task_of(2), positions.__getitem__, lambda _key: None)
    parts = [part for retry in retries for part in retry.task.payload.partitions]  # type: ignore[attr-defined]
    assert [(one.sequence, one.offsets.start_offset, one.offsets.is_empty) for one in parts] == [
        (4, 4, False),
        (9, 9, True),
    ]
