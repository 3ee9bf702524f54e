"""Every way to log in, on a real broker with access rights: a backup and a restore with no more than they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kafka import send
from tests.support.mixed_topics import BASE_MS
from tests.support.secure_kafka import MECHANISMS, Right, SecureKafka, Way
from tests.support.secure_runs import back_up, restore

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
