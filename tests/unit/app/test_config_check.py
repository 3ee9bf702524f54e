"""`kbr config check` knows what the librdkafka in use would refuse, without connecting to anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbr.app.check import check_config
from kbr.app.stores import store_options
from kbr.config import load_config
from kbr.errors import ConfigError


def _check(tmp_path: Path, side: str, **values: object) -> None:
    overrides = {
        "backup_id": "b",
        "storage.url": str(tmp_path),
        f"{side}.bootstrap_servers": "127.0.0.1:1",
        **{f"{side}.{name.replace('__', '.')}": value for name, value in values.items()},
    }
    check_config(load_config(None, overrides=overrides, environ={}, run_commands=False))


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_unknown_property_and_a_login_that_cannot_work_are_mistakes(
    tmp_path: Path, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    _check(tmp_path, side, client={"fetch.min.bytes": "1"})
    with pytest.raises(ConfigError, match=r"client property fetch\.mim\.bytes"):
        _check(tmp_path, side, client={"fetch.mim.bytes": "1"})
    with pytest.raises(ConfigError, match="GSSAPI: librdkafka"):
        _check(tmp_path, side, security__security_protocol="SASL_SSL", security__sasl_mechanism="GSSAPI")
    with pytest.raises(ConfigError, match="AWS region is not known"):
        _check(tmp_path, side, security__security_protocol="SASL_SSL", security__sasl_mechanism="AWS_MSK_IAM")


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_file_of_a_login_that_is_not_there_is_a_mistake_of_its_key(tmp_path: Path, side: str) -> None:
    """librdkafka says 'ssl.ca.location failed: error:05880020:x509 certificate routines::BIO lib', and says it to runs only."""
    there = tmp_path / "ca.pem"
    there.write_bytes(b"")
    for ca in (str(there), str(tmp_path), "probe"):
        _check(tmp_path, side, security__security_protocol="SSL", security__ssl_ca_location=ca)
    with pytest.raises(ConfigError, match=rf"key {side}\.security\.ssl_ca_location: its file can't be read: No such file"):
        _check(tmp_path, side, security__security_protocol="SSL", security__ssl_ca_location=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="ssl_key_location: its file can't be read") as caught:
        _check(
            tmp_path, side, security__security_protocol="SSL", security__ssl_certificate_location=str(there),
            security__ssl_key_location="-----BEGIN PRIVATE KEY-----",
        )  # fmt: skip
    assert "BEGIN PRIVATE" not in f"{caught.value!r}"


def test_a_file_of_cas_of_the_store_that_is_not_there_is_no_server_that_is_away(tmp_path: Path) -> None:
    overrides = {"storage.url": "s3://b/p", "storage.endpoint": "https://127.0.0.1:1", "storage.ca_bundle": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=r"key storage\.ca_bundle: its file can't be read: No such file"):
        store_options(load_config(None, overrides=overrides, environ={}).storage)
