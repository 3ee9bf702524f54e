"""Keys from the configuration: what is none is said in one line that holds nothing of it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbr.app.check import check_config
from kbr.app.prestart import worker_modules
from kbr.app.trust import make_key, trust_of
from kbr.app.wiring import storage_options
from kbr.config import Config, load_config
from kbr.errors import ConfigError
from kbr.repository.sealing import Sealing
from kbr.storage import open_store
from tests.support.cli import kbr_environment, run_kbr

RAW = bytes(range(32))


def config(**keys: object) -> Config:
    overrides = {"storage.url": "/x", **{name.replace("__", "."): value for name, value in keys.items()}}
    return load_config(None, overrides=overrides, environ={})


@pytest.mark.parametrize(
    "text", [RAW.hex(), base64.b64encode(RAW).decode(), base64.urlsafe_b64encode(RAW).decode().rstrip("="), f" {RAW.hex()}\n"]
)
def test_a_symmetric_key_may_be_hex_or_base64(text: str) -> None:
    assert trust_of(config(encryption__key=text)).secrets.key == RAW


@pytest.mark.parametrize("text", ["hunter2", RAW.hex()[:-2], base64.b64encode(RAW + b"x").decode(), "0" * 63 + "z", "ü" * 44])
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes") as caught:
        trust_of(config(encryption__key=text))
    assert text not in f"{caught.value!r}{caught.value.hint}"


def test_files_that_hold_no_such_key_are_named_with_their_key_of_the_configuration(tmp_path: Path) -> None:
    make_key("identity", tmp_path / "id")
    make_key("signing", tmp_path / "sig")
    (tmp_path / "rubbish").write_bytes(b"-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "X25519", "-aes256", "-pass", "pass:right", "-out", str(tmp_path / "locked")],
        check=True,
    )
    wrong = [
        ({"encryption__identity": "sig"}, "another kind .Ed25519., not X25519"),
        ({"signing__key": "id"}, "another kind .X25519., not Ed25519"),
        ({"encryption__identity": "id.pub"}, "holds no private key"),
        ({"encryption__recipients": "id"}, "holds no public key"),
        ({"encryption__recipients": "sig.pub"}, "another kind"),
        ({"signing__public_keys": "id.pub"}, "another kind"),
        ({"signing__public_keys": "none"}, "can't read .*No such file"),
        ({"encryption__identity": "rubbish"}, "holds no private key"),
        ({"encryption__identity": "large"}, "larger than"),
        ({"encryption__identity": "locked"}, "needs a password"),
        ({"encryption__identity": "locked", "encryption__identity_password": "hunter2"}, "password is wrong"),
        ({"encryption__identity": "id", "encryption__identity_password": "hunter2"}, "has no password"),
    ]
    for keys, words in wrong:
        paths = {name: str(tmp_path / value) if "password" not in name else value for name, value in keys.items()}
        with pytest.raises(ConfigError, match=words) as caught:
            trust_of(config(**paths))
        (first, *_rest) = keys
        assert first.replace("__", ".") in str(caught.value)
        assert "hunter2" not in f"{caught.value!r}{caught.value.hint}{caught.value.__cause__!r}"
    given = {"encryption__identity": str(tmp_path / "locked"), "encryption__identity_password": "right"}
    assert len(trust_of(config(**given)).secrets.identity or b"") == 32


def test_keys_that_openssl_made_and_ours_are_of_one_kind(tmp_path: Path) -> None:
    for kind, algorithm in (("identity", "X25519"), ("signing", "ed25519")):
        made, theirs = tmp_path / f"ours-{kind}", tmp_path / f"theirs-{kind}"
        make_key(kind, made)
        subprocess.run(["openssl", "pkey", "-in", str(made), "-noout"], check=True)
        subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, "-out", str(theirs)], check=True)
        public = subprocess.run(["openssl", "pkey", "-in", str(theirs), "-pubout"], check=True, capture_output=True).stdout
        theirs.with_name(f"{theirs.name}.pub").write_bytes(public)
        for path in (made, theirs):
            if kind == "identity":
                trust = trust_of(config(encryption__identity=str(path), encryption__recipients=f"{path}.pub"))
                assert trust.secrets.identity
            else:
                trust = trust_of(config(signing__key=str(path), signing__public_keys=f"{path}.pub"))
                assert trust.signing_key


def test_who_goes_on_with_a_backup_and_signs_trusts_its_own_key_and_who_only_reads_those_that_are_named(tmp_path: Path) -> None:
    own, other = (make_key("signing", tmp_path / name) for name in ("own", "other"))
    alone = config(signing__key=own.private_file)
    assert [one.hex() for one in trust_of(alone, goes_on=True).public_keys] == [own.key_id]
    assert trust_of(alone).public_keys == ()
    both = config(signing__key=own.private_file, signing__public_keys=other.public_file, signing__accept_unsigned="true")
    assert [one.hex() for one in trust_of(both, goes_on=True).public_keys] == [other.key_id, own.key_id]
    assert [one.hex() for one in trust_of(both).public_keys] == [other.key_id]
    assert [trust_of(both, goes_on=goes_on).accept_unsigned for goes_on in (True, False)] == [True, False]
    assert trust_of(config(signing__public_keys=other.public_file), goes_on=True).accept_unsigned is False


def test_to_accept_what_is_unsigned_is_for_who_signs() -> None:
    with pytest.raises(ConfigError, match=r"signing\.accept_unsigned.*needs key"):
        config(signing__accept_unsigned="true")


def test_a_backup_that_wants_signatures_has_to_sign_or_nobody_could_use_it_any_more(tmp_path: Path) -> None:
    made = make_key("signing", tmp_path / "sig")
    given = {"storage.url": "/x", "backup_id": "b", "signing.public_keys": made.public_file}
    clusters = {"source.bootstrap_servers": "h:1", "target.bootstrap_servers": "h:1"}
    with pytest.raises(ConfigError, match=r"signing\.public_keys: needs key") as caught:
        load_config(None, mode="backup", overrides={**given, **clusters}, environ={})
    assert "leave public_keys out" in str(caught.value.hint) + str(caught.value)
    signed = {**given, **clusters, "signing.key": made.private_file}
    assert load_config(None, mode="backup", overrides=signed, environ={}).signing.key
    for mode in ("restore", None):  # who reads
        assert load_config(None, mode=mode, overrides={**given, **clusters}, environ={}).signing.public_keys  # type: ignore[arg-type]


def test_a_key_is_never_written_over_another_file(tmp_path: Path) -> None:
    made = make_key("identity", tmp_path / "id")
    before = (tmp_path / "id").read_bytes()
    for there in ("id", "id.pub"):
        with pytest.raises(ConfigError, match="never overwritten"):
            make_key("signing", tmp_path / "id")
        assert (tmp_path / "id").read_bytes() == before
        (tmp_path / there).rename(tmp_path / f"{there}.kept")
        (tmp_path / "id").write_bytes(before) if there == "id" else None
    assert made.key_id not in before.decode()


def test_a_printed_key_is_a_key_and_shows_nowhere_else() -> None:
    done = run_kbr("config", "key")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(base64.b64decode(done.stdout)) == 32
    made = make_key("symmetric", None)
    assert made.secret not in repr(made)


def test_a_secret_on_the_command_line_is_refused() -> None:
    for name in ("encryption.key", "encryption.identity_password", "signing.key_password"):
        done = run_kbr("list", "--storage", "/x", "--set", f"{name}=hunter2")
        assert (done.returncode, "hunter2" in done.stderr) == (2, False)


def test_config_check_looks_at_keys_and_runs_no_program(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text(
        "storage: {url: /x}\n"
        f"encryption: {{key_command: [touch, {tmp_path}/ran], identity: /none, identity_password_command: [touch, {tmp_path}/ran]}}\n"
    )
    check_config(load_config(path, environ={}, run_commands=False))
    assert not (tmp_path / "ran").exists()
    path.write_text("storage: {url: /x}\nencryption: {recipients: [/none]}\n")
    with pytest.raises(ConfigError, match=r"encryption\.recipients: can't read /none"):
        check_config(load_config(path, environ={}, run_commands=False))


def test_a_key_comes_from_a_program_too(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text(f"storage: {{url: /x}}\nencryption: {{key_command: [echo, {RAW.hex()}]}}\n")
    layer = storage_options(load_config(path, environ=dict(os.environ))).layer
    assert isinstance(layer, Sealing)
    assert layer.trust.secrets.key == RAW


@pytest.mark.parametrize("keys", ["key", "public_keys"])
def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path, keys: str) -> None:
    stub = tmp_path / "stub" / "cryptography"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('no cryptography here')\n")
    make_key("signing", tmp_path / "sig")
    env = {"PYTHONPATH": f"{stub.parent}:{os.environ.get('PYTHONPATH', '')}"}
    env |= {"KBR_ENCRYPTION_KEY": RAW.hex()} if keys == "key" else {"KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "sig.pub")}
    (tmp_path / "store" / "b").mkdir(parents=True)
    (tmp_path / "store" / "b" / "manifest.json").write_bytes(b"KBROBJv1" + bytes(100))
    done = run_kbr("verify", "b", "--storage", str(tmp_path / "store"), env=env)
    assert done.returncode == 2, done.stderr
    assert "pip install 'kbr[encryption]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_does_not_encrypt_does_not_load_cryptography() -> None:
    code = (
        "import sys, os, tempfile\n"
        "import kbr.backup.task, kbr.restore.task, kbr.app.backup_run, kbr.app.restore_run\n"
        "from kbr.app.inspect import list_backups\n"
        "from kbr.config import load_config\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    list_backups(load_config(None, overrides={'storage.url': folder}, environ={}))\n"
        "print('cryptography' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kbr_environment()
    )
    assert done.stdout.strip() == "False"


def test_workers_load_it_beforehand_where_it_is_needed() -> None:
    assert "kbr.format.crypto" in worker_modules("backup", config(encryption__key=RAW.hex()))
    assert "kbr.format.crypto" not in worker_modules("backup", config())


def test_every_store_is_opened_with_what_the_configuration_trusts() -> None:
    options = storage_options(config(encryption__key=RAW.hex()))
    store = open_store(options)
    assert store.trust.secrets.key == RAW  # type: ignore[attr-defined]
    assert RAW.hex() not in repr(options)
