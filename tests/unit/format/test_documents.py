"""The manifest: what is written is read, and nothing hostile, damaged or newer passes for one."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kbr.errors import ManifestUnreadable, RepositoryError, UnsupportedFormat
from kbr.format.documents import Manifest, dump_manifest, load_manifest
from kbr.format.names import segment_name
from kbr.model import Compression, FailureKind, Gap, GapReason, PartitionStatus, RunStatus, SegmentRef
from tests.support.backups import manifest_of, partition_of, topic_of

NAME = "nightly/manifest.json"


def reference_of(sequence: int, *, count: int = 10, topic: str = "orders", partition: int = 0) -> SegmentRef:
    return SegmentRef(
        key=segment_name(topic, partition, sequence, Compression.ZSTD),
        sequence=sequence,
        next_offset=sequence + count,
        start_offset=sequence,
        end_offset=sequence + count - 1,
        start_timestamp=1000,
        end_timestamp=-1,
        min_timestamp=-1,
        max_timestamp=2000,
        record_count=count,
        block_count=1,
        raw_bytes=1000,
        stored_bytes=500,
        max_record_bytes=90,
        sha256=f"{sequence:064x}",
    )


def sample() -> Manifest:
    gap = Gap(
        start_offset=20,
        end_offset_exclusive=30,
        reason=GapReason.RETENTION,
        detected_at_ms=1_700_000_000_000,
        detail="the log begins at 30 now",
    )
    partitions = [
        partition_of([reference_of(10), reference_of(30)], gaps=(gap,)),
        partition_of([reference_of(0, partition=1)], partition=1),
        partition_of(
            partition=2,
            status=PartitionStatus.FAILED,
            error="no leader",
            failure=FailureKind.UNSEEN,
            end_offset_exclusive=7,
            high_watermark=7,
        ),
    ]
    topics = [topic_of("empty", [partition_of()]), topic_of("orders", partitions)]
    return replace(manifest_of(topics, status=RunStatus.INCOMPLETE), retention={"keep": {"daily": 7}})


def sealed(document: Any) -> bytes:
    """Any document as a manifest object: what is wrong with it is not its checksum."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()[:-1]
    return body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def document_of(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(dump_manifest(manifest))
    del document["sha256"]
    return document


def refused(data: bytes) -> RepositoryError:
    with pytest.raises((ManifestUnreadable, UnsupportedFormat)) as caught:
        load_manifest(data, name=NAME)
    error = caught.value
    assert str(error).startswith(f"{NAME}: ")
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    assert error.hint
    assert error.context["object"] == NAME
    assert isinstance(error, RepositoryError)
    return error


# -- both ways ----------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = sample()
    assert load_manifest(dump_manifest(manifest), name=NAME) == manifest


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_comes_back(status: RunStatus) -> None:
    manifest = replace(sample(), status=status, finished_at_ms=None, compression_level=None)
    assert load_manifest(dump_manifest(manifest), name=NAME) == manifest


def test_configs_that_the_cluster_could_not_tell_stay_unknown() -> None:
    topic = replace(topic_of("t", [partition_of()]), configs=None)
    manifest = manifest_of([topic])
    loaded = load_manifest(dump_manifest(manifest), name=NAME)
    assert loaded.topics[0].configs is None
    assert loaded.topics[0].spec.configs is None
    assert loaded.topics[0].spec.name == "t"


def test_a_backup_of_nothing_is_a_manifest() -> None:
    manifest = manifest_of([])
    assert load_manifest(dump_manifest(manifest), name=NAME) == manifest


def test_the_file_is_json_with_the_fields_that_the_format_page_names() -> None:
    data = dump_manifest(sample())
    document = json.loads(data)
    assert document["format"] == "kbr-manifest"
    assert document["format_version"] == 1
    assert hashlib.sha256(data[:-77]).hexdigest() == document["sha256"]
    segment = document["topics"][1]["partitions"][0]["segments"][0]
    assert list(segment) == [
        "key",
        "sequence",
        "next_offset",
        "start_offset",
        "end_offset",
        "start_timestamp",
        "end_timestamp",
        "min_timestamp",
        "max_timestamp",
        "record_count",
        "block_count",
        "raw_bytes",
        "stored_bytes",
        "max_record_bytes",
        "sha256",
    ]
    assert segment["end_offset"] == 19


def test_the_last_segment_s_leader_epoch_comes_back_where_it_is_known() -> None:
    known = replace(reference_of(30), leader_epoch=7)
    partitions = [
        partition_of([reference_of(10), known], gaps=(replace(sample().topics[1].partitions[0].gaps[0]),)),
        partition_of([replace(reference_of(0, partition=1), leader_epoch=0)], partition=1),
        partition_of([reference_of(0, partition=2)], partition=2),
    ]
    data = dump_manifest(manifest_of([topic_of("orders", partitions)]))
    entries = load_manifest(data, name=NAME).topics[0].partitions
    assert [one.segments[-1].leader_epoch for one in entries] == [7, 0, -1]
    assert entries[0].segments[-1].anchor == (39, -1, 7)
    assert dump_manifest(load_manifest(data, name=NAME)) == data


@pytest.mark.parametrize("epoch", [-1, 2**31, 1.5, "1", None, True])
def test_a_leader_epoch_that_can_not_be_one_is_refused(epoch: object) -> None:
    document = document_of(sample())
    document["topics"][1]["partitions"][0]["leader_epoch"] = epoch
    assert "leader_epoch" in str(refused(sealed(document)))


def test_unknown_keys_are_ignored() -> None:
    document = document_of(sample())
    document["new"] = {"a": [1]}
    document["topics"][1]["new"] = 1
    document["topics"][1]["partitions"][0]["new"] = 1
    document["topics"][1]["partitions"][0]["segments"][0]["new"] = 1
    document["topics"][1]["partitions"][0]["gaps"][0]["new"] = 1
    assert load_manifest(sealed(document), name=NAME) == sample()


def test_reading_a_hundred_thousand_segments_takes_a_time_in_proportion() -> None:
    def cpu_s(count: int) -> float:
        references = [reference_of(i * 10) for i in range(count)]
        data = dump_manifest(manifest_of([topic_of("orders", [partition_of(references)])]))
        begun = time.process_time()
        manifest = load_manifest(data, name=NAME)
        taken = time.process_time() - begun
        assert len(manifest.topics[0].partitions[0].segments) == count
        return taken

    # ten times as many: about ten times as long, where a loop in a loop would take a hundred times
    assert cpu_s(100_000) < 40 * cpu_s(10_000)


# -- not a manifest -----------------------------------------------------------------------


def test_an_empty_manifest_is_unreadable_and_not_missing() -> None:
    error = refused(b"")
    assert isinstance(error, ManifestUnreadable)
    assert error.exit_code == 4
    assert "empty" in str(error)


def test_every_truncation_is_unreadable() -> None:
    data = dump_manifest(sample())
    for length in range(len(data)):
        error = refused(data[:length])
        assert isinstance(error, ManifestUnreadable)
        assert error.exit_code == 4


def test_every_byte_is_under_the_seal() -> None:
    """Every position, four changes each: flips of one bit, and digits to other digits."""
    data = dump_manifest(manifest_of([topic_of("t", [partition_of([reference_of(5, topic="t")])])]))
    for position in range(len(data)):
        for flip in (0x01, 0x04, 0x20, 0x80):
            flipped = bytearray(data)
            flipped[position] ^= flip
            refused(bytes(flipped))


def test_a_manifest_that_was_edited_says_so() -> None:
    data = dump_manifest(sample()).replace(b'"record_count":10', b'"record_count":11')
    assert "edited" in str(refused(data))
    pretty = json.dumps(json.loads(dump_manifest(sample())), indent=2).encode()
    assert "checksum" in str(refused(pretty))


def test_duplicate_keys_cannot_be_slipped_in() -> None:
    data = dump_manifest(sample())
    refused(data.replace(b'"status":', b'"status":"complete","status":', 1))


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"[]",
        b"0",
        b'"kbr-manifest"',
        b"{}",
        b'{"backup_id":"x","created_at":1,"topics":[]}',
        b'{"format":"other","format_version":1}',
        b'{"format":["kbr-manifest"],"format_version":1}',
    ],
)
def test_another_programs_json_is_not_taken_for_a_damaged_manifest(data: bytes) -> None:
    assert isinstance(refused(data), UnsupportedFormat)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02",
        b"\xff" * 100,
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format":"kbr-manifest","format_version":NaN}',
        b'{"format":"kbr-manifest","format_version":"1"}',
        b'{"format":"kbr-manifest","format_version":true}',
        b'{"format":"kbr-manifest","format_version":1.0}',
        b'{"format":"kbr-manifest","format_version":1e400}',
        b'{"format":"kbr-manifest","format_version":1}',
        b"<html>not found</html>",
    ],
)
def test_something_else_than_json_is_unreadable(data: bytes) -> None:
    assert isinstance(refused(data), ManifestUnreadable)


@pytest.mark.parametrize("version", [0, 2, -1, 10**18])
def test_another_version_is_named_and_so_is_ours(version: int) -> None:
    for data in (
        sealed(document_of(sample()) | {"format_version": version}),
        json.dumps({"format": "kbr-manifest", "format_version": version}).encode(),
    ):
        error = refused(data)
        assert isinstance(error, UnsupportedFormat)
        assert f"version {version};" in str(error)
        assert "version 1" in str(error)


# -- a manifest that makes no sense -------------------------------------------------------

ORDERS = ("topics", 1)
PARTITION = (*ORDERS, "partitions", 0)
SEGMENT = (*PARTITION, "segments", 0)
GAP = (*PARTITION, "gaps", 0)
DELETED = object()


def at(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    target = changed
    for step in path[:-1]:
        target = target[step]
    if value is DELETED:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


def every_path(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    paths = [path] if path else []
    if isinstance(value, dict):
        for key, child in value.items():
            paths += every_path(child, (*path, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            paths += every_path(child, (*path, number))
    return paths


FREE = {("retention", "keep"), ("retention", "keep", "daily")}


def test_a_manifest_that_is_older_than_what_it_says_of_failures_is_read() -> None:
    document = document_of(sample())
    for topic in document["topics"]:
        for partition in topic["partitions"]:
            del partition["failure"]
    loaded = load_manifest(sealed(document), name=NAME)
    found = [one for topic in loaded.topics for one in topic.partitions]
    assert "no leader" in [one.error for one in found]
    assert {one.failure for one in found} == {None}


def test_every_key_has_to_be_there_and_of_its_type() -> None:
    """Each of them once missing, and once a value of every other type."""
    document = document_of(sample())
    strange = [None, True, -1, 1.5, "", "x", [], {}, [None], {"a": None}, 10**30, -(10**18)]
    checked = 0
    for path in every_path(document):
        if path in FREE or (path[-2:-1] == ("configs",)):
            continue
        target: Any = document
        for step in path:
            target = target[step]
        for value in [DELETED, *strange]:
            if value == target and type(value) is type(target):
                continue
            data = sealed(at(document, path, value))
            try:
                loaded = load_manifest(data, name=NAME)
            except (ManifestUnreadable, UnsupportedFormat):
                checked += 1
                continue
            # what may be so: free text, null where null is allowed, a list that may be empty
            assert dump_manifest(loaded) == data or value is DELETED
            assert value is not DELETED or isinstance(path[-1], int) or path[-1] == "failure"
    assert checked > 800


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("backup_id",), "../other", "backup_id"),
        (("status",), "done", "complete, incomplete"),
        (("created_at",), -1, "created_at"),
        (("compression",), "gzip", "compression"),
        (("source", "isolation_level"), "none", "isolation_level"),
        (("source", "brokers"), ["a", 1], "source.brokers"),
        ((*ORDERS, "name"), "../../etc/passwd", "topics[1].name"),
        (("topics", 0, "name"), "orders", "orders stands after orders"),
        (("topics", 0, "name"), "z", "orders stands after z"),
        ((*ORDERS, "partition_count"), 4, "partition_count says 4"),
        ((*ORDERS, "configs"), {"a": 1}, "configs"),
        ((*PARTITION, "partition"), 1, "topics[1].partitions[0].partition"),
        ((*PARTITION, "next_offset"), 41, "next_offset"),
        ((*PARTITION, "next_offset"), 39, "segments reach 40"),
        ((*PARTITION, "start_offset"), 11, "before start_offset"),
        ((*PARTITION, "record_count"), 19, "record_count"),
        ((*GAP, "end_offset_exclusive"), 20, "end_offset_exclusive"),
        ((*GAP, "reason"), "bad luck", "reason"),
        ((*SEGMENT, "key"), "../../../etc/passwd", "segments[0].key"),
        ((*SEGMENT, "key"), "/etc/passwd", "segments[0].key"),
        ((*SEGMENT, "key"), segment_name("orders", 1, 10, Compression.ZSTD), "segments[0].key"),
        ((*SEGMENT, "key"), segment_name("orders", 0, 11, Compression.ZSTD), "segments[0].key"),
        ((*SEGMENT, "key"), "topics/orders/partition=0/segment-00000000000000000010.exe", "key"),
        ((*SEGMENT, "sha256"), "0" * 63, "SHA-256"),
        ((*SEGMENT, "sha256"), "A" * 64, "SHA-256"),
        ((*SEGMENT, "next_offset"), 31, "overlaps"),
        ((*SEGMENT, "next_offset"), 19, "behind its next_offset"),
        ((*SEGMENT, "start_offset"), 9, "begins before its sequence"),
        ((*SEGMENT, "end_offset"), 9, "ends before it begins"),
        ((*SEGMENT, "record_count"), 11, "more records than offsets"),
        ((*SEGMENT, "block_count"), 11, "more blocks than records"),
        ((*SEGMENT, "min_timestamp"), 1001, "smallest timestamp"),
        ((*SEGMENT, "max_timestamp"), 999, "largest timestamp"),
        ((*SEGMENT, "stored_bytes"), 0, "stored_bytes"),
        ((*SEGMENT, "stored_bytes"), 2**63, "stored_bytes"),
        ((*SEGMENT, "max_record_bytes"), -1, "max_record_bytes"),
        ((*SEGMENT, "min_timestamp"), -(2**63) - 1, "min_timestamp"),
        ((*SEGMENT, "raw_bytes"), True, "no integer"),
        ((*SEGMENT, "raw_bytes"), DELETED, "segments[0] has no raw_bytes"),
        (SEGMENT, None, "segments[0]"),
        (SEGMENT, "text", "segments[0]"),
        (SEGMENT, [1] * 15, "segments[0]"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(path: tuple[str | int, ...], value: Any, says: str) -> None:
    error = refused(sealed(at(document_of(sample()), path, value)))
    assert isinstance(error, ManifestUnreadable)
    assert says in str(error)


def test_endless_names_are_not_repeated_in_messages() -> None:
    refused(sealed(at(document_of(sample()), (*ORDERS, "name"), "x\n\x1b" * 100_000)))


def reordered(change: Callable[[list[Any]], object]) -> bytes:
    document = document_of(sample())
    change(document["topics"][1]["partitions"][0]["segments"])
    return sealed(document)


def test_segments_out_of_order_or_twice_are_refused() -> None:
    assert "out of order" in str(refused(reordered(list.reverse)))
    assert "overlaps" in str(refused(reordered(lambda rows: rows.append(rows[-1]))))


def test_partitions_out_of_order_or_twice_are_refused() -> None:
    document = document_of(sample())
    document["topics"][1]["partitions"].reverse()
    refused(sealed(document))
    document = document_of(sample())
    document["topics"][1]["partitions"][1] = document["topics"][1]["partitions"][0]
    refused(sealed(document))
