"""A login that fails is one line that says why, soon, and with the right exit code: each on a real broker's listener."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.support.cli import start_kbr
from tests.support.secure_kafka import SecureKafka, Way

PLAIN = Way("SASL_SSL", "PLAIN")


class Case(NamedTuple):
    """What is wrong, and what is to be said."""

    way: Way
    user: str
    words: tuple[str, ...]
    security: Mapping[str, object] = {}
    host: str = "127.0.0.1"
    exit_code: int = 1


CASES = {
    "wrong-password": Case(PLAIN, "reader", ("authentication failed", "username and password"), {"password": "no"}),
    "wrong-scram-password": Case(
        Way("SASL_PLAINTEXT", "SCRAM-SHA-512"), "reader", ("authentication failed",), {"password": "no"}
    ),
    "wrong-client-secret": Case(
        Way("SASL_SSL", "OAUTHBEARER"), "reader", ("no token could be had", "invalid_client"), {"oauth_client_secret": "no"}
    ),
    "no-token-server": Case(
        Way("SASL_SSL", "OAUTHBEARER"),
        "reader",
        ("no token could be had", "onnect"),
        {"oauth_token_endpoint_url": "http://127.0.0.1:1/token"},
    ),
    "unknown-ca": Case(Way("SSL"), "reader", ("can't be verified", "ssl_ca_location"), {"ssl_ca_location": "OTHER"}),
    "expired-certificate": Case(Way("EXPIRED"), "reader", ("not valid at this time",)),
    "wrong-host": Case(Way("SSL"), "reader", ("certificate is for another name",), host="localhost"),
    "plain-client-on-tls": Case(
        Way("SSL"), "reader", ("TLS listener",), {"security_protocol": "PLAINTEXT", "ssl_ca_location": None}, exit_code=5
    ),
    "tls-client-on-plain": Case(Way("PLAINTEXT"), "reader", ("does not speak TLS",), {"security_protocol": "SSL"}),
    "no-client-certificate": Case(
        Way("MTLS"),
        "reader",
        ("client's certificate", "ssl_certificate_location"),
        {"ssl_certificate_location": None, "ssl_key_location": None},
    ),
    "untrusted-client-certificate": Case(
        Way("MTLS"),
        "reader",
        ("client's certificate", "ssl_certificate_location"),
        {"ssl_certificate_location": "OTHER", "ssl_key_location": "OTHER"},
    ),
    "wrong-mechanism": Case(
        Way("INTERNAL", "PLAIN"), "reader", ("does not offer this SASL mechanism", "PLAIN"), {"sasl_mechanism": "SCRAM-SHA-256"}
    ),
    "no-login-where-one-is-needed": Case(
        PLAIN, "reader", ("SASL",), {"security_protocol": "SSL", "sasl_mechanism": None, "username": None, "password": None},
        exit_code=5,
    ),
}  # fmt: skip


class Ended(NamedTuple):
    """A run of kbr."""

    exit_code: int
    lines: list[str]


@pytest.fixture(scope="module")
def ended(secure_kafka: SecureKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All cases at once, each a process: most of their time is waiting."""
    folder = tmp_path_factory.mktemp("refusals")
    stranger = secure_kafka.other_authority.sign("stranger")
    others = {
        "ssl_ca_location": str(secure_kafka.other_authority.certificate),
        "ssl_certificate_location": str(stranger.certificate),
        "ssl_key_location": str(stranger.key),
    }
    started: dict[str, subprocess.Popen[str]] = {}
    for name, case in CASES.items():
        changes = {key: others[key] if value == "OTHER" else value for key, value in case.security.items()}
        config: dict[str, Any] = {
            "backup_id": "b",
            "source": secure_kafka.cluster_config(case.way, case.user, **changes),
            "storage": {"url": str(folder / name)},
        }
        config["source"]["bootstrap_servers"] = [f"{case.host}:{secure_kafka.port(case.way.listener)}"]
        # of a listener that only closes connections, nobody can say whether it will do so for ever
        config["source"]["deadline_ms"] = 6000
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(config))
        started[name] = start_kbr("backup", "-c", str(path))
    found = {}
    for name, process in started.items():
        _out, text = process.communicate(timeout=100)
        found[name] = Ended(process.returncode, text.strip().splitlines())
    yield found


@pytest.mark.parametrize("name", list(CASES))
def test_a_login_that_fails_is_one_clear_line(ended: dict[str, Ended], name: str) -> None:
    case, run = CASES[name], ended[name]
    text = "\n".join(run.lines)
    assert run.exit_code == case.exit_code, text
    errors = [line for line in run.lines if line.lower().startswith("error")]
    assert len(errors) == 1, text
    assert "Traceback" not in text
    for word in case.words:
        assert word in text, text
    for secret in ("secret-of-reader", "BEGIN"):
        assert secret not in text
