"""Are two readings of the same topic identical? If not, what went wrong, in Jepsen's words. Shares no code with kbr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from .kafka import Read
from .plain_reader import PlainRecord, read_segment

__all__ = ["anomalies", "archived", "assert_archived", "assert_identical"]


def anomalies(expected: Sequence[Hashable], found: Sequence[Hashable]) -> list[str]:
    """What is wrong with one partition's records; empty if nothing is.

    ``lost``: was there, is not. ``duplicated``: comes more often than it did. ``torn``: never was there (a part of a
    record, an aborted one, another's). ``reordered``: all are there, in another order.
    """
    before, after = Counter(expected), Counter(found)
    lost = before - after
    more = after - before
    doubled = Counter({one: count for one, count in more.items() if one in before})
    strange = more - doubled
    words = [
        f"{sum(one.values())} {name}, the first at place {_place(where, one)}"
        for name, one, where in (("lost", lost, expected), ("duplicated", doubled, found), ("torn", strange, found))
        if one
    ]
    if not words and list(expected) != list(found):
        place = next(number for number, (one, other) in enumerate(zip(expected, found)) if one != other)
        words.append(f"reordered, from place {place} on")
    return words


def _place(where: Sequence[Hashable], wrong: Counter[Hashable]) -> int:
    return next(number for number, one in enumerate(where) if one in wrong)


def archived(store: Path, backup_id: str, topic: str, partitions: int) -> list[list[PlainRecord]]:
    """Every record of a topic in a backup, read without kbr; ``store`` is a folder, or an S3 server's own for a bucket."""
    found = []
    for number in range(partitions):
        records: list[PlainRecord] = []
        folder = store / backup_id / "topics" / topic / f"partition={number}"
        for path in sorted(folder.glob("segment-*")):
            index, more = read_segment(path.read_bytes())
            assert (index["topic"], index["partition"]) == (topic, number), path
            records += more
        found.append(records)
    return found


def assert_archived(source: Sequence[Sequence[Read]], store: Path, backup_id: str, topic: str) -> None:
    """A backup holds each record of a topic once, in order, with its offset.

    Raises:
        AssertionError: it doesn't.
    """
    wrong = []
    for number, records in enumerate(archived(store, backup_id, topic, len(source))):
        found = [
            (
                one.offset,
                one.key,
                one.value,
                tuple((name.decode(), value) for name, value in one.headers),
                one.timestamp_type,
                one.timestamp,
            )
            for one in records
        ]
        wrong += [f"[{number}] {words}" for words in anomalies([(one.offset, *one.exact) for one in source[number]], found)]
    assert not wrong, f"{topic} in the archive: {'; '.join(wrong)}"


def assert_identical(source: Sequence[Sequence[Read]], target: Sequence[Sequence[Read]], name: str) -> None:
    """Two topics hold the same records in the same order, partition by partition; offsets may differ.

    Raises:
        AssertionError: they don't.
    """
    assert len(source) == len(target), f"{name}: {len(target)} partitions instead of {len(source)}"
    wrong = [
        f"[{number}] {words}"
        for number, (before, after) in enumerate(zip(source, target))
        for words in anomalies([one.exact for one in before], [one.exact for one in after])
    ]
    assert not wrong, f"{name}: {'; '.join(wrong)}"
