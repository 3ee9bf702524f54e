"""Writes the corpora of the parsers' fuzzers: small good inputs, made by kbr's own writers. Run it when a format changes.

    python -m tests.fuzz.seeds
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kbr.config.example import example_file
from kbr.format.block_index import BlockIndexWriter
from kbr.format.block_index_head import BlockIndexHead, dump_head
from kbr.format.documents import dump_manifest
from kbr.format.group_rollback import GroupBefore, GroupRollback, dump_rollback
from kbr.format.groups import GroupSnapshot, dump_groups
from kbr.format.offset_map import OffsetMapHeader, OffsetMapWriter
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus, dump_restore_state
from kbr.format.segment import BlockEntry
from kbr.model import (
    CommittedOffset,
    Compression,
    FailureKind,
    Gap,
    GapReason,
    GroupOffsets,
    PartitionStatus,
    SegmentRef,
    TopicPartition,
)
from kbr.repository.lock_file import LockFile, LockState, dump_lock
from kbr.repository.lock_process import LockProcess
from tests.support import kbak
from tests.support.backups import (
    RecordingStore,
    block_of,
    identity_of,
    manifest_of,
    partition_of,
    segment_bytes,
    store_backup,
    topic_of,
)

CORPUS = Path(__file__).parent / "corpus"
_PLACE = TopicPartition("orders", 0)
_COMMITTED = CommittedOffset(offset=5, leader_epoch=1, metadata="m")


def manifests() -> Iterator[bytes]:
    """Good backups, one with everything that a manifest may have."""
    store = RecordingStore()
    manifest = store_backup(store)
    yield dump_manifest(manifest)
    gap = Gap(start_offset=1, end_offset_exclusive=3, reason=GapReason.RETENTION, detected_at_ms=5, detail="why")
    failed = partition_of(
        status=PartitionStatus.FAILED, error="lost", failure=FailureKind.LASTING,
        gaps=(gap,), end_offset_exclusive=9, high_watermark=9,
    )  # fmt: skip
    topic = topic_of("orders", manifest.topics[1].partitions)
    first = topic.partitions[0]
    known = replace(first, segments=(*first.segments[:-1], replace(first.segments[-1], leader_epoch=7)))
    yield dump_manifest(manifest_of([topic_of("a", [failed]), replace(topic, partitions=(known, *topic.partitions[1:]))]))
    yield dump_manifest(manifest_of([]))


def oso() -> Iterator[bytes]:
    """Another tool's manifests."""
    for compression, names in (("zstd", False), ("lz4", True), ("none", False)):
        backup = kbak.OsoBackup(lambda _key, _data: None, compression=compression, old_names=names, cluster="c")
        backup.topic("orders", 2, source_replication_factor=3, configurations={"a": "b"})
        backup.partition(
            "orders", 0, [kbak.rows_of(0, 5), kbak.rows_of(9, 5)], gaps=[{"start_offset": 5, "end_offset": 9, "reason": "retention"}]
        )
        yield json.dumps(backup.document()).encode()


def oso_groups() -> Iterator[bytes]:
    found: list[bytes] = []
    kbak.OsoBackup(lambda _key, data: found.append(data)).groups({"g": {"orders": {0: 5, 1: 7}}, "h": {}})
    yield from found


def kbak_segments() -> Iterator[bytes]:
    """Whole segments of another tool."""
    for compression in ("zstd", "lz4", "none"):
        yield kbak.segment_bytes(kbak.rows_of(3, 12), compression)[0]
    yield kbak.segment_bytes(kbak.rows_of(0, 3, size=1), "none", added=False)[0]


def segments() -> Iterator[bytes]:
    for compression in Compression:
        yield segment_bytes(identity_of(compression=compression), [block_of(0, 5), block_of(7, 3)], 20)


def groups() -> Iterator[bytes]:
    one = GroupOffsets(group="g", kind="classic", state="Empty", offsets={_PLACE: _COMMITTED, TopicPartition("orders", 2): CommittedOffset(offset=0)})
    for some in ((), (one,), (one, replace(one, group="h", offsets={TopicPartition("a", 0): CommittedOffset(offset=1)}))):
        yield dump_groups(
            GroupSnapshot(
                kbr_version="1", backup_id="nightly", cluster_id="c", captured_at_ms=1, groups=some,
                log_ends={"orders": (9, -1, 3)}, other_offsets=2, unread={"x": "why"},
            )  # fmt: skip
        )


def rollbacks() -> Iterator[bytes]:
    before = GroupBefore(group="g", existed=True, before={_PLACE: None}, applied={_PLACE: _COMMITTED})
    for some in ((), (before,)):
        yield dump_rollback(
            GroupRollback(kbr_version="1", backup_id="nightly", restore_id="0" * 32, cluster_id="c", created_at_ms=1, groups=some)
        )


def restore_states() -> Iterator[bytes]:
    topic = RestoredTopic(
        name="orders", topic_id="id", made=True, configs_afterwards={"retention.ms": None, "a": "b"}, bases=(0, None, 5),
        source_ends={_PLACE: 9},
    )  # fmt: skip
    for some in ((), (topic,), (replace(topic, name="a", source_ends={}), topic)):
        yield dump_restore_state(
            RestoreState(
                kbr_version="1", backup_id="nightly", restore_id="0" * 32, cluster_id="c", status=RestoreStatus.RUNNING,
                created_at_ms=1, updated_at_ms=2, topics=some,
            )  # fmt: skip
        )


def locks() -> Iterator[bytes]:
    process = LockProcess(host="h", boot_id="b", pid=5, pid_namespace="n", started="s", user="u")
    for state in LockState:
        yield dump_lock(
            LockFile(verb="backup", process=process, since_ms=1, beat=3, life_ms=1000, state=state, was_held=state is LockState.HELD)
        )


def offset_maps() -> Iterator[bytes]:
    for rows_per_group in (4, 1000):
        out = io.BytesIO()
        header = OffsetMapHeader(kbr_version="1", backup_id="nightly", restore_id="0" * 32, cluster_id="c", created_at_ms=1)
        writer = OffsetMapWriter(out.write, header, rows_per_group=rows_per_group)
        for topic in ("a", "orders"):
            starts = b"".join(number.to_bytes(8, "little") for number in (0, 5, 9, 100))
            counts = b"".join(number.to_bytes(8, "little") for number in (3, 1, 20, 7))
            writer.add(TopicPartition(topic, 1), TopicPartition(topic, 0), 50, starts, counts)
        writer.close()
        yield out.getvalue()


def index_pieces() -> Iterator[bytes]:
    for rows_per_group in (2, 1000):
        out = io.BytesIO()
        _write_piece(out, rows_per_group)
        yield out.getvalue()


def _write_piece(out: io.BytesIO, rows_per_group: int) -> object:
    writer = BlockIndexWriter(out.write, backup_id="nightly", kbr_version="1", rows_per_group=rows_per_group)
    for topic in ("a", "orders"):
        for sequence in (0, 40):
            blocks = [
                BlockEntry(
                    position=100 * number, stored_bytes=100, raw_bytes=500, record_count=10, first_offset=sequence + 20 * number,
                    last_offset=sequence + 20 * number + 9, min_timestamp=number, max_timestamp=number + 5, crc32=1,
                )
                for number in range(2)
            ]  # fmt: skip
            reference = SegmentRef(
                key="", sequence=sequence, next_offset=sequence + 40, start_offset=sequence, end_offset=sequence + 29,
                start_timestamp=0, end_timestamp=6, min_timestamp=0, max_timestamp=6, record_count=20, block_count=2, raw_bytes=1000,
                stored_bytes=300, max_record_bytes=5, sha256=f"{sequence + 17:064x}",
            )  # fmt: skip
            writer.add(TopicPartition(topic, 0), Compression.ZSTD, reference, blocks)
    return writer.close(run="0" * 32, level=0, name=f"blocks-{'0' * 32}.parquet")


def index_heads() -> Iterator[bytes]:
    piece = _write_piece(io.BytesIO(), 2)
    for some in ((), (piece,)):
        yield dump_head(BlockIndexHead(kbr_version="1", backup_id="nightly", updated_at_ms=1, pieces=some))  # type: ignore[arg-type]


def configs() -> Iterator[bytes]:
    yield b"backup_id: x\nsource: {bootstrap_servers: 'a:1,b:2', topics: {include: [a, 'b*']}}\nstorage: {url: /tmp/x}\n"
    yield b"# c\nstorage:\n  backend: s3\n  bucket: b\n  access_key: a\n  secret_key: ${X:-y}\nrestore:\n  partition_mapping: {t: {0: 3}}\n  rate_limit: 50MB/s\n"
    yield b"backup:\n  segment_max_bytes: 64MiB\n  compression: lz4\nlimits: {max_block_bytes: 16MiB}\nlogging: {level: debug}\nstorage: {url: s}\n"
    yield example_file("backup").encode()


def values() -> Iterator[bytes]:
    yield from (
        b"64MiB", b"1.5 GB", b"50MB/s", b"none", b"2024-05-01T12:00:00.123Z", b"2024-05-01 12:00+02:00", b"1714564800000", b"1h30m",
        b"P1DT2H3.5S", b"100-200", b"-7", b"0,2-5", b"a, b", b"true", b"+1_000",
    )  # fmt: skip


SEEDS = {
    "manifest": manifests, "oso_manifest": oso, "oso_groups": oso_groups, "kbak": kbak_segments, "segment": segments,
    "groups": groups, "rollback": rollbacks, "restore_state": restore_states, "lock": locks, "offset_map": offset_maps,
    "block_index": index_pieces, "index_head": index_heads, "config": configs, "values": values,
}  # fmt: skip


def main() -> None:
    for target, make in SEEDS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(make()):
            (folder / f"good-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
