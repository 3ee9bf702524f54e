"""kbr killed at random: any of its processes, at any moment, again and again; in the end everything is identical.

    pytest tests/faults/test_random_kills.py              20 kills, two minutes
    pytest tests/faults/test_random_kills.py --kills 200  the long run

A case's name is its seed: ``-k 'backup-folder-3'`` (with the same ``--kills``) kills the same again. Kills are shared
evenly among supervisor, worker, forkserver and the whole tree, and among one-shot backup, continuous backup under
live load, and restore. A run that hangs fails the case, and so does a success over anything that is not identical.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.archive import FolderObjects, Objects, Place, S3Objects
from tests.support.checker import LiveChecker, Truth, Watch, check_backup, check_target, read_truth
from tests.support.cli import run_kbr
from tests.support.kafka import KafkaHarness
from tests.support.process_tree import ROLES, KbrRun, Kill
from tests.support.waiting import wait_until

BASE_MS = 1_714_564_800_000
#: How long a run may take after its kill, seconds: workers are restarted with pauses.
RUN_DEADLINE_S = 90.0
#: Starting takes about this long, and the rate limit makes the rest last as long, seconds; one kill in four falls
#: into the start, before there is a worker.
START_S, WORK_S = 0.8, 2.5
#: From SIGTERM to the end, seconds: workers have 30 (kbr.app.wiring.STOP_TIMEOUT_S).
STOP_DEADLINE_S = 40.0
KINDS = ("backup", "continuous", "restore")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many cases of each kind as give the kills that were asked for."""
    kind = metafunc.function.__name__.removeprefix("test_").partition("_")[0]
    if "plan" not in metafunc.fixturenames:
        return
    wanted = -(-metafunc.config.getoption("--kills") // len(KINDS))
    plans: list[Plan] = []
    while sum(len(plan.kills) for plan in plans) < wanted:
        plans.append(Plan.of(kind, len(plans), wanted - sum(len(plan.kills) for plan in plans)))
    metafunc.parametrize("plan", plans, ids=str)


@dataclass(frozen=True)
class Plan:
    """One case: whom to kill, and when, in which run; the run after the last is left alone."""

    kind: str
    store: str
    seed: int
    kills: tuple[Kill, ...]

    @classmethod
    def of(cls, kind: str, seed: int, at_most: int) -> Plan:
        """The case of a seed."""
        source = random.Random(f"{kind} {seed}")
        count = min(at_most, source.choice((2, 3, 4)))
        first_role = source.randrange(len(ROLES)) if seed else KINDS.index(kind)
        kills = tuple(
            _some_kill(ROLES[(first_role + number) % len(ROLES)], source) for number in range(count)
        )
        return cls(kind, "s3" if seed % 4 == 1 else "folder", seed, kills)

    def __str__(self) -> str:
        return f"{self.kind}-{self.store}-{self.seed}"

    @property
    def story(self) -> str:
        """For the message of a failure."""
        return f"{self}: kills: {', '.join(map(str, self.kills))}"


def _some_kill(role: str, source: random.Random) -> Kill:
    at_work = role in ("worker", "forkserver") or source.random() < 2 / 3
    return Kill(role, source.uniform(0.0, WORK_S if at_work else START_S), at_work)


@dataclass(frozen=True)
class Shelf:
    """Where a case keeps its backup."""

    url: str
    objects: Objects
    env: dict[str, str]


@pytest.fixture
def shelf(plan: Plan, tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    if plan.store == "folder":
        return Shelf(str(tmp_path / "store"), FolderObjects(tmp_path / "store"), {})
    s3 = request.getfixturevalue("s3")
    bucket = s3.make_bucket()
    return Shelf(f"s3://{bucket}", S3Objects(s3, bucket), s3.env)


# -- what is backed up --------------------------------------------------------------------


def _fill(kafka: KafkaHarness, topic: str, partitions: int, *, transactions: int, per_transaction: int, seed: int) -> None:
    writer = LoadWriter(kafka, topic, partitions, per_transaction=per_transaction, seed=seed)
    for _ in range(transactions):
        writer.write()


class LoadWriter:
    """Writes transactions to a topic, every fourth of which is aborted."""

    def __init__(self, kafka: KafkaHarness, topic: str, partitions: int, *, per_transaction: int, seed: int) -> None:
        self._source = random.Random(seed)
        self._topic = topic
        self._partitions = partitions
        self._per_transaction = per_transaction
        self._count = 0
        self._transactions = 0
        self._producer = Producer(
            {"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topic}-writer", "linger.ms": 5, "log_level": 0}
        )
        self._producer.init_transactions(30)

    def write(self) -> None:
        """One transaction."""
        self._producer.begin_transaction()
        for _ in range(self._per_transaction):
            number = self._count
            self._count += 1
            self._producer.produce(
                self._topic,
                partition=self._source.randrange(self._partitions),
                key=None if number % 11 == 0 else b"key %d" % number,
                value=None if number % 17 == 0 else b"%d " % number + self._source.randbytes(self._source.randrange(900)),
                headers=[("h", None), ("h", b""), ("n", b"%d" % number)] if number % 5 == 0 else None,
                timestamp=BASE_MS + number,
            )
            self._producer.poll(0)
        self._producer.flush(30)  # what is aborted is to reach the log
        self._transactions += 1
        if self._transactions % 4 == 0:
            self._producer.abort_transaction(30)
        else:
            self._producer.commit_transaction(30)


class Load:
    """A LoadWriter in a thread; a context manager. After it, nothing is written any more."""

    def __init__(self, writer: LoadWriter, *, pause_s: float) -> None:
        self._writer = writer
        self._pause_s = pause_s
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join(60)
        if self._error is not None and exc_info[0] is None:
            raise self._error

    def _loop(self) -> None:
        try:
            while not self._over.wait(self._pause_s):
                self._writer.write()
        except BaseException as error:  # raised again where the load ends
            self._error = error


@dataclass(frozen=True)
class Source:
    """Topics that stay as they are."""

    topics: tuple[str, ...]
    truth: Truth


@pytest.fixture(scope="module")
def source(kafka: KafkaHarness) -> Source:
    """Two topics with transactions, about 3 MB: two seconds at 1.5 MB/s."""
    topics = []
    for number, partitions in enumerate((4, 2)):
        topic = kafka.create_topic(kafka.topic_name("killed"), partitions)
        _fill(kafka, topic, partitions, transactions=16, per_transaction=280, seed=number)
        topics.append(topic)
    return Source(tuple(topics), read_truth(kafka, topics))


#: Small segments and many checkpoints: many moments that matter.
SMALL = (
    "--set", "backup.segment_max_bytes=64KiB",
    "--set", "backup.segment_max_interval_ms=1000",
    "--set", "backup.checkpoint_interval_ms=300",
)  # fmt: skip


def _backup_arguments(kafka: KafkaHarness, shelf: Shelf, topics: Sequence[str], *more: str) -> list[str]:
    chosen = [word for topic in topics for word in ("--topic", topic)]
    return ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", shelf.url, *chosen, *SMALL, *more]


def _run_killed(plan: Plan, arguments: Sequence[str], shelf: Shelf) -> None:
    """The plan's kills, each in a run of its own; a run that lives on is waited for."""
    source = random.Random(plan.seed)
    for kill in plan.kills:
        with KbrRun(*arguments, env=shelf.env) as run:
            run.strike(kill, source)
            code = run.wait(RUN_DEADLINE_S)
            assert code in (0, 1, 3, 5, -9), f"{plan.story}: after {kill}: exit {code}: {run.output}"


def _run_whole(plan: Plan, arguments: Sequence[str], shelf: Shelf) -> None:
    done = run_kbr(*arguments, env=shelf.env)
    assert done.returncode == 0, f"{plan.story}: exit {done.returncode} without a kill: {done.stderr[-3000:]}"


# -- the tests ----------------------------------------------------------------------------


@pytest.mark.compatibility(row="filesystem", column="SIGKILL and resume")
@pytest.mark.fault("P1", "any process killed at random, one-shot, on a folder and S3", promise=1)
@pytest.mark.fault("P2", "all are gone within 5 s, at any moment of a backup", promise=1)
@pytest.mark.timeout(400)
def test_backup_killed_at_random_is_identical_in_the_end(
    kafka: KafkaHarness, source: Source, shelf: Shelf, plan: Plan
) -> None:
    arguments = _backup_arguments(kafka, shelf, source.topics)
    with Watch(LiveChecker(shelf.objects, "b"), interval_s=0.5) as watch:
        _run_killed(plan, [*arguments, "--rate-limit", "1.5MB/s"], shelf)
        _run_whole(plan, arguments, shelf)
    assert not watch.anomalies, f"{plan.story}: while it ran: {watch.anomalies[0]}"
    report = check_backup(source.truth, shelf.objects, "b")
    assert not report.anomalies, f"{plan.story}:\n{report}"


@pytest.mark.fault("P1", "any process killed at random, continuous under load, on a folder and S3", promise=1)
@pytest.mark.fault("K5", "transactions of which some are aborted, while a continuous backup is killed again and again", promise=3)
@pytest.mark.timeout(400)
def test_continuous_backup_killed_at_random_under_load_is_identical_in_the_end(
    kafka: KafkaHarness, shelf: Shelf, plan: Plan
) -> None:
    topic = kafka.create_topic(kafka.topic_name("live"), 3)
    arguments = _backup_arguments(kafka, shelf, [topic], "--continuous")
    writer = LoadWriter(kafka, topic, 3, per_transaction=40, seed=plan.seed)
    source = random.Random(plan.seed)
    with Watch(LiveChecker(shelf.objects, "b", _end_of(kafka)), interval_s=0.5) as watch:
        with Load(writer, pause_s=0.1):
            for kill in plan.kills:
                with KbrRun(*arguments, env=shelf.env) as run:
                    assert run.strike(kill, source), f"{plan.story}: it ended by itself: {run.output}"
                    if kill.role in ("worker", "forkserver"):
                        _come_and_stop(plan, kafka, shelf, run, topic)  # the others go on, and the dead one's work, too
        with KbrRun(*arguments, env=shelf.env) as run:
            _come_and_stop(plan, kafka, shelf, run, topic)
    assert not watch.anomalies, f"{plan.story}: while it ran: {watch.anomalies[0]}"
    report = check_backup(read_truth(kafka, [topic]), shelf.objects, "b")
    assert not report.anomalies, f"{plan.story}:\n{report}"


@pytest.mark.fault("R1", "any process killed at random, on a folder and S3", promise=5)
@pytest.mark.timeout(400)
def test_restore_killed_at_random_is_identical_in_the_end(
    kafka: KafkaHarness, source: Source, shelf: Shelf, plan: Plan
) -> None:
    _run_whole(plan, _backup_arguments(kafka, shelf, source.topics), shelf)
    targets = {topic: f"{topic}-restored-{plan}" for topic in source.topics}
    mapping = [word for topic, target in targets.items() for word in ("--topic-map", f"{topic}={target}")]
    arguments = ["restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", shelf.url, *mapping]
    _run_killed(plan, [*arguments, "--rate-limit", "1.5MB/s"], shelf)
    _run_whole(plan, arguments, shelf)
    found = read_truth(kafka, targets.values()).committed
    places = {(topic, number): (targets[topic], number) for topic, number in source.truth.committed}
    report = check_target(source.truth, found, places)
    assert not report.anomalies, f"{plan.story}:\n{report}"


def _come_and_stop(plan: Plan, kafka: KafkaHarness, shelf: Shelf, run: KbrRun, topic: str) -> None:
    """Wait until a continuous backup has all that there is now, and stop it as a service manager does."""
    _wait_for_all(shelf, run, _positions(kafka, topic, 3))
    run.terminate()
    code = run.wait(STOP_DEADLINE_S)
    assert code == 0, f"{plan.story}: exit {code} after SIGTERM: {run.output}"


def _positions(kafka: KafkaHarness, topic: str, partitions: int) -> dict[Place, int]:
    """One past the last committed record of each partition, as a plain consumer sees it now."""
    with _consumer(kafka) as consumer:
        return {
            (topic, number): consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)[1]
            for number in range(partitions)
        }


def _end_of(kafka: KafkaHarness) -> Callable[[Place], int]:
    def end_of(place: Place) -> int:
        with _consumer(kafka) as consumer:
            return int(consumer.get_watermark_offsets(TopicPartition(*place), timeout=20)[1])

    return end_of


class _consumer:  # noqa: N801
    """A consumer that is closed."""

    def __init__(self, kafka: KafkaHarness) -> None:
        self._consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "watermarks"})

    def __enter__(self) -> Consumer:
        return self._consumer

    def __exit__(self, *exc_info: object) -> None:
        self._consumer.close()


def _wait_for_all(shelf: Shelf, run: KbrRun, ends: dict[Place, int]) -> None:
    """Until the manifest has come to these ends."""

    def arrived() -> bool:
        assert not run.is_over, f"the continuous backup ended: {run.output}"
        manifest = json.loads(shelf.objects.get("b/manifest.json") or b'{"topics": []}')
        reached = {
            (topic["name"], one["partition"]): one["next_offset"]
            for topic in manifest["topics"]
            for one in topic["partitions"]
        }
        return all(reached.get(place, 0) >= end for place, end in ends.items())

    wait_until(arrived, deadline_s=RUN_DEADLINE_S, what=f"the backup to come to {ends}")
