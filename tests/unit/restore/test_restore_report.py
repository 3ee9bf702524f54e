"""What a restore says of itself: numbers that are true whatever failed, and a warning where nothing was restored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kbr.errors import WorkerCrashed
from kbr.model import TopicPartition
from kbr.restore.counting import PlanCounts
from kbr.restore.plan import PartitionPlan, RestorePlan
from kbr.restore.report import RestoreReport
from kbr.restore.task import PartitionRestored
from kbr.restore.window import TimeWindow

SOURCE = TopicPartition("orders", 0)
COUNTS = PlanCounts(segments=1, blocks=1, records=10, raw_bytes=10, stored_bytes=10, exact=False)
NOTHING = replace(COUNTS, segments=0, blocks=0, records=0, exact=True)
WINDOW = TimeWindow(start_ms=5_000, end_ms=6_000)


def _report(*, window: TimeWindow = WINDOW, **changes: Any) -> RestoreReport:
    plan = RestorePlan(
        backup_id="b", window=window, topics=(), partitions=(), warnings=(), archived_times=(1_000, 2_000)
    )
    values: dict[str, Any] = {
        "restore_id": "0" * 32, "plan": plan, "counts": COUNTS, "storage_url": "s", "dry_run": False, "duration_s": 1.0, "phases_s": {},
        "waited_s": {}, "peak_worker_rss_bytes": 0, "worker_cpu_s": 0.0, "warnings": (), **changes,
    }  # fmt: skip
    return RestoreReport(**values)


def _result(count: int) -> PartitionRestored:
    return PartitionRestored(
        source=SOURCE, target=TopicPartition("back", 0), record_count=count, record_bytes=count, complete=True
    )


@pytest.mark.parametrize(
    "changes", [{"counts": NOTHING}, {"counts": NOTHING, "dry_run": True}, {"results": (_result(0),)}]
)
def test_a_window_without_a_record_is_warned_of_with_the_times_that_there_are(changes: dict[str, Any]) -> None:
    (warning,) = _report(**changes).to_document()["warnings"]
    assert "no record lies in the time window (from 1970-01-01T00:00:05.000Z to 1970-01-01T00:00:06.000Z)" in warning
    assert "are from 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:02.000Z" in warning


@pytest.mark.parametrize(
    "changes",
    [
        {"results": (_result(1),)},
        {"counts": NOTHING, "kept": {SOURCE: 5}},
        {"dry_run": True},
        {"results": (_result(0),), "failures": {SOURCE: WorkerCrashed("killed")}},
        {"counts": NOTHING, "window": TimeWindow()},
    ],
)
def test_a_window_of_which_records_are_or_may_be_is_not_warned_of(changes: dict[str, Any]) -> None:
    assert _report(**changes).to_document()["warnings"] == []


def test_what_a_failed_partition_had_acknowledged_counts_and_is_a_lower_bound() -> None:
    report = _report(gained={SOURCE: 7}, failures={SOURCE: WorkerCrashed("killed")})
    totals = report.to_document()["totals"]
    assert (totals["records"], totals["records_exact"]) == (7, False)
    assert _report(results=(_result(3),)).to_document()["totals"]["records_exact"]


def test_topics_that_come_behind_another_in_its_partitions_are_said_to_be_counted_with_it() -> None:
    def plan(*topics: str) -> RestorePlan:
        sources = tuple(TopicPartition(topic, 0) for topic in topics)
        one = PartitionPlan(source=sources[0], target=TopicPartition("back", 0), segments=(), sources=sources)
        return RestorePlan(backup_id="b", window=TimeWindow(), topics=(), partitions=(one,), warnings=())

    assert _report(plan=plan("eu", "eu")).to_document()["warnings"] == []
    (warning,) = _report(plan=plan("eu", "eu", "us")).to_document()["warnings"]
    assert warning == "us: records that come behind those of eu in the same partitions are counted as eu's"
