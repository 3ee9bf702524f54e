"""Which layer wins, how variables and --set name keys, and what is said about origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kbr.config import Config, load_config
from kbr.config.describe import describe_origin, to_plain
from kbr.config.keys import all_keys, find_key
from kbr.errors import ConfigError

FILE = """\
backup_id: from-file
source:
  bootstrap_servers: file:9092
  security: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: me, password: hunter2}
  topics: {include: [a, b]}
  client: {fetch.min.bytes: 1, fetch.max.bytes: 2}
storage: {backend: s3, bucket: b, prefix: p, endpoint: "http://s3:9000", access_key: AKIA, secret_key: hunter2}
restore: {topic_mapping: {a: a2}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kbr.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def load(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> Config:
    return load_config(path, environ=environ or {}, sets=sets, overrides=overrides)


def sources(config: Config) -> dict[str, str]:
    return {row.key: row.source for row in describe_origin(config)}


def test_flag_wins_over_environment_wins_over_file_wins_over_default(file: Path) -> None:
    environ = {"KBR_BACKUP_ID": "from-env"}
    assert load(file).backup_id == "from-file"
    assert load(file, environ).backup_id == "from-env"
    assert load(file, environ, ["backup_id=from-set"]).backup_id == "from-set"
    assert load(file, environ, ["backup_id=from-set"], {"backup_id": "from-flag"}).backup_id == "from-flag"
    assert load(file, environ, overrides={"backup_id": None}).backup_id == "from-env"
    assert load(file).backup.workers == 0


def test_an_empty_variable_is_as_good_as_none(file: Path) -> None:
    assert load(file, {"KBR_BACKUP_ID": ""}).backup_id == "from-file"


def test_every_key_has_a_variable_of_its_own() -> None:
    variables = [key.variable for key in all_keys()]
    assert len(set(variables)) == len(variables)
    assert "KBR_SOURCE_BOOTSTRAP_SERVERS" in variables


@pytest.mark.parametrize("text", ["x, y*", '["x", "y*"]', "[x, 'y*']"])
def test_lists_come_from_variables_and_flags_with_commas_or_as_yaml(file: Path, text: str) -> None:
    assert load(file, {"KBR_SOURCE_TOPICS_INCLUDE": text}).source.topics.include == ("x", "y*")
    assert load(file, sets=[f"source.topics.include={text}"]).source.topics.include == ("x", "y*")


def test_mappings_merge_entry_by_entry(file: Path) -> None:
    config = load(
        file,
        {
            "KBR_SOURCE_CLIENT__FETCH_MAX_BYTES": "20",
            "KBR_SOURCE_CLIENT": "{queued.min.messages: 3}",
            "KBR_RESTORE_TOPIC_MAPPING": "{b: b2}",
        },
        ["source.client.linger.ms=4", "restore.topic_mapping.c.d=e.f", "restore.partition_mapping.x.y.0=1"],
        {"restore.topic_mapping": {"a": "a3"}, "restore.partition_mapping": {"x.y": {"1": "0"}}},
    )
    assert dict(config.source.client) == {
        "fetch.min.bytes": "1",
        "fetch.max.bytes": "20",
        "queued.min.messages": "3",
        "linger.ms": "4",
    }
    assert dict(config.restore.topic_mapping) == {"a": "a3", "b": "b2", "c.d": "e.f"}
    assert {topic: dict(moves) for topic, moves in config.restore.partition_mapping.items()} == {"x.y": {0: 1, 1: 0}}


def test_a_storage_url_replaces_the_lower_layers_place_and_keeps_its_credentials(file: Path) -> None:
    config = load(file, overrides={"storage.url": "s3://other/place"})
    assert config.storage.location == "s3://other/place"
    assert config.storage.backend is None
    assert config.storage.endpoint == "http://s3:9000"
    assert config.storage.secret_key is not None


def test_a_folder_on_the_command_line_replaces_all_of_the_lower_layers_storage(file: Path) -> None:
    config = load(file, {"KBR_STORAGE_REGION": "eu"}, overrides={"storage.url": "./backups"})
    assert config.storage.location == "./backups"
    assert config.storage.endpoint is None
    assert config.storage.region is None
    assert config.storage.secret_key is None


def test_a_backend_of_a_higher_layer_replaces_a_url(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: /old}\n", encoding="utf-8")
    config = load(path, sets=["storage.backend=filesystem", "storage.path=/new"])
    assert config.storage.location == "/new"


def test_a_password_of_a_higher_layer_replaces_a_password_command(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text(
        "storage: {url: 's3://b', access_key: a, secret_key_command: [/does/not/exist]}\n", encoding="utf-8"
    )
    config = load(path, {"KBR_STORAGE_SECRET_KEY": "x"})
    assert config.storage.secret_key is not None
    assert config.storage.secret_key_command is None


def test_every_value_knows_where_it_came_from(file: Path) -> None:
    config = load(
        file,
        {"KBR_BACKUP_WORKERS": "2", "KBR_SOURCE_CLIENT__LINGER_MS": "5"},
        ["backup.compression=lz4"],
        {"restore.append": True},
    )
    found = sources(config)
    assert found["backup_id"] == f"{file}:1:1"
    assert found["source.topics.include"] == f"{file}:5:12"
    assert found["source.client.fetch.min.bytes"] == f"{file}:6:12"
    assert found["source.client.linger.ms"] == "KBR_SOURCE_CLIENT__LINGER_MS"
    assert found["backup.workers"] == "KBR_BACKUP_WORKERS"
    assert found["backup.compression"] == "--set backup.compression"
    assert found["restore.append"] == "command line"
    assert found["backup.segment_max_bytes"] == "default"
    assert found["restore.topic_mapping.a"] == f"{file}:8:27"


def test_a_value_that_was_displaced_has_no_origin(file: Path) -> None:
    assert sources(load(file, overrides={"storage.url": "/x"}))["storage.bucket"] == "default"


def test_secrets_are_redacted_wherever_a_configuration_is_shown(file: Path) -> None:
    config = load(file, {"KBR_SOURCE_CLIENT__SSL_KEY_PASSWORD": "hunter2"})
    rows = {row.key: row.value for row in describe_origin(config)}
    assert rows["source.security.password"] == rows["storage.secret_key"] == rows["storage.access_key"] == "<redacted>"
    assert rows["source.client.ssl.key.password"] == "<redacted>"
    assert rows["source.security.ssl_key_password"] is None
    shown = repr(rows) + repr(to_plain(config))
    assert "hunter2" not in shown
    assert "AKIA" not in shown
    assert to_plain(config)["source"]["client"]["fetch.min.bytes"] == "1"


@pytest.mark.parametrize(
    "one",
    [
        "source.security.password=hunter2",
        "target.security.ssl_key_password=hunter2",
        "storage.secret_key=hunter2",
        "storage.access_key=hunter2",
        "storage.session_token=hunter2",
        "source.client.sasl.password=hunter2",
        "target.client.sasl.oauthbearer.client.secret=hunter2",
        "source.client.ssl.key.pem=hunter2",
        "source.client={sasl.password: hunter2}",
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(file: Path, one: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, sets=[one])
    assert caught.value.exit_code == 2
    assert "secret" in str(caught.value)
    assert "hunter2" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("backup.workers", "--set: must be key=value"),
        ("=5", "--set: must be key=value"),
        ("backup.worker=5", "--set backup.worker: key backup.worker: unknown key. did you mean 'workers'"),
        ("backup=5", "--set backup: key backup: is a section: set one of its keys"),
        ("backup.workers=x", "--set backup.workers: key backup.workers: must be a whole number, not 'x'"),
        ("backup.workers.x=1", "--set backup.workers.x: key backup.workers: unknown key"),
        ("source.topics.include=[a", "is not a YAML list or mapping"),
        ("restore.partition_mapping.topic=1", "names no partition"),
        ("index=true", "unknown key (not available yet)"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(file: Path, one: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, sets=[one])
    assert message in str(caught.value)


def test_a_variable_that_no_key_has_is_a_mistake(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"KBR_SOURCE_BOOTSTRAP_SERVER: no key .* did you mean 'KBR_SOURCE_BOOTSTRAP_SERVERS'"
    ):
        load(file, {"KBR_SOURCE_BOOTSTRAP_SERVER": "a:1"})


def test_variables_that_are_not_settings_are_left_alone(file: Path) -> None:
    load(
        file,
        {
            "KBR_CONFIG": "x",
            "KBR_PROGRESS_FPS": "2",
            "KBR_SOURCE_SERVICE_HOST": "10.0.0.1",
            "KBR_SOURCE_SERVICE_PORT_KAFKA": "9092",
            "KBR_STORAGE_PORT": "tcp://10.0.0.1:80",
            "KBR_STORAGE_PORT_80_TCP_ADDR": "10.0.0.1",
        },
    )


def test_a_wrong_value_in_a_variable_names_the_variable(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^KBR_BACKUP_WORKERS: key backup.workers: must be a whole number"):
        load(file, {"KBR_BACKUP_WORKERS": "many"})


def test_values_in_variables_and_flags_are_not_expanded(file: Path) -> None:
    config = load(file, {"KBR_SOURCE_SECURITY_PASSWORD": "a$${b}"}, ["source.security.username=${X}"])
    assert config.source.security.password is not None
    assert config.source.security.password.get_secret_value() == "a$${b}"
    assert config.source.security.username == "${X}"


def test_every_key_is_found_by_its_dotted_name() -> None:
    for key in all_keys():
        assert find_key(key.name) == (key, key.path)


def test_programs_may_give_finished_values() -> None:
    config = load(
        None,
        overrides={
            "storage.url": "/x",
            "source.bootstrap_servers": ("a:1", "b:2"),
            "backup.workers": 3,
            "restore.partition_mapping": {"t": {0: 1}},
            "source.client": {"linger.ms": 5, "enable.idempotence": True},
        },
    )
    assert config.source.bootstrap_servers == ("a:1", "b:2")
    assert dict(config.restore.partition_mapping["t"]) == {0: 1}
    assert dict(config.source.client) == {"linger.ms": "5", "enable.idempotence": "true"}
