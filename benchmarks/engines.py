"""Who is measured: each engine as two commands, one that backs a topic up and one that puts it back."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Command
from benchmarks.scenarios import Scenario

__all__ = ["ENGINES", "Engine", "Job", "Place", "parse_peer"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where backups go: a folder, or an S3 server's bucket.

    Attributes:
        settings: of kbr, to get there; none for a folder.
        clear: removes every backup there, if the harness doesn't do it otherwise.
    """

    url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    clear: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One round's work of one engine.

    Attributes:
        target: an empty topic for the restore, with as many partitions as the source.
        name: unique in a run.
        directory: of this job alone; what is in it after the backup counts as stored.
    """

    scenario: Scenario
    servers: str
    topic: str
    target: str
    name: str
    directory: Path
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A way to back up and restore.

    Attributes:
        backup, restore: the commands; a restore may be None.
        version: as the result names it.
        missing: why it can't run here; empty if it can.
        exact: whether its restore has to be identical; others' differences are only told.
    """

    name: str
    backup: Callable[[Job], Command]
    restore: Callable[[Job], Command] | None
    version: Callable[[], str]
    missing: Callable[[], str] = lambda: ""
    exact: bool = False


# -- kbr ----------------------------------------------------------------------------------------


def _sets(*settings: Mapping[str, str]) -> list[str]:
    return [word for one in settings for key, value in one.items() for word in ("--set", f"{key}={value}")]


def _kbr_place(job: Job) -> list[str]:
    return ["-q", "-b", job.servers, "--backup-id", job.name, "--storage", job.place.url, "-o", "json"]


def _kbr_backup(job: Job) -> Command:
    sets = _sets(job.scenario.backup, job.place.settings)
    argv = [sys.executable, "-m", "kbr", "backup", *_kbr_place(job), "-t", job.topic, *sets]
    return Command(argv=argv, environment=job.place.environment)


def _kbr_restore(job: Job) -> Command:
    window = job.scenario.window_ms
    sets = _sets(job.scenario.restore, job.place.settings)
    times = [] if window is None else ["--from-timestamp", str(window[0]), "--to-timestamp", str(window[1])]
    argv = [
        sys.executable, "-m", "kbr", "restore", *_kbr_place(job), "--topic-map", f"{job.topic}={job.target}", *times, *sets
    ]  # fmt: skip
    return Command(argv=argv, environment=job.place.environment)


# -- a script as people write it ------------------------------------------------------------------


def _script(verb: str, name: str) -> Callable[[Job], Command]:
    def command(job: Job) -> Command:
        topic = job.topic if verb == "backup" else job.target
        return Command(argv=[sys.executable, str(_HERE / "peers" / name), verb, job.servers, topic, str(job.directory)])

    return command


# -- kcat -----------------------------------------------------------------------------------------

#: Of a record's parts in a line; a value that holds it or a line's end would break the format, which is kcat's own way.
_KEY_END = "\\x01"


def _kcat_backup(job: Job) -> Command:
    folder = shlex.quote(str(job.directory))
    argv = (
        f"set -o pipefail; mkdir -p {folder}; kcat -q -b {job.servers} -C -t {job.topic} -e -o beginning "
        f"-K '{_KEY_END}' | zstd -q -3 -o {folder}/records.zst"
    )
    return Command(argv=["bash", "-c", argv])


def _kcat_restore(job: Job) -> Command:
    folder = shlex.quote(str(job.directory))
    argv = (
        f"set -o pipefail; zstd -q -dc {folder}/records.zst | kcat -b {job.servers} -P -t {job.target} "
        f"-K '{_KEY_END}' -X enable.idempotence=true -X acks=all -z lz4 -X message.max.bytes=20000000 "
        "-X queue.buffering.max.messages=500000"
    )
    return Command(argv=["bash", "-c", argv])


def _kcat_missing() -> str:
    absent = [name for name in ("kcat", "zstd", "bash") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: apt-get install kcat zstd)" if absent else ""


def _kcat_version() -> str:
    lines = subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.split(" (")[0] for line in lines if line.startswith("Version")), "unknown")


# -- Kafka Connect --------------------------------------------------------------------------------


def _connect_missing() -> str:
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def _connect_version() -> str:
    from benchmarks.peers.connect_file import CONNECT_VERSION

    return f"{CONNECT_VERSION}, FileStream connectors, standalone; values only"


ENGINES: Mapping[str, Engine] = {
    one.name: one
    for one in (
        Engine(name="kbr", backup=_kbr_backup, restore=_kbr_restore, version=lambda: version("kbr"), exact=True),
        Engine(
            name="confluent-json",
            backup=_script("backup", "confluent_json.py"),
            restore=_script("restore", "confluent_json.py"),
            version=lambda: f"confluent-kafka {version('confluent-kafka')}, JSON lines, zstd 3",
        ),
        Engine(
            name="kcat-zstd",
            backup=_kcat_backup,
            restore=_kcat_restore,
            version=_kcat_version,
            missing=_kcat_missing,
        ),
        Engine(
            name="connect-file",
            backup=_script("backup", "connect_file.py"),
            restore=_script("restore", "connect_file.py"),
            version=_connect_version,
            missing=_connect_missing,
        ),
    )
}

#: What a peer's command may name.
PLACEHOLDERS = ("bootstrap_servers", "topic", "target", "directory", "records", "partitions", "scenario", "name")


def parse_peer(texts: Sequence[str]) -> list[Engine]:
    """Engines from ``NAME='COMMAND'`` and ``NAME:restore='COMMAND'``.

    Raises:
        SystemExit: one can't be read; the message says how it is written.
    """
    commands: dict[str, dict[str, str]] = {}
    for text in texts:
        left, separator, command = text.partition("=")
        name, _, verb = left.partition(":")
        if not separator or not name or not command or verb not in {"", "backup", "restore"}:
            raise SystemExit(f"--peer takes NAME='COMMAND' or NAME:restore='COMMAND', not {text!r}")
        if name in ENGINES:
            raise SystemExit(f"--peer {name}: there is an engine of that name; choose another")
        _check_placeholders(name, command)
        commands.setdefault(name, {})[verb or "backup"] = command
    return [_peer(name, found) for name, found in commands.items()]


def _check_placeholders(name: str, command: str) -> None:
    try:
        command.format(**dict.fromkeys(PLACEHOLDERS, "x"))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise SystemExit(
            f"--peer {name}: unknown placeholder or brace ({error}); known are "
            + ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            + "; a brace of your own is written twice"
        ) from error


def _peer(name: str, commands: Mapping[str, str]) -> Engine:
    if "backup" not in commands:
        raise SystemExit(f"--peer {name}:restore needs --peer {name}='COMMAND' for the backup too")

    def filled(command: str) -> Callable[[Job], Command]:
        def fill(job: Job) -> Command:
            job.directory.mkdir(parents=True, exist_ok=True)
            return Command(
                argv=command.format(
                    bootstrap_servers=job.servers,
                    topic=job.topic,
                    target=job.target,
                    directory=job.directory,
                    records=job.scenario.data.records,
                    partitions=job.scenario.data.partitions,
                    scenario=job.scenario.name,
                    name=job.name,
                )
            )

        return fill

    return Engine(
        name=name,
        backup=filled(commands["backup"]),
        restore=filled(commands["restore"]) if "restore" in commands else None,
        version=lambda: commands["backup"],
    )
