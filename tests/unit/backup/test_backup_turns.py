"""Threads of a backup worker that take turns at fetching: what happens when a turn goes wrong."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from kbr.backup.pipeline import SegmentPipeline
from kbr.backup.plan import BackupTask, PartitionTask
from kbr.backup.task import TaskContext, _BackupWorker
from kbr.errors import FetchFailed
from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import PartitionSource
from kbr.model import Compression, OffsetRange
from kbr.runtime.pacing import Pacer, RateLimit
from kbr.storage import StorageOptions
from kbr.storage.memory import MemoryStore
from kbr.timing import SYSTEM_CLOCK


class _Context:
    def emit(self, event: object) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


class _Source:
    """Gives nothing for some turns, then breaks."""

    open_count = 1
    brokers_down = False
    totals = (0, 0)

    def __init__(self, worker: _BackupWorker, left: list[str], turns: int) -> None:
        self._worker = worker
        self._left = left
        self._turns = turns
        self.threads: set[str] = set()

    def poll(self, _timeout_ms: int, **_bounds: int) -> list[object]:
        self.threads.add(threading.current_thread().name)
        self._turns -= 1
        if self._turns < 0:
            # a block was promised to the writers, and the turn breaks before it is handed on
            self._worker._jobs.append(lambda: self._left.append("compressed"))
            raise FetchFailed("the source is broken", hint="none")
        return []


class _Pipeline:
    def wait_for_room(self) -> None:
        pass

    def take_failures(self) -> list[object]:
        return []


@pytest.mark.parametrize("compress_threads", [1, 2, 5])
@pytest.mark.parametrize("turns", [0, 50])
def test_an_error_of_one_turn_ends_all_threads_and_leaves_no_promised_block_out(
    compress_threads: int, turns: int
) -> None:
    pacer = Pacer.create(RateLimit())
    pacer.remove()
    task = BackupTask(
        backup_id="b",
        writer="w",
        partitions=(
            PartitionTask(topic="t", topic_id="", partition=0, offsets=OffsetRange(start_offset=0, end_offset_exclusive=9)),
        ),
        client=ClientSettings(bootstrap_servers=("nowhere:1",)),
        storage=StorageOptions(url="memory://turns"),
        isolation_level="read_committed",
        compression=Compression.ZSTD,
        compression_level=3,
        segment_max_bytes=1 << 20,
        segment_max_interval_s=60,
        memory_bytes=1 << 24,
        compress_threads=compress_threads,
        pace_path=pacer.path,
    )
    before = set(threading.enumerate())
    worker = _BackupWorker(task, cast("TaskContext", _Context()), MemoryStore("memory://turns"), pacer, SYSTEM_CLOCK)
    left: list[str] = []
    source = _Source(worker, left, turns)
    with pytest.raises(FetchFailed, match="the source is broken"):
        worker._fetch_by_turns(cast("PartitionSource", source), cast("SegmentPipeline", _Pipeline()))
    assert left == ["compressed"]
    assert set(threading.enumerate()) == before
