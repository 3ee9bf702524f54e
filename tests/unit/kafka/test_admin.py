"""How long a cluster is tried, and what is told when it does not answer."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from kbr.errors import AuthenticationFailed, ClusterUnavailable, ConfigError
from kbr.kafka.admin import CAUSE_LIFETIME_S, CONNECT_DEADLINE_S, REFUSED_DEADLINE_S, AdminSession
from kbr.kafka.cluster import Cluster
from kbr.kafka.settings import ClientSettings
from kbr.renewal import SeenFiles
from kbr.timing import SYSTEM_CLOCK
from tests.support.clocks import FakeClock

SECRET = "hush-hush"
REFUSED = "b:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"
NO_LOGIN = "sasl_ssl://b:1/bootstrap: SASL authentication error: Authentication failed (after 9ms in state AUTH_REQ)"
NO_TLS = "ssl://b:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? (after 0ms in state SSL_HANDSHAKE)"


class _Client:
    """Fails to list topics as often as told; each attempt takes all of its time."""

    def __init__(self, clock: FakeClock, code: int, failures: int = 10_000) -> None:
        self.clock = clock
        self.code = code
        self.failures = failures

    def list_topics(self, timeout: float):
        if self.failures == 0:
            return SimpleNamespace(cluster_id="c", brokers={}, topics={})
        self.failures -= 1
        self.clock.advance(timeout)
        raise KafkaException(KafkaError(self.code))

    def poll(self, _timeout: float) -> int:
        return 0


def _session(code: int, *, failures: int = 10_000, deadline_s: float = 60) -> tuple[AdminSession, FakeClock]:
    clock = FakeClock()
    session = AdminSession(ClientSettings(bootstrap_servers=("b:1",)), deadline_s=deadline_s, clock=clock)
    session._client = _Client(clock, code, failures)
    return session, clock


def test_a_cluster_that_cannot_be_reached_is_given_up_soon() -> None:
    session, clock = _session(KafkaError._TRANSPORT)
    session._log.note_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
    with pytest.raises(ClusterUnavailable, match=r"no broker answered at b:1 within 1\d s: connection refused"):
        session.metadata()
    assert CONNECT_DEADLINE_S <= clock.monotonic() < 2 * CONNECT_DEADLINE_S


def test_a_cluster_that_is_slow_to_answer_gets_the_whole_deadline() -> None:
    session, clock = _session(KafkaError._TIMED_OUT)
    with pytest.raises(ClusterUnavailable):
        session.metadata()
    assert clock.monotonic() == pytest.approx(60)


def test_a_short_deadline_is_kept() -> None:
    session, clock = _session(KafkaError._TRANSPORT, deadline_s=2)
    with pytest.raises(ClusterUnavailable):
        session.metadata()
    assert clock.monotonic() == pytest.approx(2)


def test_a_broker_that_is_starting_is_waited_for() -> None:
    session, _clock = _session(KafkaError._TRANSPORT, failures=3)
    assert session.metadata().cluster_id == "c"


@pytest.mark.parametrize(("code", "text"), [(KafkaError._AUTHENTICATION, NO_LOGIN), (KafkaError._TRANSPORT, NO_TLS)])
def test_a_refused_login_is_not_tried_for_long(code: int, text: str) -> None:
    session, clock = _session(KafkaError._TRANSPORT)
    session._log.note_error(KafkaError(code, text))
    with pytest.raises(AuthenticationFailed):
        session.metadata()
    assert REFUSED_DEADLINE_S <= clock.monotonic() < CONNECT_DEADLINE_S


def test_what_the_client_said_long_ago_explains_nothing() -> None:
    session, clock = _session(KafkaError._TRANSPORT, deadline_s=1)
    session._log.note_error(KafkaError(KafkaError._AUTHENTICATION, NO_LOGIN))
    clock.advance(CAUSE_LIFETIME_S + 1)
    with pytest.raises(ClusterUnavailable):
        session.metadata()


def test_the_log_line_beside_an_error_does_not_hide_what_kind_it_is() -> None:
    session, _clock = _session(KafkaError._TRANSPORT)
    session._log.note_error(KafkaError(KafkaError._AUTHENTICATION, NO_LOGIN))
    session._log.handle(logging.LogRecord("x", logging.ERROR, "", 0, f"FAIL [c] [thrd:b]: {NO_LOGIN}", None, None))
    session._log.note_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    with pytest.raises(AuthenticationFailed, match="authentication failed"):
        session.metadata()


def test_an_answer_that_never_comes_is_an_error_of_ours() -> None:
    session, _clock = _session(KafkaError._TRANSPORT, deadline_s=-5)
    with pytest.raises(ClusterUnavailable, match="looking"):
        session.result(Future(), "looking")


class _Stop:
    """Comes when it was asked for so many times."""

    def __init__(self, after: int = 0) -> None:
        self._left = after

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


class _SilentClient:
    """Never answers, as long as a test goes on."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def list_topics(self, timeout: float) -> None:
        self.over.wait(60)

    def poll(self, _timeout: float) -> int:
        return 0


def _stopped_session(stop: _Stop) -> tuple[AdminSession, _SilentClient]:
    settings = ClientSettings(bootstrap_servers=("b:1",))
    session = AdminSession(settings, deadline_s=3600, clock=SYSTEM_CLOCK, is_stopped=stop)
    client = _SilentClient()
    session._client = client
    return session, client


def test_a_stop_ends_what_waits_for_metadata_though_librdkafka_goes_on() -> None:
    session, client = _stopped_session(_Stop(after=2))
    try:
        with pytest.raises(ClusterUnavailable, match="reading metadata: given up, as the run was stopped"):
            session.metadata()
    finally:
        client.over.set()


def test_a_stop_ends_what_waits_for_an_answer_and_what_would_be_asked_again() -> None:
    session, _client = _stopped_session(_Stop(after=2))
    asked: list[int] = []

    def ask() -> object:
        asked.append(1)
        return session.result(Future(), "looking")

    with pytest.raises(ClusterUnavailable, match="looking: given up"):
        session.steadily(ask)
    assert asked == [1]


def test_an_answer_that_is_there_counts_after_a_stop_too() -> None:
    session, _client = _stopped_session(_Stop())
    answer: Future[str] = Future()
    answer.set_result("here")
    assert session.result(answer, "looking") == "here"


def test_a_question_that_is_to_be_answered_after_a_stop_gets_its_time() -> None:
    clock = FakeClock()
    settings = ClientSettings(bootstrap_servers=("b:1",))
    session = AdminSession(settings, deadline_s=3600, clock=clock, is_stopped=_Stop())
    limit = session.deadline(stop_grace_s=5)
    assert not limit.is_given_up
    clock.advance(4.9)
    assert not limit.is_given_up
    clock.advance(0.2)
    assert limit.is_given_up


def test_refused_settings_do_not_show_secrets() -> None:
    settings = ClientSettings(
        bootstrap_servers=("127.0.0.1:1",),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        password=SECRET,
        client={"ssl.key.pem": SECRET, "security.protocol": "SASL_SSL"},
    )
    with pytest.raises(ConfigError) as caught, Cluster(settings, deadline_s=1):
        pass
    error = caught.value
    assert SECRET not in f"{error} {error.hint} {error.context} {error.__cause__}"
    assert error.__suppress_context__


@pytest.mark.parametrize("password", ["b", "its", "kafka", "broker-1.kafka", "certificate"])
def test_a_brokers_name_that_holds_the_password_is_still_looked_at(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def why(broker: str, _settings: ClientSettings) -> str:
        asked.append(broker)
        return "certificate has expired"

    monkeypatch.setattr("kbr.kafka.admin.why_refused", why)
    settings = ClientSettings(bootstrap_servers=("broker-1.kafka:1",), password=password, security_protocol="SASL_SSL")
    session = AdminSession(settings, deadline_s=60, clock=FakeClock())
    session._log.note_error(
        KafkaError(
            KafkaError._SSL,
            "sasl_ssl://broker-1.kafka:1/bootstrap: SSL handshake failed: ssl/statem: certificate verify failed (after 3ms in state SSL_HANDSHAKE)",
        )
    )
    cause = session._cause()
    assert asked == ["broker-1.kafka:1"]
    assert cause is not None
    assert cause.reason == "its certificate is not valid at this time"


def test_what_a_token_server_says_is_shown_without_the_secret() -> None:
    settings = ClientSettings(bootstrap_servers=("b:1",), client={"sasl.oauthbearer.client.secret": SECRET})
    session = AdminSession(settings, deadline_s=60, clock=FakeClock())
    text = f'Failed to retrieve OIDC token from "https://t": {"x" * (295 - len(SECRET))} no {SECRET}{"y" * 400}'
    session._log.note_error(KafkaError(KafkaError._AUTHENTICATION, text))
    cause = session._log.cause()
    assert cause is not None
    assert SECRET[:4] not in cause.reason
    assert "xxx" in cause.reason
    assert len(cause.reason) < 350


def test_a_password_that_is_refused_in_a_run_is_no_outage_and_a_token_is() -> None:
    for mechanism, kind in (("SCRAM-SHA-512", AuthenticationFailed), ("OAUTHBEARER", ClusterUnavailable)):
        session, _clock = _session(KafkaError._TRANSPORT, failures=0, deadline_s=20)
        session._properties["sasl.mechanism"] = mechanism
        session.metadata()
        session._client.failures = 10_000
        session._log.note_error(KafkaError(KafkaError._AUTHENTICATION, NO_LOGIN))
        with pytest.raises(kind, match="authentication failed"):
            session.metadata()


def test_a_login_that_never_worked_is_a_wrong_one_whatever_it_is(tmp_path: Path) -> None:
    session, _clock = _session(KafkaError._TRANSPORT)
    session._files = SeenFiles([str(tmp_path / "cert.pem")])
    session._properties["sasl.mechanism"] = "OAUTHBEARER"
    session._log.note_error(KafkaError(KafkaError._SSL, NO_TLS))
    with pytest.raises(AuthenticationFailed):
        session.metadata()
