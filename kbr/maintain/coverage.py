"""Whether the segments of a manifest answer for every offset that it says they do. Pure."""

from __future__ import annotations

from kbr.format.documents import Manifest, PartitionEntry
from kbr.model import Gap, PartitionStatus

__all__ = ["coverage_errors", "incompleteness_notes"]


def coverage_errors(partition: PartitionEntry) -> list[str]:
    """What is missing or too much in one partition; each a sentence without a final stop.

    The segments have to follow one another from ``start_offset``: each begins where the one before
    it ended, unless a recorded gap fills the space. Behind the last one, up to ``next_offset``, the
    log may have ended without a record (transaction markers, compaction).
    """
    found: list[str] = []
    expected = partition.start_offset
    for segment in partition.segments:
        if segment.sequence > expected and not _filled(expected, segment.sequence, partition.gaps):
            found.append(f"offsets {expected} to {segment.sequence - 1} are in no segment and in no gap")
        if segment.end_offset >= partition.end_offset_exclusive:
            found.append(
                f"offset {segment.end_offset} lies behind the end of the range, {partition.end_offset_exclusive - 1}"
            )
        expected = segment.next_offset
    complete = partition.status is PartitionStatus.COMPLETE
    if complete and not _filled(partition.next_offset, partition.end_offset_exclusive, partition.gaps):
        found.append(
            f"it is said to be complete, but ends before offset {partition.next_offset} "
            f"of {partition.end_offset_exclusive}"
        )
    return found


def _filled(start: int, end: int, gaps: tuple[Gap, ...]) -> bool:
    """Whether gaps cover all of [start, end)."""
    for gap in sorted(gaps, key=lambda one: one.start_offset):
        if gap.start_offset > start:
            break
        start = max(start, gap.end_offset_exclusive)
    return start >= end


def incompleteness_notes(manifest: Manifest) -> list[str]:
    """What the manifest itself says is not in the backup, a sentence per partition and gap."""
    found: list[str] = []
    if manifest.status.value != "complete":
        found.append(f"the manifest says that the backup is {manifest.status.value}")
    for topic in manifest.topics:
        for partition in topic.partitions:
            place = f"{topic.name}[{partition.partition}]"
            if partition.status is not PartitionStatus.COMPLETE:
                reach = "none of its records are there"
                if partition.next_offset > partition.start_offset:
                    last, end = partition.next_offset - 1, partition.end_offset_exclusive - 1
                    reach = f"its records reach offset {last} of {end}"
                reason = f": {partition.error}" if partition.error else ""
                found.append(f"{place} is {partition.status.value}, {reach}{reason}")
            found.extend(
                f"{place} lacks offsets {gap.start_offset} to {gap.end_offset_exclusive - 1} ({gap.reason.value})"
                for gap in partition.gaps
            )
    return found
