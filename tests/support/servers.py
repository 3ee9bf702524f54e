"""Real servers on loopback for tests and by hand: Apache Kafka (KRaft) and versitygw (S3).

Standard library only. What is downloaded lies in .cache/ of the checkout; a server's data in the folder it is
given. A server is known by its pid file and ended only if that process is still the one that was started.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
KAFKA_VERSION = "4.1.0"
VERSITYGW_VERSION = "v1.8.0"
S3_ACCESS_KEY = "testkey"
S3_SECRET_KEY = "testsecret"  # noqa: S105  (of a server on loopback that lives for a test)
CLUSTER_ID = "a2JyLXRlc3QtY2x1c3RlcjE"

#: Those that this process started itself, by pid: they stay zombies until somebody collects them.
_children: dict[int, subprocess.Popen[bytes]] = {}

_POM = f"""<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>kafka-dist</artifactId>
<version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""


class ServerError(RuntimeError):
    """A server did not start, or what it needs is missing."""


def free_port(count: int = 1) -> int:
    """The first of ``count`` neighbouring ports of 127.0.0.1 that nobody uses.

    They lie below the range that outgoing connections draw from, so that none of those can take one in between.
    """
    for _ in range(100):
        first = random.randrange(20_000, 32_000 - count)  # noqa: S311  (spreads runs, guards nothing)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise ServerError(f"no {count} neighbouring free ports between 20000 and 32000 on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # only a listener counts, not closed connections
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched once."""
    folder = CACHE / f"kafka-{KAFKA_VERSION}"
    complete = folder / ".complete"
    if complete.exists():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerError("mvn is missing: install maven (Debian: apt-get install maven default-jre-headless)")
    with _filling(folder):
        if not complete.exists():
            pom = folder / "pom.xml"
            pom.write_text(_POM)
            _run([maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"])
            complete.touch()
    return folder


def versitygw_binary() -> Path:
    """The versitygw program, built once from the Go module."""
    binary = CACHE / f"versitygw-{VERSITYGW_VERSION}" / "versitygw"
    return go_installed(binary, f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW_VERSION}")


def go_installed(binary: Path, package: str) -> Path:
    """A program, built once from a Go module's package at a version."""
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        raise ServerError("go is missing: install Go 1.21 or newer")
    with _filling(binary.parent), tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        if not binary.exists():
            _run(
                [go, "install", package],
                # auto: a Go older than the module asks for fetches the newer one as a module
                env={**os.environ, "GOBIN": scratch, "GOTOOLCHAIN": "auto", "GOFLAGS": ""},
            )
            Path(scratch, binary.name).replace(binary)  # whole or not at all: go copies it bit by bit
    return binary


@contextmanager
def _filling(folder: Path) -> Iterator[None]:
    """One process at a time fills a folder of the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ServerError(f"{' '.join(command[:3])} failed:\n{(done.stderr or done.stdout)[-3000:]}")


@dataclass(frozen=True)
class Process:
    """A server process that was started here, now or by an earlier command."""

    name: str
    folder: Path

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self, command: list[str], *, port: int, env: dict[str, str] | None = None) -> None:
        """Start it in a session of its own, unless it runs."""
        if self.running():
            return
        if not _is_free(port):
            raise ServerError(f"{self.name}: somebody else listens on 127.0.0.1:{port}; choose another port")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        _children[process.pid] = process
        self.pid_file.write_text(f"{process.pid} {_started_at(process.pid)}\n")
        # Popen returns before the kernel shows the new command line (seen empty after 115 of 300 starts), and a
        # server that is not known as ours would never be stopped
        until = time.monotonic() + 10
        while self.running() is None and process.poll() is None:
            if time.monotonic() > until:
                process.kill()
                raise ServerError(f"{self.name}: the command line of process {process.pid} does not name {self.folder}")
            time.sleep(0.002)

    def running(self) -> int | None:
        """Its pid, if it is alive and still the same process."""
        try:
            pid_text, started_at = self.pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        pid = int(pid_text)
        return pid if _started_at(pid) == started_at and self._is_mine(pid) else None

    def _is_mine(self, pid: int) -> bool:
        """Whether its command line names our folder: after a reboot pid and start might both occur again."""
        try:
            return os.fsencode(self.folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        pid = self.running()
        if pid is not None:
            with suppress(ProcessLookupError):  # it may end in between
                os.kill(pid, number)

    def stop(self, deadline_s: float = 30.0) -> None:
        """Ask it to end; insist after the deadline."""
        pid = self.running()
        if pid is not None:
            started_at = _started_at(pid)
            self.signal(signal.SIGTERM)
            if not _ends(pid, started_at, deadline_s):
                self.signal(signal.SIGKILL)
                if not _ends(pid, started_at, deadline_s):
                    raise ServerError(f"{self.name} (process {pid}) does not end")
        _collect()
        self.pid_file.unlink(missing_ok=True)

    def kill(self, deadline_s: float = 30.0) -> None:
        """End it at once, if it runs, and wait until it has ended."""
        pid = self.running()
        if pid is not None:
            started_at = _started_at(pid)
            self.signal(signal.SIGKILL)
            if not _ends(pid, started_at, deadline_s):
                raise ServerError(f"{self.name} (process {pid}) does not end")
        _collect()
        self.pid_file.unlink(missing_ok=True)

    def tail(self) -> str:
        """The end of what it wrote."""
        try:
            return self.log_file.read_text(errors="replace")[-2000:]
        except OSError:
            return ""


def _started_at(pid: int) -> str:
    """When a process began, in the kernel's ticks: with the pid, unique. Empty if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _has_threads(pid: int) -> bool:
    """Whether threads of a process live on: the first one is a zombie before the others have let go of its sockets."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] == "Z" and len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def _ends(pid: int, started_at: str, deadline_s: float) -> bool:
    """Wait for a process's end. Not by its command line: that is gone before a dying process is."""
    until = time.monotonic() + deadline_s
    while (_started_at(pid) == started_at and started_at) or _has_threads(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _collect() -> None:
    """Collect the children that have ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]


def recorded(folder: Path) -> dict[str, int]:
    """What the server of a folder was last started with; empty if none ever was."""
    try:
        return dict(json.loads((folder / "server.json").read_text()))
    except FileNotFoundError:
        return {}


def _record(folder: Path, facts: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "server.json.new"
    new.write_text(json.dumps(facts))
    new.replace(folder / "server.json")


#: No compiler that thinks long, no threads that collect garbage beside the program.
LIGHT_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class KafkaServer:
    """One to three brokers, each also a controller, on consecutive ports (then the controllers' ports).

    With ``proxied`` each has a second listener for clients that come through a proxy: it listens on the ports behind
    the controllers', and tells its clients that the brokers are at the ports behind those, where the proxy has to be.
    ``light`` ones start sooner and take less CPU time; they are slower at line rate, which benchmarks want.
    """

    def __init__(
        self, folder: Path, *, brokers: int = 1, port: int = 19092, proxied: bool = False, light: bool = False
    ) -> None:
        self.folder = folder.resolve()
        self.brokers = brokers
        self.port = port
        self.proxied = proxied
        self.light = light
        self.processes = [Process(f"kafka-{number}", self.folder) for number in range(1, brokers + 1)]

    @classmethod
    def in_folder(cls, folder: Path, *, brokers: int | None = None, port: int | None = None) -> KafkaServer:
        """As asked for; else as last started there; else one broker on 19092."""
        facts = {"brokers": 1, "port": 19092, **recorded(folder)}
        return cls(folder, brokers=brokers or facts["brokers"], port=port or facts["port"])

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"127.0.0.1:{self._port(number)}" for number in range(1, self.brokers + 1))

    @property
    def proxy_routes(self) -> dict[int, int]:
        """For a proxy: where it has to listen, and the port behind it, for each broker."""
        numbers = range(1, self.brokers + 1)
        return {self._proxy_port(number): self._proxied_port(number) for number in numbers}

    @property
    def proxied_bootstrap_servers(self) -> str:
        """For clients that come through the proxy."""
        return ",".join(f"127.0.0.1:{port}" for port in self.proxy_routes)

    def start(self, deadline_s: float = 90.0) -> None:
        """Start the brokers and wait until each of them tells clients of all."""
        jars = kafka_jars()
        self._check_what_is_there()
        _record(self.folder, {"brokers": self.brokers, "port": self.port})
        for number in range(1, self.brokers + 1):
            self.start_broker(number, jars)
        until = time.monotonic() + deadline_s
        for number, process in enumerate(self.processes, start=1):
            while not self._is_up(number):
                if process.running() is None:
                    raise ServerError(f"Kafka broker {number} ended at once:\n{process.tail()}")
                if time.monotonic() > until:
                    raise ServerError(f"Kafka broker {number} is not up after {deadline_s} s:\n{process.tail()}")
                time.sleep(0.1)

    def start_broker(self, number: int, jars: Path | None = None) -> None:
        """Start one broker; again is fine."""
        classpath = f"{jars or kafka_jars()}/*"
        java = shutil.which("java")
        if java is None:
            raise ServerError(
                "java is missing: install a Java 17 runtime (Debian: apt-get install default-jre-headless)"
            )
        data = self.folder / f"data-{number}"
        properties = self.folder / f"server-{number}.properties"
        self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text(self._properties(number, data))
        if not (data / "meta.properties").exists():
            _run([java, *LIGHT_JVM, "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)])
        self.processes[number - 1].start(
            [
                java,
                "-Xmx1g" if self.brokers == 1 else "-Xmx512m",
                *(LIGHT_JVM if self.light else ()),
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-cp",
                classpath,
                "kafka.Kafka",
                str(properties),
            ],
            port=self._port(number),
        )

    def stop(self) -> None:
        """Stop all brokers."""
        for process in self.processes:
            process.signal(signal.SIGTERM)
        for process in self.processes:
            process.stop()

    def running(self) -> bool:
        """Whether every broker runs."""
        return all(process.running() is not None for process in self.processes)

    def _check_what_is_there(self) -> None:
        there = KafkaServer.in_folder(self.folder)
        if not recorded(self.folder) or (there.brokers, there.port) == (self.brokers, self.port):
            return
        if any(process.running() for process in there.processes):
            raise ServerError(f"{self.folder} runs Kafka already, at {there.bootstrap_servers}; stop it first")
        if there.brokers != self.brokers:
            raise ServerError(
                f"{self.folder} holds the data of {there.brokers} broker(s), not of {self.brokers}; "
                "name another folder or remove that one"
            )

    def _port(self, number: int) -> int:
        return self.port + number - 1

    def _controller_port(self, number: int) -> int:
        return self.port + self.brokers + number - 1

    def _proxied_port(self, number: int) -> int:
        return self.port + 2 * self.brokers + number - 1

    def _proxy_port(self, number: int) -> int:
        return self.port + 3 * self.brokers + number - 1

    def _is_up(self, number: int) -> bool:
        try:
            return _registered_brokers(self._port(number)) == self.brokers
        except OSError:
            return False

    def _properties(self, number: int, data: Path) -> str:
        voters = ",".join(f"{one}@127.0.0.1:{self._controller_port(one)}" for one in range(1, self.brokers + 1))
        factor = self.brokers
        listeners = (
            f"PLAINTEXT://127.0.0.1:{self._port(number)},CONTROLLER://127.0.0.1:{self._controller_port(number)}"
        )
        advertised = f"PLAINTEXT://127.0.0.1:{self._port(number)}"
        if self.proxied:
            listeners += f",PROXIED://127.0.0.1:{self._proxied_port(number)}"
            advertised += f",PROXIED://127.0.0.1:{self._proxy_port(number)}"
        return "\n".join(
            [
                "process.roles=broker,controller",
                f"node.id={number}",
                f"controller.quorum.voters={voters}",
                f"listeners={listeners}",
                f"advertised.listeners={advertised}",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
                "controller.listener.names=CONTROLLER",
                "inter.broker.listener.name=PLAINTEXT",
                f"log.dirs={data}",
                "auto.create.topics.enable=false",
                # of several brokers, each coordinates some groups
                f"offsets.topic.num.partitions={self.brokers}",
                f"offsets.topic.replication.factor={factor}",
                "transaction.state.log.num.partitions=1",
                f"transaction.state.log.replication.factor={factor}",
                "transaction.state.log.min.isr=1",
                "transaction.max.timeout.ms=3600000",
                "transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
                "group.initial.rebalance.delay.ms=0",
                "log.cleaner.backoff.ms=200",
                "log.retention.check.interval.ms=1000",
                "log.initial.task.delay.ms=500",
                "log.segment.delete.delay.ms=500",
                "",
            ]
        )


def _registered_brokers(port: int) -> int:
    """How many brokers a broker names when asked as any client asks: a Metadata request, version 1, for no topic."""
    client = b"kbr-tests"
    request = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            start = answer.read(12)  # length, correlation id, how many brokers follow
    if len(start) < 12:
        raise ConnectionError(f"127.0.0.1:{port} closed the connection instead of answering")
    return int(struct.unpack(">iii", start)[2])


class S3Server:
    """versitygw over a folder; honours If-None-Match. With ``keeps_versions`` buckets may have them, and object lock."""

    DEFAULT_PORT = 17070
    NAME = "versitygw"
    label = f"versitygw {VERSITYGW_VERSION.removeprefix('v')}"
    access_key = S3_ACCESS_KEY
    secret_key = S3_SECRET_KEY

    def __init__(self, folder: Path, *, port: int = DEFAULT_PORT, keeps_versions: bool = False) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.keeps_versions = keeps_versions
        self.process = Process("versitygw", self.folder)

    @classmethod
    def in_folder(cls, folder: Path, *, port: int | None = None) -> S3Server:
        """As asked for; else as last started there; else on 17070."""
        return cls(folder, port=port or recorded(folder).get("port", cls.DEFAULT_PORT))

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, deadline_s: float = 30.0) -> None:
        """Start it and wait until it answers."""
        binary = versitygw_binary()
        there = S3Server.in_folder(self.folder)
        if there.running() and there.port != self.port:
            raise ServerError(f"{self.folder} runs versitygw already, at {there.endpoint_url}; stop it first")
        _record(self.folder, {"port": self.port})
        data = self.folder / "buckets"
        data.mkdir(parents=True, exist_ok=True)
        options = []
        if self.keeps_versions:
            versions = self.folder / "versions"
            versions.mkdir(exist_ok=True)
            options = ["--versioning-dir", str(versions)]
        self.process.start(
            [str(binary), "--port", f"127.0.0.1:{self.port}", "posix", *options, str(data)],
            port=self.port,
            env={"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key},
        )
        until = time.monotonic() + deadline_s
        while not self._is_up():
            if self.process.running() is None:
                raise ServerError(f"versitygw ended at once:\n{self.process.tail()}")
            if time.monotonic() > until:
                raise ServerError(f"versitygw does not answer after {deadline_s} s:\n{self.process.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    def crash(self) -> None:
        """SIGKILL; start() brings it back."""
        self.process.kill()

    def running(self) -> bool:
        """Whether it runs."""
        return self.process.running() is not None

    def pids(self) -> list[int]:
        """Its process, if it runs."""
        return [pid for pid in [self.process.running()] if pid is not None]

    def make_bucket(self, name: str) -> None:
        """Make a bucket: versitygw's posix backend takes any folder for one."""
        (self.folder / "buckets" / name).mkdir(exist_ok=True)

    def fill(self, bucket: str, keys: Sequence[str]) -> None:
        """Write many objects of one byte."""
        for key in keys:
            path = self.folder / "buckets" / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    def _is_up(self) -> bool:
        try:
            with urlopen(self.endpoint_url, timeout=1):  # noqa: S310  (loopback)
                return True
        except HTTPError:
            return True  # it answers; it only wants a signature
        except OSError:
            return False


if __name__ == "__main__":
    # scripts/setup: fetch and build now, so that no test waits for it
    try:
        kafka_jars()
        versitygw_binary()
    except ServerError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
