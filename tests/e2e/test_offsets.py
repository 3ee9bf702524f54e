"""The offset mapping on a real Kafka, by the command line: judged by a plain consumer that reads record by record."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import KafkaHarness, send
from tests.support.mixed_topics import BASE_MS, CLEANER_OFF, make_mixed_topics

#: The target's cleaner would compact a restored topic while it is compared.
CLEANER_OFF_SETS = [
    word for key, value in CLEANER_OFF.items() for word in ("--set", f"restore.topic_configs.{key}={value}")
]
#: Where a record is: topic, partition, offset.
Place = tuple[str, int, int]


@pytest.fixture(scope="module")
def mixed(kafka: KafkaHarness) -> list[str]:
    """The twenty topics."""
    return make_mixed_topics(kafka, "mapped")


def back_up(kafka: KafkaHarness, folder: Path, *topics: str) -> None:
    chosen = [word for topic in topics for word in ("-t", topic)]
    run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *chosen,
        "--set", "backup.segment_max_bytes=300KiB",
    )  # fmt: skip


def restore(kafka: KafkaHarness, folder: Path, *more: str) -> Any:
    return run_kbr_json(
        "restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), *more, *CLEANER_OFF_SETS
    )


def read_pairs(
    kafka: KafkaHarness,
    source: str,
    target: str,
    *,
    moves: dict[int, int] | None = None,
    skip: dict[int, int] | None = None,
    window: tuple[int, int] | None = None,
) -> dict[Place, Place]:
    """By reading both topics: the n-th record that was to be restored is the target's n-th."""
    pairs: dict[Place, Place] = {}
    found = kafka.read_all(target)
    for number, records in enumerate(kafka.read_all(source)):
        wanted = [one for one in records if window is None or window[0] <= one.timestamp <= window[1]]
        other = (moves or {}).get(number, number)
        there = found[other][(skip or {}).get(other, 0) :]
        assert [one.exact for one in wanted] == [one.exact for one in there[: len(wanted)]]
        pairs.update(
            ((source, number, one.offset), (target, other, two.offset))
            for one, two in zip(wanted, there, strict=False)
        )
    return pairs


def expanded(ranges: list[dict[str, Any]]) -> dict[Place, Place]:
    """Ranges, one record at a time."""
    pairs: dict[Place, Place] = {}
    for one in ranges:
        for n in range(int(one["count"])):
            source = (one["source_topic"], int(one["source_partition"]), int(one["source_start"]) + n)
            assert source not in pairs
            pairs[source] = (one["target_topic"], int(one["target_partition"]), int(one["target_start"]) + n)
    return pairs


def exported(folder: Path, *more: str) -> dict[Place, Place]:
    return expanded(run_kbr_json("offsets", "export", "b", "--storage", str(folder), *more)["ranges"])


def show(folder: Path, *more: str) -> Any:
    return run_kbr_json("offsets", "show", "b", "--storage", str(folder), *more)


@pytest.mark.timeout(300)
def test_every_record_of_every_kind_of_topic_is_mapped_to_where_it_is(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    back_up(kafka, tmp_path, "mapped.*")
    names = [word for topic in mixed for word in ("--topic-map", f"{topic}=to-{topic}")]
    report = restore(kafka, tmp_path, *names)
    naive: dict[Place, Place] = {}
    for topic in mixed:
        naive.update(read_pairs(kafka, topic, f"to-{topic}"))
    assert len(naive) == report["totals"]["records"]
    assert exported(tmp_path) == naive
    # any Parquet library reads it, and the table and the CSV say the same
    assert report["offset_map"] == f"b/restores/{report['restore_id']}/offsets.parquet"
    table = pq.read_table(tmp_path / report["offset_map"])
    assert expanded(table.to_pylist()) == naive
    done = run_kbr("offsets", "export", "b", "--storage", str(tmp_path), "-o", "csv")
    assert expanded(list(csv.DictReader(io.StringIO(done.stdout)))) == naive
    # holes are what makes ranges: aborted transactions, markers, compaction
    holes = {one["source_topic"]: one["ranges"] for one in show(tmp_path)["mapping"]["partitions"]}
    assert holes["mapped.plain"] == 1
    assert holes["mapped.transactional"] > 1
    assert holes["mapped.compacted"] > 5
    assert run_kbr_json("describe", "b", "--storage", str(tmp_path))["restores"][0]["has_offset_map"]


@pytest.mark.timeout(200)
def test_windows_and_moved_partitions_are_mapped_record_by_record(
    kafka: KafkaHarness, mixed: list[str], tmp_path: Path
) -> None:
    topics = ["mapped.late", "mapped.transactional", "mapped.compacted", "mapped.tombstones"]
    back_up(kafka, tmp_path, *topics)
    window = (BASE_MS + 1_000, BASE_MS + 300_000_000)
    report = restore(
        kafka, tmp_path, *[word for topic in topics for word in ("--topic-map", f"{topic}=cut-{topic}")],
        "--partition-map", "mapped.transactional:0=4", "--partition-map", "mapped.transactional:1=0",
        "--from-timestamp", str(window[0]), "--to-timestamp", str(window[1]),
    )  # fmt: skip
    naive: dict[Place, Place] = {}
    for topic in topics:
        moves = {0: 4, 1: 0} if topic == "mapped.transactional" else None
        naive.update(read_pairs(kafka, topic, f"cut-{topic}", moves=moves, window=window))
    assert 0 < len(naive) == report["totals"]["records"]
    assert exported(tmp_path) == naive
    for partition in (0, 1):
        source = ("mapped.transactional", partition)
        assert exported(tmp_path, "-t", source[0], "-p", str(partition)) == {
            one: place for one, place in naive.items() if one[:2] == source
        }
    offsets = sorted(place[2] for place in naive if place[0] == "mapped.late")
    gap = next(one + 1 for one, two in zip(offsets, offsets[1:], strict=False) if two > one + 1)
    for offset in (offsets[0], gap, offsets[-1] + 1):
        lookup = show(tmp_path, "-t", "mapped.late", "-p", "0", "--offset", str(offset))["mapping"]["lookup"]
        exact = naive.get(("mapped.late", 0, offset))
        assert lookup["target"] == (exact and dict(zip(("topic", "partition", "offset"), exact, strict=True)))
        (goes_on,) = lookup["first_at_or_after"]
        assert goes_on["offset"] == sum(1 for one in offsets if one < offset)


@pytest.mark.timeout(300)
def test_the_mapping_follows_a_restore_that_goes_on_and_one_that_appends(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    source = kafka.create_topic(kafka.topic_name("growing"), 2)
    target = kafka.create_topic(kafka.topic_name("growing-to"), 2)

    def write(topic: str, count: int) -> None:
        records = [{"partition": n % 2, "value": b"%d" % n, "timestamp": BASE_MS + n} for n in range(count)]
        send(kafka.producer(), topic, records)

    write(source, 500)
    back_up(kafka, tmp_path, source)
    mapping = ["--topic-map", f"{source}={target}"]
    restore(kafka, tmp_path, *mapping)
    write(source, 300)
    back_up(kafka, tmp_path, source)
    report = restore(kafka, tmp_path, *mapping)
    assert (report["totals"]["records"], report["totals"]["already_there"]) == (300, 500)
    first = read_pairs(kafka, source, target)
    assert len(first) == 800
    assert exported(tmp_path) == first
    file = tmp_path / report["offset_map"]

    # nothing new: the mapping is left alone, and written where it is not there
    before = file.stat()
    assert restore(kafka, tmp_path, *mapping)["offset_map"] == report["offset_map"]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.unlink()
    assert run_kbr("offsets", "show", "b", "--storage", str(tmp_path)).returncode == 10
    assert restore(kafka, tmp_path, *mapping)["totals"]["records"] == 0
    assert exported(tmp_path) == first

    # once more, behind what is there and what somebody else wrote
    write(target, 20)
    restore(kafka, tmp_path, *mapping, "--append")
    second = read_pairs(kafka, source, target, skip={0: 410, 1: 410})
    assert exported(tmp_path) == second
    assert set(second) == set(first)
    assert min(place[2] for place in second.values()) == 410


@pytest.mark.timeout(200)
def test_a_mapping_that_is_not_wanted_is_not_written_and_of_several_one_is_named(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    source = kafka.create_topic(kafka.topic_name("several"), 1)
    send(kafka.producer(), source, [{"partition": 0, "value": b"%d" % n, "timestamp": BASE_MS} for n in range(10)])
    back_up(kafka, tmp_path, source)
    targets = [kafka.topic_name("several-to") for _ in range(3)]
    off = restore(kafka, tmp_path, "--topic-map", f"{source}={targets[0]}", "--set", "restore.offset_map=false")
    assert off["offset_map"] is None
    missing = run_kbr("offsets", "show", "b", "--storage", str(tmp_path))
    assert missing.returncode == 10
    assert "none of the restores of backup b has an offset mapping" in missing.stderr
    ids = [restore(kafka, tmp_path, "--topic-map", f"{source}={name}")["restore_id"] for name in targets[1:]]
    listed = show(tmp_path)
    assert listed["mapping"] is None
    assert [(one["target_topics"], one["has_offset_map"]) for one in listed["restores"]] == [
        ([targets[0]], False),
        ([targets[1]], True),
        ([targets[2]], True),
    ]
    unnamed = run_kbr("offsets", "export", "b", "--storage", str(tmp_path))
    assert unnamed.returncode == 2
    assert all(one in unnamed.stderr for one in ids)
    assert unnamed.stdout == ""
    assert exported(tmp_path, "--restore", ids[1][:8]) == read_pairs(kafka, source, targets[2])
