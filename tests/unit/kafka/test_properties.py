"""What librdkafka can't do of what it is to be told: one line with the nearest name, before a client is made."""

from __future__ import annotations

import pytest

from kbr.errors import ConfigError
from kbr.kafka.cluster import Cluster
from kbr.kafka.properties import check_client, missing_features
from kbr.kafka.settings import ClientSettings, OidcLogin

SECRET = "hush-hush"
ALL = frozenset({"ssl", "sasl_plain", "sasl_scram", "sasl_oauthbearer", "oidc", "sasl_gssapi"})


def _refused(**client: str) -> str:
    settings = ClientSettings(bootstrap_servers=("127.0.0.1:1",), client={name.replace("__", "."): value for name, value in client.items()})
    with pytest.raises(ConfigError) as caught, Cluster(settings, deadline_s=1):
        pass
    error = caught.value
    assert SECRET not in f"{error} {error.hint} {error.context}"
    assert "\n" not in str(error)
    return f"{error} ({error.hint})"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fetch__mim__bytes", "fetch.min.bytes"),
        ("sasl__pasword", "sasl.password"),
        ("socket__time__out__ms", "socket.timeout.ms"),
        ("auto__offset__resett", "auto.offset.reset"),
    ],
)
def test_an_unknown_property_is_named_with_the_nearest(name: str, nearest: str) -> None:
    text = _refused(**{name: SECRET})
    assert name.replace("__", ".") in text
    assert f"did you mean {nearest}?" in text


def test_a_property_that_is_near_to_none_is_named_alone() -> None:
    assert "CONFIGURATION.md" in _refused(qqq=SECRET)


@pytest.mark.parametrize("name", ["error_cb", "stats_cb", "oauthbearer_token_refresh_cb", "opaque", "logger", "oauth_cb", "on_commit", "default__topic__config"])
def test_a_property_that_takes_a_function_is_refused(name: str) -> None:
    assert "takes a function" in _refused(**{name: SECRET})


@pytest.mark.parametrize("value", ["maybe", "3 s"])
def test_a_value_that_librdkafka_refuses_is_its_word(value: str) -> None:
    assert "socket.timeout.ms" in _refused(socket__timeout__ms=value)


def test_what_is_hidden_for_tests_and_aliases_pass() -> None:
    check_client(ClientSettings(bootstrap_servers=("a:1",), client={"test.mock.num.brokers": "1", "max.in.flight": "3", "acks": "all"}))


def test_plugins_may_bring_properties_of_their_own() -> None:
    check_client(ClientSettings(bootstrap_servers=("a:1",), client={"plugin.library.paths": "x", "x.own": "1"}))


def test_kerberos_is_refused_where_librdkafka_was_built_without_it() -> None:
    """As confluent-kafka's wheels are."""
    settings = ClientSettings(bootstrap_servers=("a:1",), security_protocol="SASL_PLAINTEXT", sasl_mechanism="GSSAPI")
    with pytest.raises(ConfigError) as caught, Cluster(settings, deadline_s=1):
        pass
    assert "sasl_mechanism GSSAPI: librdkafka 2." in str(caught.value)
    assert "sasl_gssapi" in str(caught.value)
    assert "--no-binary confluent-kafka" in caught.value.hint


@pytest.mark.parametrize(
    ("protocol", "mechanism", "lacks"),
    [
        ("SASL_PLAINTEXT", "PLAIN", "sasl_plain"),
        ("SASL_SSL", "SCRAM-SHA-256", "sasl_scram"),
        ("SASL_SSL", "OAUTHBEARER", "sasl_oauthbearer"),
        ("SASL_SSL", "OAUTHBEARER", "oidc"),
        ("SASL_SSL", "AWS_MSK_IAM", "sasl_oauthbearer"),
        ("SASL_PLAINTEXT", "GSSAPI", "sasl_gssapi"),
        ("SSL", None, "ssl"),
    ],
)
def test_each_login_needs_its_part_of_librdkafka(protocol: str, mechanism: str | None, lacks: str) -> None:
    settings = ClientSettings(
        bootstrap_servers=("a:1",), security_protocol=protocol, sasl_mechanism=mechanism,
        oidc=OidcLogin(token_endpoint_url="http://x/") if lacks == "oidc" else None,
    )  # fmt: skip
    assert missing_features(settings, ALL) is None
    found = missing_features(settings, ALL - {lacks})
    assert found is not None
    assert found[1] == lacks
