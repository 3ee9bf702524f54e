"""A whole backup read in plain Python from docs/format.md alone, through the manifest, with every rule of that page.

Knows nothing of kbr and must not import it. What is wrong is collected, not raised: a broken backup is to be told
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import botocore.session

from .plain_reader import PlainRecord, Unreadable, read_segment

__all__ = [
    "Archive",
    "FolderObjects",
    "Objects",
    "Place",
    "S3Objects",
    "StoreObjects",
    "chain_problems",
    "offsets_in_gaps",
    "partitions_of",
    "read_archive",
    "read_manifest",
    "segment_problems",
]

#: A topic and a partition's number.
Place = tuple[str, int]

_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\Z')
_TEMPORARY = ".kbr-tmp-"
_REF_FACTS = ("sequence", "next_offset", "record_count", "raw_bytes", "max_record_bytes")


class Objects(Protocol):
    """What lies in a store, seen past kbr."""

    def sizes(self) -> dict[str, int]:
        """Size in bytes by key, of all objects."""

    def get(self, key: str) -> bytes | None:
        """An object's bytes; None if it is not there."""

    def leftovers(self) -> list[str]:
        """What unfinished writes left behind."""


class FolderObjects:
    """Objects as files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _folders, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                if not name.startswith(_TEMPORARY):
                    with suppress(FileNotFoundError):  # gone since the folder was read
                        found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return found

    def get(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def leftovers(self) -> list[str]:
        return sorted(str(path) for path in self._root.rglob(f"{_TEMPORARY}*"))


class S3Objects:
    """Objects of a bucket, by botocore.

    Args:
        place: with endpoint_url, access_key and secret_key.
    """

    def __init__(self, place: Any, bucket: str, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=place.endpoint_url,
            aws_access_key_id=place.access_key,
            aws_secret_access_key=place.secret_key,
            region_name="us-east-1",
        )

    def sizes(self) -> dict[str, int]:
        found = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for entry in page.get("Contents", []):
                found[entry["Key"].removeprefix(self._prefix)] = entry["Size"]
        return found

    def get(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def leftovers(self) -> list[str]:
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix)
        return sorted(entry["Key"] for entry in found.get("Uploads", []))


class StoreObjects:
    """Objects of a store in memory."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def sizes(self) -> dict[str, int]:
        return {info.key: info.size_bytes for info in self._store.list("")}

    def get(self, key: str) -> bytes | None:
        return self._store.get(key, max_bytes=2**40) if key in self.sizes() else None

    def leftovers(self) -> list[str]:
        return []


@dataclass
class Archive:
    """A backup as it was found.

    Attributes:
        manifest: as JSON has it; empty if there is none that can be read.
        records: of the manifest's segments, by partition, in order.
        entries: the manifest's entries of the partitions.
        problems: what does not agree with the page.
        unlisted: keys of segments that the manifest does not have.
    """

    manifest: dict[str, Any] = field(default_factory=dict)
    records: dict[Place, list[PlainRecord]] = field(default_factory=dict)
    entries: dict[Place, Mapping[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    @property
    def gaps(self) -> dict[Place, list[Mapping[str, Any]]]:
        """Gaps of the partitions that have some."""
        return {place: entry["gaps"] for place, entry in self.entries.items() if entry["gaps"]}


def read_manifest(data: bytes) -> dict[str, Any]:
    """A manifest, its seal checked.

    Raises:
        Unreadable: it is none.
    """
    seal = _SEAL.search(data)
    if seal is None:
        raise Unreadable("the manifest has no seal at its end")
    if hashlib.sha256(data[: seal.start()]).hexdigest() != seal.group(1).decode():
        raise Unreadable("the manifest's seal is not its digest")
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise Unreadable(f"the manifest is no JSON: {error}") from error
    if manifest.get("format") != "kbr-manifest" or manifest.get("format_version") != 1:
        raise Unreadable("no manifest of version 1")
    return manifest


def partitions_of(manifest: Mapping[str, Any]) -> dict[Place, Mapping[str, Any]]:
    """The manifest's entries by partition."""
    return {
        (topic["name"], partition["partition"]): partition
        for topic in manifest["topics"]
        for partition in topic["partitions"]
    }


def chain_problems(place: Place, entry: Mapping[str, Any]) -> list[str]:
    """What is wrong with a partition's chain of segments: holes that no gap explains, overlaps, a wrong sum."""
    where = f"{place[0]}[{place[1]}]"
    problems = []
    expected = entry["start_offset"]
    gaps = {gap["start_offset"]: gap["end_offset_exclusive"] for gap in entry["gaps"]}
    for ref in entry["segments"]:
        while expected != ref["sequence"] and expected in gaps:
            expected = gaps.pop(expected)
        if ref["sequence"] != expected:
            kind = "overlaps the one before it" if ref["sequence"] < expected else "leaves a hole before it"
            problems.append(f"{where}: {ref['key']} begins at {ref['sequence']}, not at {expected}: it {kind}")
        if not ref["sequence"] <= ref["start_offset"] <= ref["end_offset"] < ref["next_offset"]:
            problems.append(f"{where}: {ref['key']} has offsets that don't rise")
        expected = ref["next_offset"]
    if entry["segments"] and entry["next_offset"] < entry["segments"][-1]["next_offset"]:
        problems.append(f"{where}: next_offset {entry['next_offset']} lies before the last segment's")
    if entry["next_offset"] > entry["end_offset_exclusive"]:
        problems.append(f"{where}: next_offset {entry['next_offset']} lies beyond the end {entry['end_offset_exclusive']}")
    if entry["record_count"] != sum(ref["record_count"] for ref in entry["segments"]):
        problems.append(f"{where}: record_count is not the sum of the segments'")
    keys = [ref["key"] for ref in entry["segments"]]
    problems.extend(f"{where}: {key} is listed twice" for key in sorted({key for key in keys if keys.count(key) > 1}))
    return problems


def segment_problems(
    objects: Objects, backup_id: str, place: Place, ref: Mapping[str, Any]
) -> tuple[list[PlainRecord], list[str]]:
    """One listed segment's records, and what is wrong with it."""
    where = f"{place[0]}[{place[1]}]: {ref['key']}"
    folder = f"topics/{place[0]}/partition={place[1]}/segment-{ref['sequence']:020d}."
    if ref["key"].rpartition(".")[0] + "." != folder:
        return [], [f"{where} is no key of sequence {ref['sequence']}"]
    data = objects.get(f"{backup_id}/{ref['key']}")
    if data is None:
        return [], [f"{where} is listed and not there"]
    if len(data) != ref["stored_bytes"] or hashlib.sha256(data).hexdigest() != ref["sha256"]:
        return [], [f"{where} is not the object that the manifest lists (size or SHA-256)"]
    try:
        index, records = read_segment(data)
    except Unreadable as error:
        return [], [f"{where}: {error}"]
    problems = []
    if (index["backup_id"], index["topic"], index["partition"]) != (backup_id, *place):
        problems.append(f"{where} belongs to {index['backup_id']}, {index['topic']}[{index['partition']}]")
    problems.extend(f"{where}: {name} differs from its index" for name in _REF_FACTS if index[name] != ref[name])
    facts = {
        "start_offset": records[0].offset,
        "end_offset": records[-1].offset,
        "min_timestamp": min(record.timestamp for record in records),
        "max_timestamp": max(record.timestamp for record in records),
        "start_timestamp": records[0].timestamp,
        "end_timestamp": records[-1].timestamp,
    }
    problems.extend(f"{where}: {name} differs from its records" for name, value in facts.items() if ref[name] != value)
    return records, problems


def read_archive(objects: Objects, backup_id: str) -> Archive:
    """Everything that a backup's manifest lists, checked against the page."""
    archive = Archive()
    data = objects.get(f"{backup_id}/manifest.json")
    if data is None:
        archive.problems.append("there is no manifest")
        return archive
    try:
        archive.manifest = read_manifest(data)
    except Unreadable as error:
        archive.problems.append(str(error))
        return archive
    archive.entries = partitions_of(archive.manifest)
    listed = set()
    for place, entry in archive.entries.items():
        archive.problems.extend(chain_problems(place, entry))
        records: list[PlainRecord] = []
        for ref in entry["segments"]:
            listed.add(f"{backup_id}/{ref['key']}")
            found, problems = segment_problems(objects, backup_id, place, ref)
            records.extend(found)
            archive.problems.extend(problems)
        archive.records[place] = records
    archive.unlisted = [
        key for key in sorted(objects.sizes()) if key.startswith(f"{backup_id}/topics/") and key not in listed
    ]
    return archive


def offsets_in_gaps(gaps: Sequence[Mapping[str, Any]], offset: int) -> bool:
    """Whether a gap says that this offset is missing."""
    return any(gap["start_offset"] <= offset < gap["end_offset_exclusive"] for gap in gaps)
