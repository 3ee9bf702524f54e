"""Small backups made by kbr's own writers, in memory: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kbr.format.compression import BlockCompressor
from kbr.format.documents import Manifest, PartitionEntry, SourceInfo, TopicEntry
from kbr.format.segment import SegmentAssembler, SegmentIdentity
from kbr.model import Compression, PartitionStatus, RunStatus, SegmentRef
from kbr.repository.publish import publish_manifest
from kbr.repository.segment_writer import SegmentWriter
from kbr.storage.base import NO_METADATA, ObjectInfo, Upload
from kbr.storage.memory import MemoryStore
from kbr_codec import Record, encode_block, scan_block

__all__ = [
    "RecordingStore",
    "block_of",
    "identity_of",
    "manifest_of",
    "partition_of",
    "segment_bytes",
    "store_backup",
    "topic_of",
    "write_segment",
]


class RecordingStore(MemoryStore):
    """A store in memory that remembers what was asked, can be told to fail, and can be damaged.

    ``fail[operation]`` is raised by that operation; ``calls`` lists (operation, key).
    """

    def __init__(self) -> None:
        super().__init__("memory://test")
        self.unlisted: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.ranges: list[tuple[int, int]] = []
        self.fail: dict[str, Exception] = {}
        self.uploads: list[RecordingUpload] = []

    def stored_keys(self) -> list[str]:
        """All keys."""
        return [info.key for info in super().list("")]

    def data(self, key: str) -> bytes:
        """An object's bytes."""
        return super().get(key, max_bytes=2**40)

    def flip(self, key: str, position: int, mask: int = 0x40) -> None:
        """Change bits of one byte of an object."""
        data = bytearray(self.data(key))
        data[position] ^= mask
        super().put(key, bytes(data))

    def enter(self, operation: str, key: str) -> None:
        """Every operation begins here."""
        self.calls.append((operation, key))
        if operation in self.fail:
            raise self.fail[operation]

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> ObjectInfo:
        self.enter("put", key)
        return super().put(key, data, if_absent=if_absent, metadata=metadata)

    # The parent names its own kind of upload; who opens one only counts on the protocol.
    def open_upload(  # type: ignore[override]
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> RecordingUpload:
        self.enter("open_upload", key)
        upload = RecordingUpload(self, key, super().open_upload(key, if_absent=if_absent, metadata=metadata))
        self.uploads.append(upload)
        return upload

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.enter("get", key)
        return super().get(key, max_bytes=max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.enter("read_range", key)
        self.ranges.append((start, length))
        return super().read_range(key, start, length)

    def head(self, key: str) -> ObjectInfo:
        self.enter("head", key)
        return super().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.enter("list", prefix)
        return (info for info in super().list(prefix) if info.key not in self.unlisted)


class RecordingUpload:
    """An upload into a RecordingStore."""

    def __init__(self, store: RecordingStore, key: str, inner: Upload) -> None:
        self._store = store
        self._key = key
        self._inner = inner
        self.state = "open"

    def write(self, data: bytes | memoryview) -> None:
        self._store.enter("write", self._key)
        self._inner.write(data)

    def commit(self) -> ObjectInfo:
        self._store.enter("commit", self._key)
        info = self._inner.commit()
        self.state = "committed"
        return info

    def abort(self) -> None:
        self._store.enter("abort", self._key)
        self._inner.abort()
        if self.state == "open":
            self.state = "aborted"


# -- segments -----------------------------------------------------------------------------


def block_of(first_offset: int, count: int, *, timestamp: int = 1_700_000_000_000) -> bytes:
    """A block of records with rising offsets and timestamps, keys, tombstones and headers."""
    return encode_block(
        Record(
            first_offset + i,
            timestamp + i,
            1,
            b"key-%d" % i,
            None if i % 7 == 6 else b"value %d " % (first_offset + i) * (1 + i % 5),
            ((b"h", b"%d" % i), (b"h", None)) if i % 3 == 0 else (),
        )
        for i in range(count)
    )


def identity_of(
    *,
    backup_id: str = "nightly",
    topic: str = "orders",
    partition: int = 0,
    sequence: int = 0,
    compression: Compression = Compression.ZSTD,
) -> SegmentIdentity:
    """A segment's identity."""
    return SegmentIdentity(
        backup_id=backup_id,
        topic=topic,
        topic_id="pXkV0b1dQ1u6Pq3v7g0aYQ",
        partition=partition,
        sequence=sequence,
        compression=compression,
        writer="writer-1",
        created_at_ms=1_700_000_000_000,
    )


def segment_bytes(identity: SegmentIdentity, blocks: Iterable[bytes], next_offset: int) -> bytes:
    """A whole segment."""
    assembler = SegmentAssembler(identity)
    compressor = BlockCompressor(identity.compression)
    frames = []
    for block in blocks:
        frame = compressor.compress(block)
        assembler.add(frame, len(block), scan_block(block))
        frames.append(frame)
    return b"".join((*frames, assembler.finish(next_offset)))


def write_segment(
    store: RecordingStore, identity: SegmentIdentity, blocks: Iterable[bytes], next_offset: int
) -> SegmentRef:
    """A whole segment, by the SegmentWriter."""
    writer = SegmentWriter(store, identity)
    compressor = BlockCompressor(identity.compression)
    for block in blocks:
        writer.append(compressor.compress(block), len(block), scan_block(block))
    return writer.commit(next_offset)


# -- manifests ----------------------------------------------------------------------------


def partition_of(segments: Sequence[SegmentRef] = (), *, partition: int = 0, **changes: object) -> PartitionEntry:
    """A complete partition that has these segments."""
    start = segments[0].sequence if segments else 0
    end = segments[-1].next_offset if segments else start
    values: dict[str, object] = {
        "partition": partition,
        "status": PartitionStatus.COMPLETE,
        "log_start_offset": start,
        "high_watermark": end,
        "start_offset": start,
        "end_offset_exclusive": end,
        "next_offset": end,
        "record_count": sum(segment.record_count for segment in segments),
        "error": None,
        "gaps": (),
        "segments": tuple(segments),
    }
    return PartitionEntry(**{**values, **changes})  # type: ignore[arg-type]


def topic_of(name: str, partitions: Sequence[PartitionEntry]) -> TopicEntry:
    """A topic that has these partitions."""
    return TopicEntry(
        name=name,
        topic_id="pXkV0b1dQ1u6Pq3v7g0aYQ",
        partition_count=len(partitions),
        replication_factor=3,
        is_internal=False,
        configs={"cleanup.policy": "compact,delete"},
        partitions=tuple(partitions),
    )


def manifest_of(
    topics: Sequence[TopicEntry],
    *,
    backup_id: str = "nightly",
    status: RunStatus = RunStatus.COMPLETE,
) -> Manifest:
    """A finished backup that has these topics."""
    return Manifest(
        kbr_version="0.1.0",
        backup_id=backup_id,
        status=status,
        created_at_ms=1_700_000_000_000,
        updated_at_ms=1_700_000_060_000,
        finished_at_ms=1_700_000_060_000,
        source=SourceInfo(
            cluster_id="Q2x1c3Rlci1pZA",
            brokers=("broker-1:9092", "broker-2:9092"),
            isolation_level="read_committed",
        ),
        compression=Compression.ZSTD,
        compression_level=3,
        retention=None,
        topics=tuple(topics),
    )


def store_backup(
    store: RecordingStore,
    *,
    backup_id: str = "nightly",
    compression: Compression = Compression.ZSTD,
) -> Manifest:
    """Two topics: one of two partitions with two segments of three blocks each, one empty one."""
    partitions = []
    for number in range(2):
        references = [
            write_segment(
                store,
                identity_of(
                    backup_id=backup_id,
                    partition=number,
                    sequence=sequence,
                    compression=compression,
                ),
                [block_of(sequence + i * 20, 20) for i in range(3)],
                sequence + 60,
            )
            for sequence in (100, 160)
        ]
        partitions.append(partition_of(references, partition=number))
    manifest = manifest_of(
        [topic_of("empty", [partition_of()]), topic_of("orders", partitions)],
        backup_id=backup_id,
    )
    publish_manifest(store, manifest)
    return manifest
