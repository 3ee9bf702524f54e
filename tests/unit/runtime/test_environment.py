"""What workers inherit of the environment."""

from __future__ import annotations

import pytest

from kbr import secrecy
from kbr.runtime.executors.local import worker_environment


@pytest.mark.parametrize(
    "name",
    [
        "KBR_SOURCE_SECURITY_PASSWORD",
        "KBR_ANYTHING",
        "KAFKA_PASSWORD",
        "db_passwd",
        "SASL_PASSPHRASE",
        "CLIENT_SECRET",
        "GITHUB_TOKEN",
        "SOME_API_KEY",
        "S3_ACCESS_KEY_ID",
        "GOOGLE_APPLICATION_CREDENTIALS_JSON",
        "MY_PRIVATE_PEM",
    ],
)
def test_what_is_named_like_a_secret_is_not_inherited(name: str) -> None:
    assert worker_environment({name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HOME", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "https_proxy", "TZ", "KRB5_CONFIG",
        "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE",
    ],
)
def test_what_workers_need_is_inherited(name: str) -> None:
    assert worker_environment({name: "x"}) == {name: "x"}


def test_what_the_configuration_refers_to_is_not_inherited_but_what_nobody_can_do_without() -> None:
    environ = {name: "x" for name in ("BROKER_WORD", "PATH", "HOME", "LC_ALL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "OTHER", "HTTPS_PROXY")}
    assert set(worker_environment(environ, set(environ))) == set(environ) - {"BROKER_WORD", "OTHER"}
    assert set(worker_environment(environ, {"BROKER_WORD"})) == set(environ) - {"BROKER_WORD"}


def test_a_variable_that_holds_a_known_secret_is_not_inherited_whatever_its_name() -> None:
    secrecy.hide(["s3cr3t-word"])
    try:
        environ = {"JAVA_OPTS": "-Dpw=s3cr3t-word", "PLAIN": "word", "ENCODED": "czNjcjN0LXdvcmQ="}
        assert worker_environment(environ) == {"PLAIN": "word"}
    finally:
        secrecy.forget()
