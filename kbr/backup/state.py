"""What a backup holds, pass after pass, and the manifest that follows from it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kbr.backup.options import BackupOptions
from kbr.backup.partition_state import (
    PartitionState,
    kept_back,
    new_partition,
    partition_entry,
    restored_partition,
)
from kbr.backup.plan import BackupPlan, Known, PartitionPlan, recreated_error, shrunk_error
from kbr.backup.task import PartitionOutcome
from kbr.errors import ClusterUnavailable, KbrError, LogReplaced, StorageError, TopicMissing
from kbr.format.documents import FORMAT_VERSION, Manifest, SourceInfo, TopicEntry
from kbr.model import (
    Anchor,
    FailureKind,
    Gap,
    GapReason,
    PartitionStatus,
    RunStatus,
    SegmentRef,
    TopicPartition,
    TopicSpec,
)
from kbr.telemetry.events import SegmentCommitted

__all__ = ["BackupState", "RunCounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """What one run has added to a backup."""

    segments: int
    records: int
    raw_bytes: int
    stored_bytes: int
    gaps: int


@dataclass(slots=True)
class _Topic:
    spec: TopicSpec
    partitions: list[PartitionState] = field(default_factory=list)


class BackupState:
    """Takes plans and what workers report, gives the manifest as it stands.

    Args:
        options: what the run was told.
        source: the cluster, for the manifest.
        kbr_version: the same.
        created_at_ms: when the backup began; ``previous`` knows better.
        previous: the manifest that the backup goes on from.
    """

    def __init__(
        self,
        options: BackupOptions,
        source: SourceInfo,
        *,
        kbr_version: str,
        created_at_ms: int,
        previous: Manifest | None = None,
    ) -> None:
        self._options = options
        self._source = source
        self._kbr_version = kbr_version
        self._created_at_ms = created_at_ms if previous is None else previous.created_at_ms
        self._retention = None if previous is None else previous.retention
        self._topics: dict[str, _Topic] = {}
        #: Whether the manifest differs from the one last taken.
        self.changed = previous is None
        #: Counts what a manifest has to have before a segment is committed that begins there: topics, partitions, gaps.
        self.layout = 0
        self._added: list[SegmentRef] = []
        self._gaps_added = 0
        #: Partitions that this run had something to fetch of.
        self._wanted: set[TopicPartition] = set()
        for topic in () if previous is None else previous.topics:
            self._topics[topic.name] = _Topic(topic.spec, [restored_partition(entry) for entry in topic.partitions])

    # -- what it knows --------------------------------------------------------------------

    @property
    def topic_names(self) -> list[str]:
        """All topics of the backup."""
        return list(self._topics)

    def topic_id(self, name: str) -> str:
        """The id that the topic had when the backup took it up; empty where the cluster has none, or it is new."""
        topic = self._topics.get(name)
        return "" if topic is None else topic.spec.topic_id

    def known(self, names: Collection[str]) -> dict[TopicPartition, Known]:
        """What is there of these topics' partitions, for a plan."""
        return {
            TopicPartition(name, number): Known(
                topic_id=self._topics[name].spec.topic_id,
                position=partition.position,
                reached=max(partition.reached, partition.position),
                failed_for_good=partition.failed_for_good,
                is_unseen=partition.is_unseen,
                anchor=partition.anchor,
            )
            for name in names
            if name in self._topics
            for number, partition in enumerate(self._topics[name].partitions)
        }

    def positions(self) -> dict[TopicPartition, int]:
        """First offset of each partition that nothing answers for."""
        return {key: partition.position for key, partition in self._all()}

    def begun(self) -> list[TopicPartition]:
        """Partitions of which it is known where the backup begins."""
        return [key for key, partition in self._all() if not partition.is_unseen]

    def places(self) -> dict[str, list[tuple[int, int]]]:
        """By topic, of each partition: to where it is answered for, and its high watermark as last seen."""
        return {
            name: [(max(one.position, one.reached), one.high_watermark) for one in topic.partitions]
            for name, topic in self._topics.items()
        }

    def position(self, key: TopicPartition) -> int:
        """The same of one."""
        return self._partition(key).position

    def anchor(self, key: TopicPartition) -> Anchor | None:
        """The last record of one that is in a segment."""
        return self._partition(key).anchor

    def failed_for_good(self, key: TopicPartition) -> bool:
        """Whether no run may read more of it."""
        return bool(self._partition(key).failed_for_good)

    def unfinished(self, keys: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those that are not read to their end."""
        return [key for key in keys if self._partition(key).status is not PartitionStatus.COMPLETE]

    def is_failed(self, key: TopicPartition) -> bool:
        """Whether it could not be read on."""
        return self._partition(key).status is PartitionStatus.FAILED

    def failed_keys(self) -> list[TopicPartition]:
        """All that could not be read on."""
        return [key for key, partition in self._all() if partition.status is PartitionStatus.FAILED]

    def topics_reported_missing(self) -> list[str]:
        """Topics of which a worker was told that they are not there."""
        return sorted({key.topic for key, one in self._all() if isinstance(one.failure, TopicMissing)})

    def partition_counts(self) -> dict[str, int]:
        """Partitions by topic."""
        return {name: len(topic.partitions) for name, topic in self._topics.items()}

    def failure(self, key: TopicPartition) -> KbrError | None:
        """Why a worker could not go on with it."""
        return self._partition(key).failure

    @property
    def counts(self) -> RunCounts:
        """What this run has added."""
        return RunCounts(
            segments=len(self._added),
            records=sum(one.record_count for one in self._added),
            raw_bytes=sum(one.raw_bytes for one in self._added),
            stored_bytes=sum(one.stored_bytes for one in self._added),
            gaps=self._gaps_added,
        )

    def open_transactions(self) -> dict[TopicPartition, Gap]:
        """What keeps records back for now, with when it was first seen."""
        return {key: one.open_transaction for key, one in self._all() if one.open_transaction is not None}

    @property
    def is_unfinished(self) -> bool:
        """Whether a partition was neither read to its end nor given up."""
        return any(
            partition.status in (PartitionStatus.PENDING, PartitionStatus.PARTIAL) for _key, partition in self._all()
        )

    @property
    def common_failure(self) -> KbrError | None:
        """What kept the run from everything that it was to fetch, if that was the store or the cluster."""
        failures = [self._partition(key).failure for key in self._wanted]
        if not failures or not all(isinstance(one, (StorageError, ClusterUnavailable)) for one in failures):
            return None
        return failures[0]

    # -- what happens ---------------------------------------------------------------------

    def begin(self, plan: BackupPlan) -> None:
        """A pass over some topics begins."""
        self._wanted.update(one.key for one in plan.partitions if not one.offsets.is_empty)
        for spec in plan.topics:
            topic = self._topics.get(spec.name)
            if topic is None:
                self._topics[spec.name] = _Topic(spec)
                self._has_grown()
            elif not topic.spec.topic_id or not spec.topic_id or topic.spec.topic_id == spec.topic_id:
                # never fewer: a topic that shrank was made anew, even where there are no ids
                count = max(spec.partition_count, len(topic.partitions))
                merged = replace(spec, topic_id=topic.spec.topic_id or spec.topic_id, partition_count=count)
                self.changed = self.changed or merged != topic.spec
                topic.spec = merged
        for partition in plan.partitions:
            self._begin_partition(partition)
        for spec in plan.topics:
            self._missing_partitions(spec)

    def _begin_partition(self, plan: PartitionPlan) -> None:
        topic = self._topics[plan.topic]
        if plan.partition >= topic.spec.partition_count:
            return  # of a topic that was made anew with more partitions: the old ones' error tells
        if plan.partition == len(topic.partitions):
            topic.partitions.append(new_partition(plan))
            self._has_grown()
        elif not plan.error and topic.partitions[plan.partition].is_unseen:
            topic.partitions[plan.partition] = new_partition(plan)
            self._has_grown()
        partition = topic.partitions[plan.partition]
        before = (partition.end_offset_exclusive, partition.status, partition.error, partition.open_transaction)
        partition.failure = None
        partition.open_transaction = None
        if plan.error:
            partition.fail(plan.error, plan.failure or FailureKind.PASSING)
        else:
            partition.error = partition.kind = None
            partition.log_start_offset = plan.log_start_offset
            partition.high_watermark = plan.high_watermark
            partition.end_offset_exclusive = max(partition.end_offset_exclusive, plan.end_offset_exclusive)
            partition.open_transaction = kept_back(before[3], plan)
            if plan.gaps:
                partition.gaps.extend(plan.gaps)
                self._gaps_added += len(plan.gaps)
                self._has_grown()
            if max(partition.reached, partition.position) >= partition.end_offset_exclusive:
                partition.status = PartitionStatus.COMPLETE
            else:
                partition.status = PartitionStatus.PARTIAL if partition.segments else PartitionStatus.PENDING
        after = (partition.end_offset_exclusive, partition.status, partition.error, partition.open_transaction)
        self.changed = self.changed or before != after

    def _missing_partitions(self, spec: TopicSpec) -> None:
        partitions = self._topics[spec.name].partitions
        for number in range(spec.partition_count, len(partitions)):
            self._set_failed(partitions[number], shrunk_error(spec.name, spec.partition_count), FailureKind.LASTING)

    def segment_committed(self, event: SegmentCommitted) -> None:
        """A segment is durable."""
        partition = self._partition(TopicPartition(event.topic, event.partition))
        if not partition.failed_for_good:  # or else a worker goes on with another topic of that name
            partition.unconfirmed.append(event.ref)

    def found(
        self, key: TopicPartition, references: Sequence[SegmentRef], *, log_start: int, now_ms: int
    ) -> list[SegmentRef]:
        """Segments that an earlier run committed and no manifest lists.

        Args:
            references: in order, all of them checked.
            log_start: where the log begins now; what is missing before it can't be had any more.
            now_ms: stamp for gaps.

        Returns:
            Those that don't follow what is there: they are left alone.
        """
        partition = self._partition(key)
        left = []
        for reference in references:
            if partition.position < reference.sequence <= log_start:
                self._lost(partition, reference.sequence, log_start, now_ms)
            if reference.sequence != partition.position:
                left.append(reference)  # what a run left that had lost its lock, say: others may go on behind it
                continue
            partition.unconfirmed.append(reference)
            partition.reached = max(partition.reached, reference.next_offset)
            partition.end_offset_exclusive = max(partition.end_offset_exclusive, reference.next_offset)
        return left

    def _lost(self, partition: PartitionState, end_exclusive: int, log_start: int, now_ms: int) -> None:
        detail = f"the log begins at offset {log_start}: what was before it was deleted before it was read"
        partition.gaps.append(
            Gap(
                start_offset=partition.position,
                end_offset_exclusive=end_exclusive,
                reason=GapReason.RETENTION,
                detected_at_ms=now_ms,
                detail=detail,
            )
        )
        self._gaps_added += 1
        self._has_grown()

    def _has_grown(self) -> None:
        self.layout += 1
        self.changed = True

    def begin_check(self) -> None:
        """Somebody asks for the topics' ids now: they tell of what was committed before."""
        for _key, partition in self._all():
            partition.checked.extend(partition.unconfirmed)
            partition.unconfirmed.clear()

    def confirm(self, topic_ids: Mapping[str, str | None]) -> None:
        """List what was committed before begin_check().

        Args:
            topic_ids: of topics as they are now; None or absent where there is no such topic, or nobody could say.
                A topic that has another id now may have been read in part from the new one: what is not listed yet
                of it never is.
        """
        for name, topic in self._topics.items():
            now, had = topic_ids.get(name), topic.spec.topic_id
            recreated = bool(now and had and now != had)
            for partition in topic.partitions:
                if recreated:
                    partition.checked.clear()
                    partition.unconfirmed.clear()
                    # the end of its range may have been read from the new one, too
                    partition.reached = min(partition.reached, partition.position)
                    self._set_failed(partition, recreated_error(name, had, str(now)), FailureKind.LASTING)
                    continue
                for reference in partition.checked:
                    partition.add(reference)
                    self._added.append(reference)
                    self.changed = True
                partition.checked.clear()
                if partition.segments and partition.status is PartitionStatus.PENDING:
                    partition.status = PartitionStatus.PARTIAL

    def partition_ended(self, outcome: PartitionOutcome) -> None:
        """A worker is done with a partition, in whatever way."""
        partition = self._partition(TopicPartition(outcome.topic, outcome.partition))
        if partition.failed_for_good:
            return  # found out meanwhile
        if outcome.error is not None:
            kind = FailureKind.LASTING if isinstance(outcome.error, LogReplaced) else FailureKind.PASSING
            self._set_failed(partition, _storable(outcome.error), kind, failure=outcome.error)
        elif outcome.status is PartitionStatus.COMPLETE:
            # Records that were fetched and not committed don't count: only segments move the position, but for the
            # holes behind the last record of a partition that was read to its end.
            partition.reached = max(partition.reached, outcome.next_offset)
            done = max(partition.reached, partition.position) >= partition.end_offset_exclusive
            partition.status = PartitionStatus.COMPLETE if done else PartitionStatus.PARTIAL
        else:
            partition.status = outcome.status
        self.changed = True

    def partitions_failed(self, keys: Iterable[TopicPartition], error: KbrError) -> None:
        """A task ended without telling what became of its partitions: a worker died, for instance."""
        for key in keys:
            partition = self._partition(key)
            if partition.status in (PartitionStatus.PENDING, PartitionStatus.PARTIAL):
                self._set_failed(partition, _storable(error), failure=error)

    def topic_gone(self, name: str) -> None:
        """A topic of the backup is not in the cluster any more."""
        for partition in self._topics[name].partitions:
            self._set_failed(partition, f"topic {name} is not in the cluster any more: what is in the backup stays")

    def topic_ended(self, name: str) -> None:
        """The same, and that is all right: its partitions' ranges end where they have come to."""
        for partition in self._topics[name].partitions:
            ended = partition.status is PartitionStatus.COMPLETE and partition.error is not None
            if partition.failed_for_good or ended:
                continue
            reached = max(partition.position, partition.reached)
            partition.error = f"topic {name} is not in the cluster any more: what is in the backup stays"
            if partition.end_offset_exclusive > reached:
                partition.error += f"; offsets {reached} to {partition.end_offset_exclusive - 1} were not read before"
            partition.end_offset_exclusive = reached
            partition.open_transaction = None
            partition.failure = partition.kind = None
            partition.status = PartitionStatus.COMPLETE
            self.changed = True

    def forgive_outage(self, keys: Iterable[TopicPartition]) -> None:
        """What kept a worker from reading these on was the cluster as a whole: they have not failed."""
        for key in keys:
            partition = self._partition(key)
            if isinstance(partition.failure, ClusterUnavailable) and not partition.failed_for_good:
                partition.failure = partition.error = partition.kind = None
                partition.status = PartitionStatus.PARTIAL
                self.changed = True

    def end_here(self) -> None:
        """The backup was to go on until stopped, and is: its partitions' ranges end where they have come to."""
        for _key, partition in self._all():
            partition.open_transaction = None
            if partition.status in (PartitionStatus.PENDING, PartitionStatus.PARTIAL):
                partition.end_offset_exclusive = max(partition.position, partition.reached)
                partition.status = PartitionStatus.COMPLETE
                self.changed = True

    def _set_failed(
        self,
        partition: PartitionState,
        text: str,
        kind: FailureKind = FailureKind.PASSING,
        *,
        failure: KbrError | None = None,
    ) -> None:
        if partition.failed_for_good:
            return  # nothing that comes later changes that, or tells more
        partition.failure = failure
        if partition.status is not PartitionStatus.FAILED or partition.error != text:
            partition.fail(text, kind)
            self.changed = True

    # -- the manifest ---------------------------------------------------------------------

    @property
    def is_newer(self) -> bool:
        """Whether a checkpoint would say anything new."""
        return self.changed or self.has_unconfirmed

    @property
    def has_unconfirmed(self) -> bool:
        """Whether there are segments that are not listed yet."""
        return any(partition.unconfirmed or partition.checked for _key, partition in self._all())

    @property
    def final_status(self) -> RunStatus:
        """How the backup stands, when nothing runs any more (and nobody interrupted it)."""
        for _key, entry in self._all():
            if entry.status is not PartitionStatus.COMPLETE or entry.gaps or entry.open_transaction is not None:
                return RunStatus.INCOMPLETE
        return RunStatus.COMPLETE

    def manifest(self, status: RunStatus, *, now_ms: int) -> Manifest:
        """The manifest as it stands."""
        running = status is RunStatus.RUNNING
        return Manifest(
            format_version=FORMAT_VERSION,
            kbr_version=self._kbr_version,
            backup_id=self._options.backup_id,
            status=status,
            created_at_ms=self._created_at_ms,
            updated_at_ms=now_ms,
            finished_at_ms=None if running else now_ms,
            source=self._source,
            compression=self._options.compression,
            compression_level=self._options.compression_level,
            retention=self._retention,
            topics=tuple(_topic_entry(topic) for _name, topic in sorted(self._topics.items())),
        )

    # -- inner ----------------------------------------------------------------------------

    def _partition(self, key: TopicPartition) -> PartitionState:
        return self._topics[key.topic].partitions[key.partition]

    def _all(self) -> Iterable[tuple[TopicPartition, PartitionState]]:
        for name, topic in self._topics.items():
            for number, partition in enumerate(topic.partitions):
                yield TopicPartition(name, number), partition


def _topic_entry(topic: _Topic) -> TopicEntry:
    spec = topic.spec
    return TopicEntry(
        name=spec.name,
        topic_id=spec.topic_id,
        partition_count=len(topic.partitions),
        replication_factor=spec.replication_factor,
        is_internal=spec.is_internal,
        configs=None if spec.configs is None else dict(spec.configs),
        partitions=tuple(partition_entry(number, partition) for number, partition in enumerate(topic.partitions)),
    )


def _storable(error: KbrError) -> str:
    """An error's text as JSON can hold it: broken names come with lone surrogates."""
    return str(error).encode("utf-8", "backslashreplace").decode("utf-8")
