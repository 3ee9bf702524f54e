"""`kbr demo`: the main job on librdkafka's own broker, in this process, with every record compared."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbr.app.backup_run import run_backup
from kbr.app.restore_run import run_restore
from kbr.app.wiring import StopSource
from kbr.config import load_config
from kbr.kafka.native import load_library
from kbr.kafka.reader import read_topics
from kbr.kafka.settings import ClientSettings
from kbr.kafka.sink import BlockSink, RecordWindow, SinkOptions
from kbr.model import Record, TimestampType, TopicPartition
from kbr.telemetry.progress import ProgressSink
from kbr.timing import SYSTEM_CLOCK
from kbr_codec import encode_block
from kbr_codec.rdkafka import MockCluster

__all__ = ["DemoReport", "DemoTopic", "run_demo"]

#: Partitions of the demo's topics; the mock cluster keeps about 5 MB in each.
TOPICS: Mapping[str, int] = {"orders": 3, "payments": 2, "customers": 1}
RECORDS_PER_PARTITION = 4000
#: 2024-05-01T12:00:00Z, and one record a second from there on.
FIRST_TIMESTAMP_MS = 1_714_564_800_000
WINDOW_FROM_MS = FIRST_TIMESTAMP_MS + 20 * 60 * 1000
WINDOW_TO_MS = FIRST_TIMESTAMP_MS + 30 * 60 * 1000
BACKUP_ID = "demo"
READ_DEADLINE_S = 60.0

Records = dict[TopicPartition, list[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTopic:
    """One topic's way through the demo."""

    topic: str
    partitions: int
    produced: int
    backed_up: int
    restored: int
    restored_window: int
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """How the demo went."""

    directory: str
    duration_s: float
    raw_bytes: int
    stored_bytes: int
    steps: tuple[str, ...]
    topics: tuple[DemoTopic, ...]

    @property
    def exit_code(self) -> int:
        """0 if every record was identical, else 1."""
        return 0 if all(topic.verified for topic in self.topics) else 1

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": "identical" if self.exit_code == 0 else "different",
            "directory": self.directory,
            "duration_s": round(self.duration_s, 3),
            "raw_bytes": self.raw_bytes,
            "stored_bytes": self.stored_bytes,
            "time_window_start_ms": WINDOW_FROM_MS,
            "time_window_end_ms": WINDOW_TO_MS,
            "steps": list(self.steps),
            "topics": [
                {
                    "topic": topic.topic,
                    "partitions": topic.partitions,
                    "produced": topic.produced,
                    "backed_up": topic.backed_up,
                    "restored": topic.restored,
                    "restored_window": topic.restored_window,
                    "verified": topic.verified,
                }
                for topic in self.topics
            ],
        }


def run_demo(*, directory: Path | None, progress: ProgressSink | None, stop: StopSource) -> DemoReport:
    """Produce, back up, restore whole and for a window, compare.

    Args:
        directory: where the backup stays; None keeps it only for the demo's time.
        progress: shows how it goes, or None.
        stop: ends it early.
    """
    begun = SYSTEM_CLOCK.monotonic()
    load_library()
    with _folder(directory) as folder, _cluster() as servers:
        settings = ClientSettings(bootstrap_servers=(servers,))
        produced = _make_records()
        _produce(settings, produced)
        common: dict[str, object] = {"backup_id": BACKUP_ID, "storage.url": str(folder)}
        backup = run_backup(
            load_config(
                None,
                overrides={**common, "source.bootstrap_servers": servers, "source.topics.include": list(TOPICS)},
                environ={},
                mode="backup",
            ),
            dry_run=False,
            progress=progress,
            stop=stop,
        ).to_document()
        _restore(common, servers, "restored", {}, progress, stop)
        _restore(
            common,
            servers,
            "window",
            {"restore.time_window_start": str(WINDOW_FROM_MS), "restore.time_window_end": str(WINDOW_TO_MS)},
            progress,
            stop,
        )
        restored = read_topics(
            settings,
            {f"{prefix}-{topic}": count for topic, count in TOPICS.items() for prefix in ("restored", "window")},
            deadline_s=READ_DEADLINE_S,
        )
        topics = tuple(
            _compare(topic, count, produced, restored, backup["topics"]) for topic, count in sorted(TOPICS.items())
        )
        steps = (
            f"Started a Kafka broker inside this process at {servers} (librdkafka's mock cluster).",
            f"Produced {sum(map(len, produced.values()))} records with keys, headers, tombstones and timestamps.",
            f"Backed them up: kbr backup -b {servers} --storage {folder} --backup-id {BACKUP_ID} -t '*'",
            "Restored all of them to topics named restored-…: kbr restore … --topic-map orders=restored-orders …",
            "Restored ten minutes of them to topics named window-…: kbr restore … --from-timestamp … --to-timestamp …",
            "Read everything back with another consumer and compared record by record.",
        )
        return DemoReport(
            directory=str(folder) if directory is not None else "",
            duration_s=SYSTEM_CLOCK.monotonic() - begun,
            raw_bytes=int(backup["totals"]["raw_bytes"]),
            stored_bytes=int(backup["totals"]["stored_bytes"]),
            steps=steps,
            topics=topics,
        )


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="kbr-demo-") as name:
        yield Path(name)


@contextmanager
def _cluster() -> Iterator[str]:
    cluster = MockCluster(brokers=1)
    try:
        for topic, partitions in TOPICS.items():
            for name in (topic, f"restored-{topic}", f"window-{topic}"):
                # the mock cluster answers no CreateTopics
                cluster.create_topic(name, partitions=partitions)
        yield cluster.bootstrap_servers
    finally:
        cluster.close()


def _make_records() -> Records:
    """A small shop: the same records every time."""
    source = random.Random(7)  # noqa: S311  (data, not a secret)
    cities = ("Lagos", "Lima", "Oslo", "Osaka", "Pune", "Quito")
    found: Records = {}
    for topic, partitions in TOPICS.items():
        for number in range(partitions):
            records = []
            for offset in range(RECORDS_PER_PARTITION):
                customer = source.randrange(500)
                value: bytes | None = json.dumps(
                    {
                        "id": f"{topic}-{number}-{offset}",
                        "customer": customer,
                        "city": source.choice(cities),
                        "amount": round(source.uniform(1, 900), 2),
                    }
                ).encode()
                if topic == "customers" and source.random() < 0.1:
                    value = None  # a tombstone
                headers: tuple[tuple[bytes, bytes | None], ...] = ()
                if topic != "customers":
                    headers = ((b"trace", source.randbytes(8)), (b"retry", None), (b"retry", b""))
                # now and then a record is late
                timestamp = FIRST_TIMESTAMP_MS + offset * 1000 - (source.randrange(60_000) if offset % 50 == 0 else 0)
                records.append(
                    Record(
                        offset, timestamp, TimestampType.CREATE_TIME.value, f"customer-{customer}".encode(), value, headers
                    )
                )
            found[TopicPartition(topic, number)] = records
    return found


def _produce(settings: ClientSettings, records: Records) -> None:
    options = SinkOptions(
        memory_bytes=32 << 20, compression="none", zero_timestamp_as=0, original_offset_header=b"", batch_bytes=1_000_000
    )
    with BlockSink(settings, options, on_client_message=lambda _message: None) as sink:
        for partition, some in records.items():
            sink.send_whole(partition, encode_block(some), RecordWindow())
        while sink.open_count:
            sink.poll(100)


def _restore(
    common: Mapping[str, object],
    servers: str,
    prefix: str,
    more: Mapping[str, object],
    progress: ProgressSink | None,
    stop: StopSource,
) -> None:
    mapping = {topic: f"{prefix}-{topic}" for topic in TOPICS}
    config = load_config(
        None,
        overrides={**common, "target.bootstrap_servers": servers, "restore.topic_mapping": mapping, **more},
        environ={},
        mode="restore",
    )
    run_restore(config, dry_run=False, progress=progress, stop=stop)


def _compare(
    topic: str, partitions: int, produced: Records, restored: Records, backed_up: list[dict[str, Any]]
) -> DemoTopic:
    verified = True
    counts = {"whole": 0, "window": 0}
    for number in range(partitions):
        expected = produced[TopicPartition(topic, number)]
        inside = [record for record in expected if WINDOW_FROM_MS <= record.timestamp <= WINDOW_TO_MS]
        whole = restored[TopicPartition(f"restored-{topic}", number)]
        window = restored[TopicPartition(f"window-{topic}", number)]
        counts["whole"] += len(whole)
        counts["window"] += len(window)
        verified = verified and _same(whole, expected) and _same(window, inside)
    return DemoTopic(
        topic=topic,
        partitions=partitions,
        produced=sum(len(produced[TopicPartition(topic, number)]) for number in range(partitions)),
        backed_up=sum(int(one["records"]) for one in backed_up if one["topic"] == topic),
        restored=counts["whole"],
        restored_window=counts["window"],
        verified=verified,
    )


def _same(found: list[Record], expected: list[Record]) -> bool:
    """Everything but the offsets, which a restore gives anew."""
    return [record[1:] for record in found] == [record[1:] for record in expected]
