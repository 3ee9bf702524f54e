"""What stands in for a task whose worker died: its partitions, cut in half each time, until one is found guilty. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kbr.backup.plan import BackupTask, PartitionTask
from kbr.model import Anchor, OffsetRange, TopicPartition
from kbr.runtime.messages import TaskSpec
from kbr.runtime.retries import Retry

__all__ = ["MAX_CRASHES", "CrashedTasks"]

#: Workers that may die of one partition alone, one after the other, without getting it any further.
MAX_CRASHES = 5
#: Before the next try, seconds: doubled with each crash in a row, up to the cap.
BASE_DELAY_S = 0.2
MAX_DELAY_S = 30.0


@dataclass(slots=True)
class _Crashes:
    """Of one partition, without any record committed in between."""

    position: int
    alone: int = 0
    together: int = 0


class CrashedTasks:
    """One pass's tasks whose workers died.

    A worker may die of one partition out of many: halves find it in a few steps, and the others go on.

    Args:
        task_count: so many task_ids, from "0" on, are given.
    """

    def __init__(self, task_count: int, *, rng: random.Random | None = None) -> None:
        self._next_id = task_count
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self._crashes: dict[TopicPartition, _Crashes] = {}

    def stand_ins(
        self,
        task: BackupTask,
        position: Callable[[TopicPartition], int],
        anchor: Callable[[TopicPartition], Anchor | None],
    ) -> list[Retry]:
        """What is to be done instead of a task whose worker died; nothing when its one partition is given up.

        Args:
            position: first offset of a partition that no committed segment answers for, as far as is known.
            anchor: the last record before that which is in a segment.
        """
        partitions = [
            _rest(partition, position(partition.key), anchor(partition.key)) for partition in task.partitions
        ]
        depth = 0
        for partition in partitions:
            crashes = self._crashes.get(partition.key)
            if crashes is None or crashes.position != partition.sequence:
                crashes = self._crashes[partition.key] = _Crashes(partition.sequence)
            if len(partitions) == 1:
                crashes.alone += 1
                if crashes.alone >= MAX_CRASHES:
                    return []
            crashes.together += 1
            depth = max(depth, crashes.together)
        ceiling = min(MAX_DELAY_S, BASE_DELAY_S * 2 ** min(depth, 16))
        middle = (len(partitions) + 1) // 2
        return [
            self._retry(task, half, self._rng.uniform(ceiling / 2, ceiling))
            for half in (partitions[:middle], partitions[middle:])
            if half
        ]

    def _retry(self, task: BackupTask, partitions: Sequence[PartitionTask], delay_s: float) -> Retry:
        task_id = str(self._next_id)
        self._next_id += 1
        payload = replace(task, partitions=tuple(partitions))
        return Retry(task=TaskSpec(task_id=task_id, payload=payload), delay_s=delay_s)


def _rest(partition: PartitionTask, position: int, anchor: Anchor | None) -> PartitionTask:
    start = max(position, partition.offsets.start_offset)
    end = max(start, partition.offsets.end_offset_exclusive)
    return replace(
        partition,
        sequence=position,
        offsets=OffsetRange(start_offset=start, end_offset_exclusive=end),
        adopts=True,
        # as the plan said, or of what this pass has read: not one that retention had taken before
        anchor=partition.anchor if position == partition.sequence else anchor,
    )
