"""One client.properties for Kafka's own tools and for kbr."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import run_kbr, run_kbr_json
from tests.support.kafka import send
from tests.support.secure_kafka import PASSWORDS, Right, SecureKafka

RECORDS = [{"key": b"k%d" % number, "value": b"v%d" % number, "timestamp": 1_714_564_800_000 + number} for number in range(50)]


def test_a_file_that_kafkas_own_tool_takes_is_enough_for_every_verb(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    topic = secure_kafka.harness.create_topic(secure_kafka.name("java"))
    target = f"{topic}-again"
    send(secure_kafka.harness.producer(), topic, RECORDS)
    file = tmp_path / "client.properties"
    file.write_text(
        "# for kafka-topics, kafka-acls and kbr\n"
        f"bootstrap.servers = 127.0.0.1\\:{secure_kafka.port('SASL_SSL')}\n"
        "security.protocol: SASL_SSL\n"
        f"ssl.truststore.location={secure_kafka.authority.certificate}\n"
        "ssl.truststore.type PEM\n"
        "sasl.mechanism=SCRAM-SHA-512\n"
        "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n"
        f"    username='writer' password=\"{PASSWORDS['writer']}\";\n"
        "request.timeout.ms=30000\n"
        "key.deserializer=org.apache.kafka.common.serialization.StringDeserializer\n"
    )
    storage = ("--storage", str(tmp_path / "store"), "--command-config", str(file))
    rights = [Right("Read", "topic", topic), *(Right(one, "topic", target) for one in ("Write", "Create"))]
    secure_kafka.harness.consume_some(topic, "java-group", 20)
    groups = [Right("Read", "group", "java-group"), Right("Read", "topic", target)]
    with secure_kafka.rights("User:writer", [*rights, *groups]):
        listed = secure_kafka.harness.java(
            "org.apache.kafka.tools.TopicCommand", "--list", "--command-config", str(file),
            "--bootstrap-server", f"127.0.0.1:{secure_kafka.port('SASL_SSL')}",
        )  # fmt: skip
        assert listed.split() == [topic]
        done = run_kbr("backup", "--backup-id", "b", "-t", topic, "--groups", *storage)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "mean nothing to kbr" in line]
        assert line.endswith("left out: key.deserializer")
        assert PASSWORDS["writer"] not in done.stdout + done.stderr
        run_kbr_json("restore", "--backup-id", "b", "--topic-map", f"{topic}={target}", *storage)
        document = run_kbr_json("groups", "plan", "b", *storage)
    assert [(row["group"], row["new_offset"]) for row in document["rows"]] == [("java-group", 20)]
    read = [[one.exact for one in part] for part in secure_kafka.harness.read_all(target)]
    assert read == [[one.exact for one in part] for part in secure_kafka.harness.read_all(topic)]
