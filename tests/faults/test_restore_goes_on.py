"""Restores that are killed, disturbed and run again, on a real Kafka: every record once, in order, or a clear refusal."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from kbr.app.status import change_rate_limit
from kbr.format.documents import dump_manifest, load_manifest
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.model import PartitionStatus, RunStatus
from kbr.repository.restore_states import save_state
from kbr.restore.identity import restore_id_of
from kbr.restore.options import RestoreOptions
from kbr.storage import StorageOptions, open_store
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, Read, send
from tests.support.servers import KafkaServer, ServerError
from tests.support.waiting import wait_until

PARTITIONS = 4
RECORDS = 12_000
#: 17 MB take nearly a minute: whatever a test does to a restore falls inside, on a slow machine, too.
SLOWLY = "300kB/s"
BASE_MS = 1_714_564_800_000


class Place:
    """One source topic, backed up once; every test restores it to a topic of its own."""

    def __init__(self, kafka: KafkaHarness, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.source = kafka.create_topic(kafka.topic_name("going-on"), PARTITIONS)
        values = random.Random(5)
        send(
            kafka.producer(),
            self.source,
            (
                {
                    "partition": number % PARTITIONS,
                    "key": b"key-%d" % values.randrange(500),
                    "value": None if number % 50 == 0 else values.randbytes(700).hex().encode(),
                    "headers": [("h", b"%d" % number), ("h", None)] if number % 3 == 0 else None,
                    "timestamp": BASE_MS + number * 10,
                }
                for number in range(RECORDS)
            ),
        )
        run_kbr_json(
            "backup", "-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b", "-t", self.source,
            "--set", "backup.segment_max_bytes=1MiB",
        )  # fmt: skip
        self.records = kafka.read_all(self.source)
        (topic,) = load_manifest((folder / "b" / "manifest.json").read_bytes(), name="manifest").topics
        # several segments, and segments of several blocks: or a restore would have few places to go on from
        assert all(len(one.segments) > 1 and one.segments[0].block_count > 1 for one in topic.partitions)

    def copy(self, folder: Path) -> Path:
        """The backup without what restores have noted in it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("restores"))
        return folder

    def command(self, folder: Path, target: str, *more: str) -> list[str]:
        return [
            "restore", "-b", self.kafka.bootstrap, "--storage", str(folder), "--backup-id", "b",
            "--topic-map", f"{self.source}={target}", *more,
        ]  # fmt: skip

    def restore(self, folder: Path, target: str, *more: str, exit_code: int = 0) -> dict:
        return run_kbr_json(*self.command(folder, target, *more), exit_code=exit_code)

    def target(self) -> str:
        return self.kafka.topic_name("back")

    def count(self, target: str) -> int:
        return self.kafka.count(target)

    def assert_identical(self, target: str, *, times: int = 1) -> None:
        expected = [[one.exact for one in part] * times for part in self.records]
        found = self.kafka.read_all(target)
        assert [_exact(part) for part in found] == expected
        assert all([one.offset for one in part] == list(range(len(part))) for part in found)

    def rest(self, target: str) -> None:
        """Until nothing has come for two seconds: what a killed producer sent may still be on its way."""
        seen: list[tuple[float, int]] = []

        def still() -> bool:
            seen.append((time.monotonic(), self.count(target)))
            return any(count == seen[-1][1] and at < seen[-1][0] - 2 for at, count in seen)

        wait_until(still, deadline_s=30, what=f"the rest of {target}")

    def start_slowly(self, folder: Path, target: str, *more: str) -> subprocess.Popen[str]:
        """Running, with records in the target and most of them still to come, for nearly a minute."""
        before = self.count(target)
        process = start_kbr(*self.command(folder, target, *more, "--rate-limit", SLOWLY), "-o", "json")
        wait_until(lambda: self.count(target) > before + 200, deadline_s=60, what="the first records")
        assert process.poll() is None
        return process


def _let_go(process: subprocess.Popen[str]) -> None:
    """At full speed from now on."""
    change_rate_limit(str(process.pid), {"bytes_per_s": 0})


def _counts(kafka: KafkaHarness, topic: str) -> list[int]:
    """Offsets of each partition of a topic that is there: told by the broker, without reading."""
    numbers = sorted(kafka.admin.list_topics(topic, timeout=10).topics[topic].partitions)
    futures = kafka.admin.list_offsets({TopicPartition(topic, number): OffsetSpec.latest() for number in numbers})
    found = {place.partition: future.result(10).offset for place, future in futures.items()}
    return [found[number] for number in numbers]


def _exact(records: list[Read]) -> list[tuple[object, ...]]:
    return [one.exact for one in records]


def _descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            found.append((parent, int(entry.name)))
    tree, edge = [], [pid]
    while edge:
        edge = [child for parent, child in found if parent in edge]
        tree += edge
    return tree


def _workers(pid: int) -> list[int]:
    found = []
    for child in _descendants(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if b"forkserver" in command:
            found.append(child)
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end(process: subprocess.Popen[str]) -> None:
    for pid in [process.pid, *_descendants(process.pid)]:
        _kill(pid)
    process.communicate(timeout=30)


@pytest.fixture(scope="module")
def place(kafka: KafkaHarness, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(kafka, tmp_path_factory.mktemp("backup"))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3)]])
def test_a_restore_that_is_killed_again_and_again_ends_with_every_record_once(
    place: Place, tmp_path: Path, seed: int
) -> None:
    folder, target, chance = place.copy(tmp_path / "b"), place.target(), random.Random(seed)
    for _ in range(3):
        process = start_kbr(*place.command(folder, target, "--rate-limit", "3500kB/s"), "-o", "json")
        time.sleep(chance.uniform(0.3, 8.0))  # a random moment is the point: nothing is waited for
        if process.poll() is not None:
            process.communicate()
            break
        children = _descendants(process.pid)
        victim = chance.choice([process.pid, *children, -1])
        for pid in [process.pid, *children] if victim == -1 else [victim]:
            _kill(pid)
        if victim in (process.pid, -1):
            process.communicate(timeout=30)
        else:
            # a worker's death is the run's own business
            process.communicate(timeout=120)
            break
    report = place.restore(folder, target)
    assert report["status"] == "complete"
    assert report["totals"]["records"] + report["totals"]["already_there"] == RECORDS
    place.assert_identical(target)
    again = place.restore(folder, target)
    assert (again["totals"]["records"], again["totals"]["already_there"]) == (0, RECORDS)
    place.assert_identical(target)


def test_a_worker_that_dies_is_followed_by_another_and_no_record_comes_twice(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    process = place.start_slowly(folder, target, "--workers", "1", "-v")
    _kill(max(_workers(process.pid)))
    _let_go(process)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    report = json.loads(output)
    assert report["retries"] >= 1
    assert report["totals"]["records"] == RECORDS
    place.assert_identical(target)


def test_a_stopped_restore_goes_on_and_a_stop_between_two_tries_is_heard(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    process = place.start_slowly(folder, target)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    sent = json.loads(output)["totals"]["records"]
    process = place.start_slowly(folder, target, "--workers", "1")
    _kill(max(_workers(process.pid)))
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting until the target" in line:
            break
    process.terminate()
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    report = place.restore(folder, target)
    assert report["totals"]["already_there"] > sent
    place.assert_identical(target)


def test_a_foreign_record_is_named_and_nothing_is_sent(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    _end(place.start_slowly(folder, target))
    place.rest(target)
    there = _counts(place.kafka, target)
    # the one of which most is still to come
    number = max(range(PARTITIONS), key=lambda one: len(place.records[one]) - there[one])
    count = there[number]
    archived = place.records[number][count]
    foreign = {"partition": number, "key": archived.key, "value": b"not ours", "timestamp": archived.timestamp}
    send(place.kafka.producer(), target, [foreign])
    before = place.kafka.read_all(target)
    refused = run_kbr(*place.command(folder, target))
    assert refused.returncode == 13
    assert (
        f"target {target}[{number}] holds records that are not from this restore: its record at offset {count} is not the "
        f"backup's record at offset {archived.offset}: its value should be"
    ) in refused.stderr
    assert "--append does not help, as an earlier run of this restore has written into it" in refused.stderr
    assert place.kafka.read_all(target) == before


def test_a_foreign_record_in_the_middle_is_the_one_that_is_named(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.kafka.create_topic(place.target(), PARTITIONS)

    def message(one: Read, **more: object) -> dict[str, object]:
        return {
            "partition": 1, "key": one.key, "value": one.value, "headers": list(one.headers), "timestamp": one.timestamp, **more
        }  # fmt: skip

    ours = place.records[1][:1000]
    send(
        place.kafka.producer(),
        target,
        [message(one, **({"headers": [*one.headers, ("more", b"")]} if number == 333 else {})) for number, one in enumerate(ours)],
    )
    refused = run_kbr(*place.command(folder, target))
    assert refused.returncode == 13
    assert f"its record at offset 333 is not the backup's record at offset {ours[333].offset}" in refused.stderr
    assert "headers" in refused.stderr
    assert "it begins with 333 of the backup's records" in refused.stderr


def test_without_notes_everything_is_compared_and_the_restore_goes_on(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    _end(place.start_slowly(folder, target))
    shutil.rmtree(folder / "b" / "restores")
    report = place.restore(folder, target)
    assert report["totals"]["already_there"] > 0
    assert report["totals"]["records"] + report["totals"]["already_there"] == RECORDS
    place.assert_identical(target)


def test_a_store_that_may_only_be_read_gets_a_warning_and_the_restore_goes_on(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    # a file where the notes' folder would be: nothing can be written there, whoever runs this
    (folder / "b" / "restores").write_text("")
    process = place.start_slowly(folder, target)
    _end(process)
    report = place.restore(folder, target)
    assert any("can't be noted" in warning for warning in report["warnings"])
    assert report["totals"]["already_there"] > 0
    place.assert_identical(target)


def test_notes_that_cannot_be_read_are_an_error_and_never_a_fresh_start(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    _end(place.start_slowly(folder, target))
    place.rest(target)
    (state,) = (folder / "b" / "restores").glob("*/state.json")
    data, before = state.read_bytes(), place.count(target)
    for damaged in (data[:-20], data.replace(b"running", b"RUNNING"), b""):
        assert damaged != data
        state.write_bytes(damaged)
        refused = run_kbr(*place.command(folder, target))
        assert refused.returncode == 4
        assert "the restore's state" in refused.stderr
        assert "delete it" in refused.stderr
        assert place.count(target) == before
    state.write_bytes(data)
    place.restore(folder, target)
    place.assert_identical(target)


def test_a_topic_that_was_deleted_and_made_again_is_begun_anew(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    _end(place.start_slowly(folder, target))
    place.kafka.admin.delete_topics([target])[target].result(30)
    wait_until(lambda: not place.kafka.topic_exists(target), deadline_s=30, what="the topic's end")
    place.kafka.create_topic(target, PARTITIONS)
    report = place.restore(folder, target)
    assert (report["totals"]["records"], report["totals"]["already_there"]) == (RECORDS, 0)
    place.assert_identical(target)


def test_appending_goes_on_behind_what_was_there_and_once_done_appends_again(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.kafka.create_topic(place.target(), PARTITIONS)
    other = [{"partition": number % PARTITIONS, "value": b"other %d" % number} for number in range(40)]
    send(place.kafka.producer(), target, other)
    _end(place.start_slowly(folder, target, "--append"))
    report = place.restore(folder, target, "--append")
    assert 0 < report["totals"]["already_there"] < RECORDS
    expected = [_exact(part) for part in place.records]
    assert [_exact(part)[10:] for part in place.kafka.read_all(target)] == expected
    report = place.restore(folder, target)
    assert (report["totals"]["records"], report["totals"]["already_there"]) == (0, RECORDS)
    report = place.restore(folder, target, "--append")
    assert report["totals"]["records"] == RECORDS
    assert [_exact(part)[10:] for part in place.kafka.read_all(target)] == [part * 2 for part in expected]


def test_appended_records_that_are_gone_are_accepted_by_the_same_command_and_not_added_anew(
    place: Place, tmp_path: Path
) -> None:
    folder, target = place.copy(tmp_path / "b"), place.kafka.create_topic(place.target(), PARTITIONS)
    send(place.kafka.producer(), target, [{"partition": number % PARTITIONS, "value": b"other"} for number in range(40)])
    _end(place.start_slowly(folder, target, "--append"))
    begun = next(number for number, end in enumerate(_counts(place.kafka, target)) if end > 100)
    for future in place.kafka.admin.delete_records([TopicPartition(target, begun, 15)]).values():
        future.result(30)
    report = place.restore(folder, target, "--append", exit_code=3)
    assert report["totals"]["gone"] == 5
    assert "accept_cleanup" in next(iter(report["failures"].values()))
    report = place.restore(folder, target, "--append", "--set", "restore.accept_cleanup=true")
    assert (report["totals"]["records"], place.count(target)) == (0, RECORDS + 40)


def test_of_a_backup_that_has_grown_only_the_rest_is_sent(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    path = folder / "b" / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(_first_segments(whole))
    first = place.restore(folder, target)
    assert 0 < first["totals"]["records"] < RECORDS
    path.write_bytes(whole)
    planned = place.restore(folder, target, "--dry-run")
    assert planned["plan"]["records"] == RECORDS - first["totals"]["records"]
    second = place.restore(folder, target)
    assert second["totals"]["records"] == RECORDS - first["totals"]["records"]
    place.assert_identical(target)
    # and one that is older than what is there
    path.write_bytes(_first_segments(whole))
    refused = run_kbr(*place.command(folder, target))
    assert refused.returncode == 13
    assert "the backup's records end before its offset" in refused.stderr


def _first_segments(data: bytes) -> bytes:
    """The manifest as it was when each partition had one segment."""
    from dataclasses import replace

    manifest = load_manifest(data, name="manifest")
    (topic,) = manifest.topics
    partitions = []
    for one in topic.partitions:
        first = one.segments[:1]
        partitions.append(
            replace(
                one, segments=first, next_offset=first[-1].next_offset, record_count=first[-1].record_count,
                status=PartitionStatus.PARTIAL,
            )  # fmt: skip
        )
    return dump_manifest(
        replace(manifest, status=RunStatus.INTERRUPTED, topics=(replace(topic, partitions=tuple(partitions)),))
    )


def test_a_window_a_mapping_and_the_offset_header_survive_a_kill(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    start, end = BASE_MS + 11_111, BASE_MS + 99_999
    more = [
        "--from-timestamp", str(start), "--to-timestamp", str(end),
        "--partition-map", f"{place.source}:0=3", "--partition-map", f"{place.source}:3=0",
        "--set", "restore.include_original_offset_header=true",
    ]  # fmt: skip
    _end(place.start_slowly(folder, target, *more))
    report = place.restore(folder, target, *more)
    assert report["totals"]["already_there"] > 0
    found = place.kafka.read_all(target)
    for source, part in enumerate(place.records):
        there = found[{0: 3, 3: 0}.get(source, source)]
        wanted = [one for one in part if start <= one.timestamp <= end]
        assert [(one.key, one.value, one.timestamp) for one in there] == [(one.key, one.value, one.timestamp) for one in wanted]
        assert [one.headers[-1] for one in there] == [("x-original-offset", b"%d" % one.offset) for one in wanted]


def _disturb(place: Place, folder: Path, target: str) -> tuple[subprocess.Popen[str], int, int]:
    """A restore that goes on, and the partition and offset of a foreign record among its own."""
    process = place.start_slowly(folder, target)
    producer = place.kafka.producer(linger_ms=0)
    producer.list_topics(target, timeout=30)  # connected, so that its record is there at once
    number = max(range(PARTITIONS), key=_counts(place.kafka, target).__getitem__)
    sent: list[int] = []
    producer.produce(
        target, partition=number, value=b"in between", on_delivery=lambda error, message: sent.append(error or message.offset())
    )
    assert producer.flush(60) == 0
    (offset,) = sent
    return process, number, offset


def test_another_producer_during_the_restore_is_an_error_that_names_offsets(place: Place, tmp_path: Path) -> None:
    for attempt in range(5):
        folder, target = place.copy(tmp_path / f"b{attempt}"), place.target()
        process, number, offset = _disturb(place, folder, target)
        if 0 < offset < len(place.records[number]):
            break
        _end(process)  # the partition was over before
    else:
        raise AssertionError("no record came between the restore's")
    _let_go(process)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 3, errors
    report = json.loads(output)
    assert report["status"] == "incomplete"
    (message,) = report["failures"].values()
    assert list(report["failures"]) == [f"{place.source}[{number}]"]
    assert "another producer writes into it" in message
    found = place.kafka.read_all(target)
    for other in set(range(PARTITIONS)) - {number}:
        assert _exact(found[other]) == _exact(place.records[other])
    assert found[number][offset].value == b"in between"
    refused = run_kbr(*place.command(folder, target))
    assert refused.returncode == 13
    assert f"its record at offset {offset} is not the backup's" in refused.stderr
    # what the failed partition had acknowledged counts: no less than lies before the foreign record, no more than is there
    others = sum(len(place.records[other]) for other in set(range(PARTITIONS)) - {number})
    assert others + offset < report["totals"]["records"] <= others + len(found[number]) - 1
    assert report["totals"]["records_exact"] is False


def test_restored_records_that_are_gone_are_told_by_the_next_run(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    place.restore(folder, target)
    removed = {TopicPartition(target, 0, 100), TopicPartition(target, 2, len(place.records[2]))}
    for future in place.kafka.admin.delete_records(list(removed)).values():
        future.result(30)
    gone = 100 + len(place.records[2])
    report = place.restore(folder, target, exit_code=3)
    assert (report["status"], report["totals"]["records"]) == ("incomplete", 0)
    assert (report["totals"]["already_there"], report["totals"]["gone"]) == (RECORDS - gone, gone)
    assert list(report["failures"]) == [f"{place.source}[0]", f"{place.source}[2]"]
    assert f"target {target}[0]: 100 restored records are no longer there (offsets 0 to 99)" in report["failures"][f"{place.source}[0]"]
    planned = place.restore(folder, target, "--dry-run")
    assert planned["totals"]["gone"] == gone
    assert len([one for one in planned["warnings"] if "no longer there" in one]) == 2
    accepted = place.restore(folder, target, "--set", "restore.accept_cleanup=true")
    assert (accepted["status"], accepted["totals"]["gone"]) == ("complete", gone)
    assert len([one for one in accepted["warnings"] if "no longer there" in one]) == 2


def test_records_that_go_while_the_restore_runs_are_told_by_it(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    process = place.start_slowly(folder, target)
    counts = _counts(place.kafka, target)
    most = counts.index(max(counts))
    gone = counts[most] // 2
    (deleted,) = place.kafka.admin.delete_records([TopicPartition(target, most, gone)]).values()
    deleted.result(30)
    _let_go(process)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 3, errors
    report = json.loads(output)
    assert (report["totals"]["records"], report["totals"]["gone"]) == (RECORDS, gone)
    assert list(report["failures"]) == [f"{place.source}[{most}]"]


# -- configs that wait for the end --------------------------------------------------------


@pytest.fixture(scope="module")
def stamped(kafka: KafkaHarness, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[list[Read]]]:
    """A source whose timestamps are the broker's."""
    source = kafka.create_topic(kafka.topic_name("stamped"), 1, {"message.timestamp.type": "LogAppendTime"})
    send(kafka.producer(), source, [{"value": b"v" * 500, "key": b"%d" % number} for number in range(3000)])
    folder = tmp_path_factory.mktemp("stamped")
    run_kbr_json("backup", "-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b", "-t", source)
    return source, folder, kafka.read_all(source)


def _stamped(kafka: KafkaHarness, source: str, folder: Path, target: str, *more: str) -> list[str]:
    return [
        "restore", "-b", kafka.bootstrap, "--storage", str(folder), "--backup-id", "b", "--topic-map", f"{source}={target}",
        *more,
    ]  # fmt: skip


def _check_stamped(kafka: KafkaHarness, target: str, records: list[list[Read]]) -> None:
    assert kafka.topic_configs(target)["message.timestamp.type"] == "LogAppendTime"
    found = kafka.read_all(target)
    assert [(one.key, one.value, one.timestamp) for one in found[0]] == [
        (one.key, one.value, one.timestamp) for one in records[0]
    ]


def test_log_append_time_is_set_in_the_end_even_after_a_kill(
    kafka: KafkaHarness, stamped: tuple[str, Path, list[list[Read]]]
) -> None:
    source, folder, records = stamped
    target = kafka.topic_name("stamped-back")
    process = start_kbr(*_stamped(kafka, source, folder, target, "--rate-limit", "100kB/s"))
    wait_until(lambda: kafka.count(target) > 100, deadline_s=60, what="some records")
    _end(process)
    assert kafka.topic_configs(target)["message.timestamp.type"] == "CreateTime"
    report = run_kbr_json(*_stamped(kafka, source, folder, target))
    assert report["totals"]["already_there"] > 0
    _check_stamped(kafka, target, records)
    assert run_kbr_json(*_stamped(kafka, source, folder, target))["totals"]["records"] == 0


def test_a_kill_between_making_the_topic_and_the_first_record_loses_no_config(
    kafka: KafkaHarness, stamped: tuple[str, Path, list[list[Read]]]
) -> None:
    source, folder, records = stamped
    target = kafka.topic_name("stamped-back")
    # what such a run leaves behind: the topic, without LogAppendTime, and the note that it was about to make it
    kafka.create_topic(target, 1)
    cluster_id = kafka.admin.list_topics(timeout=10).cluster_id
    options = RestoreOptions(backup_id="b", topic_mapping={source: target})
    store = open_store(StorageOptions(url=str(folder)))
    save_state(
        store,
        RestoreState(
            kbr_version="0.1.0", backup_id="b", restore_id=restore_id_of(options, cluster_id), cluster_id=cluster_id,
            status=RestoreStatus.RUNNING, created_at_ms=1, updated_at_ms=1,
            topics=(
                RestoredTopic(
                    name=target, topic_id="", made=True, configs_afterwards={"message.timestamp.type": "LogAppendTime"},
                    bases=(None,),
                ),
            ),
        ),
    )  # fmt: skip
    store.close()
    run_kbr_json(*_stamped(kafka, source, folder, target))
    _check_stamped(kafka, target, records)


def test_a_compacted_target_is_compared_by_what_is_left_of_it(kafka: KafkaHarness, tmp_path: Path) -> None:
    configs = {
        "cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "200", "delete.retention.ms": "0",
    }  # fmt: skip
    source = kafka.create_topic(kafka.topic_name("to-compact"), 1, {"cleanup.policy": "compact", "min.compaction.lag.ms": str(10**15)})
    values = random.Random(3)
    send(
        kafka.producer(),
        source,
        [{"key": b"k%d" % values.randrange(40), "value": values.randbytes(1000), "timestamp": BASE_MS + number} for number in range(5000)],
    )
    expected = {one.key: one.value for one in kafka.read_all(source)[0]}
    place = ["-b", kafka.bootstrap, "--storage", str(tmp_path), "--backup-id", "b"]
    run_kbr_json("backup", *place, "-t", source)
    target = kafka.create_topic(kafka.topic_name("compacted"), 1, configs)
    command = ["restore", *place, "--topic-map", f"{source}={target}"]
    process = start_kbr(*command, "--rate-limit", "600kB/s")
    wait_until(lambda: kafka.count(target) > 2500, deadline_s=60, what="half of it")
    _end(process)
    wait_until(lambda: len(kafka.read_all(target)[0]) < 2000, deadline_s=60, what="compaction")
    report = run_kbr_json(*command)
    assert 2500 < report["totals"]["already_there"] < 5000
    assert report["totals"]["records"] == 5000 - report["totals"]["already_there"]
    found = kafka.read_all(target)[0]
    assert found[-1].offset == 4999
    assert {one.key: one.value for one in found} == expected


# -- what the target would not take, or not keep ------------------------------------------


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ({"retention.ms": "86400000"}, "--topic-config retention.ms=-1"),
        ({"message.timestamp.before.max.ms": "1000"}, "--topic-config message.timestamp.before.max.ms="),
        ({"max.message.bytes": "600"}, "--topic-config max.message.bytes="),
        ({"cleanup.policy": "compact"}, "--topic-config cleanup.policy=delete"),
    ],
)
def test_a_topic_that_would_not_keep_the_records_is_not_even_made(
    place: Place, tmp_path: Path, configs: dict[str, str], words: str
) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    more = [word for key, value in configs.items() for word in ("--set", f"restore.topic_configs.{key}={value}")]
    refused = run_kbr(*place.command(folder, target, *more))
    assert refused.returncode == 13
    assert words in refused.stderr
    assert not place.kafka.topic_exists(target)
    assert not list((folder / "b" / "restores").glob("*/state.json"))


def test_an_existing_topic_is_refused_with_all_that_stands_against_it(place: Place, tmp_path: Path) -> None:
    folder = place.copy(tmp_path / "b")
    target = place.kafka.create_topic(
        place.target(), PARTITIONS,
        {"retention.ms": "86400000", "min.insync.replicas": "1", "message.timestamp.type": "LogAppendTime", "max.message.bytes": "600"},
    )  # fmt: skip
    refused = run_kbr(*place.command(folder, target))
    assert refused.returncode == 13
    for words in ("set retention.ms=-1 on", "set message.timestamp.type=CreateTime on", "set max.message.bytes="):
        assert words in refused.stderr
    assert place.count(target) == 0


def test_cleanup_that_is_accepted_is_only_warned_of(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    report = place.restore(
        folder, target, "--set", "restore.topic_configs.retention.ms=86400000", "--set", "restore.accept_cleanup=true"
    )
    assert report["status"] == "complete"
    assert any("retention.ms" in warning for warning in report["warnings"])


def _starts(server: KafkaServer) -> bool:
    """Whether it is up again: others need it after this."""
    try:
        server.start()
    except ServerError:  # somebody has its port just now
        return False
    return True


# last, as it takes the broker away that others need
@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_broker_that_is_killed_during_a_restore_costs_no_record(place: Place, tmp_path: Path) -> None:
    folder, target = place.copy(tmp_path / "b"), place.target()
    process = place.start_slowly(folder, target)
    server = place.kafka.server
    server.processes[0].signal(signal.SIGKILL)
    server.processes[0].stop()  # until it has really ended
    wait_until(lambda: _starts(server), deadline_s=90, what="the broker's second start")
    _let_go(process)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["totals"]["records"] == RECORDS
    place.assert_identical(target)
