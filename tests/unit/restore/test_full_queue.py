"""A restore's worker whose client has no room for a record: it hears a stop, and sees that nothing gets through."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest

from kbr.errors import ClusterUnavailable
from kbr.kafka.settings import ClientSettings
from kbr.model import Compression, TopicPartition
from kbr.restore.feeds import HeldBlock, ReadyBlock
from kbr.restore.plan import PartitionPlan, RestoreTask
from kbr.restore.task import LOGIN_STALL_S, STALL_DEADLINE_S, _RestoreWorker
from kbr.restore.window import TimeWindow
from kbr.runtime.pacing import UNLIMITED
from kbr.storage import StorageOptions
from kbr_codec.rdkafka import Sent
from tests.support.clocks import FakeClock


class FullSink:
    """Takes so many records, and then none; a call takes as long as it waits for room."""

    acknowledged_total = 0
    has_old_login = False

    def __init__(self, clock: FakeClock, room: int) -> None:
        self._clock = clock
        self._room = room
        self.calls = 0

    def send(self, *_arguments: object, **_bounds: object) -> Sent:
        return self.send_more(0)

    def send_more(self, ticket: int, **_bounds: object) -> Sent:
        self.calls += 1
        self._clock.sleep(0.1)
        taken, self._room = self._room, 0
        return Sent(ticket, taken, 10 * taken, complete=False)

    def abandon(self, _ticket: int) -> bool:
        return False

    def poll(self, _timeout_ms: int) -> list[object]:
        return []


def _work(sink: FullSink, clock: FakeClock, *, stop_after: int) -> None:
    partition = PartitionPlan(source=TopicPartition("t", 0), target=TopicPartition("t", 0), segments=())
    task = RestoreTask(
        backup_id="b", compression=Compression.ZSTD, window=TimeWindow(), partitions=(partition,),
        client=ClientSettings(bootstrap_servers=("x:1",)), storage=StorageOptions(url="/x"), wire_compression="none",
        original_offset_header=b"", zero_timestamp_as=0, batch_bytes=1, memory_bytes=1 << 20, max_block_bytes=1, deadline_s=1,
        pace_path=Path("/x"), lease_path=Path("/x"),
    )  # fmt: skip
    context = SimpleNamespace(stop_requested=lambda: sink.calls >= stop_after, emit=lambda _event: None)
    pacer = SimpleNamespace(ask=lambda: UNLIMITED, settle=lambda *_: None)
    lease = SimpleNamespace(check=lambda: None)
    readers = SimpleNamespace(ready=Queue(), error=lambda: None, taken=lambda _size: None)
    reference = SimpleNamespace(key="segment")
    readers.ready.put(ReadyBlock([0], bytes(100), "segment", 0, reference, 0, HeldBlock(100)))  # type: ignore[arg-type]
    worker = _RestoreWorker(task, context, None, pacer, lease, clock)  # type: ignore[arg-type]
    worker._send_all(readers, sink)  # type: ignore[arg-type]


def test_a_stop_is_heard_and_a_block_of_which_nothing_was_queued_is_not_waited_for() -> None:
    clock = FakeClock()
    sink = FullSink(clock, room=0)
    _work(sink, clock, stop_after=3)
    assert sink.calls == 3


def test_a_client_that_stays_full_is_a_stall() -> None:
    clock = FakeClock()
    begun = clock.monotonic()
    with pytest.raises(ClusterUnavailable, match="while 7 wait"):
        _work(FullSink(clock, room=7), clock, stop_after=10**9)
    assert clock.monotonic() - begun > STALL_DEADLINE_S


def test_a_client_that_stays_full_with_a_login_that_was_renewed_since_makes_room_for_another_soon() -> None:
    clock = FakeClock()
    begun = clock.monotonic()
    sink = FullSink(clock, room=7)
    sink.has_old_login = True
    with pytest.raises(ClusterUnavailable, match="files of the login have changed"):
        _work(sink, clock, stop_after=10**9)
    assert LOGIN_STALL_S < clock.monotonic() - begun < 2 * LOGIN_STALL_S
