"""Kafka Connect's FileStream connectors, standalone: a topic's values as lines of a file, and back.

    python benchmarks/peers/connect_file.py backup SERVERS TOPIC FOLDER
    python benchmarks/peers/connect_file.py restore SERVERS TARGET FOLDER

Connect never ends by itself: it is ended once the file has as many lines, or the topic as many records, as it has to.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

CONNECT_VERSION = "4.1.0"
REPOSITORY = Path(__file__).resolve().parents[2]
#: Without any progress for so long, it is given up, seconds.
STALL_S = 120.0

_POM = f"""<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>connect-dist</artifactId>
<version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>{CONNECT_VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>connect-file</artifactId><version>{CONNECT_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""


def jars() -> Path:
    """Connect's jars, fetched once from Maven Central."""
    folder = REPOSITORY / ".cache" / f"connect-{CONNECT_VERSION}"
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies"]
        subprocess.run([*command, f"-DoutputDirectory={folder}"], check=True)
        (folder / ".complete").touch()
    return folder


def records_of(servers: str, topic: str) -> int:
    """How many records a topic has."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    count = 0
    for number in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
        count += end - first
    consumer.close()
    return count


class Lines:
    """Counts a growing file's lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.count = 0

    def __call__(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                while data := file.read(1 << 20):
                    self._position += len(data)
                    self.count += data.count(b"\n")
        return self.count


def properties(path: Path, values: dict[str, str]) -> str:
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return str(path)


def main(verb: str, servers: str, topic: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f"{folder.name}-{verb}-connect"  # not among what counts as stored
    scratch.mkdir(exist_ok=True)
    file = folder / "values.txt"
    string = "org.apache.kafka.connect.storage.StringConverter"
    worker = {
        "bootstrap.servers": servers,
        "key.converter": string,
        "value.converter": string,
        "offset.storage.file.filename": str(scratch / "offsets"),
        "listeners": "http://127.0.0.1:0",
        "plugin.path": str(jars()),
        "plugin.discovery": "service_load",
        "consumer.auto.offset.reset": "earliest",
        "producer.compression.type": "lz4",
    }
    connector = {"name": f"{topic}-{time.time_ns()}", "tasks.max": "1", "file": str(file)}
    if verb == "backup":
        wanted = records_of(servers, topic)
        look: Callable[[], int] = Lines(file)
        connector |= {"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "topics": topic}
    else:
        wanted = Lines(file)()
        connector |= {"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "topic": topic}
        connector |= {"batch.size": "10000"}
        look = partial(records_of, servers, topic)

    java = shutil.which("java")
    if java is None:
        raise SystemExit("java is missing")
    command = [java, "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars()}/*"]
    command += ["org.apache.kafka.connect.cli.ConnectStandalone", properties(scratch / "worker.properties", worker)]
    process = subprocess.Popen([*command, properties(scratch / "connector.properties", connector)])
    seen, moved_at = 0, time.monotonic()
    try:
        while seen < wanted:
            if process.poll() is not None:
                raise SystemExit(f"Connect ended with {process.returncode} at {seen} of {wanted} records")
            now = look()
            if now != seen:
                seen, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > STALL_S:
                raise SystemExit(f"Connect stands still at {seen} of {wanted} records")
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
