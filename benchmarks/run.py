"""Runs scenarios: every engine as a whole process, in turns, several rounds, beside the floor of the same round."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s3fs

from benchmarks.digest import TopicDigest
from benchmarks.engines import Engine, Job, Place
from benchmarks.measure import Command, Measured, MeasureError, measure
from benchmarks.scenarios import Scenario
from benchmarks.topics import Topics, window_digest
from tests.support.servers import S3Server, free_port

__all__ = ["DEADLINE_S", "Bench"]

#: One process may take this long unless told otherwise, seconds.
DEADLINE_S = 1800.0
_BUCKET = "kbr-benchmark"
#: A folder of so many is removed at the end of a scenario.
_MANY_FILES = 500


@dataclass(slots=True)
class Bench:
    """A cluster, a folder, engines and a number of rounds.

    Attributes:
        servers: the cluster.
        folder: for backups and outputs; emptied behind each job.
        engines: in the order in which the first round takes them.
        check: compare what kbr restored first in each scenario with the source, record by record.
        deadline_s: one process may take this long.
        keep: a folder for the last round's backups, which would be removed otherwise.
    """

    servers: str
    folder: Path
    engines: Sequence[Engine]
    rounds: int
    check: bool = True
    deadline_s: float = DEADLINE_S
    keep: Path | None = None

    def run(self, scenario: Scenario) -> dict[str, Any]:
        """One scenario; the result as JSON has it."""
        topics = Topics(self.servers)
        topic = f"bench-{scenario.name}-{os.getpid()}"
        topics.create(topic, scenario.data)
        _say(f"{scenario.name}: {scenario.title}: making the data")
        source = topics.fill(topic, scenario.data)
        wanted = source if scenario.window_ms is None else window_digest(scenario.data, scenario.window_ms)
        engines = [one for one in self.engines if one.name == "kbr" or (scenario.peers and scenario.store == "folder")]
        result: dict[str, Any] = {
            "scenario": scenario.name,
            "title": scenario.title,
            "data": source.document(),
            "restored": wanted.document(),
            "floor": {"stored_with": list(scenario.stored_with), "sent_with": scenario.sent_with, "producer": "connected"},
            "engines": [one.name for one in engines],
            "rounds": [],
            "checked": {},
        }
        if scenario.rows:
            result["rows_stored_bytes"] = self._process("rows", self._floor_command("rows", topic))["stored_bytes"]
        with ExitStack() as stack:
            place = stack.enter_context(_store(scenario, self.folder))
            try:
                for number in range(self.rounds):
                    result["rounds"].append(
                        self._round(scenario, topics, topic, wanted, engines, place, number, result)
                    )
                    _say(f"{scenario.name}: round {number + 1} of {self.rounds} done")
            finally:
                topics.delete(topic)
                for left in self.folder.glob(f"{scenario.name}-*-*"):
                    shutil.rmtree(left, ignore_errors=True)
        return result

    def _round(
        self,
        scenario: Scenario,
        topics: Topics,
        topic: str,
        wanted: TopicDigest,
        engines: Sequence[Engine],
        place: Place,
        number: int,
        result: dict[str, Any],
    ) -> dict[str, Any]:
        figures: dict[str, Any] = {"floor": self._floor_of_backup(scenario, topic) if scenario.floor else {}}
        # who comes first in one round comes last in the next, so that nobody always finds warm caches
        turn = number % len(engines)
        for engine in [*engines[turn:], *engines[:turn]]:
            target = f"{topic}-{engine.name}-{number}"
            directory = self.folder / f"{scenario.name}-{engine.name}-{number}"
            job = Job(
                scenario=scenario,
                servers=self.servers,
                topic=topic,
                target=target,
                name=f"{scenario.name}-{engine.name}-{number}",
                directory=directory,
                place=place if place.settings else Place(url=str(directory)),
            )
            figures[engine.name] = self._job(engine, job, topics, wanted, result)
            if self.keep is not None and number == self.rounds - 1 and directory.exists():
                kept = self.keep / job.name
                shutil.rmtree(kept, ignore_errors=True)
                shutil.move(directory, kept)
            self._remove_soon(directory)
            place.clear()
        if scenario.floor:
            figures["floor"] |= self._floor_of_restore(scenario, topics, topic, f"{topic}-floor-{number}")
        return figures

    def _remove_soon(self, directory: Path) -> None:
        """At once, as several rounds of a GB each are more than some disks have; many files with the scenario.

        ext4 looks for a free inode past each that was deleted in the last minutes (fs/ext4/ialloc.c,
        recently_deleted): to make, write, sync and rename 1,000 files in new folders took 0.45 s, and 1.38 s where as
        many had just been removed. That would be measured.
        """
        if sum(1 for _ in directory.rglob("*")) < _MANY_FILES:
            shutil.rmtree(directory, ignore_errors=True)

    def _job(
        self, engine: Engine, job: Job, topics: Topics, wanted: TopicDigest, result: dict[str, Any]
    ) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        try:
            backup = measure(engine.backup(job), folder=self.folder / "output", deadline_s=self.deadline_s)
            figures["backup"] = {**backup.figures(), **_reported(backup), "stored_bytes": _stored(job, backup)}
            if engine.restore is not None:
                topics.create(job.target, job.scenario.data)
                restore = measure(engine.restore(job), folder=self.folder / "output", deadline_s=self.deadline_s)
                records = topics.records(job.target)
                figures["restore"] = {**restore.figures(), **_reported(restore), "records": records}
                if engine.exact and records != wanted.records:
                    raise SystemExit(f"{engine.name}: {records} of {wanted.records} records were restored")
                if self.check and engine.name not in result["checked"]:
                    result["checked"][engine.name] = self._differences(engine, job, topics, wanted)
        except MeasureError as error:
            if engine.exact:
                raise SystemExit(f"{engine.name}: {error}") from error
            # a peer that fails is a result too, and told as one
            figures["failed"] = str(error)[:500]
            _say(f"{job.scenario.name}: {engine.name} failed: {str(error)[:200]}")
        finally:
            topics.delete(job.target)
        return figures

    def _differences(self, engine: Engine, job: Job, topics: Topics, wanted: TopicDigest) -> list[str]:
        found = wanted.differences(topics.digest(job.target))
        if found and engine.exact:
            raise SystemExit(f"{engine.name}: what was restored differs in: {', '.join(found)}")
        return found

    def _floor_of_restore(self, scenario: Scenario, topics: Topics, topic: str, target: str) -> dict[str, float]:
        window = [str(end) for end in scenario.window_ms or ()]
        topics.create(target, scenario.data)
        try:
            floor = self._process(
                "produce", self._floor_command("produce", topic, target, scenario.sent_with, *window)
            )
        finally:
            topics.delete(target)
        return {"produce_wall_s": floor["wall_s"], "produce_cpu_s": floor["cpu_s"]}

    def _floor_of_backup(self, scenario: Scenario, topic: str) -> dict[str, float]:
        codec, level = scenario.stored_with
        consumed = self._process("consume", self._floor_command("consume", topic))
        compressed = self._process("compress", self._floor_command("compress", topic, codec, str(level)))
        floor = {
            "consume_cpu_s": consumed["cpu_s"],
            "compress_cpu_s": compressed["cpu_s"],
            "cpu_s": consumed["cpu_s"] + compressed["cpu_s"],
            "raw_bytes": compressed["raw_bytes"],
            "stored_bytes": compressed["stored_bytes"],
        }
        if scenario.plain_consumer:
            floor["plain_wall_s"] = self._process("plain", self._floor_command("plain", topic))["wall_s"]
        return floor

    def _floor_command(self, what: str, *arguments: str) -> Command:
        return Command(argv=[sys.executable, "-m", "benchmarks.floor", what, self.servers, *arguments])

    def _process(self, what: str, command: Command) -> Mapping[str, float]:
        try:
            done = measure(command, folder=self.folder / "output", deadline_s=self.deadline_s)
        except MeasureError as error:
            raise SystemExit(f"the floor ({what}) could not be measured: {error}") from error
        return dict(json.loads(done.stdout))


def _reported(done: Measured) -> dict[str, Any]:
    """What kbr's own document says that can't be seen from outside; nothing for others."""
    try:
        document = json.loads(done.stdout)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: document[name] for name in ("phases_s", "waited_s") if name in document}


def _stored(job: Job, backup: Measured) -> int:
    """What lies in the job's folder; of an S3 store, what kbr says."""
    if job.place.settings:
        return int(json.loads(backup.stdout)["totals"]["stored_bytes"])
    return sum(path.stat().st_size for path in job.directory.rglob("*") if path.is_file())


@contextmanager
def _store(scenario: Scenario, folder: Path) -> Iterator[Place]:
    if scenario.store == "folder":
        yield Place(url="")  # each job has a folder of its own
        return
    server = S3Server(folder / "s3", port=free_port())
    server.start()
    try:
        client = s3fs.S3FileSystem(
            key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint_url, skip_instance_cache=True
        )
        client.mkdir(_BUCKET)
        yield Place(
            url=f"s3://{_BUCKET}",
            settings={"storage.endpoint": server.endpoint_url},
            environment={"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key},
            clear=lambda: _empty(client),
        )
    finally:
        server.stop()


def _empty(client: s3fs.S3FileSystem) -> None:
    """Five rounds of a GB each are more than some disks have."""
    client.invalidate_cache()
    if keys := client.find(_BUCKET):
        client.rm(keys)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
