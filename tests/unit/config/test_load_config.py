"""From a file to a model, and what every kind of mistake says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbr.config import Config, load_config
from kbr.config.keys import all_keys
from kbr.errors import ConfigError
from kbr.model import Compression

Load = Callable[..., Config]

FULL = """\
mode: backup
backup_id: nightly-1
source:
  bootstrap_servers: ["a:9092", "b:9093"]
  security:
    security_protocol: sasl_ssl
    sasl_mechanism: scram-sha-512
    username: kbr
    password: ${KAFKA_PASSWORD}
    ssl_ca_location: /etc/ca.pem
  topics:
    include: [orders, "pay-*"]
    exclude: "*-tmp, x"
  client:
    fetch.min.bytes: 5
    socket.keepalive.enable: true
    client.id: 0123
storage:
  backend: ceph
  endpoint: http://rgw:8080/
  bucket: backups
  prefix: /kafka/prod/
  access_key: ${AK:-key}
  secret_key: ${KAFKA_PASSWORD}
backup:
  segment_max_bytes: 64MiB
  compression: LZ4
  workers: 4
restore:
  time_window_start: 2024-05-01T12:00:00Z
  time_window_end: 1714564800000
  topic_mapping: {orders: orders-2}
  partition_mapping: {orders: {0: 3, 1: 2}}
  topic_configs: {retention.ms: -1}
logging:
limits:
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, environ: Mapping[str, str] | None = None, **options: object) -> Config:
        path = tmp_path / "kbr.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ=environ or {}, **options)  # type: ignore[arg-type]  # tests pass what they like

    return load_text


def problems(load: Load, text: str, environ: Mapping[str, str] | None = None, **options: object) -> list[str]:
    """The mistakes of a file, without the folder in front."""
    with pytest.raises(ConfigError) as caught:
        load(text, environ, **options)
    assert caught.value.exit_code == 2
    return [re.sub(r"^/.*/(?=kbr\.yaml:)", "", line) for line in caught.value.context["problems"]]


def test_a_full_file_becomes_the_model(load: Load) -> None:
    config = load(FULL, {"KAFKA_PASSWORD": "s3$cret"}, mode="backup")
    assert config.backup_id == "nightly-1"
    assert config.source.bootstrap_servers == ("a:9092", "b:9093")
    assert config.source.security.security_protocol == "SASL_SSL"
    assert config.source.security.password is not None
    assert config.source.security.password.get_secret_value() == "s3$cret"
    assert config.source.topics.include == ("orders", "pay-*")
    assert config.source.topics.exclude == ("*-tmp", "x")
    assert dict(config.source.client) == {
        "fetch.min.bytes": "5",
        "socket.keepalive.enable": "true",
        "client.id": "0123",
    }
    assert config.storage.location == "s3://backups/kafka/prod"
    assert config.storage.endpoint == "http://rgw:8080"
    assert config.storage.uses_path_style
    assert config.backup.segment_max_bytes == 64 * 2**20
    assert config.backup.segment_max_interval_ms == 60_000
    assert config.backup.compression is Compression.LZ4
    assert config.restore.time_window_start == config.restore.time_window_end == 1_714_564_800_000
    assert dict(config.restore.partition_mapping["orders"]) == {0: 3, 1: 2}
    assert dict(config.restore.topic_configs) == {"retention.ms": "-1"}
    assert config.limits.max_block_bytes == 268_435_456


def test_a_config_is_frozen_all_the_way_down(load: Load) -> None:
    config = load(FULL, {"KAFKA_PASSWORD": "x"})
    with pytest.raises(ValueError, match="frozen"):
        config.backup.workers = 5
    with pytest.raises(TypeError):
        config.source.client["a"] = "b"  # type: ignore[index]  # that is the point
    with pytest.raises(TypeError):
        config.restore.partition_mapping["orders"][0] = 1  # type: ignore[index]  # that is the point


def test_secrets_are_in_no_repr(load: Load) -> None:
    text = FULL.replace("client.id: 0123", "sasl.oauthbearer.client.secret: tops3cret")
    config = load(text, {"KAFKA_PASSWORD": "s3$cret"})
    for shown in (repr(config), str(config), repr(config.source), repr(config.source.security)):
        assert "s3$cret" not in shown
        assert "tops3cret" not in shown


def test_all_mistakes_are_told_at_once_with_their_places(load: Load) -> None:
    text = """\
backup_id: a/b
sorce: {}
source:
  bootstrap_servers: kafka
  topics: {include: []}
  client: {Bad Name: 1}
  security: {username: me}
storage:
  backend: filesystem
backup:
  compresion: zstd
  compression: zsdt
  segment_max_bytes: 64M
  workers: -1
  rate_limit: 5
restore: 5
logging: {level: }
"""
    assert problems(load, text) == [
        "kbr.yaml:1:1: key backup_id: 'a/b' is no backup_id: letters, digits, '.', '_' and '-', at most 128",
        "kbr.yaml:2:1: key sorce: unknown key. did you mean 'source'?",
        "kbr.yaml:4:3: key source.bootstrap_servers: 'kafka' has no port: write kafka:9092, or the port that your brokers have",
        "kbr.yaml:5:12: key source.topics.include: is empty: give a topic name or a glob, '*' for all",
        "kbr.yaml:6:12: key source.client.Bad Name: 'Bad Name' is no librdkafka property: lower-case letters, digits, '.' and '_'",
        "kbr.yaml:7:14: key source.security.username: needs security_protocol SASL_SSL or SASL_PLAINTEXT, and that is PLAINTEXT",
        "kbr.yaml:8:1: key storage.path: is missing: backend is filesystem",
        "kbr.yaml:11:3: key backup.compresion: unknown key. did you mean 'compression'?",
        "kbr.yaml:12:3: key backup.compression: must be one of zstd, lz4, none, not 'zsdt'. did you mean 'zstd'?",
        "kbr.yaml:13:3: key backup.segment_max_bytes: unknown unit 'M': write 64MB (powers of 1000) or 64MiB (powers of 1024)",
        "kbr.yaml:14:3: key backup.workers: must be 0 or more",
        "kbr.yaml:15:3: key backup.rate_limit: needs a unit, such as 50MB/s, not '5'",
        "kbr.yaml:16:1: key restore: is a section: it takes keys of its own, not a value",
        "kbr.yaml:17:11: key logging.level: has no value: give it one, or remove the line",
    ]


def test_one_mistake_is_one_line(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("storage: {url: /x}\nbackup_di: a\n")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("kbr.yaml:2:1: key backup_di: unknown key. did you mean 'backup_id'?")


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("source: {password: x}", "source.security.password"),
        ("bootstrap_servers: x", "source.bootstrap_servers"),
        ("source: {bootstrap.servers: 'a:1'}", "bootstrap_servers"),
        ("source: {security: {sasl_username: x}}", "username"),
        ("storage: {buckt: x}", "bucket"),
        ("backup: {topic_mapping: {}}", "restore.topic_mapping"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(load: Load, text: str, suggestion: str) -> None:
    assert f"unknown key. did you mean '{suggestion}'?" in "\n".join(problems(load, text))


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "5\n"])
def test_a_file_that_is_no_mapping_is_refused(load: Load, text: str) -> None:
    assert "must be a mapping of keys" in problems(load, text)[0]


def test_broken_yaml_is_one_mistake_with_its_line(load: Load) -> None:
    (line,) = problems(load, "a: 1\nb: [1, 2\nc: 3\n")
    assert line.startswith("kbr.yaml:3:")
    assert "not valid YAML" in line


def test_an_unset_variable_is_told_once_with_its_line(load: Load) -> None:
    text = "storage: {url: /x}\nbackup:\n  workers: ${WORKERS}\n"
    assert problems(load, text) == [
        "kbr.yaml:3:3: key backup.workers: environment variable WORKERS is not set (${WORKERS:-} allows that)"
    ]


def test_an_unset_secret_does_not_cause_more_mistakes(load: Load) -> None:
    (line,) = problems(load, FULL.replace("secret_key: ${KAFKA_PASSWORD}", "secret_key: x"))
    assert "source.security.password: environment variable KAFKA_PASSWORD" in line


def test_references_give_numbers_and_switches_too(load: Load) -> None:
    config = load(
        "storage: {url: /x}\nbackup: {workers: '${N}', include_internal_topics: '${B}'}", {"N": "3", "B": "yes"}
    )
    assert config.backup.workers == 3
    assert config.backup.include_internal_topics is True


def test_an_empty_reference_leaves_an_optional_key_unset(load: Load) -> None:
    config = load("storage: {url: 's3://b', session_token: '${TOKEN:-}', region: '${REGION:-}'}")
    assert config.storage.session_token is None
    assert config.storage.region is None


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the configuration file .*No such file") as caught:
        load_config(tmp_path / "none.yaml", environ={})
    assert caught.value.hint


def test_a_folder_for_a_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path, environ={})


def test_a_verb_without_anything_says_what_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, mode="backup")
    text = str(caught.value)
    assert "key backup_id: is missing: give it in the file, as --backup-id, or as KBR_BACKUP_ID" in text
    assert "KBR_SOURCE_BOOTSTRAP_SERVERS" in text
    assert "KBR_STORAGE_URL" in text


def test_a_file_for_the_other_verb_is_refused(load: Load) -> None:
    text = "mode: restore\nbackup_id: a\nsource: {bootstrap_servers: 'a:1'}\nstorage: {url: /x}\n"
    assert problems(load, text, mode="backup") == ["kbr.yaml:1:1: key mode: the file is for restore"]
    assert load(text.replace("mode: restore\n", ""), mode="backup").mode is None


def test_the_files_own_mode_says_what_it_needs(load: Load) -> None:
    lines = problems(load, "mode: restore\nstorage: {url: /x}\n")
    assert [line.split(": ")[1] for line in lines] == ["key backup_id", "key target.bootstrap_servers"]


_TEXTS = st.text(max_size=30)
_KEYS = st.sampled_from([step for key in all_keys() for step in key.path] + ["x", "<<", "a.b"])
_TREES = st.recursive(
    st.one_of(
        _TEXTS,
        st.integers(),
        st.booleans(),
        st.none(),
        st.sampled_from(["a:9092", "64MiB", "${HOME}", "s3://b/p", "$$"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(_TREES, st.dictionaries(st.sampled_from(["source", "storage", "backup", "restore", "logging"]), _TREES))
)
def test_any_tree_is_a_config_or_a_config_error(tmp_path: Path, tree: object) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    _load_any(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=120), st.text(alphabet="abmode:- \n{}[]'\"$#&*!0", max_size=120)))
def test_any_text_is_a_config_or_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _load_any(path)


def _load_any(path: Path) -> None:
    try:
        config = load_config(path, environ={"HOME": "/home/kbr"}, run_commands=False)
    except ConfigError as error:
        assert error.message
    else:
        assert isinstance(config, Config)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(max_size=40), max_size=3),
    st.dictionaries(st.sampled_from([key.variable for key in all_keys()]), _TEXTS, max_size=4),
)
def test_any_flags_and_variables_are_a_config_or_a_config_error(sets: list[str], environ: dict[str, str]) -> None:
    try:
        load_config(None, environ=environ, sets=sets, run_commands=False)
    except ConfigError as error:
        assert error.message
