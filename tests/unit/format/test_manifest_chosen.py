"""A large manifest read for the sake of some topics: the same as the whole one, or nothing at all."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kbr.format import manifest_chosen
from kbr.format.documents import Manifest, dump_manifest, load_manifest
from kbr.format.manifest_chosen import load_chosen_topics
from kbr.model import SegmentRef
from tests.support.backups import manifest_of, partition_of, topic_of


def _segment(topic: str, partition: int, number: int) -> SegmentRef:
    return SegmentRef(
        key=f"topics/{topic}/partition={partition}/segment-{number * 10:020d}.zst", sequence=number * 10,
        next_offset=number * 10 + 10, start_offset=number * 10, end_offset=number * 10 + 9, start_timestamp=1,
        end_timestamp=2, min_timestamp=1, max_timestamp=2, record_count=10, block_count=1, raw_bytes=10, stored_bytes=10,
        max_record_bytes=1, sha256=f"{number:064x}",
    )  # fmt: skip


def _manifest(topics: int = 4, partitions: int = 3, segments: int = 5) -> Manifest:
    entries = []
    for topic in range(topics):
        name = f"topic-{topic}"
        parts = [
            partition_of([_segment(name, number, one) for one in range(segments)], partition=number)
            for number in range(partitions)
        ]
        entry = topic_of(name, parts)
        # what looks like the layout's own marks, in a text
        tricky = 'x,{"name":"topic-9","partitions":[{"segments":[],"topics":['
        entries.append(replace(entry, configs={"a": tricky, 'b,{"name":"': "]}]", "cleanup.policy": "delete"}))
    return manifest_of(entries)


def _load(data: bytes, *names: str) -> Manifest | None:
    return load_chosen_topics(lambda start, length: data[start : start + length], len(data), lambda name: name in names)


def _without_others(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    topics = [topic if topic.name in names else replace(topic, partitions=()) for topic in manifest.topics]
    return replace(manifest, topics=tuple(topics))


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 1000, 2**23])
def test_chosen_topics_are_read_as_they_are_and_the_others_without_partitions(piece, monkeypatch) -> None:
    monkeypatch.setattr(manifest_chosen, "PIECE_BYTES", piece)
    manifest = _manifest()
    data = dump_manifest(manifest)
    assert load_manifest(data, name="m") == manifest
    for names in ((), ("topic-0",), ("topic-3",), ("topic-1", "topic-2"), tuple(f"topic-{one}" for one in range(4))):
        assert _load(data, *names) == _without_others(manifest, names)


@pytest.mark.parametrize("manifest", [_manifest(0), _manifest(1), _manifest(1, 0), _manifest(2, 1, 0)])
def test_manifests_with_little_in_them_are_read(manifest: Manifest) -> None:
    for names in ((), ("topic-0",)):
        assert _load(dump_manifest(manifest), *names) == _without_others(manifest, names)


def test_no_changed_byte_is_passed_over(monkeypatch) -> None:
    monkeypatch.setattr(manifest_chosen, "PIECE_BYTES", 500)
    data = dump_manifest(_manifest(3, 1, 2))
    source = random.Random(3)
    for _ in range(400):
        changed = bytearray(data)
        changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
        assert _load(bytes(changed), "topic-1") is None
    for end in range(0, len(data), 13):
        assert _load(data[:end], "topic-1") is None


def test_another_layout_or_version_is_left_to_who_reads_it_whole() -> None:
    data = dump_manifest(_manifest())
    assert _load(data.replace(b'"format_version":1', b'"format_version":2'), "topic-1") is None
    assert _load(data.replace(b',"topics":[', b', "topics": ['), "topic-1") is None
    assert _load(b"", "topic-1") is None
    assert _load(b"{}" * 100, "topic-1") is None


def test_another_topics_segments_are_not_held(monkeypatch) -> None:
    monkeypatch.setattr(manifest_chosen, "PIECE_BYTES", 4096)
    held: list[int] = []
    more = manifest_chosen._Scanner._more

    def noted(self) -> bool:
        held.append(len(self._held))
        return more(self)

    monkeypatch.setattr(manifest_chosen._Scanner, "_more", noted)
    data = dump_manifest(_manifest(2, 1, 2000))
    found = _load(data, "none")
    assert found is not None
    assert len(data) > 100 * 4096
    assert max(held) < 2 * 4096
