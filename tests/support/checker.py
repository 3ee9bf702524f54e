"""Source, archive and target compared record by record, and what went wrong named in Jepsen's words.

Knows nothing of kbr: the source and the target are read by a plain consumer, the archive from docs/format.md alone.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from .archive import (
    Archive,
    Objects,
    Place,
    chain_problems,
    offsets_in_gaps,
    partitions_of,
    read_archive,
    read_manifest,
    segment_problems,
)
from .kafka import KafkaHarness, Read
from .plain_reader import PlainRecord, Unreadable

__all__ = [
    "Anomaly",
    "Kind",
    "LiveChecker",
    "Report",
    "Truth",
    "Watch",
    "check_backup",
    "check_target",
    "compare_contents",
    "compare_offsets",
    "plain_record",
    "read_truth",
]


class Kind(Enum):
    """What can be wrong."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    #: A record whose key, value, headers or timestamp is not the source's.
    TORN = "torn"
    #: A record of an aborted transaction.
    ABORTED_READ = "aborted read"
    #: A record that the source never had.
    PHANTOM = "phantom"
    #: The backup does not agree with itself.
    BROKEN = "broken"
    #: What an earlier look saw committed is gone, or not what it was.
    CHANGED = "changed"


class Anomaly(NamedTuple):
    """All of one kind in one partition, with the first of them."""

    kind: Kind
    place: Place | None
    #: The first one's: the source's offset where it has one, else the reader's; -1 for none.
    offset: int
    count: int
    detail: str = ""

    def __str__(self) -> str:
        where = "" if self.place is None else f" {self.place[0]}[{self.place[1]}]"
        at = f" first at offset {self.offset}" if self.offset >= 0 else ""
        return f"{self.kind.value}: {self.count} in{where or ' the backup'}{at}{': ' if self.detail else ''}{self.detail}"


@dataclass
class Report:
    """What a check found."""

    anomalies: list[Anomaly] = field(default_factory=list)
    record_count: int = 0

    @property
    def kinds(self) -> set[Kind]:
        """Kinds that occur."""
        return {anomaly.kind for anomaly in self.anomalies}

    def __str__(self) -> str:
        if not self.anomalies:
            return f"identical: {self.record_count} records"
        return "\n".join(map(str, self.anomalies))


@dataclass
class Truth:
    """What a source has, by partition.

    Attributes:
        committed: what a reader of committed records sees.
        others: records in the log that such a reader does not see: aborted, or of open transactions.
    """

    committed: dict[Place, list[PlainRecord]]
    others: dict[Place, list[PlainRecord]] = field(default_factory=dict)


def read_truth(kafka: KafkaHarness, topics: Iterable[str]) -> Truth:
    """Read whole topics by a plain consumer, committed records and the others."""
    truth = Truth({}, {})
    for topic in topics:
        everything = kafka.read_all(topic, isolation_level="read_uncommitted")
        for number, found in enumerate(kafka.read_all(topic)):
            committed = [_plain(read) for read in found]
            seen = {record.offset for record in committed}
            truth.committed[topic, number] = committed
            truth.others[topic, number] = [_plain(one) for one in everything[number] if one.offset not in seen]
    return truth


def plain_record(message: Any) -> PlainRecord:
    """A record as a plain consumer gives it (confluent_kafka.Message)."""
    timestamp_type, timestamp = message.timestamp()
    headers = tuple((name.encode(), value) for name, value in message.headers() or ())
    return PlainRecord(message.offset(), timestamp, timestamp_type, message.key(), message.value(), headers)


def _plain(read: Read) -> PlainRecord:
    headers = tuple((name.encode(), value) for name, value in read.headers)
    return PlainRecord(read.offset, read.timestamp, read.timestamp_type, read.key, read.value, headers)


# -- one partition ------------------------------------------------------------------------


class _Finds:
    """Collects anomalies of one partition."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._found: dict[Kind, list[tuple[int, str]]] = defaultdict(list)

    def add(self, kind: Kind, offset: int, detail: str = "") -> None:
        self._found[kind].append((offset, detail))

    def anomalies(self) -> list[Anomaly]:
        return [
            Anomaly(kind, self._place, min(found)[0], len(found), min(found)[1])
            for kind, found in sorted(self._found.items(), key=lambda item: list(Kind).index(item[0]))
        ]


def compare_offsets(
    place: Place,
    expected: Sequence[PlainRecord],
    found: Sequence[PlainRecord],
    *,
    others: Sequence[PlainRecord] = (),
    is_gap: Callable[[int], bool] = lambda _offset: False,
) -> list[Anomaly]:
    """Compare where offsets are kept: source and archive.

    Args:
        expected: the source's committed records.
        others: what a reader of committed records does not see.
        is_gap: whether it was said that an offset is missing.
    """
    finds = _Finds(place)
    by_offset = {record.offset: record for record in expected}
    hidden = {record.offset for record in others}
    seen: set[int] = set()
    highest = -1
    for record in found:
        if record.offset in seen:
            finds.add(Kind.DUPLICATED, record.offset)
            continue
        seen.add(record.offset)
        if record.offset < highest:
            finds.add(Kind.REORDERED, record.offset, f"behind offset {highest}")
        highest = max(highest, record.offset)
        original = by_offset.get(record.offset)
        if original is not None:
            if original != record:
                finds.add(Kind.TORN, record.offset, _difference(original, record))
        elif record.offset in hidden:
            finds.add(Kind.ABORTED_READ, record.offset)
        else:
            finds.add(Kind.PHANTOM, record.offset)
    for record in expected:
        if record.offset not in seen and not is_gap(record.offset):
            finds.add(Kind.LOST, record.offset)
    return finds.anomalies()


def compare_contents(
    place: Place, expected: Sequence[PlainRecord], found: Sequence[PlainRecord], *, others: Sequence[PlainRecord] = ()
) -> list[Anomaly]:
    """Compare where offsets are new: source and target. Records are known by all else; equal ones take their turns."""
    if [record[1:] for record in expected] == [record[1:] for record in found]:
        return []
    finds = _Finds(place)
    waiting: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position in range(len(expected) - 1, -1, -1):
        waiting[expected[position][1:]].append(position)
    known = set(waiting)
    hidden = {record[1:] for record in others} - known
    places: list[int] = []
    unknown: list[tuple[int, PlainRecord]] = []
    for record in found:
        content = record[1:]
        if waiting.get(content):
            places.append(waiting[content].pop())
        elif content in known:
            finds.add(Kind.DUPLICATED, record.offset, "its offset in the target")
        elif content in hidden:
            finds.add(Kind.ABORTED_READ, record.offset, "its offset in the target")
        else:
            unknown.append((places[-1] if places else -1, record))
    missing = sorted(position for left in waiting.values() for position in left)
    for after, record in unknown:
        _tell_unknown(after, record, expected, missing, finds)
    for position in _out_of_order(places):
        finds.add(Kind.REORDERED, expected[position].offset)
    for position in missing:
        finds.add(Kind.LOST, expected[position].offset)
    return finds.anomalies()


def _tell_unknown(
    after: int, record: PlainRecord, expected: Sequence[PlainRecord], missing: list[int], finds: _Finds
) -> None:
    """A record that is none of the source's is a torn one if the one that is missing in its place resembles it."""
    following = bisect_right(missing, after)
    if following < len(missing) and _resembles(expected[missing[following]], record):
        original = expected[missing.pop(following)]
        finds.add(Kind.TORN, original.offset, _difference(original, record))
    else:
        finds.add(Kind.PHANTOM, record.offset, "its offset in the target")


def _resembles(one: PlainRecord, other: PlainRecord) -> bool:
    return sum(left == right for left, right in zip(one[1:], other[1:], strict=True)) >= 3


def _out_of_order(places: Sequence[int]) -> list[int]:
    """Positions that come behind a higher one."""
    late = []
    highest = -1
    for position in places:
        if position < highest:
            late.append(position)
        highest = max(highest, position)
    return late


def _difference(original: PlainRecord, found: PlainRecord) -> str:
    names = ("offset", "timestamp", "timestamp_type", "key", "value", "headers")
    return "other " + ", ".join(
        name
        for name, left, right in zip(names, original, found, strict=True)
        if left != right and name != "offset"
    )


# -- whole backups and targets -------------------------------------------------------------


def check_backup(
    truth: Truth,
    objects: Objects,
    backup_id: str,
    *,
    status: str = "complete",
    to_now: bool = True,
    leftovers: bool = False,
) -> Report:
    """Compare a backup whose writers have ended with its source.

    Args:
        status: what the manifest has to say of the whole.
        to_now: all that the source has is to be there; else what lies below each partition's next_offset.
        leftovers: whether unfinished writes may have left something behind.
    """
    archive = read_archive(objects, backup_id)
    report = Report()
    report.anomalies.extend(Anomaly(Kind.BROKEN, None, -1, 1, problem) for problem in archive.problems)
    report.anomalies.extend(Anomaly(Kind.BROKEN, None, -1, 1, f"{key} is not listed") for key in archive.unlisted)
    if not leftovers:
        report.anomalies.extend(
            Anomaly(Kind.BROKEN, None, -1, 1, f"{name} was left behind") for name in objects.leftovers()
        )
    if archive.manifest and archive.manifest["status"] != status:
        report.anomalies.append(Anomaly(Kind.BROKEN, None, -1, 1, f"the status is {archive.manifest['status']}"))
    for place, expected in truth.committed.items():
        _check_partition(place, expected, truth, archive, report, to_now=to_now)
    for place in sorted(set(archive.entries) - set(truth.committed)):
        report.anomalies.append(Anomaly(Kind.PHANTOM, place, -1, 1, "the source has no such partition"))
    return report


def _check_partition(
    place: Place, expected: Sequence[PlainRecord], truth: Truth, archive: Archive, report: Report, *, to_now: bool
) -> None:
    entry = archive.entries.get(place)
    if entry is None:
        if expected:
            report.anomalies.append(Anomaly(Kind.LOST, place, expected[0].offset, len(expected), "no such partition"))
        return
    gaps = entry["gaps"]
    if not to_now:
        expected = [record for record in expected if entry["start_offset"] <= record.offset < entry["next_offset"]]
    found = archive.records[place]
    report.record_count += len(found)
    report.anomalies.extend(
        compare_offsets(
            place,
            expected,
            found,
            others=truth.others.get(place, ()),
            is_gap=lambda offset: offsets_in_gaps(gaps, offset),
        )
    )


def check_target(truth: Truth, target: Mapping[Place, Sequence[PlainRecord]], places: Mapping[Place, Place]) -> Report:
    """Compare what a restore wrote with its source.

    Args:
        places: source partition to target partition.
    """
    report = Report()
    for source, place in places.items():
        found = target.get(place, ())
        report.record_count += len(found)
        report.anomalies.extend(
            compare_contents(source, truth.committed[source], found, others=truth.others.get(source, ()))
        )
    return report


# -- while a backup runs --------------------------------------------------------------------


class LiveChecker:
    """What has to hold at any moment while somebody writes the backup; see look().

    Args:
        end_of: one past the last record that a partition has now, or None if that is not to be checked.
    """

    def __init__(self, objects: Objects, backup_id: str, end_of: Callable[[Place], int] | None = None) -> None:
        self._objects = objects
        self._backup_id = backup_id
        self._end_of = end_of
        self._manifest_digest = b""
        #: By key: what the manifest said of a segment when it was first seen, and that it was whole.
        self._refs: dict[str, Mapping[str, Any]] = {}
        self._next_offsets: dict[Place, int] = {}
        self.looks = 0

    def look(self) -> list[Anomaly]:
        """Compare the manifest with the objects, and with what earlier looks saw; [] before there is a manifest.

        - The manifest can be read, and what it lists is there, as it says: size, SHA-256, every record.
        - A partition's segments follow one another, but for gaps; offsets rise; none is at or past the source's end.
        - What was listed once stays listed and the same; no partition goes back.
        """
        self.looks += 1
        data = self._objects.get(f"{self._backup_id}/manifest.json")
        if data is None:
            return [] if not self._refs else [Anomaly(Kind.CHANGED, None, -1, 1, "the manifest is gone")]
        digest = hashlib.sha256(data).digest()
        if digest == self._manifest_digest:
            return self._still_there()
        try:
            manifest = read_manifest(data)
        except Unreadable as error:
            return [Anomaly(Kind.BROKEN, None, -1, 1, str(error))]
        self._manifest_digest = digest
        anomalies = []
        listed: set[str] = set()
        for place, entry in partitions_of(manifest).items():
            anomalies += self._partition(place, entry)
            listed.update(ref["key"] for ref in entry["segments"])
        anomalies += [
            Anomaly(Kind.CHANGED, None, -1, 1, f"{key} is not listed any more") for key in sorted(set(self._refs) - listed)
        ]
        return anomalies + self._still_there()

    def _partition(self, place: Place, entry: Mapping[str, Any]) -> list[Anomaly]:
        anomalies = [Anomaly(Kind.BROKEN, place, -1, 1, problem) for problem in chain_problems(place, entry)]
        if entry["next_offset"] < self._next_offsets.get(place, 0):
            anomalies.append(Anomaly(Kind.CHANGED, place, entry["next_offset"], 1, "next_offset went back"))
        self._next_offsets[place] = entry["next_offset"]
        highest = -1
        for ref in entry["segments"]:
            before = self._refs.get(ref["key"])
            if before is not None:
                if before != ref:
                    anomalies.append(Anomaly(Kind.CHANGED, place, ref["start_offset"], 1, f"{ref['key']} is another one"))
            else:
                records, problems = segment_problems(self._objects, self._backup_id, place, ref)
                anomalies += [Anomaly(Kind.BROKEN, place, -1, 1, problem) for problem in problems]
                for record in records:
                    if record.offset <= highest:
                        anomalies.append(Anomaly(Kind.REORDERED, place, record.offset, 1))
                    highest = max(highest, record.offset)
                self._refs[ref["key"]] = ref
            highest = max(highest, ref["end_offset"])
        if self._end_of is not None and highest >= 0 and highest >= self._end_of(place):
            anomalies.append(Anomaly(Kind.PHANTOM, place, highest, 1, "at or past the source's end"))
        return anomalies

    def _still_there(self) -> list[Anomaly]:
        sizes = self._objects.sizes()
        return [
            Anomaly(Kind.CHANGED, None, -1, 1, f"{key} is gone, or of another size")
            for key, ref in self._refs.items()
            if sizes.get(f"{self._backup_id}/{key}") != ref["stored_bytes"]
        ]


class Watch:
    """A LiveChecker in a thread, every few seconds; a context manager. At its end, ``anomalies`` has all that it saw."""

    def __init__(self, checker: LiveChecker, *, interval_s: float = 1.0) -> None:
        self._checker = checker
        self._interval_s = interval_s
        self._over = threading.Event()
        self.anomalies: list[Anomaly] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()
        if self.error is None:
            self.anomalies += self._checker.look()
        elif exc_info[0] is None:
            raise self.error

    def _loop(self) -> None:
        try:
            while not self._over.wait(self._interval_s):
                self.anomalies += self._checker.look()
        except BaseException as error:  # raised again where the watch ends
            self.error = error
