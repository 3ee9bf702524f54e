"""Records of a repartitioned topic, counted: how many segments are read at a time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from kbr.model import SegmentRef
from kbr.restore import lane_counts
from kbr.restore.lane_counts import READERS, LaneCounts
from kbr.restore.routing import Routing, partitioner_of
from kbr.restore.window import TimeWindow
from tests.support.backups import RecordingStore


def foreign(number: int, raw_bytes: int) -> SegmentRef:
    return SegmentRef(
        key=f"topics/orders/partition=0/segment-{number:020d}.bin.lz4", sequence=number, next_offset=number + 1,
        start_offset=number, end_offset=number, start_timestamp=0, end_timestamp=0, min_timestamp=-(2**63),
        max_timestamp=2**63 - 1, record_count=1, block_count=1, raw_bytes=raw_bytes, stored_bytes=1000,
        max_record_bytes=0, sha256="",
    )  # fmt: skip


class _Slow:
    """Notes how many are read at a time."""

    lock = threading.Lock()
    reading = most = 0

    def index(self) -> Any:
        with self.lock:
            _Slow.reading += 1
            _Slow.most = max(_Slow.most, _Slow.reading)
        time.sleep(0.02)
        with self.lock:
            _Slow.reading -= 1
        return type("Index", (), {"blocks": ()})

    def read_blocks(self, _entries: object) -> Any:
        return iter(())


@pytest.mark.parametrize(("raw_bytes", "most"), [(1000, READERS), (200 << 20, 1)])
def test_large_segments_of_another_tool_are_not_held_side_by_side(
    raw_bytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Slow, "most", 0)
    monkeypatch.setattr(lane_counts, "open_segment", lambda *_arguments, **_named: _Slow())
    segments = tuple(foreign(number, raw_bytes) for number in range(8))
    routing = Routing(
        partitioner=partitioner_of("murmur2"), partition_count=2, positions={one.key: one.sequence for one in segments}
    )
    counts = LaneCounts(
        RecordingStore(), "daily", segments, routing, TimeWindow(), max_block_bytes=1 << 28, stopped=lambda: False
    )
    assert counts.count(0, 0) == (0, True)
    assert _Slow.most == most
