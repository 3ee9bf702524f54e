"""Files with secrets that others may read are told of: once, and only if others really may."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbr.config import load_config


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="kbr-exposure-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def _file(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def _warnings(path: Path, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    return load_config(path, environ=environ or {}).warnings


S3 = "storage: {url: 's3://bucket', access_key: A, secret_key: %s}\n"


@pytest.mark.parametrize(
    ("secret_mode", "config_mode", "folder_mode", "told"),
    [
        (0o600, 0o600, 0o755, []),
        (0o640, 0o640, 0o755, []),
        (0o644, 0o600, 0o755, ["secret, which holds a secret: chmod o="]),
        (0o644, 0o644, 0o700, []),
        (0o644, 0o644, 0o755, ["secret, which holds a secret: chmod o=", "kbr.yaml, which holds a secret: chmod o="]),
        (0o600, 0o602, 0o755, ["change the configuration file"]),
    ],
)
def test_a_file_of_secrets_that_every_user_may_read_is_told_of(
    folder: Path, secret_mode: int, config_mode: int, folder_mode: int, told: list[str]
) -> None:
    secret = _file(folder / "secret", "hush-hush\n", secret_mode)
    # the access key stands in the configuration file itself
    config = _file(folder / "kbr.yaml", S3 % f"'${{file:{secret}}}'", config_mode)
    folder.chmod(folder_mode)
    found = sorted(_warnings(config), key=lambda text: "kbr.yaml" in text)
    assert len(found) == len(told), found
    for text, words in zip(found, told):
        assert words in text
        assert "hush-hush" not in text


def test_a_configuration_without_secrets_may_be_read_by_all(folder: Path) -> None:
    text = (S3 % "'${WORD}'").replace("access_key: A", "access_key: '${KEY}'")
    assert _warnings(_file(folder / "kbr.yaml", text, 0o644), {"WORD": "x", "KEY": "y"}) == ()


def test_key_files_count_and_certificates_do_not(folder: Path) -> None:
    for name in ("key.pem", "cert.pem", "ca.pem", "store.p12"):
        _file(folder / name, "x", 0o644)
    text = (
        f"storage: {{url: /backups}}\nsource:\n  security: {{security_protocol: SSL, ssl_key_location: {folder}/key.pem, "
        f"ssl_certificate_location: {folder}/cert.pem, ssl_ca_location: {folder}/ca.pem}}\n"
        f"  client: {{ssl.keystore.location: {folder}/store.p12, ssl.crl.location: {folder}/ca.pem}}\n"
    )
    found = _warnings(_file(folder / "kbr.yaml", text, 0o644))
    assert [text.partition(",")[0] for text in sorted(found)] == [
        f"every user of this machine may read {folder}/{name}" for name in ("key.pem", "store.p12")
    ]


def test_a_link_is_judged_by_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    (folder / "secret").symlink_to(_file(tmp_path / "real", "hush-hush", 0o644))  # in a folder of this user's alone
    config = _file(tmp_path / "kbr.yaml", (S3 % f"'${{file:{folder}/secret}}'").replace("access_key: A", "access_key: '${KEY}'"), 0o600)
    assert _warnings(config, {"KEY": "y"}) == ()


def test_what_is_no_file_is_nobodys_business(folder: Path) -> None:
    text = f"storage: {{url: /backups}}\nsource: {{security: {{security_protocol: SSL, ssl_key_location: {folder}/absent}}}}\n"
    assert _warnings(_file(folder / "kbr.yaml", text, 0o600)) == ()
