"""Every way to log in, on a real broker with access rights: a backup and a restore with no more than they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kafka import send
from tests.support.mixed_topics import BASE_MS
from tests.support.secure_kafka import MECHANISMS, Right, SecureKafka, Way
from tests.support.secure_runs import back_up, put_groups, restore

WAYS = [
    Way("PLAINTEXT"),
    Way("SSL"),
    Way("MTLS"),
    *(Way(listener, mechanism) for listener in ("SASL_PLAINTEXT", "SASL_SSL") for mechanism in MECHANISMS),
]


def _filled(secure: SecureKafka, prefix: str = "orders", count: int = 60) -> str:
    topic = secure.harness.create_topic(secure.name(prefix), 2)
    records = [
        {"partition": number % 2, "key": b"k%d" % number, "value": b"v%d" % number, "timestamp": BASE_MS + number}
        for number in range(count)
    ]
    send(secure.harness.producer(), topic, records)
    return topic


def _exact(secure: SecureKafka, topic: str) -> list[list[tuple[object, ...]]]:
    return [[one.exact for one in part] for part in secure.harness.read_all(topic)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.row)
def test_records_come_back_through_every_way_with_the_least_rights(
    secure_kafka: SecureKafka, tmp_path: Path, way: Way, record_property: Callable[[str, object], None]
) -> None:
    topic = _filled(secure_kafka)
    target = f"{topic}-restored"
    reader, writer = secure_kafka.principal(way, "reader"), secure_kafka.principal(way, "writer")
    with secure_kafka.rights(reader, [Right("Read", "topic", topic)]):
        done = back_up(secure_kafka, way, "reader", tmp_path, topic)
    assert done.exit_code == 0, done
    record_property("compatibility", {"table": "security", "row": way.row, "column": "backup"})
    with secure_kafka.rights(writer, [Right("Write", "topic", target), Right("Create", "topic", target)]):
        done = restore(secure_kafka, way, "writer", tmp_path, topic, target)
    assert done.exit_code == 0, done
    assert _exact(secure_kafka, target) == _exact(secure_kafka, topic)
    record_property("compatibility", {"table": "security", "row": way.row, "column": "restore"})


# -- the least rights -----------------------------------------------------------------------

#: Rights are told the same whichever way somebody has come.
WAY = Way("SASL_PLAINTEXT", "SCRAM-SHA-256")
READER, WRITER = "User:reader", "User:writer"


@pytest.fixture(scope="module")
def kept(secure_kafka: SecureKafka, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A topic of whose records a group has read some, and a backup of both."""
    topic, folder = _filled(secure_kafka), tmp_path_factory.mktemp("kept")
    secure_kafka.harness.consume_some(topic, "billing", 10)
    with secure_kafka.rights(READER, [Right("Read", "topic", topic), Right("Describe", "group", "billing")]):
        done = back_up(secure_kafka, WAY, "reader", folder, topic, consumer_groups=True)
    assert done.exit_code == 0, done
    assert done.report["groups"]["groups"] == 1
    return topic, folder


def _names(text: str, right: str, principal: str) -> bool:
    """Whether a run's last words name a right, and once."""
    return text.count(f"missing right: {right} ({principal})") == 1 and f"--allow-principal {principal} --operation" in text


@pytest.mark.parametrize("has", [(), ("Describe",), ("DescribeConfigs",)])
@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_backup_without_read_names_it_and_writes_nothing(
    secure_kafka: SecureKafka, tmp_path: Path, kept: tuple[str, Path], has: tuple[str, ...], pattern: str
) -> None:
    topic = kept[0]
    if "Describe" not in has:
        pattern = ""  # what may not be seen matches nothing
    with secure_kafka.rights(READER, [Right(one, "topic", topic) for one in has]):
        done = back_up(secure_kafka, WAY, "reader", tmp_path, topic + pattern)
    assert done.exit_code == 1, done
    assert _names(done.text, f"Read on topic {topic}", READER), done
    assert list(tmp_path.iterdir()) == []


def test_one_topic_of_many_that_may_not_be_read_is_told_and_the_others_are_kept(
    secure_kafka: SecureKafka, tmp_path: Path
) -> None:
    prefix = secure_kafka.name("some")
    dark, plain = _filled(secure_kafka, f"{prefix}-dark", 10), _filled(secure_kafka, f"{prefix}-plain", 10)
    with secure_kafka.rights(READER, [Right("Describe", "topic", dark), Right("Read", "topic", plain)]):
        done = back_up(secure_kafka, WAY, "reader", tmp_path, f"{prefix}-*")
    assert done.exit_code == 3, done
    found = {one["topic"]: one for one in done.report["topics"]}
    assert found[plain]["records"] == 10
    assert f"missing right: Read on topic {dark} ({READER})" in found[dark]["failed"][0]["error"]


def test_configs_are_kept_where_they_may_be_read_and_else_it_is_told(
    secure_kafka: SecureKafka, tmp_path: Path, kept: tuple[str, Path]
) -> None:
    topic = kept[0]
    rights = [Right("Read", "topic", topic), Right("DescribeConfigs", "topic", topic)]
    for count, warned in ((1, True), (2, False)):
        with secure_kafka.rights(READER, rights[:count]):
            done = back_up(secure_kafka, WAY, "reader", tmp_path / str(count), topic)
        assert done.exit_code == 0, done
        assert any("DescribeConfigs on the topic" in one for one in done.report["warnings"]) == warned
        # what goes into an existing topic is checked against its configs: also told
        target = secure_kafka.harness.create_topic(secure_kafka.name("existing"), 2)
        rights_there = [Right("Write", "topic", target), Right("DescribeConfigs", "topic", target)]
        with secure_kafka.rights(WRITER, rights_there[:count]):
            done = restore(secure_kafka, WAY, "writer", tmp_path / str(count), topic, target)
        assert done.exit_code == 0, done
        assert any("DescribeConfigs on the topic" in one for one in done.report["warnings"]) == warned


@pytest.mark.parametrize("asked", [["billing"], True])
def test_a_backup_of_groups_without_describe_on_them_is_told(
    secure_kafka: SecureKafka, tmp_path: Path, kept: tuple[str, Path], asked: object
) -> None:
    topic = kept[0]
    with secure_kafka.rights(READER, [Right("Read", "topic", topic)]):
        done = back_up(secure_kafka, WAY, "reader", tmp_path, topic, consumer_groups=asked)
    if asked is True:
        # nobody can know of a group that may not be seen
        assert done.exit_code == 0, done
        assert any("lacks Describe on the groups" in one for one in done.report["warnings"])
    else:
        assert done.exit_code == 3, done
        assert any(f"missing right: Describe on group billing ({READER})" in one for one in done.report["warnings"])


@pytest.mark.parametrize(
    ("has", "exists", "missing"),
    [
        (("Create",), False, "Write"),
        (("Create", "Describe"), False, "Write"),
        (("Write",), False, "Create"),
        ((), False, "Write"),
        (("Describe",), True, "Write"),
        (("Read", "DescribeConfigs"), True, "Write"),
        ((), True, "Write"),
    ],
)
def test_a_restore_with_one_right_less_names_it(
    secure_kafka: SecureKafka, kept: tuple[str, Path], has: tuple[str, ...], exists: bool, missing: str
) -> None:
    topic, folder = kept
    target = secure_kafka.name("target")
    if exists:
        secure_kafka.harness.create_topic(target, 2)
    with secure_kafka.rights(WRITER, [Right(one, "topic", target) for one in has]):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target)
    assert done.exit_code == 1, done
    right = f"{missing} on topic {target}" + (", or on the cluster" if missing == "Create" else "")
    assert _names(done.text, right, WRITER), done
    made = exists or set(has) == {"Create", "Describe"}
    assert secure_kafka.harness.topic_exists(target) == made
    assert secure_kafka.harness.count(target) == 0


def test_a_restore_that_goes_on_needs_read_and_says_so(secure_kafka: SecureKafka, kept: tuple[str, Path]) -> None:
    topic, folder = kept
    target = secure_kafka.name("target")
    rights = [Right(one, "topic", target) for one in ("Write", "Create", "Read")]
    with secure_kafka.rights(WRITER, rights[:2]):
        assert restore(secure_kafka, WAY, "writer", folder, topic, target).exit_code == 0
        done = restore(secure_kafka, WAY, "writer", folder, topic, target)
    assert done.exit_code == 1, done
    assert _names(done.text, f"Read on topic {target}", WRITER), done
    with secure_kafka.rights(WRITER, rights):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target)
    assert done.exit_code == 0, done
    assert _exact(secure_kafka, target) == _exact(secure_kafka, topic)


def test_groups_are_put_with_read_on_them_and_on_their_topics(
    secure_kafka: SecureKafka, kept: tuple[str, Path], record_property: Callable[[str, object], None]
) -> None:
    topic, folder = kept
    target = secure_kafka.name("target")
    with secure_kafka.rights(WRITER, [Right(one, "topic", target) for one in ("Write", "Create")]):
        restored = restore(secure_kafka, WAY, "writer", folder, topic, target)
    read_topic, read_group = Right("Read", "topic", target), Right("Read", "group", "copy")
    for has, missing in (
        ([read_group], f"Describe on topic {target}"),
        ([read_topic], "Describe on group copy"),
        ([read_topic, Right("Describe", "group", "copy")], "Read on group copy and on its topics"),
        ([Right("Describe", "topic", target), read_group], "Read on group copy and on its topics"),
    ):
        with secure_kafka.rights(WRITER, has):
            done = put_groups(secure_kafka, WAY, "writer", folder, restored.report["restore_id"], {"billing": "copy"})
        assert done.exit_code == 1, (has, done)
        assert f"missing right: {missing} ({WRITER})" in done.text, (has, done)
        assert secure_kafka.harness.committed("copy") == {}
    with secure_kafka.rights(WRITER, [read_topic, read_group]):
        done = put_groups(secure_kafka, WAY, "writer", folder, restored.report["restore_id"], {"billing": "copy"})
    assert done.exit_code == 0, done
    assert sum(secure_kafka.harness.committed("copy").values()) == 10
    record_property("compatibility", {"table": "security", "row": WAY.row, "column": "least rights"})


@pytest.fixture(scope="module")
def kept_with_configs(secure_kafka: SecureKafka, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A backup of a topic with its configs, which make the brokers stamp records."""
    topic = secure_kafka.harness.create_topic(secure_kafka.name("stamped"), 2, {"message.timestamp.type": "LogAppendTime"})
    send(secure_kafka.harness.producer(), topic, [{"value": b"1", "partition": 0}, {"value": b"2", "partition": 1}])
    folder = tmp_path_factory.mktemp("stamped")
    with secure_kafka.rights(READER, [Right("Read", "topic", topic), Right("DescribeConfigs", "topic", topic)]):
        assert back_up(secure_kafka, WAY, "reader", folder, topic).exit_code == 0
    return topic, folder


@pytest.mark.parametrize(("partitions", "missing"), [(2, "AlterConfigs"), (1, "Alter")])
def test_changing_an_existing_topic_needs_a_right_that_is_named(
    secure_kafka: SecureKafka, kept_with_configs: tuple[str, Path], partitions: int, missing: str
) -> None:
    topic, folder = kept_with_configs
    target = secure_kafka.harness.create_topic(secure_kafka.name("changed"), partitions, {"retention.ms": "3600000000"})
    names = ["Write", "DescribeConfigs", "AlterConfigs", "Alter"]
    rights = [Right(one, "topic", target) for one in names if one != missing]
    with secure_kafka.rights(WRITER, rights):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target, existing_topics="apply")
    assert done.exit_code == 1, done
    assert _names(done.text, f"{missing} on topic {target}", WRITER), done
    assert secure_kafka.harness.count(target) == 0
    with secure_kafka.rights(WRITER, [Right(one, "topic", target) for one in names]):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target, existing_topics="apply")
    assert done.exit_code == 0, done
    assert secure_kafka.harness.count(target) == 2


def test_configs_that_come_last_need_a_right_that_is_named_and_the_records_are_there(
    secure_kafka: SecureKafka, kept_with_configs: tuple[str, Path]
) -> None:
    topic, folder = kept_with_configs
    target = secure_kafka.name("stamped-again")
    rights = [Right(one, "topic", target) for one in ("Write", "Create", "Read", "AlterConfigs")]
    with secure_kafka.rights(WRITER, rights[:2]):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target)
    assert done.exit_code == 1, done
    assert f"missing right: AlterConfigs on topic {target} ({WRITER})" in done.text, done
    assert secure_kafka.harness.count(target) == 2
    with secure_kafka.rights(WRITER, rights):
        done = restore(secure_kafka, WAY, "writer", folder, topic, target)
    assert done.exit_code == 0, done
    assert secure_kafka.harness.topic_configs(target)["message.timestamp.type"] == "LogAppendTime"
    assert [[one[1] for one in part] for part in _exact(secure_kafka, target)] == [[b"1"], [b"2"]]
