"""Secrets of a configuration: refused on the command line for every key, in no message, known to the mask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from kbr import secrecy
from kbr.config import load_config
from kbr.config.describe import describe_origin, to_plain
from kbr.config.keys import all_keys, is_secret_path
from kbr.config.names import is_secret_property
from kbr.errors import ConfigError

SECRET = "m4rk/+=7Qx"
#: librdkafka marks them as sensitive, and kbr shows them: who logs in, what is public, and where something lies.
SHOWN = {"sasl.username", "ssl.ca.pem", "ssl.key.location", "sasl.oauthbearer.assertion.private.key.file"}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    secrecy.forget()
    yield
    secrecy.forget()


SECRET_KEYS = [key.name for key in all_keys() if key.secret]
CLIENTS = [key.name for key in all_keys() if key.kind == "properties"]
#: Mappings of which some entries are secrets, each with such a one.
MAPS = [*(f"{name}.sasl.password" for name in CLIENTS), *(f"{key.name}.password" for key in all_keys() if key.kind == "mapping of options")]


def test_there_are_secret_keys() -> None:
    assert {"source.security.password", "target.security.ssl_key_password", "storage.secret_key"} <= set(SECRET_KEYS)
    assert {"source.client", "target.client"} <= set(CLIENTS)


@pytest.mark.parametrize("name", [*SECRET_KEYS, *MAPS])
def test_every_secret_key_is_refused_on_the_command_line(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets=["storage.url=/backups", f"{name}={SECRET}"], environ={})
    assert caught.value.exit_code == 2
    assert f"--set {name}: key {name}: is a secret" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize("name", MAPS)
def test_a_whole_mapping_with_secrets_is_refused_on_the_command_line(name: str) -> None:
    section, step, entry = name.partition(".client." if ".client." in name else ".options.")
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets=[f"{section}{step[:-1]}={{{entry}: {SECRET}}}"], environ={})
    assert "secret" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize("name", [*SECRET_KEYS, *(f"{client}.sasl.password" for client in CLIENTS)])
def test_every_secret_is_known_to_the_mask_however_the_load_ends(name: str) -> None:
    variable = "KBR_" + name.replace(".client.", ".client..").replace(".", "_").upper()
    with pytest.raises(ConfigError):
        load_config(None, environ={variable: SECRET, "KBR_STORAGE_URL": "/b", "KBR_BACKUP_WORKERS": "x"})
    assert secrecy.redact(f"a {SECRET}") == "a ***"
    assert is_secret_path(tuple(name.split(".", 2)) if ".client." in name else tuple(name.split(".")))


def test_a_password_in_a_url_of_a_property_is_not_shown_either(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: /b}\nsource: {client: {sasl.oauthbearer.token.endpoint.url: 'https://me:m4rk+7Qx@host/x'}}\n")
    config = load_config(path, environ={})
    assert to_plain(config)["source"]["client"] == {"sasl.oauthbearer.token.endpoint.url": "https://me:<redacted>@host/x"}
    assert "m4rk" not in repr(describe_origin(config))
    assert secrecy.redact("a m4rk+7Qx") == "a ***"
    assert config.source.client["sasl.oauthbearer.token.endpoint.url"] == "https://me:m4rk+7Qx@host/x"


def _load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> str:
    path = tmp_path / "kbr.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ=environ or {})
    return f"{caught.value} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize(
    "text",
    [
        "limits: {max_block_bytes: '${KAFKA_PASSWORD}'}\n",
        "source: {bootstrap_servers: '${KAFKA_PASSWORD}'}\n",
        "source: {bootstrap_servers: ['a:1', 'me:${KAFKA_PASSWORD}@b:2']}\n",
        "source: {topics: {include: ['${KAFKA_PASSWORD}']}}\n",
        "storage: {url: 's3://me:${KAFKA_PASSWORD}@bucket'}\n",
        "storage: {url: 'file://me:${KAFKA_PASSWORD}@host/x'}\n",
        "storage: {endpoint: 'http://me:${KAFKA_PASSWORD}@host:port'}\n",
        "storage: {url: 's3://me:m4rk-7Qx/x@bucket/p'}\n",
        "storage: {url: 's3://me:123/m4rk-7Qx@bucket/p'}\n",
        "storage: {endpoint: 'http://me:m4rk-7Qx/x@host'}\n",
        "storage: {endpoint: 'http://me:123/m4rk-7Qx@host'}\n",
        "storage: {url: 'sftp://me:m4rk-7Qx/x@host/p'}\n",
        "source: {security: {oauth_token_url: 'https://me:m4rk-7Qx/x@host/p'}}\n",
        "source: {bootstrap_servers: 'me:m4rk-7Qx/x@host:9092'}\n",
        "backup: {compression: '${file:FOLDER/secret}'}\n",
        "restore: {time_window_start: '${file:FOLDER/secret}'}\n",
        "backup_id: ${KAFKA_PASSWORD}\n",
        f"source: {{security: {{password:{SECRET}}}}}\n",
        f"source: {{security: {{'password={SECRET}'}}}}\n",
        f"source: {{client: {{sasl.password:{SECRET}}}}}\n",
        f"{{'source.security.password:{SECRET}'}}\n",
        "logging: {level: '${KAFKA_PASSWORD}${KAFKA_PASSWORD}${KAFKA_PASSWORD}${KAFKA_PASSWORD}${KAFKA_PASSWORD}${KAFKA_PASSWORD}${KAFKA_PASSWORD}'}\n",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    said = _load(tmp_path, text.replace("FOLDER", str(tmp_path)), {"KAFKA_PASSWORD": SECRET})
    assert SECRET not in said
    assert "m4rk" not in said, "not a part of it either"


def test_what_librdkafka_calls_sensitive_is_secret_here() -> None:
    """librdkafka says which of its properties are: at debug level its own dump has [redacted] in place of them."""
    names = _property_names()
    assert len(names) > 120
    found = set()
    for name in names:
        lines: list[str] = []
        logger = _Lines(lines)
        try:
            producer = Producer({name: SECRET, "debug": "conf", "log_level": 7}, logger=logger)
        except (KafkaException, TypeError, ValueError):
            continue  # no text is a value of it, or a file of that name is read
        producer.poll(0)
        text = "\n".join(lines)
        if re.search(rf"\b{re.escape(name)} = \[redacted\]", text):
            found.add(name)
        del producer
    assert {"sasl.password", "ssl.key.password", "ssl.key.pem"} <= found
    assert {name for name in found if not is_secret_property(name)} <= SHOWN


def _property_names() -> list[str]:
    """All of librdkafka's properties, from its own list."""
    import ctypes

    from confluent_kafka import cimpl

    library = ctypes.CDLL(cimpl.__file__)
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_conf_dump.restype = ctypes.POINTER(ctypes.c_char_p)
    library.rd_kafka_conf_dump.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]
    count = ctypes.c_size_t()
    pairs = library.rd_kafka_conf_dump(library.rd_kafka_conf_new(), ctypes.byref(count))
    known = [pairs[at].decode() for at in range(0, count.value, 2)]
    # those that are not set are not in the dump
    return [*known, *(name for name in _UNSET if name not in known)]


_UNSET = (
    "sasl.username", "sasl.password", "ssl.key.location", "ssl.key.password", "ssl.key.pem", "ssl.certificate.location",
    "ssl.certificate.pem", "ssl.ca.location", "ssl.ca.pem", "ssl.keystore.location", "ssl.keystore.password",
    "sasl.oauthbearer.config", "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url", "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase", "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.file", "sasl.oauthbearer.extensions",
)  # fmt: skip


class _Lines:
    """A logger that keeps what it is told."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def log(self, _level: int, text: str, *arguments: object) -> None:
        self._lines.append(text % arguments)


ROOT = Path(__file__).parents[3]


def test_nothing_of_kbr_dumps_a_client_configuration() -> None:
    """rd_kafka_conf_dump() shows all values as they are (rdkafka_conf.c): neither called by name nor resolved."""
    sources = [path for folder in ("kbr", "kbr_codec") for pattern in ("*.py", "*.pyx", "*.pxd") for path in (ROOT / folder).rglob(pattern)]
    assert len(sources) > 250
    for path in sources:
        assert "conf_dump" not in path.read_text(encoding="utf-8").replace("crash_dumps", ""), path
    compiled = list((ROOT / "kbr_codec").rglob("*.so"))
    assert len(compiled) >= 6
    for path in compiled:
        assert b"conf_dump" not in path.read_bytes(), path


def test_the_variables_that_were_referred_to_are_known_however_the_reference_is_written(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text('storage: {url: "/b/\\u0024{ONE}"}\nsource: {security: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: "$\\x7bTWO}", password: "${THREE:-x}${FOUR:-y}"}}\n')
    config = load_config(path, environ={"ONE": "1", "TWO": "2", "THREE": "3", "OTHER": "o"})
    assert config.variables == {"ONE", "TWO", "THREE"}
