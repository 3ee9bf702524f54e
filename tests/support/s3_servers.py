"""More real S3 servers on loopback, for tests and by hand: Ceph's RGW and SeaweedFS, beside versitygw (servers.py).

Standard library only. Ceph's programs are the system's (Debian: radosgw ceph-mon ceph-osd), SeaweedFS is built
once into .cache/. Each listens on 127.0.0.1 alone and keeps all its data in the folder it is given.
"""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from email.utils import formatdate
from functools import lru_cache
from http.client import HTTPConnection
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from .servers import (
    CACHE,
    S3_ACCESS_KEY,
    S3_SECRET_KEY,
    Process,
    S3Server,
    ServerError,
    _filling,
    _record,
    _run,
    recorded,
    versitygw_binary,
)

__all__ = ["KINDS", "CephServer", "SeaweedServer", "ceph_label", "listening", "server_in_folder"]

#: Its releases have no version that Go takes for one: 3.39.
SEAWEEDFS_VERSION = "v0.0.0-20230109022022-51d4a4b28d0e"
SEAWEEDFS_LABEL = "SeaweedFS 3.39"
#: What Ceph is run by. Each comes with one of Debian's packages.
CEPH_PROGRAMS = {
    "radosgw": "radosgw",
    "radosgw-admin": "radosgw",
    "ceph": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
}
#: The object store's memory: more than all tests together write.
CEPH_MEMORY_BYTES = 1 << 30


def seaweedfs_binary() -> Path:
    """SeaweedFS's program, built once from its Go module."""
    binary = CACHE / f"seaweedfs-{SEAWEEDFS_VERSION}" / "weed"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        raise ServerError("go is missing: install Go 1.21 or newer")
    with _filling(binary.parent), tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        if not binary.exists():
            # not "go install": its go.mod replaces modules, which that refuses
            Path(scratch, "go.mod").write_text(
                f"module build\n\ngo 1.21\n\nrequire github.com/seaweedfs/seaweedfs {SEAWEEDFS_VERSION}\n"
            )
            _run(
                [
                    go, "build", "-C", scratch, "-mod=mod", "-ldflags", "-s -w", "-o", f"{scratch}/weed",
                    "github.com/seaweedfs/seaweedfs/weed",
                ],
                env={**os.environ, "GOTOOLCHAIN": "auto", "GOFLAGS": ""},
            )  # fmt: skip
            Path(scratch, "weed").replace(binary)  # whole or not at all
    return binary


def check_ceph() -> None:
    """Raise ServerError where one of Ceph's programs is missing."""
    missing = {package for program, package in CEPH_PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(missing))
        raise ServerError(f"Ceph is missing: as root on Debian or Ubuntu, apt-get install {packages}")


@lru_cache(maxsize=1)
def ceph_label() -> str:
    """``Ceph RGW 16.2``: by the program that is installed."""
    check_ceph()
    said = subprocess.run(["radosgw", "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    major, minor = said.split()[2].split(".")[:2]
    return f"Ceph RGW {major}.{minor}"


class _S3Daemons:
    """A server of one or more processes, of which the last one speaks S3; ``PORTS`` neighbouring ports from ``port`` on."""

    PORTS: ClassVar[int] = 8
    DEFAULT_PORT: ClassVar[int]
    NAME: ClassVar[str]
    access_key = S3_ACCESS_KEY
    secret_key = S3_SECRET_KEY

    def __init__(self, folder: Path, *, port: int) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.processes: list[Process] = []

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, deadline_s: float = 90.0) -> None:
        """Start it and wait until it answers; again is fine, also after crash()."""
        there = recorded(self.folder).get("port", self.port)
        if there != self.port and any(process.running() for process in self.processes):
            raise ServerError(f"{self.folder} runs {self.NAME} already, at http://127.0.0.1:{there}; stop it first")
        _record(self.folder, {"port": self.port})
        self._start_processes(time.monotonic() + deadline_s)
        self._wait_until_up(time.monotonic() + deadline_s)

    def stop(self) -> None:
        """Stop it."""
        for process in reversed(self.processes):
            process.stop()

    def kill(self) -> None:
        """End it at once: what Ceph has in memory is gone."""
        for process in reversed(self.processes):
            process.kill()

    def crash(self) -> None:
        """SIGKILL to the processes that take writes and have their data elsewhere; start() brings them back."""
        raise NotImplementedError  # each kind of server has its own

    def running(self) -> bool:
        """Whether all of it runs."""
        return all(process.running() is not None for process in self.processes)

    def pids(self) -> list[int]:
        """Its processes that run."""
        return [pid for process in self.processes if (pid := process.running()) is not None]

    def make_bucket(self, name: str) -> None:
        """Make a bucket; one that is there already is fine."""
        with closing(self._connect()) as connection:
            self._put(connection, f"/{name}", b"", fine=(200, 409))

    def fill(self, bucket: str, keys: Sequence[str]) -> None:
        """Write many objects of one byte, past all libraries: those take milliseconds for each."""

        def write(some: Sequence[str]) -> None:
            with closing(self._connect()) as connection:
                for key in some:
                    self._put(connection, f"/{bucket}/{quote(key)}", b"x")

        with ThreadPoolExecutor(4) as writers:
            list(writers.map(write, [keys[start::4] for start in range(4)]))

    def _connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=30)

    def _put(self, connection: HTTPConnection, path: str, body: bytes, *, fine: Sequence[int] = (200,)) -> None:
        date = formatdate(usegmt=True)
        words = f"PUT\n\n\n{date}\n{path}"  # both know requests that are signed so (Signature Version 2)
        digest = hmac.new(self.secret_key.encode(), words.encode(), "sha1").digest()
        signature = f"AWS {self.access_key}:{base64.b64encode(digest).decode()}"
        connection.request("PUT", path, body, {"Date": date, "Authorization": signature})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status not in fine:
            raise ServerError(f"{self.NAME} answers PUT {path} with {answer.status}: {said[:300]!r}")

    def _start_processes(self, until: float) -> None:
        raise NotImplementedError  # each kind of server has its own

    def _wait_until_up(self, until: float) -> None:
        while not self._is_up():
            for process in self.processes:
                if process.running() is None:
                    raise ServerError(f"{process.name} ended at once:\n{process.tail()}")
            if time.monotonic() > until:
                raise ServerError(f"{self.NAME} does not answer in time:\n{self.processes[-1].tail()}")
            time.sleep(0.05)

    def _is_up(self) -> bool:
        try:
            with urlopen(self.endpoint_url, timeout=2):  # noqa: S310
                return True
        except HTTPError as error:
            return error.code < 500  # it answers; it only wants a signature
        except OSError:
            return False


class CephServer(_S3Daemons):
    """Ceph's RGW with a monitor and an OSD of its own, whose objects lie in memory.

    The programs stay in the foreground, so that each is known by its pid file.
    stop() saves the objects in the folder; crash() ends the RGW alone.
    """

    DEFAULT_PORT = 17480
    NAME = "Ceph"

    def __init__(self, folder: Path, *, port: int = DEFAULT_PORT) -> None:
        super().__init__(folder, port=port)
        self._mon, self._osd, self._rgw = self.processes = [
            Process(name, self.folder) for name in ("ceph-mon", "ceph-osd", "radosgw")
        ]

    @property
    def label(self) -> str:
        """Its name and version, for pages."""
        return ceph_label()

    def crash(self) -> None:
        self._rgw.kill()

    def _start_processes(self, until: float) -> None:
        check_ceph()
        conf = ["-c", str(self.folder / "ceph.conf")]
        is_new = not (self.folder / "made").exists()
        if is_new:
            self._make()
        self._start(self._mon, ["ceph-mon", *conf, "-f", "-i", "a"])
        if is_new:
            osd_id = str(uuid.uuid4())
            self._run_until(until, ["ceph", *conf, "osd", "new", osd_id])
            _run(["ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd_id])
        self._start_osd(until, ["ceph-osd", *conf, "-f", "-i", "0"])
        if is_new:
            keys = ["--access-key", self.access_key, "--secret", self.secret_key]
            _run(["timeout", "60", "radosgw-admin", *conf, "user", "create", "--uid", "kbr", "--display-name", "kbr", *keys])
            (self.folder / "made").touch()
        self._start(self._rgw, ["radosgw", *conf, "-f", "-n", "client.rgw"])

    def _start(self, process: Process, command: list[str]) -> None:
        process.start(command, port=self.port if process is self._rgw else 0)

    def _run_until(self, until: float, command: list[str]) -> None:
        """Run; again if need be: a monitor that has just begun takes some requests for another cluster's (EPERM, wrong fsid)."""
        while True:
            try:
                _run(["timeout", "30", *command])
                return
            except ServerError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _start_osd(self, until: float, command: list[str]) -> None:
        """Start it and wait until it serves; the same may happen to it, and then it ends."""
        if self._osd.running():
            return
        self._osd.log_file.touch()
        seen = self._osd.log_file.stat().st_size
        while b"state: booting -> active" not in self._osd.log_file.read_bytes()[seen:]:
            if time.monotonic() > until:
                raise ServerError(f"{self._osd.name} does not serve in time:\n{self._osd.tail()}")
            self._start(self._osd, command)
            time.sleep(0.05)

    def _make(self) -> None:
        """Configuration, keys and the monitor's data."""
        for name in ("mon", "osd", "rgw"):
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a start that did not come to its end
            (self.folder / name).mkdir(parents=True)
        conf, cluster_id = self.folder / "ceph.conf", str(uuid.uuid4())
        conf.write_text(self._config(cluster_id))
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")
        _run(["ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"])
        rights = [word for daemon in ("mon", "osd") for word in ("--cap", daemon, "allow *")]
        _run(["ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *rights])
        address = f"[v1:127.0.0.1:{self.port + 1}]"
        _run(["monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", cluster_id, monmap])
        _run(["ceph-mon", "-c", str(conf), "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring])

    def _config(self, cluster_id: str) -> str:
        return f"""[global]
fsid = {cluster_id}
mon_host = v1:127.0.0.1:{self.port + 1}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr2 = false
ms_bind_port_min = {self.port + 2}
ms_bind_port_max = {self.port + self.PORTS - 1}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_warn = 1
mon_data_avail_crit = 1
osd_objectstore = memstore
memstore_device_bytes = {CEPH_MEMORY_BYTES}
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
osd_fast_shutdown = false
osd_client_watch_timeout = 2
osd_default_notify_timeout = 2
run_dir = {self.folder}
pid_file =
admin_socket =
log_file =
log_to_stderr = true
mon_cluster_log_file = {self.folder}/cluster.log
mon_data = {self.folder}/mon
osd_data = {self.folder}/osd
rgw_data = {self.folder}/rgw
rgw_rados_pool_pg_num_min = 1
rgw_mp_lock_max_time = 10
rgw_frontends = beast endpoint=127.0.0.1:{self.port}

[client]
keyring = {self.folder}/keyring
"""


class SeaweedServer(_S3Daemons):
    """SeaweedFS: master, volume server, filer and S3 gateway. It takes If-None-Match and does not heed it.

    Not as "weed server", in one process: there the master waits 18 s for a leader, whatever its options say.
    """

    DEFAULT_PORT = 18333
    NAME = "SeaweedFS"
    label = SEAWEEDFS_LABEL

    def __init__(self, folder: Path, *, port: int = DEFAULT_PORT) -> None:
        super().__init__(folder, port=port)
        self._master, self._volume, self._filer, self._s3 = self.processes = [
            Process(f"weed-{name}", self.folder) for name in ("master", "volume", "filer", "s3")
        ]

    def crash(self) -> None:
        self._s3.kill()
        self._volume.kill()

    def _start_processes(self, until: float) -> None:
        for name in ("master", "volume", "filer"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(
            '{"identities": [{"name": "kbr", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": '
            f'[{{"accessKey": "{self.access_key}", "secretKey": "{self.secret_key}"}}]}}]}}\n'
        )
        master = f"127.0.0.1:{self.port + 2}.{self.port + 3}"
        self._start(
            self._master, 2, f"-mdir={self.folder}/master", "-raftHashicorp", "-electionTimeout=1s",
            "-heartbeatInterval=100ms", "-volumeSizeLimitMB=1024",
        )  # fmt: skip
        # each bucket has volumes of its own, of which some are made at once
        self._start(self._volume, 4, f"-mserver={master}", f"-dir={self.folder}/volume", "-max=1000", "-preStopSeconds=0")
        self._start(self._filer, 6, f"-master={master}", f"-defaultStoreDir={self.folder}/filer")
        filer = f"127.0.0.1:{self.port + 6}.{self.port + 7}"
        self._start(self._s3, 0, f"-filer={filer}", f"-config={config}")

    def _start(self, process: Process, port: int, *options: str) -> None:
        """With its HTTP port, counted from the server's, and gRPC's behind it (by default 10,000 higher)."""
        name = process.name.removeprefix("weed-")
        ports = [f"-port={self.port + port}", f"-port.grpc={self.port + port + 1}"]
        hosts = ["-ip.bind=127.0.0.1", *(["-ip=127.0.0.1"] if name != "s3" else [])]
        command = [str(seaweedfs_binary()), "-logtostderr", name, *hosts, *ports, *options]
        process.start(command, port=self.port + port)


#: By the name that scripts/s3 knows them by.
KINDS: dict[str, type[S3Server | CephServer | SeaweedServer]] = {
    "versitygw": S3Server,
    "ceph": CephServer,
    "seaweedfs": SeaweedServer,
}


def server_in_folder(
    folder: Path, *, kind: str | None = None, port: int | None = None
) -> S3Server | CephServer | SeaweedServer:
    """As asked for; else as last started there; else versitygw on its own port.

    Raises:
        ServerError: the folder holds the data of another kind.
    """
    note = folder / "kind"
    there = note.read_text().strip() if note.exists() else "versitygw" if recorded(folder) else ""
    if kind and there and there != kind:
        raise ServerError(f"{folder} holds the data of {there}, not of {kind}; name another folder or remove that one")
    chosen = kind or there or "versitygw"
    made = KINDS[chosen](folder, port=port or recorded(folder).get("port", KINDS[chosen].DEFAULT_PORT))
    if kind and not there:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{kind}\n")
    return made


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses at which a process waits for connections."""
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                host, port = fields[1].split(":")
                words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
                packed = struct.pack(f"={len(words)}I", *words)
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


if __name__ == "__main__":
    # scripts/setup: fetch and build now, so that no test waits for it
    try:
        versitygw_binary()
        seaweedfs_binary()
        check_ceph()
    except ServerError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
