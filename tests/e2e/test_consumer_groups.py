"""Consumer groups go on after a restore with exactly the records that they had not read."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, Read, send
from tests.support.mixed_topics import BASE_MS
from tests.support.waiting import wait_until

PARTITIONS = 3


def _filled(kafka: KafkaHarness, prefix: str, count: int = 300) -> str:
    """A topic whose partitions have different numbers of records, all of them different."""
    topic = kafka.create_topic(kafka.topic_name(prefix), PARTITIONS)
    records = [
        {"partition": number % 7 % PARTITIONS, "key": b"k%d" % number, "value": b"v%d" % number, "timestamp": BASE_MS + number}
        for number in range(count)
    ]
    send(kafka.producer(), topic, records)
    return topic


def _back_up(kafka: KafkaHarness, folder: Path, topic: str, *more: str, exit_code: int = 0) -> Any:
    return run_kbr_json(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), "-t", topic, *more,
        exit_code=exit_code,
    )  # fmt: skip


def _restore(kafka: KafkaHarness, folder: Path, topic: str, target: str, *more: str, exit_code: int = 0) -> Any:
    return run_kbr_json(
        "restore", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(folder), "--topic-map", f"{topic}={target}",
        *more, exit_code=exit_code,
    )  # fmt: skip


def _groups(kafka: KafkaHarness, folder: Path, verb: str, *more: str, exit_code: int = 0) -> Any:
    return run_kbr_json(
        "groups", verb, "b", "-b", kafka.bootstrap, "--storage", str(folder), *more, exit_code=exit_code
    )  # fmt: skip


def _left(source: list[list[Read]], read: list[Read]) -> list[list[tuple[object, ...]]]:
    """What of a topic has not been read, by partition."""
    seen = {(one.partition, one.offset) for one in read}
    return [[one.exact for one in part if (one.partition, one.offset) not in seen] for part in source]


def _by_partition(read: list[Read]) -> list[list[tuple[object, ...]]]:
    return [[one.exact for one in read if one.partition == number] for number in range(PARTITIONS)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_goes_on_with_exactly_the_records_that_it_had_not_read(
    kafka: KafkaHarness, tmp_path: Path, protocol: str
) -> None:
    topic = _filled(kafka, "half")
    group, target = f"half-of-{topic}", f"{topic}-back"
    read = kafka.consume_some(topic, group, 150, protocol=protocol)
    source = kafka.read_all(topic)
    report = _back_up(kafka, tmp_path, topic, "--group", group)
    assert report["groups"]["groups"] == 1
    (listed,) = run_kbr_json("groups", "list", "b", "--storage", str(tmp_path))["groups"]
    assert listed["type"] == protocol
    assert sum(one["lag"] for one in listed["offsets"]) == 150 - sum(
        len(part) for number, part in enumerate(source) if (topic, number) not in kafka.committed(group)
    )
    assert _restore(kafka, tmp_path, topic, target)["groups"] is None
    plan = _groups(kafka, tmp_path, "plan")
    assert plan["status"] == "planned"
    assert not [place for place in kafka.committed(group) if place[0] == target]
    applied = _groups(kafka, tmp_path, "apply", "--execute")
    assert applied["status"] == "complete"
    assert applied["rows"] == plan["rows"]
    unread = _left(source, read)
    committed = {key[1] for key in kafka.committed(group) if key[0] == target}
    # partitions that it had not begun have no offset: it begins there as it would have at the source
    assert committed == {key[1] for key in kafka.committed(group) if key[0] == topic}
    rest = kafka.consume_some(target, group, sum(map(len, unread)), protocol=protocol)
    assert _by_partition(rest) == unread
    consumer = kafka.group_consumer(group, protocol=protocol)
    try:
        consumer.subscribe([target])
        wait_until(lambda: consumer.poll(0.2) is None and consumer.assignment() != [], deadline_s=60, what="an assignment")
        assert consumer.consume(1, timeout=2) == []
    finally:
        consumer.close()


@pytest.mark.timeout(240)
def test_a_java_consumer_goes_on_with_exactly_the_records_that_it_had_not_read(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = _filled(kafka, "java")
    group, target = f"java-of-{topic}", f"{topic}-back"

    def consume(name: str, count: int) -> list[str]:
        out = kafka.java(
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", kafka.bootstrap, "--topic", name,
            "--group", group, "--from-beginning", "--max-messages", str(count), "--timeout-ms", "60000",
            deadline_s=90,
        )  # fmt: skip
        return out.split()

    read = consume(topic, 120)
    assert len(read) == 120
    _back_up(kafka, tmp_path, topic, "--group", group)
    report = _restore(kafka, tmp_path, topic, target, "--groups")
    assert report["groups"]["status"] == "complete"
    rest = consume(target, 180)
    assert sorted([*read, *rest]) == sorted(f"v{number}" for number in range(300))


@pytest.mark.fault("R5", "offsets in holes, before, at and past the end, topics that are gone: on a real cluster", promise=7)
@pytest.mark.timeout(240)
def test_offsets_of_every_kind_are_put_where_reading_record_by_record_would(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("kinds"), 1)
    gone = kafka.create_topic(kafka.topic_name("kinds-gone"), 1)
    other = kafka.create_topic(kafka.topic_name("kinds-other"), 1)
    producer = kafka.producer(transactional_id=f"tx-of-{topic}")
    producer.init_transactions()
    for number in range(12):
        producer.begin_transaction()
        for inner in range(5):
            producer.produce(topic, b"%d" % (5 * number + inner), timestamp=BASE_MS + 5 * number + inner)
        # every third one leaves a hole of six offsets, the others one of one; what is aborted has to be in the log for it
        assert producer.flush(30) == 0
        (producer.abort_transaction if number % 3 == 2 else producer.commit_transaction)()
    source = kafka.read_all(topic)[0]
    end = 12 * 6
    groups = {f"kinds-{offset}-of-{topic}": offset for offset in [*range(0, end + 1, 5), end - 1, end, end + 50]}
    for group, offset in groups.items():
        kafka.commit(group, {(topic, 0): offset, (gone, 0): 0, (other, 0): 0})
    for future in kafka.admin.delete_topics([gone]).values():
        future.result(30)
    report = _back_up(kafka, tmp_path, topic, "--group", f"kinds-*-of-{topic}")
    assert report["groups"]["groups"] == report["groups"]["offsets"] == len(groups)
    assert report["groups"]["other_offsets"] >= len(groups)
    start_ms, end_ms = BASE_MS + 7, BASE_MS + 48
    target = f"{topic}-back"
    send(kafka.producer(), kafka.create_topic(target, 1), [{"value": b"somebody else's"}] * 9)
    _restore(
        kafka, tmp_path, topic, target, "--append", "--from-timestamp", str(start_ms), "--to-timestamp", str(end_ms),
        "--groups",
    )  # fmt: skip
    restored = [one for one in source if start_ms <= one.timestamp <= end_ms]
    assert [one.value for one in kafka.read_all(target)[0][9:]] == [one.value for one in restored]
    for group, offset in groups.items():
        before = sum(one.offset < offset for one in restored)
        assert kafka.committed(group)[target, 0] == 9 + before, group


@pytest.mark.timeout(240)
def test_partitions_that_were_mapped_and_empty_ones_have_their_groups_with_them(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = kafka.create_topic(kafka.topic_name("moved"), 4)
    send(kafka.producer(), topic, [{"partition": number % 2, "value": b"%d" % number} for number in range(20)])
    group, target = f"moved-of-{topic}", f"{topic}-back"
    kafka.commit(group, {(topic, 0): 3, (topic, 1): 10, (topic, 2): 0})
    _back_up(kafka, tmp_path, topic, "--group", group)
    report = _restore(
        kafka, tmp_path, topic, target, "--partition-map", f"{topic}:0=1", "--partition-map", f"{topic}:1=0",
        "--groups", "--group-map", f"{group}={group}-new",
    )  # fmt: skip
    assert report["groups"]["status"] == "complete"
    assert kafka.committed(f"{group}-new") == {(target, 1): 3, (target, 0): 10, (target, 2): 0}
    assert kafka.committed(group) == {(topic, 0): 3, (topic, 1): 10, (topic, 2): 0}


@pytest.mark.fault("R5", "a group with members refused; former offsets kept first, and put back", promise=7)
@pytest.mark.timeout(240)
def test_a_group_with_members_is_refused_and_a_rollback_puts_back_what_was_there(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = _filled(kafka, "rolled")
    target = f"{topic}-back"
    there, new = f"there-of-{topic}", f"new-of-{topic}"
    kafka.commit(there, {(topic, 0): 20, (topic, 1): 30})
    kafka.commit(new, {(topic, 2): 5})
    _back_up(kafka, tmp_path, topic, "--group", f"*-of-{topic}")
    for future in kafka.admin.delete_consumer_groups([new]).values():
        future.result(30)
    restore_id = _restore(kafka, tmp_path, topic, target)["restore_id"]
    kafka.commit(there, {(target, 0): 1})
    before = kafka.committed(there)
    kept = tmp_path / "b" / "restores" / restore_id
    busy = kafka.group_consumer(there)
    try:
        busy.subscribe([topic])
        wait_until(lambda: busy.poll(0.2) is not None, deadline_s=60, what="the first record")
        plan = _groups(kafka, tmp_path, "plan", "--restore", restore_id)
        assert plan["active"] == [there]
        refused = run_kbr(
            "groups", "apply", "b", "-b", kafka.bootstrap, "--storage", str(tmp_path), "--execute"
        )  # fmt: skip
        assert refused.returncode == 13, refused.stderr
        assert there in refused.stderr
        assert not list(kept.glob("groups-rollback-*"))
        assert kafka.committed(new) == {}
        # the others can be put without it
        _groups(kafka, tmp_path, "apply", "--execute", "--group", new)
        assert kafka.committed(new) == {(target, 2): 5}
        _groups(kafka, tmp_path, "rollback", "--execute")
        assert kafka.committed(new) == {}
    finally:
        busy.close()
    before = kafka.committed(there)
    applied = _groups(kafka, tmp_path, "apply", "--execute")
    assert applied["status"] == "complete"
    assert (tmp_path / applied["rollback"]).exists()
    assert kafka.committed(there) == {**before, (target, 0): 20, (target, 1): 30}
    assert _groups(kafka, tmp_path, "rollback")["status"] == "planned"
    # (target, 1) had no offset before, and can't lose it alone
    back = _groups(kafka, tmp_path, "rollback", "--execute", exit_code=3)
    assert back["staying"] == 1
    assert back["deleted"] == [new]
    assert kafka.committed(there) == {**before, (target, 1): 30}
    assert kafka.committed(new) == {}


@pytest.mark.timeout(240)
def test_an_appended_restore_whose_groups_were_refused_is_run_again_and_no_record_comes_twice(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = _filled(kafka, "appended", count=100)
    target = kafka.create_topic(f"{topic}-back", PARTITIONS)
    group = f"of-{topic}"
    send(kafka.producer(), target, [{"partition": 0, "value": b"other"}] * 5)
    kafka.commit(group, {(topic, 0): 10})
    _back_up(kafka, tmp_path, topic, "--group", group)
    busy = kafka.group_consumer(group)
    try:
        busy.subscribe([topic])
        wait_until(lambda: busy.poll(0.2) is not None, deadline_s=60, what="the first record")
        report = _restore(kafka, tmp_path, topic, target, "--append", "--groups", exit_code=3)
        assert report["totals"]["records"] == 100
        assert "run the same command again" in report["warnings"][-1]
    finally:
        busy.close()
    # until its groups are put, nothing is at its end: what is told there holds
    assert _groups(kafka, tmp_path, "plan")["warnings"]
    report = _restore(kafka, tmp_path, topic, target, "--append", "--groups")
    assert (report["totals"]["records"], report["totals"]["already_there"]) == (0, 100)
    assert kafka.count(target) == 105
    assert kafka.committed(group)[(target, 0)] == 15
    # and from then on it is: the next one appends once more
    assert _restore(kafka, tmp_path, topic, target, "--append", "--groups")["totals"]["records"] == 100


@pytest.mark.timeout(240)
def test_a_mapping_that_lacks_what_was_restored_later_puts_no_group(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = _filled(kafka, "lacking", count=90)
    target, group = f"{topic}-back", f"of-{topic}"
    kafka.commit(group, {(topic, 1): 7})
    _back_up(kafka, tmp_path, topic, "--group", group)
    (segment,) = (tmp_path / "b" / "topics" / topic / "partition=1").glob("*.zst")
    away = segment.rename(tmp_path / "away")
    report = _restore(kafka, tmp_path, topic, target, "--allow-incomplete", exit_code=3)
    assert report["offset_map"]
    away.rename(segment)
    report = _restore(kafka, tmp_path, topic, target, "--set", "restore.offset_map=false")
    assert report["status"] == "complete"
    # partition 1 is in no mapping, and is not empty
    refused = run_kbr("groups", "apply", "b", "-b", kafka.bootstrap, "--storage", str(tmp_path), "--execute")
    assert refused.returncode == 10, refused.stderr
    assert "the offset mapping is older than the restore" in refused.stderr
    assert kafka.committed(group) == {(topic, 1): 7}
    _restore(kafka, tmp_path, topic, target)
    _groups(kafka, tmp_path, "apply", "--execute")
    assert kafka.committed(group)[(target, 1)] == 7


@pytest.mark.timeout(240)
def test_kafkas_own_tool_loads_what_is_exported(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = _filled(kafka, "exported")
    target = f"{topic}-back"
    one, two = f"one-of-{topic}", f'two, "quoted" of {topic}'
    kafka.commit(one, {(topic, 0): 20, (topic, 1): 30})
    kafka.commit(two, {(topic, 2): 5})
    _back_up(kafka, tmp_path, topic, "--group", f"*of*{topic}")
    _restore(kafka, tmp_path, topic, target)
    done = run_kbr("groups", "export", "b", "-b", kafka.bootstrap, "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    file = tmp_path / "offsets.csv"
    file.write_text(done.stdout)

    def load(how: str) -> str:
        return kafka.java(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", kafka.bootstrap,
            "--reset-offsets", "--group", one, "--group", two, "--from-file", str(file), how,
        )  # fmt: skip

    assert target in load("--dry-run")
    assert not [place for place in kafka.committed(one) if place[0] == target]
    load("--execute")
    assert {key: value for key, value in kafka.committed(one).items() if key[0] == target} == {
        (target, 0): 20,
        (target, 1): 30,
    }
    assert kafka.committed(two)[target, 2] == 5
    # what Kafka's tool has committed is what kbr would
    assert _groups(kafka, tmp_path, "plan")["totals"]["changes"] == 0


@pytest.mark.timeout(200)
def test_a_continuous_backup_follows_what_groups_read(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = _filled(kafka, "followed")
    group = f"followed-of-{topic}"
    kafka.commit(group, {(topic, 0): 1})
    file = tmp_path / "b" / "groups.json"

    def kept() -> int | None:
        if not file.exists():
            return None
        (one,) = json.loads(file.read_text())["groups"]
        return int(one["topics"][0]["offsets"][0])

    process = start_kbr(
        "backup", "--continuous", "-b", kafka.bootstrap, "--backup-id", "b", "--storage", str(tmp_path), "-t", topic,
        "--group", group, "--set", "backup.segment_max_interval_ms=300", "--set", "backup.checkpoint_interval_ms=100",
    )  # fmt: skip
    try:
        wait_until(lambda: kept() == 1, deadline_s=60, what="the first capture")
        kafka.commit(group, {(topic, 0): 33})
        wait_until(lambda: kept() == 33, deadline_s=60, what="a later one")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    finally:
        process.kill()
        process.wait()
    assert run_kbr_json("verify", "b", "--deep", "--storage", str(tmp_path))["undamaged"]


@pytest.mark.timeout(200)
def test_a_backup_without_groups_and_one_without_a_restore_say_so(kafka: KafkaHarness, tmp_path: Path) -> None:
    topic = _filled(kafka, "none", count=10)
    _back_up(kafka, tmp_path, topic)
    common = ("-b", kafka.bootstrap, "--storage", str(tmp_path))
    listed = run_kbr("groups", "list", "b", "--storage", str(tmp_path))
    assert (listed.returncode, "holds no consumer group offsets" in listed.stderr) == (10, True)
    refused = run_kbr("restore", "--backup-id", "b", *common, "--topic-map", f"{topic}={topic}-back", "--groups")
    assert refused.returncode == 10
    assert not kafka.topic_exists(f"{topic}-back")
    kafka.commit(f"none-of-{topic}", {(topic, 0): 1})
    _back_up(kafka, tmp_path, topic, "--group", f"none-of-{topic}")
    unknown = run_kbr("groups", "plan", "b", *common)
    assert (unknown.returncode, "knows no restore into this cluster" in unknown.stderr) == (10, True)


@pytest.mark.timeout(240)
def test_a_group_that_has_read_on_in_the_target_is_not_moved_back_unless_that_is_asked_for(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    topic = _filled(kafka, "ahead", count=90)
    target, group = f"{topic}-back", f"of-{topic}"
    kafka.commit(group, {(topic, 0): 5, (topic, 1): 7})
    _back_up(kafka, tmp_path, topic, "--group", group)
    _restore(kafka, tmp_path, topic, target)
    kafka.commit(group, {(target, 0): 9})
    rows = _groups(kafka, tmp_path, "plan")["rows"]
    assert {(one["partition"], one["old_offset"], one["new_offset"], one["rewinds"]) for one in rows} == {
        (0, 9, 5, True), (1, None, 7, False),
    }  # fmt: skip
    common = ("-b", kafka.bootstrap, "--storage", str(tmp_path))
    refused = run_kbr("groups", "apply", "b", *common, "--execute")
    assert refused.returncode == 13
    assert f"group {group} in {target}[0] from 9 to 5; nothing was committed" in refused.stderr
    # a restore has sent its records by then: it is not all done
    report = _restore(kafka, tmp_path, topic, target, "--groups", exit_code=3)
    assert f"group {group} in {target}[0] from 9 to 5" in report["warnings"][-1]
    assert {key: at for key, at in kafka.committed(group).items() if key[0] == target} == {(target, 0): 9}
    _restore(kafka, tmp_path, topic, target, "--groups", "--allow-rewind")
    assert {key: at for key, at in kafka.committed(group).items() if key[0] == target} == {(target, 0): 5, (target, 1): 7}
    _groups(kafka, tmp_path, "rollback", "--execute", exit_code=3)
    assert kafka.committed(group)[target, 0] == 9
