"""A manifest's JSON document to values, with every type, bound, name, order and sum checked.

Knows nothing of bytes and checksums (``documents`` does) and raises BadDocument only. Segments are
checked by columns, not one by one, as a manifest may list 100,000 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from operator import itemgetter, le, lt
from typing import Any, NoReturn, TypeVar

from kbr.format.manifest_values import Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.format.names import (
    BACKUP_ID_RULE,
    INT64_MAX,
    TOPIC_RULE,
    is_backup_id,
    is_topic_name,
    partition_folder,
)
from kbr.model import Compression, FailureKind, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef
from kbr.secrecy import redact
from kbr.wire import load_json

__all__ = ["SEGMENT_FIELDS", "BadDocument", "load_manifest_json", "parse_document", "parse_topic"]

_E = TypeVar("_E", bound=Enum)
_T = TypeVar("_T")

_INT64_MIN = -(2**63)
_INT32_MAX = 2**31 - 1
_ISOLATION_LEVELS = ("read_committed", "read_uncommitted")
_EXTENSIONS = frozenset(one.extension for one in Compression)
_EXTENSION_CHARACTERS = 4
_SHA256_CHARACTERS = frozenset("0123456789abcdef")
_SHA256_LENGTH = 64
#: What nobody reads may have any shape, but what shows it goes down as deep.
_RETENTION_LEVELS = 16

#: A segment's integers with the smallest each may be.
_SEGMENT_INTEGERS = {
    "sequence": 0,
    "next_offset": 1,
    "start_offset": 0,
    "end_offset": 0,
    "start_timestamp": _INT64_MIN,
    "end_timestamp": _INT64_MIN,
    "min_timestamp": _INT64_MIN,
    "max_timestamp": _INT64_MIN,
    "record_count": 1,
    "block_count": 1,
    "raw_bytes": 1,
    "stored_bytes": 1,
    "max_record_bytes": 0,
}
#: All of a segment's entries, in the order in which they are written; SegmentRef has the same.
SEGMENT_FIELDS = ("key", *_SEGMENT_INTEGERS, "sha256")
_segment_row = itemgetter(*SEGMENT_FIELDS)


class BadDocument(ValueError):
    """The document is no manifest; says where and what."""


def load_manifest_json(data: bytes) -> Any:
    """The JSON of a manifest or of a part of one.

    Raises:
        ValueError: it is none, or holds more values than a manifest of its size.
    """
    # a segment has 15 values in 400 bytes or more, a partition two arrays in 300
    return load_json(data, bytes_per_object=40, bytes_per_array=40, bytes_per_value=8)


def parse_document(document: Mapping[str, Any]) -> Manifest:
    """Read a manifest of this version.

    Raises:
        BadDocument: something is missing, or not as it has to be.
    """
    node = _Node(document, "")
    backup_id = node.text("backup_id")
    if not is_backup_id(backup_id):
        node.fail("backup_id", f"{_shown(backup_id)} can't be one: {BACKUP_ID_RULE}")
    topics = tuple(_topic(child) for child in node.children("topics"))
    for before, after in pairwise(topics):
        if before.name >= after.name:
            node.fail("topics", f"{after.name} stands after {before.name}: twice, or out of order")
    retention = node.get("retention")
    if retention is not None and type(retention) is not dict:
        node.fail("retention", "is neither an object nor null")
    if not _is_shallow(retention, _RETENTION_LEVELS):
        node.fail("retention", f"is nested deeper than {_RETENTION_LEVELS} levels")
    return Manifest(
        kbr_version=node.text("kbr_version"),
        backup_id=backup_id,
        status=node.choice("status", RunStatus),
        created_at_ms=node.integer("created_at"),
        updated_at_ms=node.integer("updated_at"),
        finished_at_ms=node.optional("finished_at", node.integer),
        source=_source(node.child("source")),
        compression=node.choice("compression", Compression),
        compression_level=node.optional("compression_level", lambda key: node.integer(key, -_INT32_MAX, _INT32_MAX)),
        retention=retention,
        topics=topics,
    )


def _is_shallow(value: Any, levels: int) -> bool:
    inner = value.values() if type(value) is dict else value if type(value) is list else ()
    return levels >= 0 and all(_is_shallow(one, levels - 1) for one in inner)


def parse_topic(document: Any) -> TopicEntry:
    """Read one of a manifest's topics.

    Raises:
        BadDocument: something is missing, or not as it has to be.
    """
    if type(document) is not dict:
        raise BadDocument("a topic is no object")
    return _topic(_Node(document, "topic."))


def _source(node: _Node) -> SourceInfo:
    brokers = node.array("brokers")
    if not all(type(broker) is str for broker in brokers):
        node.fail("brokers", "holds something else than strings")
    isolation_level = node.text("isolation_level")
    if isolation_level not in _ISOLATION_LEVELS:
        node.fail("isolation_level", f"is {_shown(isolation_level)}")
    return SourceInfo(
        cluster_id=node.text("cluster_id"),
        brokers=tuple(brokers),
        isolation_level=isolation_level,
        # of a backup without a window, and of one by an earlier version, they are not there
        time_window_start_ms=node.integer("time_window_start") if node.has("time_window_start") else None,
        time_window_end_ms=node.integer("time_window_end") if node.has("time_window_end") else None,
    )


def _topic(node: _Node) -> TopicEntry:
    name = node.text("name")
    if not is_topic_name(name):
        node.fail("name", f"{_shown(name)} can't be a topic: {TOPIC_RULE}")
    partition_count = node.integer("partition_count", 0, _INT32_MAX)
    children = node.children("partitions")
    if len(children) != partition_count:
        node.fail("partitions", f"are {len(children)}, partition_count says {partition_count}")
    configs = node.get("configs")
    if configs is not None and not (type(configs) is dict and all(type(value) is str for value in configs.values())):
        node.fail("configs", "is neither an object of strings nor null")
    return TopicEntry(
        name=name,
        topic_id=node.text("topic_id"),
        partition_count=partition_count,
        replication_factor=node.integer("replication_factor", 0, _INT32_MAX),
        is_internal=node.flag("is_internal"),
        configs=configs,
        partitions=tuple(_partition(child, name, number) for number, child in enumerate(children)),
    )


def _partition(node: _Node, topic: str, number: int) -> PartitionEntry:
    if node.integer("partition") != number:
        node.fail("partition", f"is not {number}: missing, twice or out of order")
    start = node.integer("start_offset")
    end = node.integer("end_offset_exclusive")
    next_offset = node.integer("next_offset")
    if not start <= next_offset <= end:
        node.fail("next_offset", f"is {next_offset}, in a range from {start} to {end}")
    segments = _segments(node, partition_folder(topic, number))
    if segments:
        if segments[0].sequence < start:
            node.fail("segments", f"begin at {segments[0].sequence}, before start_offset {start}")
        if segments[-1].next_offset > next_offset:
            node.fail("segments", f"reach {segments[-1].next_offset}, next_offset is {next_offset}")
        if node.has("leader_epoch"):
            epoch = node.integer("leader_epoch", 0, _INT32_MAX)
            segments = (*segments[:-1], replace(segments[-1], leader_epoch=epoch))
    record_count = node.integer("record_count")
    if record_count != sum(segment.record_count for segment in segments):
        node.fail("record_count", f"{record_count} is not the sum over the segments")
    return PartitionEntry(
        partition=number,
        status=node.choice("status", PartitionStatus),
        log_start_offset=node.integer("log_start_offset"),
        high_watermark=node.integer("high_watermark"),
        start_offset=start,
        end_offset_exclusive=end,
        next_offset=next_offset,
        record_count=record_count,
        error=node.optional("error", node.text),
        failure=node.optional("failure", lambda key: node.choice(key, FailureKind)) if node.has("failure") else None,
        gaps=tuple(_gap(child) for child in node.children("gaps")),
        segments=segments,
    )


def _gap(node: _Node) -> Gap:
    start = node.integer("start_offset")
    end = node.integer("end_offset_exclusive")
    if start >= end:
        node.fail("end_offset_exclusive", f"is {end}, start_offset {start}")
    return Gap(
        start_offset=start,
        end_offset_exclusive=end,
        reason=node.choice("reason", GapReason),
        detected_at_ms=node.integer("detected_at"),
        detail=node.text("detail"),
    )


# -- segments, by columns -----------------------------------------------------------------


def _segments(partition: _Node, folder: str) -> tuple[SegmentRef, ...]:
    rows = partition.array("segments")
    if not rows:
        return ()
    columns = _segment_columns(partition, rows)
    _check_keys(partition, folder, columns["key"], columns["sequence"])
    for number, digest in enumerate(columns["sha256"]):
        if len(digest) != _SHA256_LENGTH or not _SHA256_CHARACTERS.issuperset(digest):
            partition.fail(f"segments[{number}].sha256", "is no SHA-256 in lower-case hex")
    _check_order(partition, columns)
    return tuple(
        SegmentRef(
            key=key,
            sequence=sequence,
            next_offset=next_offset,
            start_offset=start_offset,
            end_offset=end_offset,
            start_timestamp=start_timestamp,
            end_timestamp=end_timestamp,
            min_timestamp=min_timestamp,
            max_timestamp=max_timestamp,
            record_count=record_count,
            block_count=block_count,
            raw_bytes=raw_bytes,
            stored_bytes=stored_bytes,
            max_record_bytes=max_record_bytes,
            sha256=sha256,
        )
        for (
            key,
            sequence,
            next_offset,
            start_offset,
            end_offset,
            start_timestamp,
            end_timestamp,
            min_timestamp,
            max_timestamp,
            record_count,
            block_count,
            raw_bytes,
            stored_bytes,
            max_record_bytes,
            sha256,
        ) in zip(*columns.values(), strict=True)
    )


def _segment_columns(partition: _Node, rows: list[Any]) -> dict[str, tuple[Any, ...]]:
    """The rows' columns, each of one type and within its bounds."""
    try:
        found = list(zip(*map(_segment_row, rows), strict=True))
    except (KeyError, TypeError, IndexError):
        number, field = next(
            (number, field)
            for number, row in enumerate(rows)
            for field in SEGMENT_FIELDS
            if type(row) is not dict or field not in row
        )
        partition.fail(f"segments[{number}]", f"has no {field}")
    columns = dict(zip(SEGMENT_FIELDS, found, strict=True))
    for field, column in columns.items():
        kind: type = int if field in _SEGMENT_INTEGERS else str
        if set(map(type, column)) != {kind}:
            number = next(i for i, value in enumerate(column) if type(value) is not kind)
            partition.fail(f"segments[{number}].{field}", f"is no {_KIND_NAMES[kind]}")
    for field, lowest in _SEGMENT_INTEGERS.items():
        column = columns[field]
        if min(column) < lowest or max(column) > INT64_MAX:
            number = next(i for i, v in enumerate(column) if not lowest <= v <= INT64_MAX)
            partition.fail(f"segments[{number}].{field}", f"can't be {column[number]}")
    return columns


def _check_keys(partition: _Node, folder: str, keys: Sequence[str], sequences: Sequence[int]) -> None:
    """A key says nothing new: it has to be the one that follows from topic, partition, sequence."""
    for number, (key, sequence) in enumerate(zip(keys, sequences, strict=True)):
        extension = key[-_EXTENSION_CHARACTERS:]
        if extension not in _EXTENSIONS or key != f"{folder}segment-{sequence:020d}{extension}":
            partition.fail(
                f"segments[{number}].key",
                f"{_shown(key)} is not the key of sequence {sequence} in {folder}",
            )


def _check_order(partition: _Node, columns: Mapping[str, Sequence[int]]) -> None:
    """Within each segment, and from each to the next."""
    records = [end - start + 1 for start, end in zip(columns["start_offset"], columns["end_offset"], strict=True)]
    checks: tuple[tuple[Callable[[Any, Any], bool], Sequence[int], Sequence[int], str], ...] = (
        (le, columns["sequence"], columns["start_offset"], "begins before its sequence"),
        (le, columns["start_offset"], columns["end_offset"], "ends before it begins"),
        (lt, columns["end_offset"], columns["next_offset"], "ends behind its next_offset"),
        (le, columns["record_count"], records, "holds more records than offsets"),
        (le, columns["block_count"], columns["record_count"], "holds more blocks than records"),
        (le, columns["min_timestamp"], columns["start_timestamp"], "has no smallest timestamp"),
        (le, columns["min_timestamp"], columns["end_timestamp"], "has no smallest timestamp"),
        (le, columns["start_timestamp"], columns["max_timestamp"], "has no largest timestamp"),
        (le, columns["end_timestamp"], columns["max_timestamp"], "has no largest timestamp"),
    )
    for holds, left, right, complaint in checks:
        if not all(map(holds, left, right)):
            number = list(map(holds, left, right)).index(False)
            partition.fail(f"segments[{number}]", complaint)
    ends, beginnings = columns["next_offset"], columns["sequence"][1:]
    if not all(map(le, ends, beginnings)):
        number = list(map(le, ends, beginnings)).index(False)
        partition.fail(f"segments[{number + 1}]", "overlaps the one before it, or is out of order")


# -- typed access -------------------------------------------------------------------------

_KIND_NAMES = {int: "integer", str: "string", dict: "object", list: "array", bool: "true or false"}


def _shown(text: str) -> str:
    """Text from outside, for a message: quoted, escaped, and not endless."""
    text = redact(text)  # before it is cut
    return ascii(text if len(text) <= 80 else text[:77] + "...")


class _Node:
    """One JSON object of the document and where it stands, for messages."""

    __slots__ = ("_path", "_value")

    def __init__(self, value: Mapping[str, Any], path: str) -> None:
        self._value = value
        self._path = path

    def fail(self, key: str, what: str) -> NoReturn:
        raise BadDocument(f"{self._path}{key} {what}")

    def has(self, key: str) -> bool:
        return key in self._value

    def get(self, key: str) -> Any:
        try:
            return self._value[key]
        except KeyError:
            self.fail(key, "is missing")

    def _typed(self, key: str, kind: type) -> Any:
        value = self.get(key)
        # type() and not isinstance(): true is no integer here
        if type(value) is not kind:
            self.fail(key, f"is no {_KIND_NAMES[kind]}")
        return value

    def text(self, key: str) -> str:
        value: str = self._typed(key, str)
        return value

    def flag(self, key: str) -> bool:
        value: bool = self._typed(key, bool)
        return value

    def integer(self, key: str, low: int = 0, high: int = INT64_MAX) -> int:
        value: int = self._typed(key, int)
        if not low <= value <= high:
            self.fail(key, f"can't be {value}")
        return value

    def choice(self, key: str, kind: type[_E]) -> _E:
        value = self.text(key)
        try:
            return kind(value)
        except ValueError:
            choices = ", ".join(str(one.value) for one in kind)
            self.fail(key, f"is {_shown(value)}, none of {choices}")

    def optional(self, key: str, read: Callable[[str], _T]) -> _T | None:
        return None if self.get(key) is None else read(key)

    def array(self, key: str) -> list[Any]:
        value: list[Any] = self._typed(key, list)
        return value

    def child(self, key: str) -> _Node:
        return _Node(self._typed(key, dict), f"{self._path}{key}.")

    def children(self, key: str) -> list[_Node]:
        found = []
        for number, value in enumerate(self.array(key)):
            if type(value) is not dict:
                self.fail(f"{key}[{number}]", "is no object")
            found.append(_Node(value, f"{self._path}{key}[{number}]."))
        return found
