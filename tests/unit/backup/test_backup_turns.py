"""Threads of a backup worker that take turns at fetching: what happens when a turn goes wrong."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import cast

import pytest

from kbr.backup.pipeline import SegmentPipeline
from kbr.backup.plan import BackupTask, PartitionTask
from kbr.backup.task import TaskContext, _BackupWorker
from kbr.errors import FetchFailed
from kbr.kafka.settings import ClientSettings
from kbr.kafka.source import PartitionSource
from kbr.model import Compression, OffsetRange
from kbr.runtime.lease import Lease
from kbr.runtime.pacing import Pacer, RateLimit
from kbr.storage import StorageOptions
from kbr.storage.memory import MemoryStore
from kbr.timing import SYSTEM_CLOCK, Clock
from tests.support.clocks import FakeClock


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
    advances = 0

    def short_of_end(self, _for_s: float) -> list[object]:
        return []

    def renew(self, *, done: object) -> list[object]:
        return []

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


def _worker(compress_threads: int, clock: Clock) -> _BackupWorker:
    pacer = Pacer.create(RateLimit())
    pacer.remove()
    lease = Lease.create()
    lease.remove()
    task = BackupTask(
        backup_id="b",
        writer="w",
        partitions=(
            PartitionTask(topic="t", topic_id="", partition=0, offsets=OffsetRange(start_offset=0, end_offset_exclusive=9), sequence=0),
        ),
        client=ClientSettings(bootstrap_servers=("nowhere:1",)),
        storage=StorageOptions(url="memory://turns"),
        isolation_level="read_committed",
        compression=Compression.ZSTD,
        compression_level=3,
        segment_max_bytes=1 << 20,
        segment_max_interval_s=60,
        patience_s=300,
        memory_bytes=1 << 24,
        compress_threads=compress_threads,
        pace_path=pacer.path,
        lease_path=lease.path,
    )
    return _BackupWorker(task, cast("TaskContext", _Context()), MemoryStore("memory://turns"), pacer, lease, clock)


@pytest.mark.parametrize("compress_threads", [1, 2, 5])
@pytest.mark.parametrize("turns", [0, 50])
def test_an_error_of_one_turn_ends_all_threads_and_leaves_no_promised_block_out(
    compress_threads: int, turns: int
) -> None:
    worker = _worker(compress_threads, SYSTEM_CLOCK)
    before = set(threading.enumerate())
    left: list[str] = []
    source = _Source(worker, left, turns)
    with pytest.raises(FetchFailed, match="the source is broken"):
        worker._fetch_by_turns(cast("PartitionSource", source), cast("SegmentPipeline", _Pipeline()))
    assert left == ["compressed"]
    assert set(threading.enumerate()) == before


class _Silent:
    """Gives no record in an hour; says now and then that it has fetched further, or that nobody is there."""

    brokers_down = False
    totals = (0, 0)

    def __init__(self, clock: FakeClock, *, advances_every_s: float) -> None:
        self._clock = clock
        self._every_s = advances_every_s
        self._began = clock.monotonic()
        self.advances = 0
        self.stopped = False

    @property
    def open_count(self) -> int:
        return 0 if self.stopped or self._clock.monotonic() > self._began + 3600 else 1

    def poll(self, _timeout_ms: int, **_bounds: int) -> list[object]:
        self._clock.advance(1)
        self.advances = int((self._clock.monotonic() - self._began) / self._every_s)
        return []

    def short_of_end(self, _for_s: float) -> list[object]:
        return []

    def renew(self, *, done: object) -> list[object]:
        return []

    def position(self, _index: int) -> int:
        return 0

    def flush(self, _index: int) -> None:
        return None

    def stop(self, _index: int) -> None:
        self.stopped = True


class _Lanes(_Pipeline):
    def open_from(self, _index: int) -> int:
        return 0

    def cut(self, _index: int, _next_offset: int) -> None:
        pass


@pytest.mark.parametrize(("advances_every_s", "is_given_up"), [(10.0, False), (299.0, False), (302.0, True), (1e9, True)])
def test_reading_what_gives_no_record_is_no_silence_however_long_it_takes(
    advances_every_s: float, is_given_up: bool
) -> None:
    clock = FakeClock()
    worker = _worker(1, clock)
    source = _Silent(clock, advances_every_s=advances_every_s)
    worker._fetch_by_turns(cast("PartitionSource", source), cast("SegmentPipeline", _Lanes()))
    assert source.stopped is is_given_up


class _Trickle(_Silent):
    """Gives a record a second, for an hour: never enough for a block."""

    def poll(self, _timeout_ms: int, **_bounds: int) -> list[object]:
        self._clock.advance(1)
        self.advances += 1
        return []

    def position(self, _index: int) -> int:
        return self.advances


class _Written(_Lanes):
    """Closes segments when it is told, as the pipeline does: a moment later."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.begin = 0
        self.cuts: list[tuple[float, int]] = []

    def open_from(self, _index: int) -> int:
        return self.begin

    def cut(self, _index: int, next_offset: int) -> None:
        self.begin = next_offset
        self.cuts.append((self._clock.monotonic(), next_offset))


def test_what_never_fills_a_block_is_committed_in_time_and_not_more_often() -> None:
    clock = FakeClock()
    worker = _worker(1, clock)
    source, pipeline = _Trickle(clock, advances_every_s=1), _Written(clock)
    began = clock.monotonic()
    worker._fetch_by_turns(cast("PartitionSource", source), cast("SegmentPipeline", pipeline))
    times = [began, *(at for at, _offset in pipeline.cuts)]
    assert all(60 <= after - before <= 63 for before, after in pairwise(times))
    assert 3600 - times[-1] + began < 63
