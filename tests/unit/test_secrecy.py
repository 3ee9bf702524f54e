"""The mask: a secret that a text shows in any way is no longer in it, and nothing else is changed."""

from __future__ import annotations

import base64
import io
import json
import logging
import pickle
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yarl

from kbr import secrecy
from kbr.cli.failure import report_failure
from kbr.config import load_config
from kbr.config.keys import all_keys
from kbr.errors import ClusterError, KbrError, UsageError
from kbr.format import block_index_parser, manifest_parser, offset_map_parser
from kbr.format.data_keys import DataKey
from kbr.kafka.settings import ClientSettings
from kbr.repository.sealing import BackupSealing
from kbr.secrecy import cut, guard_stderr, hide, holds_secret, is_secret_property, redact, secrets_of
from kbr.storage import ObjectOptions, StorageOptions
from kbr.storage.base import check_key
from kbr.storage.filesystem_errors import one_line, translate
from kbr.telemetry import client_messages, logs
from tests.support.leaks import forms_of, leaks_in

SECRET = 'pw/7+"=é&%<\\q'
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    secrecy.forget()
    yield
    secrecy.forget()


@pytest.mark.parametrize("form", [form for form in forms_of(SECRET) if form not in ("UTF-16", "backwards", "JSON in JSON")])
def test_a_secret_is_masked_in_every_form(form: str) -> None:
    text = f"before {forms_of(SECRET)[form].decode('utf-8', 'backslashreplace')} after"
    assert redact(text) == text
    hide([SECRET])
    assert redact(text) == "before *** after"
    assert holds_secret(text)


def test_a_user_and_password_in_base64_are_masked() -> None:
    hide([SECRET])
    for user in ("", "u", "us", "use", "user"):
        header = "Basic " + base64.b64encode(f"{user}:{SECRET}".encode()).decode()
        assert not leaks_in("header", redact(header), {"it": SECRET}), user


def test_short_words_and_what_is_no_secret_stay() -> None:
    hide(["me", "12345", None, ""])
    assert redact("tell me 12345") == "tell me 12345"
    hide([SECRET])
    assert redact("nothing of that kind: pw/7") == "nothing of that kind: pw/7"


def test_each_line_of_a_key_is_masked() -> None:
    hide([PEM])
    assert redact(f"line 2 is {PEM.splitlines()[1]}") == "line 2 is ***"
    assert redact("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"
    assert "***" in redact(f"can't read {PEM!r}")


def test_what_a_message_quotes_of_a_long_secret_is_masked() -> None:
    long = "s3" * 60
    hide([long])
    assert redact(f"not '{long[:57]}...'") == "not '***...'"


def test_a_part_of_a_list_of_settings_is_masked() -> None:
    hide([f"principal=admin.me scope={SECRET}-2 x=y"])
    assert redact(f"beginning at: scope={SECRET}-2 x=y") == "beginning at: scope=*** x=y"


def test_errors_are_born_without_secrets_and_travel_so() -> None:
    hide([SECRET])
    error = ClusterError(f"can't log in with {SECRET}", hint=f"try another than {SECRET}", topic=SECRET)
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert (str(one), one.message, one.hint) == ("can't log in with ***", "can't log in with ***", "try another than ***")
        assert one.context == {"topic": SECRET}, "a fact for programs is never changed"
        assert one.args == ("can't log in with ***",)


def test_what_goes_to_standard_error_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    guard_stderr()
    guard_stderr()  # again is fine
    hide([SECRET])
    try:
        raise ValueError(f"no {SECRET}")
    except ValueError:
        traceback.print_exc()
    print(json.dumps({"error": SECRET}), "and", SECRET, file=sys.stderr)
    sys.stderr.writelines([f"{SECRET}\n"])
    assert sys.stderr.getvalue() == stream.getvalue()  # all else is the stream's own
    assert stream.getvalue().count("***") == 4
    assert not leaks_in("stderr", stream.getvalue(), {"it": SECRET})


def test_a_process_without_standard_error_has_nothing_to_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    guard_stderr()
    assert sys.stderr is None


def test_a_task_tells_which_of_its_settings_are_secret() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Task:
        backup_id: str
        client: ClientSettings
        storage: StorageOptions
        paths: Mapping[str, str] = field(default_factory=dict, repr=False)

    client = ClientSettings(
        bootstrap_servers=("broker:9092",), username="me-myself", password="p-1", ssl_key_password="p-2",
        client={"ssl.key.pem": PEM, "client.id": "my-client", "ssl.keystore.password": "p-3"},
    )  # fmt: skip
    storage = StorageOptions(url="s3://bucket/p", access_key="a-1", secret_key="s-1", session_token="t-1", extra={"password": "p-4", "host": "h"})
    task = Task(backup_id="nightly", client=client, storage=storage, paths={"a": "b", "secret": "p-5"})
    assert set(secrets_of(task)) == {"p-1", "p-2", "p-3", "p-4", "p-5", PEM, "a-1", "s-1", "t-1"}
    assert list(secrets_of("text")) == list(secrets_of(None)) == list(secrets_of(ClientSettings)) == []


def test_every_error_masks_though_it_has_a_constructor_of_its_own() -> None:
    hide([SECRET])

    def below(kind: type[KbrError]) -> Iterator[type[KbrError]]:
        yield kind
        for one in kind.__subclasses__():
            yield from below(one)

    for kind in below(KbrError):
        if kind.__module__ == "kbr.errors":
            assert SECRET not in str(kind(f"x {SECRET}")), kind


@pytest.mark.parametrize(
    "name",
    ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.config", "sasl.jaas.config",
     "sasl.oauthbearer.client.secret", "sasl.oauthbearer.assertion.private.key.pem", "ssl_key", "Ssl.Truststore.Password"],
)  # fmt: skip
def test_properties_that_hold_secrets(name: str) -> None:
    assert is_secret_property(name)


@pytest.mark.parametrize(
    "name",
    ["sasl.username", "ssl.key.location", "ssl.ca.location", "ssl.certificate.pem", "ssl.ca.pem", "linger.ms", "client.id",
     "sasl.oauthbearer.assertion.private.key.file", "sasl.oauthbearer.token.endpoint.url", "sasl.mechanism"],
)  # fmt: skip
def test_properties_that_hold_none(name: str) -> None:
    assert not is_secret_property(name)


def test_the_mask_is_loaded_without_anything_heavy() -> None:
    """Every process of kbr imports it first of all."""
    source = Path(secrecy.__file__).read_text()
    top = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert set(top) <= {"__future__", "os", "re", "sys", "collections.abc", "dataclasses", "typing"}


def test_keys_of_bytes_are_masked_as_hex_base64_and_repr() -> None:
    key = bytes(range(200, 232))
    options = StorageOptions(url="s3://b", objects=ObjectOptions(sse_customer_key=key), layer=BackupSealing(backup_id="b", data_key=DataKey(b"id" * 8, key[::-1])))
    hide(secrets_of(options))
    for secret in (key, key[::-1]):
        for text in (secret.hex(), repr(secret)[2:-1], base64.b64encode(secret).decode().rstrip("="), base64.urlsafe_b64encode(b"x" + secret).decode()):
            assert holds_secret(text), text
    assert not holds_secret((b"id" * 8).hex())


def test_a_line_of_json_stays_json_whatever_the_secret_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    guard_stderr()
    hide(["123456", 'pa"ss\\wörd', "message", "offset"])
    line = {"message": 'at 123456 with pa"ss\\wörd', "offset": 123456, "size": 51234567, "nested": {"of": ['say pa"ss\\wörd', 123456]}}
    for ascii_only in (True, False):
        stream.seek(0)
        stream.truncate()
        print(f"before 123456\n{json.dumps(line, ensure_ascii=ascii_only)}\nbehind 123456", file=sys.stderr)
        before, middle, behind = stream.getvalue().splitlines()
        assert (before, behind) == ("before ***", "behind ***")
        assert json.loads(middle) == {"message": "at *** with ***", "offset": 123456, "size": 51234567, "nested": {"of": ["say ***", 123456]}}


@pytest.mark.parametrize("form", ["plain", "json"])
def test_log_lines_can_be_read_though_a_secret_is_a_number(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    guard_stderr()
    hide(["123456"])
    logs.configure(form=form)
    try:
        logs.get_logger("kbr.test").warning("logged in with 123456", extra=logs.fields(offset=123456, text="123456"))
    finally:
        logging.getLogger("kbr").handlers.clear()
        logging.getLogger("kbr").propagate = True
    (line,) = stream.getvalue().splitlines()
    assert "logged in with ***" in line
    if form == "json":
        found = json.loads(line)
        assert (found["offset"], found["text"]) == (123456, "***")


def test_every_word_that_a_key_of_the_configuration_takes_stays_readable() -> None:
    words = {word for key in all_keys() for word in map(str, key.options)}
    assert {"read_committed", "SASL_SSL"} <= words
    hide(words)
    for word in words:
        assert redact(f"a {word} b") == f"a {word} b"


def test_what_an_option_holds_is_masked_only_if_it_looks_like_a_secret() -> None:
    common = {
        "token_mode": "managed", "session_region": "us-east-1", "key_protocol": "SASL_SSL", "auth": "latest", "session_timeout": "120000",
        "private_endpoint": "true", "credential_kind": "Workload Identity", "key_type": "ed25519", "password": "latest",
    }  # fmt: skip
    real = {"token": "aB3xQ9", "password": "sesame", "client_secret": "letmein", "account_key": "Zm9vYmFy+/==", "sas_token": "sv=2022&sig=x", "auth_key": "123456789012"}
    options = StorageOptions(url="abfs://b", extra={**common, **real})
    hide(secrets_of(options))
    del common["key_type"]  # nobody knows
    for value in common.values():
        assert redact(f"a {value} b") == f"a {value} b"
    for value in real.values():
        assert redact(f"a {value} b") == "a *** b"


def test_a_list_of_settings_does_not_make_its_words_secrets() -> None:
    hide(["principal=admin.kafka scope=default tier=standard key=aB3xQ9"])
    assert redact("the default of a standard admin.kafka is aB3xQ9") == "the default of a standard admin.kafka is ***"


SPACED = "open " + "s3same-" * 50


@pytest.mark.parametrize("lead", [0, 150, 250, 290, 298, 19_980])
def test_a_secret_that_is_cut_in_two_is_masked_all_the_same(lead: int, capsys: pytest.CaptureFixture[str]) -> None:
    hide([SPACED])
    said = f"{'x' * lead}{SPACED}"
    arrow = f"{'x' * lead} {SPACED}\nmore"
    report_failure(RuntimeError(said), ["--debug", "-o", "json"])
    shown = [
        one_line(said),
        one_line(OSError(said)),
        str(translate(OSError(said), "put", name="a", key="a", url="x://y")),
        cut(said, 300),
        offset_map_parser._short(ValueError(arrow)),
        block_index_parser._short(ValueError(arrow)),
        manifest_parser._shown(said[-400:]),
        client_messages.explain(f'Failed to retrieve OIDC token from "https://t": {said}')[1],
        capsys.readouterr().err,
    ]
    for text in shown:
        assert "s3same" not in text
    with pytest.raises(UsageError) as caught:
        check_key(f"/{'x' * (lead % 200)}{SPACED}")
    assert "s3same" not in str(caught.value)


@pytest.mark.parametrize("secret", ["Zq7\tX9w", "Zq7'c\"d\nX9w", 'Zq7"d\\c\x1bX9w', 'Zq7\u200bX9w"\u00e9x', "Zq7\u2028X9w'\"", 'Zq7\\d"X9w'])
@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_log_line_masks_before_it_writes_characters_as_escapes(secret: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    guard_stderr()
    logs.configure(form=form)
    hide([secret])
    logger = logs.get_logger("kbr.test")
    logger.warning("it is %s", secret)
    logger.warning("field", extra=logs.fields(value=f"x {secret}", quoted=repr(secret), document=json.dumps({"a": secret})))
    try:
        raise ValueError(f"no {secret} there")
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue()
    assert "Zq7" not in lines, lines
    assert "X9w" not in lines, lines
    assert lines.count("***") == 5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "http://me:Pr0xy7Secret@proxy:3128", "Failed to parse: http://me:Pr0xy7Secret@proxy:3128"),
        ("https_proxy", "http://me:Pr0xy7Secret@proxy:99999", "Failed to parse: http://me:Pr0xy7Secret@proxy:99999"),
        ("all_proxy", "me:Pr0xy7Secret@proxy:3128", "'me:Pr0xy7Secret' is no host"),
        ("HTTPS_PROXY", "http://me:Pr0xy7Secret/more@proxy:3128", "'me:Pr0xy7Secret' is not a valid host or port"),
        ("HTTP_PROXY", "http://me:Pr0xy7Sec%2Fret@proxy:3128", "login Pr0xy7Sec/ret"),
        ("AWS_SECRET_ACCESS_KEY", "Pr0xy7Secret/+=", "signed with Pr0xy7Secret/+="),
        ("AWS_SESSION_TOKEN", "Pr0xy7Secret//", "Invalid header value b'Pr0xy7Secret//'"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=Pr0xy7Secret==;EndpointSuffix=core", "key Pr0xy7Secret=="),
        ("AZURE_STORAGE_SAS_TOKEN", "?sv=2022-11-02&sig=Pr0xy7Sec%3D&spr=https", "sig=Pr0xy7Sec%3D at 2022-11-02"),
    ],
)
def test_what_libraries_find_in_the_environment_is_masked(name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("HTTPS_PROXY", "HTTP_PROXY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    guard_stderr()
    sys.stderr.write(words + "\n")
    assert "Pr0xy7Sec" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_a_configuration_makes_secrets_of_what_libraries_find_in_its_environment(tmp_path: Path) -> None:
    load_config(None, environ={"KBR_STORAGE_URL": str(tmp_path), "HTTPS_PROXY": "http://me:Pr0xy7Secret@proxy:3128"})
    assert redact("at me:Pr0xy7Secret@proxy") == "at me:***@proxy"


def test_variables_that_say_where_credentials_are_stay_readable() -> None:
    places = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token",
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/aws/credentials",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google.json",
        "HTTPS_PROXY": "http://proxy.example.org:3128",
        "no_proxy": "10.0.0.1:8080,me:there@x",
    }
    assert list(secrecy.secrets_of_environment(places)) == []


def test_a_secret_in_a_url_is_masked_as_aiohttp_writes_it() -> None:
    hide([SECRET])
    url = yarl.URL.build(scheme="http", host="proxy", user="me", password=SECRET)
    assert redact(f"at {url}") == "at http://me:***@proxy"
    assert redact(str(yarl.URL("http://proxy/x").with_query({"p": SECRET}))) == "http://proxy/x?p=***"


def test_pwd_headers_and_cookies_are_secret_and_the_current_folder_is_not() -> None:
    assert all(map(secrecy.is_secret_option, ("pwd", "headers", "cookies", "user_pwd")))
    assert secrecy.is_likely_secret("pwd", "swordfish")
    assert secrecy.is_secret_variable("DB_PWD")
    assert not any(map(secrecy.is_secret_variable, ("PWD", "OLDPWD", "HEADERS")))
