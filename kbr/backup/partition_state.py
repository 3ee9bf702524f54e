"""One partition of a backup while it is worked at, from a manifest and back to it. No I/O, no clock, no threads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kbr.backup.plan import PartitionPlan
from kbr.errors import KbrError
from kbr.format.documents import PartitionEntry
from kbr.model import Anchor, FailureKind, Gap, GapReason, PartitionStatus, SegmentRef

__all__ = ["PartitionState", "kept_back", "new_partition", "partition_entry", "restored_partition"]


@dataclass(slots=True, kw_only=True)
class PartitionState:
    """A partition of the backup, as far as it has come."""

    start_offset: int
    end_offset_exclusive: int
    log_start_offset: int
    high_watermark: int
    status: PartitionStatus
    #: Read to here: behind the last segment the log held no record up to it.
    reached: int
    error: str | None = None
    #: What a failure means for later runs.
    kind: FailureKind | None = None
    failure: KbrError | None = None
    #: In order.
    segments: list[SegmentRef] = field(default_factory=list)
    record_count: int = 0
    #: Committed, but nobody has looked yet whether the topic is still the one that it was; and those for which
    #: somebody looks just now.
    unconfirmed: list[SegmentRef] = field(default_factory=list)
    checked: list[SegmentRef] = field(default_factory=list)
    #: Lost for good.
    gaps: list[Gap] = field(default_factory=list)
    open_transaction: Gap | None = None

    @property
    def position(self) -> int:
        """First offset that is in no segment, confirmed or not, and in no gap."""
        last = self.unconfirmed or self.checked or self.segments
        found = last[-1].next_offset if last else self.start_offset
        # the gaps at the end are the last ones, as they come in order; several may follow one another
        first = len(self.gaps)
        while first and self.gaps[first - 1].end_offset_exclusive > found:
            first -= 1
        for gap in self.gaps[first:]:
            if gap.start_offset <= found:
                found = gap.end_offset_exclusive
        return found

    @property
    def anchor(self) -> Anchor | None:
        """The last record that is in a segment, confirmed or not."""
        last = self.unconfirmed or self.checked or self.segments
        return last[-1].anchor if last else None

    @property
    def is_unseen(self) -> bool:
        """Whether the cluster has never told its offsets, so that it is not known where it begins."""
        failed = self.status is PartitionStatus.FAILED and self.kind is FailureKind.UNSEEN
        return failed and not (self.segments or self.unconfirmed or self.checked or self.gaps)

    @property
    def failed_for_good(self) -> str:
        """Why no run reads more of it; empty if one may."""
        failed = self.status is PartitionStatus.FAILED and self.kind is FailureKind.LASTING
        return self.error or "" if failed else ""

    def fail(self, error: str, kind: FailureKind) -> None:
        """It can't be read on."""
        self.status, self.error, self.kind = PartitionStatus.FAILED, error, kind

    def add(self, reference: SegmentRef) -> None:
        self.segments.append(reference)
        self.record_count += reference.record_count


def new_partition(plan: PartitionPlan) -> PartitionState:
    """One that the backup has nothing of."""
    return PartitionState(
        start_offset=plan.sequence,
        end_offset_exclusive=plan.end_offset_exclusive,
        log_start_offset=plan.log_start_offset,
        high_watermark=plan.high_watermark,
        status=PartitionStatus.PENDING,
        reached=plan.sequence,
    )


def restored_partition(entry: PartitionEntry) -> PartitionState:
    """One as a manifest says it."""
    lost = [gap for gap in entry.gaps if gap.reason is not GapReason.OPEN_TRANSACTION]
    return PartitionState(
        start_offset=entry.start_offset,
        end_offset_exclusive=entry.end_offset_exclusive,
        log_start_offset=entry.log_start_offset,
        high_watermark=entry.high_watermark,
        status=entry.status,
        reached=entry.next_offset,
        error=entry.error,
        kind=_kind(entry),
        segments=list(entry.segments),
        record_count=entry.record_count,
        gaps=sorted(lost, key=lambda gap: gap.start_offset),
        open_transaction=next((gap for gap in entry.gaps if gap.reason is GapReason.OPEN_TRANSACTION), None),
    )


def _kind(entry: PartitionEntry) -> FailureKind | None:
    """Of a manifest that is older than its key ``failure``, the error's words tell, which were always these."""
    if entry.failure is not None or entry.status is not PartitionStatus.FAILED:
        return entry.failure
    error = entry.error or ""
    if "what is in the backup stays as it was, take " in error:
        return FailureKind.LASTING
    return FailureKind.UNSEEN if error.endswith("; it has not been seen yet") else FailureKind.PASSING


def partition_entry(number: int, partition: PartitionState) -> PartitionEntry:
    """What a manifest says of it."""
    listed = partition.segments[-1].next_offset if partition.segments else partition.start_offset
    # what is not listed yet must not count as reached
    hidden = bool(partition.unconfirmed or partition.checked)
    reached = listed if hidden else max(partition.position, partition.reached)
    status = partition.status
    if hidden and status is PartitionStatus.COMPLETE:
        status = PartitionStatus.PARTIAL
    transaction = () if partition.open_transaction is None else (partition.open_transaction,)
    return PartitionEntry(
        partition=number,
        status=status,
        log_start_offset=partition.log_start_offset,
        high_watermark=partition.high_watermark,
        start_offset=partition.start_offset,
        end_offset_exclusive=max(partition.end_offset_exclusive, reached),
        next_offset=reached,
        record_count=partition.record_count,
        error=partition.error,
        failure=(partition.kind or FailureKind.PASSING) if status is PartitionStatus.FAILED else None,
        gaps=(*partition.gaps, *transaction),
        segments=tuple(partition.segments),
    )


def kept_back(before: Gap | None, plan: PartitionPlan) -> Gap | None:
    """What an open transaction keeps back of the partition as it is going to be read."""
    now = plan.open_transaction
    if before is None:
        return now
    if plan.end_offset_exclusive <= before.start_offset and (now is None or now.start_offset != before.start_offset):
        return before  # it may have ended meanwhile, but the range still ends before it: another try of the same run
    if now is None or before.start_offset != now.start_offset:
        return now
    # of the same transaction it counts when it was first seen
    return replace(now, detected_at_ms=before.detected_at_ms)
