"""Amazon MSK's tokens: for which region, with which credentials, and what is said when there are none."""

from __future__ import annotations

import base64
import builtins
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kbr.errors import AuthenticationFailed, ConfigError
from kbr.kafka.settings import ClientSettings, MskIamLogin, admin_properties
from kbr.kafka.tokens import SIGN_DEADLINE_S, _MskTokens, msk_region, token_source

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Credentials of nobody, and none of this machine's."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def _settings(**login: Any) -> ClientSettings:
    return ClientSettings(
        bootstrap_servers=("b-1.x.abc.c2.kafka.eu-central-1.amazonaws.com:9098",),
        security_protocol="SASL_SSL",
        sasl_mechanism="AWS_MSK_IAM",
        msk_iam=MskIamLogin(**login),
    )


def _claims(token: str) -> Mapping[str, list[str]]:
    return parse_qs(urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()).query)


def test_a_token_is_signed_for_the_region_and_ends_in_a_quarter_of_an_hour() -> None:
    source = token_source(_settings())
    assert source is not None
    token, expires_at_ms, principal = source()
    claims = _claims(token)
    assert claims["X-Amz-Credential"][0].split("/")[2:] == ["eu-central-1", "kafka-cluster", "aws4_request"]
    assert claims["Action"] == ["kafka-cluster:Connect"]
    assert 800_000 < expires_at_ms - time.time() * 1000 <= 900_000
    assert principal == ""
    assert SECRET not in base64.urlsafe_b64decode(token + "==").decode()


def test_each_token_is_signed_with_the_credentials_that_are_there_then(monkeypatch: pytest.MonkeyPatch) -> None:
    source = token_source(_settings())
    assert source is not None
    source()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ROTATED")
    assert _claims(source()[0])["X-Amz-Credential"][0].startswith("ROTATED/")


def test_a_profile_is_taken_from_the_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[backup]\naws_access_key_id = FROM-FILE\naws_secret_access_key = x\n")
    source = token_source(_settings(profile="backup"))
    assert source is not None
    assert _claims(source()[0])["X-Amz-Credential"][0].startswith("FROM-FILE/")


@pytest.mark.parametrize(
    ("server", "environ", "region"),
    [
        ("b-1.x.abc.c2.kafka.us-east-1.amazonaws.com:9098", {"AWS_REGION": "eu-west-1"}, "us-east-1"),
        ("boot-abc.c1.kafka-serverless.ap-southeast-2.amazonaws.com:9098", {}, "ap-southeast-2"),
        ("b-1.x.abc.c2.kafka.cn-north-1.amazonaws.com.cn:9098", {}, "cn-north-1"),
        ("b-1-public.x.abc.c2.kafka.us-gov-west-1.amazonaws.com:9198", {}, "us-gov-west-1"),
        ("kafka.example.org:9098", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-west-1"),
        ("kafka.example.org:9098", {"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        ("kafka.example.org:9098", {}, ""),
    ],
)
def test_the_region_is_known_by_the_brokers_name_or_the_environment(
    server: str, environ: Mapping[str, str], region: str
) -> None:
    assert msk_region((server,), environ) == region


def test_a_region_that_nobody_tells_is_asked_for() -> None:
    settings = ClientSettings(bootstrap_servers=("kafka.example.org:9098",), sasl_mechanism="AWS_MSK_IAM")
    with pytest.raises(ConfigError) as caught:
        token_source(settings)
    assert "aws_region" in caught.value.hint


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("aws_msk_iam_sasl_signer"):
            raise ImportError("No module named 'aws_msk_iam_sasl_signer'")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as caught:
        token_source(_settings())
    assert "kbr[msk]" in caught.value.hint


def test_no_credentials_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    source = token_source(_settings())
    assert source is not None
    with pytest.raises(AuthenticationFailed, match="Amazon MSK in eu-central-1: no AWS credentials were found"):
        source()


def test_a_profile_that_is_not_there_is_named() -> None:
    source = token_source(_settings(profile="nobody"))
    assert source is not None
    with pytest.raises(AuthenticationFailed, match="nobody"):
        source()


def test_other_mechanisms_need_no_source_and_the_wire_sees_oauthbearer() -> None:
    assert token_source(ClientSettings(bootstrap_servers=("a:1",), sasl_mechanism="OAUTHBEARER")) is None
    found = admin_properties(_settings())
    assert found["sasl.mechanism"] == "OAUTHBEARER"
    assert "enable.sasl.oauthbearer.unsecure.jwt" not in found


def test_a_signer_that_hangs_is_an_error_in_time_and_hangs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As boto does where somebody that it asks for credentials does not answer."""
    over, calls = threading.Event(), []

    class Signer:
        @staticmethod
        def generate_auth_token(_region: str) -> tuple[str, int]:
            calls.append(threading.current_thread())
            over.wait(60)
            return "late", 1

    monkeypatch.setattr("kbr.kafka.tokens.SIGN_DEADLINE_S", 0.05)
    source = _MskTokens(Signer, MskIamLogin(), "eu-central-1")
    for _ in range(3):
        with pytest.raises(AuthenticationFailed, match=r"no token could be had for Amazon MSK in eu-central-1: .* 0.05 s") as caught:
            source()
        assert "instance's metadata" in caught.value.hint
    assert len(calls) == 1, "each try would leave a thread behind"
    assert calls[0].daemon, "the process ends all the same"
    over.set()
    calls[0].join(30)
    monkeypatch.setattr("kbr.kafka.tokens.SIGN_DEADLINE_S", 30)
    assert source() == ("late", 1, "")
    assert len(calls) == 2, "what came too late is not taken for a new token"


def test_what_a_client_waits_for_its_tokens_is_bounded() -> None:
    assert SIGN_DEADLINE_S <= 20
