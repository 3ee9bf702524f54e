"""The manifest of a backup that OSO kafka-backup has made, as kbr's own values. Bytes to values, without I/O.

Strict about what a restore depends on, every type, bound, name and order; what later versions add is passed over. What
such a manifest does not tell is marked as unknown, never guessed: a segment's smallest and largest timestamp, so that
none is left out by its times, its SHA-256, and the largest record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kbr.errors import ManifestUnreadable
from kbr.format.manifest_parser import load_manifest_json
from kbr.format.manifest_values import Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.format.names import BACKUP_ID_RULE, INT64_MAX, PARTITION_MAX, TOPIC_RULE, is_backup_id, is_topic_name
from kbr.format.oso_names import MADE_BY, segment_compression, segment_key_below
from kbr.format.sealed import BadValue, count_at, fail, value_at
from kbr.model import Compression, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef

__all__ = ["MAX_PARTITIONS", "oso_document", "parse_oso_manifest"]

#: Partitions of all topics together, the empty ones too.
MAX_PARTITIONS = 1_000_000
#: Those of them that are only counted: a manifest of 300 bytes may claim them, and a kilobyte or more is made of each.
MAX_UNLISTED = 100_000
#: Names of topics and texts that a note repeats, and their lengths.
_NAMES_SHOWN = 10
_TEXT_SHOWN = 100
_INT64_MIN = -(2**63)
#: Replication factor that leaves it to the cluster (KIP-464).
_CLUSTERS_DEFAULT = -1
_UNKNOWN = "unknown"
_BODY_MIN_BYTES = 30

#: What is lost in such a backup before kbr sees it.
_FLAWS = (
    f"this backup was made by {MADE_BY}, and kbr only reads it. Not as they were at the source: header values that were "
    "null are empty, of several headers of one name only the last is there, timestamps have no type, and the control "
    "records of transactions (with keys of 4 or 6 bytes, in batches of their own) stand among the records as if they were "
    "data, beside records of aborted transactions"
)
_UNTOLD = (
    "the manifest does not tell a segment's smallest and largest timestamp, nor its largest record: times are told by "
    "first and last records, a time window is found by reading every segment, and what the target does not take (size, "
    "age, timestamp 0) is found when it is sent"
)


def oso_document(data: bytes) -> Mapping[str, Any] | None:
    """The document, if it looks like a manifest of that tool; None for kbr's own, and for anything else."""
    if data.startswith(b'{"format":'):
        return None  # kbr's own, which nobody wants to parse twice
    try:
        document = load_manifest_json(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or "format" in document:
        return None
    is_one = isinstance(document.get("backup_id"), str) and isinstance(document.get("topics"), list)
    return document if is_one and "created_at" in document else None


def parse_oso_manifest(document: Mapping[str, Any], *, name: str) -> Manifest:
    """Make kbr's manifest of it.

    Args:
        document: from oso_document().
        name: the object, for messages.

    Raises:
        ManifestUnreadable: something is missing, or not as it has to be.
    """
    try:
        return _Parser(document).manifest()
    except BadValue as error:
        raise ManifestUnreadable(
            f"{name}: the manifest of {MADE_BY} makes no sense: {error}",
            hint="put back an intact copy of it",
            object=name,
        ) from error


@dataclass(slots=True)
class _Parser:
    """One manifest."""

    document: Mapping[str, Any]
    partition_total: int = 0
    unlisted_total: int = 0
    without_count: list[str] = field(default_factory=list)

    def manifest(self) -> Manifest:
        document = self.document
        backup_id: str = value_at(document, "", "backup_id", str)
        if not is_backup_id(backup_id):
            fail("backup_id", f"{_shown(backup_id)} can't be one of kbr's: {BACKUP_ID_RULE}")
        created_at_ms = count_at(document, "", "created_at")
        topics = sorted(
            (self._topic(one, f"topics[{number}].", backup_id) for number, one in _objects(document, "", "topics")),
            key=lambda topic: topic.name,
        )
        for before, after in pairwise(topics):
            if before.name == after.name:
                fail("topics", f"names {after.name} twice")
        brokers = document.get("source_brokers") or []
        if type(brokers) is not list or not all(type(one) is str for one in brokers):
            fail("source_brokers", "holds something else than strings")
        cluster_id = document.get("source_cluster_id")
        if cluster_id is not None and type(cluster_id) is not str:
            fail("source_cluster_id", "is no string")
        return Manifest(
            kbr_version="",
            backup_id=backup_id,
            # it does not tell how its run ended
            status=RunStatus.COMPLETE,
            created_at_ms=created_at_ms,
            updated_at_ms=created_at_ms,
            finished_at_ms=None,
            source=SourceInfo(cluster_id=cluster_id or "", brokers=tuple(brokers), isolation_level=_UNKNOWN),
            compression=self._compression(),
            compression_level=None,
            retention=None,
            topics=tuple(topics),
            made_by=MADE_BY,
            notes=tuple(self._notes()),
        )

    def _compression(self) -> Compression:
        said = self.document.get("compression") or Compression.ZSTD.value
        try:
            return Compression(said)
        except ValueError:
            fail("compression", f"is {_shown(said)}, none of zstd, lz4, none")

    def _notes(self) -> Iterable[str]:
        yield _FLAWS
        yield _UNTOLD
        if self.without_count:
            yield (
                "how many partitions the source had is not told of "
                f"{_listed(self.without_count)}: partitions behind the last one with records are not known"
            )
        missing = self.document.get("missing_topics")
        if isinstance(missing, list) and missing:
            yield f"topics that were asked for and are not in the backup: {_listed(missing)}"
        if self.document.get("pruned"):
            yield f"older segments were removed from it by {MADE_BY}"

    # -- topics ---------------------------------------------------------------------------

    def _topic(self, node: Mapping[str, Any], path: str, backup_id: str) -> TopicEntry:
        name: str = value_at(node, path, "name", str)
        if not is_topic_name(name):
            fail(f"{path}name", f"{_shown(name)} can't be a topic: {TOPIC_RULE}")
        found: dict[int, PartitionEntry] = {}
        for number, child in _objects(node, path, "partitions"):
            where = f"{path}partitions[{number}]."
            entry = self._partition(child, where, backup_id, name)
            if entry.partition in found:
                fail(f"{where}partition_id", f"{entry.partition} stands there twice")
            found[entry.partition] = entry
        count = node.get("original_partition_count")
        if count is None:
            self.without_count.append(name)
        elif type(count) is not int or not 0 <= count <= PARTITION_MAX:
            fail(f"{path}original_partition_count", f"can't be {_shown(count)}")
        # at least one: no topic has none
        count = max(count or 0, max(found, default=0) + 1)
        self.partition_total += count
        self.unlisted_total += count - len(found)
        if self.partition_total > MAX_PARTITIONS or self.unlisted_total > MAX_UNLISTED:
            fail(
                f"{path}original_partition_count",
                f"makes more than {MAX_PARTITIONS} partitions, or more than {MAX_UNLISTED} that are not listed",
            )
        return TopicEntry(
            name=name,
            topic_id="",
            partition_count=count,
            replication_factor=_replication_factor(node.get("source_replication_factor")),
            is_internal=name.startswith("__"),
            configs=_configs(node.get("configurations"), f"{path}configurations"),
            partitions=tuple(found.get(number) or _entry(number, (), ()) for number in range(count)),
        )

    def _partition(self, node: Mapping[str, Any], path: str, backup_id: str, topic: str) -> PartitionEntry:
        number = count_at(node, path, "partition_id")
        if number > PARTITION_MAX:
            fail(f"{path}partition_id", f"can't be {number}")
        gaps: list[Gap] = []
        if node.get("gaps") is not None:
            gaps = [_gap(one, f"{path}gaps[{at}].") for at, one in _objects(node, path, "gaps")]
            gaps.sort(key=lambda gap: (gap.start_offset, gap.end_offset_exclusive))
        rows = [
            (child, f"{path}segments[{at}].") for at, child in _objects(node, path, "segments")
        ]
        rows.sort(key=lambda row: count_at(row[0], row[1], "start_offset"))
        segments: list[SegmentRef] = []
        passed = 0  # gaps that begin before the place that is looked at
        for child, where in rows:
            before = segments[-1] if segments else None
            sequence = 0 if before is None else before.next_offset
            while before is not None and passed < len(gaps) and gaps[passed].start_offset <= sequence:
                sequence = max(sequence, gaps[passed].end_offset_exclusive)
                passed += 1
            segments.append(_segment(child, where, backup_id, topic, number, before, sequence))
        return _entry(number, segments, gaps)


def _entry(number: int, segments: Sequence[SegmentRef], gaps: Sequence[Gap]) -> PartitionEntry:
    start = segments[0].sequence if segments else 0
    end = segments[-1].next_offset if segments else start
    return PartitionEntry(
        partition=number,
        status=PartitionStatus.COMPLETE,
        log_start_offset=start,
        high_watermark=end,
        start_offset=start,
        end_offset_exclusive=end,
        next_offset=end,
        record_count=sum(segment.record_count for segment in segments),
        error=None,
        gaps=tuple(gaps),
        segments=tuple(segments),
    )


def _segment(
    node: Mapping[str, Any],
    path: str,
    backup_id: str,
    topic: str,
    partition: int,
    before: SegmentRef | None,
    sequence: int,
) -> SegmentRef:
    """One segment.

    Args:
        before: the one before it, if there is one.
        sequence: first offset behind that, and behind the gaps that follow it.
    """
    start, end = count_at(node, path, "start_offset"), count_at(node, path, "end_offset")
    count = count_at(node, path, "record_count")
    if not start <= end < INT64_MAX or not 1 <= count <= end - start + 1:
        fail(f"{path}record_count", f"says {count} records from offset {start} to {end}")
    if before is not None and before.end_offset >= start:
        fail(
            f"{path}start_offset",
            f"{start} lies in the segment before it, which ends with offset {before.end_offset}: its records would be "
            "restored twice",
        )
    raw_bytes, stored_bytes = count_at(node, path, "uncompressed_size"), count_at(node, path, "compressed_size")
    if raw_bytes < count * _BODY_MIN_BYTES or not stored_bytes:
        fail(f"{path}uncompressed_size", f"says {count} records in {raw_bytes} bytes, stored in {stored_bytes}")
    said: str = value_at(node, path, "key", str)
    key = segment_key_below(said, backup_id=backup_id, topic=topic, partition=partition, start_offset=start)
    if key is None or segment_compression(key) is None:
        fail(f"{path}key", f"{_shown(said)} is not the key of a segment of {topic}[{partition}] from offset {start}")
    return SegmentRef(
        key=key,
        sequence=start if before is None else min(sequence, start),
        next_offset=end + 1,
        start_offset=start,
        end_offset=end,
        start_timestamp=_timestamp(node, path, "start_timestamp"),
        end_timestamp=_timestamp(node, path, "end_timestamp"),
        # those of the first and the last record are not the extremes: no segment may be left out by its times
        min_timestamp=_INT64_MIN,
        max_timestamp=INT64_MAX,
        record_count=count,
        block_count=1,
        raw_bytes=raw_bytes,
        stored_bytes=stored_bytes,
        max_record_bytes=0,
        sha256="",
    )


def _timestamp(node: Mapping[str, Any], path: str, key: str) -> int:
    value: int = value_at(node, path, key, int)
    if not _INT64_MIN <= value <= INT64_MAX:
        fail(f"{path}{key}", "is out of range")
    return value


def _gap(node: Mapping[str, Any], path: str) -> Gap:
    start, end = count_at(node, path, "start_offset"), count_at(node, path, "end_offset")
    if end <= start:
        fail(f"{path}end_offset", f"{end} is not behind its beginning, {start}")
    said = node.get("reason")
    detail = said[:_TEXT_SHOWN] if isinstance(said, str) else ""
    detected = node.get("detected_at")
    return Gap(
        start_offset=start,
        end_offset_exclusive=end,
        reason=_reason(detail),
        detected_at_ms=detected if type(detected) is int and 0 <= detected <= INT64_MAX else 0,
        detail=detail,
    )


def _reason(said: str) -> GapReason:
    """Its own word stays as the detail."""
    words = {"retention": GapReason.RETENTION, "truncat": GapReason.TRUNCATED, "transaction": GapReason.OPEN_TRANSACTION}
    return next((reason for word, reason in words.items() if word in said.lower()), GapReason.FETCH_FAILED)


def _replication_factor(said: object) -> int:
    return said if type(said) is int and 1 <= said <= 2**15 - 1 else _CLUSTERS_DEFAULT


def _configs(said: object, path: str) -> Mapping[str, str] | None:
    if said is None:
        return None
    if not isinstance(said, dict) or not all(value is None or type(value) is str for value in said.values()):
        fail(path, "holds something else than strings")
    return {key: value for key, value in said.items() if value is not None}


def _objects(node: Mapping[str, Any], path: str, key: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for number, value in enumerate(value_at(node, path, key, list)):
        if type(value) is not dict:
            fail(f"{path}{key}[{number}]", "is no object")
        yield number, value


def _shown(value: object) -> str:
    return ascii(value if not isinstance(value, str) or len(value) <= _TEXT_SHOWN else value[:_TEXT_SHOWN] + "...")[:200]


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(str(name)[:_TEXT_SHOWN] if isinstance(name, str) else _shown(name) for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
