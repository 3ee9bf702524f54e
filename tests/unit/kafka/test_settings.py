"""What clients are told, and what can't be told them."""

from __future__ import annotations

import pickle

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from kbr.errors import ConfigError
from kbr.kafka.settings import ClientSettings, admin_properties, consumer_properties, producer_properties

SECRET = "hush-hush"


def _settings(**client: str) -> ClientSettings:
    return ClientSettings(
        bootstrap_servers=("a:1", "b:2"),
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username="me",
        password=SECRET,
        ssl_key_password=SECRET,
        client={name.replace("_", "."): value for name, value in client.items()},
    )


def _consumer(settings: ClientSettings, memory_bytes: int = 64 << 20, partition_count: int = 1) -> dict[str, str]:
    return consumer_properties(
        settings, memory_bytes=memory_bytes, partition_count=partition_count, isolation_level="read_committed"
    )


def _producer(settings: ClientSettings) -> dict[str, str]:
    return producer_properties(settings, memory_bytes=64 << 20, compression="lz4", batch_bytes=900_000)


def test_secrets_do_not_show_and_do_travel() -> None:
    settings = _settings()
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert admin_properties(settings)["sasl.password"] == SECRET


def test_a_client_property_wins_over_what_is_tuned() -> None:
    assert _consumer(_settings(fetch_wait_max_ms="7"))["fetch.wait.max.ms"] == "7"
    assert _producer(_settings(linger_ms="70"))["linger.ms"] == "70"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto.offset.reset", "latest"),
        ("check.crcs", "false"),
        ("enable.idempotence", "false"),
        ("acks", "1"),
        ("request.required.acks", "0"),
        ("message.timeout.ms", "1000"),
        ("delivery.timeout.ms", "1000"),
        ("allow.auto.create.topics", "true"),
        ("isolation.level", "read_uncommitted"),
        ("enable.gapless.guarantee", "false"),
        ("transactional.id", "mine"),
        ("auto.commit.enable", "true"),
    ],
)
def test_what_the_promises_stand_on_cannot_be_changed(name: str, value: str) -> None:
    settings = ClientSettings(bootstrap_servers=("a:1",), client={name: value})
    for make in (admin_properties, _consumer, _producer):
        with pytest.raises(ConfigError, match=name):
            make(settings)


@pytest.mark.parametrize(("name", "value"), [("acks", "all"), ("acks", "-1"), ("check.crcs", "TRUE")])
def test_saying_what_is_fixed_anyway_is_fine(name: str, value: str) -> None:
    _producer(ClientSettings(bootstrap_servers=("a:1",), client={name: value}))


def test_a_reader_never_jumps_and_a_writer_never_leaves_a_hole() -> None:
    reader, writer = _consumer(_settings()), _producer(_settings())
    assert reader["auto.offset.reset"] == "error"
    assert reader["check.crcs"] == reader["enable.partition.eof"] == "true"
    assert (writer["acks"], writer["enable.idempotence"], writer["message.timeout.ms"]) == ("all", "true", "0")


@pytest.mark.parametrize("memory_bytes", [8 << 20, 64 << 20, 1 << 30])
@pytest.mark.parametrize("partition_count", [1, 4, 256])
def test_what_a_reader_may_hold_stays_within_its_budget(memory_bytes: int, partition_count: int) -> None:
    found = _consumer(_settings(), memory_bytes, partition_count)
    queue = int(found["queued.max.messages.kbytes"]) * 1024
    overhead = int(found["queued.min.messages"]) * 350
    answer = int(found["fetch.max.bytes"])
    assert queue + answer <= memory_bytes * 1.01
    assert overhead <= memory_bytes
    assert int(found["message.max.bytes"]) <= answer
    assert int(found["fetch.message.max.bytes"]) <= answer


@pytest.mark.parametrize("memory_bytes", [8 << 20, 64 << 20, 1 << 30])
def test_what_a_writer_may_hold_stays_within_its_budget(memory_bytes: int) -> None:
    found = producer_properties(_settings(), memory_bytes=memory_bytes, compression="lz4", batch_bytes=900_000)
    assert int(found["queue.buffering.max.kbytes"]) * 1024 <= memory_bytes
    assert int(found["queue.buffering.max.messages"]) * 350 <= memory_bytes
    assert int(found["batch.size"]) == 900_000


@pytest.mark.parametrize("largest", [0, 5_000_000, 40_000_000, 900_000_001])
def test_a_writers_queue_has_room_for_the_largest_record(largest: int) -> None:
    found = producer_properties(
        _settings(), memory_bytes=8 << 20, compression="lz4", batch_bytes=900_000, largest_record_bytes=largest
    )
    assert int(found["queue.buffering.max.kbytes"]) * 1024 >= max(largest, 8 << 20)


@pytest.mark.parametrize("make", [admin_properties, _consumer, _producer])
def test_every_client_is_told_how_to_get_in(make) -> None:
    found = make(_settings())
    assert found["bootstrap.servers"] == "a:1,b:2"
    assert (found["security.protocol"], found["sasl.mechanism"]) == ("SASL_SSL", "PLAIN")
    assert (found["sasl.username"], found["sasl.password"], found["ssl.key.password"]) == ("me", SECRET, SECRET)


def test_a_refused_property_does_not_show_its_value() -> None:
    settings = ClientSettings(bootstrap_servers=("a:1",), client={"isolation.level": SECRET})
    with pytest.raises(ConfigError) as caught:
        admin_properties(settings)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"])
def test_what_librdkafka_says_is_shown_without_secrets(name: str) -> None:
    settings = ClientSettings(
        bootstrap_servers=("a:1",), password="pass-1", ssl_key_password="pass-2", client={name: SECRET}
    )
    text = settings.redact(f"can't read {SECRET} with pass-1, pass-2")
    assert text == "can't read *** with ***, ***"
    assert SECRET not in f"{settings!r} {settings}"


def test_what_librdkafka_quotes_of_a_token_is_not_shown() -> None:
    config = f"principal=me bad={SECRET}"
    settings = ClientSettings(bootstrap_servers=("a:1",), client={"sasl.oauthbearer.config": config})
    text = settings.redact(f"Unrecognized sasl.oauthbearer.config beginning at: bad={SECRET}")
    assert SECRET not in text
    assert "sasl.oauthbearer.config" in text


def test_how_a_certificate_is_checked_is_told_only_if_it_was_said() -> None:
    name = "ssl.endpoint.identification.algorithm"
    assert name not in admin_properties(_settings())
    settings = ClientSettings(bootstrap_servers=("a:1",), ssl_endpoint_identification_algorithm="none")
    assert admin_properties(settings)[name] == "none"


@pytest.mark.parametrize(
    "client",
    [
        {"fetch.max.bytes": "500000"},
        {"message.max.bytes": "20000000"},
        {"receive.message.max.bytes": "100000"},
        {"fetch.max.bytes": "2147483135"},
        {"fetch.message.max.bytes": "9000000"},
        {"message.max.bytes": "20000000", "receive.message.max.bytes": "30000000"},
    ],
)
def test_one_size_of_the_user_moves_the_others_that_librdkafka_wants_to_agree(client: dict[str, str]) -> None:
    found = _consumer(ClientSettings(bootstrap_servers=("127.0.0.1:1",), client=client))
    assert client.items() <= found.items()
    Consumer({**found, "group.id": "kbr", "log_level": 0}).close()


def test_sizes_that_cannot_agree_are_left_for_librdkafka_to_refuse() -> None:
    client = {"fetch.max.bytes": "1000", "message.max.bytes": "5000"}
    found = _consumer(ClientSettings(bootstrap_servers=("127.0.0.1:1",), client=client))
    with pytest.raises(KafkaException):
        Consumer({**found, "group.id": "kbr"})
    assert _consumer(ClientSettings(bootstrap_servers=("a:1",), client={"fetch.max.bytes": "1 MB"}))


@pytest.mark.parametrize("make", [admin_properties, _producer])
def test_librdkafka_takes_what_clients_are_told(make) -> None:
    settings = ClientSettings(bootstrap_servers=("127.0.0.1:1",), ssl_endpoint_identification_algorithm="https")
    Producer({**make(settings), "log_level": 0})


def test_a_short_password_is_masked_where_it_stands_alone_and_leaves_names_alone() -> None:
    settings = ClientSettings(bootstrap_servers=("a:1",), password="kbr")
    assert settings.redact('invalid value "kbr" for sasl.password') == 'invalid value "***" for sasl.password'
    assert settings.redact("kbr-1.example.org:9093/1: not akbr, kbr_2") == "kbr-1.example.org:9093/1: not akbr, kbr_2"
