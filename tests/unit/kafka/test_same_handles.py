"""The workers' own librdkafka handles get every setting that confluent-kafka's would get, as librdkafka itself has them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings, MskIamLogin, OidcLogin, consumer_properties, producer_properties
from kbr_codec.rdkafka import Sink, Source
from tests.support.certificates import Authority
from tests.support.waiting import wait_until

_LINE = re.compile(r"\[thrd:app\]:   ([a-z0-9._]+) = (.*)")
#: How the two hear of things, and what they call themselves: functions, a queue for log lines, a group that only
#: confluent-kafka insists on.
_OWN = {
    "client.software.name",
    "client.software.version",
    "consume_cb",
    "default_topic_conf",
    "dr_msg_cb",
    "enabled_events",
    "error_cb",
    "group.id",
    "log.queue",
    "log_cb",
    "oauthbearer_token_refresh_cb",
    "offset_commit_cb",
    "opaque",
    "rebalance_cb",
    "socket_cb",
    "stats_cb",
}


def _token() -> tuple[str, int, str]:
    return "token", int(time.time() * 1000) + 600_000, "me"


def _logins(folder: Path) -> dict[str, ClientSettings]:
    authority = Authority(folder)
    pair = authority.sign("client")
    tls: dict[str, Any] = {"ssl_ca_location": str(authority.certificate)}
    servers = {"bootstrap_servers": ("127.0.0.1:1",)}
    plain = {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"}
    return {
        "plaintext": ClientSettings(**servers),
        "mutual": ClientSettings(
            **servers, **tls, security_protocol="SSL", ssl_certificate_location=str(pair.certificate),
            ssl_key_location=str(pair.key), ssl_key_password="k", ssl_endpoint_identification_algorithm="none",
        ),
        "keystore": ClientSettings(
            **servers, **tls, security_protocol="SSL",
            client={"ssl.keystore.location": str(pair.pkcs12("p")), "ssl.keystore.password": "p"},
        ),
        "plain": ClientSettings(**servers, **tls, **plain, security_protocol="SASL_SSL"),
        "scram": ClientSettings(**servers, **{**plain, "sasl_mechanism": "SCRAM-SHA-512"}, security_protocol="SASL_PLAINTEXT"),
        "oidc": ClientSettings(
            **servers, **tls, security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER",
            oidc=OidcLogin(
                token_endpoint_url="http://127.0.0.1:1/t", client_id="i", client_secret="s", scope="x", extensions="a=b"
            ),
        ),
        "msk": ClientSettings(
            **servers, **tls, security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM", msk_iam=MskIamLogin(region="r")
        ),
        "any-property": ClientSettings(
            **servers, client={"client.rack": "r", "socket.nagle.disable": "false", "broker.address.family": "v4",
                               "connections.max.idle.ms": "5000", "metadata.max.age.ms": "7000"},
        ),
    }  # fmt: skip


NAMES = ("plaintext", "mutual", "keystore", "plain", "scram", "oidc", "msk", "any-property")


def _shown(lines: Iterable[str]) -> dict[str, str]:
    """What librdkafka says that a client is set to, other than its defaults."""
    return {match.group(1): match.group(2) for line in lines if (match := _LINE.search(line)) is not None}


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _of_confluent(make: Any, properties: dict[str, Any]) -> dict[str, str]:
    handler = _Lines()
    logger = logging.Logger("theirs")  # noqa: LOG001  (private to this client)
    logger.addHandler(handler)
    client = make({**properties, "debug": "conf"}, logger=logger)

    def has_said() -> bool:
        client.poll(0.01)
        return any("Default topic configuration" in line for line in handler.lines)

    wait_until(has_said, deadline_s=10, what="the configuration of confluent-kafka's client")
    client.poll(0.05)
    return _shown(handler.lines)


def _of_ours(client: Source | Sink) -> dict[str, str]:
    lines: list[str] = []

    def has_said() -> bool:
        if isinstance(client, Sink):
            client.poll(10)
        lines.extend(event[2] for event in client.client_events())
        return any("Default topic configuration" in line for line in lines)

    wait_until(has_said, deadline_s=10, what="the configuration of our client")
    if isinstance(client, Sink):
        client.poll(50)
    lines.extend(event[2] for event in client.client_events())
    client.close()
    return _shown(lines)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["consumer", "producer"])
def test_both_kinds_of_handles_are_set_to_the_same(tmp_path: Path, kind: str, name: str) -> None:
    load_library()
    settings = _logins(tmp_path)[name]
    is_msk = settings.msk_iam is not None
    tokens = _token if is_msk else None
    theirs_too = {"oauth_cb": lambda _config: ("token", time.time() + 600)} if is_msk else {}
    if kind == "consumer":
        properties = consumer_properties(settings, memory_bytes=64 << 20, partition_count=1, isolation_level="read_committed")
        ours = _of_ours(
            Source({**properties, "debug": "conf"}.items(), block_bytes=1 << 20, open_bytes=1 << 20, token_source=tokens)
        )
        theirs = _of_confluent(Consumer, {**properties, **theirs_too, "group.id": "g"})
    else:
        properties = producer_properties(settings, memory_bytes=64 << 20, compression="lz4", batch_bytes=900_000)
        ours = _of_ours(Sink({**properties, "debug": "conf"}.items(), token_source=tokens))
        theirs = _of_confluent(Producer, {**properties, **theirs_too})
    assert {one: value for one, value in ours.items() if one not in _OWN} == {
        one: value for one, value in theirs.items() if one not in _OWN
    }
    assert ("oauthbearer_token_refresh_cb" in ours) == ("oauthbearer_token_refresh_cb" in theirs)
    assert ours["security.protocol"] == settings.security_protocol.lower() if name != "plaintext" else True
    assert "enable.sasl.oauthbearer.unsecure.jwt" not in ours
    for secret in ("sasl.password", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret"):
        assert ours.get(secret, "[redacted]") == "[redacted]"
