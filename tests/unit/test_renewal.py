"""Files that are renewed: each change is seen once, however it is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kbr.kafka.settings import ClientSettings, admin_properties, login_files
from kbr.renewal import SeenFiles


def _write(path: Path) -> None:
    path.write_text("other")


def _replace(path: Path) -> None:
    (path.parent / "new").write_text("first")  # the same size
    (path.parent / "new").replace(path)


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [_write, _replace, _touch, Path.unlink])
def test_each_change_of_a_file_is_seen_once(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path, other = tmp_path / "cert.pem", tmp_path / "not there"
    path.write_text("first")
    seen = SeenFiles([str(path), str(other), "not\0a path"])
    assert not seen.changed
    assert not seen.take()
    change(path)
    assert seen.changed
    assert (seen.take(), seen.take(), seen.changed) == (True, False, False)
    other.write_text("it has come")
    assert seen.take()


def test_a_file_behind_a_link_is_seen_as_kubernetes_renews_it(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "tls.crt").write_text("same")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    seen = SeenFiles([str(tmp_path / "tls.crt")])
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(tmp_path / "..data")
    assert seen.take()


def test_a_folder_is_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("a")
    seen = SeenFiles([str(tmp_path)])
    _write(tmp_path / "a.pem")
    assert seen.take()
    (tmp_path / "b.pem").write_text("b")
    assert seen.take()
    assert not seen.take()


def test_all_files_of_a_login_are_watched() -> None:
    settings = ClientSettings(
        bootstrap_servers=("a:1",), security_protocol="SSL", ssl_ca_location="/ca", ssl_certificate_location="/crt", ssl_key_location="/key",
        client={"ssl.keystore.location": "/p12", "https.ca.location": "/https", "sasl.kerberos.keytab": "/keytab", "ssl.key.password": "/no",
                "ssl.crl.location": "/crl", "sasl.oauthbearer.assertion.private.key.file": "/jwt"},
    )  # fmt: skip
    assert set(login_files(admin_properties(settings))) == {"/ca", "/crt", "/key", "/p12", "/https", "/keytab", "/crl", "/jwt"}
    assert not SeenFiles(login_files(admin_properties(ClientSettings(bootstrap_servers=("a:1",)))))
