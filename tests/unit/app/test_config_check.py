"""`kbr config check` knows what the librdkafka in use would refuse, without connecting to anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbr.app.check import check_config
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
