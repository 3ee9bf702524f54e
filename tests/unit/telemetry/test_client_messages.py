"""librdkafka's lines, as its source forms them, are understood and folded."""

from __future__ import annotations

import logging

import pytest

from kbr.telemetry.client_messages import RepeatFolder, explain, parse
from kbr.telemetry.events import ClientMessage
from tests.support.clocks import FakeClock

IN_STATE = " (after 5ms in state APIVERSION_QUERY)"
REFUSED = "connection refused"
CLOSED = "the connection was closed"
AUTHENTICATION = "authentication failed"
SILENT = "it does not answer in time"
CERTIFICATE = "its certificate can't be verified"


def _message(text: str, level: int = 3) -> ClientMessage:
    return ClientMessage(level=level, facility="FAIL", text=text, client="consumer")


@pytest.mark.parametrize(
    ("text", "broker", "reason"),
    [
        # rdkafka_transport.c: connect_done
        (
            "sasl_ssl://b1:9093/bootstrap: Connect to ipv4#10.0.0.1:9093 failed: Connection refused"
            " (after 0ms in state CONNECT)",
            "b1:9093",
            REFUSED,
        ),
        (
            "[thrd:b1:9092/1]: b1:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused"
            " (after 0ms in state CONNECT, 31 identical error(s) suppressed)",
            "b1:9092",
            REFUSED,
        ),
        (
            "ssl://[2001:db8::1]:9093/2: Connect to ipv6#[2001:db8::1]:9093 failed: No route to host"
            " (after 9ms in state CONNECT)",
            "[2001:db8::1]:9093",
            "no network path leads to it",
        ),
        (
            "GroupCoordinator: b2:9092: Connect to ipv4#10.0.0.2:9092 failed: Connection refused"
            " (after 0ms in state CONNECT)",
            "b2:9092",
            REFUSED,
        ),
        # rdkafka_broker.c: resolve, connection closed, requests timed out, set-up timed out
        (
            "[thrd:nohost:9092/bootstrap]: nohost:9092/bootstrap: Failed to resolve 'nohost:9092':"
            " Name or service not known (after 1ms in state CONNECT)",
            "nohost:9092",
            "its name can't be resolved",
        ),
        ("Failed to resolve 'host:9092': Name or service not known", "host:9092", "its name can't be resolved"),
        (
            "b1:9092/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol"
            " configuration (connecting to a SSL listener?) or broker version is < 0.10 (see api.version.request)"
            + IN_STATE,
            "b1:9092",
            "it closed the connection at the first request",
        ),
        (
            "b1:9092/1: Disconnected: verify that security.protocol is correctly configured, broker might require SASL"
            " authentication (after 12ms in state UP)",
            "b1:9092",
            "it closed the connection soon after it was made",
        ),
        ("sasl_ssl://b1:9093/bootstrap: Disconnected" + IN_STATE, "b1:9093", CLOSED),
        ("sasl_plaintext://b1:9093/1: Receive failed: Connection reset by peer (after 3ms in state UP)", "b1:9093", CLOSED),
        ("ssl://b1:9093/1: Send failed: Broken pipe (after 3ms in state UP)", "b1:9093", CLOSED),
        ("sasl_ssl://b1:9093/1: 3 request(s) timed out: disconnect (average rtt 0.1ms) (after 1ms in state UP)", "b1:9093", SILENT),
        ("b1:9092/bootstrap: Connection setup timed out in state CONNECT (after 30028ms in state CONNECT)", "b1:9092", SILENT),
        ("[thrd:b1:9092/1]: b1:9092/1: Timed out FetchRequest in flight (after 60421ms, timeout #0)", "b1:9092", SILENT),
        ("b1:9092/1: Timed out 1 in-flight, 0 retry-queued, 0 out-queue, 0 partially-sent requests", "b1:9092", SILENT),
        # rdkafka_ssl.c
        (
            "ssl://b1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed:"
            " broker certificate could not be verified, verify that ssl.ca.location is correctly configured or root CA"
            " certificates are installed (install ca-certificates package) (after 5ms in state SSL_HANDSHAKE)",
            "b1:9093",
            CERTIFICATE,
        ),
        ("ssl://b1:9093/1: Failed to verify broker certificate: unable to get issuer certificate", "b1:9093", CERTIFICATE),
        (
            "ssl://b1:9093/1: Failed to verify broker certificate: certificate has expired (after 5ms in state SSL_HANDSHAKE)",
            "b1:9093",
            "its certificate is not valid at this time",
        ),
        (
            "ssl://b1:9093/1: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed:"
            " Hostname mismatch (after 5ms in state SSL_HANDSHAKE)",
            "b1:9093",
            "its certificate is for another name",
        ),
        (
            "ssl://b1:9092/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?"
            " (after 5ms in state SSL_HANDSHAKE)",
            "b1:9092",
            "it does not speak TLS on this port",
        ),
        (
            "ssl://b1:9092/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
            "b1:9092",
            "it does not speak TLS on this port",
        ),
        (
            "ssl://b1:9093/bootstrap: SSL handshake failed: error:0A0000F4:SSL routines::unexpected message: client SSL"
            " authentication might be required (see ssl.key.location and ssl.certificate.location and consult the"
            " broker logs for more information) (after 5ms in state SSL_HANDSHAKE)",
            "b1:9093",
            "it does not accept this client's certificate",
        ),
        ("b1:9093/bootstrap: Disconnected: connection closed by peer" + IN_STATE, "b1:9093", "it closed the connection at the first request"),
        (
            'Failed to acquire SASL OAUTHBEARER token: {"error": "invalid_client"}',
            "",
            'no token could be had: {"error": "invalid_client"}',
        ),
        (
            "ssl://b1:9093/1: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert"
            " number 116 (after 5ms in state APIVERSION_QUERY)",
            "b1:9093",
            "it does not accept this client's certificate",
        ),
        (
            "ssl://b1:9093/1: SSL handshake failed: error:0A000126:SSL routines::unexpected eof while reading"
            " (after 5ms in state SSL_HANDSHAKE)",
            "b1:9093",
            "the TLS handshake failed",
        ),
        # rdkafka_request.c, rdkafka_transport.c, rdkafka_broker.c: SASL
        (
            "sasl_ssl://b1:9093/bootstrap: SASL authentication error: Authentication failed during authentication due to"
            " invalid credentials with SASL mechanism SCRAM-SHA-256 (after 301ms in state AUTH_REQ)",
            "b1:9093",
            AUTHENTICATION,
        ),
        ("sasl_plaintext://b1:9093/1: SASL authentication failure: bad response", "b1:9093", AUTHENTICATION),
        ("sasl_ssl://b1:9093/1: Failed to initialize SASL authentication: no", "b1:9093", AUTHENTICATION),
    ],
)  # fmt: skip
def test_a_brokers_failure_is_told_by_broker_and_reason(text: str, broker: str, reason: str) -> None:
    found = explain(text)
    assert found[:2] == (broker, reason)
    assert found[2], "it says what to check"


def test_the_mechanisms_that_a_broker_offers_are_told() -> None:
    _, reason, check = explain(
        "sasl_plaintext://b1:9093/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism:"
        " broker's supported mechanisms: SCRAM-SHA-512,GSSAPI (after 3ms in state AUTH_HANDSHAKE)"
    )
    assert reason == "it does not offer this SASL mechanism"
    assert check.endswith("SCRAM-SHA-512,GSSAPI")


@pytest.mark.parametrize("protocol", ["", "ssl://", "sasl_plaintext://", "sasl_ssl://"])
def test_the_protocol_in_a_brokers_name_is_no_reason(protocol: str) -> None:
    failure = parse(f"[thrd:{protocol}b:9/bootstrap]: {protocol}b:9/bootstrap: something new{IN_STATE}")
    assert (failure.broker, failure.reason, failure.text) == ("b:9", "", "something new")


def test_a_line_about_nothing_of_the_kind_is_left_as_it_is() -> None:
    failure = parse("[thrd:main]: Topic orders partition count changed from 3 to 4")
    assert (failure.broker, failure.reason) == ("", "")
    assert failure.text == "Topic orders partition count changed from 3 to 4"


# -- folding ------------------------------------------------------------------------------

BROKER = "b1:9093/{}: Connect to ipv4#10.0.0.1:9093 failed: Connection refused (after {}ms in state CONNECT)"
LINE = "broker b1:9093: connection refused; is the broker running, and is this its address?"


def test_one_failure_is_one_line_however_many_connections_and_workers_say_it() -> None:
    clock = FakeClock()
    folder = RepeatFolder(interval_s=30.0, clock=clock)
    lines = []
    for number in range(1000):
        lines += folder.take(_message(BROKER.format(number % 3, number)))
        lines += folder.take(_message("[thrd:x]: " + BROKER.format("bootstrap", number)))
        clock.advance(0.01)
    assert [line.text for line in lines] == [LINE]
    assert lines[0].level == logging.WARNING


def test_repeats_are_told_once_an_interval_with_their_count() -> None:
    clock = FakeClock()
    folder = RepeatFolder(interval_s=30.0, clock=clock)
    folder.take(_message(BROKER.format(1, 0)))
    for _ in range(7):
        folder.take(_message(BROKER.format(1, 0)))
    assert folder.due() == []
    clock.advance(31)
    assert [line.text for line in folder.due()] == [LINE + " (7 more times in 31 s)"]
    assert folder.due() == []
    clock.advance(1000)
    assert folder.due() == [], "what has ended is not told again"
    assert [line.text for line in folder.take(_message(BROKER.format(1, 0)))] == [LINE + " (once more in 1000 s)"]


def test_brokers_and_reasons_are_kept_apart() -> None:
    folder = RepeatFolder(clock=FakeClock())
    assert folder.take(_message(BROKER.format(1, 0)))
    assert folder.take(_message("b2:9093/2: Connect to ipv4#10.0.0.1:9093 failed: Connection refused"))
    assert folder.take(_message("b1:9093/1: Disconnected" + IN_STATE))


def test_lines_without_a_reason_are_one_kind_whatever_their_numbers() -> None:
    folder = RepeatFolder(clock=FakeClock())
    assert [line.text for line in folder.take(_message("b1:9093/1: odd thing 17"))] == ["broker b1:9093: odd thing 17"]
    assert folder.take(_message("b1:9093/1: odd thing 18")) == []


def test_all_brokers_down_adds_no_line_to_those_about_the_brokers() -> None:
    folder = RepeatFolder(clock=FakeClock())
    folder.take(_message(BROKER.format(1, 0)))
    assert folder.take(_message("3/3 brokers are down")) == []


@pytest.mark.parametrize(
    ("level", "expected"), [(2, logging.ERROR), (3, logging.WARNING), (4, logging.WARNING), (6, logging.INFO)]
)
def test_levels_are_those_of_syslog(level: int, expected: int) -> None:
    assert RepeatFolder(clock=FakeClock()).take(_message("x", level))[0].level == expected


def test_debug_lines_are_left_out() -> None:
    assert RepeatFolder(clock=FakeClock()).take(_message("x", 7)) == []


def test_memory_is_bounded_and_the_oldest_kind_is_forgotten() -> None:
    clock = FakeClock()
    folder = RepeatFolder(clock=clock)
    for number in range(RepeatFolder.MAX_KINDS + 5):
        clock.advance(0.001)
        folder.take(_message(f"b{number}:1/1: Disconnected"))
    assert len(folder._seen) == RepeatFolder.MAX_KINDS
    assert folder.take(_message(f"b{RepeatFolder.MAX_KINDS + 4}:1/1: Disconnected")) == [], "a new one is remembered"
    assert folder.take(_message("b0:1/1: Disconnected")), "the oldest is not"
