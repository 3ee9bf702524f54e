"""Whole runs of a backup, of a cluster and workers that are only told of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from kbr.backup.coordinator import BackupCoordinator, BackupPlaces
from kbr.backup.options import BackupOptions
from kbr.backup.plan import BackupTask
from kbr.backup.report import BackupReport
from kbr.backup.task import PartitionOutcome
from kbr.backup.watching import BackupWatch
from kbr.errors import (
    ClusterUnavailable,
    KbrError,
)
from kbr.format.documents import Manifest
from kbr.kafka.cluster import ClusterInfo, PartitionOffsets
from kbr.kafka.settings import ClientSettings
from kbr.model import PartitionStatus, SegmentRef, TopicPartition, TopicSpec
from kbr.repository.catalog import Catalog
from kbr.runtime.messages import TaskSpec
from kbr.runtime.stopping import StopWish
from kbr.runtime.supervisor import RunOutcome
from kbr.storage import StorageOptions
from kbr.storage.base import ObjectInfo
from kbr.storage.memory import MemoryStore
from kbr.telemetry.events import SegmentCommitted
from tests.support.clocks import FakeClock

OPTIONS = BackupOptions(backup_id="b", include=("t*",), segment_max_interval_ms=10_000, workers=1)
CONTINUOUS = BackupOptions(
    backup_id="b", include=("t*",), segment_max_interval_ms=10_000, workers=1, continuous=True, checkpoint_interval_s=1.0
)


class Topics:
    """What a cluster says of itself: ends of partitions by topic."""

    def __init__(self, **topics: list[int]) -> None:
        self.ends = topics
        self.ids = {name: f"id-of-{name}" for name in topics}
        self.start = 0
        self.offline: set[TopicPartition] = set()
        self.calls: dict[str, int] = {}
        #: What is said of a time, by partition, and of which partitions that was asked.
        self.first: dict[TopicPartition, int | KbrError] = {}
        self.looked_up: list[TopicPartition] = []
        #: Called with a method's name and how often it was called, may raise.
        self.before: Callable[[str, int], None] = lambda _name, _count: None

    def _called(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.before(name, self.calls[name])

    def info(self) -> ClusterInfo:
        return ClusterInfo(cluster_id="c", brokers=("h:1",))

    def topics(self) -> list[tuple[str, bool, int]]:
        self._called("topics")
        return [(name, False, len(ends)) for name, ends in sorted(self.ends.items())]

    def topics_without(self, names: Sequence[str], operation: str) -> list[str]:
        return []

    def describe_topics(self, names: Sequence[str]) -> dict[str, TopicSpec]:
        return {
            name: TopicSpec(name=name, partition_count=len(self.ends[name]), replication_factor=1, topic_id=self.ids[name])
            for name in names
        }

    def answers(self, *, stop_grace_s: float) -> bool:
        try:
            self._called("answers")
        except ClusterUnavailable:
            return False
        return True

    def topic_ids(self, names: Sequence[str], *, stop_grace_s: float = 0.0) -> dict[str, str | None]:
        self._called("topic_ids")
        return {name: self.ids[name] if name in self.ends else None for name in names}

    def offsets(self, keys: Sequence[TopicPartition], _level: str) -> dict[TopicPartition, PartitionOffsets | KbrError]:
        found: dict[TopicPartition, PartitionOffsets | KbrError] = {}
        for key in keys:
            end = self.ends[key.topic][key.partition]
            found[key] = PartitionOffsets(log_start=self.start, high_watermark=end, end_offset=end)
            if key in self.offline:
                found[key] = ClusterUnavailable("it has no leader", hint="wait")
        return found

    def first_at(self, keys: Sequence[TopicPartition], _at_ms: int) -> dict[TopicPartition, int | KbrError]:
        self.looked_up += keys
        return {key: self.first[key] for key in keys}

    def leaders(self, _names: Sequence[str]) -> dict[TopicPartition, int]:
        self._called("leaders")
        return {}


class Workers:
    """Stands in for the supervisor: reads every partition to its end, or does what a test says of one."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.outcome: Callable[[TopicPartition, int], KbrError | None] = lambda _key, _try: None
        self.tries: dict[TopicPartition, int] = {}
        #: Partitions whose unlisted segments were to be looked for, in order.
        self.adopted: list[TopicPartition] = []
        #: Of each task, whether it may take over what no manifest lists.
        self.took_over: list[bool] = []
        #: Partitions that are left where they are, as after a stop.
        self.undone: set[TopicPartition] = set()
        #: How often a run of tasks was asked to make room.
        self.ended_early = 0
        #: Called in the middle of each run of tasks.
        self.meanwhile: Callable[[], None] = lambda: None

    def stop(self) -> None:
        pass

    def end_early(self) -> None:
        self.ended_early += 1

    def run(
        self,
        tasks: Sequence[TaskSpec],
        *,
        on_event: Callable[[str, object], None],
        on_tick: Callable[[], None],
        **_more: object,
    ) -> RunOutcome:
        results: dict[str, object] = {}
        for spec in tasks:
            task = cast("BackupTask", spec.payload)
            outcomes = []
            self.took_over.append(task.takes_over)
            for one in task.partitions:
                self.tries[one.key] = self.tries.get(one.key, 0) + 1
                self.adopted += [one.key] if one.adopts else []
                error = self.outcome(one.key, self.tries[one.key])
                end = one.offsets.end_offset_exclusive
                if one.key in self.undone:
                    outcomes.append(
                        PartitionOutcome(
                            topic=one.topic, partition=one.partition, status=PartitionStatus.PARTIAL, next_offset=one.sequence
                        )
                    )
                    continue
                if error is None:
                    reference = segment(one.key, one.sequence, end)
                    on_event(spec.task_id, SegmentCommitted(topic=one.topic, partition=one.partition, ref=reference))
                outcomes.append(
                    PartitionOutcome(
                        topic=one.topic, partition=one.partition, error=error,
                        status=PartitionStatus.COMPLETE if error is None else PartitionStatus.FAILED,
                        next_offset=end if error is None else one.sequence,
                    )
                )  # fmt: skip
            results[spec.task_id] = tuple(outcomes)
        self.meanwhile()
        on_tick()
        return RunOutcome(
            results=results, failures={}, retried=(), retried_count=0, interrupted=False, unstarted=(),
            peak_worker_rss_bytes=1, worker_cpu_s=0.0,
        )  # fmt: skip


class Waits(StopWish):
    """Time passes by the test's clock; each wait asks the test whether the run is to end."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.at_wait: Callable[[int], bool] = lambda _count: False
        self.count = 0

    def wait(self, seconds: float) -> bool:
        self.count += 1
        assert self.count < 2000, "it waits for ever"
        self._clock.advance(max(seconds, 0.001))
        settle()
        if not self.requested and self.at_wait(self.count):
            self.note()
        return self.requested


def settle() -> None:
    """Wait for a checkpoint that is under way."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(10)


def segment(key: TopicPartition, sequence: int, end: int) -> SegmentRef:
    return SegmentRef(
        key=f"topics/{key.topic}/partition={key.partition}/segment-{sequence:020d}.zst", sequence=sequence, next_offset=end,
        start_offset=sequence, end_offset=end - 1, start_timestamp=1, end_timestamp=1, min_timestamp=1, max_timestamp=1,
        record_count=end - sequence, block_count=1, raw_bytes=10, stored_bytes=10, max_record_bytes=1, sha256="0" * 64,
    )  # fmt: skip


class Lock:
    def __enter__(self) -> object:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def check(self) -> None:
        pass


class Bench:
    """One store, one clock, runs."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.store: Any = MemoryStore("memory://b")
        self.clock = FakeClock()
        self.workers = Workers(self.clock)
        self.wish = Waits(self.clock)
        self.reread: Callable[[], BackupOptions | None] = lambda: None
        self.watch = BackupWatch()
        self.on_options: Callable[[BackupOptions], None] = lambda _options: None

    def run(self, options: BackupOptions, *, dry_run: bool = False) -> BackupReport:
        self.wish = Waits(self.clock) if self.wish.requested else self.wish
        coordinator = BackupCoordinator(
            BackupPlaces(
                client=ClientSettings(bootstrap_servers=("h:1",)),
                storage=StorageOptions(url="memory://b"),
                pace_path=Path("pace"),
                lease_path=Path("lease"),
            ),
            options,
            cluster=cast("Any", self.topics),
            store=self.store,
            run_lock=cast("Any", Lock()),
            kbr_version="0",
            on_event=lambda _event: None,
            on_plan=lambda _plan: None,
            on_tick=lambda: None,
            stop=self.wish,
            reread=lambda: self.reread(),
            on_options=lambda options: self.on_options(options),
            watch=self.watch,
            clock=self.clock,
        )
        if dry_run:
            return coordinator.dry_run()
        return coordinator.run(lambda _count, _entry: cast("Any", self.workers))

    def stored(self) -> Manifest:
        return Catalog(self.store).load("b")


class FailingStore(MemoryStore):
    """Its manifests can't be written while a test says so."""

    def __init__(self) -> None:
        super().__init__("memory://b")
        self.before_put: Callable[[], None] = lambda: None

    def put(self, key: str, data: Any, **more: Any) -> ObjectInfo:
        if key.endswith("manifest.json"):
            self.before_put()
        return super().put(key, data, **more)
